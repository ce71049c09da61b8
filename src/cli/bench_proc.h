/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_PROC_H
#define KV_CLI_BENCH_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* Processes that go on beside a benchmark, and what memory they cost. */

/*
 * Start @argv (NULL-terminated, argv[0] searched in PATH) with stdin and stdout at /dev/null and
 * stderr in the file @err_path, which is emptied.
 * Returns 0 and *@pid; -errno. Owns: the caller ends it with proc_stop().
 */
int proc_start(pid_t *pid, char *const *argv, const char *err_path);

/* Kill and reap the process; 0 is allowed. */
void proc_stop(pid_t pid);

/*
 * Wait until nothing goes on in the process any more: for a third of a second none of its threads
 * ran for more than a 50th of the time or was about to. No help from the process is needed, so
 * nothing is added to what is measured.
 * @vcpu: the process must have a thread of that name too ("fc_vcpu 0"); NULL: any.
 * Returns 0; -ETIMEDOUT after @limit_ns; -ECHILD when it ended (*@status: its exit status, or 128 +
 * signal; it has been reaped); -EINTR; -errno.
 */
int proc_settle(pid_t pid, const char *vcpu, uint64_t limit_ns, int *status);

/* What a process holds, in bytes. Source: proc(5), smaps_rollup, status. */
struct proc_memory {
	uint64_t uss_bytes; /* pages that are its alone */
	uint64_t pss_bytes; /* those, and its share of shared ones */
	uint64_t rss_bytes;
	uint64_t dirty_bytes;	    /* private pages that were written */
	uint64_t page_tables_bytes; /* of the process itself (VmPTE) */
	uint64_t threads, fds;	    /* numbers */
};

/* Returns 0; -errno (the process is gone, no permission). */
int proc_measure(pid_t pid, struct proc_memory *ret);

/* The kernel's own memory, in bytes, of the whole machine. Source: proc(5), meminfo. */
struct kernel_memory {
	uint64_t available_bytes, slab_bytes, vmalloc_bytes, page_tables_bytes;
	uint64_t second_tables_bytes; /* KVM's page tables (SecPageTables); 0 on old kernels */
	uint64_t stacks_bytes, percpu_bytes;
};

/*
 * @exact: have added up first what each CPU counts by itself for up to a second (root only); that
 * takes a moment of every CPU. Returns 0 or -errno, with all 0.
 */
int proc_kernel(struct kernel_memory *ret, bool exact);

#endif
