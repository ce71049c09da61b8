/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_LAYOUT_H
#define KV_X86_LAYOUT_H

/*
 * Fixed guest-physical addresses of the PC platform and of what the monitor leaves in low memory
 * for the guest. Everything below 1 MiB that a kernel's segments must not cover is listed here.
 */
#define LAYOUT_BOOT_PARAMS 0x7000ULL  /* the "zero page", one page */
#define LAYOUT_BOOT_STACK  0x9000ULL  /* the 64-bit protocol's rsp: one page below it is free */
#define LAYOUT_PAGE_TABLES 0x9000ULL  /* 6 pages: PML4, PDPT, 4 PDs: identity map of 4 GiB */
#define LAYOUT_CMDLINE	   0x20000ULL /* of a command line that is too long for LAYOUT_INFO */
#define LAYOUT_CMDLINE_MAX 0x10000ULL /* bytes with the NUL */

/*
 * The MP floating pointer is in the last KiB of base memory (MP 1.4 §4) and not in the BIOS area,
 * which the specification allows too: Linux looks here first, and every step of its search, made
 * with or without ACPI, maps and unmaps a page.
 */
#define LAYOUT_MP_POINTER 0x9fc00ULL
#define LAYOUT_BASE_END	  0xa0000ULL

/*
 * The BIOS area, where kernels that are given no pointer look for the RSDP (ACPI 6.5 5.2.5.1).
 * Every page that the monitor touches costs a host page fault, so what is always there shares this
 * area's first page as far as it fits: PVH's hvm_start_info, module list and memory map or the
 * 64-bit protocol's GDT, then the command line; the MP configuration table; behind it the ACPI
 * tables.
 */
#define LAYOUT_BIOS	  0xf0000ULL
#define LAYOUT_INFO	  LAYOUT_BIOS
#define LAYOUT_INFO_BYTES 0x400ULL
#define LAYOUT_MP_CONFIG  (LAYOUT_INFO + LAYOUT_INFO_BYTES)
#define LAYOUT_BIOS_END	  0x100000ULL
#define LAYOUT_HIGH_BASE  0x100000ULL /* RAM goes on here */

/* The 32-bit hole: RAM ends below it and goes on above 4 GiB. */
#define LAYOUT_HOLE	     0xc0000000ULL
#define LAYOUT_HOLE_END	     0x100000000ULL
#define LAYOUT_TIMER_NEW     0xc0000000ULL /* boot timer pages, see legacy/boot_timer.h */
#define LAYOUT_TIMER_OLD     0xd0000000ULL
#define LAYOUT_VIRTIO	     0xfeb00000ULL /* virtio-mmio devices, each at the start of a page */
#define LAYOUT_VIRTIO_STRIDE 0x1000ULL
#define LAYOUT_IOAPIC	     0xfec00000ULL
#define LAYOUT_LAPIC	     0xfee00000ULL
#define LAYOUT_TSS	     0xfffbd000ULL /* 3 pages that KVM on old VT-x needs */
#define LAYOUT_IDENTITY	     0xfffbc000ULL /* 1 page, likewise */

/* Ports. */
#define LAYOUT_PORT_SERIAL	0x3f8
#define LAYOUT_PORT_I8042	0x60
#define LAYOUT_PORT_ACPI	0x600 /* +0 sleep control, +1 sleep status, +2 reset */
#define LAYOUT_PORT_PM1_EVENT	0x604 /* status, enable; only beside a PIC */
#define LAYOUT_PORT_PM1_CONTROL 0x608
#define LAYOUT_IRQ_SCI		9
#define LAYOUT_IRQ_SERIAL	4
#define LAYOUT_IRQ_VIRTIO	5 /* of the first device; the others follow */

#endif
