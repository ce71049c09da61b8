/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_BACKING_H
#define KV_GMEM_BACKING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/num.h"

/* What stands behind guest RAM, and how the kernel shall treat it. */

enum gmem_backing_kind {
	GMEM_ANON,	 /* private anonymous memory */
	GMEM_MEMFD,	 /* a memfd, mapped shared */
	GMEM_HUGETLB_2M, /* pages of hugetlbfs, 2 MiB each */
	GMEM_HUGETLB_1G, /* 1 GiB each */
	GMEM_FILE,	 /* a file, mapped shared; it is made or grown to the size of RAM */
	GMEM_POOL,	 /* chunks of shared memory handed in, present and zero */
};

/* A decision left to kvick, or taken. */
enum gmem_switch { GMEM_AUTO, GMEM_OFF, GMEM_ON };

/*
 * Told how far something slow has come. Context: the thread that called the slow function, every
 * few ms to few tens of ms.
 */
struct gmem_watch {
	/* Returns true to stop: the function gives up with -ECANCELED. */
	bool (*tick)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
	void *ctx;
};

/* A piece of GMEM_POOL memory; pieces follow each other in the order given. */
struct gmem_chunk {
	int fd;		/* borrowed while gmem_add_backed() runs */
	uint64_t bytes; /* a multiple of the pool's page size */
};

struct gmem_backing {
	enum gmem_backing_kind kind;
	const char *path;     /* GMEM_FILE: borrowed while gmem_add_backed() runs */
	enum gmem_switch thp; /* transparent huge pages; not for hugetlb and pool */
	bool shared;	      /* another process will map it: never private memory */
	bool mlock;	      /* never swapped; pages that are touched stay */
	bool merge;	      /* KSM may merge equal pages; GMEM_ANON that is not shared */
	bool dump;	      /* part of a core dump of the monitor */
	uint64_t nodes;	      /* NUMA nodes, a bit each; 0: wherever the kernel likes */
	const struct gmem_chunk *chunks; /* GMEM_POOL; borrowed while gmem_add_backed() runs */
	unsigned chunk_count;
	const struct gmem_watch *watch; /* GMEM_FILE: while its space is reserved; or NULL */
	/*
	 * Of all regions that will have it, for sentences and because a file is emptied, checked
	 * and given its size as a whole when its first region, at offset 0, is added; 0: of that
	 * region alone.
	 */
	uint64_t total_bytes;
};

/* Stable names: "anon", "memfd", "hugetlb-2m", "hugetlb-1g", "file", "pool". */
#define GMEM_BACKING_KINDS 6
const char *gmem_backing_name(enum gmem_backing_kind kind);

/* The page that the backing allocates at once, bytes: 4 KiB, 2 MiB or 1 GiB. */
uint64_t gmem_page_bytes(const struct gmem_backing *backing);

/* True for GMEM_HUGETLB_2M and GMEM_HUGETLB_1G. */
bool gmem_is_hugetlb(enum gmem_backing_kind kind);

/*
 * True for huge pages of chosen nodes. The kernel reserves huge pages on the host as a whole, so
 * only those that are present are sure: they are populated before the guest may touch them.
 */
bool gmem_is_bound(const struct gmem_backing *backing);

/*
 * Check the fields of @backing and RAM of @total_bytes against each other, without looking at the
 * host.
 * Returns 0; -EINVAL with a sentence.
 */
int gmem_backing_valid(
	const struct gmem_backing *backing, uint64_t total_bytes, struct kv_err *err);

/*
 * Check before anything is mapped that the host can give RAM of @total_bytes this backing: enough
 * free huge pages (on the chosen nodes), a file that may become RAM. (Another process may still be
 * faster.)
 * Returns 0; what gmem_backing_valid() does; -ENOMEM with a sentence that says how many pages of
 * what size are short, on which nodes, and the command that reserves them, or which control group
 * forbids them; -EEXIST (the file holds something else); -errno of open(2).
 */
int gmem_backing_check(
	const struct gmem_backing *backing, uint64_t total_bytes, struct kv_err *err);

#endif
