/* SPDX-License-Identifier: Apache-2.0 */
/*
 * floor: the smallest program that starts a guest the way any monitor must.
 *
 *	floor KERNEL [--initrd FILE] [--memory MIB] [--irqchip split|full|none]
 *	      [--slots first|last] [--until mmio|reset] [--timing]
 *
 * It opens /dev/kvm, creates a VM, gives it its RAM (one slot; two from 3 GiB up, because of the
 * 32-bit hole) with the kernel's segments and the initrd mapped privately from their files, an
 * interrupt controller, one vCPU with the host's CPUID, and the registers that the kernel's boot
 * protocol asks for (PVH where the ELF has the note, the 64-bit Linux protocol otherwise). Then it
 * runs the guest until it writes 123 to MMIO 0xd0000000 or 0xc0000000 (--until mmio), or resets
 * through port 0x64 (--until reset), and exits with 0. --slots last sets the memory slots behind
 *the interrupt controller, to see what that order costs on the kernel at hand.
 *
 * What this leaves out, and a monitor has: checks of the image (the kernel file is trusted), of
 * overlaps and of KVM's capabilities; any device, any answer to port or MMIO reads (they read as
 * ones); ACPI and MP tables, MSRs, an FPU state, CPUID filtering, a kernel command line, signals,
 * threads, a log, orderly teardown (exit() closes all). KVM_SET_TSS_ADDR and
 * KVM_SET_IDENTITY_MAP_ADDR, which Intel processors without unrestricted guests need, are missing
 * too. Build: cc -O2 -static -o floor floor.c floor_vm.c
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "floor.h"

#define MAX_STEPS 16

struct floor {
	const char *kernel;
	const char *initrd;
	const char *irqchip;
	uint64_t ram_bytes;
	int slots_last;
	int until_reset;
	int timing;
	int nr_steps;
	const char *step_name[MAX_STEPS];
	uint64_t step_ns[MAX_STEPS];
};

static void step(struct floor *f, const char *name)
{
	if (!f->timing || f->nr_steps == MAX_STEPS)
		return;
	f->step_name[f->nr_steps] = name;
	f->step_ns[f->nr_steps++] = now_ns();
}

static void print_steps(const struct floor *f)
{
	for (int i = 1; i <= f->nr_steps; i++) {
		int total = i == f->nr_steps;
		uint64_t ns = f->step_ns[total ? i - 1 : i] - f->step_ns[total ? 0 : i - 1];
		char line[64];
		size_t at = sizeof(line);
		const char *name = total ? "total" : f->step_name[i];

		line[--at] = '\n';
		do
			line[--at] = (char)('0' + ns % 10);
		while (ns /= 10);
		line[--at] = ' ';
		for (size_t n = strlen(name); n; n--)
			line[--at] = name[n - 1];
		if (write(2, line + at, sizeof(line) - at) < 0)
			_exit(3);
	}
}

static int is_one_of(const char *s, const char *a, const char *b, const char *c)
{
	return !strcmp(s, a) || !strcmp(s, b) || !strcmp(s, c);
}

static void read_args(struct floor *f, int argc, char **argv)
{
	f->irqchip = "split";
	f->ram_bytes = 256ULL << 20;
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		const char *val = i + 1 < argc ? argv[i + 1] : "";

		if (!strcmp(arg, "--timing")) {
			f->timing = 1;
			continue;
		}
		if (strncmp(arg, "--", 2)) {
			f->kernel = arg;
			continue;
		}
		i++;
		if (!strcmp(arg, "--initrd") && *val)
			f->initrd = val;
		else if (!strcmp(arg, "--memory") && atoll(val) >= 4)
			f->ram_bytes = (uint64_t)atoll(val) << 20;
		else if (!strcmp(arg, "--irqchip") && is_one_of(val, "split", "full", "none"))
			f->irqchip = val;
		else if (!strcmp(arg, "--slots") && is_one_of(val, "first", "last", "last"))
			f->slots_last = *val == 'l';
		else if (!strcmp(arg, "--until") && is_one_of(val, "mmio", "reset", "reset"))
			f->until_reset = *val == 'r';
		else
			die_with(arg, EINVAL);
	}
	if (!f->kernel)
		die_with("usage: floor KERNEL [options]", EINVAL);
}

int main(int argc, char **argv)
{
	struct floor f = {0};
	struct floor_images images = {0};
	struct floor_kvm kvm = {0};
	struct floor_vm vm = {.images = &images};

	read_args(&f, argc, argv);
	vm.ram_bytes = f.ram_bytes;
	step(&f, "start");
	floor_kvm_open(&kvm);
	step(&f, "open");
	floor_images_open(&images, f.kernel, f.initrd);
	floor_memory(&vm);
	step(&f, "memory");
	floor_create(&vm, &kvm);
	step(&f, "create-vm");
	if (!f.slots_last) {
		floor_slots(&vm);
		step(&f, "slot");
	}
	floor_irqchip(&vm, f.irqchip);
	step(&f, "irqchip");
	if (f.slots_last) {
		floor_slots(&vm);
		step(&f, "slot");
	}
	floor_kvm_size(&kvm);
	floor_vcpu(&vm, &kvm);
	step(&f, "create-vcpu");
	floor_kvm_cpuid(&kvm);
	floor_cpuid(&vm, &kvm);
	step(&f, "cpuid");
	floor_registers(&vm);
	step(&f, "registers");
	do {
		if (ioctl(vm.vcpu, KVM_RUN, 0) < 0)
			die("KVM_RUN");
	} while (!floor_ended(&vm, f.until_reset));
	step(&f, "run");
	if (f.timing)
		print_steps(&f);
	_exit(0);
}
