/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "kvm/internal.h"

int kvm_vm_create(struct kvm_vm **ret, struct kvm *kvm, struct kv_err *err)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return err_set(err, -ENOMEM, "KVM: out of memory");
	vm->kvm = kvm;
	r = kvm_call(kvm->fd, KVM_CREATE_VM, 0);
	if (r < 0) {
		free(vm);
		return err_set(err, r, "KVM_CREATE_VM failed: %s", err_text(r));
	}
	vm->fd = r;
	*ret = vm;
	return 0;
}

void kvm_vm_destroy(struct kvm_vm *vm)
{
	if (!vm)
		return;
	fd_close(&vm->fd);
	free(vm);
}

int kvm_vm_fd(const struct kvm_vm *vm)
{
	return vm->fd;
}

int kvm_slot_set(
	struct kvm_vm *vm, uint32_t slot, gpa_t gpa, uint64_t bytes, void *host, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)host,
	};

	return kvm_call(vm->fd, KVM_SET_USER_MEMORY_REGION, (unsigned long)&region);
}

int kvm_vt_pages_set(struct kvm_vm *vm, gpa_t tss, gpa_t identity)
{
	int r = kvm_call(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, (unsigned long)&identity);

	return r < 0 ? r : kvm_call(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)tss);
}

int kvm_irqchip_create(
	struct kvm_vm *vm, enum kvm_irqchip_kind kind, unsigned ioapic_pins, struct kv_err *err)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = ioapic_pins};
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int r;

	if (kind == KVM_IRQCHIP_SPLIT) {
		r = kvm_call(vm->fd, KVM_ENABLE_CAP, (unsigned long)&split);
		return r < 0 ? err_set(err, r, "KVM_CAP_SPLIT_IRQCHIP failed: %s", err_text(r)) : 0;
	}
	r = kvm_call(vm->fd, KVM_CREATE_IRQCHIP, 0);
	if (r < 0)
		return err_set(err, r, "KVM_CREATE_IRQCHIP failed: %s", err_text(r));
	r = kvm_call(vm->fd, KVM_CREATE_PIT2, (unsigned long)&pit);
	return r < 0 ? err_set(err, r, "KVM_CREATE_PIT2 failed: %s", err_text(r)) : 0;
}

int kvm_irq_line(struct kvm_vm *vm, uint32_t gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	return kvm_call(vm->fd, KVM_IRQ_LINE, (unsigned long)&line);
}

int kvm_ioeventfd(struct kvm_vm *vm, gpa_t gpa, unsigned len, uint64_t match, int fd, bool on)
{
	struct kvm_ioeventfd event = {
		.datamatch = match,
		.addr = gpa,
		.len = len,
		.fd = fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return kvm_call(vm->fd, KVM_IOEVENTFD, (unsigned long)&event);
}

int kvm_msi_send(struct kvm_vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};
	int r = kvm_call(vm->fd, KVM_SIGNAL_MSI, (unsigned long)&msi);

	return r < 0 ? r : 0;
}

int kvm_routes_set(struct kvm_vm *vm, const struct kvm_irq_routing_entry *entries, unsigned count)
{
	MEM_SCOPED struct kvm_irq_routing *table =
		calloc(1, sizeof(*table) + count * sizeof(*entries));

	if (!table)
		return -ENOMEM;
	table->nr = count;
	memcpy(table->entries, entries, count * sizeof(*entries));
	return kvm_call(vm->fd, KVM_SET_GSI_ROUTING, (unsigned long)table);
}
