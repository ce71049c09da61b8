/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to populate, and how it is divided. */
#include <string.h>
#include <sys/mman.h>

#include "gmem/fill.h"
#include "gmem/host.h"

/*
 * One system call populates a step. It cannot be interrupted, so a step must be over in a fraction
 * of 100 ms where memory is slowest: 0.2 GiB/s were seen, with pages of any size, on a host whose
 * own memory was not present. Smaller steps cost nothing that could be measured.
 */
#define STEP_BYTES (4 * MIB)

/*
 * A step holds the lock of the address space, which whoever maps something has to wait for. A
 * thread of the lowest priority may be put aside in the middle of one for long: its steps are
 * short.
 */
#define STEP_IDLE_BYTES (256 * KIB)

struct range {
	uint8_t *host;
	uint64_t bytes;
};

/* The overlay at or behind @at that is nearest, as a range of 0 bytes at @end when there is none.
 */
static struct range overlay_next(const struct gmem *gm, const uint8_t *at, uint8_t *end)
{
	struct range next = {end, 0};

	for (unsigned i = 0; i < gm->mapped_count; i++) {
		const struct gmem_mapped *mapped = &gm->mapped[i];

		if (mapped->host + mapped->bytes > at && mapped->host < next.host)
			next = (struct range){(uint8_t *)mapped->host, mapped->bytes};
	}
	return next;
}

/* As overlay_next() for pages that became small. */
static struct range small_next(const struct gmem *gm, const uint8_t *at, uint8_t *end)
{
	struct range next = {end, 0};

	for (unsigned i = 0; i < gm->small_count; i++) {
		const struct gmem_small *small = &gm->small[i];

		if (small->host + small->bytes > at && small->host < next.host)
			next = (struct range){small->host, small->bytes};
	}
	return next;
}

/* Whether @rg's own small pages, or those that replaced huge ones, become huge where they can. */
static bool wants_thp(const struct gmem_region *rg, bool small)
{
	if (rg->backing.thp == GMEM_OFF || (!small && rg->backing.kind != GMEM_ANON))
		return false;
	return small || !rg->backing.shared;
}

static void piece_add(struct gmem_fill *fill, const struct gmem_region *rg, uint8_t *host,
	uint64_t bytes, bool file, bool small)
{
	struct fill_piece *piece = &fill->pieces[fill->piece_count++];
	enum gmem_backing_kind kind = rg->backing.kind;
	bool skip = fill->huge_only && (file || small);
	bool thp = !file && (small || rg->page_bytes == PAGE_BYTES) && wants_thp(rg, small);

	*piece = (struct fill_piece){
		.host = host,
		.bytes = bytes,
		.start = fill->span_bytes,
		.page_bytes = file || small ? PAGE_BYTES : rg->page_bytes,
		.file = file,
		.fresh = !file && !skip && (small || kind == GMEM_ANON || kind == GMEM_MEMFD),
		.own = !file && !skip && kind == GMEM_ANON && !rg->backing.shared,
		.advise = thp && rg->backing.thp == GMEM_AUTO && !small,
		.skip = skip,
	};
	if (thp)
		piece->page_bytes = HUGE_BYTES;
	fill->span_bytes += bytes;
	if (!file && !skip)
		fill->total_bytes += bytes;
}

static void region_pieces(
	struct gmem_fill *fill, const struct gmem *gm, const struct gmem_region *rg)
{
	uint8_t *at = rg->host, *end = rg->host + rg->bytes;

	while (at < end) {
		struct range overlay = overlay_next(gm, at, end);
		struct range small = small_next(gm, at, end);
		bool file = overlay.host <= at, is_small = small.host <= at;
		uint8_t *stop = file ? overlay.host + overlay.bytes : overlay.host;

		if (!file && is_small && small.host + small.bytes < stop)
			stop = small.host + small.bytes;
		if (!file && !is_small && small.host < stop)
			stop = small.host;
		if (stop > end)
			stop = end;
		piece_add(fill, rg, at, (uint64_t)(stop - at), file, is_small);
		at = stop;
	}
}

void gmem_pieces_find(struct gmem_fill *fill, struct gmem *gm)
{
	bool offered = gmem_thp_offered();

	for (unsigned i = 0; i < gm->region_count; i++)
		region_pieces(fill, gm, &gm->regions[i]);
	for (unsigned i = 0; i < fill->piece_count; i++) {
		struct fill_piece *piece = &fill->pieces[i];

		/* They were counted on as transparent huge pages. */
		if (piece->fresh && !offered)
			piece->page_bytes = PAGE_BYTES;
	}
}

void gmem_pieces_advise(const struct gmem_fill *fill)
{
	/* Advice: a kernel without transparent huge pages has none to give. */
	for (unsigned i = 0; i < fill->piece_count; i++)
		if (fill->pieces[i].advise)
			madvise(fill->pieces[i].host, fill->pieces[i].bytes, MADV_HUGEPAGE);
}

uint64_t gmem_fill_bound(const struct gmem_fill *fill, unsigned part, unsigned parts)
{
	uint64_t at = (uint64_t)((unsigned __int128)fill->span_bytes * part / parts);

	if (part == parts)
		return fill->span_bytes;
	for (unsigned i = 0; i < fill->piece_count; i++) {
		const struct fill_piece *piece = &fill->pieces[i];
		uint64_t align = piece->page_bytes > HUGE_BYTES ? piece->page_bytes : HUGE_BYTES;
		uintptr_t host = (uintptr_t)piece->host, cut;

		if (at - piece->start >= piece->bytes)
			continue;
		cut = align_down(host + (at - piece->start), align);
		return piece->start + (cut > host ? cut - host : 0);
	}
	return fill->span_bytes;
}

uint64_t gmem_fill_step(
	const struct gmem_fill *fill, const struct fill_piece *piece, const uint8_t *host)
{
	uint64_t step = fill->idle ? STEP_IDLE_BYTES : STEP_BYTES;

	if (step < piece->page_bytes)
		step = piece->page_bytes;
	return step - (uintptr_t)host % step;
}
