/* SPDX-License-Identifier: Apache-2.0 */
/* As much of ACPI as a guest needs to find a table. See flat.h. */
#include "flat.h"

static uint64_t field(uint64_t addr, int bytes)
{
	const uint8_t *p = (void *)addr;
	uint64_t val = 0;

	while (bytes--)
		val = val << 8 | p[bytes];
	return val;
}

static uint8_t sum(uint64_t addr, uint64_t bytes)
{
	const uint8_t *p = (void *)addr;
	uint8_t total = 0;

	while (bytes--)
		total = (uint8_t)(total + *p++);
	return total;
}

/* Source: ACPI 6.5, 5.2.5 (RSDP), 5.2.6 (table header), 5.2.8 (XSDT) */
uint64_t acpi_find(const struct boot *boot, const char *signature)
{
	uint64_t rsdp = boot->rsdp_addr, xsdt;

	if (!rsdp || field(rsdp, 8) != 0x2052545020445352 /* "RSD PTR " */ || sum(rsdp, 20) ||
		field(rsdp + 15, 1) < 2 || sum(rsdp, 36))
		return 0;
	xsdt = field(rsdp + 24, 8);
	if (field(xsdt, 4) != 0x54445358 /* "XSDT" */ || sum(xsdt, field(xsdt + 4, 4)))
		return 0;
	for (uint64_t at = 36; at + 8 <= field(xsdt + 4, 4); at += 8) {
		uint64_t table = field(xsdt + at, 8);

		if (field(table, 4) == field((uintptr_t)signature, 4))
			return sum(table, field(table + 4, 4)) ? 0 : table;
	}
	return 0;
}
