/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker=START,PAGES[,STRIDE[,START,PAGES,STRIDE]...]: in ring 3, writes the address of every
 * STRIDE-th page (default 1), PAGES of them, into its first and last eight bytes, then reads all
 * back. With `zero` it first looks whether all of them are zero. User mode runs natively on every
 * KVM, a software one included.
 */
#include "flat.h"

#define RANGES_MAX 4

const uint32_t guest_ring = 3;

struct pages {
	uint64_t start, count, stride;
};

/* Fill @ranges from the command line. Returns how many there are. */
static unsigned read_ranges(const struct boot *boot, struct pages *ranges)
{
	const char *arg = find_arg(boot, "worker");
	unsigned n = 0;

	if (!arg) {
		ranges[0] = (struct pages){0x1000000, 256, 1};
		return 1;
	}
	do {
		ranges[n].start = read_number(&arg);
		ranges[n].count = read_number(&arg);
		ranges[n].stride = read_number(&arg);
		if (!ranges[n].stride)
			ranges[n].stride = 1;
		n++;
	} while (n < RANGES_MAX && *arg && *arg != ' ');
	return n;
}

static volatile uint64_t *page_at(const struct pages *range, uint64_t i)
{
	return (void *)(range->start + i * range->stride * PAGE_BYTES);
}

static uint64_t count_dirty(const struct pages *range)
{
	uint64_t dirty = 0;

	for (uint64_t i = 0; i < range->count; i++) {
		volatile uint64_t *page = page_at(range, i);
		uint64_t any = 0;

		for (unsigned at = 0; at < PAGE_BYTES / 8; at++)
			any |= page[at];
		dirty += any != 0;
	}
	return dirty;
}

static uint64_t count_bad(const struct pages *range)
{
	uint64_t bad = 0;

	for (uint64_t i = 0; i < range->count; i++) {
		volatile uint64_t *page = page_at(range, i);

		if (page[0] == (uintptr_t)page && page[PAGE_BYTES / 8 - 1] == (uintptr_t)page)
			continue;
		if (!bad++) {
			put_text("worker: first wrong page at ");
			put_hex((uintptr_t)page);
			put_text("\n");
		}
	}
	return bad;
}

void guest_main(const struct boot *boot)
{
	struct pages ranges[RANGES_MAX];
	unsigned n = read_ranges(boot, ranges);
	uint64_t pages = 0, bad = 0, dirty = 0;

	for (unsigned r = 0; r < n; r++) {
		uint64_t bytes = ranges[r].count * ranges[r].stride * PAGE_BYTES;

		if (hits_image(ranges[r].start, bytes) || map_range(ranges[r].start, bytes)) {
			put_text("worker: cannot use this range\n");
			return;
		}
	}
	put_text("worker ready\n");
	for (unsigned r = 0; find_arg(boot, "zero") && r < n; r++)
		dirty += count_dirty(&ranges[r]);
	if (dirty) {
		put_text("worker dirty ");
		put_dec(dirty);
		put_text("\n");
		return;
	}
	for (unsigned r = 0; r < n; r++) {
		for (uint64_t i = 0; i < ranges[r].count; i++) {
			volatile uint64_t *page = page_at(&ranges[r], i);

			page[0] = (uintptr_t)page;
			page[PAGE_BYTES / 8 - 1] = (uintptr_t)page;
		}
		pages += ranges[r].count;
	}
	for (unsigned r = 0; r < n; r++)
		bad += count_bad(&ranges[r]);
	put_text(bad ? "worker bad " : "worker done ");
	put_dec(bad ? bad : pages);
	put_text("\n");
}
