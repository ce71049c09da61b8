/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86/: memory map, boot structures, entry registers. Structures are read back by the offsets of
 * their specifications, not by the code's own types.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "x86/boot.h"
#include "x86/layout.h"

#define RAM_BYTES (64 * MIB)

static struct gmem *ram_make(uint64_t bytes)
{
	struct gmem *gm = NULL;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, bytes, NULL), 0);
	/* So that residency shows single pages whatever the host's THP mode. */
	madvise(gmem_at(gm, 0, bytes), bytes, MADV_NOHUGEPAGE);
	return gm;
}

static uint64_t get(const struct gmem *gm, gpa_t gpa, unsigned bytes)
{
	uint64_t value = 0;

	assert_int_equal(gmem_read(gm, gpa, &value, bytes), 0);
	return value;
}

static unsigned resident_pages(const struct gmem *gm)
{
	static unsigned char map[RAM_BYTES / PAGE_BYTES];
	unsigned count = 0;

	assert_int_equal(mincore(gmem_at(gm, 0, RAM_BYTES), RAM_BYTES, map), 0);
	for (size_t i = 0; i < sizeof(map); i++)
		count += map[i] & 1;
	return count;
}

static void assert_zero(const struct gmem *gm, gpa_t gpa, uint64_t bytes)
{
	const uint8_t *at = gmem_at(gm, gpa, bytes);

	assert_non_null(at);
	for (uint64_t i = 0; i < bytes; i++)
		assert_int_equal(at[i], 0);
}

static void test_memmap(void **state)
{
	static const uint64_t sizes[] = {
		1 * MIB, 16 * MIB, 3 * GIB - 4096, 3 * GIB, 3 * GIB + 4096, 8 * GIB, 6 * TIB};

	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		struct x86_memmap map;
		uint64_t ram = 0, end = 0;

		memset(&map, 0xff, sizeof(map));
		x86_memmap_make(&map, sizes[s]);
		assert_in_range(map.count, 4, X86_E820_MAX);
		for (unsigned i = 0; i < map.count; i++) {
			const struct x86_e820 *e = &map.entries[i];

			assert_true(e->bytes > 0);
			assert_true(e->gpa >= end);
			end = e->gpa + e->bytes;
			if (e->type != X86_E820_RAM) {
				assert_int_equal(e->type, X86_E820_RESERVED);
				continue;
			}
			ram += e->bytes;
			/* Only where the machine has RAM. */
			if (e->gpa < LAYOUT_HOLE)
				assert_true(
					end <= (sizes[s] < LAYOUT_HOLE ? sizes[s] : LAYOUT_HOLE));
			else
				assert_int_equal(end - LAYOUT_HOLE_END, sizes[s] - LAYOUT_HOLE);
			assert_false(range_overlap(
				e->gpa, e->bytes, LAYOUT_BIOS, LAYOUT_BIOS_END - LAYOUT_BIOS));
			assert_false(range_overlap(e->gpa, e->bytes, LAYOUT_MP_POINTER, 16));
		}
		/* All of it but the PC's area of devices and firmware below 1 MiB. */
		assert_int_equal(ram, sizes[s] - (LAYOUT_HIGH_BASE - LAYOUT_MP_POINTER));
	}
}

static struct x86_boot boot_make(enum x86_protocol protocol, struct x86_memmap *map)
{
	x86_memmap_make(map, RAM_BYTES);
	return (struct x86_boot){
		.protocol = protocol,
		.entry = 0x1000010,
		.cmdline = "console=ttyS0 quiet",
		.initrd_gpa = 0x3000000,
		.initrd_bytes = 0x12345,
		.rsdp = 0xf0600,
		.memmap = map,
	};
}

static void test_pvh(void **state)
{
	struct gmem *gm = ram_make(RAM_BYTES);
	struct x86_memmap map;
	struct x86_boot boot = boot_make(X86_PVH, &map);
	const gpa_t info = LAYOUT_INFO;
	gpa_t at;

	assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
	assert_int_equal(get(gm, info, 4), 0x336ec578);
	assert_int_equal(get(gm, info + 4, 4), 1);
	assert_int_equal(get(gm, info + 8, 4), 0);
	assert_int_equal(get(gm, info + 12, 4), 1);
	at = get(gm, info + 16, 8);
	assert_int_equal(get(gm, at, 8), boot.initrd_gpa);
	assert_int_equal(get(gm, at + 8, 8), boot.initrd_bytes);
	assert_int_equal(get(gm, at + 16, 8), 0);
	assert_int_equal(get(gm, at + 24, 8), 0);
	assert_string_equal(gmem_at(gm, get(gm, info + 24, 8), 20), boot.cmdline);
	assert_int_equal(get(gm, info + 32, 8), boot.rsdp);
	assert_int_equal(get(gm, info + 48, 4), map.count);
	assert_int_equal(get(gm, info + 52, 4), 0);
	at = get(gm, info + 40, 8);
	for (unsigned i = 0; i < map.count; i++, at += 24) {
		assert_int_equal(get(gm, at, 8), map.entries[i].gpa);
		assert_int_equal(get(gm, at + 8, 8), map.entries[i].bytes);
		assert_int_equal(get(gm, at + 16, 4), map.entries[i].type);
		assert_int_equal(get(gm, at + 20, 4), 0);
	}
	assert_int_equal(resident_pages(gm), 1);

	boot.initrd_bytes = 0;
	assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
	assert_int_equal(get(gm, info + 12, 4), 0);
	gmem_destroy(gm);
}

/* The longest memory map leaves the command line less room, and everything still apart. */
static void test_pvh_map_full(void **state)
{
	struct gmem *gm = ram_make(RAM_BYTES);
	struct x86_memmap map;
	struct x86_boot boot = boot_make(X86_PVH, &map);
	char text[LAYOUT_INFO_BYTES];
	gpa_t at;

	while (map.count < X86_E820_MAX) {
		map.entries[map.count] =
			(struct x86_e820){(map.count + 8) * GIB, GIB, X86_E820_RAM};
		map.count++;
	}
	for (size_t len = 0; len < sizeof(text); len++) {
		memset(text, 'x', len);
		text[len] = 0;
		boot.cmdline = text;
		assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
		at = get(gm, LAYOUT_INFO + 24, 8);
		assert_string_equal(gmem_at(gm, at, len + 1), text);
		assert_true(at == LAYOUT_CMDLINE || at + len < LAYOUT_INFO + LAYOUT_INFO_BYTES);
		at = get(gm, LAYOUT_INFO + 40, 8) + (X86_E820_MAX - 1) * 24;
		assert_int_equal(get(gm, at, 8), map.entries[X86_E820_MAX - 1].gpa);
		assert_int_equal(get(gm, at + 8, 8), GIB);
		assert_zero(gm, LAYOUT_MP_CONFIG, 16);
	}
	gmem_destroy(gm);
}

static void test_cmdline(void **state)
{
	static const size_t lengths[] = {0, 1, 600, 1023, 2047, 65534, 65535};
	static char text[65537];

	for (unsigned protocol = X86_PVH; protocol <= X86_LINUX; protocol++) {
		struct gmem *gm = ram_make(RAM_BYTES);
		struct x86_memmap map;
		struct x86_boot boot = boot_make(protocol, &map);
		struct kv_err err = {0};

		boot.cmdline = text;
		for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
			gpa_t at;

			memset(text, 'a' + (int)i, lengths[i]);
			text[lengths[i]] = 0;
			assert_int_equal(x86_boot_write(gm, &boot, &err), 0);
			at = protocol == X86_PVH ? get(gm, LAYOUT_INFO + 24, 8)
						 : get(gm, LAYOUT_BOOT_PARAMS + 0x228, 4);
			assert_string_equal(gmem_at(gm, at, lengths[i] + 1), text);
		}
		memset(text, 'z', 65536);
		text[65536] = 0;
		assert_int_equal(x86_boot_write(gm, &boot, &err), -E2BIG);
		assert_non_null(strstr(err.text, "65536"));
		assert_non_null(strstr(err.text, "65535"));
		gmem_destroy(gm);
	}
}

static void test_ram_small(void **state)
{
	for (unsigned protocol = X86_PVH; protocol <= X86_LINUX; protocol++) {
		struct gmem *gm = ram_make(MIB - PAGE_BYTES);
		struct x86_memmap map;
		struct x86_boot boot = boot_make(protocol, &map);
		struct kv_err err = {0};

		assert_int_equal(x86_boot_write(gm, &boot, &err), -EFAULT);
		assert_non_null(strstr(err.text, "1048576"));
		gmem_destroy(gm);
	}
}

static void test_params(void **state)
{
	struct gmem *gm = ram_make(RAM_BYTES);
	struct x86_memmap map;
	struct x86_boot boot = boot_make(X86_LINUX, &map);
	const gpa_t params = LAYOUT_BOOT_PARAMS;

	boot.initrd_gpa = 0x123456000;
	boot.initrd_bytes = 0x187654321;
	memset(gmem_at(gm, params, PAGE_BYTES), 0xff, PAGE_BYTES);
	assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
	assert_int_equal(get(gm, params + 0x70, 8), boot.rsdp);
	assert_int_equal(get(gm, params + 0xc0, 4), 1);
	assert_int_equal(get(gm, params + 0xc4, 4), 1);
	assert_int_equal(get(gm, params + 0xc8, 4), 0);
	assert_int_equal(get(gm, params + 0x1ef, 1), 0);
	assert_int_equal(get(gm, params + 0x1fe, 2), 0xaa55);
	assert_memory_equal(gmem_at(gm, params + 0x202, 4), "HdrS", 4);
	assert_int_equal(get(gm, params + 0x206, 2), 0x20f);
	assert_int_equal(get(gm, params + 0x210, 1), 0xff);
	assert_int_equal(get(gm, params + 0x211, 1), 1);
	assert_int_equal(get(gm, params + 0x218, 4), 0x23456000);
	assert_int_equal(get(gm, params + 0x21c, 4), 0x87654321);
	assert_string_equal(gmem_at(gm, get(gm, params + 0x228, 4), 20), boot.cmdline);
	assert_int_equal(get(gm, params + 0x230, 4), 0x1000000);
	assert_zero(gm, params + 0x250, 8); /* setup_data */
	assert_int_equal(get(gm, params + 0x1e8, 1), map.count);
	for (unsigned i = 0; i < map.count; i++) {
		assert_int_equal(get(gm, params + 0x2d0 + 20 * i, 8), map.entries[i].gpa);
		assert_int_equal(get(gm, params + 0x2d8 + 20 * i, 8), map.entries[i].bytes);
		assert_int_equal(get(gm, params + 0x2e0 + 20 * i, 4), map.entries[i].type);
	}
	assert_zero(gm, params + 0x2d0 + 20 * map.count, 0x1000 - 0x2d0 - 20 * map.count);
	/* GDT with command line, boot_params, six page tables. */
	assert_int_equal(resident_pages(gm), 8);
	gmem_destroy(gm);
}

/* Fields of the setup header that a boot loader, not the kernel's file, fills (boot.rst). */
static bool loader_field(unsigned offset)
{
	static const struct {
		unsigned offset, bytes;
	} fields[] = {
		{0x208, 4},  /* realmode_swtch */
		{0x210, 2},  /* type_of_loader, loadflags */
		{0x218, 8},  /* ramdisk */
		{0x220, 4},  /* bootsect_kludge */
		{0x224, 4},  /* heap_end_ptr, ext_loader_* */
		{0x228, 4},  /* cmd_line_ptr */
		{0x23c, 12}, /* hardware_subarch */
		{0x250, 8},  /* setup_data */
	};

	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (offset >= fields[i].offset && offset < fields[i].offset + fields[i].bytes)
			return true;
	return false;
}

/* A header of any length, with any length said in it, gives the same loader's fields. */
static void test_setup_header(void **state)
{
	static const unsigned jumps[] = {0x00, 0x01, 0x40, 0x66, 0x6a, 0xff};
	uint8_t file[256];

	for (size_t j = 0; j < ARRAY_LEN(jumps); j++)
		for (unsigned bytes = 0; bytes <= sizeof(file); bytes++) {
			struct gmem *gm = ram_make(RAM_BYTES);
			struct x86_memmap map;
			struct x86_boot boot = boot_make(X86_LINUX, &map);
			unsigned end = 0x1f1 + bytes;
			const uint8_t *params;

			for (unsigned i = 0; i < sizeof(file); i++)
				file[i] = (uint8_t)(i | 0x80);
			file[0x201 - 0x1f1] = (uint8_t)jumps[j];
			boot.setup_header = file;
			boot.setup_header_bytes = bytes;
			assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
			params = gmem_at(gm, LAYOUT_BOOT_PARAMS, PAGE_BYTES);
			if (end > 0x201 && end > 0x202 + jumps[j])
				end = 0x202 + jumps[j];
			if (end > 0x26c)
				end = 0x26c;
			for (unsigned i = 0x1f0; i < 0x2d0; i++) {
				if (loader_field(i))
					continue;
				assert_int_equal(
					params[i], i >= 0x1f1 && i < end ? file[i - 0x1f1] : 0);
			}
			assert_zero(gm, LAYOUT_BOOT_PARAMS + 0x208, 4);
			assert_zero(gm, LAYOUT_BOOT_PARAMS + 0x220, 8);
			assert_zero(gm, LAYOUT_BOOT_PARAMS + 0x23c, 12);
			assert_zero(gm, LAYOUT_BOOT_PARAMS + 0x250, 8);
			assert_int_equal(params[0x210], 0xff);
			assert_int_equal(params[0x211], 1);
			assert_int_equal(get(gm, LAYOUT_BOOT_PARAMS + 0x218, 4), boot.initrd_gpa);
			assert_int_equal(get(gm, LAYOUT_BOOT_PARAMS + 0x21c, 4), boot.initrd_bytes);
			gmem_destroy(gm);
		}
}

/* SDM 3A 4.5: walk the tables as the CPU does; bit 7 ends the walk at 2 MiB. */
static uint64_t walk(const struct gmem *gm, gpa_t cr3, uint64_t virt)
{
	gpa_t table = cr3;

	for (unsigned shift = 39; shift >= 21; shift -= 9) {
		uint64_t entry = get(gm, table + (virt >> shift & 511) * 8, 8);

		if (!(entry & 1))
			return UINT64_MAX;
		assert_int_equal(entry & 0xfff0000000000f7c & ~0x80ULL, 0);
		assert_true(entry & 2);
		table = entry & 0xffffffffff000;
		if (entry & 0x80) {
			assert_int_equal(shift, 21);
			return table + (virt & ((1ULL << shift) - 1));
		}
	}
	return UINT64_MAX;
}

static void test_page_tables(void **state)
{
	struct gmem *gm = ram_make(RAM_BYTES);
	struct x86_memmap map;
	struct x86_boot boot = boot_make(X86_LINUX, &map);
	struct kvm_sregs sregs = {0};
	struct kvm_regs regs;

	assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
	x86_boot_regs(&boot, &sregs, &regs);
	for (uint64_t virt = 0; virt < 4 * GIB; virt += 2 * MIB) {
		assert_int_equal(walk(gm, sregs.cr3, virt), virt);
		assert_int_equal(walk(gm, sregs.cr3, virt + 0x123456), virt + 0x123456);
	}
	assert_int_equal(walk(gm, sregs.cr3, 4 * GIB), UINT64_MAX);
	assert_int_equal(walk(gm, sregs.cr3, 512 * GIB), UINT64_MAX);
	gmem_destroy(gm);
}

static void assert_flat(const struct kvm_segment *seg, uint8_t type, bool db, bool l)
{
	assert_int_equal(seg->base, 0);
	assert_int_equal(seg->limit, 0xffffffff);
	assert_int_equal(seg->type, type);
	assert_int_equal(seg->s, 1);
	assert_int_equal(seg->present, 1);
	assert_int_equal(seg->dpl, 0);
	assert_int_equal(seg->db, db);
	assert_int_equal(seg->l, l);
	assert_int_equal(seg->g, 1);
	assert_int_equal(seg->unusable, 0);
}

static void assert_data(const struct kvm_sregs *sregs)
{
	assert_flat(&sregs->ds, 3, true, false);
	assert_memory_equal(&sregs->ds, &sregs->es, sizeof(sregs->es));
	assert_memory_equal(&sregs->ds, &sregs->fs, sizeof(sregs->es));
	assert_memory_equal(&sregs->ds, &sregs->gs, sizeof(sregs->es));
	assert_memory_equal(&sregs->ds, &sregs->ss, sizeof(sregs->es));
	assert_int_equal(sregs->tr.base, 0);
	assert_int_equal(sregs->tr.limit, 0x67);
	assert_int_equal(sregs->tr.type, 0xb);
	assert_int_equal(sregs->tr.s, 0);
	assert_int_equal(sregs->tr.present, 1);
	assert_int_equal(sregs->tr.g, 0);
	assert_int_equal(sregs->idt.base, 0);
	assert_int_equal(sregs->idt.limit, 0xffff);
}

/* What a reset leaves and no protocol asks for stays. */
static struct kvm_sregs sregs_reset(void)
{
	struct kvm_sregs sregs;

	memset(&sregs, 0xa5, sizeof(sregs));
	sregs.cr0 = 0x60000010;
	sregs.idt = (struct kvm_dtable){.limit = 0xffff};
	sregs.apic_base = 0xfee00900;
	sregs.cr8 = 0;
	return sregs;
}

static void test_regs_pvh(void **state)
{
	struct kvm_sregs sregs = sregs_reset();
	struct x86_memmap map;
	struct x86_boot boot = boot_make(X86_PVH, &map);
	struct kvm_regs regs, expect = {.rip = 0x1000010, .rflags = 2, .rbx = LAYOUT_INFO};

	memset(&regs, 0xa5, sizeof(regs));
	x86_boot_regs(&boot, &sregs, &regs);
	assert_memory_equal(&regs, &expect, sizeof(regs));
	assert_int_equal(sregs.cr0, 0x11);
	assert_int_equal(sregs.cr3, 0);
	assert_int_equal(sregs.cr4, 0);
	assert_int_equal(sregs.efer, 0);
	assert_flat(&sregs.cs, 0xb, true, false);
	assert_data(&sregs);
	assert_int_equal(sregs.apic_base, 0xfee00900);
}

static void test_regs_linux(void **state)
{
	struct gmem *gm = ram_make(RAM_BYTES);
	struct kvm_sregs sregs = sregs_reset();
	struct x86_memmap map;
	struct x86_boot boot = boot_make(X86_LINUX, &map);
	struct kvm_regs regs, expect = {.rip = 0x1000010,
				      .rflags = 2,
				      .rsi = LAYOUT_BOOT_PARAMS,
				      .rsp = LAYOUT_BOOT_STACK};

	memset(&regs, 0xa5, sizeof(regs));
	x86_boot_regs(&boot, &sregs, &regs);
	assert_memory_equal(&regs, &expect, sizeof(regs));
	assert_int_equal(sregs.cr0, 0x80000011);
	assert_int_equal(sregs.cr4, 0x20);
	assert_int_equal(sregs.efer, 0x500);
	assert_flat(&sregs.cs, 0xb, false, true);
	assert_data(&sregs);
	/* boot.rst: __BOOT_CS 0x10, __BOOT_DS 0x18, in a GDT that is loaded. */
	assert_int_equal(sregs.cs.selector, 0x10);
	assert_int_equal(sregs.ds.selector, 0x18);
	assert_int_equal(sregs.tr.selector, 0x20);
	assert_int_equal(sregs.gdt.limit, 47);
	assert_int_equal(x86_boot_write(gm, &boot, NULL), 0);
	assert_int_equal(get(gm, sregs.gdt.base, 8), 0);
	assert_int_equal(get(gm, sregs.gdt.base + 0x08, 8), 0);
	assert_int_equal(get(gm, sregs.gdt.base + 0x10, 8), 0x00af9b000000ffff);
	assert_int_equal(get(gm, sregs.gdt.base + 0x18, 8), 0x00cf93000000ffff);
	assert_int_equal(get(gm, sregs.gdt.base + 0x20, 8), 0x00008b0000000067);
	assert_int_equal(get(gm, sregs.gdt.base + 0x28, 8), 0);
	gmem_destroy(gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memmap),
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_pvh_map_full),
		cmocka_unit_test(test_cmdline),
		cmocka_unit_test(test_ram_small),
		cmocka_unit_test(test_params),
		cmocka_unit_test(test_setup_header),
		cmocka_unit_test(test_page_tables),
		cmocka_unit_test(test_regs_pvh),
		cmocka_unit_test(test_regs_linux),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
