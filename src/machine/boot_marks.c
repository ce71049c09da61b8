/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/boot_marks.h"

#include <errno.h>

/* DR7 (SDM volume 3, 17.2.4): bit 10 reads as one; G0..G3 at bits 1, 3, 5, 7; length and type 0
 * mean "execute". */
#define DR7_FIXED     (1U << 10)
#define DR7_GLOBAL(n) (1U << (2 * (n) + 1))

void boot_marks_init(struct boot_marks *marks, struct image *image, struct timeline *tl)
{
	marks->tl = tl;
	image_symbol(image, "start_kernel", &marks->start_kernel);
	image_symbol(image, "start_thread", &marks->start_thread);
	/* Where the compiler merged it into its caller, what runs just before it does as well. */
	if (image_symbol(image, "run_init_process", &marks->run_init) < 0)
		image_symbol(image, "free_initmem", &marks->run_init);
	marks->active = tl && (marks->start_kernel || marks->start_thread || marks->run_init);
}

int boot_marks_arm(const struct boot_marks *marks, struct vcpu *vcpu)
{
	struct kvm_guest_debug debug = {0};
	uint64_t dr7 = 0;

	/* Only the boot CPU runs start_kernel(). */
	if (marks->start_kernel && vcpu_index(vcpu) == 0 &&
		!timeline_reached(marks->tl, MARK_START_KERNEL)) {
		debug.arch.debugreg[0] = marks->start_kernel;
		dr7 |= DR7_GLOBAL(0);
	}
	if (marks->run_init && !timeline_reached(marks->tl, MARK_INIT)) {
		debug.arch.debugreg[2] = marks->run_init;
		dr7 |= DR7_GLOBAL(2);
	}
	if (marks->start_thread && !timeline_reached(marks->tl, MARK_USER)) {
		uint64_t user = marks->user;

		debug.arch.debugreg[1] = user ? user : marks->start_thread;
		dr7 |= DR7_GLOBAL(1);
	}
	if (dr7) {
		debug.arch.debugreg[7] = dr7 | DR7_FIXED;
		debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	}
	return kvm_debug_set(vcpu_kvm(vcpu), &debug);
}

bool boot_marks_hit(
	struct boot_marks *marks, struct vcpu *vcpu, const struct kvm_debug_exit_arch *debug)
{
	bool tell = false;
	struct kvm_regs regs;

	if (marks->start_kernel && debug->pc == marks->start_kernel) {
		timeline_mark(marks->tl, MARK_START_KERNEL);
	} else if (marks->run_init && debug->pc == marks->run_init) {
		timeline_mark(marks->tl, MARK_INIT);
		tell = true;
	} else if (debug->pc == marks->start_thread && !marks->user) {
		/* The second argument of the System V calling convention is in rsi. */
		if (!kvm_regs_get(vcpu_kvm(vcpu), &regs))
			marks->user = regs.rsi;
		tell = true;
	} else if (marks->user && debug->pc == marks->user) {
		timeline_mark(marks->tl, MARK_USER);
		tell = true;
	}
	boot_marks_arm(marks, vcpu);
	return tell;
}
