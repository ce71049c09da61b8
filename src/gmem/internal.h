/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_INTERNAL_H
#define KV_GMEM_INTERNAL_H

#include "gmem/backing.h"
#include "gmem/gmem.h"
#include "gmem/hot.h"

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
	struct gmem_backing backing;	      /* without what was only borrowed */
	uint64_t backing_offset;	      /* where in the backing the region starts */
	uint64_t page_bytes;		      /* what a first touch allocates at least */
	int fd;				      /* of memfd and file; -1: none */
	char *file_path;		      /* of GMEM_FILE; else NULL */
	const struct gmem_region *file_first; /* which has another part of it open; or NULL */
	bool file_new;			      /* it was empty, and nobody wants to keep it yet */
	bool file_made;			      /* the same, and it was made here */
	bool file_tmpfs;		      /* its space is memory */
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
	bool told_no_mmap; /* the notice about copying was given */
	bool told_shared;  /* the same for memory that is shared */
	unsigned region_count, listener_count, mapped_count, small_count, hot_count;
	unsigned window_count; /* of all hot areas */
	/* Valid up to their counts; not cleared, as each page touched is a fault at every start. */
	struct gmem_region regions[GMEM_REGIONS_MAX];
	struct gmem_listener listeners[GMEM_LISTENERS_MAX];
	struct gmem_mapped mapped[OVERLAYS_MAX]; /* what gmem_overlay() mapped from files */
	struct gmem_small small[OVERLAYS_MAX];	 /* they do not overlap */
	struct gmem_hot *hots[GMEM_HOTS_MAX];
};

/* The region that holds all of [@host, @host + @bytes), or NULL. */
struct gmem_region *gmem_region_of(struct gmem *gm, const uint8_t *host, uint64_t bytes);

/*
 * gmem.c: reserve address space for @rg with room to align it, and put its memory into the aligned
 * part; and the opposite. Returns 0 or -errno, with nothing left.
 */
int gmem_region_map(struct gmem_region *rg, const struct gmem_backing *backing);
void gmem_region_unmap(struct gmem_region *rg);

/*
 * gmem.c: tell all listeners of memory; on failure those told already are told to forget it.
 * Returns 0 or the listener's error.
 */
int gmem_announce(struct gmem *gm, unsigned region, gpa_t gpa, uint64_t bytes, void *host);

/* gmem.c: tell all listeners, in reverse, that it goes. */
void gmem_retract(struct gmem *gm, unsigned region, gpa_t gpa, uint64_t bytes);

/* hot.c: is all of [@gpa, @gpa + @len), which lies inside the area, plugged? Any thread. */
bool gmem_hot_covers(const struct gmem_hot *hot, gpa_t gpa, uint64_t len);

/* hot.c: the area as a region. */
const struct gmem_region *gmem_hot_region(const struct gmem_hot *hot);

/*
 * hot.c: tell @listener of all windows there are; when it refuses one, it is told to forget those
 * before. Returns 0 or its error.
 */
int gmem_hot_tell(struct gmem_hot *hot, const struct gmem_listener *listener);

/* hot.c: tell @listener that the first @count windows go, as far as they are there. */
void gmem_hot_untell(struct gmem_hot *hot, const struct gmem_listener *listener, unsigned count);

/* hot.c: tell listeners that all windows go, and free the area. */
void gmem_hot_free(struct gmem_hot *hot);

/* hot.c: is a block plugged that has bytes in the @bytes (1 and up) from @offset of the area? */
bool gmem_hot_used(const struct gmem_hot *hot, uint64_t offset, uint64_t bytes);

/* lent.c: what an area was lent. */
struct gmem_lent;

/*
 * For the area @rg, which is borrowed and need not be mapped yet; nothing is lent to it yet.
 * Returns 0; -ENOMEM; -EINVAL (too many pieces). Owns: the caller destroys it.
 */
int gmem_lent_create(
	struct gmem_lent **ret, const struct gmem_region *rg, const struct gmem_lender *lender);

/* Everything goes back. After the area was unmapped. NULL is allowed. */
void gmem_lent_destroy(struct gmem_lent *lent);

/*
 * Have memory behind @bytes from @at of the area, an offset.
 * Returns 0; -errno, and gmem_lent_out() takes back what came.
 */
int gmem_lent_in(struct gmem_lent *lent, uint64_t at, uint64_t bytes);

/* Give it back: pieces in which nothing is plugged as a whole, of others the pages. */
void gmem_lent_out(struct gmem_lent *lent, const struct gmem_hot *hot, uint64_t at, uint64_t bytes);

/*
 * backing.c: lay huge pages over [@host, @host + @bytes) of @rg, whose backing is hugetlb, and set
 * them aside. Returns 0; -ENOMEM; -errno.
 */
int gmem_huge_map(const struct gmem_region *rg, uint8_t *host, uint64_t bytes);

/* backing.c: make @rg->fd, a memfd of huge pages for a shared one. Returns 0 or -errno. */
int gmem_huge_fd(struct gmem_region *rg);

/*
 * backing.c: replace the reserved address space of @rg by memory, and tune it.
 * Returns 0 or -errno; the caller unmaps and closes @rg->fd.
 */
int gmem_region_back(struct gmem_region *rg, const struct gmem_backing *backing);

/*
 * backing.c: the end of a region whose file nobody wants to keep: one that was made for it is
 * removed, one that was empty is emptied. Before @rg->fd is closed, which keeps others off it.
 */
void gmem_file_undo(struct gmem_region *rg);

/* backing.c: the region's file, if it has one, outlives it. */
void gmem_file_keep(struct gmem_region *rg);

/*
 * backing.c: a sentence when the bound huge pages of @gm's regions are not there and cannot be had
 * any more: how many are missing, where, and what helps.
 * Returns -ENOMEM then; 0: none is missing, or they are not bound.
 */
int gmem_huge_short(const struct gmem *gm, struct kv_err *err);

/* overlay.c: the range of @gm->small that holds @host, or NULL. */
const struct gmem_small *gmem_small_at(const struct gmem *gm, const uint8_t *host);

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
