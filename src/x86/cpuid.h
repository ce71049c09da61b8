/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_CPUID_H
#define KV_X86_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

/* What of a vCPU's CPUID depends on the VM. */
struct x86_cpu {
	unsigned index;	   /* 0..count-1, also the initial (x2)APIC id */
	unsigned count;	   /* vCPUs of the VM, 1..254 */
	uint32_t tsc_khz;  /* of the guest's TSC, 0: unknown (no frequency leaf) */
	bool apic_x2apic;  /* offer x2APIC */
	bool tsc_deadline; /* KVM_CAP_TSC_DEADLINE_TIMER: offer the TSC-deadline timer */
};

/* Leaves added to what KVM reports; kvm_cpuid2 given to x86_cpuid_make() must have this room. */
#define X86_CPUID_EXTRA 16

/*
 * Make vCPU @cpu's CPUID in @out (room for @base->nent + X86_CPUID_EXTRA entries) from what KVM can
 * back (@base, KVM_GET_SUPPORTED_CPUID): topology (one socket, one thread per core; leaves 1, 4,
 * 0xb, 0x1f, 0x8000001e), hypervisor bit and leaves, TSC frequency leaves, the PMU hidden, no
 * feature that KVM did not report except TSC-deadline and x2APIC, which KVM backs without listing
 * them.
 */
void x86_cpuid_make(
	struct kvm_cpuid2 *out, const struct kvm_cpuid2 *base, const struct x86_cpu *cpu);

/* Physical address width in bits (CPUID 0x80000008), 36 when the leaf is missing. */
unsigned x86_phys_bits(const struct kvm_cpuid2 *cpuid);

/*
 * The MSRs that every vCPU, the boot CPU and the others alike, starts with: at most X86_MSRS_MAX
 * entries in @out.
 * Returns their number.
 *
 * Nothing like it is needed for the local APIC: KVM resets the boot CPU's LINT0 to ExtINT
 * (KVM_X86_QUIRK_LINT0_REENABLED, on by default), which serves a PIC where there is one; without a
 * PIC nothing is connected to LINT0 and LINT1, and kernels program both themselves.
 */
#define X86_MSRS_MAX 2
unsigned x86_msrs_make(struct kvm_msr_entry *out, const struct x86_cpu *cpu);

#endif
