/* SPDX-License-Identifier: Apache-2.0 */
/* The boot CPU's registers at a kernel's entry. */
#include <string.h>

#include "x86/boot.h"
#include "x86/layout.h"
#include "x86/segments.h"

#define CR0_PE	 (1ULL << 0)
#define CR0_ET	 (1ULL << 4)
#define CR0_PG	 (1ULL << 31)
#define CR4_PAE	 (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)

#define RFLAGS_FIXED 0x2 /* bit 1 is always set */

/* Descriptor types, SDM 3A 3.5 tables 3-1 and 3-2. */
#define SEG_DATA_RW  0x3 /* read/write, accessed */
#define SEG_CODE_RX  0xb /* execute/read, accessed */
#define SEG_TSS_BUSY 0xb /* 32-bit TSS, or 64-bit in long mode */

#define TSS_LIMIT 0x67

/* A segment from 0 over all 4 GiB. */
static struct kvm_segment segment_flat(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = !long_mode,
		.s = 1,
		.l = long_mode,
		.g = 1,
	};
}

static struct kvm_segment segment_tss(void)
{
	return (struct kvm_segment){
		.limit = TSS_LIMIT,
		.selector = X86_BOOT_TSS,
		.type = SEG_TSS_BUSY,
		.present = 1,
	};
}

/* The descriptor whose loading gives @seg. */
static uint64_t segment_pack(const struct kvm_segment *seg)
{
	uint64_t limit = seg->g ? seg->limit >> 12 : seg->limit;
	uint64_t flags = seg->type | seg->s << 4 | seg->dpl << 5 | seg->present << 7;
	uint64_t more = seg->avl | seg->l << 1 | seg->db << 2 | seg->g << 3;

	return (limit & 0xffff) | (seg->base & 0xffffff) << 16 | flags << 40 |
	       (limit >> 16 & 0xf) << 48 | more << 52 | (seg->base >> 24 & 0xff) << 56;
}

void x86_gdt_make(uint64_t gdt[X86_GDT_ENTRIES])
{
	struct kvm_segment code = segment_flat(X86_BOOT_CS, SEG_CODE_RX, true);
	struct kvm_segment data = segment_flat(X86_BOOT_DS, SEG_DATA_RW, false);
	struct kvm_segment tss = segment_tss();

	memset(gdt, 0, X86_GDT_ENTRIES * sizeof(*gdt));
	gdt[X86_BOOT_CS / 8] = segment_pack(&code);
	gdt[X86_BOOT_DS / 8] = segment_pack(&data);
	gdt[X86_BOOT_TSS / 8] = segment_pack(&tss); /* its second half, base 63:32, is zero */
}

void x86_boot_regs(const struct x86_boot *boot, struct kvm_sregs *sregs, struct kvm_regs *regs)
{
	bool long_mode = boot->protocol == X86_LINUX;
	struct kvm_segment data = segment_flat(X86_BOOT_DS, SEG_DATA_RW, false);

	sregs->cs = segment_flat(X86_BOOT_CS, SEG_CODE_RX, long_mode);
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->tr = segment_tss();
	/*
	 * The IDT stays as reset leaves it, not empty: no protocol asks for one, and an empty IDT
	 * is how software asks for a reset by triple fault, which an early crash is not.
	 */
	*regs = (struct kvm_regs){.rip = boot->entry, .rflags = RFLAGS_FIXED};
	if (!long_mode) {
		/* Xen docs/misc/pvh.pandoc: the GDT is the kernel's own business. */
		sregs->gdt.base = 0;
		sregs->gdt.limit = 0;
		sregs->cr0 = CR0_PE | CR0_ET;
		sregs->cr3 = 0;
		sregs->cr4 = 0;
		sregs->efer = 0;
		regs->rbx = LAYOUT_INFO;
		return;
	}
	sregs->gdt.base = LAYOUT_INFO;
	sregs->gdt.limit = X86_GDT_ENTRIES * sizeof(uint64_t) - 1;
	sregs->cr0 = CR0_PE | CR0_ET | CR0_PG;
	sregs->cr3 = LAYOUT_PAGE_TABLES;
	sregs->cr4 = CR4_PAE;
	sregs->efer = EFER_LME | EFER_LMA;
	regs->rsi = LAYOUT_BOOT_PARAMS;
	regs->rsp = LAYOUT_BOOT_STACK;
}
