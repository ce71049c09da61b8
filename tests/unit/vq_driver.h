/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TESTS_VQ_DRIVER_H
#define KV_TESTS_VQ_DRIVER_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "gmem/gmem.h"
#include "virtio/vq.h"

/*
 * The driver's side of a virtqueue, as simple as can be, for tests: it writes what it is told to,
 * right or wrong.
 */
#define DRV_NEXT     1
#define DRV_WRITE    2
#define DRV_INDIRECT 4

/* Where the test driver keeps things in guest memory. */
#define DRV_DESC   0x10000ULL
#define DRV_DRIVER 0x20000ULL
#define DRV_DEVICE 0x30000ULL
#define DRV_TABLE  0x40000ULL /* an indirect table */
#define DRV_DATA   0x50000ULL
#define DRV_RAM	   0x100000ULL

struct drv_desc {
	uint64_t addr;
	uint32_t len;
	union {
		struct {
			uint16_t flags, next;
		} split;
		struct {
			uint16_t id, flags;
		} packed;
	};
};

struct drv {
	struct gmem *gm;
	struct vq_setup setup;
	uint16_t avail; /* split: avail idx; packed: index of the next entry */
	bool wrap;	/* packed */
	uint16_t used;	/* next used entry to look at */
	bool used_wrap; /* packed */
};

static inline void *drv_at(struct drv *drv, gpa_t gpa)
{
	return gmem_at(drv->gm, gpa, 1);
}

static inline void drv_init(
	struct drv *drv, struct gmem *gm, uint16_t size, bool packed, bool event_idx)
{
	*drv = (struct drv){
		.gm = gm,
		.wrap = true,
		.used_wrap = true,
		.setup =
			{
				.size = size,
				.desc = DRV_DESC,
				.driver = DRV_DRIVER,
				.device = DRV_DEVICE,
				.packed = packed,
				.event_idx = event_idx,
				.indirect = true,
			},
	};
	memset(drv_at(drv, 0), 0, DRV_RAM);
}

/* One descriptor; @extra is `next` of a split ring and `id` of a packed one. */
static inline void drv_desc_set(struct drv *drv, gpa_t table, unsigned index, uint64_t addr,
	uint32_t len, uint16_t flags, uint16_t extra)
{
	struct drv_desc *desc = (struct drv_desc *)drv_at(drv, table) + index;

	desc->addr = addr;
	desc->len = len;
	if (drv->setup.packed) {
		desc->packed.id = extra;
		desc->packed.flags = flags;
	} else {
		desc->split.flags = flags;
		desc->split.next = extra;
	}
}

/* Split: make the chain that starts at descriptor @head available. */
static inline void drv_split_offer(struct drv *drv, uint16_t head)
{
	uint16_t *avail = drv_at(drv, drv->setup.driver);

	avail[2 + drv->avail % drv->setup.size] = head;
	/* §2.7.13.3: the ring before its index. */
	__atomic_store_n(&avail[1], ++drv->avail, __ATOMIC_RELEASE);
}

/* Packed: write the next ring entry, available. */
static inline void drv_packed_offer(
	struct drv *drv, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
	flags |= drv->wrap ? 1U << 7 : 1U << 15;
	drv_desc_set(drv, drv->setup.desc, drv->avail, addr, len, flags, id);
	if (++drv->avail == drv->setup.size) {
		drv->avail = 0;
		drv->wrap = !drv->wrap;
	}
}

/*
 * A chain of one readable and one writable buffer with @id, in either kind of ring; split rings
 * use descriptors 2 * id and 2 * id + 1.
 */
static inline void drv_offer(
	struct drv *drv, uint16_t id, gpa_t out, uint32_t out_len, gpa_t in, uint32_t in_len)
{
	if (drv->setup.packed) {
		drv_packed_offer(drv, out, out_len, DRV_NEXT, id);
		drv_packed_offer(drv, in, in_len, DRV_WRITE, id);
		return;
	}
	drv_desc_set(drv, drv->setup.desc, 2U * id, out, out_len, DRV_NEXT, (uint16_t)(2 * id + 1));
	drv_desc_set(drv, drv->setup.desc, 2U * id + 1, in, in_len, DRV_WRITE, 0);
	drv_split_offer(drv, (uint16_t)(2 * id));
}

/* Take the next used entry. @ring_count: entries its chain took. Returns false when there is none.
 */
static inline bool drv_take(struct drv *drv, uint16_t ring_count, uint32_t *id, uint32_t *len)
{
	if (drv->setup.packed) {
		struct drv_desc *desc = (struct drv_desc *)drv_at(drv, drv->setup.desc) + drv->used;
		bool avail = desc->packed.flags >> 7 & 1, used = desc->packed.flags >> 15 & 1;

		if (avail != drv->used_wrap || used != drv->used_wrap)
			return false;
		*id = desc->packed.id;
		*len = desc->len;
		drv->used = (uint16_t)(drv->used + ring_count);
		if (drv->used >= drv->setup.size) {
			drv->used = (uint16_t)(drv->used - drv->setup.size);
			drv->used_wrap = !drv->used_wrap;
		}
		return true;
	}
	uint16_t *used = drv_at(drv, drv->setup.device);
	uint32_t *elem = (uint32_t *)(used + 2) + 2 * (drv->used % drv->setup.size);

	if (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) == drv->used)
		return false;
	*id = elem[0] / 2;
	*len = elem[1];
	drv->used++;
	return true;
}

#endif
