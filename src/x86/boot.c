/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map and what lies in guest RAM for a kernel to find at its entry. */
#include "x86/boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "x86/layout.h"
#include "x86/segments.h"

/* Xen public/arch-x86/hvm/start_info.h: struct hvm_start_info, version 1. */
struct pvh_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};
_Static_assert(sizeof(struct pvh_info) == 56, "hvm_start_info v1");

#define PVH_MAGIC   0x336ec578U
#define PVH_VERSION 1

/* The same header: struct hvm_modlist_entry. */
struct pvh_module {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};
_Static_assert(sizeof(struct pvh_module) == 32, "hvm_modlist_entry");

/* The same header: struct hvm_memmap_table_entry. */
struct pvh_memmap {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};
_Static_assert(sizeof(struct pvh_memmap) == 24, "hvm_memmap_table_entry");

/* What a PVH kernel is given, as it lies at LAYOUT_INFO; the command line may follow. */
struct pvh_page {
	struct pvh_info info;
	struct pvh_module initrd;
	struct pvh_memmap memmap[X86_E820_MAX];
};
_Static_assert(sizeof(struct pvh_page) <= LAYOUT_INFO_BYTES, "the start info has its place");

/* Linux Documentation/arch/x86/boot.rst and zero-page.rst. */
_Static_assert(sizeof(struct boot_params) == PAGE_BYTES, "zero page");
_Static_assert(offsetof(struct boot_params, hdr) == 0x1f1, "setup header");
_Static_assert(offsetof(struct boot_params, e820_table) == 0x2d0, "e820 table");

#define SETUP_BOOT_FLAG	  0xaa55
#define SETUP_MAGIC	  0x53726448 /* "HdrS" */
#define SETUP_VERSION	  0x020f
#define SETUP_LOADER	  0xff /* type_of_loader: none of the assigned ones */
#define SETUP_ALIGNMENT	  0x1000000
#define SETUP_CMDLINE_MAX 2047

static void memmap_add(struct x86_memmap *map, gpa_t gpa, gpa_t end, enum x86_e820_type type)
{
	map->entries[map->count++] = (struct x86_e820){gpa, end - gpa, type};
}

void x86_memmap_make(struct x86_memmap *map, uint64_t ram_bytes)
{
	uint64_t low_end = ram_bytes < LAYOUT_HOLE ? ram_bytes : LAYOUT_HOLE;

	map->count = 0;
	memmap_add(map, 0, LAYOUT_MP_POINTER, X86_E820_RAM);
	memmap_add(map, LAYOUT_MP_POINTER, LAYOUT_BASE_END, X86_E820_RESERVED);
	memmap_add(map, LAYOUT_BIOS, LAYOUT_BIOS_END, X86_E820_RESERVED);
	if (low_end > LAYOUT_HIGH_BASE)
		memmap_add(map, LAYOUT_HIGH_BASE, low_end, X86_E820_RAM);
	memmap_add(map, LAYOUT_IOAPIC, LAYOUT_LAPIC + PAGE_BYTES, X86_E820_RESERVED);
	memmap_add(map, LAYOUT_IDENTITY, LAYOUT_TSS + 3 * PAGE_BYTES, X86_E820_RESERVED);
	if (ram_bytes > LAYOUT_HOLE)
		memmap_add(map, LAYOUT_HOLE_END, LAYOUT_HOLE_END + (ram_bytes - LAYOUT_HOLE),
			X86_E820_RAM);
}

/*
 * Put the command line (@bytes with its NUL) into LAYOUT_INFO behind the @used bytes there if it
 * fits, else at LAYOUT_CMDLINE. Returns its address.
 */
static gpa_t cmdline_write(struct gmem *gm, const char *cmdline, size_t bytes, uint64_t used)
{
	gpa_t at = bytes <= LAYOUT_INFO_BYTES - used ? LAYOUT_INFO + used : LAYOUT_CMDLINE;

	gmem_write(gm, at, cmdline, bytes);
	return at;
}

static void pvh_write(struct gmem *gm, const struct x86_boot *boot, size_t cmdline_bytes)
{
	const struct x86_memmap *map = boot->memmap;
	struct pvh_page *page = gmem_at(gm, LAYOUT_INFO, LAYOUT_INFO_BYTES);
	uint64_t used = offsetof(struct pvh_page, memmap) + map->count * sizeof(page->memmap[0]);

	page->info = (struct pvh_info){
		.magic = PVH_MAGIC,
		.version = PVH_VERSION,
		.cmdline_paddr = cmdline_write(gm, boot->cmdline, cmdline_bytes, used),
		.rsdp_paddr = boot->rsdp,
		.memmap_paddr = LAYOUT_INFO + offsetof(struct pvh_page, memmap),
		.memmap_entries = map->count,
	};
	if (boot->initrd_bytes) {
		page->info.nr_modules = 1;
		page->info.modlist_paddr = LAYOUT_INFO + offsetof(struct pvh_page, initrd);
	}
	page->initrd = (struct pvh_module){.paddr = boot->initrd_gpa, .size = boot->initrd_bytes};
	for (unsigned i = 0; i < map->count; i++)
		page->memmap[i] = (struct pvh_memmap){
			.addr = map->entries[i].gpa,
			.size = map->entries[i].bytes,
			.type = map->entries[i].type,
		};
}

/*
 * Take over the kernel's own setup header as far as it goes: it ends where its second byte of
 * "jump" says (boot.rst, "the end of setup header"), and no file makes it longer than what we know.
 */
static void setup_copy(struct setup_header *hdr, const struct x86_boot *boot)
{
	size_t bytes = boot->setup_header_bytes;
	const size_t jump = offsetof(struct setup_header, jump);
	size_t end;

	if (bytes > sizeof(*hdr))
		bytes = sizeof(*hdr);
	if (bytes >= jump + 2) {
		end = jump + 2 + boot->setup_header[jump + 1];
		if (bytes > end)
			bytes = end;
	}
	memcpy(hdr, boot->setup_header, bytes);
	/* A loader's fields: what the file has in them means nothing. */
	hdr->setup_data = 0;
	hdr->heap_end_ptr = 0;
	hdr->bootsect_kludge = 0;
	hdr->realmode_swtch = 0;
	hdr->ext_loader_ver = 0;
	hdr->ext_loader_type = 0;
	hdr->hardware_subarch = X86_SUBARCH_PC;
	hdr->hardware_subarch_data = 0;
	/* KASLR_FLAG is the decompressor's to set, and it does not run. */
	hdr->loadflags = LOADED_HIGH;
}

static void setup_make(struct setup_header *hdr)
{
	hdr->boot_flag = SETUP_BOOT_FLAG;
	hdr->header = SETUP_MAGIC;
	hdr->version = SETUP_VERSION;
	hdr->loadflags = LOADED_HIGH;
	hdr->kernel_alignment = SETUP_ALIGNMENT;
	hdr->cmdline_size = SETUP_CMDLINE_MAX;
}

static void params_write(struct gmem *gm, const struct x86_boot *boot, gpa_t cmdline)
{
	const struct x86_memmap *map = boot->memmap;
	struct boot_params *params = gmem_at(gm, LAYOUT_BOOT_PARAMS, sizeof(*params));

	memset(params, 0, sizeof(*params));
	if (boot->setup_header)
		setup_copy(&params->hdr, boot);
	else
		setup_make(&params->hdr);
	params->hdr.type_of_loader = SETUP_LOADER;
	params->hdr.cmd_line_ptr = (uint32_t)cmdline;
	params->hdr.ramdisk_image = (uint32_t)boot->initrd_gpa;
	params->hdr.ramdisk_size = (uint32_t)boot->initrd_bytes;
	params->ext_ramdisk_image = (uint32_t)(boot->initrd_gpa >> 32);
	params->ext_ramdisk_size = (uint32_t)(boot->initrd_bytes >> 32);
	params->acpi_rsdp_addr = boot->rsdp;
	params->e820_entries = (uint8_t)map->count;
	for (unsigned i = 0; i < map->count; i++)
		params->e820_table[i] = (struct boot_e820_entry){
			.addr = map->entries[i].gpa,
			.size = map->entries[i].bytes,
			.type = map->entries[i].type,
		};
}

/* SDM 3A 4.5: four-level paging with 2 MiB pages, virtual = physical for the first 4 GiB. */
static void tables_write(struct gmem *gm)
{
	const uint64_t link = 0x3;  /* present, writable */
	const uint64_t page = 0x83; /* and a 2 MiB page */
	uint64_t *tables = gmem_at(gm, LAYOUT_PAGE_TABLES, 6 * PAGE_BYTES);
	uint64_t *pdpt = tables + 512, *pds = tables + 2 * 512;

	/* The rest of the first two is zero: nobody wrote to this RAM before. */
	tables[0] = (LAYOUT_PAGE_TABLES + PAGE_BYTES) | link;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (LAYOUT_PAGE_TABLES + (2 + i) * PAGE_BYTES) | link;
	for (uint64_t i = 0; i < 4 * 512ULL; i++)
		pds[i] = i * 2 * MIB | page;
}

static void linux_write(struct gmem *gm, const struct x86_boot *boot, size_t cmdline_bytes)
{
	uint64_t gdt[X86_GDT_ENTRIES];

	x86_gdt_make(gdt);
	gmem_write(gm, LAYOUT_INFO, gdt, sizeof(gdt));
	params_write(gm, boot, cmdline_write(gm, boot->cmdline, cmdline_bytes, sizeof(gdt)));
	tables_write(gm);
}

int x86_boot_write(struct gmem *gm, const struct x86_boot *boot, struct kv_err *err)
{
	size_t bytes = strlen(boot->cmdline) + 1;

	if (bytes > LAYOUT_CMDLINE_MAX)
		return err_set(err, -E2BIG, "the command line has %zu bytes, but at most %llu fit",
			bytes - 1, LAYOUT_CMDLINE_MAX - 1);
	/* All of it lies below here, so that nothing after this can miss RAM. */
	if (!gmem_at(gm, 0, LAYOUT_BIOS_END))
		return err_set(err, -EFAULT,
			"guest memory: the boot structures need the first %llu bytes to be RAM",
			LAYOUT_BIOS_END);
	if (boot->protocol == X86_PVH)
		pvh_write(gm, boot, bytes);
	else
		linux_write(gm, boot, bytes);
	return 0;
}
