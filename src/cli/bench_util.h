/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_UTIL_H
#define KV_CLI_BENCH_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* What the benchmarks share: processes, samples, images of a chosen size, and where things are. */

/* --memory: a size of whole MiB from 16M on, to *@bytes. Returns 0; -EINVAL with a sentence. */
int bench_memory_set(uint64_t *bytes, const char *value, struct kv_err *err);

/*
 * --vs: keep @value, which is borrowed, in @list, which has room for @room.
 * Returns 0; -E2BIG with a sentence.
 */
int bench_vs_add(
	const char **list, unsigned room, unsigned *count, const char *value, struct kv_err *err);

/* One run of a program, from just before it was started until it was reaped. */
struct bench_run {
	uint64_t wall_ns;
	uint64_t cpu_ns;		     /* user and system time, its children's included */
	uint64_t system_ns;		     /* the system time of it */
	uint64_t minor_faults, major_faults; /* page faults */
	int status;			     /* exit status, or 128 + signal */
};

/*
 * From now on SIGINT, SIGTERM and SIGHUP do not end the process but make bench_spawn() return
 * -EINTR, so that a benchmark can tidy up. Process-wide.
 */
void bench_catch_signals(void);

/* Whether one of those signals has arrived. */
bool bench_interrupted(void);

/* Room for the name of a benchmark's folder, and for that of a file in it. */
#define BENCH_DIR_MAX  400
#define BENCH_FILE_MAX (BENCH_DIR_MAX + 40)

/*
 * Make a fresh folder for a benchmark's files under $TMPDIR or /tmp; its name goes to @buf
 * (BENCH_DIR_MAX bytes), which is empty after a failure.
 * Returns 0; -ENAMETOOLONG; -errno of mkdtemp(3).
 */
int bench_dir_make(char *buf, struct kv_err *err);

/*
 * Run @argv (NULL-terminated, argv[0] searched in PATH) with stdin, stdout and stderr at /dev/null
 * and KVICK_EXEC_NS set, and wait for it; killed after @timeout_ns.
 * Returns 0; -ETIMEDOUT; -EINTR (see above); -ENOENT and friends when it cannot be started.
 */
int bench_spawn(struct bench_run *run, char *const *argv, uint64_t timeout_ns);

/*
 * The environment with @text ("NAME=VALUE", may be filled in later) in front, for posix_spawn(3).
 * Returns NULL when there is no memory. Owns: the caller frees the array, not what it points to.
 */
char **bench_environ(char *text);

/* Values of one figure over all runs, in the order in which they were measured. */
struct bench_samples {
	unsigned count, room;
	double *values;
};

/* Keep @value. Returns 0 or -ENOMEM. */
int bench_add(struct bench_samples *samples, double value);
void bench_free(struct bench_samples *samples);

/*
 * The value below which @share (0..1) of the samples lie (nearest rank; 0.5: the median, the mean
 * of the middle two when there is no middle one). 0 when there are none, or memory is short.
 */
double bench_rank(const struct bench_samples *samples, double share);

/* Room for the path of a program. */
#define BENCH_SELF_MAX 4096

/*
 * The path of the running program, in @buf (BENCH_SELF_MAX bytes).
 * Returns 0; -errno of readlink(2) with a sentence.
 */
int bench_self(char *buf, struct kv_err *err);

/*
 * Which of @count things has turn @i in @round. In @count rounds, or twice as many when @count is
 * odd, each follows each other one equally often: what ran before leaves caches and free memory
 * behind. (A Williams design: 0, 1, @count - 1, 2, @count - 2, ... and on by one each round.)
 */
unsigned bench_turn(unsigned round, unsigned i, unsigned count);

/* CPU time that this process has used so far, all its threads, in ns. */
uint64_t bench_cpu_ns(void);

/*
 * Find a program or file that comes with kvick: @build_path beside the running program (in a build
 * folder), else @name in ../libexec/kvick.
 * Returns 0 with the path in @buf; -ENOENT with a sentence.
 */
int bench_locate(
	char *buf, size_t buf_bytes, const char *build_path, const char *name, struct kv_err *err);

/*
 * Write a copy of the flat guest @guest to @path, padded with a segment of bytes that are not zero
 * to @bytes in all (or as it is when it has that size already). The padding lies at 16 MiB.
 * Returns 0; -EINVAL when @guest has no spare program header; -errno.
 */
int bench_kernel_make(const char *guest, const char *path, uint64_t bytes, struct kv_err *err);

/* Write a file of @bytes bytes that are not zero. Returns 0 or -errno. */
int bench_file_make(const char *path, uint64_t bytes, struct kv_err *err);

/*
 * Split @text into words as a shell does ('', "" and \), without any expansion, replacing the words
 * {kernel}, {initrd} and {memory_mib} anywhere in them.
 * Returns 0; -EINVAL for a missing quote; -ENOMEM. Owns: the caller frees *@ret with
 * bench_words_free().
 */
int bench_words(char ***ret, const char *text, const char *kernel, const char *initrd,
	uint64_t memory_mib, struct kv_err *err);
void bench_words_free(char **words);

/*
 * A copy of the @count words at @words, ended by NULL. Returns NULL when there is no memory.
 * Owns: the caller frees it with bench_words_free().
 */
char **bench_words_copy(const char *const *words, size_t count);

/* The file name of the program that @words run. Returns "" of no words; never NULL. */
const char *bench_words_name(char *const *words);

#endif
