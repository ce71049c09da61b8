/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory accesses of every width to addresses where nothing is: reads must give ones, writes must
 * be lost. mmio=ADDR takes another address than those below.
 */
#include "flat.h"

const uint32_t guest_ring = 0;

static int failures;

static void expect(const char *what, uint64_t addr, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	failures++;
	put_text("mmio: ");
	put_text(what);
	put_text(" at ");
	put_hex(addr);
	put_text(" gave ");
	put_hex(got);
	put_text("\n");
}

static void try_address(uint64_t addr)
{
	*(volatile uint8_t *)addr = 0x5a;
	*(volatile uint16_t *)addr = 0x5a5a;
	*(volatile uint32_t *)addr = 0x5a5a5a5a;
	*(volatile uint64_t *)addr = 0x5a5a5a5a5a5a5a5a;
	expect("byte", addr, *(volatile uint8_t *)addr, 0xff);
	expect("word", addr, *(volatile uint16_t *)addr, 0xffff);
	expect("dword", addr, *(volatile uint32_t *)addr, 0xffffffff);
	expect("qword", addr, *(volatile uint64_t *)addr, ~0ULL);
}

void guest_main(const struct boot *boot)
{
	static const uint64_t addrs[] = {0xc8000000, 0xdffff000, 0xfd000ff8, 0xfffffff8};
	const char *arg = find_arg(boot, "mmio");

	if (arg) {
		uint64_t addr = read_number(&arg);

		if (map_range(addr, 16))
			put_text("mmio: cannot map the address\n");
		else
			try_address(addr);
	} else {
		for (unsigned i = 0; i < sizeof(addrs) / sizeof(addrs[0]); i++)
			try_address(addrs[i]);
		/* Unaligned, and across a page: KVM splits the second in two. */
		try_address(0xc8000003);
		try_address(0xc8000ffd);
	}
	put_text(failures ? "mmio failed\n" : "mmio ok\n");
}
