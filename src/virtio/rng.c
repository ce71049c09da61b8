/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define DEVICE_ID  4
#define QUEUE_SIZE 64

/*
 * Bytes filled at one kick. A driver may offer gigabytes; the loop thread has others to serve, so
 * it gets a share and is answered with a shorter length, which the device may choose (§5.4.6.1).
 */
#define BYTES_MAX 65536

struct vrng {
	struct vdev *vd;    /* [c] */
	struct limit limit; /* under the device's lock */
};

static int rng_activate(void *dev)
{
	return 0;
}

static void rng_reset(void *dev)
{
	struct vrng *rng = dev;

	limit_reset(&rng->limit);
}

static void rng_queue_stop(void *dev, unsigned index)
{
	rng_reset(dev);
}

/* Fill a chain's writable part, at most @max bytes. Returns how many. */
static uint32_t chain_fill(const struct vq_chain *chain, uint32_t max)
{
	uint32_t done = 0;

	for (unsigned i = 0; i < chain->in_count && done < max; i++) {
		const struct iovec *iov = &chain->iov[chain->out_count + i];
		size_t want = iov->iov_len < max - done ? iov->iov_len : max - done;
		ssize_t n = getrandom(iov->iov_base, want, 0);

		if (n < 0)
			break;
		done += (uint32_t)n;
		if ((size_t)n < want)
			break;
	}
	return done;
}

static void rng_kick(void *dev, unsigned index)
{
	struct vrng *rng = dev;
	struct vq *vq = vdev_queue(rng->vd, index);
	uint32_t left = BYTES_MAX;
	struct vq_chain chain;
	bool wait = limit_holds(&rng->limit, index);
	int r = 0;

	for (unsigned i = 0; i < QUEUE_SIZE && left && !wait && (r = vq_pop(vq, &chain)) > 0; i++) {
		uint32_t bytes = chain.in_bytes < left ? (uint32_t)chain.in_bytes : left;

		wait = !limit_take(&rng->limit, index, bytes);
		if (wait) {
			vq_unpop(vq, &chain);
			break;
		}
		bytes = chain_fill(&chain, bytes);
		vq_push(vq, &chain, bytes);
		left -= bytes;
	}
	if (r < 0)
		vdev_broken(rng->vd, index);
	else if (r > 0 && !wait)
		vdev_kick(rng->vd, index);
	vdev_notify(rng->vd, index);
}

static const struct vdev_ops rng_ops = {
	.name = "virtio-rng",
	.device_id = DEVICE_ID,
	.activate = rng_activate,
	.reset = rng_reset,
	.queue_stop = rng_queue_stop,
	.kick = rng_kick,
};

int vrng_create(struct vrng **ret, const struct vrng_params *params)
{
	struct vdev_params p = {
		.ops = &rng_ops,
		.features = VDEV_F_QUEUES,
		.queue_count = 1,
		.queue_size = QUEUE_SIZE,
		.gm = params->gm,
		.loop = params->loop,
		.log = params->log,
	};
	struct vrng *rng = calloc(1, sizeof(*rng));
	int r;

	if (!rng)
		return -ENOMEM;
	p.dev = rng;
	r = vdev_create(&rng->vd, &p);
	if (!r)
		r = limit_init(&rng->limit, rng->vd, params->loop, &params->limit);
	if (r < 0) {
		vrng_destroy(rng);
		return r;
	}
	*ret = rng;
	return 0;
}

void vrng_destroy(struct vrng *rng)
{
	if (!rng)
		return;
	limit_free(&rng->limit);
	vdev_destroy(rng->vd);
	free(rng);
}

struct vdev *vrng_vdev(struct vrng *rng)
{
	return rng->vd;
}
