/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_HOT_H
#define KV_GMEM_HOT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "gmem/backing.h"
#include "gmem/gmem.h"

/*
 * Guest memory that comes and goes while the VM runs. An area is address space for all there may
 * ever be; its blocks are plugged and unplugged one by one or many at once. What is unplugged is no
 * guest memory: gmem_at() does not find it, and the host has its pages back.
 *
 * Listeners see an area in windows: one is told to them while a block in it is plugged, with region
 * numbers from GMEM_REGIONS_MAX. So KVM keeps book of as much as is in use, not of all there may
 * be.
 */
struct gmem_hot;

#define GMEM_HOTS_MAX	    8	/* areas of a VM */
#define GMEM_WINDOWS_MAX    256 /* over all areas */
#define GMEM_HOT_BLOCKS_MAX (1ULL << 24)

/*
 * The smallest window, in bytes, with which an area of @bytes in blocks of @block_bytes has at most
 * @windows (1 and up) of them: a power of two, not less than the block and 1 GiB.
 */
uint64_t gmem_hot_window(uint64_t bytes, uint64_t block_bytes, uint64_t windows);

/*
 * Who lends an area its memory, in pieces of equal size that are present and zero: the N-th stands
 * behind the area's bytes from N * @bytes. Context of both: that of gmem_hot_begin().
 */
struct gmem_lender {
	uint64_t bytes;	     /* of a piece: whole pages */
	uint64_t page_bytes; /* that pieces are made of */
	/*
	 * Lend piece @index, which is not lent yet.
	 * Returns the descriptor of a file of @bytes, which stays the lender's; -errno.
	 */
	int (*lend)(void *ctx, unsigned index);
	/* Piece @index is no longer mapped. */
	void (*back)(void *ctx, unsigned index);
	void *ctx;
};

struct gmem_hot_params {
	gpa_t gpa;	      /* a multiple of block and page */
	uint64_t bytes;	      /* a multiple of the block, at most GMEM_HOT_BLOCKS_MAX of them */
	uint64_t block_bytes; /* a power of two, not less than the backing's page */
	uint64_t
		window_bytes; /* a power of two, not less than the block; the last may be shorter */
	bool whole;	      /* one window, mapped all the time, in place of window_bytes */
	bool populate;	      /* blocks become present when they are plugged */
	/*
	 * Whole pages: at most so much gets or loses memory in a turn. 0: what takes less than a
	 * tenth of a second in small pages. A larger page is a turn by itself.
	 */
	uint64_t turn_bytes;
	const struct gmem_backing *backing; /* not GMEM_FILE, no mlock */
	const struct gmem_lender *lender;   /* with GMEM_POOL; what ctx is must outlive the area */
};

/*
 * Add an area; nothing of it is plugged.
 * Returns 0; -EINVAL (sizes, place); -ENOSPC (too many areas or windows); -ENOMEM (address space);
 * with @whole, a listener's error.
 * Owns: @gm. Context: before the vCPUs run.
 */
int gmem_hot_add(struct gmem_hot **ret, struct gmem *gm, const struct gmem_hot_params *params,
	struct kv_err *err);

enum gmem_hot_op {
	/*
	 * Plug a range. All of it happens or nothing: when a listener refuses a window, those that
	 * were told before are told to forget it, and the memory goes back. Nothing of it is
	 * plugged before the last turn.
	 */
	GMEM_HOT_PLUG,
	/*
	 * Unplug a range, at once: listeners forget windows that have become empty. The turns give
	 * the pages back to the host. Pointers into it stay valid, but what they write is lost.
	 */
	GMEM_HOT_UNPLUG,
	GMEM_HOT_CLEAR, /* the same for everything that is plugged */
};

/*
 * Begin to carry out @op for [@gpa, @gpa + @bytes), which do not matter to GMEM_HOT_CLEAR. It goes
 * on by gmem_hot_turn(), for it may take a second for each GiB.
 * Returns 0; -EBUSY (a request is under way); -EINVAL (not whole blocks, outside); -EEXIST (plug:
 * some of it is plugged); -ENOENT (unplug: some of it is not); -ENOMEM (no huge pages). Context:
 * one thread at a time for an area.
 */
int gmem_hot_begin(struct gmem_hot *hot, enum gmem_hot_op op, gpa_t gpa, uint64_t bytes);

/*
 * Go on with the request under way.
 * Returns 1: there is more to do; 0: it is done, or there was none; when it was a plug that failed
 * and has been undone: -ENOMEM (the host has no pages), a listener's or the lender's error,
 * -ECANCELED. Context: as gmem_hot_begin().
 */
int gmem_hot_turn(struct gmem_hot *hot);

/* Have a plug that is under way undone by the next turns. Context: as gmem_hot_begin(). */
void gmem_hot_cancel(struct gmem_hot *hot);

/* A request is under way. Context: as gmem_hot_begin(). */
bool gmem_hot_busy(const struct gmem_hot *hot);

/*
 * A request from its begin to its end. Return what gmem_hot_begin() and gmem_hot_turn() do.
 * Context: as gmem_hot_begin().
 */
int gmem_hot_plug(struct gmem_hot *hot, gpa_t gpa, uint64_t bytes);
int gmem_hot_unplug(struct gmem_hot *hot, gpa_t gpa, uint64_t bytes);
void gmem_hot_clear(struct gmem_hot *hot);

/*
 * How many bytes of [@gpa, @gpa + @bytes), whole blocks inside the area, are plugged. Context: any
 * thread.
 */
uint64_t gmem_hot_plugged(const struct gmem_hot *hot, gpa_t gpa, uint64_t bytes);

/* What an area was made of, and how it is now. */
struct gmem_hot_info {
	gpa_t gpa;
	uint64_t bytes, block_bytes, window_bytes;
	uint64_t plugged_bytes;
	unsigned windows;	 /* there may be */
	unsigned windows_mapped; /* listeners know of */
	bool whole;
	uint64_t stall_max_ns; /* the longest that telling the listeners took in one request */
};
/* Context: as gmem_hot_begin(). */
void gmem_hot_info(const struct gmem_hot *hot, struct gmem_hot_info *ret);

/*
 * Count the bytes that the host has present for the area, plugged or not: a part of them at a time,
 * for 1 ms at most, which is added to *@bytes. *@at, 0 at first, goes on behind it. Windows in
 * which nothing was ever to be plugged have none and cost no time. Returns true while there is more
 * to count. Context: as gmem_hot_begin().
 */
bool gmem_hot_resident(const struct gmem_hot *hot, uint64_t *at, uint64_t *bytes);

#endif
