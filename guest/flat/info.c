/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what the monitor gave it, one fact per line, and checks that its own data arrived and its
 * bss is zero. In ring 3, so that summing a large initrd takes no time on a software KVM either.
 */
#include "flat.h"

#define DATA_WORDS                                                                                 \
	3001 /* in the assembly below too; not a whole number of pages: the ragged tail counts too \
	      */
#define ZERO_BYTES (5 * PAGE_BYTES + 123)

const uint32_t guest_ring = 3;

/* The first bytes of bss: they share a page with the end of the data. */
static uint8_t zeros[ZERO_BYTES] __attribute__((section(".bss.first")));

__asm__(".pushsection .data\n"
	"	.balign 4\n"
	"info_words:\n"
	"	.set n, 0\n"
	"	.rept 3001\n"
	"	.long (n * 2654435761 + 12345) & 0xffffffff\n"
	"	.set n, n + 1\n"
	"	.endr\n"
	".popsection\n");
extern const uint32_t info_words[];

static void check_image(void)
{
	uint64_t wrong = 0;

	for (uint32_t i = 0; i < DATA_WORDS; i++)
		wrong += info_words[i] != i * 2654435761U + 12345;
	put_text("data ");
	put_text(wrong ? "wrong " : "ok ");
	put_dec(wrong ? wrong : DATA_WORDS);
	wrong = 0;
	for (uint32_t i = 0; i < ZERO_BYTES; i++)
		wrong += *(volatile uint8_t *)&zeros[i] != 0;
	put_text("\nbss ");
	put_text(wrong ? "wrong " : "ok ");
	put_dec(wrong ? wrong : ZERO_BYTES);
	put_text("\n");
}

static void print_range(const char *name, const struct range *r)
{
	put_text(name);
	put_hex(r->addr);
	put_text(" ");
	put_hex(r->bytes);
	put_text(" ");
}

void guest_main(const struct boot *boot)
{
	put_text("protocol ");
	put_text(boot->protocol);
	put_text("\nboot-info ");
	put_hex(boot->info_addr);
	put_text("\n");
	for (int i = 0; i < boot->nr_ranges; i++) {
		print_range("map ", &boot->ranges[i]);
		put_dec(boot->ranges[i].type);
		put_text("\n");
	}
	for (int i = 0; i < boot->nr_modules; i++) {
		const uint8_t *p = (void *)boot->modules[i].addr;
		uint32_t sum = 0;

		for (uint64_t n = boot->modules[i].bytes; n; n--)
			sum += *p++;
		print_range("initrd ", &boot->modules[i]);
		put_hex(sum);
		put_text("\n");
	}
	put_text("cmdline ");
	put_text(boot->cmdline);
	put_text("\nrsdp ");
	put_hex(boot->rsdp_addr);
	put_text("\n");
	check_image();
	put_text("info done\n");
}
