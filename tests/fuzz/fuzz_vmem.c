/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory device's requests: rings, requests and where they lie are the input's; rings may lie
 * in memory that the requests unplug. Whatever happens, what is plugged adds up and listeners know
 * of it.
 *
 * Input: one byte of set-up, then guest memory; the driver kicks some times, and may start again in
 * the middle of a request.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "loop/loop.h"
#include "virtio/mem.h"

#define RAM_BYTES  0x4000ULL
#define QUEUE_SIZE 16
#define BLOCK	   4096ULL
#define WINDOW	   0x4000ULL
#define BASE	   0x10000ULL
#define BYTES	   0x20000ULL

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct slots {
	bool mapped[GMEM_REGIONS_MAX + GMEM_WINDOWS_MAX];
	unsigned calls, refuse; /* each refuse-th one; 0: none */
};

static void check(bool good)
{
	if (!good)
		abort();
}

static int slot_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct slots *slots = ctx;

	check(!slots->mapped[region]);
	if (slots->refuse && ++slots->calls % slots->refuse == 0)
		return -ENOSPC;
	slots->mapped[region] = true;
	return 0;
}

static void slot_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	struct slots *slots = ctx;

	check(slots->mapped[region]);
	slots->mapped[region] = false;
}

static void stop(void *ctx)
{
	loop_stop(ctx);
}

static void shrunk(void *ctx)
{
	vdev_memory_changed(vmem_vdev(*(struct vmem **)ctx));
}

static void state_check(struct vmem *mem, const struct gmem *gm, const struct gmem_hot *hot,
	const struct slots *slots)
{
	uint64_t plugged = 0;
	struct vmem_info info;

	for (uint64_t at = BASE; at < BASE + BYTES; at += BLOCK) {
		bool on = gmem_hot_plugged(hot, at, BLOCK);

		check(on == !!gmem_at(gm, at, BLOCK));
		check(!on || slots->mapped[GMEM_REGIONS_MAX + (at - BASE) / WINDOW]);
		plugged += on ? BLOCK : 0;
	}
	for (uint64_t at = BASE; at < BASE + BYTES; at += WINDOW)
		check(slots->mapped[GMEM_REGIONS_MAX + (at - BASE) / WINDOW] ==
			!!gmem_hot_plugged(hot, at, WINDOW));
	vmem_info(mem, &info);
	check(info.hot.plugged_bytes == plugged);
}

/* Some of the area is plugged before, so that rings can lie there. */
static struct gmem *memory_make(struct gmem_hot **hot, struct slots *slots, bool populate)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	const struct gmem_hot_params params = {
		.gpa = BASE,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.window_bytes = WINDOW,
		.populate = populate,
		.turn_bytes = BLOCK,
		.backing = &anon,
	};
	const struct gmem_listener listener = {slot_map, slot_unmap, slots};
	struct gmem *gm = NULL;

	check(!gmem_create(&gm, NULL) && !gmem_add_ram(gm, 0, RAM_BYTES, NULL) &&
		!gmem_hot_add(hot, gm, &params, NULL) && !gmem_listen(gm, &listener) &&
		!gmem_hot_plug(*hot, BASE, 2 * BLOCK));
	return gm;
}

/* The driver starts, after a reset. */
static void driver_up(struct vmem *mem, uint64_t features, const struct vq_setup *setups)
{
	for (unsigned i = 0; i < 4; i++) {
		static const uint8_t status[4] = {0, 3, 11, 15};

		vdev_status_write(vmem_vdev(mem), status[i], i < 2 ? 0 : features, setups);
	}
}

static void loop_round(struct loop *loop)
{
	if (!loop_post(loop, stop, loop))
		loop_run(loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vq_setup setups[1] = {
		{.size = QUEUE_SIZE, .desc = 0, .driver = 0x100, .device = 0x200}};
	struct vmem_params params = {.requested_bytes = BYTES / 2, .node = -1, .shrunk = shrunk};
	struct slots slots = {0};
	struct vmem *mem = NULL;
	struct loop *loop = NULL;
	struct gmem_hot *hot;
	struct gmem *gm;
	uint64_t features;

	if (!size)
		return 0;
	gm = memory_make(&hot, &slots, data[0] & 8);
	check(!loop_create(&loop));
	memcpy(gmem_at(gm, 0, RAM_BYTES), data + 1, size - 1 < RAM_BYTES ? size - 1 : RAM_BYTES);
	if (data[0] & 1)
		setups[0].device = BASE;
	slots.refuse = data[0] >> 4;
	params.gm = gm;
	params.loop = loop;
	params.hot = hot;
	params.ctx = &mem;
	check(!vmem_create(&mem, &params));
	features = vdev_offered(vmem_vdev(mem));
	if (data[0] & 2)
		features &= ~VDEV_F_RING_PACKED;
	driver_up(mem, features, setups);
	for (unsigned i = 0; i < 8; i++) {
		vdev_kick(vmem_vdev(mem), 0);
		loop_round(loop);
		state_check(mem, gm, hot, &slots);
		/* A request in turns: it ends, or the driver does, or the device. */
		if (data[0] & 8 && i == 3)
			driver_up(mem, features, setups);
		while (i < 7 && gmem_hot_busy(hot)) {
			loop_round(loop);
			state_check(mem, gm, hot, &slots);
		}
	}
	if (data[0] & 4)
		vmem_request(mem, BLOCK);
	vdev_status_write(vmem_vdev(mem), 0, 0, setups);
	vmem_destroy(mem);
	loop_destroy(loop);
	gmem_destroy(gm);
	return 0;
}
