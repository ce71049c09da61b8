/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_KVM_KVM_H
#define KV_KVM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/num.h"

/*
 * Every KVM ioctl of the project is issued here. Wrappers return 0 or the ioctl's -errno; those on
 * the start-up path also leave a sentence. Source for all of them: Linux Documentation/virt/kvm/
 * api.rst, section of the ioctl's name.
 */
struct kvm;	 /* an open /dev/kvm */
struct kvm_vm;	 /* one VM */
struct kvm_vcpu; /* one vCPU and its mapped kvm_run */

/* What answers behind /dev/kvm. */
enum kvm_kind {
	KVM_KIND_HARDWARE, /* VT-x or AMD-V: unmodified Linux runs */
	KVM_KIND_SOFTWARE, /* kvm_pvm: guest user mode native, guest kernel mode emulated */
	KVM_KIND_NONE,	   /* no KVM at all */
};

/* Interrupt controllers inside the kernel. */
enum kvm_irqchip_kind {
	KVM_IRQCHIP_SPLIT, /* local APICs in the kernel, I/O APIC in user space, no PIC, no PIT */
	KVM_IRQCHIP_FULL,  /* local APICs, I/O APIC, two PICs and the PIT in the kernel */
};

/*
 * Open @path ("/dev/kvm") and check the API version.
 * Returns 0; -ENOENT, -EACCES, ... of open(2); -ENOTSUP when the API version is not 12. The
 * sentence says how to get access.
 * Owns: the caller closes *@ret with kvm_close().
 */
int kvm_open(struct kvm **ret, const char *path, struct kv_err *err);
void kvm_close(struct kvm *kvm);

/* KVM_CHECK_EXTENSION on the system fd: 0 when absent, else the capability's value. */
int kvm_cap(const struct kvm *kvm, int cap);

/*
 * Tell what kind of KVM this machine has, from /sys/module and the CPU's flags; opens no device.
 * Returns the kind. Context: any thread.
 */
enum kvm_kind kvm_kind_probe(void);

/* "hardware (AMD-V)", "hardware (VT-x)", "software (kvm_pvm)", "none". */
const char *kvm_kind_name(void);

/*
 * The CPUID leaves that this KVM can back (KVM_GET_SUPPORTED_CPUID); asked for at the first call,
 * which is dear where CPUID itself is intercepted, and kept for all VMs made from @kvm.
 * Returns 0; -ENOMEM; -errno.
 * Owns: *@ret belongs to @kvm. Context: any thread.
 */
int kvm_cpuid_supported(struct kvm *kvm, const struct kvm_cpuid2 **ret);

/*
 * Create a VM without memory and without interrupt controllers.
 * Returns 0; -ENOMEM; -errno of KVM_CREATE_VM.
 * Owns: the caller destroys it after its vCPUs; @kvm must outlive it.
 */
int kvm_vm_create(struct kvm_vm **ret, struct kvm *kvm, struct kv_err *err);
void kvm_vm_destroy(struct kvm_vm *vm);

/* The VM's descriptor, e.g. for KVM's VFIO device; stays owned by @vm. */
int kvm_vm_fd(const struct kvm_vm *vm);

/* What one slot can have: KVM_MEM_MAX_NR_PAGES of linux/kvm_host.h. */
#define KVM_SLOT_BYTES_MAX (((1ULL << 31) - 1) * PAGE_BYTES)

/*
 * Set memory slot @slot: @bytes at guest address @gpa backed by @host; @bytes 0 deletes it.
 * Sizes and addresses are multiples of 4096. Best before any interrupt controller: later, the
 * call waits for SRCU grace periods (docs/performance.md).
 * Returns 0; -EINVAL, -EEXIST, -ENOMEM ... of KVM_SET_USER_MEMORY_REGION.
 */
int kvm_slot_set(
	struct kvm_vm *vm, uint32_t slot, gpa_t gpa, uint64_t bytes, void *host, uint32_t flags);

/*
 * Name the pages that VT-x without "unrestricted guest" needs for real mode: @tss (3 pages) and
 * @identity (1 page), outside RAM and devices. Without effect elsewhere. Before the first vCPU.
 * Returns 0 or -errno.
 */
int kvm_vt_pages_set(struct kvm_vm *vm, gpa_t tss, gpa_t identity);

/*
 * Create the interrupt controllers; once per VM, after the slots and before any vCPU. With
 * KVM_IRQCHIP_SPLIT the @ioapic_pins GSIs from 0 are reserved for the user-space I/O APIC.
 * Returns 0 or -errno.
 */
int kvm_irqchip_create(
	struct kvm_vm *vm, enum kvm_irqchip_kind kind, unsigned ioapic_pins, struct kv_err *err);

/* Raise or lower GSI @gsi (KVM_IRQ_LINE); only with KVM_IRQCHIP_FULL. Context: any thread. */
int kvm_irq_line(struct kvm_vm *vm, uint32_t gsi, bool level);

/*
 * Have KVM itself write the eventfd @fd when a guest writes @len bytes (4 or 8) with the value
 * @match at @gpa, instead of leaving the guest (@on), or stop that. @fd stays the caller's; KVM
 * keeps what is behind it until the VM goes.
 * Returns 0; -EEXIST; -ENOENT (to stop what is not there); -errno. Context: any thread.
 */
int kvm_ioeventfd(struct kvm_vm *vm, gpa_t gpa, unsigned len, uint64_t match, int fd, bool on);

/* Deliver a message-signalled interrupt (KVM_SIGNAL_MSI). Context: any thread. */
int kvm_msi_send(struct kvm_vm *vm, uint64_t address, uint32_t data);

/* Replace the whole GSI routing table with @count entries. Context: one thread at a time. */
int kvm_routes_set(struct kvm_vm *vm, const struct kvm_irq_routing_entry *entries, unsigned count);

/*
 * Create vCPU @id (0 is the boot CPU).
 * Returns 0; -EINVAL when KVM takes no such id; -ENOMEM; -errno.
 * Owns: the caller destroys it before the VM.
 */
int kvm_vcpu_create(struct kvm_vcpu **ret, struct kvm_vm *vm, unsigned id, struct kv_err *err);
void kvm_vcpu_destroy(struct kvm_vcpu *vcpu);

/* The kvm_run page shared with the kernel; valid until kvm_vcpu_destroy(). */
struct kvm_run *kvm_vcpu_page(struct kvm_vcpu *vcpu);

/*
 * Enter the guest until an exit (KVM_RUN).
 * Returns 0 with the exit in kvm_vcpu_page(); -EINTR after a signal or immediate_exit; -EAGAIN
 * when an AP waits for its start-up IPI; -EFAULT, -EINVAL, -ENOEXEC ... when KVM gave up, also
 * -EAGAIN when it could not start a thread of its own.
 * Context: the vCPU's own thread.
 */
int kvm_vcpu_enter(struct kvm_vcpu *vcpu);

/* Whether it is neither halted nor waits for its start-up. Context: as kvm_vcpu_enter(). */
bool kvm_vcpu_runnable(struct kvm_vcpu *vcpu);

/* State of a vCPU that is not running. Context: the vCPU's own thread once it has one. */
int kvm_cpuid_set(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid);
int kvm_regs_get(struct kvm_vcpu *vcpu, struct kvm_regs *regs);
int kvm_regs_set(struct kvm_vcpu *vcpu, const struct kvm_regs *regs);
int kvm_sregs_get(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs);
int kvm_sregs_set(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);
int kvm_lapic_get(struct kvm_vcpu *vcpu, struct kvm_lapic_state *lapic);
int kvm_lapic_set(struct kvm_vcpu *vcpu, const struct kvm_lapic_state *lapic);

/*
 * Set @count MSRs (at most 16).
 * Returns 0; -EIO when KVM refused one of them; -errno.
 */
int kvm_msrs_set(struct kvm_vcpu *vcpu, const struct kvm_msr_entry *entries, unsigned count);

/* The frequency of the TSC of @vcpu of @vm in kHz, or -errno (KVM_GET_TSC_KHZ). */
int kvm_tsc_khz(struct kvm_vm *vm, struct kvm_vcpu *vcpu);

/*
 * Have kvmclock tell the guest that it was stopped by its host, so that its watchdogs do not take
 * the pause for a hang (KVM_KVMCLOCK_CTRL).
 * Returns 0; -EINVAL when the guest does not use kvmclock; -errno. Context: the vCPU's own thread.
 */
int kvm_clock_stopped(struct kvm_vcpu *vcpu);

/* Arm or disarm guest debugging (KVM_SET_GUEST_DEBUG). Context: the vCPU's own thread. */
int kvm_debug_set(struct kvm_vcpu *vcpu, const struct kvm_guest_debug *debug);

/* Translate guest-virtual @linear by the vCPU's page tables (KVM_TRANSLATE). -ENOENT: unmapped. */
int kvm_translate(struct kvm_vcpu *vcpu, uint64_t linear, gpa_t *ret);

#endif
