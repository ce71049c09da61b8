/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/mem: the memory device behind its registers, with a scripted driver. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "bank.h"
#include "mmio_driver.h"
#include "virtio/mem.h"

#define BASE	  (8 * GIB)
#define BLOCK	  (2 * MIB)
#define WINDOW	  GIB
#define BYTES	  (16 * GIB)
#define REQ	  DRV_DATA
#define RESP	  (DRV_DATA + 0x100)
#define REQUESTED (64 * MIB)
#define PIECES	  16
#define ROUNDS	  100000 /* more than any request has turns */

#define F_PXM	       (1ULL << 0)
#define F_INACCESSIBLE (1ULL << 1)

enum { PLUG = 0, UNPLUG = 1, UNPLUG_ALL = 2, STATE = 3 };
enum { ACK = 0, NACK = 1, BUSY = 2, ERROR = 3 };

/* Offsets in the configuration space. */
enum {
	C_BLOCK = 0,
	C_NODE = 8,
	C_ADDR = 16,
	C_REGION = 24,
	C_USABLE = 32,
	C_PLUGGED = 40,
	C_REQUESTED = 48,
};

struct board {
	struct gmem *gm;
	struct gmem_hot *hot;
	struct vmem *mem;
	struct loop *branch; /* as the machine's */
	struct md md;
	struct drv drv;
	unsigned shrunk;
	unsigned used;	      /* answers that the driver had when it did last */
	uint8_t *host, first; /* what is looked at then, and what was there */
	int refuse;	      /* what listeners say */
	unsigned refuse_from; /* to so many calls they say yes before */
	unsigned mapped;      /* regions and windows that they know */
};

static int slot_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct board *b = ctx;

	if (b->refuse && !b->refuse_from)
		return b->refuse;
	if (b->refuse)
		b->refuse_from--;
	b->mapped++;
	return 0;
}

static void slot_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	((struct board *)ctx)->mapped--;
}

/* As the machine does: rings may have gone with the memory. */
static void shrunk(void *ctx)
{
	struct board *b = ctx;

	b->shrunk++;
	b->used = ((uint16_t *)drv_at(&b->drv, b->drv.setup.device))[1];
	if (b->host)
		b->first = *b->host;
	vdev_memory_changed(vmem_vdev(b->mem));
}

static bool up(struct board *b, uint64_t features, bool packed)
{
	assert_true(md_negotiate(
		&b->md, VDEV_F_VERSION_1 | features | (packed ? VDEV_F_RING_PACKED : 0)));
	drv_init(&b->drv, b->gm, 8, packed, false);
	md_queue_set(&b->md, 0, &b->drv.setup);
	md_driver_ok(&b->md);
	return !(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
}

static void board_build(struct board *b, uint64_t requested, struct gmem_hot_params hot)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem_listener slots = {slot_map, slot_unmap, b};
	struct vmem_params params = {
		.requested_bytes = requested,
		.node = -1,
		.shrunk = shrunk,
		.ctx = b,
	};

	hot.gpa = BASE;
	hot.bytes = BYTES;
	hot.block_bytes = BLOCK;
	hot.window_bytes = WINDOW;
	if (!hot.backing)
		hot.backing = &anon;
	*b = (struct board){0};
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(gmem_hot_add(&b->hot, b->gm, &hot, NULL), 0);
	assert_int_equal(gmem_listen(b->gm, &slots), 0);
	assert_int_equal(loop_create(&b->md.loop), 0);
	assert_int_equal(loop_branch(&b->branch, b->md.loop), 0);
	params.hot = b->hot;
	params.gm = b->gm;
	params.loop = b->branch;
	assert_int_equal(vmem_create(&b->mem, &params), 0);
	assert_int_equal(md_attach(&b->md, vmem_vdev(b->mem)), 0);
}

static void board_make(struct board *b, uint64_t requested, bool whole)
{
	board_build(b, requested, (struct gmem_hot_params){.whole = whole});
}

static void board_free(struct board *b)
{
	md_detach(&b->md);
	vmem_destroy(b->mem);
	loop_destroy(b->branch);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
}

static uint64_t config(struct board *b, unsigned offset)
{
	return md_get(&b->md, MD_CONFIG + offset) | (uint64_t)md_get(&b->md, MD_CONFIG + offset + 4)
							    << 32;
}

static void req_write(struct board *b, uint16_t id, uint16_t type, gpa_t addr, uint16_t blocks)
{
	/* What is padding is ignored, so it is no zeros. */
	uint16_t words[12] = {type, 1, 2, 3, (uint16_t)addr, (uint16_t)(addr >> 16),
		(uint16_t)(addr >> 32), (uint16_t)(addr >> 48), blocks, 4, 5, 6};

	assert_int_equal(gmem_write(b->gm, REQ + 32 * id, words, sizeof(words)), 0);
}

/* Send a request, with room for its answer behind that for @id - 1. */
static void req_send(struct board *b, uint16_t id, uint16_t type, gpa_t addr, uint16_t blocks)
{
	uint16_t words[5] = {0xeeee};

	req_write(b, id, type, addr, blocks);
	gmem_write(b->gm, RESP + 16 * id, words, sizeof(words));
	drv_offer(&b->drv, id, REQ + 32 * id, 24, RESP + 16 * id, 10);
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
}

/* Wait for an answer. Returns the rounds that it took. */
static unsigned answer_wait(struct board *b, uint16_t id)
{
	uint32_t got, len;

	for (unsigned i = 1; i < ROUNDS; i++) {
		md_round(&b->md);
		if (!drv_take(&b->drv, 2, &got, &len))
			continue;
		assert_int_equal(got, id);
		assert_int_equal(len, 10);
		return i;
	}
	fail_msg("no answer");
	return 0;
}

/* Returns the type of an answer, with the state in *@state. */
static unsigned answer(struct board *b, uint16_t id, uint16_t *state)
{
	uint16_t words[5];

	gmem_read(b->gm, RESP + 16 * id, words, sizeof(words));
	*state = words[4];
	return words[0];
}

/* Send a request. Returns the type of the response, with the state in *@state. */
static unsigned ask_state(
	struct board *b, uint16_t type, gpa_t addr, uint16_t blocks, uint16_t *state)
{
	req_send(b, 1, type, addr, blocks);
	answer_wait(b, 1);
	return answer(b, 1, state);
}

static unsigned ask(struct board *b, uint16_t type, gpa_t addr, uint16_t blocks)
{
	uint16_t state;

	return ask_state(b, type, addr, blocks, &state);
}

/* The area's bytes that the host has. */
static uint64_t resident(struct board *b)
{
	uint64_t at = 0, bytes = 0;

	while (vmem_resident(b->mem, &at, &bytes))
		;
	return bytes;
}

static void test_config(void **state)
{
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_int_equal(md_get(&b.md, MD_DEVICE_ID), 24);
	assert_int_equal(md_features(&b.md) & (F_PXM | F_INACCESSIBLE), F_INACCESSIBLE);
	assert_int_equal(config(&b, C_BLOCK), BLOCK);
	assert_int_equal(config(&b, C_ADDR), BASE);
	assert_int_equal(config(&b, C_REGION), BYTES);
	assert_int_equal(config(&b, C_PLUGGED), 0);
	assert_int_equal(config(&b, C_REQUESTED), REQUESTED);
	assert_true(config(&b, C_USABLE) >= REQUESTED);
	assert_int_equal(config(&b, C_USABLE) % BLOCK, 0);
	/* Nobody may change it. */
	md_set(&b.md, MD_CONFIG + C_REQUESTED, 0);
	assert_int_equal(config(&b, C_REQUESTED), REQUESTED);
	board_free(&b);
}

static void requests_check(bool packed)
{
	uint16_t word;
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_true(up(&b, F_INACCESSIBLE, packed));
	assert_int_equal(ask(&b, PLUG, BASE, 4), ACK);
	assert_int_equal(config(&b, C_PLUGGED), 4 * BLOCK);
	assert_non_null(gmem_at(b.gm, BASE, 4 * BLOCK));
	/* Against the rules (§5.15.6.2). */
	assert_int_equal(ask(&b, PLUG, BASE + 4096, 1), ERROR);
	assert_int_equal(ask(&b, PLUG, BASE + 5 * BLOCK, 0), ERROR);
	assert_int_equal(ask(&b, PLUG, BASE + 3 * BLOCK, 2), ERROR);
	assert_int_equal(ask(&b, PLUG, BASE - BLOCK, 1), ERROR);
	assert_int_equal(ask(&b, PLUG, BASE + BYTES, 1), ERROR);
	assert_int_equal(ask(&b, PLUG, BASE + config(&b, C_USABLE), 1), ERROR);
	assert_int_equal(ask(&b, PLUG, align_down(UINT64_MAX, BLOCK), 0xffff), ERROR);
	assert_int_equal(ask(&b, UNPLUG, BASE + 3 * BLOCK, 2), ERROR);
	assert_int_equal(ask(&b, UNPLUG, BASE + BLOCK / 2, 1), ERROR);
	assert_int_equal(ask(&b, STATE, BASE, 0), ERROR);
	assert_int_equal(ask(&b, 4, BASE, 1), ERROR);
	assert_int_equal(ask(&b, 0xffff, BASE, 1), ERROR);
	/* More than requested. */
	assert_int_equal(ask(&b, PLUG, BASE + 4 * BLOCK, REQUESTED / BLOCK - 3), NACK);
	assert_int_equal(ask(&b, PLUG, BASE + 4 * BLOCK, REQUESTED / BLOCK - 4), ACK);
	assert_int_equal(ask(&b, PLUG, BASE + REQUESTED, 1), NACK);
	assert_int_equal(ask_state(&b, STATE, BASE, REQUESTED / BLOCK, &word), ACK);
	assert_int_equal(word, 0);
	assert_int_equal(ask_state(&b, STATE, BASE, REQUESTED / BLOCK + 1, &word), ACK);
	assert_int_equal(word, 2);
	assert_int_equal(ask_state(&b, STATE, BASE + REQUESTED, 7, &word), ACK);
	assert_int_equal(word, 1);
	assert_int_equal(b.shrunk, 0);
	assert_int_equal(ask(&b, UNPLUG, BASE + BLOCK, 1), ACK);
	assert_int_equal(b.shrunk, 1);
	assert_null(gmem_at(b.gm, BASE + BLOCK, 1));
	assert_int_equal(ask(&b, UNPLUG_ALL, 0, 0), ACK);
	assert_int_equal(config(&b, C_PLUGGED), 0);
	assert_null(gmem_at(b.gm, BASE, 1));
	assert_int_equal(vdev_violations(vmem_vdev(b.mem)), 0);
	board_free(&b);
}

static void test_requests(void **state)
{
	requests_check(false);
	requests_check(true);
}

static void test_resize(void **state)
{
	struct vmem_info info;
	uint32_t generation;
	struct board b;
	unsigned edges;

	board_make(&b, 0, false);
	assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	assert_true(up(&b, F_INACCESSIBLE, false));
	assert_int_equal(config(&b, C_USABLE), 0);
	assert_int_equal(ask(&b, PLUG, BASE, 1), ERROR);
	assert_int_equal(vmem_request(b.mem, BLOCK + 1), -EINVAL);
	assert_int_equal(vmem_request(b.mem, BYTES + BLOCK), -EINVAL);
	edges = b.md.edges;
	generation = md_get(&b.md, MD_GENERATION);
	md_set(&b.md, MD_INTERRUPT_ACK, 3);
	assert_int_equal(vmem_request(b.mem, 2 * BLOCK), 0);
	assert_int_equal(b.md.edges, edges + 1);
	assert_int_equal(md_get(&b.md, MD_INTERRUPT_STATUS), 2);
	assert_int_not_equal(md_get(&b.md, MD_GENERATION), generation);
	assert_int_equal(ask(&b, PLUG, BASE, 2), ACK);
	/* The usable part grows at once and shrinks when all is unplugged (§5.15.4.2). */
	assert_int_equal(vmem_request(b.mem, BYTES), 0);
	assert_int_equal(config(&b, C_USABLE), BYTES);
	assert_int_equal(vmem_request(b.mem, BLOCK), 0);
	assert_int_equal(config(&b, C_USABLE), BYTES);
	assert_int_equal(ask(&b, PLUG, BASE + 2 * BLOCK, 1), NACK);
	assert_int_equal(ask(&b, UNPLUG_ALL, 0, 0), ACK);
	assert_true(config(&b, C_USABLE) < BYTES);
	vmem_info(b.mem, &info);
	assert_true(info.driver);
	assert_int_equal(info.requested_bytes, BLOCK);
	assert_int_equal(info.refused, 2);
	assert_int_equal(info.hot.plugged_bytes, 0);
	assert_int_equal(info.hot.windows_mapped, 0);
	board_free(&b);
}

/* Blocks outlive the driver (§5.15.5.2): the next one finds and unplugs them. */
static void test_reset(void **state)
{
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_true(up(&b, F_INACCESSIBLE, false));
	assert_int_equal(ask(&b, PLUG, BASE, 8), ACK);
	assert_int_equal(gmem_write(b.gm, BASE, "kvick", 5), 0);
	md_set(&b.md, MD_STATUS, 0);
	assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	assert_int_equal(config(&b, C_PLUGGED), 8 * BLOCK);
	assert_memory_equal(gmem_at(b.gm, BASE, 5), "kvick", 5);
	assert_true(up(&b, F_INACCESSIBLE, true));
	assert_int_equal(ask(&b, PLUG, BASE, 1), ERROR);
	assert_int_equal(ask(&b, UNPLUG_ALL, 0, 0), ACK);
	assert_int_equal(ask(&b, PLUG, BASE, 1), ACK);
	assert_int_equal(*(uint8_t *)gmem_at(b.gm, BASE, 1), 0);
	board_free(&b);
}

/* A driver that may read unplugged memory is refused where there may be none to read. */
static void test_features(void **state)
{
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_false(up(&b, 0, false));
	assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	assert_true(up(&b, F_INACCESSIBLE, false));
	board_free(&b);
	board_make(&b, REQUESTED, true);
	assert_true(up(&b, 0, false));
	assert_int_equal(ask(&b, PLUG, BASE, 1), ACK);
	board_free(&b);
}

static void test_refused(void **state)
{
	struct vmem_info info;
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_true(up(&b, F_INACCESSIBLE, false));
	b.refuse = -ENOMEM;
	assert_int_equal(ask(&b, PLUG, BASE, 4), BUSY);
	assert_int_equal(config(&b, C_PLUGGED), 0);
	b.refuse = 0;
	assert_int_equal(ask(&b, PLUG, BASE, 4), ACK);
	vmem_info(b.mem, &info);
	assert_int_equal(info.refused, 1);
	board_free(&b);
}

/* A request of three windows, each of which is refused once: the guest finds nothing changed. */
static void test_refused_windows(void **state)
{
	const gpa_t at = BASE + WINDOW - BLOCK;
	const uint16_t blocks = WINDOW / BLOCK + 2;

	for (unsigned i = 0; i < 3; i++) {
		struct vmem_info info;
		uint16_t word = 0;
		struct board b;

		board_make(&b, 4 * WINDOW, false);
		assert_true(up(&b, F_INACCESSIBLE, false));
		assert_int_equal(b.mapped, 1);
		b.refuse = -ENOSPC;
		b.refuse_from = i;
		assert_int_equal(ask(&b, PLUG, at, blocks), BUSY);
		assert_int_equal(b.mapped, 1);
		assert_int_equal(config(&b, C_PLUGGED), 0);
		assert_int_equal(ask_state(&b, STATE, at, blocks, &word), ACK);
		assert_int_equal(word, 1);
		assert_null(gmem_at(b.gm, at, 1));
		vmem_info(b.mem, &info);
		assert_int_equal(info.hot.windows_mapped, 0);
		assert_int_equal(resident(&b), 0);
		b.refuse = 0;
		assert_int_equal(ask(&b, PLUG, at, blocks), ACK);
		assert_int_equal(b.mapped, 4);
		assert_non_null(gmem_at(b.gm, at, blocks * BLOCK));
		/* What is taken away cannot be refused. */
		b.refuse = -ENOSPC;
		assert_int_equal(ask(&b, UNPLUG, at, blocks), ACK);
		assert_int_equal(b.mapped, 1);
		assert_int_equal(vdev_violations(vmem_vdev(b.mem)), 0);
		board_free(&b);
	}
}

/* The rings lie in memory that the driver unplugs: it gets told, and nobody touches them again. */
static void test_rings_gone(void **state)
{
	struct vq_setup setup;
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_true(up(&b, F_INACCESSIBLE, false));
	assert_int_equal(ask(&b, PLUG, BASE, 2), ACK);
	assert_true(md_negotiate(&b.md, VDEV_F_VERSION_1 | F_INACCESSIBLE));
	drv_init(&b.drv, b.gm, 8, false, false);
	setup = b.drv.setup;
	setup.device = BASE;
	md_queue_set(&b.md, 0, &setup);
	md_driver_ok(&b.md);
	req_write(&b, 0, UNPLUG, BASE, 2);
	drv_offer(&b.drv, 1, REQ, 24, RESP, 10);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	md_round(&b.md);
	assert_int_equal(config(&b, C_PLUGGED), 0);
	assert_true(md_get(&b.md, MD_STATUS) & VDEV_NEEDS_RESET);
	assert_int_equal(vdev_violations(vmem_vdev(b.mem)), 1);
	assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	assert_true(up(&b, F_INACCESSIBLE, false));
	assert_int_equal(ask(&b, PLUG, BASE, 1), ACK);
	board_free(&b);
}

/* The place of the answer goes with what is unplugged: nothing is written there. */
static void test_answer_gone(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		struct board b;
		uint32_t id, len;
		uint8_t *host;

		board_make(&b, REQUESTED, false);
		assert_true(up(&b, F_INACCESSIBLE, packed));
		assert_int_equal(ask(&b, PLUG, BASE, 2), ACK);
		host = gmem_at(b.gm, BASE, BLOCK);
		req_write(&b, 2, UNPLUG, BASE, 1);
		drv_offer(&b.drv, 2, REQ + 64, 24, BASE, 10);
		md_set(&b.md, MD_QUEUE_NOTIFY, 0);
		for (unsigned i = 0; i < 10; i++)
			md_round(&b.md);
		assert_true(md_get(&b.md, MD_STATUS) & VDEV_NEEDS_RESET);
		assert_false(drv_take(&b.drv, 2, &id, &len));
		for (unsigned i = 0; i < 10; i++)
			assert_int_equal(host[i], 0);
		assert_int_equal(config(&b, C_PLUGGED), BLOCK);
		assert_int_equal(vdev_violations(vmem_vdev(b.mem)), 1);
		assert_true(up(&b, F_INACCESSIBLE, packed));
		assert_int_equal(ask(&b, PLUG, BASE, 1), ACK);
		board_free(&b);
	}
}

/* Others have given up what went before its pages go, and before the driver hears of it. */
static void test_order(void **state)
{
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_true(up(&b, F_INACCESSIBLE, false));
	assert_int_equal(ask(&b, PLUG, BASE, 1), ACK);
	b.host = gmem_at(b.gm, BASE, BLOCK);
	memset(b.host, 1, BLOCK);
	assert_int_equal(ask(&b, UNPLUG, BASE, 1), ACK);
	assert_int_equal(b.shrunk, 1);
	assert_int_equal(b.used, 1);
	assert_int_equal(b.first, 1);
	assert_int_equal(*b.host, 0);
	board_free(&b);
}

/* Chains that are no requests. */
static void test_chains(void **state)
{
	static const struct {
		uint32_t out, in;
	} chains[] = {{23, 10}, {24, 9}, {1, 1}};
	struct board b;

	board_make(&b, REQUESTED, false);
	for (unsigned i = 0; i < ARRAY_LEN(chains); i++) {
		assert_true(up(&b, F_INACCESSIBLE, i & 1));
		req_write(&b, 0, PLUG, BASE, 1);
		drv_offer(&b.drv, 1, REQ, chains[i].out, RESP, chains[i].in);
		md_set(&b.md, MD_QUEUE_NOTIFY, 0);
		md_round(&b.md);
		assert_true(md_get(&b.md, MD_STATUS) & VDEV_NEEDS_RESET);
		assert_int_equal(vdev_violations(vmem_vdev(b.mem)), i + 1);
		assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	}
	assert_int_equal(config(&b, C_PLUGGED), 0);
	board_free(&b);
}

/* A driver without a queue can ask for nothing, and is not asked. */
static void test_no_queue(void **state)
{
	struct vmem_info info;
	struct board b;

	board_make(&b, REQUESTED, false);
	assert_true(up(&b, F_INACCESSIBLE, false));
	md_set(&b.md, MD_QUEUE_SEL, 0);
	md_set(&b.md, MD_QUEUE_READY, 0);
	assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	assert_true(md_negotiate(&b.md, VDEV_F_VERSION_1 | F_INACCESSIBLE));
	md_driver_ok(&b.md);
	assert_int_equal(vmem_request(b.mem, BLOCK), -EAGAIN);
	vmem_info(b.mem, &info);
	assert_false(info.driver);
	assert_int_equal(info.requested_bytes, REQUESTED);
	board_free(&b);
}

/* A board whose memory is populated when it is plugged, a block in a turn, with a driver. */
static void board_slow(struct board *b)
{
	board_build(b, REQUESTED, (struct gmem_hot_params){.populate = true, .turn_bytes = BLOCK});
	assert_true(up(b, F_INACCESSIBLE, false));
}

/* Where the area's first byte is on the host. */
static uint8_t *area_host(struct board *b)
{
	uint8_t *host;

	assert_int_equal(ask(b, PLUG, BASE, 1), ACK);
	host = gmem_at(b->gm, BASE, 1);
	assert_non_null(host);
	assert_int_equal(ask(b, UNPLUG, BASE, 1), ACK);
	return host;
}

/* Pages of @count blocks that the host has. */
static uint64_t present(uint8_t *host, unsigned count)
{
	static uint8_t pages[16 * BLOCK / PAGE_BYTES];
	uint64_t sum = 0;

	assert_int_equal(mincore(host, count * BLOCK, pages), 0);
	for (unsigned i = 0; i < count * BLOCK / PAGE_BYTES; i++)
		sum += pages[i] & 1;
	return sum;
}

/* Wait until the area is done, for which nobody need wait. */
static void quiet_wait(struct board *b)
{
	for (unsigned i = 0; gmem_hot_busy(b->hot); i++) {
		assert_true(i < ROUNDS);
		md_round(&b->md);
	}
}

/* Nothing is plugged, for whoever looks. */
static void nothing_check(struct board *b)
{
	struct vmem_info info;

	vmem_info(b->mem, &info);
	assert_int_equal(info.hot.plugged_bytes, 0);
	assert_int_equal(info.hot.windows_mapped, 0);
	assert_int_equal(config(b, C_PLUGGED), 0);
	assert_null(gmem_at(b->gm, BASE, 1));
	assert_int_equal(b->mapped, 1);
}

/* The same, and nothing is left of it. */
static void gone_check(struct board *b)
{
	nothing_check(b);
	assert_int_equal(resident(b), 0);
}

/* A request of many turns: others have theirs in between, and the next one waits. */
static void test_turns(void **state)
{
	uint16_t word;
	uint8_t *host;
	struct board b;

	board_slow(&b);
	host = area_host(&b);
	req_send(&b, 1, PLUG, BASE, 16);
	md_round(&b.md);
	req_send(&b, 2, STATE, BASE, 16);
	md_round(&b.md);
	assert_int_not_equal(present(host, 16), 0);
	nothing_check(&b);
	assert_int_equal(answer(&b, 1, &word), 0xeeee);
	assert_int_equal(vmem_request(b.mem, BLOCK), 0);
	assert_true(answer_wait(&b, 1) > 4);
	assert_int_equal(answer(&b, 1, &word), ACK);
	assert_int_equal(config(&b, C_PLUGGED), 16 * BLOCK);
	assert_int_equal(resident(&b), 16 * BLOCK);
	answer_wait(&b, 2);
	assert_int_equal(answer(&b, 2, &word), ACK);
	assert_int_equal(word, 0);
	/* What is unplugged is gone at once, and its pages by and by. */
	b.shrunk = 0;
	req_send(&b, 1, UNPLUG_ALL, 0, 0);
	md_round(&b.md);
	assert_int_equal(b.shrunk, 1);
	nothing_check(&b);
	assert_int_equal(answer(&b, 1, &word), 0xeeee);
	assert_int_not_equal(present(host, 16), 0);
	assert_true(answer_wait(&b, 1) > 4);
	assert_int_equal(answer(&b, 1, &word), ACK);
	assert_int_equal(present(host, 16), 0);
	gone_check(&b);
	assert_int_equal(b.shrunk, 1);
	board_free(&b);
}

/* How a driver can go away: by a reset, by taking the queue, or by breaking the rules. */
static void driver_go(struct board *b, unsigned how)
{
	if (how == 0)
		md_set(&b->md, MD_STATUS, 0);
	md_set(&b->md, MD_QUEUE_SEL, 0);
	if (how == 1)
		md_set(&b->md, MD_QUEUE_READY, 0);
	if (how == 2) {
		vdev_lock(vmem_vdev(b->mem));
		vdev_broken(vmem_vdev(b->mem), 0);
		vdev_unlock(vmem_vdev(b->mem));
	}
}

/* A driver that goes in the middle gets no answer, and what it began to plug goes back. */
static void test_turns_gone(void **state)
{
	for (unsigned i = 0; i < 6; i++) {
		uint16_t word;
		uint32_t id, len;
		uint8_t *host;
		struct board b;

		board_slow(&b);
		host = area_host(&b);
		if (i >= 3)
			assert_int_equal(ask(&b, PLUG, BASE, 16), ACK);
		req_send(&b, 2, i < 3 ? PLUG : UNPLUG, BASE, 16);
		md_round(&b.md);
		assert_int_not_equal(present(host, 16), 0);
		driver_go(&b, i % 3);
		nothing_check(&b);
		quiet_wait(&b);
		md_round(&b.md);
		assert_int_equal(present(host, 16), 0);
		assert_int_equal(answer(&b, 2, &word), 0xeeee);
		assert_false(drv_take(&b.drv, 2, &id, &len));
		gone_check(&b);
		assert_true(up(&b, F_INACCESSIBLE, true));
		assert_int_equal(ask(&b, PLUG, BASE, 4), ACK);
		board_free(&b);
	}
}

/* The next driver does not have to wait for that: its requests do. */
static void test_turns_next(void **state)
{
	struct vmem_info info;
	struct board b;

	board_slow(&b);
	req_send(&b, 1, PLUG, BASE, 16);
	md_round(&b.md);
	assert_true(up(&b, F_INACCESSIBLE, true));
	assert_true(gmem_hot_busy(b.hot));
	assert_int_equal(ask(&b, PLUG, BASE + 2 * BLOCK, 4), ACK);
	assert_int_equal(config(&b, C_PLUGGED), 4 * BLOCK);
	assert_int_equal(resident(&b), 4 * BLOCK);
	vmem_info(b.mem, &info);
	assert_int_equal(info.refused, 0);
	/* And the end of the VM waits for nothing. */
	req_send(&b, 2, PLUG, BASE + 8 * BLOCK, 16);
	md_round(&b.md);
	assert_true(gmem_hot_busy(b.hot));
	board_free(&b);
}

/* While the machine pauses a request stands still. */
static void test_turns_paused(void **state)
{
	uint16_t word;
	struct board b;
	uint8_t *host;
	uint64_t some;

	board_slow(&b);
	host = area_host(&b);
	req_send(&b, 1, PLUG, BASE, 16);
	md_round(&b.md);
	loop_hold(b.branch, true);
	some = present(host, 16);
	assert_in_range(some, 1, 16 * BLOCK / PAGE_BYTES - 1);
	for (unsigned i = 0; i < 100; i++)
		md_round(&b.md);
	assert_int_equal(present(host, 16), some);
	nothing_check(&b);
	loop_hold(b.branch, false);
	answer_wait(&b, 1);
	assert_int_equal(answer(&b, 1, &word), ACK);
	assert_int_equal(config(&b, C_PLUGGED), 16 * BLOCK);
	board_free(&b);
}

/* The memory ends half-way, or a listener refuses in the end: all of it goes back, then it's told.
 */
static void test_turns_failed(void **state)
{
	static const struct gmem_backing pool = {.kind = GMEM_POOL};
	struct bank bank = {.bytes = BLOCK, .most = 9};
	const struct gmem_lender lender = {BLOCK, PAGE_BYTES, bank_lend, bank_back, &bank};
	struct vmem_info info;
	uint16_t word;
	struct board b;

	board_build(&b, REQUESTED,
		(struct gmem_hot_params){.backing = &pool, .lender = &lender, .turn_bytes = BLOCK});
	assert_true(up(&b, F_INACCESSIBLE, false));
	for (unsigned i = 0; i < 2; i++) {
		req_send(&b, 1, PLUG, BASE, PIECES);
		md_round(&b.md);
		assert_in_range(bank.lent, 1, 8);
		assert_true(answer_wait(&b, 1) > 4);
		assert_int_equal(answer(&b, 1, &word), BUSY);
		assert_int_equal(bank.lent, 0);
		gone_check(&b);
		bank.most = PIECES;
		b.refuse = -ENOSPC;
	}
	vmem_info(b.mem, &info);
	assert_int_equal(info.refused, 2);
	b.refuse = 0;
	assert_int_equal(ask(&b, PLUG, BASE, PIECES), ACK);
	assert_int_equal(bank.lent, PIECES);
	board_free(&b);
	assert_int_equal(bank.lent, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_requests),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_features),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_refused_windows),
		cmocka_unit_test(test_rings_gone),
		cmocka_unit_test(test_answer_gone),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_chains),
		cmocka_unit_test(test_no_queue),
		cmocka_unit_test(test_turns),
		cmocka_unit_test(test_turns_gone),
		cmocka_unit_test(test_turns_next),
		cmocka_unit_test(test_turns_paused),
		cmocka_unit_test(test_turns_failed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
