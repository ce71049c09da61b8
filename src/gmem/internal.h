/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_INTERNAL_H
#define KV_GMEM_INTERNAL_H

#include "gmem/backing.h"
#include "gmem/gmem.h"

/* Shared by the files of gmem/ alone (and its tests). Everything is [c] once the vCPUs run. */

#define OVERLAYS_MAX 64
#define HUGE_BYTES   (2 * MIB)

struct gmem_region {
	gpa_t gpa;
	uint64_t bytes;
	uint8_t *
		host; /* congruent with gpa modulo max(2 MiB, page), for huge pages on both sides */
	void *reserved; /* the mapping around it: inaccessible pages on both sides */
	size_t reserved_bytes;
	struct gmem_backing backing; /* without what was only borrowed */
	uint64_t backing_offset;     /* where in the backing the region starts */
	uint64_t page_bytes;	     /* what a first touch allocates at least */
	int fd;			     /* of memfd and file; -1: none */
};

/* A part of a region that something else than the region's own pages lies in. */
struct gmem_mapped {
	const uint8_t *host;
	uint64_t bytes;
	char what[40];
};

/* Huge pages of a hugetlb region that became small ones to lay a file over. */
struct gmem_small {
	uint8_t *host;
	uint64_t bytes;
};

struct gmem {
	const struct kv_log *log;
	unsigned region_count;
	struct gmem_region regions[GMEM_REGIONS_MAX];
	unsigned listener_count;
	struct gmem_listener listeners[GMEM_LISTENERS_MAX];
	unsigned mapped_count;
	struct gmem_mapped mapped[OVERLAYS_MAX]; /* what gmem_overlay() mapped from files */
	unsigned small_count;
	struct gmem_small small[OVERLAYS_MAX]; /* they do not overlap */
	bool told_no_mmap;		       /* the notice about copying was given */
	bool told_shared;		       /* the same for memory that is shared */
};

/* The region that holds all of [@host, @host + @bytes), or NULL. */
struct gmem_region *gmem_region_of(struct gmem *gm, const uint8_t *host, uint64_t bytes);

/*
 * backing.c: replace the reserved address space of @rg by memory, and tune it.
 * Returns 0 or -errno; the caller unmaps and closes @rg->fd.
 */
int gmem_region_back(struct gmem_region *rg, const struct gmem_backing *backing);

/* A sentence for what gmem_region_back() returned. Returns @code. */
int gmem_region_failed(const struct gmem_region *rg, const struct gmem_backing *backing, int code,
	struct kv_err *err);

/*
 * backing.c: give a fresh mapping inside @rg what the region's own memory has: NUMA nodes, huge
 * pages, KSM, locks, core dumps. @file: it maps an image's file.
 * Returns 0 or -errno.
 */
int gmem_region_tune(const struct gmem_region *rg, uint8_t *host, uint64_t bytes, bool file);

/*
 * overlay.c: make the huge pages of hugetlb region @rg that [@host, @host + @bytes) touches small
 * ones; those that are already stay as they are.
 * Returns 0; -ENOSPC (too many overlays); -errno of mmap(2).
 */
int gmem_region_shrink(struct gmem *gm, struct gmem_region *rg, uint8_t *host, uint64_t bytes);

#endif
