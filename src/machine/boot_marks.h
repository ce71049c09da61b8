/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_MACHINE_BOOT_MARKS_H
#define KV_MACHINE_BOOT_MARKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/image.h"
#include "kvm/kvm.h"
#include "trace/timeline.h"
#include "vcpu/vcpu.h"

/*
 * Times start_kernel(), the start of init and the first user instruction of an unmodified kernel,
 * by hardware breakpoints through KVM's guest debugging (api.rst, KVM_SET_GUEST_DEBUG). The second
 * needs two steps: start_thread(regs, new_ip, new_sp) is where the kernel says which address a new
 * program will start at; a breakpoint on that address is hit by its first instruction. Once both
 * are known, debugging is switched off and the guest runs at full speed.
 */
struct boot_marks {
	bool active;	       /* [c] symbols were found */
	uint64_t start_kernel; /* [c] guest-virtual, 0: no such symbol */
	uint64_t start_thread; /* [c] guest-virtual, 0: no such symbol */
	uint64_t run_init;     /* [c] guest-virtual, 0: no such symbol */
	_Atomic uint64_t user; /* [a] guest-virtual start of the first program, 0: not yet known */
	struct timeline *tl;   /* [c] */
};

/* Look the symbols up; without any of them @marks stays inactive. */
void boot_marks_init(struct boot_marks *marks, struct image *image, struct timeline *tl);

/*
 * Arm what is still to be reached on @vcpu, or switch debugging off.
 * Returns 0 or -errno of KVM_SET_GUEST_DEBUG. Context: before vcpu_start(), or the vCPU's thread.
 */
int boot_marks_arm(const struct boot_marks *marks, struct vcpu *vcpu);

/*
 * A breakpoint was hit: mark it and arm the next one on this vCPU.
 * Returns true when the other vCPUs need boot_marks_arm() too. Context: the vCPU's thread.
 */
bool boot_marks_hit(
	struct boot_marks *marks, struct vcpu *vcpu, const struct kvm_debug_exit_arch *debug);

#endif
