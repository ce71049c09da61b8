/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_RNG_H
#define KV_VIRTIO_RNG_H

#include "virtio/limit.h"
#include "virtio/vdev.h"

/* Entropy device (virtio 1.3 §5.4): fills what the driver offers from getrandom(2). */
struct vrng;

struct vrng_params {
	const struct gmem *gm; /* borrowed, as loop and log */
	struct loop *loop;
	const struct kv_log *log;
	struct limit_rates limit;
};

/* Returns 0 or vdev_create()'s errors. Owns: destroyed after its transport. */
int vrng_create(struct vrng **ret, const struct vrng_params *params);
void vrng_destroy(struct vrng *rng);

/* The device core, to be given to a transport. */
struct vdev *vrng_vdev(struct vrng *rng);

#endif
