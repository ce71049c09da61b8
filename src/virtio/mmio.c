/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over MMIO, version 2 (virtio 1.3 §4.2.2). */
#include "virtio/mmio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Register offsets (§4.2.2, table 4.1). */
enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_SIZE_MAX = 0x034,
	REG_QUEUE_SIZE = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = 0x050,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_DRIVER_LOW = 0x090,
	REG_QUEUE_DRIVER_HIGH = 0x094,
	REG_QUEUE_DEVICE_LOW = 0x0a0,
	REG_QUEUE_DEVICE_HIGH = 0x0a4,
	REG_SHM_LEN_LOW = 0x0b0,
	REG_SHM_LEN_HIGH = 0x0b4,
	REG_SHM_BASE_LOW = 0x0b8,
	REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc,
	REG_CONFIG = 0x100,
};

#define MAGIC	  0x74726976 /* "virt" */
#define VERSION	  2
#define VENDOR_ID 0x4b56434b /* "KCVK": not registered anywhere, and drivers do not look */

#define ISR_QUEUE  1
#define ISR_CONFIG 2

/*
 * Kicks through an exit of the vCPU cost a little each; an ioeventfd saves that and costs its
 * registration, and on some kernels much more when the VM ends soon after (docs/performance.md).
 * So it comes once a queue has been kicked that often, and stays: a kick of a device that was reset
 * is dropped by the core.
 */
#define BUSY_KICKS 64

struct vmmio {
	struct vmmio_params p; /* [c] */
	pthread_mutex_t lock;  /* guards all below; taken inside the device's */
	uint32_t isr;
	uint32_t device_sel, driver_sel, queue_sel;
	uint64_t driver_features;
	struct vq_setup setups[VDEV_QUEUES_MAX];
	bool ready[VDEV_QUEUES_MAX];
	unsigned kicks[VDEV_QUEUES_MAX]; /* up to BUSY_KICKS; outlives resets */
};

/* Raise @bit and give the line an edge. Called with the device's lock. */
static void interrupt(struct vmmio *mmio, uint32_t bit)
{
	pthread_mutex_lock(&mmio->lock);
	mmio->isr |= bit;
	pthread_mutex_unlock(&mmio->lock);
	irq_set(&mmio->p.irq, true);
	irq_set(&mmio->p.irq, false);
}

static void queue_interrupt(void *ctx, unsigned index)
{
	interrupt(ctx, ISR_QUEUE);
}

static void config_interrupt(void *ctx)
{
	interrupt(ctx, ISR_CONFIG);
}

/* The 32 bits of a 64-bit feature set that @sel chooses. */
static uint32_t features_half(uint64_t features, uint32_t sel)
{
	return sel < 2 ? (uint32_t)(features >> 32 * sel) : 0;
}

/* The chosen queue exists. Called with the lock. */
static bool queue_chosen(const struct vmmio *mmio)
{
	return mmio->queue_sel < vdev_queue_count(mmio->p.vd);
}

static uint32_t reg_read_locked(struct vmmio *mmio, uint32_t offset)
{
	switch (offset) {
	case REG_DEVICE_FEATURES:
		return features_half(vdev_offered(mmio->p.vd), mmio->device_sel);
	case REG_QUEUE_SIZE_MAX:
		return queue_chosen(mmio) ? vdev_queue_max(mmio->p.vd) : 0;
	case REG_QUEUE_READY:
		return queue_chosen(mmio) ? mmio->ready[mmio->queue_sel] : 0;
	case REG_INTERRUPT_STATUS:
		return mmio->isr;
	case REG_SHM_LEN_LOW:
	case REG_SHM_LEN_HIGH:
	case REG_SHM_BASE_LOW:
	case REG_SHM_BASE_HIGH:
		return UINT32_MAX; /* §4.2.2: no such shared memory region */
	default:
		return 0;
	}
}

static uint32_t reg_read(struct vmmio *mmio, uint32_t offset)
{
	uint32_t value;

	switch (offset) {
	case REG_MAGIC:
		return MAGIC;
	case REG_VERSION:
		return VERSION;
	case REG_DEVICE_ID:
		return vdev_ops(mmio->p.vd)->device_id;
	case REG_VENDOR_ID:
		return VENDOR_ID;
	case REG_STATUS:
		return vdev_status(mmio->p.vd);
	case REG_CONFIG_GENERATION:
		return vdev_generation(mmio->p.vd);
	default:
		break;
	}
	pthread_mutex_lock(&mmio->lock);
	value = reg_read_locked(mmio, offset);
	pthread_mutex_unlock(&mmio->lock);
	return value;
}

static void low_set(uint64_t *field, uint32_t value)
{
	*field = (*field & ~0xffffffffULL) | value;
}

static void high_set(uint64_t *field, uint32_t value)
{
	*field = (*field & 0xffffffffULL) | (uint64_t)value << 32;
}

/* Registers of the chosen queue. Called with the lock. */
static void queue_write(struct vmmio *mmio, uint32_t offset, uint32_t value)
{
	struct vq_setup *setup;

	if (!queue_chosen(mmio))
		return;
	setup = &mmio->setups[mmio->queue_sel];
	/* §4.2.2.2: a queue in use is not changed. */
	if (mmio->ready[mmio->queue_sel])
		return;
	switch (offset) {
	case REG_QUEUE_SIZE:
		setup->size = value > UINT16_MAX ? 0 : (uint16_t)value;
		break;
	case REG_QUEUE_DESC_LOW:
		low_set(&setup->desc, value);
		break;
	case REG_QUEUE_DESC_HIGH:
		high_set(&setup->desc, value);
		break;
	case REG_QUEUE_DRIVER_LOW:
		low_set(&setup->driver, value);
		break;
	case REG_QUEUE_DRIVER_HIGH:
		high_set(&setup->driver, value);
		break;
	case REG_QUEUE_DEVICE_LOW:
		low_set(&setup->device, value);
		break;
	case REG_QUEUE_DEVICE_HIGH:
		high_set(&setup->device, value);
		break;
	default:
		break;
	}
}

/* What the driver told the transport is forgotten with all else. Called with the lock. */
static void state_clear(struct vmmio *mmio)
{
	memset(mmio->setups, 0, sizeof(mmio->setups));
	memset(mmio->ready, 0, sizeof(mmio->ready));
	mmio->device_sel = mmio->driver_sel = mmio->queue_sel = 0;
	mmio->driver_features = 0;
	mmio->isr = 0;
}

static void status_write(struct vmmio *mmio, uint8_t status)
{
	struct vq_setup setups[VDEV_QUEUES_MAX];
	uint64_t features;

	pthread_mutex_lock(&mmio->lock);
	memcpy(setups, mmio->setups, sizeof(setups));
	for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
		if (!mmio->ready[i])
			setups[i].size = 0;
	features = mmio->driver_features;
	pthread_mutex_unlock(&mmio->lock);
	vdev_status_write(mmio->p.vd, status, features, setups);
	if (status)
		return;
	/* Only now does the device raise no more interrupts. */
	pthread_mutex_lock(&mmio->lock);
	state_clear(mmio);
	pthread_mutex_unlock(&mmio->lock);
}

/*
 * §4.2.2.1: zero stops the queue. Once the driver is ready no queue comes any more, and the
 * register says so.
 */
static void ready_write(struct vmmio *mmio, bool ready)
{
	bool driver_ok = vdev_status(mmio->p.vd) & VDEV_DRIVER_OK, stop = false;
	uint32_t index;

	pthread_mutex_lock(&mmio->lock);
	index = mmio->queue_sel;
	if (queue_chosen(mmio) && !(ready && driver_ok)) {
		stop = driver_ok && mmio->ready[index];
		mmio->ready[index] = ready;
	}
	pthread_mutex_unlock(&mmio->lock);
	if (stop)
		vdev_queue_stop(mmio->p.vd, index);
}

static void notify_write(struct vmmio *mmio, uint32_t index)
{
	bool busy = false;

	if (index >= vdev_queue_count(mmio->p.vd))
		return;
	pthread_mutex_lock(&mmio->lock);
	if (mmio->p.ioeventfd && mmio->kicks[index] < BUSY_KICKS)
		busy = ++mmio->kicks[index] == BUSY_KICKS;
	pthread_mutex_unlock(&mmio->lock);
	/* A refusal leaves kicks where they are; the counter has passed the mark. */
	if (busy)
		mmio->p.ioeventfd(mmio->p.ctx, mmio->p.base + REG_QUEUE_NOTIFY, sizeof(uint32_t),
			index, vdev_kick_fd(mmio->p.vd, index));
	vdev_kick(mmio->p.vd, index);
}

static void reg_write(struct vmmio *mmio, uint32_t offset, uint32_t value)
{
	if (offset == REG_STATUS) {
		status_write(mmio, (uint8_t)value);
		return;
	}
	if (offset == REG_QUEUE_NOTIFY) {
		notify_write(mmio, value);
		return;
	}
	if (offset == REG_QUEUE_READY) {
		ready_write(mmio, value & 1);
		return;
	}
	pthread_mutex_lock(&mmio->lock);
	switch (offset) {
	case REG_DEVICE_FEATURES_SEL:
		mmio->device_sel = value;
		break;
	case REG_DRIVER_FEATURES_SEL:
		mmio->driver_sel = value;
		break;
	case REG_DRIVER_FEATURES:
		if (mmio->driver_sel == 0)
			low_set(&mmio->driver_features, value);
		else if (mmio->driver_sel == 1)
			high_set(&mmio->driver_features, value);
		break;
	case REG_QUEUE_SEL:
		mmio->queue_sel = value;
		break;
	case REG_INTERRUPT_ACK:
		mmio->isr &= ~value;
		break;
	default:
		queue_write(mmio, offset, value);
		break;
	}
	pthread_mutex_unlock(&mmio->lock);
}

static void mmio_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct vmmio *mmio = ctx;
	uint32_t value;

	if (offset >= REG_CONFIG) {
		vdev_config_read(mmio->p.vd, (uint32_t)(offset - REG_CONFIG), data, len);
		return;
	}
	/* §4.2.2.2: registers are 32 bits wide, aligned. */
	if (len != sizeof(value) || offset % sizeof(value))
		return;
	value = reg_read(mmio, (uint32_t)offset);
	memcpy(data, &value, sizeof(value));
}

static void mmio_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct vmmio *mmio = ctx;
	uint32_t value;

	if (offset >= REG_CONFIG) {
		vdev_config_write(mmio->p.vd, (uint32_t)(offset - REG_CONFIG), data, len);
		return;
	}
	if (len != sizeof(value) || offset % sizeof(value))
		return;
	memcpy(&value, data, sizeof(value));
	reg_write(mmio, (uint32_t)offset, value);
}

static const struct bus_ops mmio_ops = {mmio_read, mmio_write};

int vmmio_create(struct vmmio **ret, const struct vmmio_params *params)
{
	struct vdev_irq irq = {.queue = queue_interrupt, .config = config_interrupt};
	struct vmmio *mmio = calloc(1, sizeof(*mmio));
	int r;

	if (!mmio)
		return -ENOMEM;
	mmio->p = *params;
	r = bus_add_mmio(params->bus, params->base, VMMIO_BYTES, &mmio_ops, mmio);
	if (r < 0) {
		free(mmio);
		return r;
	}
	pthread_mutex_init(&mmio->lock, NULL);
	irq.ctx = mmio;
	vdev_attach(params->vd, &irq);
	*ret = mmio;
	return 0;
}

void vmmio_destroy(struct vmmio *mmio)
{
	if (!mmio)
		return;
	pthread_mutex_destroy(&mmio->lock);
	free(mmio);
}
