/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueues (virtio 1.3 §2.7). */
#include <errno.h>
#include <string.h>

#include "virtio/vq_internal.h"

struct split_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};
_Static_assert(sizeof(struct split_desc) == 16, "virtio 1.3 §2.7.5");

struct split_avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[];
	/* used_event behind ring[size] */
};

struct split_used_elem {
	uint32_t id;
	uint32_t len;
};

struct split_used {
	uint16_t flags;
	uint16_t idx;
	struct split_used_elem ring[];
	/* avail_event behind ring[size] */
};
_Static_assert(sizeof(struct split_used) == 4, "virtio 1.3 §2.7.8");

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY	   1

static struct split_avail *avail_ring(const struct vq *vq)
{
	return (struct split_avail *)vq->driver;
}

static struct split_used *used_ring(const struct vq *vq)
{
	return (struct split_used *)vq->device;
}

/* One descriptor copied out of a table. The guest may change it meanwhile, so it is read once. */
static struct split_desc desc_copy(const uint8_t *table, unsigned index)
{
	struct split_desc desc;

	memcpy(&desc, table + index * sizeof(desc), sizeof(desc));
	vq_read_once(desc);
	return desc;
}

/* Walk @size descriptors at @table from @index. @indirect: the table is one already. */
static int table_walk(
	struct vq_walk *walk, const uint8_t *table, unsigned size, unsigned index, bool indirect);

static int indirect_walk(struct vq_walk *walk, const struct split_desc *desc)
{
	unsigned size = desc->len / sizeof(struct split_desc);
	const uint8_t *table = gmem_at(walk->vq->gm, desc->addr, desc->len);

	/* §2.7.5.3.1: no next descriptor, a whole number of entries, no longer than the queue. */
	if (!walk->vq->setup.indirect || desc->flags & DESC_NEXT || !table ||
		desc->len % sizeof(struct split_desc) || size > walk->vq->setup.size)
		return -EPROTO;
	return table_walk(walk, table, size, 0, true);
}

static int table_walk(
	struct vq_walk *walk, const uint8_t *table, unsigned size, unsigned index, bool indirect)
{
	/* A loop has more steps than the table has entries. */
	for (unsigned steps = 0; steps < size; steps++) {
		struct split_desc desc;
		int r;

		if (index >= size)
			return -EPROTO;
		desc = desc_copy(table, index);
		if (desc.flags & DESC_INDIRECT)
			return indirect ? -EPROTO : indirect_walk(walk, &desc);
		r = vq_walk_add(walk, desc.addr, desc.len, desc.flags & DESC_WRITE);
		if (r < 0 || !(desc.flags & DESC_NEXT))
			return r;
		index = desc.next;
	}
	return -EPROTO;
}

int split_pop(struct vq *vq, struct vq_chain *chain)
{
	struct split_avail *avail = avail_ring(vq);
	uint16_t size = vq->setup.size, idx, head;
	struct vq_walk walk;
	int r;

	/* Acquire: the driver wrote the ring entry and the descriptors before idx. */
	idx = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE);
	/*
	 * The driver is asked to kick for the next entry only once there is none: until then the
	 * event stays behind, and it does not kick for what is being looked at anyway.
	 */
	if (idx == vq->avail && vq->setup.event_idx && vq->kicks_on && split_kicks(vq, true))
		idx = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE);
	if (idx == vq->avail)
		return 0;
	if ((uint16_t)(idx - vq->avail) > size)
		return -EPROTO;
	head = __atomic_load_n(&avail->ring[vq->avail & (size - 1)], __ATOMIC_RELAXED);
	if (head >= size)
		return -EPROTO;
	r = vq_walk_begin(&walk, vq, chain);
	if (r < 0)
		return r;
	r = table_walk(&walk, vq->desc, size, head, false);
	if (r < 0) {
		vq_slot_free(vq, chain->slot);
		return r;
	}
	chain->id = head;
	chain->count = 1;
	vq->avail++;
	return 1;
}

void split_push(
	struct vq *vq, const struct vq_chain *chains, const uint32_t *written, unsigned count)
{
	struct split_used *used = used_ring(vq);

	for (unsigned i = 0; i < count; i++)
		used->ring[vq->used++ & (vq->setup.size - 1)] =
			(struct split_used_elem){.id = chains[i].id, .len = written[i]};
	/* Release: the entries and the data before them are visible when idx is. */
	__atomic_store_n(&used->idx, vq->used, __ATOMIC_RELEASE);
}

bool split_should_notify(struct vq *vq)
{
	struct split_avail *avail = avail_ring(vq);
	uint16_t before = vq->signalled, event;
	bool valid = vq->signalled_valid;

	/* The used index must be visible before the driver's wish is read (§2.7.7.2). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (valid && before == vq->used)
		return false;
	if (!vq->setup.event_idx) {
		vq->signalled = vq->used;
		vq->signalled_valid = true;
		return !(__atomic_load_n(&avail->flags, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
	}
	event = __atomic_load_n(&avail->ring[vq->setup.size], __ATOMIC_RELAXED);
	vq->signalled = vq->used;
	vq->signalled_valid = true;
	/* §2.7.7.2: was the entry `event` among those filled since the last interrupt? */
	return !valid || (uint16_t)(vq->used - event - 1) < (uint16_t)(vq->used - before);
}

bool split_kicks(struct vq *vq, bool on)
{
	struct split_used *used = used_ring(vq);
	uint16_t *avail_event = (uint16_t *)&used->ring[vq->setup.size];

	if (vq->setup.event_idx) {
		/* To be left alone, the event just stays behind. */
		if (on)
			__atomic_store_n(avail_event, vq->avail, __ATOMIC_RELAXED);
	} else {
		__atomic_store_n(&used->flags, on ? 0 : USED_NO_NOTIFY, __ATOMIC_RELAXED);
	}
	if (!on)
		return false;
	/* The wish must be visible before the last look (§2.7.10.1). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&avail_ring(vq)->idx, __ATOMIC_ACQUIRE) != vq->avail;
}
