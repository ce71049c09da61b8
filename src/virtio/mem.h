/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_MEM_H
#define KV_VIRTIO_MEM_H

#include "gmem/hot.h"
#include "virtio/vdev.h"

/*
 * Memory device (virtio 1.3 §5.15): the host says how much memory the guest shall have, the
 * guest's driver plugs and unplugs blocks of an area until that is so.
 */
struct vmem;

struct vmem_params {
	struct gmem_hot *hot; /* borrowed, as all below; no one else changes it */
	const struct gmem *gm;
	struct loop *loop;
	const struct kv_log *log;
	uint64_t requested_bytes; /* a multiple of the block, at most the area's size */
	int node; /* ACPI proximity domain of the area, 0..65535; -1: none is told */
	/* Memory went; in the loop thread, without the device's lock. */
	void (*shrunk)(void *ctx);
	void *ctx;
};

/* Returns 0 or vdev_create()'s errors. Owns: destroyed after its transport and before the area. */
int vmem_create(struct vmem **ret, const struct vmem_params *params);
void vmem_destroy(struct vmem *mem);

/* The device core, to be given to a transport. */
struct vdev *vmem_vdev(struct vmem *mem);

/*
 * Ask the driver to make @bytes of memory plugged.
 * Returns 0; -EINVAL (not whole blocks, or more than the area has); -EAGAIN (no driver is there to
 * do it). Context: any thread, without the device's lock.
 */
int vmem_request(struct vmem *mem, uint64_t bytes);

/* How it is now. */
struct vmem_info {
	struct gmem_hot_info hot;
	uint64_t requested_bytes;
	bool driver;	  /* one is at work */
	uint64_t refused; /* requests of the driver that were not carried out */
};
/* Context: as vmem_request(). */
void vmem_info(struct vmem *mem, struct vmem_info *ret);

/* gmem_hot_resident(). Context: as vmem_request(). */
bool vmem_resident(struct vmem *mem, uint64_t *at, uint64_t *bytes);

#endif
