/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_MMIO_H
#define KV_VIRTIO_MMIO_H

#include "bus/bus.h"
#include "bus/irq.h"
#include "virtio/vdev.h"

/* The memory-mapped transport, version 2 (virtio 1.3 §4.2). */
struct vmmio;

#define VMMIO_BYTES 0x200 /* registers and configuration space of one device */

struct vmmio_params {
	struct bus *bus; /* borrowed, as vd */
	struct vdev *vd;
	gpa_t base;	     /* VMMIO_BYTES from here, aligned to them */
	struct irq_line irq; /* edge-triggered */
	/*
	 * A queue turned out to be busy: let KVM write @fd itself when the driver kicks it (@len
	 * bytes at @gpa with the value @index), for as long as the VM lives. Called once a queue,
	 * from vCPU threads without locks; NULL: never. When it cannot be had, kicks stay exits.
	 */
	void (*ioeventfd)(void *ctx, gpa_t gpa, unsigned len, uint32_t index, int fd);
	void *ctx;
};

/*
 * Put the registers of @params->vd on the bus and take its interrupts.
 * Returns 0; -ENOMEM; bus_add_mmio()'s errors. Owns: destroyed after the vCPUs ended, before @vd.
 */
int vmmio_create(struct vmmio **ret, const struct vmmio_params *params);
void vmmio_destroy(struct vmmio *mmio);

#endif
