/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory-mapped transport with the entropy device behind it: whatever a guest does to the
 * registers, in any order, with any guest memory, in one thread of work after the other.
 *
 * Input: operations of 8 bytes each until a byte 0xff, then guest memory. An operation is a write
 * or a read of a register or of the configuration space, a change of guest memory, or a round of
 * the loop thread.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"
#include "loop/loop.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"

#define RAM_BYTES 0x4000ULL
#define BASE	  0xfeb00000ULL
#define OP_BYTES  8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bench {
	struct gmem *gm;
	uint8_t *ram;
	struct loop *loop;
	struct bus *bus;
	struct vrng *rng;
	struct vmmio *mmio;
	unsigned edges;
};

static void check(bool good)
{
	if (!good)
		abort();
}

static void irq(void *ctx, uint32_t gsi, bool level)
{
	struct bench *b = ctx;

	b->edges += level;
}

static void stop(void *ctx)
{
	loop_stop(ctx);
}

static void loop_round(struct bench *b)
{
	if (!loop_post(b->loop, stop, b->loop))
		loop_run(b->loop);
}

/* A driver that keeps to the rules so far: the ring's addresses are the input's business. */
static void bring_up(struct bench *b, const uint8_t op[OP_BYTES])
{
	static const struct {
		uint16_t reg;
		uint32_t value;
	} writes[] = {
		{0x70, 0},
		{0x70, 3},
		{0x24, 1},
		{0x30, 0},
		{0x84, 0},
		{0x94, 0},
		{0xa4, 0},
	};
	const uint32_t own[][2] = {
		{0x20, 1 | (op[1] & 4)},
		{0x38, op[2]},
		{0x80, (uint32_t)op[3] << 4},
		{0x90, (uint32_t)op[4] << 4},
		{0xa0, (uint32_t)op[5] << 4},
		{0x44, 1},
		{0x24, 0},
		{0x20, (uint32_t)(op[1] & 3) << 28},
		{0x70, 11},
		{0x70, 15},
	};

	for (size_t i = 0; i < ARRAY_LEN(writes); i++)
		bus_mmio_write(b->bus, BASE + writes[i].reg, (const uint8_t *)&writes[i].value, 4);
	for (size_t i = 0; i < ARRAY_LEN(own); i++)
		bus_mmio_write(b->bus, BASE + own[i][0], (const uint8_t *)&own[i][1], 4);
}

static void operate(struct bench *b, const uint8_t op[OP_BYTES])
{
	static const uint8_t lens[] = {1, 2, 4, 8};
	gpa_t gpa = BASE + ((op[2] | op[3] << 8) & (VMMIO_BYTES - 1));
	uint8_t buf[8] = {0};

	switch (op[0] % 7) {
	case 0:
		bus_mmio_write(b->bus, gpa & ~3ULL, op + 4, 4);
		break;
	case 1:
		memcpy(buf, op + 4, 4);
		bus_mmio_write(b->bus, gpa, buf, lens[op[1] % 4]);
		break;
	case 2:
		bus_mmio_read(b->bus, gpa, buf, lens[op[1] % 4]);
		break;
	case 3:
		b->ram[(op[2] | op[3] << 8) % RAM_BYTES] = op[4];
		break;
	case 4:
		loop_round(b);
		break;
	case 5:
		vdev_memory_changed(vrng_vdev(b->rng));
		break;
	case 6:
		bring_up(b, op);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vrng_params rng = {0};
	struct vmmio_params mmio = {.base = BASE};
	struct bench b = {0};
	unsigned edges;
	size_t at = 0;

	check(!gmem_create(&b.gm, NULL) && !gmem_add_ram(b.gm, 0, RAM_BYTES, NULL) &&
		!loop_create(&b.loop) && !bus_create(&b.bus));
	b.ram = gmem_at(b.gm, 0, RAM_BYTES);
	rng.gm = b.gm;
	rng.loop = b.loop;
	check(!vrng_create(&b.rng, &rng));
	mmio.bus = b.bus;
	mmio.vd = vrng_vdev(b.rng);
	mmio.irq = (struct irq_line){.set = irq, .ctx = &b};
	check(!vmmio_create(&b.mmio, &mmio));
	while (at + OP_BYTES <= size && data[at] != 0xff)
		at += OP_BYTES;
	if (at < size)
		memcpy(b.ram, data + at, size - at < RAM_BYTES ? size - at : RAM_BYTES);
	for (size_t op = 0; op + OP_BYTES <= at; op += OP_BYTES)
		operate(&b, data + op);
	/* After a reset there is silence, whatever was under way. */
	bus_mmio_write(b.bus, BASE + 0x70, (const uint8_t[4]){0}, 4);
	edges = b.edges;
	loop_round(&b);
	loop_round(&b);
	check(b.edges == edges);
	vmmio_destroy(b.mmio);
	vrng_destroy(b.rng);
	bus_destroy(b.bus);
	loop_destroy(b.loop);
	gmem_destroy(b.gm);
	return 0;
}
