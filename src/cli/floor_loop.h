/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_FLOOR_LOOP_H
#define KV_CLI_FLOOR_LOOP_H

#include <sched.h>
#include <stdint.h>

/* How long each step of one VM took; what floor-loop prints and `kvick bench halt` reads. */
struct floor_record {
	uint64_t memory_ns; /* RAM mapped, images laid over it, boot structures written */
	uint64_t vm_ns;	    /* KVM VM, slots, interrupt controller */
	uint64_t vcpu_ns;   /* vCPU, CPUID, registers */
	uint64_t run_ns;    /* thread started, until the guest's boot byte arrived */
	uint64_t stop_ns;   /* guest left, thread joined */
	uint64_t close_ns;  /* descriptors closed, RAM unmapped */
	uint64_t moved;	    /* 1: the thread ran on another CPU than the one that started it */
};

/*
 * Take the calling thread to the CPU that is @nth, counted around, of @allowed, and let it use all
 * of those again. Both sides begin each VM with it, outside of what is timed: the kernel does the
 * waiting of KVM's slots on the boot CPU, so that a maker elsewhere has just woken that one when it
 * starts a thread. Without @allowed (more CPUs than a cpu_set_t has) nothing happens. Context: any
 * thread.
 */
static inline void bench_place(const cpu_set_t *allowed, unsigned nth)
{
	unsigned count = (unsigned)CPU_COUNT(allowed);
	cpu_set_t one;

	if (!count)
		return;
	nth %= count;
	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, allowed) || nth--)
			continue;
		CPU_SET(cpu, &one);
		break;
	}
	sched_setaffinity(0, sizeof(one), &one);
	sched_setaffinity(0, sizeof(*allowed), allowed);
}

#endif
