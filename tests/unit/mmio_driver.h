/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TESTS_MMIO_DRIVER_H
#define KV_TESTS_MMIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"
#include "loop/loop.h"
#include "virtio/mmio.h"
#include "vq_driver.h"

/*
 * The driver's side of the memory-mapped transport (virtio 1.3 §4.2.2), for tests: what a guest
 * would do, register by register, and the loop thread's work when the test wants it.
 */
enum {
	MD_MAGIC = 0x000,
	MD_VERSION = 0x004,
	MD_DEVICE_ID = 0x008,
	MD_VENDOR_ID = 0x00c,
	MD_DEVICE_FEATURES = 0x010,
	MD_DEVICE_FEATURES_SEL = 0x014,
	MD_DRIVER_FEATURES = 0x020,
	MD_DRIVER_FEATURES_SEL = 0x024,
	MD_QUEUE_SEL = 0x030,
	MD_QUEUE_SIZE_MAX = 0x034,
	MD_QUEUE_SIZE = 0x038,
	MD_QUEUE_READY = 0x044,
	MD_QUEUE_NOTIFY = 0x050,
	MD_INTERRUPT_STATUS = 0x060,
	MD_INTERRUPT_ACK = 0x064,
	MD_STATUS = 0x070,
	MD_QUEUE_DESC = 0x080,
	MD_QUEUE_DRIVER = 0x090,
	MD_QUEUE_DEVICE = 0x0a0,
	MD_SHM_LEN = 0x0b0,
	MD_GENERATION = 0x0fc,
	MD_CONFIG = 0x100,
};

#define MD_BASE	 0xfeb00000ULL
#define MD_READY (VDEV_ACKNOWLEDGE | VDEV_DRIVER | VDEV_FEATURES_OK)

struct md {
	struct bus *bus;
	struct loop *loop;
	struct vmmio *mmio;
	struct vdev *vd;
	unsigned edges;	     /* rising edges of the line */
	unsigned ioeventfds; /* asked for */
	int ioeventfd;
	uint32_t ioeventfd_index;
};

static inline void md_irq(void *ctx, uint32_t gsi, bool level)
{
	struct md *md = ctx;

	md->edges += level;
}

static inline void md_ioeventfd(void *ctx, gpa_t gpa, unsigned len, uint32_t index, int fd)
{
	struct md *md = ctx;

	md->ioeventfds += gpa == MD_BASE + MD_QUEUE_NOTIFY && len == 4;
	md->ioeventfd = fd;
	md->ioeventfd_index = index;
}

/* Put @vd, made with md->loop, on a bus of its own. */
static inline int md_attach(struct md *md, struct vdev *vd)
{
	struct vmmio_params params = {
		.vd = vd,
		.base = MD_BASE,
		.irq = {.set = md_irq, .ctx = md, .gsi = 5},
		.ioeventfd = md_ioeventfd,
		.ctx = md,
	};
	int r = bus_create(&md->bus);

	params.bus = md->bus;
	md->vd = vd;
	return r < 0 ? r : vmmio_create(&md->mmio, &params);
}

static inline void md_detach(struct md *md)
{
	vmmio_destroy(md->mmio);
	bus_destroy(md->bus);
}

static inline uint32_t md_get(struct md *md, uint64_t reg)
{
	uint32_t value = 0;

	bus_mmio_read(md->bus, MD_BASE + reg, (uint8_t *)&value, sizeof(value));
	return value;
}

static inline void md_set(struct md *md, uint64_t reg, uint32_t value)
{
	bus_mmio_write(md->bus, MD_BASE + reg, (const uint8_t *)&value, sizeof(value));
}

static inline void md_set64(struct md *md, uint64_t reg, uint64_t value)
{
	md_set(md, reg, (uint32_t)value);
	md_set(md, reg + 4, (uint32_t)(value >> 32));
}

static inline uint64_t md_features(struct md *md)
{
	uint64_t low;

	md_set(md, MD_DEVICE_FEATURES_SEL, 0);
	low = md_get(md, MD_DEVICE_FEATURES);
	md_set(md, MD_DEVICE_FEATURES_SEL, 1);
	return low | (uint64_t)md_get(md, MD_DEVICE_FEATURES) << 32;
}

/* §3.1.1 up to FEATURES_OK. Returns whether the device kept it. */
static inline bool md_negotiate(struct md *md, uint64_t features)
{
	md_set(md, MD_STATUS, 0);
	md_set(md, MD_STATUS, VDEV_ACKNOWLEDGE);
	md_set(md, MD_STATUS, VDEV_ACKNOWLEDGE | VDEV_DRIVER);
	md_set(md, MD_DRIVER_FEATURES_SEL, 0);
	md_set(md, MD_DRIVER_FEATURES, (uint32_t)features);
	md_set(md, MD_DRIVER_FEATURES_SEL, 1);
	md_set(md, MD_DRIVER_FEATURES, (uint32_t)(features >> 32));
	md_set(md, MD_STATUS, MD_READY);
	return md_get(md, MD_STATUS) == MD_READY;
}

static inline void md_queue_set(struct md *md, uint32_t index, const struct vq_setup *setup)
{
	md_set(md, MD_QUEUE_SEL, index);
	md_set(md, MD_QUEUE_SIZE, setup->size);
	md_set64(md, MD_QUEUE_DESC, setup->desc);
	md_set64(md, MD_QUEUE_DRIVER, setup->driver);
	md_set64(md, MD_QUEUE_DEVICE, setup->device);
	md_set(md, MD_QUEUE_READY, 1);
}

static inline void md_driver_ok(struct md *md)
{
	md_set(md, MD_STATUS, MD_READY | VDEV_DRIVER_OK);
}

static inline void md_loop_stop(void *ctx)
{
	loop_stop(ctx);
}

/* One round of the loop thread: what is pending now, not what it leads to. */
static inline void md_round(struct md *md)
{
	if (!loop_post(md->loop, md_loop_stop, md->loop))
		loop_run(md->loop);
}

#endif
