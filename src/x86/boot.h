/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_BOOT_H
#define KV_X86_BOOT_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "gmem/gmem.h"

/* What a kernel is told at its entry, and the register state of each boot protocol. */

enum x86_protocol {
	X86_PVH,   /* 32-bit protected mode, paging off, ebx = hvm_start_info */
	X86_LINUX, /* 64-bit long mode over an identity map, rsi = boot_params */
};

/* e820 types (ACPI 6.5 §15, also used by hvm_start_info). */
enum x86_e820_type {
	X86_E820_RAM = 1,
	X86_E820_RESERVED = 2,
	X86_E820_ACPI = 3,
};

struct x86_e820 {
	gpa_t gpa;
	uint64_t bytes;
	enum x86_e820_type type;
};

#define X86_E820_MAX 32

/* The memory map of a PC with RAM below and above the 32-bit hole. */
struct x86_memmap {
	unsigned count;
	struct x86_e820 entries[X86_E820_MAX]; /* ascending, not overlapping */
};

struct x86_boot {
	enum x86_protocol protocol;
	gpa_t entry;
	const char *cmdline;   /* without NUL at most LAYOUT_CMDLINE_MAX - 1 bytes */
	gpa_t initrd_gpa;      /* page-aligned */
	uint64_t initrd_bytes; /* 0: none */
	gpa_t rsdp;	       /* 0: no ACPI */
	const struct x86_memmap *memmap;
	const uint8_t *setup_header; /* of a bzImage, from offset 0x1f1, or NULL */
	unsigned setup_header_bytes;
};

/*
 * The memory map for @ram_bytes of RAM (a multiple of 4096, >= 1 MiB): base memory up to the MP
 * table, the BIOS area reserved (ACPI tables in it), RAM up to the hole, the rest from 4 GiB; the
 * interrupt controllers' page range reserved.
 */
void x86_memmap_make(struct x86_memmap *map, uint64_t ram_bytes);

/*
 * Write what the protocol asks for into guest RAM: command line, memory map, hvm_start_info or
 * boot_params, module list, GDT and page tables (see x86/layout.h).
 * Returns 0; -E2BIG (command line too long); -EFAULT (RAM too small for the structures).
 */
int x86_boot_write(struct gmem *gm, const struct x86_boot *boot, struct kv_err *err);

/*
 * Turn a fresh vCPU's reset state into the boot CPU's entry state. @sregs comes from
 * KVM_GET_SREGS and is modified; @regs is filled whole.
 */
void x86_boot_regs(const struct x86_boot *boot, struct kvm_sregs *sregs, struct kvm_regs *regs);

#endif
