/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/vdev.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"

/* A driver that breaks the rules again and again is not worth a line in the log each time. */
#define COMPLAINTS_MAX 8

struct vdev_queue {
	struct vdev *vd;	    /* [c] */
	unsigned index;		    /* [c] */
	struct vq *vq;		    /* [c] the pointer; the queue under the lock */
	int kick_fd;		    /* [c] */
	struct loop_source *source; /* [l] */
};

struct vdev {
	struct vdev_params p;	     /* [c] */
	struct vdev_irq irq;	     /* [c] once attached */
	_Atomic uint64_t violations; /* [a] */
	pthread_mutex_t lock;	     /* guards all below */
	unsigned complaints;	     /* lines in the log */
	uint8_t status;
	bool active;
	uint64_t features; /* negotiated once FEATURES_OK is set */
	uint32_t generation;
	struct vdev_queue queues[]; /* p.queue_count of them */
};

static void kick_ready(void *ctx, uint32_t events)
{
	struct vdev_queue *queue = ctx;
	struct vdev *vd = queue->vd;
	uint64_t count;

	if (read(queue->kick_fd, &count, sizeof(count)) != sizeof(count))
		return;
	vdev_lock(vd);
	if (vdev_serving(vd, queue->index))
		vd->p.ops->kick(vd->p.dev, queue->index);
	vdev_unlock(vd);
	if (vd->p.ops->kicked)
		vd->p.ops->kicked(vd->p.dev);
}

static int queue_make(struct vdev *vd, unsigned index)
{
	struct vdev_queue *queue = &vd->queues[index];
	int r = vq_create(&queue->vq, vd->p.gm);

	queue->vd = vd;
	queue->index = index;
	if (r < 0)
		return r;
	queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->kick_fd < 0)
		return -errno;
	return loop_add_fd(vd->p.loop, queue->kick_fd, EPOLLIN, kick_ready, queue, &queue->source);
}

int vdev_create(struct vdev **ret, const struct vdev_params *params)
{
	struct vdev *vd = calloc(1, sizeof(*vd) + params->queue_count * sizeof(vd->queues[0]));
	int r = 0;

	if (!vd)
		return -ENOMEM;
	vd->p = *params;
	vd->p.features |= VDEV_F_VERSION_1;
	pthread_mutex_init(&vd->lock, NULL);
	for (unsigned i = 0; i < params->queue_count; i++)
		vd->queues[i].kick_fd = -1;
	for (unsigned i = 0; !r && i < params->queue_count; i++)
		r = queue_make(vd, i);
	if (r < 0) {
		vdev_destroy(vd);
		return r;
	}
	*ret = vd;
	return 0;
}

/* Back to the state after creation. Called with the lock. */
static void device_reset(struct vdev *vd)
{
	if (vd->active)
		vd->p.ops->reset(vd->p.dev);
	vd->active = false;
	/* Of a device half-built, the last queues are not there. */
	for (unsigned i = 0; i < vd->p.queue_count && vd->queues[i].vq; i++)
		vq_stop(vd->queues[i].vq);
	vd->features = 0;
	vd->status = 0;
}

void vdev_destroy(struct vdev *vd)
{
	if (!vd)
		return;
	vdev_lock(vd);
	device_reset(vd);
	vdev_unlock(vd);
	for (unsigned i = 0; i < vd->p.queue_count; i++) {
		loop_remove(vd->queues[i].source);
		fd_close(&vd->queues[i].kick_fd);
		vq_destroy(vd->queues[i].vq);
	}
	pthread_mutex_destroy(&vd->lock);
	free(vd);
}

void vdev_lock(struct vdev *vd)
{
	pthread_mutex_lock(&vd->lock);
}

void vdev_unlock(struct vdev *vd)
{
	pthread_mutex_unlock(&vd->lock);
}

struct vq *vdev_queue(struct vdev *vd, unsigned index)
{
	return vd->queues[index].vq;
}

uint64_t vdev_features(const struct vdev *vd)
{
	return vd->features;
}

bool vdev_active(const struct vdev *vd)
{
	return vd->active;
}

bool vdev_serving(const struct vdev *vd, unsigned index)
{
	/* A device that needs a reset stands still until it gets it. */
	return vd->active && !(vd->status & VDEV_NEEDS_RESET) && vq_running(vd->queues[index].vq);
}

void vdev_notify(struct vdev *vd, unsigned index)
{
	if (vd->active && vq_should_notify(vd->queues[index].vq) && vd->irq.queue)
		vd->irq.queue(vd->irq.ctx, index);
}

void vdev_interrupt(struct vdev *vd, unsigned index)
{
	if (vd->active && vd->irq.queue)
		vd->irq.queue(vd->irq.ctx, index);
}

int vdev_queue_watch(struct vdev *vd, unsigned index, bool on)
{
	return loop_mod_fd(vd->queues[index].source, on ? EPOLLIN : 0);
}

void vdev_pause(struct vdev *vd, bool on)
{
	/* Whoever else has the lock may have it for long: the others need no pause. */
	if (!vd->p.ops->pause)
		return;
	vdev_lock(vd);
	if (vd->active)
		vd->p.ops->pause(vd->p.dev, on);
	vdev_unlock(vd);
}

void vdev_config_changed(struct vdev *vd)
{
	vd->generation++;
	/* §3.1.1: no configuration notification before the driver is ready. */
	if (vd->status & VDEV_DRIVER_OK && vd->irq.config)
		vd->irq.config(vd->irq.ctx);
}

/*
 * §2.1.2: the driver learns of it by a configuration change notification. Returns true when it is
 * news and belongs into the log. Called with the lock.
 */
static bool needs_reset(struct vdev *vd)
{
	vd->violations++;
	if (vd->status & VDEV_NEEDS_RESET)
		return false;
	vd->status |= VDEV_NEEDS_RESET;
	if (vd->active && vd->p.ops->pause)
		vd->p.ops->pause(vd->p.dev, true);
	if (vd->status & VDEV_DRIVER_OK && vd->irq.config)
		vd->irq.config(vd->irq.ctx);
	return vd->complaints++ < COMPLAINTS_MAX;
}

void vdev_broken(struct vdev *vd, unsigned index)
{
	if (needs_reset(vd))
		log_msg(vd->p.log, LOG_LEVEL_WARN,
			"%s: the driver broke the rules of queue %u; the device needs a reset",
			vd->p.ops->name, index);
}

uint64_t vdev_violations(const struct vdev *vd)
{
	return vd->violations;
}

void vdev_memory_changed(struct vdev *vd)
{
	vdev_lock(vd);
	for (unsigned i = 0; vd->active && i < vd->p.queue_count; i++) {
		bool was = vq_broken(vd->queues[i].vq);

		vq_recheck(vd->queues[i].vq);
		if (!was && vq_broken(vd->queues[i].vq))
			vdev_broken(vd, i);
	}
	if (vd->active && vd->p.ops->memory_changed)
		vd->p.ops->memory_changed(vd->p.dev);
	vdev_unlock(vd);
}

const struct vdev_ops *vdev_ops(const struct vdev *vd)
{
	return vd->p.ops;
}

void vdev_attach(struct vdev *vd, const struct vdev_irq *irq)
{
	vd->irq = *irq;
}

unsigned vdev_queue_count(const struct vdev *vd)
{
	return vd->p.queue_count;
}

uint16_t vdev_queue_max(const struct vdev *vd)
{
	return vd->p.queue_size;
}

uint64_t vdev_offered(const struct vdev *vd)
{
	return vd->p.features;
}

uint8_t vdev_status(struct vdev *vd)
{
	uint8_t status;

	vdev_lock(vd);
	status = vd->status;
	vdev_unlock(vd);
	return status;
}

/* Set up the enabled queues. Returns 0 or -EINVAL for a ring that is none. */
static int queues_start(struct vdev *vd, const struct vq_setup *setups)
{
	for (unsigned i = 0; i < vd->p.queue_count; i++) {
		struct vq_setup setup = setups[i];
		int r;

		if (!setup.size)
			continue;
		if (setup.size > vd->p.queue_size)
			return -EINVAL;
		setup.packed = vd->features & VDEV_F_RING_PACKED;
		setup.event_idx = vd->features & VDEV_F_EVENT_IDX;
		setup.indirect = vd->features & VDEV_F_INDIRECT_DESC;
		r = vq_start(vd->queues[i].vq, &setup);
		if (r < 0)
			return r;
	}
	return 0;
}

static void device_activate(struct vdev *vd, const struct vq_setup *setups)
{
	int r = queues_start(vd, setups);

	if (!r) {
		vd->active = true;
		r = vd->p.ops->activate(vd->p.dev);
		/* A device that did not come up has nothing to reset. */
		if (r < 0)
			vd->active = false;
	}
	if (r < 0 && needs_reset(vd))
		log_msg(vd->p.log, LOG_LEVEL_WARN, "%s: cannot be activated: %s", vd->p.ops->name,
			err_text(r));
	/* What the driver made available before it said so is not lost with its early kick. */
	for (unsigned i = 0; !r && i < vd->p.queue_count; i++)
		if (setups[i].size)
			vdev_kick(vd, i);
}

void vdev_status_write(
	struct vdev *vd, uint8_t status, uint64_t features, const struct vq_setup *setups)
{
	uint8_t fresh;

	vdev_lock(vd);
	if (!status) {
		device_reset(vd);
		vdev_unlock(vd);
		return;
	}
	fresh = (uint8_t)(status & ~vd->status & ~VDEV_NEEDS_RESET);
	if (fresh & VDEV_FEATURES_OK) {
		/* §2.2.2: only what was offered; and this is no legacy device. */
		if (features & ~vd->p.features || !(features & VDEV_F_VERSION_1))
			fresh &= (uint8_t)~VDEV_FEATURES_OK;
		else
			vd->features = features;
	}
	/* §3.1.1: DRIVER_OK comes after FEATURES_OK. */
	if (fresh & VDEV_DRIVER_OK && !((vd->status | fresh) & VDEV_FEATURES_OK))
		fresh &= (uint8_t)~VDEV_DRIVER_OK;
	vd->status |= fresh;
	if (fresh & VDEV_DRIVER_OK)
		device_activate(vd, setups);
	vdev_unlock(vd);
}

void vdev_queue_stop(struct vdev *vd, unsigned index)
{
	if (index >= vd->p.queue_count)
		return;
	vdev_lock(vd);
	if (vd->active && vq_running(vd->queues[index].vq)) {
		if (vd->p.ops->queue_stop)
			vd->p.ops->queue_stop(vd->p.dev, index);
		vq_stop(vd->queues[index].vq);
	}
	vdev_unlock(vd);
}

uint32_t vdev_generation(struct vdev *vd)
{
	uint32_t generation;

	vdev_lock(vd);
	generation = vd->generation;
	vdev_unlock(vd);
	return generation;
}

void vdev_config_read(struct vdev *vd, uint32_t offset, void *data, uint32_t len)
{
	const struct vdev_ops *ops = vd->p.ops;

	memset(data, 0, len);
	if (!ops->config_read || offset >= ops->config_bytes || len > ops->config_bytes - offset)
		return;
	vdev_lock(vd);
	ops->config_read(vd->p.dev, offset, data, len);
	vdev_unlock(vd);
}

void vdev_config_write(struct vdev *vd, uint32_t offset, const void *data, uint32_t len)
{
	const struct vdev_ops *ops = vd->p.ops;

	if (!ops->config_write || offset >= ops->config_bytes || len > ops->config_bytes - offset)
		return;
	vdev_lock(vd);
	ops->config_write(vd->p.dev, offset, data, len);
	vdev_unlock(vd);
}

void vdev_kick(struct vdev *vd, unsigned index)
{
	const uint64_t one = 1;

	if (index < vd->p.queue_count &&
		write(vd->queues[index].kick_fd, &one, sizeof(one)) != sizeof(one))
		/* A full counter means that a kick is pending already. */
		return;
}

int vdev_kick_fd(struct vdev *vd, unsigned index)
{
	return index < vd->p.queue_count ? vd->queues[index].kick_fd : -1;
}
