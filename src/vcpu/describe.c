/* SPDX-License-Identifier: Apache-2.0 */
#include "vcpu/describe.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define CR0_PE	 (1ULL << 0)
#define CR0_PG	 (1ULL << 31)
#define EFER_LMA (1ULL << 10)
#define RFL_VM	 (1ULL << 17)

#define INSN_MAX 15

static const char *mode_name(const struct kvm_sregs *sregs, const struct kvm_regs *regs)
{
	if (!(sregs->cr0 & CR0_PE))
		return "real mode";
	if (regs->rflags & RFL_VM)
		return "virtual-8086 mode";
	if (sregs->efer & EFER_LMA)
		return sregs->cs.l ? "64-bit mode" : "compatibility mode";
	return sregs->cr0 & CR0_PG ? "32-bit protected mode" : "32-bit protected mode, paging off";
}

/* The bytes at the linear address, as far as they are mapped RAM. Returns how many. */
static unsigned insn_read(
	struct kvm_vcpu *vcpu, const struct gmem *gm, uint64_t linear, uint8_t *bytes)
{
	unsigned n = 0;

	while (n < INSN_MAX) {
		const uint8_t *at;
		gpa_t gpa;

		if (kvm_translate(vcpu, linear + n, &gpa) < 0)
			break;
		at = gmem_at(gm, gpa, 1);
		if (!at)
			break;
		bytes[n++] = *at;
	}
	return n;
}

void vcpu_describe(
	struct vcpu_end *end, struct kvm_vcpu *vcpu, const struct gmem *gm, const char *what)
{
	uint8_t bytes[INSN_MAX];
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	unsigned count;
	int n;

	if (kvm_regs_get(vcpu, &regs) < 0 || kvm_sregs_get(vcpu, &sregs) < 0) {
		snprintf(end->text, sizeof(end->text), "%s (registers unknown)", what);
		return;
	}
	end->idt_empty = sregs.idt.limit == 0;
	n = snprintf(end->text, sizeof(end->text),
		"%s at RIP 0x%" PRIx64 " (%s, CPL %u, CR0 0x%" PRIx64 ", CR3 0x%" PRIx64
		"), instruction bytes",
		what, (uint64_t)regs.rip, mode_name(&sregs, &regs), sregs.ss.dpl,
		(uint64_t)sregs.cr0, (uint64_t)sregs.cr3);
	count = insn_read(vcpu, gm, sregs.cs.base + regs.rip, bytes);
	for (unsigned i = 0; i < count && n > 0 && (size_t)n < sizeof(end->text); i++)
		n += snprintf(end->text + n, sizeof(end->text) - (size_t)n, " %02x", bytes[i]);
	if (!count && n > 0 && (size_t)n < sizeof(end->text))
		snprintf(end->text + n, sizeof(end->text) - (size_t)n, " not readable");
}
