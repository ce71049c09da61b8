/* SPDX-License-Identifier: Apache-2.0 */
/* MSRs as firmware would leave them, where that differs from KVM's reset state. */
#include "x86/cpuid.h"

#define MSR_MISC_ENABLE	 0x1a0
#define MSR_MTRR_DEFTYPE 0x2ff

#define MISC_FAST_STRINGS (1ULL << 0)
#define MISC_NO_BTS	  (1ULL << 11)
#define MISC_NO_PEBS	  (1ULL << 12)

#define MTRR_ENABLE	(1ULL << 11)
#define MTRR_WRITE_BACK 6ULL

unsigned x86_msrs_make(struct kvm_msr_entry *out, const struct x86_cpu *cpu)
{
	unsigned count = 0;

	/* Linux on Intel distrusts `rep movs` without this bit (early_init_intel). */
	out[count++] = (struct kvm_msr_entry){
		.index = MSR_MISC_ENABLE, .data = MISC_FAST_STRINGS | MISC_NO_BTS | MISC_NO_PEBS};
	/* All memory is write-back; with MTRRs off Linux would also give up PAT (before 6.4). */
	out[count++] = (struct kvm_msr_entry){
		.index = MSR_MTRR_DEFTYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK};
	return count;
}
