/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_POPULATE_H
#define KV_GMEM_POPULATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "gmem/backing.h"
#include "gmem/gmem.h"

/*
 * Making guest RAM present before the guest asks for it. Pages of the regions are allocated and
 * cleared; pages that overlays mapped from files stay shared and are only mapped in.
 */

/* When RAM becomes present. */
enum gmem_populate {
	GMEM_POPULATE_NONE,	  /* on touch */
	GMEM_POPULATE_FULL,	  /* before the VM starts */
	GMEM_POPULATE_BACKGROUND, /* while it runs, at low priority */
	GMEM_POPULATE_VCPU,	  /* by each vCPU's thread, its own slice before its first entry */
};
#define GMEM_POPULATES 4

/* "none", "full", "background", "vcpu". */
const char *gmem_populate_name(enum gmem_populate how);

/* The most threads that may be asked for. */
#define GMEM_THREADS_MAX 512

struct gmem_fill_opts {
	unsigned threads; /* 0: the host's CPUs, as far as the page size gains from them */
	bool touch;	  /* write to each page instead of MADV_POPULATE_WRITE: for comparisons */
	bool huge_only;	  /* of regions of huge pages, leave the small pages in them alone */
};

/* One population of all RAM there is. Everything but its counters is [c] once work starts. */
struct gmem_fill;

/*
 * Plan to populate all regions of @gm, after all overlays. With thp auto, anonymous memory is made
 * of huge pages from now on. Checks what the host and the memory control groups allow, because
 * exceeding that would get a process killed.
 * Returns 0; -ENOMEM with a sentence.
 * Owns: the caller destroys it before @gm. Context: no other thread changes @gm.
 */
int gmem_fill_create(struct gmem_fill **ret, struct gmem *gm, const struct gmem_fill_opts *opts,
	struct kv_err *err);

/*
 * Populate everything now: this thread takes part, @watch (or NULL) is told and may stop it within
 * some 30 ms, or one page of 1 GiB.
 * Returns 0; -ECANCELED; -EAGAIN (the threads asked for cannot be started); -ENOMEM and others
 * with a sentence that says how far it came. When it fails, all threads give the private RAM of
 * GMEM_ANON back, with what was in it, some 15 ms a GiB of small pages for two of them: only
 * gmem_destroy() is left to do.
 * Context: once for a fill.
 */
int gmem_fill_run(struct gmem_fill *fill, const struct gmem_watch *watch, struct kv_err *err);

/*
 * Make ready for gmem_fill_start(): the threads that were asked for are started, and wait.
 * Returns 0; -EAGAIN and others with a sentence (they cannot be). Context: once for a fill; ended
 * by gmem_fill_destroy().
 */
int gmem_fill_ready(struct gmem_fill *fill, struct kv_err *err);

/*
 * Populate everything in threads of the lowest priority: those that wait, or where none were asked
 * for, as many as can be started now. @done (or NULL) is called once by the last of them, when it
 * was not stopped, with 0 or -errno.
 * Returns 0; -EAGAIN and others: not one thread can be started, and @done is not called.
 * Context: once for a fill, after gmem_fill_ready(); ended by gmem_fill_destroy().
 */
int gmem_fill_start(struct gmem_fill *fill, void (*done)(void *ctx, int result), void *ctx);

/*
 * Populate slice @part of @parts, in the calling thread.
 * Returns 0; -ECANCELED; -ENOMEM and others with a sentence. Context: any thread; several at once.
 */
int gmem_fill_part(struct gmem_fill *fill, unsigned part, unsigned parts, struct kv_err *err);

/* Make all work on @fill end soon, with -ECANCELED. NULL is allowed. Context: any thread. */
void gmem_fill_stop(struct gmem_fill *fill);

/* Stop, wait for the threads in the background, free. NULL is allowed. */
void gmem_fill_destroy(struct gmem_fill *fill);

/* Bytes of fresh pages there are to populate, and how many of them are. Context: any thread. */
uint64_t gmem_fill_total(const struct gmem_fill *fill);
uint64_t gmem_fill_done(const struct gmem_fill *fill);

/* How many threads gmem_fill_run() and gmem_fill_start() use, if they can be started. */
unsigned gmem_fill_threads(const struct gmem_fill *fill);

#endif
