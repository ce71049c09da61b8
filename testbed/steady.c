/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the emulated host going where its emulator fails (README.md, Pitfalls).
 *
 * Lost interrupts. The emulator's VMEXIT changes the CPU's set of pending interrupts without the
 * lock under which its timer thread adds to it, so that one is lost now and then. When that was the
 * one-shot timer of a CPU that is in a guest, the guest runs on for good and nothing else does on
 * this CPU. The next interrupt of any kind shows the emulator the lost one as well, so the CPUs
 * wake each other some times a second, by tasks that preempt.
 *
 * Patched code. KVM patches the kernel's code with its first VM and after its last one, and with
 * the first and last local APIC that is off; rarely, the emulator goes on with a breakpoint that
 * was there in between. So a VM with a vCPU that never runs is kept, and there is no first or last.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CPUS_MAX  64
#define PERIOD_MS 100

/* It lives as long as the tasks that inherit its descriptors. */
static void vm_keep(void)
{
	struct kvm_enable_cap apics = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (kvm < 0 || vm < 0 || ioctl(vm, KVM_ENABLE_CAP, &apics) < 0 ||
		ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
		perror("testbed steady: keep a VM");
}

/* Wakes the other CPUs unless one of them did so first. */
static void pulse(const int *fds, long cpus, long own)
{
	struct pollfd wait = {.fd = fds[own], .events = POLLIN};
	uint64_t one = 1, count;

	for (;;) {
		int woken = poll(&wait, 1, PERIOD_MS);

		if (woken > 0 && read(fds[own], &count, sizeof(count)) < 0)
			perror("testbed steady: read");
		for (long i = 0; !woken && i < cpus; i++)
			if (i != own && write(fds[i], &one, sizeof(one)) < 0)
				perror("testbed steady: write");
	}
}

int main(void)
{
	struct sched_param param = {.sched_priority = 1};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int fds[CPUS_MAX];

	vm_keep();
	cpus = cpus < CPUS_MAX ? cpus : CPUS_MAX;
	for (long i = 0; i < cpus; i++)
		if ((fds[i] = eventfd(0, 0)) < 0)
			return perror("testbed steady: eventfd"), 1;
	for (long i = 0; i < cpus; i++) {
		pid_t pid = fork();
		cpu_set_t set;

		if (pid < 0)
			return perror("testbed steady: fork"), 1;
		if (pid)
			continue;
		CPU_ZERO(&set);
		CPU_SET((size_t)i, &set);
		if (sched_setaffinity(0, sizeof(set), &set) ||
			sched_setscheduler(0, SCHED_FIFO, &param))
			perror("testbed steady: take its CPU");
		pulse(fds, cpus, i);
	}
	return 0;
}
