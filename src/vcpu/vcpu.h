/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VCPU_VCPU_H
#define KV_VCPU_VCPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "bus/bus.h"
#include "gmem/gmem.h"
#include "kvm/kvm.h"
#include "trace/exits.h"
#include "trace/timeline.h"

/* A vCPU with the thread that runs it. */
struct vcpu;

/* Why a vCPU's thread stopped running guest code. */
enum vcpu_end_kind {
	VCPU_END_ASKED,	    /* vcpu_stop() */
	VCPU_END_SHUTDOWN,  /* triple fault: the CPU shut down */
	VCPU_END_EMULATION, /* KVM met an instruction that it cannot emulate */
	VCPU_END_MEMORY,    /* KVM could not reach guest RAM (-EFAULT, or an MMIO exit inside it) */
	VCPU_END_KVM,	    /* anything else that KVM gave up on */
};

struct vcpu_end {
	enum vcpu_end_kind kind;
	bool idt_empty; /* SHUTDOWN: the IDT limit was seen to be 0, as software leaves it to reset
			 */
	char text[400]; /* what KVM said, RIP, CPU mode, instruction bytes; empty for ASKED */
};

/*
 * What a vCPU needs from the machine. All are called in the vCPU's thread without locks; any but
 * @ended may be NULL.
 */
struct vcpu_ops {
	/* before the guest is entered for the first time; false: the thread ends, untold */
	bool (*begin)(void *ctx, struct vcpu *vcpu);
	/* after vcpu_kick(), before the guest is entered again */
	void (*kicked)(void *ctx, struct vcpu *vcpu);
	/* a breakpoint set through vcpu_kvm() was hit */
	void (*debug)(void *ctx, struct vcpu *vcpu, const struct kvm_debug_exit_arch *debug);
	/* a local APIC acknowledged the level-triggered interrupt @vector */
	void (*eoi)(void *ctx, uint8_t vector);
	/* the thread is about to end; not told of VCPU_END_ASKED */
	void (*ended)(void *ctx, struct vcpu *vcpu, const struct vcpu_end *end);
};

struct vcpu_params {
	struct kvm_vm *vm; /* borrowed, as everything here */
	struct bus *bus;
	const struct gmem *gm;	 /* to tell RAM from devices, and to show instruction bytes */
	struct timeline *tl;	 /* or NULL; the boot CPU marks first entry and exit */
	struct exits_cpu *exits; /* where exits are counted, or NULL */
	const struct vcpu_ops *ops;
	void *ctx;
	unsigned index; /* KVM's vCPU id; 0 is the boot CPU */
};

/*
 * Create the vCPU in KVM, without a thread yet.
 * Returns 0; kvm_vcpu_create()'s errors; -ENOMEM. Owns: the caller destroys it.
 */
int vcpu_create(struct vcpu **ret, const struct vcpu_params *params, struct kv_err *err);

/* Ends and joins the thread if there is one, then frees. NULL is allowed. Not from a vCPU thread.
 */
void vcpu_destroy(struct vcpu *vcpu);

/*
 * Start the thread: the guest runs. All signals but the kick stay blocked in it.
 * Returns 0 or -EAGAIN and friends of pthread_create(3).
 */
int vcpu_start(struct vcpu *vcpu, struct kv_err *err);

/* Leave the guest soon and call @kicked. Context: any thread. */
void vcpu_kick(struct vcpu *vcpu);

/* Leave the guest soon and end the thread; does not wait. Context: any thread. */
void vcpu_stop(struct vcpu *vcpu);

/* vcpu_stop() and wait for the thread's end. Not from a vCPU thread. */
void vcpu_join(struct vcpu *vcpu);

/*
 * Leave the guest soon and stay out of it until vcpu_resume(); does not wait, see vcpu_parked(). A
 * vCPU that has no thread yet may be asked, too. Context: any thread, once at a time.
 */
void vcpu_pause(struct vcpu *vcpu);

/*
 * Wait, for @ns at most, until a vCPU that was paused runs no guest code and does no device's work.
 * Returns 0; -ETIMEDOUT. Context: any thread but a vCPU's.
 */
int vcpu_parked(struct vcpu *vcpu, uint64_t ns);

/* Go on after vcpu_pause(). Context: any thread. */
void vcpu_resume(struct vcpu *vcpu);

/* The KVM side: to set state before vcpu_start(), or from the callbacks. */
struct kvm_vcpu *vcpu_kvm(struct vcpu *vcpu);
unsigned vcpu_index(const struct vcpu *vcpu);

/* The name of a KVM exit reason for people, "io", "mmio", ...; NULL for one that is not known. */
const char *vcpu_exit_name(unsigned reason);

/*
 * Install the handler of the signal that vcpu_kick() sends (SIGRTMIN), which does nothing. Process
 * wide, may be repeated; machine_create() calls it.
 * Returns 0 or -errno of sigaction(2).
 */
int vcpu_signal_init(void);

#endif
