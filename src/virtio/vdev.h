/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_VDEV_H
#define KV_VIRTIO_VDEV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "gmem/gmem.h"
#include "loop/loop.h"
#include "virtio/vq.h"

/*
 * The device core: status, features, queues, configuration changes and the one reset, shared by
 * all devices and all transports (virtio 1.3 §2, §3). A device is a struct vdev_ops and its own
 * state; a transport (mmio.c, later pci.c) calls vdev_*() from vCPU threads.
 *
 * The loop thread, of which is spoken here and in all devices, is the one that runs the loop that
 * the device was made with: the machine's, or one that it has for itself.
 *
 * Locking: vdev_lock() is held around every call of a device's ops and of the functions below that
 * say so. Order: a device's lock, then the interrupt controller's. No device takes another's.
 */
struct vdev;

#define VDEV_QUEUES_MAX 64

/* Device status (virtio 1.3 §2.1). */
#define VDEV_ACKNOWLEDGE 1
#define VDEV_DRIVER	 2
#define VDEV_DRIVER_OK	 4
#define VDEV_FEATURES_OK 8
#define VDEV_NEEDS_RESET 64
#define VDEV_FAILED	 128

/* Feature bits that do not belong to a device type (virtio 1.3 §6). */
#define VDEV_F_INDIRECT_DESC (1ULL << 28)
#define VDEV_F_EVENT_IDX     (1ULL << 29)
#define VDEV_F_VERSION_1     (1ULL << 32)
#define VDEV_F_RING_PACKED   (1ULL << 34)
/* What the queue core brings along by itself, for any device to offer. */
#define VDEV_F_QUEUES (VDEV_F_INDIRECT_DESC | VDEV_F_EVENT_IDX | VDEV_F_RING_PACKED)

/* What a device is. Constant; one per device type. Ops run with the device's lock held. */
struct vdev_ops {
	const char *name;      /* "virtio-rng" */
	uint16_t device_id;    /* virtio 1.3 §5 */
	uint32_t config_bytes; /* of the device-specific configuration space */
	/*
	 * The driver is ready (DRIVER_OK): queues are set up, vdev_features() is final. Returns 0;
	 * negative: the device needs a reset. Context: vCPU thread.
	 */
	int (*activate)(void *dev);
	/*
	 * Give up all chains and stop using queues and guest memory before returning; requests in
	 * flight must have ended. Also called before destruction. Context: any thread.
	 */
	void (*reset)(void *dev);
	/*
	 * The driver takes queue @index away: as reset, for one queue. NULL for a device that holds
	 * no chains when it does not work. Context: vCPU thread.
	 */
	void (*queue_stop)(void *dev, unsigned index);
	/*
	 * Queue @index has something for the device, which takes at most as many chains as the
	 * queue has entries and calls vdev_kick() when there may be more: the driver can fill it as
	 * fast as it is emptied, and other devices wait for the thread. Context: the loop thread.
	 */
	void (*kick)(void *dev, unsigned index);
	/*
	 * As the only one without the lock: after each kick, for what others must be told of. NULL:
	 * nothing. Context: the loop thread.
	 */
	void (*kicked)(void *dev);
	/*
	 * Keep others than the loop thread from guest memory (@on), because the machine pauses or
	 * the device needs a reset; or let them go on with the queues that are served. NULL for a
	 * device that has no others. Context: any thread.
	 */
	void (*pause)(void *dev, bool on);
	/*
	 * Guest memory went, and chains that were popped before may lie in it: those that wait for
	 * something are given back (vq_unpop()), to be popped and checked anew; requests under way
	 * in what went have ended when this returns. NULL for a device that holds no chains when it
	 * does not work. Context: any thread.
	 */
	void (*memory_changed)(void *dev);
	/* Device-specific configuration; [@offset, @offset + @len) lies inside. May be NULL. */
	void (*config_read)(void *dev, uint32_t offset, void *data, uint32_t len);
	void (*config_write)(void *dev, uint32_t offset, const void *data, uint32_t len);
};

/* How interrupts reach the driver; the transport fills it. Called with the device's lock. */
struct vdev_irq {
	void (*queue)(void *ctx, unsigned index); /* used buffer notification */
	void (*config)(void *ctx);		  /* configuration change notification */
	void *ctx;
};

struct vdev_params {
	const struct vdev_ops *ops;
	void *dev;	   /* handed to ops */
	uint64_t features; /* offered, device-specific and VIRTIO_F_*; VERSION_1 is always added */
	unsigned queue_count;  /* 1..VDEV_QUEUES_MAX */
	uint16_t queue_size;   /* largest size offered, a power of two up to VQ_SIZE_MAX */
	const struct gmem *gm; /* borrowed, as loop and log */
	struct loop *loop;
	const struct kv_log *log;
};

/* Returns 0; -ENOMEM; -EMFILE. Owns: the device destroys it before itself, after the vCPUs ended.
 */
int vdev_create(struct vdev **ret, const struct vdev_params *params);
void vdev_destroy(struct vdev *vd); /* calls ops->reset if the device was active */

/* Hold and release the device's lock, which keeps transport, loop thread and reset apart. */
void vdev_lock(struct vdev *vd);
void vdev_unlock(struct vdev *vd);

/* For devices, with the lock: */
struct vq *vdev_queue(struct vdev *vd, unsigned index);
uint64_t vdev_features(const struct vdev *vd); /* negotiated */
bool vdev_active(const struct vdev *vd);       /* between activate and reset */
/* Queue @index may be worked on: the device is active, needs no reset, and the queue runs. */
bool vdev_serving(const struct vdev *vd, unsigned index);
/* Interrupt the driver for queue @index if it wants that (vq_should_notify()). */
void vdev_notify(struct vdev *vd, unsigned index);
/* Interrupt the driver for queue @index, which another than the queue core serves. */
void vdev_interrupt(struct vdev *vd, unsigned index);
/* The configuration space changed: raise the generation and interrupt. */
void vdev_config_changed(struct vdev *vd);
/* The driver broke the rules on queue @index (vq_pop() said -EPROTO): count, DEVICE_NEEDS_RESET. */
void vdev_broken(struct vdev *vd, unsigned index);

/*
 * Call ops->kick for queue @index, or not, since another waits for vdev_kick_fd(). Returns 0 or
 * -errno. Context: with the lock, where loop_hold() cannot come in between, as in ops->activate.
 */
int vdev_queue_watch(struct vdev *vd, unsigned index, bool on);

/* The machine pauses, or goes on. Context: loop thread, without the lock. */
void vdev_pause(struct vdev *vd, bool on);

/* Times that a driver broke the rules. Context: any thread. */
uint64_t vdev_violations(const struct vdev *vd);

/*
 * Guest memory came or went: running queues are checked again, and so are the chains that devices
 * hold. Nobody uses what went when this returns. Context: any thread, without the lock.
 */
void vdev_memory_changed(struct vdev *vd);

/* For transports (virtio 1.3 §2.1, §2.2, §3.1); all take the lock themselves. */
const struct vdev_ops *vdev_ops(const struct vdev *vd);
void vdev_attach(struct vdev *vd, const struct vdev_irq *irq); /* before the vCPUs run */
unsigned vdev_queue_count(const struct vdev *vd);
uint16_t vdev_queue_max(const struct vdev *vd);
uint64_t vdev_offered(const struct vdev *vd);
uint8_t vdev_status(struct vdev *vd);
/*
 * The driver writes the status: 0 resets; FEATURES_OK is kept only when @features (what the driver
 * wrote) is acceptable; DRIVER_OK sets up the queues from @setups (queue_count entries; size 0: not
 * enabled) and activates.
 */
void vdev_status_write(
	struct vdev *vd, uint8_t status, uint64_t features, const struct vq_setup *setups);
uint32_t vdev_generation(struct vdev *vd); /* of the configuration space */
void vdev_config_read(struct vdev *vd, uint32_t offset, void *data, uint32_t len);
void vdev_config_write(struct vdev *vd, uint32_t offset, const void *data, uint32_t len);
/* The driver takes the running queue @index away; it comes back by a reset only. */
void vdev_queue_stop(struct vdev *vd, unsigned index);
/*
 * Have queue @index looked at by the loop thread: the driver kicked it, or the device left
 * something in it. Context: any thread, with or without the lock.
 */
void vdev_kick(struct vdev *vd, unsigned index);
/*
 * The eventfd that does the same when it is written, for ioeventfds and vhost; owned by @vd.
 * -1 when there is no such queue.
 */
int vdev_kick_fd(struct vdev *vd, unsigned index);

#endif
