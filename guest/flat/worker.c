/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker=START,PAGES: in ring 3, writes each page's address into its first and last eight bytes,
 * then reads all back. User mode runs natively on every KVM, a software one included.
 */
#include "flat.h"

const uint32_t guest_ring = 3;

void guest_main(const struct boot *boot)
{
	const char *arg = find_arg(boot, "worker");
	uint64_t start = 0x1000000, pages = 256, bad = 0;

	if (arg) {
		start = read_number(&arg);
		pages = read_number(&arg);
	}
	if (hits_image(start, pages * PAGE_BYTES) || map_range(start, pages * PAGE_BYTES)) {
		put_text("worker: cannot use this range\n");
		return;
	}
	put_text("worker ready\n");
	for (uint64_t i = 0; i < pages; i++) {
		volatile uint64_t *page = (void *)(start + i * PAGE_BYTES);

		page[0] = (uintptr_t)page;
		page[PAGE_BYTES / 8 - 1] = (uintptr_t)page;
	}
	for (uint64_t i = 0; i < pages; i++) {
		volatile uint64_t *page = (void *)(start + i * PAGE_BYTES);

		if (page[0] == (uintptr_t)page && page[PAGE_BYTES / 8 - 1] == (uintptr_t)page)
			continue;
		if (!bad++) {
			put_text("worker: first wrong page at ");
			put_hex((uintptr_t)page);
			put_text("\n");
		}
	}
	put_text(bad ? "worker bad " : "worker done ");
	put_dec(bad ? bad : pages);
	put_text("\n");
}
