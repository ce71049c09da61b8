/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An instruction that any processor has and KVM's instruction emulator lacks: the run ends here
 * where kernel mode is emulated (KVM_EXIT_INTERNAL_ERROR). Elsewhere ud2 without an IDT follows,
 * a triple fault.
 */
#include "flat.h"

const uint32_t guest_ring = 0;

void guest_main(const struct boot *boot)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {0, 0};
	uint32_t count;

	__asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
	__asm__ volatile(".globl bad_instruction\nbad_instruction:\tpopcntl %1, %0"
			 : "=r"(count)
			 : "r"((uint32_t)boot->info_addr)
			 : "cc");
	__asm__ volatile("ud2" : : "r"(count));
}
