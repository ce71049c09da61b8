/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_SEGMENTS_H
#define KV_X86_SEGMENTS_H

#include <stdint.h>

/* The GDT of the 64-bit boot protocol: null, unused, __BOOT_CS, __BOOT_DS, TSS (two entries). */
#define X86_GDT_ENTRIES 6
#define X86_BOOT_CS	0x10
#define X86_BOOT_DS	0x18
#define X86_BOOT_TSS	0x20

/*
 * Make the descriptors that agree with the segment registers x86_boot_regs() sets.
 * Source: SDM 3A 3.4.5 (segment descriptors), 7.2.3 (64-bit TSS descriptor).
 */
void x86_gdt_make(uint64_t gdt[X86_GDT_ENTRIES]);

#endif
