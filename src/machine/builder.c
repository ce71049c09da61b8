/* SPDX-License-Identifier: Apache-2.0 */
/* The board: which part follows which, and at which address. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "machine/internal.h"
#include "x86/cpuid.h"
#include "x86/layout.h"
#include "x86/mptable.h"

/* True when @word stands in the command line, alone or as "word=...". */
static bool cmdline_has(const char *cmdline, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = cmdline; (at = strstr(at, word)); at += len)
		if ((at == cmdline || at[-1] == ' ') && strchr(" =", at[len]))
			return true;
	return false;
}

/* Does the last "reboot=" of the command line choose the triple fault? */
static bool reboot_by_fault(const char *cmdline)
{
	static const char key[] = "reboot=";
	const char *value = NULL;

	for (const char *at = cmdline; (at = strstr(at, key)); at += strlen(key))
		if (at == cmdline || at[-1] == ' ')
			value = at + strlen(key);
	/* Modes are separated by commas; each is known by its first letter. */
	while (value) {
		if (*value == 't')
			return true;
		value += strcspn(value, " ,");
		value = *value == ',' ? value + 1 : NULL;
	}
	return false;
}

/*
 * A kernel that keeps its local APIC, I/O APIC and kvmclock needs neither PIC nor PIT, and both
 * cost time when the VM starts and ends. They exist when the command line takes one of these away.
 */
static bool legacy_wanted(const struct vm_config *config)
{
	static const char *const words[] = {
		"noapic", "nolapic", "disableapic", "no-kvmclock", "notsc", "clocksource=pit"};

	if (config->legacy != VM_LEGACY_AUTO)
		return config->legacy == VM_LEGACY_ON;
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (cmdline_has(config->cmdline, words[i]))
			return true;
	return false;
}

static int slot_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct machine *m = ctx;

	return kvm_slot_set(m->vm, region, gpa, bytes, host, 0);
}

static void slot_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	struct machine *m = ctx;
	int r = kvm_slot_set(m->vm, region, gpa, 0, NULL, 0);
	char size[24];

	/* Nothing goes wrong but the books: the same slot may be set again. */
	if (!r || m->told_stuck)
		return;
	m->told_stuck = true;
	log_msg(m->p.log, LOG_LEVEL_WARN,
		"memory: KVM keeps the slot of %s at 0x%" PRIx64
		" that was to go (%s); what the guest writes there stays in use",
		size_format(bytes, size, sizeof(size)), gpa, err_text(r));
}

static int vm_build(struct machine *m, struct kv_err *err)
{
	struct gmem_listener slots = {.map = slot_map, .unmap = slot_unmap};
	char size[24];
	int r;

	/* All RAM above the hole is one slot. */
	if (m->p.config->memory_bytes > LAYOUT_HOLE + KVM_SLOT_BYTES_MAX)
		return err_set(err, -EINVAL,
			"--memory: %s is more than KVM takes, which is 8195G less 4K",
			size_format(m->p.config->memory_bytes, size, sizeof(size)));
	r = kvm_vm_create(&m->vm, m->p.kvm, err);
	if (r < 0)
		return r;
	r = kvm_vt_pages_set(m->vm, LAYOUT_TSS, LAYOUT_IDENTITY);
	if (r < 0)
		return err_set(err, r, "KVM_SET_TSS_ADDR failed: %s", err_text(r));
	r = machine_mems_plan(m, err);
	if (r < 0)
		return r;
	/* Slots before any interrupt controller: 0.1 ms instead of 7 (docs/performance.md). */
	slots.ctx = m;
	r = gmem_listen(m->gm, &slots);
	if (r < 0)
		return err_set(err, r, "KVM refused the guest's memory: %s", err_text(r));
	m->listening = true;
	m->irqchip_kind = legacy_wanted(m->p.config) ? KVM_IRQCHIP_FULL : KVM_IRQCHIP_SPLIT;
	r = machine_lines_plan(m, err);
	if (!r)
		r = kvm_irqchip_create(m->vm, m->irqchip_kind, m->pins, err);
	timeline_mark(m->p.tl, MARK_VM);
	return r;
}

static void guest_ended(void *ctx, enum guest_end why)
{
	machine_finish(ctx, why == GUEST_END_POWEROFF ? MACHINE_POWEROFF : MACHINE_RESET, "");
}

static void console_quit(void *ctx)
{
	machine_finish(ctx, MACHINE_QUIT, "");
}

/* Its host side goes on while the machine is paused: somebody may want to end it there. */
static int console_open(struct machine *m, struct kv_err *err)
{
	const struct vm_config *config = m->p.config;

	switch (config->serial) {
	case VM_SERIAL_STDIO:
		return chardev_stdio(&m->console, m->trunk, err);
	case VM_SERIAL_FILE:
		return chardev_file(&m->console, m->trunk, config->serial_path, err);
	case VM_SERIAL_PTY:
		return chardev_pty(&m->console, m->trunk, err);
	case VM_SERIAL_UNIX:
		return chardev_unix(&m->console, m->trunk, config->serial_path, err);
	case VM_SERIAL_NONE:
		break;
	}
	return 0;
}

static int serial_build(struct machine *m, struct kv_err *err)
{
	struct irq_line irq = irqchip_line(m->irqchip, LAYOUT_IRQ_SERIAL);
	int r;

	if (m->p.config->serial == VM_SERIAL_NONE)
		return 0;
	r = console_open(m, err);
	if (r < 0)
		return r;
	r = serial_create(&m->serial, m->bus, LAYOUT_PORT_SERIAL, &irq, m->console, m->p.tl);
	if (r < 0)
		return err_set(err, r, "serial port: %s", err_text(r));
	serial_on_quit(m->serial, console_quit, m);
	return 0;
}

/* The order is that of addresses and lines, and for Linux that of discovery. */
static int virtio_build(struct machine *m, struct kv_err *err)
{
	const struct vm_config *config = m->p.config;
	int r = 0;

	for (unsigned i = 0; !r && i < config->disk_count; i++)
		r = machine_add_disk(m, &config->disks[i], err);
	for (unsigned i = 0; !r && i < config->net_count; i++)
		r = machine_add_net(m, &config->nets[i], err);
	if (!r && config->rng)
		r = machine_add_rng(m, err);
	for (unsigned i = 0; !r && i < config->mem_count; i++)
		r = machine_add_mem(m, i, err);
	return r;
}

static int devices_build(struct machine *m, struct kv_err *err)
{
	struct legacy_end end = {guest_ended, m};
	int r = bus_create(&m->bus);

	if (!r)
		r = irqchip_create(
			&m->irqchip, m->vm, m->irqchip_kind, m->pins, m->bus, LAYOUT_IOAPIC);
	if (!r)
		r = i8042_add(&m->i8042, m->bus, end);
	if (!r)
		r = acpi_regs_add(&m->acpi_regs, m->bus, LAYOUT_PORT_ACPI, end);
	if (!r && m->irqchip_kind == KVM_IRQCHIP_FULL)
		r = acpi_pm1_add(&m->acpi_pm1, m->bus, LAYOUT_PORT_PM1_EVENT, end);
	if (!r)
		r = boot_timer_add(&m->boot_timer, m->bus, m->p.tl, m->p.booted, m->p.ctx);
	if (!r)
		r = trace_ports_add(&m->trace_ports, m->bus, m->p.tl, m->p.log);
	if (r < 0)
		return err_set(err, r, "devices: %s", err_text(r));
	m->trace_ports_added = true;
	r = serial_build(m, err);
	if (!r)
		r = virtio_build(m, err);
	timeline_mark(m->p.tl, MARK_DEVICES);
	return r;
}

/* Leave tables, command line and boot structures in guest memory. */
static int tables_write(struct machine *m, struct x86_boot *boot, struct kv_err *err)
{
	const struct image_plan *plan = image_plan(m->p.image);
	struct acpi_config acpi = {
		.cpus = m->cpu_count,
		.serial = m->serial != NULL,
		.legacy_irqchip = m->irqchip_kind == KVM_IRQCHIP_FULL,
	};
	const char *cmdline;
	int r = machine_announce(m, &acpi, err);

	machine_mems_tell(m, &acpi);
	if (!r)
		r = acpi_write(m->gm, &acpi, &m->rsdp, err);
	if (!r)
		r = mptable_write(m->gm, m->cpu_count, acpi.irqs, err);
	if (r < 0)
		return r;
	cmdline = m->cmdline ? m->cmdline : m->p.config->cmdline;
	if (strlen(cmdline) > plan->cmdline_max)
		return err_set(err, -E2BIG,
			"--append: the command line has %zu bytes%s, but this kernel takes at most "
			"%u",
			strlen(cmdline), m->cmdline ? " with its virtio devices" : "",
			plan->cmdline_max);
	x86_memmap_make(&m->memmap, m->p.config->memory_bytes);
	*boot = (struct x86_boot){
		.protocol = plan->protocol == IMAGE_PVH ? X86_PVH : X86_LINUX,
		.entry = plan->entry,
		.cmdline = cmdline,
		.initrd_gpa = m->initrd_gpa,
		.initrd_bytes = m->p.initrd->bytes,
		.rsdp = m->rsdp,
		.memmap = &m->memmap,
		.setup_header = plan->setup_header_bytes ? plan->setup_header : NULL,
		.setup_header_bytes = plan->setup_header_bytes,
	};
	return x86_boot_write(m->gm, boot, err);
}

/* Give vCPU @index its CPUID and MSRs, and the boot CPU its entry state. */
static int vcpu_prepare(struct machine *m, unsigned index, const struct x86_boot *boot,
	const struct kvm_cpuid2 *base, struct kvm_cpuid2 *cpuid, struct x86_cpu *cpu)
{
	struct kvm_vcpu *kvm = vcpu_kvm(m->vcpus[index]);
	struct kvm_msr_entry msrs[X86_MSRS_MAX];
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int r;

	cpu->index = index;
	x86_cpuid_make(cpuid, base, cpu);
	r = kvm_cpuid_set(kvm, cpuid);
	if (!r)
		r = kvm_msrs_set(kvm, msrs, x86_msrs_make(msrs, cpu));
	if (r < 0 || index > 0)
		return r;
	r = kvm_sregs_get(kvm, &sregs);
	if (r < 0)
		return r;
	x86_boot_regs(boot, &sregs, &regs);
	r = kvm_sregs_set(kvm, &sregs);
	return r < 0 ? r : kvm_regs_set(kvm, &regs);
}

/* More RAM than the guest's CPU has address bits for would be lost to it silently. */
static int width_check(const struct machine *m, const struct kvm_cpuid2 *cpuid, struct kv_err *err)
{
	uint64_t bytes = m->p.config->memory_bytes;
	uint64_t end = bytes <= LAYOUT_HOLE ? bytes : bytes - LAYOUT_HOLE + LAYOUT_HOLE_END;
	unsigned bits = x86_phys_bits(cpuid);
	char size[24];

	if (bits < 64 && end > 1ULL << bits)
		return err_set(err, -EINVAL,
			"--memory: %s is more than this CPU's %u physical address bits reach",
			size_format(bytes, size, sizeof(size)), bits);
	return 0;
}

static int cpu_count_check(const struct machine *m, struct kv_err *err)
{
	int max = m->cpu_count > 1 ? kvm_cap(m->p.kvm, KVM_CAP_MAX_VCPUS) : 1;

	if (m->cpu_count > 1 && (int)m->cpu_count > max)
		return err_set(err, -EINVAL, "--cpus: %u is more than the %d that this KVM offers",
			m->cpu_count, max);
	return 0;
}

/* Create and prepare all vCPUs; @cpuid is room for one CPUID made from @base. */
static int vcpus_make(struct machine *m, const struct x86_boot *boot, const struct kvm_cpuid2 *base,
	struct kvm_cpuid2 *cpuid, struct kv_err *err)
{
	struct x86_cpu cpu = {.count = m->cpu_count, .apic_x2apic = true};
	struct vcpu_params params = {
		.vm = m->vm,
		.bus = m->bus,
		.gm = m->gm,
		.tl = m->p.tl,
		.ops = &machine_vcpu_ops,
		.ctx = m,
	};

	cpu.tsc_deadline = kvm_cap(m->p.kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	for (unsigned i = 0; i < m->cpu_count; i++) {
		int r;

		params.index = i;
		params.exits = exits_cpu(m->p.exits, i);
		r = vcpu_create(&m->vcpus[i], &params, err);
		if (r < 0)
			return r;
		if (i == 0) {
			int khz = kvm_tsc_khz(m->vm, vcpu_kvm(m->vcpus[0]));

			cpu.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
		}
		r = vcpu_prepare(m, i, boot, base, cpuid, &cpu);
		if (!r && m->marks.active)
			r = boot_marks_arm(&m->marks, m->vcpus[i]);
		if (r < 0)
			return err_set(err, r, "vCPU %u: KVM refused its initial state: %s", i,
				err_text(r));
	}
	return 0;
}

static int vcpus_build(struct machine *m, const struct x86_boot *boot, struct kv_err *err)
{
	const struct kvm_cpuid2 *base = NULL;
	struct kvm_cpuid2 *cpuid;
	int r = kvm_cpuid_supported(m->p.kvm, &base);

	if (r < 0)
		return err_set(err, r, "KVM_GET_SUPPORTED_CPUID failed: %s", err_text(r));
	r = width_check(m, base, err);
	if (!r)
		r = cpu_count_check(m, err);
	if (r < 0)
		return r;
	cpuid = malloc(sizeof(*cpuid) + (base->nent + X86_CPUID_EXTRA) * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return err_set(err, -ENOMEM, "vCPUs: out of memory");
	r = vcpus_make(m, boot, base, cpuid, err);
	free(cpuid);
	timeline_mark(m->p.tl, MARK_VCPU);
	return r;
}

int machine_build(struct machine *m, struct kv_err *err)
{
	struct x86_boot boot;
	int r = vm_build(m, err);

	if (!r)
		r = devices_build(m, err);
	if (!r)
		r = tables_write(m, &boot, err);
	if (r < 0)
		return r;
	m->reset_by_fault = reboot_by_fault(m->p.config->cmdline);
	if (m->p.boot_marks)
		boot_marks_init(&m->marks, m->p.image, m->p.tl);
	return vcpus_build(m, &boot, err);
}
