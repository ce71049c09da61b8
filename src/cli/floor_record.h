/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_FLOOR_RECORD_H
#define KV_CLI_FLOOR_RECORD_H

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

#endif
