/* SPDX-License-Identifier: Apache-2.0 */
/* Page tables beyond the first 4 GiB. See flat.h. */
#include "flat.h"

#define MAX_DIRS  64 /* 1 GiB each */
#define MAX_PDPTS 4  /* 512 GiB each */
#define FLAGS	  7  /* present, writable, ring 3 */
#define LARGE	  0x80

static uint64_t dirs[MAX_DIRS][512] __attribute__((aligned(PAGE_BYTES)));
static uint64_t pdpts[MAX_PDPTS][512] __attribute__((aligned(PAGE_BYTES)));
static int nr_dirs, nr_pdpts;

/* The PDPT that covers ADDR, made if need be; NULL when there are no more. */
static uint64_t *find_pdpt(uint64_t addr)
{
	uint64_t *entry = &pml4[addr >> 39 & 511];

	if (!*entry) {
		if (nr_pdpts == MAX_PDPTS)
			return NULL;
		*entry = (uintptr_t)pdpts[nr_pdpts++] | FLAGS;
	}
	return (uint64_t *)(*entry & ~0xfffULL);
}

int map_range(uint64_t addr, uint64_t bytes)
{
	uint64_t first = addr >> 30;
	uint64_t last = (addr + bytes - 1) >> 30;

	if (!bytes || addr + bytes < addr || last >= 1ULL << 17)
		return bytes ? -1 : 0;
	for (uint64_t gib = first; gib <= last; gib++) {
		uint64_t *table = find_pdpt(gib << 30);

		if (!table)
			return -1;
		if (table[gib & 511])
			continue;
		if (nr_dirs == MAX_DIRS)
			return -1;
		for (uint64_t i = 0; i < 512; i++)
			dirs[nr_dirs][i] = gib << 30 | i << 21 | LARGE | FLAGS;
		table[gib & 511] = (uintptr_t)dirs[nr_dirs++] | FLAGS;
	}
	return 0;
}
