/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtqueue over guest memory that the input fills: every byte of rings, descriptors and tables
 * is the driver's. What the device is handed must lie inside RAM and add up; the sanitizers see to
 * the rest.
 *
 * Input: 8 bytes of set-up (size, flags, ring positions), then operations of 4 bytes each until a
 * byte 0xff, then guest memory.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/vq.h"

#define RAM_BYTES 0x10000ULL
#define CHAINS	  16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bench {
	struct gmem *gm;
	struct vq *vq;
	uint8_t *ram;
	struct vq_chain chains[CHAINS];
	bool held[CHAINS];
};

static void check(bool good)
{
	if (!good)
		abort();
}

/* What a device relies on. */
static void chain_check(const struct bench *b, const struct vq_chain *chain)
{
	uint64_t out = 0, in = 0;

	check(chain->out_count + chain->in_count <= VQ_CHAIN_MAX);
	for (unsigned i = 0; i < chain->out_count + chain->in_count; i++) {
		const struct iovec *iov = &chain->iov[i];
		uint8_t *at = iov->iov_base;

		check(iov->iov_len > 0 && at >= b->ram && iov->iov_len <= RAM_BYTES &&
			(uint64_t)(at - b->ram) <= RAM_BYTES - iov->iov_len);
		*(i < chain->out_count ? &out : &in) += iov->iov_len;
	}
	check(out == chain->out_bytes && in == chain->in_bytes && out + in <= UINT32_MAX);
}

static void operate(struct bench *b, const uint8_t op[4])
{
	struct vq_chain *chain = &b->chains[op[1] % CHAINS];
	bool *held = &b->held[op[1] % CHAINS];
	uint8_t buf[64];

	switch (op[0] % 7) {
	case 0:
	case 1:
		if (*held)
			break;
		*held = vq_pop(b->vq, chain) > 0;
		if (*held)
			chain_check(b, chain);
		break;
	case 2:
		if (!*held)
			break;
		vq_chain_read(chain, op[2], buf, op[3] % sizeof(buf));
		memset(buf, op[3], sizeof(buf));
		vq_push(b->vq, chain, (uint32_t)vq_chain_write(chain, op[2], buf, sizeof(buf)));
		*held = false;
		break;
	case 3:
		vq_should_notify(b->vq);
		break;
	case 4:
		vq_kicks(b->vq, op[2] & 1);
		break;
	case 5:
		/* The guest changes its mind between two looks. */
		b->ram[(op[1] << 8 | op[2]) % RAM_BYTES] = op[3];
		break;
	case 6:
		vq_recheck(b->vq);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vq_setup setup = {.desc = 0, .driver = 0x400, .device = 0x800};
	struct bench b = {0};
	size_t at = 8;

	if (size < 8)
		return 0;
	setup.size = (uint16_t)(1U << data[0] % 6);
	setup.packed = data[1] & 1;
	setup.event_idx = data[1] & 2;
	setup.indirect = data[1] & 4;
	if (setup.packed)
		setup.size = (uint16_t)(1 + data[0] % 40);
	if (data[1] & 8) {
		memcpy(&setup.next_avail, data + 2, 2);
		memcpy(&setup.next_used, data + 4, 2);
	}
	check(!gmem_create(&b.gm, NULL) && !gmem_add_ram(b.gm, 0, RAM_BYTES, NULL) &&
		!vq_create(&b.vq, b.gm));
	b.ram = gmem_at(b.gm, 0, RAM_BYTES);
	while (at + 4 <= size && data[at] != 0xff)
		at += 4;
	if (at < size)
		memcpy(b.ram, data + at, size - at < RAM_BYTES ? size - at : RAM_BYTES);
	if (!vq_start(b.vq, &setup))
		for (size_t op = 8; op + 4 <= size && op < at; op += 4)
			operate(&b, data + op);
	vq_destroy(b.vq);
	gmem_destroy(b.gm);
	return 0;
}
