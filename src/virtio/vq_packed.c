/* SPDX-License-Identifier: Apache-2.0 */
/* Packed virtqueues (virtio 1.3 §2.8). */
#include <errno.h>
#include <string.h>

#include "virtio/vq_internal.h"

struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id;
	uint16_t flags;
};
_Static_assert(sizeof(struct packed_desc) == 16, "virtio 1.3 §2.8.13");

struct packed_event {
	uint16_t off_wrap; /* ring offset, bit 15 the wrap counter */
	uint16_t flags;
};
_Static_assert(sizeof(struct packed_event) == 4, "virtio 1.3 §2.8.14");

#define EVENT_ENABLE  0
#define EVENT_DISABLE 1
#define EVENT_DESC    2
#define EVENT_WRAP    0x8000

static struct packed_desc *ring(const struct vq *vq)
{
	return (struct packed_desc *)vq->desc;
}

/* §2.8.1: available when the two bits differ and AVAIL equals the wrap counter. */
static bool is_available(uint16_t flags, bool wrap)
{
	return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) != wrap;
}

static bool next_available(const struct vq *vq)
{
	/* Acquire: the driver wrote the descriptors before the first one's flags. */
	uint16_t flags = __atomic_load_n(&ring(vq)[vq->avail].flags, __ATOMIC_ACQUIRE);

	return is_available(flags, vq->avail_wrap);
}

/* §2.8.7: the entries of an indirect table follow each other; NEXT means nothing there. */
static int indirect_walk(struct vq_walk *walk, const struct packed_desc *desc)
{
	unsigned count = desc->len / sizeof(struct packed_desc);
	const uint8_t *table = gmem_at(walk->vq->gm, desc->addr, desc->len);
	int r = 0;

	if (!walk->vq->setup.indirect || desc->flags & DESC_NEXT || !table || !count ||
		desc->len % sizeof(struct packed_desc) || count > walk->vq->setup.size)
		return -EPROTO;
	for (unsigned i = 0; !r && i < count; i++) {
		struct packed_desc entry;

		memcpy(&entry, table + i * sizeof(entry), sizeof(entry));
		vq_read_once(entry);
		if (entry.flags & DESC_INDIRECT)
			return -EPROTO;
		r = vq_walk_add(walk, entry.addr, entry.len, entry.flags & DESC_WRITE);
	}
	return r;
}

/* Collect the chain from vq->avail on. Sets its id and the number of ring entries. */
static int ring_walk(struct vq_walk *walk)
{
	const struct vq *vq = walk->vq;
	unsigned index = vq->avail;

	for (unsigned count = 1; count <= vq->setup.size; count++) {
		struct packed_desc desc;
		int r;

		memcpy(&desc, &ring(vq)[index], sizeof(desc));
		vq_read_once(desc);
		if (desc.flags & DESC_INDIRECT)
			/* Alone: neither before nor behind it stands another buffer. */
			r = count > 1 ? -EPROTO : indirect_walk(walk, &desc);
		else
			r = vq_walk_add(walk, desc.addr, desc.len, desc.flags & DESC_WRITE);
		if (r < 0)
			return r;
		if (!(desc.flags & DESC_NEXT)) {
			/* The buffer's id is in its last descriptor. */
			walk->chain->id = desc.id;
			walk->chain->count = (uint16_t)count;
			return 0;
		}
		index = index + 1 < vq->setup.size ? index + 1 : 0;
	}
	return -EPROTO;
}

static void advance(uint16_t *index, bool *wrap, uint16_t count, uint16_t size)
{
	if (*index + count < size) {
		*index = (uint16_t)(*index + count);
		return;
	}
	*index = (uint16_t)(*index + count - size);
	*wrap = !*wrap;
}

int packed_pop(struct vq *vq, struct vq_chain *chain)
{
	struct vq_walk walk;
	int r;

	if (!next_available(vq))
		return 0;
	r = vq_walk_begin(&walk, vq, chain);
	if (r < 0)
		return r;
	r = ring_walk(&walk);
	if (r < 0) {
		vq_slot_free(vq, chain->slot);
		return r;
	}
	advance(&vq->avail, &vq->avail_wrap, chain->count, vq->setup.size);
	return 1;
}

void packed_unpop(struct vq *vq, uint16_t count)
{
	if (vq->avail >= count) {
		vq->avail = (uint16_t)(vq->avail - count);
		return;
	}
	vq->avail = (uint16_t)(vq->avail + vq->setup.size - count);
	vq->avail_wrap = !vq->avail_wrap;
}

void packed_push(
	struct vq *vq, const struct vq_chain *chains, const uint32_t *written, unsigned count)
{
	struct packed_desc *first = &ring(vq)[vq->used];
	uint16_t first_flags = 0;

	for (unsigned i = 0; i < count; i++) {
		struct packed_desc *desc = &ring(vq)[vq->used];
		uint16_t flags = vq->used_wrap ? DESC_AVAIL | DESC_USED : 0;

		desc->id = chains[i].id;
		desc->len = written[i];
		if (chains[i].in_count)
			flags |= DESC_WRITE;
		/* The driver looks at them in order: it sees no other before the first. */
		if (i)
			__atomic_store_n(&desc->flags, flags, __ATOMIC_RELAXED);
		else
			first_flags = flags;
		advance(&vq->used, &vq->used_wrap, chains[i].count, vq->setup.size);
		vq->fresh += chains[i].count;
	}
	/* Release: ids, lengths, data and later flags are visible when this says "used". */
	__atomic_store_n(&first->flags, first_flags, __ATOMIC_RELEASE);
}

bool packed_should_notify(struct vq *vq)
{
	const struct packed_event *event = (const struct packed_event *)vq->driver;
	uint16_t size = vq->setup.size, off_wrap, flags;
	unsigned now, before, wanted;
	/* After a lap the places alone do not tell what was passed; all of them were. */
	bool valid = vq->signalled_valid, lap = vq->fresh >= size;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (valid && !vq->fresh)
		return false;
	vq->fresh = 0;
	flags = __atomic_load_n(&event->flags, __ATOMIC_ACQUIRE);
	off_wrap = __atomic_load_n(&event->off_wrap, __ATOMIC_RELAXED);
	/* All three on one line of twice the ring, seen from where the last interrupt was. */
	before = vq->signalled;
	now = vq->used + (vq->signalled_wrap == vq->used_wrap ? 0U : size);
	wanted = off_wrap & (EVENT_WRAP - 1);
	wanted += !!(off_wrap & EVENT_WRAP) == vq->signalled_wrap ? 0U : size;
	vq->signalled = vq->used;
	vq->signalled_wrap = vq->used_wrap;
	vq->signalled_valid = true;
	if (flags == EVENT_DISABLE)
		return false;
	if (flags != EVENT_DESC || !vq->setup.event_idx || !valid || lap)
		return true;
	return wanted >= before && wanted < now;
}

bool packed_kicks(struct vq *vq, bool on)
{
	struct packed_event *event = (struct packed_event *)vq->device;

	__atomic_store_n(&event->flags, on ? EVENT_ENABLE : EVENT_DISABLE, __ATOMIC_RELEASE);
	if (!on)
		return false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return next_available(vq);
}
