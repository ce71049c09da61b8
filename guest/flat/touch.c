/* SPDX-License-Identifier: Apache-2.0 */
/*
 * touch=START,PAGES: writes one byte to each page, reads all back. In kernel mode, so a software
 * KVM makes the accesses on the guest's behalf; worker.c is the same in user mode.
 */
#include "flat.h"

const uint32_t guest_ring = 0;

static uint8_t pattern(uint64_t page)
{
	return (uint8_t)(page * 7 + 1);
}

void guest_main(const struct boot *boot)
{
	const char *arg = find_arg(boot, "touch");
	uint64_t start = 0x1000000, pages = 256;

	if (arg) {
		start = read_number(&arg);
		pages = read_number(&arg);
	}
	if (hits_image(start, pages * PAGE_BYTES) || map_range(start, pages * PAGE_BYTES)) {
		put_text("touch: cannot use this range\n");
		return;
	}
	for (uint64_t i = 0; i < pages; i++)
		*(volatile uint8_t *)(start + i * PAGE_BYTES) = pattern(i);
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t addr = start + i * PAGE_BYTES;
		uint8_t val = *(volatile uint8_t *)addr;

		if (val != pattern(i)) {
			put_text("touch: wrote ");
			put_hex(pattern(i));
			put_text(" and read ");
			put_hex(val);
			put_text(" at ");
			put_hex(addr);
			put_text("\n");
			return;
		}
	}
	put_text("touched ");
	put_dec(pages);
	put_text("\n");
}
