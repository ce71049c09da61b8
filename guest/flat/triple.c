/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends in a triple fault: with an IDT of no entries, or (built with GARBAGE_IDT, as "crash") with
 * one whose entries are all garbage.
 */
#include "flat.h"

const uint32_t guest_ring = 0;

#ifdef GARBAGE_IDT
#define IDT_LIMIT (sizeof(garbage) - 1)
#else
#define IDT_LIMIT 0
#endif

static uint64_t garbage[512];

void guest_main(const struct boot *boot)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {IDT_LIMIT, (uintptr_t)garbage};

	(void)boot;
	for (unsigned i = 0; i < 512; i++)
		garbage[i] = i * 0x9e3779b97f4a7c15;
	__asm__ volatile("lidt %0\n\tud2" : : "m"(pointer) : "memory");
	put_text("triple: still running\n");
}
