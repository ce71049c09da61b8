/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BENCH_FLOOR_H
#define KV_BENCH_FLOOR_H

#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

/* What floor and floor-loop share: the bare KVM calls, each ending the program when it fails. */

#define FLOOR_PAGE	   4096ULL
#define FLOOR_HOLE_START   0xc0000000ULL
#define FLOOR_HOLE_END	   0x100000000ULL
#define FLOOR_SEGMENTS_MAX 16

/* A part of the kernel file that belongs into guest RAM. */
struct floor_segment {
	uint64_t gpa;
	uint64_t offset;
	uint64_t bytes;
};

/* The images, opened and read once per process. */
struct floor_images {
	int kernel_fd;
	int initrd_fd;	       /* -1: none */
	uint64_t initrd_bytes; /* 0: none */
	uint64_t entry;	       /* guest address of the first instruction */
	int pvh;	       /* entry comes from the PVH note */
	int segment_count;
	struct floor_segment segments[FLOOR_SEGMENTS_MAX];
};

/* One VM. */
struct floor_vm {
	const struct floor_images *images;
	uint64_t ram_bytes;
	uint64_t low_bytes; /* RAM below the hole */
	uint8_t *ram;
	int vm, vcpu;
	struct kvm_run *run;
};

/* What KVM says once per process. */
struct floor_kvm {
	int fd;
	size_t run_bytes;
	struct kvm_cpuid2 *cpuid;
};

/* Print "floor: @what: " and what errno (or @err) means, and exit with 2. */
void die(const char *what);
void die_with(const char *what, int err);

/* CLOCK_MONOTONIC in ns. */
uint64_t now_ns(void);

/* Open /dev/kvm. */
void floor_kvm_open(struct floor_kvm *kvm);

/* Ask for the size of kvm_run, and for the supported CPUID leaves. Once per process each. */
void floor_kvm_size(struct floor_kvm *kvm);
void floor_kvm_cpuid(struct floor_kvm *kvm);

/* Open and read the kernel's headers; @initrd may be NULL. */
void floor_images_open(struct floor_images *images, const char *kernel, const char *initrd);

/* Map RAM, lay the images over it and write what the boot protocol asks for. */
void floor_memory(struct floor_vm *vm);

/* KVM_CREATE_VM; the slots; the interrupt controller ("split", "full", "none"). */
void floor_create(struct floor_vm *vm, const struct floor_kvm *kvm);
void floor_slots(const struct floor_vm *vm);
void floor_irqchip(const struct floor_vm *vm, const char *kind);

/* KVM_CREATE_VCPU and its kvm_run; its CPUID; its registers. */
void floor_vcpu(struct floor_vm *vm, const struct floor_kvm *kvm);
void floor_cpuid(const struct floor_vm *vm, const struct floor_kvm *kvm);
void floor_registers(const struct floor_vm *vm);

/* Whether the exit in kvm_run is the boot byte (@until_reset 0) or the reset; answers reads. */
int floor_ended(const struct floor_vm *vm, int until_reset);

#endif
