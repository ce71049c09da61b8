/* SPDX-License-Identifier: Apache-2.0 */
/* Chains: collecting their buffers, and copying to and from them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/vq_internal.h"

int vq_walk_begin(struct vq_walk *walk, struct vq *vq, struct vq_chain *chain)
{
	if (!vq->free_count)
		return -EPROTO;
	*chain = (struct vq_chain){.slot = vq->free_slots[--vq->free_count]};
	*walk = (struct vq_walk){
		.vq = vq,
		.chain = chain,
		.slot = &vq->slots[chain->slot],
		.budget = vq->setup.size,
	};
	walk->slot->out = true;
	return 0;
}

void vq_slot_free(struct vq *vq, uint16_t slot)
{
	vq->slots[slot].out = false;
	vq->free_slots[vq->free_count++] = slot;
}

/* Room for one more buffer. */
static int slot_grow(struct vq_slot *slot, unsigned used)
{
	unsigned room = slot->room ? slot->room * 2 : 4;
	struct iovec *iov;

	if (used < slot->room)
		return 0;
	iov = realloc(slot->iov, room * sizeof(*iov));
	if (!iov)
		return -ENOMEM;
	slot->iov = iov;
	slot->room = room;
	return 0;
}

int vq_walk_add(struct vq_walk *walk, gpa_t gpa, uint32_t len, bool write)
{
	struct vq_chain *chain = walk->chain;
	unsigned count = chain->out_count + chain->in_count;
	void *host = gmem_at(walk->vq->gm, gpa, len);
	int r;

	if (!host || !walk->budget--)
		return -EPROTO;
	/* Device-readable buffers come first (virtio 1.3 §2.6.4.2). */
	if (!write && chain->in_count)
		return -EPROTO;
	if (chain->out_bytes + chain->in_bytes + len > UINT32_MAX)
		return -EPROTO;
	r = slot_grow(walk->slot, count);
	if (r < 0)
		return r;
	walk->slot->iov[count] = (struct iovec){.iov_base = host, .iov_len = len};
	chain->iov = walk->slot->iov;
	if (write) {
		chain->in_count++;
		chain->in_bytes += len;
	} else {
		chain->out_count++;
		chain->out_bytes += len;
	}
	return 0;
}

/* Copy between @buf and @count buffers from @skip bytes into them. */
static uint64_t iov_copy(const struct iovec *iov, unsigned count, uint64_t skip, uint8_t *buf,
	uint64_t len, bool to_iov)
{
	uint64_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		uint64_t n;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		n = iov[i].iov_len - skip < len - done ? iov[i].iov_len - skip : len - done;
		if (to_iov)
			memcpy((uint8_t *)iov[i].iov_base + skip, buf + done, n);
		else
			memcpy(buf + done, (const uint8_t *)iov[i].iov_base + skip, n);
		done += n;
		skip = 0;
	}
	return done;
}

uint64_t vq_iov_read(const struct iovec *iov, unsigned count, uint64_t skip, void *to, uint64_t len)
{
	return iov_copy(iov, count, skip, to, len, false);
}

uint64_t vq_iov_write(
	const struct iovec *iov, unsigned count, uint64_t skip, const void *from, uint64_t len)
{
	/* iov_copy() only reads from the buffer in this direction. */
	return iov_copy(iov, count, skip, (uint8_t *)from, len, true);
}

uint64_t vq_chain_read(const struct vq_chain *chain, uint64_t skip, void *to, uint64_t len)
{
	return vq_iov_read(chain->iov, chain->out_count, skip, to, len);
}

uint64_t vq_chain_write(const struct vq_chain *chain, uint64_t skip, const void *from, uint64_t len)
{
	return vq_iov_write(chain->iov + chain->out_count, chain->in_count, skip, from, len);
}
