/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages=START,PAGES: does what the serial port says to one byte in each page: r reads it, w writes
 * it, q ends. Waits in between, so that the host can be looked at, or changed, meanwhile.
 */
#include "flat.h"

const uint32_t guest_ring = 0;

static uint8_t next_command(void)
{
	while (!(inb(PORT_SERIAL_LSR) & LSR_DATA_READY))
		;
	return inb(PORT_SERIAL);
}

static uint64_t read_all(uint64_t start, uint64_t pages)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < pages; i++)
		sum += *(volatile uint8_t *)(start + i * PAGE_BYTES);
	return sum;
}

static void write_all(uint64_t start, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		*(volatile uint8_t *)(start + i * PAGE_BYTES) = 0x5a;
}

void guest_main(const struct boot *boot)
{
	const char *arg = find_arg(boot, "pages");
	uint64_t start = 0x1000000, pages = 256;

	if (arg) {
		start = read_number(&arg);
		pages = read_number(&arg);
	}
	if (hits_image(start, pages * PAGE_BYTES) || map_range(start, pages * PAGE_BYTES)) {
		put_text("pages: cannot use this range\n");
		return;
	}
	put_text("pages ready\n");
	for (;;) {
		uint8_t command = next_command();

		if (command == 'q')
			return;
		if (command == 'r') {
			put_text("pages read, sum ");
			put_dec(read_all(start, pages));
			put_text("\n");
		} else if (command == 'w') {
			write_all(start, pages);
			put_text("pages written\n");
		}
	}
}
