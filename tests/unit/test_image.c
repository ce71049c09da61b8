/* SPDX-License-Identifier: Apache-2.0 */
/* image/: ELF files, symbols and initrds. bzImages are in test_image_bz, the cache in its own. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "image/elf.h"
#include "image/initrd.h"
#include "image_build.h"

static void elf_put(const struct dir *dir, const uint8_t *elf)
{
	file_put(dir->file, elf, GOOD_BYTES);
}

static void test_good(void **state)
{
	const struct dir *dir = *state;
	const struct image_plan *plan;
	uint8_t elf[GOOD_BYTES];
	struct image *img;

	good_elf(elf);
	elf_put(dir, elf);
	img = open_works(dir, dir->file);
	plan = image_plan(img);
	assert_int_equal(plan->format, IMAGE_ELF);
	assert_int_equal(plan->packing, IMAGE_PLAIN);
	assert_int_equal(plan->protocol, IMAGE_PVH);
	assert_true(plan->has_pvh);
	assert_int_equal(plan->entry, GOOD_PVH);
	assert_int_equal(plan->segment_count, 2);
	assert_int_equal(plan->segments[0].gpa, GOOD_TEXT_GPA);
	assert_int_equal(plan->segments[0].offset, GOOD_TEXT_AT);
	assert_int_equal(plan->segments[0].file_bytes, GOOD_TEXT_BYTES);
	assert_int_equal(plan->segments[0].mem_bytes, GOOD_TEXT_BYTES);
	assert_int_equal(plan->segments[1].gpa, GOOD_DATA_GPA);
	assert_int_equal(plan->segments[1].offset, GOOD_DATA_AT);
	assert_int_equal(plan->segments[1].file_bytes, GOOD_DATA_BYTES);
	assert_int_equal(plan->segments[1].mem_bytes, GOOD_DATA_MEM);
	assert_int_equal(plan->low, GOOD_TEXT_GPA);
	assert_int_equal(plan->high, GOOD_DATA_GPA + GOOD_DATA_MEM);
	assert_int_equal(plan->setup_header_bytes, 0);
	assert_int_equal(plan->cmdline_max, 2047);
	assert_string_equal(image_path(img), dir->file);
	assert_string_equal(image_data_path(img), dir->file);
	assert_true(image_fd(img) >= 0);
	image_destroy(img);
	image_destroy(NULL);
}

/* Open a changed ELF that is fine and return its plan in @plan. */
static void plan_of(struct dir *dir, const uint8_t *elf, struct image_plan *plan)
{
	struct image *img;

	elf_put(dir, elf);
	img = open_works(dir, dir->file);
	*plan = *image_plan(img);
	image_destroy(img);
}

static void test_protocols(void **state)
{
	struct dir *dir = *state;
	struct image_plan plan;
	uint8_t elf[GOOD_BYTES];

	good_elf(elf);
	dir->opts.protocol = IMAGE_LINUX;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.protocol, IMAGE_LINUX);
	assert_int_equal(plan.entry, GOOD_ENTRY);
	assert_true(plan.has_pvh);

	dir->opts.protocol = IMAGE_PVH;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.protocol, IMAGE_PVH);

	/* Without the note, auto is Linux. */
	PH(elf, 2)->p_type = PT_NULL;
	dir->opts.protocol = IMAGE_AUTO;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.protocol, IMAGE_LINUX);
	assert_int_equal(plan.entry, GOOD_ENTRY);
	assert_false(plan.has_pvh);

	/* A virtual entry is translated, a physical one is not. */
	EH(elf)->e_entry = GOOD_VIRT + GOOD_ENTRY;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.entry, GOOD_ENTRY);
	PH(elf, 0)->p_vaddr = GOOD_DATA_GPA;
	EH(elf)->e_entry = GOOD_DATA_GPA + 8;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.entry, GOOD_DATA_GPA + 8);
}

static void test_accepted(void **state)
{
	struct dir *dir = *state;
	uint32_t pvh32 = GOOD_PVH + 4;
	struct image_plan plan;
	uint8_t elf[GOOD_BYTES];
	Elf64_Phdr swap;

	/* Segments in any order, and an executable that may be anywhere. */
	good_elf(elf);
	swap = *PH(elf, 0);
	*PH(elf, 0) = *PH(elf, 1);
	*PH(elf, 1) = swap;
	EH(elf)->e_type = ET_DYN;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.segments[0].gpa, GOOD_TEXT_GPA);
	assert_int_equal(plan.segments[1].gpa, GOOD_DATA_GPA);

	/* One that touches the next, and one without file data at an offset behind the end. */
	good_elf(elf);
	PH(elf, 0)->p_memsz = GOOD_DATA_GPA - GOOD_TEXT_GPA;
	PH(elf, 1)->p_filesz = 0;
	PH(elf, 1)->p_offset = UINT64_MAX;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.segments[0].mem_bytes, GOOD_DATA_GPA - GOOD_TEXT_GPA);
	assert_int_equal(plan.segments[1].file_bytes, 0);
	assert_int_equal(plan.segments[1].offset, 0);

	/* Empty segments are skipped whatever they say. */
	good_elf(elf);
	PH(elf, 1)->p_filesz = PH(elf, 1)->p_memsz = PH(elf, 1)->p_paddr = 0;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.segment_count, 1);

	/* A 4-byte entry, zero fill behind the last note. */
	good_elf(elf);
	memset(elf + GOOD_NOTES_AT, 0, 0x400);
	PH(elf, 2)->p_filesz = note_put(elf + GOOD_NOTES_AT, "Xen", 18, &pvh32, 4) + 8;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.entry, GOOD_PVH + 4);

	/* A kernel that names an interpreter, as FreeBSD's does. */
	EH(elf)->e_phnum = 4;
	*PH(elf, 3) = (Elf64_Phdr){.p_type = PT_INTERP, .p_offset = 0x500, .p_filesz = 8};
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.entry, GOOD_PVH + 4);
	EH(elf)->e_phnum = 3;

	/* The padding of the last note may be cut off. */
	memset(elf + GOOD_NOTES_AT, 0, 0x400);
	PH(elf, 2)->p_filesz = note_put(elf + GOOD_NOTES_AT, "Xen", 18, &pvh32, 4);
	PH(elf, 2)->p_filesz +=
		note_put(elf + GOOD_NOTES_AT + PH(elf, 2)->p_filesz, "L", 1, "x", 1);
	PH(elf, 2)->p_filesz -= 3;
	plan_of(dir, elf, &plan);
	assert_int_equal(plan.entry, GOOD_PVH + 4);

	/* Another owner's type 18, and another type of Xen's, are no entry. */
	memset(elf + GOOD_NOTES_AT, 0, 0x400);
	PH(elf, 2)->p_filesz = note_put(elf + GOOD_NOTES_AT, "Xem", 18, &pvh32, 4);
	PH(elf, 2)->p_filesz +=
		note_put(elf + GOOD_NOTES_AT + PH(elf, 2)->p_filesz, "Xen", 17, &pvh32, 4);
	plan_of(dir, elf, &plan);
	assert_false(plan.has_pvh);
}

/* Notes of 8-byte words (GNU properties) in a segment of their own, before Xen's. */
static void test_note_align8(void **state)
{
	struct dir *dir = *state;
	Elf64_Nhdr nh = {.n_namesz = 4, .n_descsz = 12, .n_type = 5};
	uint32_t pvh32 = GOOD_PVH + 12;
	struct image_plan plan;
	uint8_t elf[GOOD_BYTES];

	good_elf(elf);
	EH(elf)->e_phnum = 4;
	*PH(elf, 3) = *PH(elf, 2);
	*PH(elf, 2) = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = 0x800, .p_align = 8};
	memcpy(elf + 0x800, &nh, sizeof(nh));
	memcpy(elf + 0x80c, "GNU", 4);
	/* The 12 bytes end at 0x81c; with 4-byte words the next note would start there. */
	nh = (Elf64_Nhdr){.n_namesz = 4, .n_descsz = 4, .n_type = 18};
	memcpy(elf + 0x820, &nh, sizeof(nh));
	memcpy(elf + 0x82c, "Xen", 4);
	memcpy(elf + 0x830, &pvh32, 4);
	PH(elf, 2)->p_filesz = 0x34;
	plan_of(dir, elf, &plan);
	/* The first of two entries counts. */
	assert_int_equal(plan.entry, GOOD_PVH + 12);
}

/* Program headers and notes outside the first page; 64 headers are allowed. */
static void test_headers_far(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES], far[3 * GOOD_BYTES] = {0};
	struct image *img;

	good_elf(elf);
	memcpy(far, elf, sizeof(elf));
	EH(far)->e_phnum = ELF_PHDRS_MAX;
	EH(far)->e_phoff = 2 * GOOD_BYTES;
	memcpy(far + 2 * GOOD_BYTES, PH(elf, 0), 3 * sizeof(Elf64_Phdr));
	memcpy(far + GOOD_BYTES + 8, elf + GOOD_NOTES_AT, PH(elf, 2)->p_filesz);
	PH(far, 2)->p_offset = GOOD_BYTES + 8;
	memset(far + GOOD_NOTES_AT, 0, 0x400);
	file_put(dir->file, far, sizeof(far));
	img = open_works(dir, dir->file);
	assert_int_equal(image_plan(img)->entry, GOOD_PVH);
	assert_int_equal(image_plan(img)->segment_count, 2);
	image_destroy(img);
}

/* What is read of a kernel must not grow with it. */
static void test_reads_little(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	uint64_t own, before, read;
	struct image *img;

	good_elf(elf);
	PH(elf, 0)->p_filesz = PH(elf, 0)->p_memsz = 100 * MIB;
	PH(elf, 1)->p_paddr += 200 * MIB;
	elf_put(dir, elf);
	assert_int_equal(truncate(dir->file, 200 * MIB), 0);
	own = bytes_read();
	own = bytes_read() - own;
	before = bytes_read();
	img = open_works(dir, dir->file);
	read = bytes_read() - before - own;
	/* The counter's own text may have become longer by a digit. */
	assert_in_range(read, ELF_HEAD_BYTES - 8, ELF_HEAD_BYTES + 8);
	assert_int_equal(image_plan(img)->segments[0].file_bytes, 100 * MIB);
	image_destroy(img);
}

/* --- malformed files ------------------------------------------------------------------------ */

static void bad_class32(uint8_t *e)
{
	e[EI_CLASS] = ELFCLASS32;
}
static void bad_class(uint8_t *e)
{
	e[EI_CLASS] = 3;
}
static void bad_big(uint8_t *e)
{
	e[EI_DATA] = ELFDATA2MSB;
}
static void bad_data(uint8_t *e)
{
	e[EI_DATA] = 0;
}
static void bad_machine(uint8_t *e)
{
	EH(e)->e_machine = EM_AARCH64;
}
static void bad_rel(uint8_t *e)
{
	EH(e)->e_type = ET_REL;
}
static void bad_core(uint8_t *e)
{
	EH(e)->e_type = ET_CORE;
}
static void bad_type(uint8_t *e)
{
	EH(e)->e_type = 0xff00;
}
static void bad_phnum0(uint8_t *e)
{
	EH(e)->e_phnum = 0;
}
static void bad_phnum65(uint8_t *e)
{
	EH(e)->e_phnum = 65;
}
static void bad_phnum_x(uint8_t *e)
{
	EH(e)->e_phnum = PN_XNUM;
}
static void bad_phentsize(uint8_t *e)
{
	EH(e)->e_phentsize = 32;
}
static void bad_phoff(uint8_t *e)
{
	EH(e)->e_phoff = GOOD_BYTES - 100;
}
static void bad_phoff_wrap(uint8_t *e)
{
	EH(e)->e_phoff = UINT64_MAX - 8;
}
static void bad_interp(uint8_t *e)
{
	PH(e, 2)->p_type = PT_INTERP;
}
static void bad_no_load(uint8_t *e)
{
	PH(e, 0)->p_type = PH(e, 1)->p_type = PT_NULL;
}
static void bad_empty_loads(uint8_t *e)
{
	for (unsigned i = 0; i < 2; i++)
		PH(e, i)->p_filesz = PH(e, i)->p_memsz = 0;
}
static void bad_filesz(uint8_t *e)
{
	PH(e, 0)->p_memsz--;
}
static void bad_memsz0(uint8_t *e)
{
	PH(e, 0)->p_memsz = 0;
}
static void bad_wrap(uint8_t *e)
{
	PH(e, 1)->p_memsz = UINT64_MAX - GOOD_DATA_GPA + 1;
}
static void bad_paddr_wrap(uint8_t *e)
{
	PH(e, 1)->p_paddr = UINT64_MAX - 0xfff;
}
static void bad_52bits(uint8_t *e)
{
	PH(e, 1)->p_paddr = (1ULL << 52) - GOOD_DATA_MEM + 1;
}
static void bad_low(uint8_t *e)
{
	PH(e, 1)->p_paddr = IMAGE_GPA_MIN - 1;
}
static void bad_zero_page(uint8_t *e)
{
	PH(e, 1)->p_paddr = 0;
}
static void bad_file_end(uint8_t *e)
{
	PH(e, 1)->p_offset = GOOD_BYTES - GOOD_DATA_BYTES + 1;
}
static void bad_offset_wrap(uint8_t *e)
{
	PH(e, 1)->p_offset = UINT64_MAX - 8;
}
static void bad_filesz_huge(uint8_t *e)
{
	PH(e, 1)->p_filesz = PH(e, 1)->p_memsz = 1ULL << 40;
}
static void bad_overlap(uint8_t *e)
{
	PH(e, 0)->p_memsz = GOOD_DATA_GPA - GOOD_TEXT_GPA + 1;
}
static void bad_overlap_same(uint8_t *e)
{
	PH(e, 1)->p_paddr = GOOD_TEXT_GPA;
}
static void bad_overlap_inside(uint8_t *e)
{
	PH(e, 1)->p_paddr = GOOD_TEXT_GPA + 0x1000;
	PH(e, 1)->p_memsz = PH(e, 1)->p_filesz = 1;
}
static void bad_pvh_outside(uint8_t *e)
{
	PH(e, 0)->p_paddr += 0x100;
	PH(e, 0)->p_filesz -= 0x100;
}
static void bad_pvh_zeros(uint8_t *e)
{
	PH(e, 0)->p_filesz = GOOD_PVH - GOOD_TEXT_GPA;
}
static void bad_pvh_4g(uint8_t *e)
{
	uint64_t pvh = 0x100000020;

	PH(e, 0)->p_paddr = 0x100000000;
	note_put(e + GOOD_NOTES_AT, "Xen", 18, &pvh, sizeof(pvh));
	PH(e, 2)->p_filesz = 24;
}
static void bad_note_big(uint8_t *e)
{
	PH(e, 2)->p_filesz = ELF_NOTE_BYTES_MAX + 1;
	PH(e, 2)->p_offset = 0;
}
static void bad_note_end(uint8_t *e)
{
	PH(e, 2)->p_offset = GOOD_BYTES - 4;
}
static void bad_note_wrap(uint8_t *e)
{
	PH(e, 2)->p_offset = UINT64_MAX - 4;
}
static void bad_note_header(uint8_t *e)
{
	/* 8 bytes of the third note are left. */
	PH(e, 2)->p_filesz = 36 + 24 + 8;
}
static void bad_note_name(uint8_t *e)
{
	uint32_t *first = (uint32_t *)(void *)(e + GOOD_NOTES_AT);

	first[0] = UINT32_MAX;
}
static void bad_note_desc(uint8_t *e)
{
	uint32_t *first = (uint32_t *)(void *)(e + GOOD_NOTES_AT);

	first[1] = UINT32_MAX;
}
static void bad_note_desc_by1(uint8_t *e)
{
	PH(e, 2)->p_filesz--;
}
static void bad_note_both(uint8_t *e)
{
	uint32_t *second = (uint32_t *)(void *)(e + GOOD_NOTES_AT + 36);

	second[0] = second[1] = 0xfffffffd;
}
static void bad_pvh_size(uint8_t *e)
{
	note_put(e + GOOD_NOTES_AT, "Xen", 18, "\x20\0\x20", 3);
	PH(e, 2)->p_filesz = 20;
}
static void bad_pvh_empty(uint8_t *e)
{
	PH(e, 2)->p_filesz = note_put(e + GOOD_NOTES_AT, "Xen", 18, "", 0);
}

static const struct {
	void (*damage)(uint8_t *elf);
	int code;
	const char *says;
} bad[] = {
	{bad_class32, -ENOTSUP, "32-bit"},
	{bad_class, -ENOEXEC, "class 3"},
	{bad_big, -ENOTSUP, "big-endian"},
	{bad_data, -ENOEXEC, "encoding 0"},
	{bad_machine, -ENOTSUP, "183 (AArch64)"},
	{bad_rel, -ENOEXEC, "object file"},
	{bad_core, -ENOEXEC, "core dump"},
	{bad_type, -ENOEXEC, "type 65280"},
	{bad_phnum0, -ENOEXEC, "no program headers"},
	{bad_phnum65, -ENOEXEC, "65 program headers; at most 64"},
	{bad_phnum_x, -ENOEXEC, "65535 program headers"},
	{bad_phentsize, -ENOEXEC, "32 bytes each instead of 56"},
	{bad_phoff, -ENOEXEC, "cut off"},
	{bad_phoff_wrap, -ENOEXEC, "cut off"},
	{bad_interp, -ENOEXEC, "not a kernel"},
	{bad_no_load, -ENOEXEC, "no segment to load"},
	{bad_empty_loads, -ENOEXEC, "no segment to load"},
	{bad_filesz, -ENOEXEC, "program header 0: file size 0x1800 is larger"},
	{bad_memsz0, -ENOEXEC, "larger than memory size 0x0"},
	{bad_wrap, -ENOEXEC, "program header 1: 0xffffffffffd00000 bytes"},
	{bad_paddr_wrap, -ENOEXEC, "52 bits"},
	{bad_52bits, -ENOEXEC, "52 bits"},
	{bad_low, -ENOEXEC, "0xfffff is below 0x100000"},
	{bad_zero_page, -ENOEXEC, "0x0 is below 0x100000"},
	{bad_file_end, -ENOEXEC, "program header 1: its 0x200 bytes at file offset"},
	{bad_offset_wrap, -ENOEXEC, "cut off"},
	{bad_filesz_huge, -ENOEXEC, "cut off"},
	{bad_overlap, -ENOEXEC, "0x200000 (0x100001 bytes) and 0x300000 overlap"},
	{bad_overlap_same, -ENOEXEC, "overlap"},
	{bad_overlap_inside, -ENOEXEC, "overlap"},
	{bad_pvh_outside, -ENOEXEC, "PVH entry point 0x200020 lies outside"},
	{bad_pvh_zeros, -ENOEXEC, "outside the file data"},
	{bad_pvh_4g, -ENOTSUP, "above 4 GiB"},
	{bad_note_big, -ENOEXEC, "cut off"},
	{bad_note_end, -ENOEXEC, "program header 2"},
	{bad_note_wrap, -ENOEXEC, "program header 2"},
	{bad_note_header, -ENOEXEC, "note 2: 8 bytes are left"},
	{bad_note_name, -ENOEXEC, "note 0: its name of 4294967295 bytes"},
	{bad_note_desc, -ENOEXEC, "note 0: its content of 4294967295 bytes"},
	{bad_note_desc_by1, -ENOEXEC, "note 2: its content of 8 bytes"},
	{bad_note_both, -ENOEXEC, "note 1: its name"},
	{bad_pvh_size, -ENOEXEC, "4 or 8 bytes, this one has 3"},
	{bad_pvh_empty, -ENOEXEC, "this one has 0"},
};

static void test_malformed(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		good_elf(elf);
		bad[i].damage(elf);
		elf_put(dir, elf);
		open_fails(dir, dir->file, bad[i].code, bad[i].says);
	}
}

/* Cut anywhere, the file is refused, except where only symbols are lost. */
static void test_truncated(void **state)
{
	struct dir *dir = *state;
	static const size_t cuts[] = {1, 2, 3, 4, 5, 16, 63, 64, 65, 120, 231, GOOD_NOTES_AT,
		GOOD_NOTES_AT + 60, GOOD_TEXT_AT, GOOD_TEXT_AT + GOOD_TEXT_BYTES - 1, GOOD_DATA_AT,
		GOOD_DATA_AT + GOOD_DATA_BYTES - 1};
	uint8_t elf[GOOD_BYTES];
	struct image *img;
	uint64_t value;

	good_elf(elf);
	for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
		file_put(dir->file, elf, cuts[i]);
		open_fails(dir, dir->file, -ENOEXEC, cuts[i] < 4 ? "neither" : "");
	}
	file_put(dir->file, elf, 0);
	open_fails(dir, dir->file, -ENOEXEC, "empty");
	file_put(dir->file, elf, 63);
	open_fails(dir, dir->file, -ENOEXEC, "63 bytes do not hold an ELF header");

	file_put(dir->file, elf, GOOD_DATA_AT + GOOD_DATA_BYTES);
	img = open_works(dir, dir->file);
	assert_int_equal(image_symbol(img, "start_kernel", &value), -ENOEXEC);
	image_destroy(img);
}

static void test_note_too_big(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];

	good_elf(elf);
	bad_note_big(elf);
	elf_put(dir, elf);
	assert_int_equal(truncate(dir->file, ELF_NOTE_BYTES_MAX + 1), 0);
	open_fails(dir, dir->file, -ENOEXEC, "65537 bytes of notes; at most 65536");
}

static void test_too_many(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	struct image *img;

	good_elf(elf);
	EH(elf)->e_phoff = 0x4000;
	for (unsigned i = 0; i <= IMAGE_SEGMENTS_MAX; i++)
		*PH(elf, i) = (Elf64_Phdr){.p_type = PT_LOAD,
			.p_offset = GOOD_TEXT_AT,
			/* Descending, so that each is sorted to the front. */
			.p_paddr = 0x800000 - i * 0x1000,
			.p_filesz = 8,
			.p_memsz = 8};
	EH(elf)->e_entry = 0x800000;
	EH(elf)->e_phnum = IMAGE_SEGMENTS_MAX;
	elf_put(dir, elf);
	img = open_works(dir, dir->file);
	assert_int_equal(image_plan(img)->segment_count, IMAGE_SEGMENTS_MAX);
	for (unsigned i = 1; i < IMAGE_SEGMENTS_MAX; i++)
		assert_true(
			image_plan(img)->segments[i - 1].gpa < image_plan(img)->segments[i].gpa);
	image_destroy(img);

	EH(elf)->e_phnum++;
	elf_put(dir, elf);
	open_fails(dir, dir->file, -ENOEXEC, "more than 32 segments");
}

static void test_entry(void **state)
{
	struct dir *dir = *state;
	static const uint64_t outside[] = {0, 1, GOOD_TEXT_GPA - 1, GOOD_TEXT_GPA + GOOD_TEXT_BYTES,
		GOOD_DATA_GPA + GOOD_DATA_BYTES, GOOD_VIRT + GOOD_TEXT_GPA + GOOD_TEXT_BYTES,
		UINT64_MAX};
	uint8_t elf[GOOD_BYTES];

	dir->opts.protocol = IMAGE_LINUX;
	for (size_t i = 0; i < ARRAY_LEN(outside); i++) {
		good_elf(elf);
		EH(elf)->e_entry = outside[i];
		elf_put(dir, elf);
		open_fails(dir, dir->file, -ENOEXEC, "the entry point 0x");
	}
	good_elf(elf);
	PH(elf, 0)->p_paddr = EH(elf)->e_entry = 0x100000000;
	elf_put(dir, elf);
	open_fails(dir, dir->file, -ENOTSUP, "above 4 GiB");

	dir->opts.protocol = IMAGE_PVH;
	good_elf(elf);
	PH(elf, 2)->p_type = PT_NULL;
	elf_put(dir, elf);
	open_fails(dir, dir->file, -ENOTSUP, "no PVH entry");
}

static void test_other_files(void **state)
{
	struct dir *dir = *state;

	open_fails(dir, dir->file, -ENOENT, "No such file");
	open_fails(dir, dir->path, -ENOEXEC, "a directory");
	assert_int_equal(mkfifo(dir->file, 0600), 0);
	open_fails(dir, dir->file, -ENOEXEC, "no regular file");
	open_fails(dir, "/dev/null", -ENOEXEC, "no regular file");
	unlink(dir->file);
	file_put(dir->file, "#!/bin/sh\n", 10);
	open_fails(dir, dir->file, -ENOEXEC,
		"neither an ELF file nor a bzImage (it starts with 23 21");
}

/* --- symbols -------------------------------------------------------------------------------- */

static int symbol_in(struct dir *dir, const uint8_t *elf, const char *name, uint64_t *ret)
{
	struct image *img;
	int r, again;

	elf_put(dir, elf);
	img = open_works(dir, dir->file);
	r = image_symbol(img, name, ret);
	again = image_symbol(img, name, ret);
	assert_int_equal(r, again);
	image_destroy(img);
	return r;
}

static void test_symbols_elf(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	uint64_t value = 7;

	good_elf(elf);
	/* Of two, the global one; tails of names count as names, as linkers merge them. */
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), 0);
	assert_int_equal(value, GOOD_VIRT + 0x444);
	assert_int_equal(symbol_in(dir, elf, "local_one", &value), 0);
	assert_int_equal(value, 0x222);
	value = 7;
	assert_int_equal(symbol_in(dir, elf, "nowhere", &value), -ENOENT);
	assert_int_equal(symbol_in(dir, elf, "start_kerne", &value), -ENOENT);
	assert_int_equal(symbol_in(dir, elf, "start_kernel2", &value), -ENOENT);
	assert_int_equal(symbol_in(dir, elf, "", &value), -ENOENT);
	assert_int_equal(value, 7);

	EH(elf)->e_shnum = 0;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOENT);
	good_elf(elf);
	SH(elf, 2)->sh_type = SHT_PROGBITS;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOENT);
}

static void test_symbols_hostile(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	uint64_t value = 7;

	good_elf(elf);
	EH(elf)->e_shoff = UINT64_MAX - 10;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	EH(elf)->e_shoff = GOOD_BYTES - 10;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	good_elf(elf);
	EH(elf)->e_shentsize = 63;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	good_elf(elf);
	SH(elf, 2)->sh_link = 4;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	SH(elf, 2)->sh_link = 1;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	good_elf(elf);
	SH(elf, 2)->sh_entsize = 0;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	good_elf(elf);
	SH(elf, 2)->sh_size = UINT64_MAX / 2;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	good_elf(elf);
	SH(elf, 3)->sh_size = 0;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);
	good_elf(elf);
	SH(elf, 3)->sh_offset = GOOD_BYTES;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOEXEC);

	/* A name outside the strings, and one that lost its end, match nothing. */
	good_elf(elf);
	SYM(elf, 4)->st_name = UINT32_MAX;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), 0);
	assert_int_equal(value, 0x111);
	good_elf(elf);
	SH(elf, 3)->sh_size = 13;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), -ENOENT);
	/* An index of the first global symbol behind the table makes all of them local. */
	good_elf(elf);
	SH(elf, 2)->sh_info = UINT32_MAX;
	assert_int_equal(symbol_in(dir, elf, "start_kernel", &value), 0);
	assert_int_equal(value, 0x111);
}

static void test_symbols_huge(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	struct image *img;
	uint64_t value;

	good_elf(elf);
	SH(elf, 2)->sh_size = IMAGE_SYMBOLS_MAX + 24;
	elf_put(dir, elf);
	assert_int_equal(truncate(dir->file, 2 * IMAGE_SYMBOLS_MAX), 0);
	img = open_works(dir, dir->file);
	assert_int_equal(image_symbol(img, "start_kernel", &value), -EFBIG);
	image_destroy(img);
}

static void test_symbols_map(void **state)
{
	struct dir *dir = *state;
	static const char map[] = "ffffffff81000000 T _text\n"
				  "ffffffff81000010 t not_start_kernel\n"
				  "                 U start_kernel\n"
				  "xyz T start_kernel\n"
				  "11112222333344445 T start_kernel\n"
				  "81000020 Tstart_kernel\n"
				  " T start_kernel\n"
				  "FFFFffff81abcdef T start_kernel\n"
				  "ffffffff81000030 T start_kernel\n"
				  "00000040 t module_one\t[module]\n"
				  "1 A dos\r\n"
				  "ffffffff81000050 T last";
	uint8_t elf[GOOD_BYTES];
	struct image *img;
	char path[128];
	uint64_t value = 7;

	good_elf(elf);
	elf_put(dir, elf);
	snprintf(path, sizeof(path), "%s/System.map", dir->path);
	file_put(path, map, strlen(map));
	dir->opts.symbols_path = path;
	img = open_works(dir, dir->file);
	assert_int_equal(image_symbol(img, "start_kernel", &value), 0);
	assert_int_equal(value, 0xffffffff81abcdef);
	assert_int_equal(image_symbol(img, "_text", &value), 0);
	assert_int_equal(value, 0xffffffff81000000);
	assert_int_equal(image_symbol(img, "module_one", &value), 0);
	assert_int_equal(value, 0x40);
	assert_int_equal(image_symbol(img, "dos", &value), 0);
	assert_int_equal(value, 1);
	assert_int_equal(image_symbol(img, "last", &value), 0);
	assert_int_equal(value, 0xffffffff81000050);
	value = 7;
	/* The map replaces the ELF's own table. */
	assert_int_equal(image_symbol(img, "local_one", &value), -ENOENT);
	assert_int_equal(image_symbol(img, "start", &value), -ENOENT);
	assert_int_equal(image_symbol(img, "T", &value), -ENOENT);
	assert_int_equal(image_symbol(img, "", &value), -ENOENT);
	assert_int_equal(value, 7);
	image_destroy(img);

	unlink(path);
	open_fails(dir, dir->file, -ENOENT, "System.map: No such file");
	file_put(path, map, 0);
	img = open_works(dir, dir->file);
	assert_int_equal(image_symbol(img, "start_kernel", &value), -ENOENT);
	image_destroy(img);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	img = open_works(dir, dir->file);
	assert_int_equal(image_symbol(img, "start_kernel", &value), -EINVAL);
	image_destroy(img);
}

/* --- initrds -------------------------------------------------------------------------------- */

static void test_initrd(void **state)
{
	struct dir *dir = *state;
	static const size_t sizes[] = {1, 4096, 4097, 5};
	const char *paths[INITRD_FILES_MAX + 1];
	char names[4][128];
	struct initrd *initrd;
	struct kv_err err;

	assert_int_equal(initrd_open(&initrd, NULL, 0, &err), 0);
	assert_int_equal(initrd->count, 0);
	assert_int_equal(initrd->bytes, 0);
	initrd_destroy(initrd);
	initrd_destroy(NULL);

	for (unsigned i = 0; i < 4; i++) {
		static const uint8_t data[5000];

		snprintf(names[i], sizeof(names[i]), "%s/initrd%u", dir->path, i);
		file_put(names[i], data, sizes[i]);
		paths[i] = names[i];
	}
	assert_int_equal(initrd_open(&initrd, paths, 4, &err), 0);
	assert_int_equal(initrd->count, 4);
	assert_int_equal(initrd->files[0].offset, 0);
	assert_int_equal(initrd->files[1].offset, 4096);
	assert_int_equal(initrd->files[2].offset, 8192);
	assert_int_equal(initrd->files[3].offset, 16384);
	assert_int_equal(initrd->files[2].bytes, 4097);
	assert_string_equal(initrd->files[3].path, names[3]);
	assert_int_equal(initrd->bytes, 16389);
	initrd_destroy(initrd);
}

static void initrd_fails(const struct dir *dir, const char *path, int code, const char *says)
{
	struct initrd *const untouched = (struct initrd *)(uintptr_t)0x5a5a;
	struct initrd *initrd = untouched;
	const char *paths[] = {dir->file, path};
	unsigned before = fd_count();
	struct kv_err err = {""};
	int r = initrd_open(&initrd, paths, 2, &err);

	if (r != code || !strstr(err.text, says) || !strstr(err.text, path))
		fail_msg("got %d \"%s\", expected %d and \"%s\"", r, err.text, code, says);
	assert_ptr_equal(initrd, untouched);
	assert_int_equal(fd_count(), before);
}

static void test_initrd_bad(void **state)
{
	struct dir *dir = *state;
	const char *paths[INITRD_FILES_MAX + 1];
	struct initrd *initrd;
	struct kv_err err;
	char path[128];

	snprintf(path, sizeof(path), "%s/second", dir->path);
	file_put(dir->file, "x", 1);
	initrd_fails(dir, path, -ENOENT, "No such file");
	file_put(path, "", 0);
	initrd_fails(dir, path, -EINVAL, "empty");
	initrd_fails(dir, dir->path, -EINVAL, "not a regular file");
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	initrd_fails(dir, path, -EINVAL, "not a regular file");

	for (unsigned i = 0; i <= INITRD_FILES_MAX; i++)
		paths[i] = dir->file;
	assert_int_equal(initrd_open(&initrd, paths, INITRD_FILES_MAX, &err), 0);
	assert_int_equal(initrd->bytes, (INITRD_FILES_MAX - 1) * 4096 + 1);
	initrd_destroy(initrd);
	assert_int_equal(initrd_open(&initrd, paths, INITRD_FILES_MAX + 1, &err), -E2BIG);
	assert_non_null(strstr(err.text, "17 initrd files; at most 16"));
}

static void test_names(void **state)
{
	assert_string_equal(image_format_name(IMAGE_ELF), "elf");
	assert_string_equal(image_format_name(IMAGE_BZIMAGE), "bzimage");
	assert_string_equal(image_packing_name(IMAGE_PLAIN), "none");
	assert_string_equal(image_packing_name(IMAGE_GZIP), "gzip");
	assert_string_equal(image_packing_name(IMAGE_XZ), "xz");
	assert_string_equal(image_packing_name(IMAGE_LZMA), "lzma");
	assert_string_equal(image_packing_name(IMAGE_LZ4), "lz4");
	assert_string_equal(image_packing_name(IMAGE_ZSTD), "zstd");
	assert_string_equal(image_protocol_name(IMAGE_AUTO), "auto");
	assert_string_equal(image_protocol_name(IMAGE_PVH), "pvh");
	assert_string_equal(image_protocol_name(IMAGE_LINUX), "linux");
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, dir_setup, dir_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_DIR(test_good),
		IN_DIR(test_protocols),
		IN_DIR(test_accepted),
		IN_DIR(test_note_align8),
		IN_DIR(test_headers_far),
		IN_DIR(test_reads_little),
		IN_DIR(test_malformed),
		IN_DIR(test_truncated),
		IN_DIR(test_note_too_big),
		IN_DIR(test_too_many),
		IN_DIR(test_entry),
		IN_DIR(test_other_files),
		IN_DIR(test_symbols_elf),
		IN_DIR(test_symbols_hostile),
		IN_DIR(test_symbols_huge),
		IN_DIR(test_symbols_map),
		IN_DIR(test_initrd),
		IN_DIR(test_initrd_bad),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
