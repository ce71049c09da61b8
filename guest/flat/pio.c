/* SPDX-License-Identifier: Apache-2.0 */
/* Port I/O of every width: the trace ports, string output, and ports that nothing answers on. */
#include "flat.h"

const uint32_t guest_ring = 0;

static int failures;

static void expect(const char *what, uint32_t port, uint64_t got, uint64_t want)
{
	if (got == want)
		return;
	failures++;
	put_text("pio: ");
	put_text(what);
	put_text(" ");
	put_hex(port);
	put_text(" gave ");
	put_hex(got);
	put_text(", not ");
	put_hex(want);
	put_text("\n");
}

static void out_string(uint16_t port, const char *text, uint64_t len)
{
	__asm__ volatile("rep outsb" : "+S"(text), "+c"(len) : "d"(port) : "memory");
}

static void in_string(uint16_t port, uint8_t *to, uint64_t len)
{
	__asm__ volatile("rep insb" : "+D"(to), "+c"(len) : "d"(port) : "memory");
}

static void read_unknown(uint16_t port)
{
	uint8_t bytes[8] = {0};

	outb(port, 0x5a);
	outw(port, 0x5a5a);
	outl(port, 0x5a5a5a5a);
	expect("inb", port, inb(port), 0xff);
	expect("inw", port, inw(port), 0xffff);
	expect("inl", port, inl(port), 0xffffffff);
	in_string(port, bytes, sizeof(bytes));
	for (unsigned i = 0; i < sizeof(bytes); i++)
		expect("insb", port, bytes[i], 0xff);
}

void guest_main(const struct boot *boot)
{
	static const char debug_text[] = "debug console by outb\n";
	static const char string_text[] = "debug console by rep outsb\n";
	static const uint16_t unknown[] = {0x278, 0x1234, 0x4321, 0x8888, 0xfff0};

	(void)boot;
	outb(PORT_POST, 0x40);
	outb(PORT_POST, 0x41);
	outb(PORT_POST, 0x60);
	for (const char *c = debug_text; *c; c++)
		outb(PORT_DEBUGCON, (uint8_t)*c);
	out_string(PORT_DEBUGCON, string_text, sizeof(string_text) - 1);
	outb(PORT_TRACE, 6);
	outb(PORT_TRACE, 7);
	outb(PORT_TRACE, 42);
	outb(PORT_TRACE_FW, 1);
	for (unsigned i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		read_unknown(unknown[i]);
	/* The last port of all: a byte only, since wider accesses would wrap. */
	expect("inb", 0xffff, inb(0xffff), 0xff);
	put_text(failures ? "pio failed\n" : "pio ok\n");
}
