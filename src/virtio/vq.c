/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/vq.h"

#include <errno.h>
#include <stdlib.h>

#include "virtio/vq_internal.h"

#define DESC_BYTES	     16
#define SPLIT_AVAIL_BYTES(n) (6 + 2 * (uint64_t)(n))
#define SPLIT_USED_BYTES(n)  (6 + 8 * (uint64_t)(n))
#define PACKED_EVENT_BYTES   4
#define WRAP_BIT	     0x8000

int vq_create(struct vq **ret, const struct gmem *gm)
{
	struct vq *vq = calloc(1, sizeof(*vq));

	if (!vq)
		return -ENOMEM;
	vq->gm = gm;
	*ret = vq;
	return 0;
}

static void slots_free(struct vq *vq)
{
	for (unsigned i = 0; i < vq->slots_room; i++)
		free(vq->slots[i].iov);
	free(vq->slots);
	free(vq->free_slots);
	vq->slots = NULL;
	vq->free_slots = NULL;
	vq->slots_room = 0;
	vq->free_count = 0;
}

void vq_destroy(struct vq *vq)
{
	if (!vq)
		return;
	slots_free(vq);
	free(vq);
}

static int slots_make(struct vq *vq, uint16_t size)
{
	slots_free(vq);
	vq->slots = calloc(size, sizeof(*vq->slots));
	vq->free_slots = calloc(size, sizeof(*vq->free_slots));
	if (!vq->slots || !vq->free_slots) {
		slots_free(vq);
		return -ENOMEM;
	}
	vq->slots_room = size;
	for (unsigned i = 0; i < size; i++)
		vq->free_slots[i] = (uint16_t)(size - 1 - i);
	vq->free_count = size;
	return 0;
}

/* Find the ring's parts in guest RAM. Returns false when one of them is not there. */
static bool parts_find(struct vq *vq)
{
	const struct vq_setup *s = &vq->setup;

	vq->desc = gmem_at(vq->gm, s->desc, DESC_BYTES * (uint64_t)s->size);
	vq->driver = gmem_at(
		vq->gm, s->driver, s->packed ? PACKED_EVENT_BYTES : SPLIT_AVAIL_BYTES(s->size));
	vq->device = gmem_at(
		vq->gm, s->device, s->packed ? PACKED_EVENT_BYTES : SPLIT_USED_BYTES(s->size));
	return vq->desc && vq->driver && vq->device;
}

int vq_start(struct vq *vq, const struct vq_setup *setup)
{
	uint16_t size = setup->size;
	uint64_t driver_align = setup->packed ? 4 : 2;
	int r;

	vq_stop(vq);
	if (!size || size > VQ_SIZE_MAX || (!setup->packed && size & (size - 1)))
		return -EINVAL;
	if (setup->desc % 16 || setup->driver % driver_align || setup->device % 4)
		return -EINVAL;
	vq->setup = *setup;
	if (!parts_find(vq))
		return -EINVAL;
	r = slots_make(vq, size);
	if (r < 0)
		return r;
	vq->avail = setup->next_avail;
	vq->used = setup->next_used;
	vq->avail_wrap = vq->used_wrap = true;
	if (setup->packed && (setup->next_avail || setup->next_used)) {
		vq->avail_wrap = setup->next_avail & WRAP_BIT;
		vq->used_wrap = setup->next_used & WRAP_BIT;
		vq->avail &= WRAP_BIT - 1;
		vq->used &= WRAP_BIT - 1;
		if (vq->avail >= size || vq->used >= size)
			return -EINVAL;
	}
	/* A queue that goes on where another left off may owe the driver an interrupt. */
	vq->signalled = vq->used;
	vq->signalled_wrap = vq->used_wrap;
	vq->signalled_valid = !setup->next_avail && !setup->next_used;
	vq->fresh = 0;
	vq->broken = false;
	vq->running = true;
	vq->generation++;
	vq_kicks(vq, true);
	return 0;
}

void vq_stop(struct vq *vq)
{
	vq->running = false;
	vq->broken = false;
}

struct vq_ring vq_ring(const struct vq *vq)
{
	return (struct vq_ring){
		.desc = vq->desc,
		.driver = vq->driver,
		.device = vq->device,
		.size = vq->setup.size,
	};
}

void vq_recheck(struct vq *vq)
{
	if (vq->running && !parts_find(vq))
		vq->broken = true;
}

int vq_pop(struct vq *vq, struct vq_chain *chain)
{
	int r;

	if (!vq->running)
		return 0;
	if (vq->broken)
		return -EPROTO;
	r = vq->setup.packed ? packed_pop(vq, chain) : split_pop(vq, chain);
	/* Want of memory is ours and not the driver's doing, but there is no way to go on either.
	 */
	if (r < 0) {
		vq->broken = true;
		return -EPROTO;
	}
	if (r > 0)
		chain->generation = vq->generation;
	return r;
}

void vq_unpop(struct vq *vq, const struct vq_chain *chain)
{
	if (!vq->running || chain->generation != vq->generation)
		return;
	vq_slot_free(vq, chain->slot);
	if (vq->setup.packed)
		packed_unpop(vq, chain->count);
	else
		vq->avail--;
}

void vq_push(struct vq *vq, const struct vq_chain *chain, uint32_t written)
{
	vq_push_all(vq, chain, &written, 1);
}

void vq_push_all(
	struct vq *vq, const struct vq_chain *chains, const uint32_t *written, unsigned count)
{
	if (!vq->running || !count || chains->generation != vq->generation)
		return;
	for (unsigned i = 0; i < count; i++)
		vq_slot_free(vq, chains[i].slot);
	if (vq->broken)
		return;
	if (vq->setup.packed)
		packed_push(vq, chains, written, count);
	else
		split_push(vq, chains, written, count);
}

bool vq_should_notify(struct vq *vq)
{
	if (!vq->running || vq->broken)
		return false;
	return vq->setup.packed ? packed_should_notify(vq) : split_should_notify(vq);
}

bool vq_kicks(struct vq *vq, bool on)
{
	if (!vq->running || vq->broken)
		return false;
	vq->kicks_on = on;
	return vq->setup.packed ? packed_kicks(vq, on) : split_kicks(vq, on);
}

uint16_t vq_size(const struct vq *vq)
{
	return vq->setup.size;
}

bool vq_running(const struct vq *vq)
{
	return vq->running;
}

bool vq_broken(const struct vq *vq)
{
	return vq->broken;
}

void vq_position(const struct vq *vq, uint16_t *next_avail, uint16_t *next_used)
{
	bool packed = vq->setup.packed;

	*next_avail = vq->avail | (packed && vq->avail_wrap ? WRAP_BIT : 0);
	*next_used = vq->used | (packed && vq->used_wrap ? WRAP_BIT : 0);
}
