/* SPDX-License-Identifier: Apache-2.0 */
/* Areas whose blocks are plugged and unplugged while the VM runs. */
#include "gmem/hot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "gmem/host.h"
#include "gmem/internal.h"

#define WORD_BITS 64

/* Pages that one call of mincore(2) tells of, and bytes that are counted at a time: 1 ms. */
#define RESIDENT_STEP  16384
#define RESIDENT_BYTES GIB

/* What gets memory in a turn, or loses it: less than a tenth of a second in pages of 4 KiB. */
#define FILL_BYTES  (64 * MIB)
#define EMPTY_BYTES (512 * MIB)

/* The range of blocks, and of the windows they lie in. */
struct span {
	uint64_t from, to; /* blocks */
	unsigned first, last;
	uint8_t *host;
	uint64_t bytes;
};

/*
 * The request under way. Blocks get their memory before they are plugged, and lose it after they
 * were unplugged, so what takes long changes nothing that others see.
 */
struct hot_work {
	enum { WORK_NONE, WORK_FILL, WORK_EMPTY } kind;
	struct span span; /* that is to be plugged */
	uint64_t at, end; /* what is left, offsets in the area */
	int result;	  /* of the request, when it has been emptied */
};

struct gmem_hot {
	struct gmem *gm;	/* [c] */
	struct gmem_region rg;	/* [c] its place, and what its own pages are like */
	uint64_t block_bytes;	/* [c] */
	uint64_t window_bytes;	/* [c] */
	uint64_t turn_bytes;	/* [c] or 0 */
	struct gmem_lent *lent; /* [c] the pointer; NULL without a lender */
	bool whole;		/* [c] */
	bool populate;		/* [c] */
	unsigned window_first;	/* [c] number of its first window among all areas' */
	unsigned window_count;	/* [c] */
	uint64_t plugged_bytes; /* [l], as all that follows */
	uint64_t stall_max_ns;
	struct hot_work work;
	unsigned windows_mapped;
	uint32_t windows[GMEM_WINDOWS_MAX]; /* plugged blocks in each */
	bool touched[GMEM_WINDOWS_MAX];	    /* there was, or is, something to be plugged in it */
	_Atomic uint64_t bits[];	    /* [a] a bit for each block, set: plugged */
};

uint64_t gmem_hot_window(uint64_t bytes, uint64_t block_bytes, uint64_t windows)
{
	uint64_t window = block_bytes > GIB ? block_bytes : GIB;

	while ((bytes + window - 1) / window > windows)
		window *= 2;
	return window;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Bits [@from, @to) of word @word's own, as a mask. */
static uint64_t word_mask(uint64_t word, uint64_t from, uint64_t to)
{
	uint64_t start = word * WORD_BITS, mask = ~0ULL;

	if (from > start)
		mask &= ~0ULL << (from - start);
	if (to < start + WORD_BITS)
		mask &= ~(~0ULL << (to - start));
	return mask;
}

/* How many of blocks [@from, @to) are plugged. */
static uint64_t bits_count(const struct gmem_hot *hot, uint64_t from, uint64_t to)
{
	uint64_t count = 0;

	for (uint64_t w = from / WORD_BITS; from < to && w <= (to - 1) / WORD_BITS; w++)
		count += (unsigned)__builtin_popcountll(
			atomic_load(&hot->bits[w]) & word_mask(w, from, to));
	return count;
}

static void bits_set(struct gmem_hot *hot, uint64_t from, uint64_t to, bool on)
{
	for (uint64_t w = from / WORD_BITS; from < to && w <= (to - 1) / WORD_BITS; w++) {
		if (on)
			atomic_fetch_or(&hot->bits[w], word_mask(w, from, to));
		else
			atomic_fetch_and(&hot->bits[w], ~word_mask(w, from, to));
	}
}

bool gmem_hot_used(const struct gmem_hot *hot, uint64_t offset, uint64_t bytes)
{
	return bits_count(hot, offset / hot->block_bytes,
		       (offset + bytes - 1) / hot->block_bytes + 1) != 0;
}

bool gmem_hot_covers(const struct gmem_hot *hot, gpa_t gpa, uint64_t len)
{
	uint64_t from = (gpa - hot->rg.gpa) / hot->block_bytes;
	uint64_t to = (gpa - hot->rg.gpa + len - 1) / hot->block_bytes + 1;

	for (uint64_t w = from / WORD_BITS; w <= (to - 1) / WORD_BITS; w++) {
		uint64_t mask = word_mask(w, from, to);

		if ((atomic_load(&hot->bits[w]) & mask) != mask)
			return false;
	}
	return true;
}

const struct gmem_region *gmem_hot_region(const struct gmem_hot *hot)
{
	return &hot->rg;
}

static uint64_t window_len(const struct gmem_hot *hot, unsigned window)
{
	uint64_t start = window * hot->window_bytes;

	return hot->rg.bytes - start < hot->window_bytes ? hot->rg.bytes - start
							 : hot->window_bytes;
}

static int window_map(struct gmem_hot *hot, unsigned window)
{
	uint64_t start = window * hot->window_bytes;
	int r = gmem_announce(hot->gm, GMEM_REGIONS_MAX + hot->window_first + window,
		hot->rg.gpa + start, window_len(hot, window), hot->rg.host + start);

	if (!r)
		hot->windows_mapped++;
	return r;
}

static void window_unmap(struct gmem_hot *hot, unsigned window)
{
	gmem_retract(hot->gm, GMEM_REGIONS_MAX + hot->window_first + window,
		hot->rg.gpa + window * hot->window_bytes, window_len(hot, window));
	hot->windows_mapped--;
}

/* Map the windows from @first to @last in which nothing is plugged yet; all or none. */
static int windows_map(struct gmem_hot *hot, unsigned first, unsigned last)
{
	uint64_t begin = now_ns(), took;
	unsigned w;
	int r = 0;

	for (w = first; !r && w <= last; w++)
		if (!hot->whole && !hot->windows[w])
			r = window_map(hot, w);
	/* The one that failed, behind which @w stands, is not mapped. */
	for (w -= r < 0; r < 0 && w-- > first;)
		if (!hot->windows[w])
			window_unmap(hot, w);
	took = now_ns() - begin;
	if (took > hot->stall_max_ns)
		hot->stall_max_ns = took;
	return r;
}

static bool span_find(const struct gmem_hot *hot, gpa_t gpa, uint64_t bytes, struct span *span)
{
	uint64_t at = gpa - hot->rg.gpa;

	if (gpa < hot->rg.gpa || at >= hot->rg.bytes || !bytes || bytes > hot->rg.bytes - at ||
		(at | bytes) % hot->block_bytes)
		return false;
	*span = (struct span){
		.from = at / hot->block_bytes,
		.to = (at + bytes) / hot->block_bytes,
		.first = (unsigned)(at / hot->window_bytes),
		.last = (unsigned)((at + bytes - 1) / hot->window_bytes),
		.host = hot->rg.host + at,
		.bytes = bytes,
	};
	return true;
}

static bool is_hugetlb(const struct gmem_hot *hot)
{
	return gmem_is_hugetlb(hot->rg.backing.kind);
}

/*
 * Give a range back. Huge pages are replaced by address space for small ones: a device that still
 * writes there for the driver that unplugged it too early meets something that cannot be short.
 */
static void memory_out(struct gmem_hot *hot, uint8_t *host, uint64_t bytes)
{
	if (hot->lent) {
		/* Where nothing was lent there may be what a guest wrote against the rules. */
		madvise(host, bytes, MADV_DONTNEED);
		gmem_lent_out(hot->lent, hot, (uint64_t)(host - hot->rg.host), bytes);
		return;
	}
	if (is_hugetlb(hot) && mmap(host, bytes, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
				       0) == MAP_FAILED)
		madvise(host, bytes, MADV_DONTNEED);
	if (hot->rg.fd >= 0)
		fallocate(hot->rg.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			(off_t)(host - hot->rg.host), (off_t)bytes);
	else if (!is_hugetlb(hot))
		madvise(host, bytes, MADV_DONTNEED);
}

/* Make a range present. Old kernels are told by writing to it. */
static int memory_fill(const struct gmem_hot *hot, uint8_t *host, uint64_t bytes)
{
	int r = gmem_present(host, bytes);

	if (r != -EINVAL)
		return r;
	for (uint64_t at = 0; at < bytes; at += hot->rg.page_bytes)
		*(volatile uint8_t *)(host + at) = 0;
	return 0;
}

/* Count blocks [@from, @to) in or out of their windows. */
static void windows_count(struct gmem_hot *hot, const struct span *span, bool on)
{
	uint64_t per_window = hot->window_bytes / hot->block_bytes;

	for (unsigned w = span->first; w <= span->last; w++) {
		uint64_t from = w * per_window, to = from + per_window;
		uint32_t n;

		from = from < span->from ? span->from : from;
		to = to > span->to ? span->to : to;
		n = (uint32_t)(to - from);
		hot->windows[w] += on ? n : -n;
	}
}

/* Huge pages are set aside here, so that none is missing later. */
static int plug_begin(struct gmem_hot *hot, gpa_t gpa, uint64_t bytes)
{
	uint64_t at = gpa - hot->rg.gpa;
	struct span span;
	int r = 0;

	if (!span_find(hot, gpa, bytes, &span))
		return -EINVAL;
	if (bits_count(hot, span.from, span.to))
		return -EEXIST;
	if (is_hugetlb(hot)) {
		r = gmem_huge_map(&hot->rg, span.host, bytes);
		if (!r)
			r = gmem_region_tune(&hot->rg, span.host, bytes, false);
		if (r < 0)
			memory_out(hot, span.host, bytes);
	}
	if (r < 0)
		return r;
	for (unsigned w = span.first; w <= span.last; w++)
		hot->touched[w] = true;
	hot->work = (struct hot_work){WORK_FILL, span, at, at + bytes, 0};
	return 0;
}

/*
 * Take away windows from @first to @last: with @all those that are there, else those that have
 * become empty.
 */
static void windows_drop(struct gmem_hot *hot, unsigned first, unsigned last, bool all)
{
	uint64_t begin = now_ns(), took;

	for (unsigned w = last + 1; w-- > first;) {
		if (all != !!hot->windows[w])
			continue;
		hot->windows[w] = 0;
		if (!hot->whole)
			window_unmap(hot, w);
	}
	took = now_ns() - begin;
	if (took > hot->stall_max_ns)
		hot->stall_max_ns = took;
}

/*
 * Empty [@at, @end), and what the guest left behind in the first and the last of its windows if
 * these are gone.
 */
static void empty_begin(
	struct gmem_hot *hot, unsigned first, unsigned last, uint64_t at, uint64_t end)
{
	if (!hot->windows[first])
		at = first * hot->window_bytes;
	if (!hot->windows[last])
		end = last * hot->window_bytes + window_len(hot, last);
	hot->work = (struct hot_work){.kind = WORK_EMPTY, .at = at, .end = end};
}

static int unplug_begin(struct gmem_hot *hot, gpa_t gpa, uint64_t bytes)
{
	uint64_t at = gpa - hot->rg.gpa;
	struct span span;

	if (!span_find(hot, gpa, bytes, &span))
		return -EINVAL;
	if (bits_count(hot, span.from, span.to) != span.to - span.from)
		return -ENOENT;
	bits_set(hot, span.from, span.to, false);
	windows_count(hot, &span, false);
	hot->plugged_bytes -= bytes;
	windows_drop(hot, span.first, span.last, false);
	empty_begin(hot, span.first, span.last, at, at + bytes);
	return 0;
}

static void clear_begin(struct gmem_hot *hot)
{
	unsigned first = 0, last = hot->window_count - 1;

	if (!hot->plugged_bytes)
		return;
	while (!hot->windows[first])
		first++;
	while (!hot->windows[last])
		last--;
	bits_set(hot, 0, hot->rg.bytes / hot->block_bytes, false);
	hot->plugged_bytes = 0;
	windows_drop(hot, first, last, true);
	empty_begin(hot, first, last, 0, 0);
}

int gmem_hot_begin(struct gmem_hot *hot, enum gmem_hot_op op, gpa_t gpa, uint64_t bytes)
{
	if (gmem_hot_busy(hot))
		return -EBUSY;
	switch (op) {
	case GMEM_HOT_PLUG:
		return plug_begin(hot, gpa, bytes);
	case GMEM_HOT_UNPLUG:
		return unplug_begin(hot, gpa, bytes);
	case GMEM_HOT_CLEAR:
		clear_begin(hot);
		return 0;
	}
	return -EINVAL;
}

bool gmem_hot_busy(const struct gmem_hot *hot)
{
	return hot->work.kind != WORK_NONE;
}

/* So much of @left belongs into a turn of at most @most, or of a page. */
static uint64_t turn_len(const struct gmem_hot *hot, uint64_t left, uint64_t most)
{
	if (hot->turn_bytes)
		most = hot->turn_bytes;
	if (most < hot->rg.page_bytes)
		most = hot->rg.page_bytes;
	return left < most ? left : most;
}

/* What was to be plugged gives back what it got: of huge pages, all of them. */
static void plug_undo(struct gmem_hot *hot, int result)
{
	struct hot_work *work = &hot->work;

	work->kind = WORK_EMPTY;
	work->result = result;
	if (!is_hugetlb(hot))
		work->end = work->at;
	work->at = (uint64_t)(work->span.host - hot->rg.host);
}

static int fill_turn(struct gmem_hot *hot)
{
	struct hot_work *work = &hot->work;
	uint8_t *host = hot->rg.host + work->at;
	uint64_t bytes = work->end - work->at;
	int r = 0;

	if (hot->lent || hot->populate)
		bytes = turn_len(hot, bytes, FILL_BYTES);
	if (hot->lent)
		r = gmem_lent_in(hot->lent, work->at, bytes);
	if (!r && hot->populate)
		r = memory_fill(hot, host, bytes);
	work->at += bytes;
	if (!r && work->at < work->end)
		return 1;
	if (!r)
		r = windows_map(hot, work->span.first, work->span.last);
	if (r < 0) {
		plug_undo(hot, r);
		return 1;
	}
	windows_count(hot, &work->span, true);
	bits_set(hot, work->span.from, work->span.to, true);
	hot->plugged_bytes += work->span.bytes;
	work->kind = WORK_NONE;
	return 0;
}

static int empty_turn(struct gmem_hot *hot)
{
	struct hot_work *work = &hot->work;
	uint64_t bytes = turn_len(hot, work->end - work->at, EMPTY_BYTES);

	if (bytes)
		memory_out(hot, hot->rg.host + work->at, bytes);
	work->at += bytes;
	if (work->at < work->end)
		return 1;
	work->kind = WORK_NONE;
	return work->result;
}

int gmem_hot_turn(struct gmem_hot *hot)
{
	switch (hot->work.kind) {
	case WORK_FILL:
		return fill_turn(hot);
	case WORK_EMPTY:
		return empty_turn(hot);
	case WORK_NONE:
		break;
	}
	return 0;
}

void gmem_hot_cancel(struct gmem_hot *hot)
{
	if (hot->work.kind == WORK_FILL)
		plug_undo(hot, -ECANCELED);
}

/* Begin a request and bring it to its end. */
static int do_all(struct gmem_hot *hot, enum gmem_hot_op op, gpa_t gpa, uint64_t bytes)
{
	int r = gmem_hot_begin(hot, op, gpa, bytes);

	if (r < 0)
		return r;
	do
		r = gmem_hot_turn(hot);
	while (r > 0);
	return r;
}

int gmem_hot_plug(struct gmem_hot *hot, gpa_t gpa, uint64_t bytes)
{
	return do_all(hot, GMEM_HOT_PLUG, gpa, bytes);
}

int gmem_hot_unplug(struct gmem_hot *hot, gpa_t gpa, uint64_t bytes)
{
	return do_all(hot, GMEM_HOT_UNPLUG, gpa, bytes);
}

void gmem_hot_clear(struct gmem_hot *hot)
{
	do_all(hot, GMEM_HOT_CLEAR, 0, 0);
}

uint64_t gmem_hot_plugged(const struct gmem_hot *hot, gpa_t gpa, uint64_t bytes)
{
	struct span span;

	if (!span_find(hot, gpa, bytes, &span))
		return 0;
	return bits_count(hot, span.from, span.to) * hot->block_bytes;
}

void gmem_hot_info(const struct gmem_hot *hot, struct gmem_hot_info *ret)
{
	*ret = (struct gmem_hot_info){
		.gpa = hot->rg.gpa,
		.bytes = hot->rg.bytes,
		.block_bytes = hot->block_bytes,
		.window_bytes = hot->window_bytes,
		.plugged_bytes = hot->plugged_bytes,
		.windows = hot->window_count,
		.windows_mapped = hot->windows_mapped,
		.whole = hot->whole,
		.stall_max_ns = hot->stall_max_ns,
	};
}

static uint64_t range_resident(uint8_t *host, uint64_t bytes)
{
	uint8_t pages[RESIDENT_STEP];
	uint64_t present = 0;

	for (uint64_t at = 0, step; at < bytes; at += step) {
		step = bytes - at < RESIDENT_STEP * PAGE_BYTES ? bytes - at
							       : RESIDENT_STEP * PAGE_BYTES;
		if (mincore(host + at, step, pages) < 0)
			continue;
		for (uint64_t i = 0; i < step / PAGE_BYTES; i++)
			present += pages[i] & 1;
	}
	return present * PAGE_BYTES;
}

bool gmem_hot_resident(const struct gmem_hot *hot, uint64_t *at, uint64_t *bytes)
{
	uint64_t left;
	unsigned w = (unsigned)(*at / hot->window_bytes);
	struct stat st;

	/* A file knows its size; mincore(2) would look for each page that is not there. */
	if (hot->rg.fd >= 0 && !is_hugetlb(hot)) {
		*at = hot->rg.bytes;
		if (!fstat(hot->rg.fd, &st))
			*bytes += (uint64_t)st.st_blocks * 512;
		return false;
	}
	/* A window that is gone may have been written to since: a device, or against the rules. */
	for (; w < hot->window_count && !hot->whole && !hot->touched[w]; w++)
		*at = w * hot->window_bytes + window_len(hot, w);
	if (w >= hot->window_count)
		return false;
	left = w * hot->window_bytes + window_len(hot, w) - *at;
	left = left < RESIDENT_BYTES ? left : RESIDENT_BYTES;
	*bytes += range_resident(hot->rg.host + *at, left);
	*at += left;
	return *at < hot->rg.bytes;
}

/* What is wrong with sizes and place of a new area, or 0. */
static int params_check(
	const struct gmem *gm, const struct gmem_hot_params *p, uint64_t page, struct kv_err *err)
{
	uint64_t block = p->block_bytes, end;
	bool sizes = block >= page && !(block & (block - 1)) && p->bytes &&
		     !((p->gpa | p->bytes) % block) && p->bytes / block <= GMEM_HOT_BLOCKS_MAX &&
		     (p->whole || (p->window_bytes >= block &&
					  !(p->window_bytes & (p->window_bytes - 1)))) &&
		     !(p->turn_bytes % page);

	if (!sizes || !range_end(p->gpa, p->bytes, &end) || p->backing->mlock ||
		p->backing->kind == GMEM_FILE || (p->backing->kind == GMEM_POOL) != !!p->lender)
		return err_set(err, -EINVAL,
			"guest memory: area 0x%" PRIx64 "+0x%" PRIx64 " cannot be plugged", p->gpa,
			p->bytes);
	if (gm->hot_count == GMEM_HOTS_MAX)
		return err_set(err, -ENOSPC, "guest memory: more than %d areas", GMEM_HOTS_MAX);
	for (unsigned i = 0; i < gm->region_count + gm->hot_count; i++) {
		const struct gmem_region *rg = i < gm->region_count
						       ? &gm->regions[i]
						       : &gm->hots[i - gm->region_count]->rg;

		if (range_overlap(p->gpa, p->bytes, rg->gpa, rg->bytes))
			return err_set(err, -EINVAL,
				"guest memory: area 0x%" PRIx64 "+0x%" PRIx64 " overlaps another",
				p->gpa, p->bytes);
	}
	return 0;
}

/* The address space. What is no small pages takes its places in it when it is plugged. */
static int area_map(struct gmem_hot *hot, const struct gmem_backing *backing, struct kv_err *err)
{
	struct gmem_backing small = *backing;
	int r;

	if (is_hugetlb(hot) || hot->lent)
		small = (struct gmem_backing){.kind = GMEM_ANON, .dump = backing->dump};
	r = gmem_region_map(&hot->rg, &small);
	if (r < 0)
		return gmem_region_failed(&hot->rg, &small, r, err);
	if (is_hugetlb(hot) && backing->shared) {
		r = gmem_huge_fd(&hot->rg);
		if (r < 0) {
			gmem_region_unmap(&hot->rg);
			return err_set(
				err, r, "guest memory: memfd of huge pages: %s", err_text(r));
		}
	}
	return 0;
}

int gmem_hot_add(struct gmem_hot **ret, struct gmem *gm, const struct gmem_hot_params *params,
	struct kv_err *err)
{
	uint64_t page =
		params->lender ? params->lender->page_bytes : gmem_page_bytes(params->backing);
	uint64_t blocks, windows;
	struct gmem_hot *hot;
	int r = params_check(gm, params, page, err);

	if (r < 0)
		return r;
	blocks = params->bytes / params->block_bytes;
	windows = params->whole ? 1
				: (params->bytes + params->window_bytes - 1) / params->window_bytes;
	if (windows > GMEM_WINDOWS_MAX - gm->window_count)
		return err_set(
			err, -ENOSPC, "guest memory: more than %d windows", GMEM_WINDOWS_MAX);
	hot = calloc(1, sizeof(*hot) + (blocks / WORD_BITS + 1) * sizeof(hot->bits[0]));
	if (!hot)
		return err_set(err, -ENOMEM, "guest memory: out of memory");
	hot->gm = gm;
	hot->block_bytes = params->block_bytes;
	hot->window_bytes = params->whole ? params->bytes : params->window_bytes;
	hot->turn_bytes = params->turn_bytes;
	hot->whole = params->whole;
	/* Where the reservation is not enough, what is missing shows when it is plugged. */
	hot->populate = params->populate || gmem_is_bound(params->backing);
	hot->window_first = gm->window_count;
	hot->window_count = (unsigned)windows;
	hot->rg = (struct gmem_region){
		.gpa = params->gpa,
		.bytes = params->bytes,
		.backing = *params->backing,
		.page_bytes = page,
		.fd = -1,
	};
	if (params->lender) {
		r = gmem_lent_create(&hot->lent, &hot->rg, params->lender);
		if (r < 0) {
			err_set(err, r, "guest memory: %s", err_text(r));
			goto err_free;
		}
	}
	r = area_map(hot, params->backing, err);
	if (r < 0)
		goto err_free;
	if (hot->whole)
		r = window_map(hot, 0);
	if (r < 0) {
		err_set(err, r, "guest memory: area 0x%" PRIx64 "+0x%" PRIx64 " was refused: %s",
			params->gpa, params->bytes, err_text(r));
		goto err_unmap;
	}
	gm->hots[gm->hot_count++] = hot;
	gm->window_count += (unsigned)windows;
	*ret = hot;
	return 0;

err_unmap:
	gmem_region_unmap(&hot->rg);
err_free:
	gmem_lent_destroy(hot->lent);
	free(hot);
	return r;
}

int gmem_hot_tell(struct gmem_hot *hot, const struct gmem_listener *listener)
{
	unsigned w;
	int r = 0;

	for (w = 0; !r && w < hot->window_count; w++)
		if (hot->whole || hot->windows[w])
			r = listener->map(listener->ctx, GMEM_REGIONS_MAX + hot->window_first + w,
				hot->rg.gpa + w * hot->window_bytes, window_len(hot, w),
				hot->rg.host + w * hot->window_bytes);
	if (r < 0)
		gmem_hot_untell(hot, listener, w - 1);
	return r;
}

void gmem_hot_untell(struct gmem_hot *hot, const struct gmem_listener *listener, unsigned count)
{
	for (unsigned w = count < hot->window_count ? count : hot->window_count; w-- > 0;)
		if (hot->whole || hot->windows[w])
			listener->unmap(listener->ctx, GMEM_REGIONS_MAX + hot->window_first + w,
				hot->rg.gpa + w * hot->window_bytes, window_len(hot, w));
}

void gmem_hot_free(struct gmem_hot *hot)
{
	for (unsigned w = hot->window_count; w-- > 0;)
		if (hot->whole || hot->windows[w])
			window_unmap(hot, w);
	gmem_region_unmap(&hot->rg);
	gmem_lent_destroy(hot->lent);
	free(hot);
}
