/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_VQ_INTERNAL_H
#define KV_VIRTIO_VQ_INTERNAL_H

#include "virtio/vq.h"

/* Shared by the files of the queue alone. */

/* Flags of descriptors (virtio 1.3 §2.7.5, §2.8.1). */
#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4
#define DESC_AVAIL    (1U << 7)
#define DESC_USED     (1U << 15)

/*
 * Behind a copy out of guest memory: the compiler must go on with @copy and cannot read the guest's
 * memory a second time, which might say something else by then.
 */
#define vq_read_once(copy) __asm__ volatile("" : "+m"(copy))

/* The buffers of one chain that a device holds. */
struct vq_slot {
	struct iovec *iov;
	unsigned room; /* entries of iov */
	bool out;      /* a device holds it */
};

struct vq {
	const struct gmem *gm; /* [c] */
	struct vq_setup setup;
	bool running;
	bool broken;
	uint8_t *desc; /* host addresses of the ring's parts, checked by vq_recheck() */
	uint8_t *driver;
	uint8_t *device;
	uint16_t avail;		    /* next entry to look at; packed: index in the ring */
	uint16_t used;		    /* next entry to fill; packed: index in the ring */
	bool avail_wrap, used_wrap; /* packed rings only */
	uint16_t signalled;	    /* used when the driver was last interrupted */
	bool signalled_wrap;
	bool signalled_valid; /* signalled says something */
	unsigned fresh;	      /* packed: entries used since the driver's wish was looked at */
	bool kicks_on;
	unsigned generation;   /* rises at each start: chains of an earlier one are dropped */
	struct vq_slot *slots; /* setup.size of them */
	unsigned slots_room;
	uint16_t *free_slots; /* a stack of the free ones */
	unsigned free_count;
};

/* What a walk along a chain has collected so far. */
struct vq_walk {
	struct vq *vq;
	struct vq_chain *chain;
	struct vq_slot *slot;
	unsigned budget; /* descriptors that may still come */
};

/*
 * vq_chain.c: take a free slot for a new chain. Returns 0 or -EPROTO when the driver has more
 * chains in flight than the queue has entries.
 */
int vq_walk_begin(struct vq_walk *walk, struct vq *vq, struct vq_chain *chain);

/*
 * vq_chain.c: add one buffer. Returns 0; -EPROTO: outside RAM, empty, in the wrong order, too many,
 * or the sum is too large; -ENOMEM.
 */
int vq_walk_add(struct vq_walk *walk, gpa_t gpa, uint32_t len, bool write);

/* vq_chain.c: give the slot back. */
void vq_slot_free(struct vq *vq, uint16_t slot);

/*
 * vq_split.c and vq_packed.c: what vq.h says, for either ring. The two pops return 1 with *@chain,
 * 0, -EPROTO, or -ENOMEM for want of memory.
 */
int split_pop(struct vq *vq, struct vq_chain *chain);
void split_push(
	struct vq *vq, const struct vq_chain *chains, const uint32_t *written, unsigned count);
bool split_should_notify(struct vq *vq);
bool split_kicks(struct vq *vq, bool on);
int packed_pop(struct vq *vq, struct vq_chain *chain);
void packed_push(
	struct vq *vq, const struct vq_chain *chains, const uint32_t *written, unsigned count);
bool packed_should_notify(struct vq *vq);
bool packed_kicks(struct vq *vq, bool on);
/* Step back over @count ring entries. */
void packed_unpop(struct vq *vq, uint16_t count);

#endif
