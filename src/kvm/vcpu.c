/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "kvm/internal.h"

#define MSRS_PER_CALL 16

int kvm_vcpu_create(struct kvm_vcpu **ret, struct kvm_vm *vm, unsigned id, struct kv_err *err)
{
	struct kvm_vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int r;

	if (!vcpu)
		return err_set(err, -ENOMEM, "vCPU %u: out of memory", id);
	r = kvm_call(vm->fd, KVM_CREATE_VCPU, id);
	if (r < 0) {
		err_set(err, r, "vCPU %u: KVM_CREATE_VCPU failed: %s", id, err_text(r));
		goto err_free;
	}
	vcpu->fd = r;
	vcpu->run_bytes = (size_t)vm->kvm->run_bytes;
	vcpu->run = mmap(NULL, vcpu->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		r = err_set(
			err, -errno, "vCPU %u: mapping kvm_run failed: %s", id, err_text(errno));
		goto err_close;
	}
	*ret = vcpu;
	return 0;

err_close:
	fd_close(&vcpu->fd);
err_free:
	free(vcpu);
	return r;
}

void kvm_vcpu_destroy(struct kvm_vcpu *vcpu)
{
	if (!vcpu)
		return;
	munmap(vcpu->run, vcpu->run_bytes);
	fd_close(&vcpu->fd);
	free(vcpu);
}

struct kvm_run *kvm_vcpu_page(struct kvm_vcpu *vcpu)
{
	return vcpu->run;
}

int kvm_vcpu_enter(struct kvm_vcpu *vcpu)
{
	/* Not kvm_call(): EINTR is how a kick arrives. */
	return ioctl(vcpu->fd, KVM_RUN, 0) < 0 ? -errno : 0;
}

bool kvm_vcpu_runnable(struct kvm_vcpu *vcpu)
{
	struct kvm_mp_state state = {0};

	return kvm_call(vcpu->fd, KVM_GET_MP_STATE, (unsigned long)&state) >= 0 &&
	       state.mp_state == KVM_MP_STATE_RUNNABLE;
}

int kvm_cpuid_set(struct kvm_vcpu *vcpu, const struct kvm_cpuid2 *cpuid)
{
	return kvm_call(vcpu->fd, KVM_SET_CPUID2, (unsigned long)cpuid);
}

int kvm_regs_get(struct kvm_vcpu *vcpu, struct kvm_regs *regs)
{
	return kvm_call(vcpu->fd, KVM_GET_REGS, (unsigned long)regs);
}

int kvm_regs_set(struct kvm_vcpu *vcpu, const struct kvm_regs *regs)
{
	return kvm_call(vcpu->fd, KVM_SET_REGS, (unsigned long)regs);
}

int kvm_sregs_get(struct kvm_vcpu *vcpu, struct kvm_sregs *sregs)
{
	return kvm_call(vcpu->fd, KVM_GET_SREGS, (unsigned long)sregs);
}

int kvm_sregs_set(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs)
{
	return kvm_call(vcpu->fd, KVM_SET_SREGS, (unsigned long)sregs);
}

int kvm_lapic_get(struct kvm_vcpu *vcpu, struct kvm_lapic_state *lapic)
{
	return kvm_call(vcpu->fd, KVM_GET_LAPIC, (unsigned long)lapic);
}

int kvm_lapic_set(struct kvm_vcpu *vcpu, const struct kvm_lapic_state *lapic)
{
	return kvm_call(vcpu->fd, KVM_SET_LAPIC, (unsigned long)lapic);
}

int kvm_msrs_set(struct kvm_vcpu *vcpu, const struct kvm_msr_entry *entries, unsigned count)
{
	/* The entries follow the head, whose own last member has no size. */
	union {
		struct kvm_msrs head;
		uint8_t room[sizeof(struct kvm_msrs) + MSRS_PER_CALL * sizeof(*entries)];
	} msrs = {.head.nmsrs = count};
	int r;

	if (count > MSRS_PER_CALL)
		return -E2BIG;
	memcpy(msrs.room + sizeof(msrs.head), entries, count * sizeof(*entries));
	r = kvm_call(vcpu->fd, KVM_SET_MSRS, (unsigned long)&msrs);
	if (r < 0)
		return r;
	return r == (int)count ? 0 : -EIO;
}

int kvm_tsc_khz(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	/* The VM's own call came with 5.16, and spares loading the vCPU's state. */
	int r = kvm_call(vm->fd, KVM_GET_TSC_KHZ, 0);

	return r < 0 ? kvm_call(vcpu->fd, KVM_GET_TSC_KHZ, 0) : r;
}

int kvm_clock_stopped(struct kvm_vcpu *vcpu)
{
	return kvm_call(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
}

int kvm_debug_set(struct kvm_vcpu *vcpu, const struct kvm_guest_debug *debug)
{
	return kvm_call(vcpu->fd, KVM_SET_GUEST_DEBUG, (unsigned long)debug);
}

int kvm_translate(struct kvm_vcpu *vcpu, uint64_t linear, gpa_t *ret)
{
	struct kvm_translation tr = {.linear_address = linear};
	int r = kvm_call(vcpu->fd, KVM_TRANSLATE, (unsigned long)&tr);

	if (r < 0)
		return r;
	if (!tr.valid)
		return -ENOENT;
	*ret = tr.physical_address;
	return 0;
}
