/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_VQ_H
#define KV_VIRTIO_VQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "gmem/gmem.h"

/*
 * A virtqueue, device side; the only reader of descriptors (virtio 1.3 §2.6 split, §2.7 packed
 * rings, §2.6.5.3/2.7.7 indirect descriptors, §2.6.7/2.7.10 notification suppression). Everything
 * the driver wrote is hostile: it is copied once, checked once, and what devices are handed are
 * host addresses inside guest RAM. A queue that broke the rules is `broken` until it is reset; the
 * device core then tells the driver by DEVICE_NEEDS_RESET.
 *
 * A queue is used by one thread at a time; the device's lock sees to that (vdev.h).
 */
struct vq;

#define VQ_SIZE_MAX 1024 /* entries; a power of two for split rings */
/* Descriptors of a chain, indirect ones included; more than a queue's size is against the rules. */
#define VQ_CHAIN_MAX VQ_SIZE_MAX

/* What the driver told the transport about a queue. */
struct vq_setup {
	uint16_t size;	/* 1..VQ_SIZE_MAX; split: a power of two */
	gpa_t desc;	/* descriptor table, or packed ring; 16-byte aligned */
	gpa_t driver;	/* available ring, or driver event structure */
	gpa_t device;	/* used ring, or device event structure */
	bool packed;	/* VIRTIO_F_RING_PACKED negotiated */
	bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
	bool indirect;	/* VIRTIO_F_INDIRECT_DESC negotiated */
	uint16_t next_avail,
		next_used; /* to go on from, 0 at first; packed: bit 15 is the wrap counter */
};

/*
 * A chain of buffers made available by the driver. The device-readable part comes first. Valid
 * until vq_push() of it; the iovecs lie in memory that belongs to the queue until then.
 */
struct vq_chain {
	uint16_t id;	/* of the buffer, for vq_push() */
	uint16_t count; /* descriptors it took in the ring */
	uint16_t slot;	/* slot and generation are the queue's own book-keeping */
	unsigned generation;
	unsigned out_count; /* device-readable: iov[0..out_count) */
	unsigned in_count;  /* device-writable: iov[out_count..out_count + in_count) */
	uint64_t out_bytes; /* their sums; never overflow */
	uint64_t in_bytes;
	struct iovec *iov;
};

/*
 * Create a queue that is not set up. @gm must outlive it.
 * Returns 0 or -ENOMEM.
 */
int vq_create(struct vq **ret, const struct gmem *gm);
void vq_destroy(struct vq *vq);

/*
 * Take up what the driver set up: sizes, alignment, and that all three parts lie in guest RAM.
 * Returns 0; -EINVAL, after which the queue stays not set up.
 */
int vq_start(struct vq *vq, const struct vq_setup *setup);

/* Forget everything; chains that are out may still be given to vq_push(), which drops them. */
void vq_stop(struct vq *vq);

/* Guest memory changed: check the ring's parts again. The queue is broken when they are gone. */
void vq_recheck(struct vq *vq);

/*
 * Take the next chain.
 * Returns 1 with *@chain; 0 when there is none; -EPROTO when the driver broke the rules: bad index,
 * loop or chain longer than the queue, buffer outside RAM, readable after writable, indirect in
 * indirect, bad indirect length, sums beyond 2^32 - 1. The queue is broken then, and stays so.
 */
int vq_pop(struct vq *vq, struct vq_chain *chain);

/*
 * Give back the chain popped last, as if vq_pop() had not been called; again, the one before it.
 * Those popped before them may have been pushed, in order, and no others.
 */
void vq_unpop(struct vq *vq, const struct vq_chain *chain);

/*
 * Return a chain to the driver with @written bytes of its writable part filled (at most
 * chain->in_bytes). Chains may be returned in any order (in order with VIRTIO_F_IN_ORDER only).
 */
void vq_push(struct vq *vq, const struct vq_chain *chain, uint32_t written);

/*
 * vq_push() of @count chains, each with its bytes of @written, that belong together: the driver
 * sees all of them or none.
 */
void vq_push_all(
	struct vq *vq, const struct vq_chain *chains, const uint32_t *written, unsigned count);

/* Must the driver be interrupted for what was pushed since the last call? */
bool vq_should_notify(struct vq *vq);

/*
 * Ask the driver to kick (@on), or not to bother while the device is polling. After switching on,
 * returns true when something became available meanwhile: pop again.
 */
bool vq_kicks(struct vq *vq, bool on);

/* Where a running queue that is not broken lies, for a vhost back end. */
struct vq_ring {
	void *desc, *driver, *device; /* in guest RAM */
	uint16_t size;
};
struct vq_ring vq_ring(const struct vq *vq);

/* Entries of a running queue. */
uint16_t vq_size(const struct vq *vq);

/* Set up and not stopped; and, of a running one, whether it broke the rules. */
bool vq_running(const struct vq *vq);
bool vq_broken(const struct vq *vq);

/* Where to go on after a snapshot or for a vhost back end, in vq_setup's form. */
void vq_position(const struct vq *vq, uint16_t *next_avail, uint16_t *next_used);

/*
 * Copy between a chain's parts and a buffer, @skip bytes into the part. Return the bytes copied,
 * less than @len when the part is shorter.
 */
uint64_t vq_chain_read(const struct vq_chain *chain, uint64_t skip, void *to, uint64_t len);
uint64_t vq_chain_write(
	const struct vq_chain *chain, uint64_t skip, const void *from, uint64_t len);

/* The same with any @count buffers. */
uint64_t vq_iov_read(
	const struct iovec *iov, unsigned count, uint64_t skip, void *to, uint64_t len);
uint64_t vq_iov_write(
	const struct iovec *iov, unsigned count, uint64_t skip, const void *from, uint64_t len);

#endif
