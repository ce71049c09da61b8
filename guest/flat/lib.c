/* SPDX-License-Identifier: Apache-2.0 */
/* Console, command line, boot information and faults of the flat guests. See flat.h. */
#include "flat.h"

#define PVH_MAGIC    0x336ec578
#define HDRS_MAGIC   0x53726448
#define SERIAL_TRIES 100000

/* Source: Xen, public/arch-x86/hvm/start_info.h */
struct pvh_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules_addr, cmdline_addr, rsdp_addr;
	/* since version 1 */
	uint64_t memmap_addr;
	uint32_t memmap_entries, reserved;
};
_Static_assert(sizeof(struct pvh_info) == 56, "hvm_start_info");

struct pvh_module {
	uint64_t addr, bytes, cmdline_addr, reserved;
};
_Static_assert(sizeof(struct pvh_module) == 32, "hvm_modlist_entry");

struct pvh_memmap {
	uint64_t addr, bytes;
	uint32_t type, reserved;
};
_Static_assert(sizeof(struct pvh_memmap) == 24, "hvm_memmap_table_entry");

struct idt_gate {
	uint16_t low, selector, flags, mid;
	uint32_t high, reserved;
};
_Static_assert(sizeof(struct idt_gate) == 16, "64-bit gate");

extern uint32_t boot_info_addr;
extern uint8_t boot_is_pvh;
extern uint8_t fault_stubs[];
void idt_load(void);
_Noreturn void fault_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2);
_Noreturn void flat_main(void);

static struct boot boot;
static struct idt_gate idt[64];

void put_char(char c)
{
	if (c == '\n')
		put_char('\r');
	for (int i = 0; i < SERIAL_TRIES && !(inb(PORT_SERIAL_LSR) & LSR_THR_EMPTY); i++)
		;
	outb(PORT_SERIAL, (uint8_t)c);
}

void put_text(const char *text)
{
	while (*text)
		put_char(*text++);
}

void put_hex(uint64_t value)
{
	int shift = 60;

	while (shift && !(value >> shift))
		shift -= 4;
	put_text("0x");
	for (; shift >= 0; shift -= 4)
		put_char("0123456789abcdef"[value >> shift & 15]);
}

void put_dec(uint64_t value)
{
	char digits[20];
	int n = 0;

	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	while (n)
		put_char(digits[--n]);
}

_Noreturn void reset(void)
{
	outb(PORT_RESET, 0xfe);
	for (;;)
		__asm__ volatile("pause");
}

const char *find_arg(const struct boot *b, const char *name)
{
	const char *text = b->cmdline;

	while (*text) {
		int i = 0;

		while (name[i] && text[i] == name[i])
			i++;
		if (!name[i] && text[i] == '=')
			return text + i + 1;
		if (!name[i] && (!text[i] || text[i] == ' '))
			return text + i;
		while (*text && *text != ' ')
			text++;
		while (*text == ' ')
			text++;
	}
	return NULL;
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return 16;
}

uint64_t read_number(const char **text)
{
	const char *t = *text;
	uint64_t val = 0;
	unsigned base = 10;

	if (t[0] == '0' && t[1] == 'x') {
		base = 16;
		t += 2;
	}
	for (; (unsigned)digit_value(*t) < base; t++)
		val = val * base + (unsigned)digit_value(*t);
	if (*t == 'K' || *t == 'M' || *t == 'G') {
		val <<= *t == 'K' ? 10 : *t == 'M' ? 20 : 30;
		t++;
	}
	if (*t == ',')
		t++;
	*text = t;
	return val;
}

int hits_image(uint64_t addr, uint64_t bytes)
{
	return addr < 0x100000 ||
	       (addr < (uintptr_t)image_end && addr + bytes > (uintptr_t)image_start);
}

static void add_range(uint64_t addr, uint64_t bytes, uint32_t type)
{
	if (boot.nr_ranges < MAX_RANGES)
		boot.ranges[boot.nr_ranges++] = (struct range){addr, bytes, type};
}

static void add_module(uint64_t addr, uint64_t bytes)
{
	if (boot.nr_modules < MAX_MODULES)
		boot.modules[boot.nr_modules++] = (struct range){addr, bytes, 0};
}

static int read_pvh_info(void)
{
	const struct pvh_info *info = (void *)(uintptr_t)boot_info_addr;
	const struct pvh_module *mod = (void *)info->modules_addr;
	const struct pvh_memmap *map = (void *)info->memmap_addr;

	boot.protocol = "pvh";
	if (info->magic != PVH_MAGIC)
		return -1;
	if (info->cmdline_addr)
		boot.cmdline = (void *)info->cmdline_addr;
	boot.rsdp_addr = info->rsdp_addr;
	for (uint32_t i = 0; i < info->nr_modules; i++)
		add_module(mod[i].addr, mod[i].bytes);
	for (uint32_t i = 0; info->version >= 1 && i < info->memmap_entries; i++)
		add_range(map[i].addr, map[i].bytes, map[i].type);
	return 0;
}

static uint64_t zero_page_field(uint32_t offset, int bytes)
{
	const uint8_t *p = (void *)(uintptr_t)(boot_info_addr + offset);
	uint64_t val = 0;

	while (bytes--)
		val = val << 8 | p[bytes];
	return val;
}

/* Offsets in struct boot_params. Source: Linux, Documentation/arch/x86/{boot,zero-page}.rst */
static int read_zero_page(void)
{
	uint64_t cmdline = zero_page_field(0x0c8, 4) << 32 | zero_page_field(0x228, 4);
	uint64_t initrd = zero_page_field(0x0c0, 4) << 32 | zero_page_field(0x218, 4);
	uint64_t initrd_bytes = zero_page_field(0x0c4, 4) << 32 | zero_page_field(0x21c, 4);
	uint32_t entries = (uint32_t)zero_page_field(0x1e8, 1);

	boot.protocol = "linux";
	if (zero_page_field(0x202, 4) != HDRS_MAGIC || zero_page_field(0x1fe, 2) != 0xaa55)
		return -1;
	if (cmdline)
		boot.cmdline = (void *)cmdline;
	boot.rsdp_addr = zero_page_field(0x070, 8);
	if (initrd_bytes)
		add_module(initrd, initrd_bytes);
	for (uint32_t i = 0; i < entries; i++)
		add_range(zero_page_field(0x2d0 + 20 * i, 8), zero_page_field(0x2d8 + 20 * i, 8),
			(uint32_t)zero_page_field(0x2e0 + 20 * i, 4));
	return 0;
}

void set_gate(uint32_t vector, void *handler)
{
	uintptr_t addr = (uintptr_t)handler;

	idt[vector].low = (uint16_t)addr;
	idt[vector].selector = 0x10;
	idt[vector].flags = 0x8e00;
	idt[vector].mid = (uint16_t)(addr >> 16);
}

/* Runs in kernel mode before the guest's own ring is entered; start.S calls it. */
void idt_load(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {sizeof(idt) - 1, (uintptr_t)idt};

	for (uint32_t i = 0; i < 32; i++)
		set_gate(i, fault_stubs + i * 16);
	__asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

_Noreturn void fault_report(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2)
{
	put_text("fault ");
	put_dec(vector);
	put_text(" error ");
	put_hex(error);
	put_text(" rip ");
	put_hex(rip);
	put_text(" cr2 ");
	put_hex(cr2);
	put_text("\n");
	reset();
}

_Noreturn void flat_main(void)
{
	boot.cmdline = "";
	boot.info_addr = boot_info_addr;
	if (boot_is_pvh ? read_pvh_info() : read_zero_page()) {
		put_text("bad boot information at ");
		put_hex(boot_info_addr);
		put_text("\n");
		reset();
	}
	guest_main(&boot);
	reset();
}
