/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_WATCH_H
#define KV_CLI_BENCH_WATCH_H

#include <stdint.h>
#include <sys/types.h>

/* A program that is watched by what it prints, and ended once it has printed a text. */
struct bench_watch {
	uint64_t first_ns;   /* from just before its start to the first byte it printed; 0: none */
	uint64_t text_ns;    /* ... to the text */
	uint64_t cpu_ns;     /* CPU time until it was reaped */
	int status;	     /* exit status, or 128 + signal */
	char last_line[120]; /* the last line printed that is not empty, printable characters only
			      */
};

/*
 * Run @argv (argv[0] searched in PATH) with stdin at /dev/null and KVICK_EXEC_NS set, read its
 * stdout and stderr until @text is in them, end it by SIGTERM (SIGKILL if that takes more than 5 s)
 * and reap it. Also ends it after @timeout_ns.
 * Returns 0; -ETIMEDOUT; -ECHILD when it ended by itself before @text; -EINTR after a signal that
 * bench_catch_signals() caught; -errno when it cannot be started. @watch is filled in any case.
 */
int bench_watch(
	struct bench_watch *watch, char *const *argv, const char *text, uint64_t timeout_ns);

/*
 * As bench_watch(), and call @line for each whole line that the process @pid prints before, without
 * what ends it.
 */
int bench_lines(struct bench_watch *watch, char *const *argv, const char *text, uint64_t timeout_ns,
	void (*line)(void *ctx, pid_t pid, const char *line), void *ctx);

#endif
