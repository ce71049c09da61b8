/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts every CPU of the emulated host some times a second, for the emulator loses one now and
 * then: its VMEXIT changes the CPU's set of pending interrupts without the lock under which its
 * timer thread adds to it. When what was lost is the one-shot timer of a CPU that is in a guest,
 * that guest runs on for good and nothing else does on this CPU. The next interrupt of any kind
 * shows the emulator the lost one as well, so the CPUs wake each other, by tasks that preempt.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CPUS_MAX  64
#define PERIOD_MS 100

/* Wakes the other CPUs unless one of them did so first. */
static void pulse(const int *fds, long cpus, long own)
{
	struct pollfd wait = {.fd = fds[own], .events = POLLIN};
	uint64_t one = 1, count;

	for (;;) {
		int woken = poll(&wait, 1, PERIOD_MS);

		if (woken > 0 && read(fds[own], &count, sizeof(count)) < 0)
			perror("testbed pulse: read");
		for (long i = 0; !woken && i < cpus; i++)
			if (i != own && write(fds[i], &one, sizeof(one)) < 0)
				perror("testbed pulse: write");
	}
}

int main(void)
{
	struct sched_param param = {.sched_priority = 1};
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int fds[CPUS_MAX];

	cpus = cpus < CPUS_MAX ? cpus : CPUS_MAX;
	for (long i = 0; i < cpus; i++)
		if ((fds[i] = eventfd(0, 0)) < 0)
			return perror("testbed pulse: eventfd"), 1;
	for (long i = 0; i < cpus; i++) {
		pid_t pid = fork();
		cpu_set_t set;

		if (pid < 0)
			return perror("testbed pulse: fork"), 1;
		if (pid)
			continue;
		CPU_ZERO(&set);
		CPU_SET((size_t)i, &set);
		if (sched_setaffinity(0, sizeof(set), &set) ||
			sched_setscheduler(0, SCHED_FIFO, &param))
			perror("testbed pulse: take its CPU");
		pulse(fds, cpus, i);
	}
	return 0;
}
