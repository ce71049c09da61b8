/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/: device core and memory-mapped transport, driven register by register. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "mmio_driver.h"
#include "virtio/rng.h"

#define QUEUES	   3
#define QUEUE_SIZE 8
#define F_OWN	   (1ULL << 5)

/* A device that answers each chain with one byte, and remembers what was asked of it. */
struct dev {
	struct vdev *vd;
	unsigned activations, resets, kicks, stops;
	uint64_t features;
	int fail;	 /* what activate() returns */
	uint8_t conf[6]; /* configuration space */
};

static int dev_activate(void *ctx)
{
	struct dev *dev = ctx;

	dev->activations++;
	dev->features = vdev_features(dev->vd);
	return dev->fail;
}

static void dev_reset(void *ctx)
{
	struct dev *dev = ctx;

	dev->resets++;
}

static void dev_stop(void *ctx, unsigned index)
{
	struct dev *dev = ctx;

	dev->stops++;
}

static void dev_kick(void *ctx, unsigned index)
{
	struct dev *dev = ctx;
	struct vq *vq = vdev_queue(dev->vd, index);
	struct vq_chain chain;
	int r;

	dev->kicks++;
	while ((r = vq_pop(vq, &chain)) > 0)
		vq_push(vq, &chain, (uint32_t)vq_chain_write(&chain, 0, "!", 1));
	if (r < 0)
		vdev_broken(dev->vd, index);
	vdev_notify(dev->vd, index);
}

static void dev_config_read(void *ctx, uint32_t offset, void *data, uint32_t len)
{
	struct dev *dev = ctx;

	memcpy(data, dev->conf + offset, len);
}

static void dev_config_write(void *ctx, uint32_t offset, const void *data, uint32_t len)
{
	struct dev *dev = ctx;

	memcpy(dev->conf + offset, data, len);
}

static const struct vdev_ops dev_ops = {
	.name = "test",
	.device_id = 42,
	.config_bytes = sizeof(((struct dev *)0)->conf),
	.activate = dev_activate,
	.reset = dev_reset,
	.queue_stop = dev_stop,
	.kick = dev_kick,
	.config_read = dev_config_read,
	.config_write = dev_config_write,
};

struct board {
	struct gmem *gm;
	struct dev dev;
	struct md md;
	unsigned lines; /* in the log */
};

static void line_count(void *ctx, enum log_level level, const char *line)
{
	struct board *b = ctx;

	b->lines++;
}

static int board_make(void **state)
{
	struct board *b = calloc(1, sizeof(*b));
	static struct kv_log log = {.level = LOG_LEVEL_DEBUG, .sink = line_count};
	struct vdev_params params = {
		.ops = &dev_ops,
		.features = VDEV_F_QUEUES | F_OWN,
		.queue_count = QUEUES,
		.queue_size = QUEUE_SIZE,
		.log = &log,
	};

	assert_non_null(b);
	log.ctx = b;
	params.dev = &b->dev;
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(loop_create(&b->md.loop), 0);
	params.gm = b->gm;
	params.loop = b->md.loop;
	assert_int_equal(vdev_create(&b->dev.vd, &params), 0);
	assert_int_equal(md_attach(&b->md, b->dev.vd), 0);
	*state = b;
	return 0;
}

static int board_free(void **state)
{
	struct board *b = *state;

	md_detach(&b->md);
	vdev_destroy(b->dev.vd);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
	free(b);
	return 0;
}

/* Bring the device up with queue 0 set up as @drv wants it. */
static void board_up(struct board *b, struct drv *drv, bool packed)
{
	drv_init(drv, b->gm, QUEUE_SIZE, packed, false);
	assert_true(md_negotiate(&b->md,
		VDEV_F_VERSION_1 | VDEV_F_INDIRECT_DESC | (packed ? VDEV_F_RING_PACKED : 0)));
	md_queue_set(&b->md, 0, &drv->setup);
	md_driver_ok(&b->md);
	md_round(&b->md); /* the kick that comes with it */
	b->dev.kicks = 0;
}

static void test_identity(void **state)
{
	struct board *b = *state;
	uint8_t byte = 7;

	assert_int_equal(md_get(&b->md, MD_MAGIC), 0x74726976);
	assert_int_equal(md_get(&b->md, MD_VERSION), 2);
	assert_int_equal(md_get(&b->md, MD_DEVICE_ID), 42);
	assert_int_equal(md_get(&b->md, MD_STATUS), 0);
	assert_int_equal(md_get(&b->md, MD_SHM_LEN), UINT32_MAX);
	for (uint32_t i = 0; i <= QUEUES; i++) {
		md_set(&b->md, MD_QUEUE_SEL, i);
		assert_int_equal(md_get(&b->md, MD_QUEUE_SIZE_MAX), i < QUEUES ? QUEUE_SIZE : 0);
	}
	assert_int_equal(md_features(&b->md), VDEV_F_VERSION_1 | VDEV_F_QUEUES | F_OWN);
	md_set(&b->md, MD_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(md_get(&b->md, MD_DEVICE_FEATURES), 0);
	/* §4.2.2.2: only 32-bit aligned accesses mean something. */
	bus_mmio_write(b->md.bus, MD_BASE + MD_STATUS, &byte, 1);
	assert_int_equal(md_get(&b->md, MD_STATUS), 0);
}

static void test_negotiation(void **state)
{
	struct board *b = *state;

	/* Something that was not offered; a legacy driver. */
	assert_false(md_negotiate(&b->md, VDEV_F_VERSION_1 | 1ULL << 40));
	assert_int_equal(md_get(&b->md, MD_STATUS), VDEV_ACKNOWLEDGE | VDEV_DRIVER);
	assert_false(md_negotiate(&b->md, VDEV_F_INDIRECT_DESC));
	/* Without FEATURES_OK there is no DRIVER_OK. */
	md_set(&b->md, MD_STATUS, VDEV_ACKNOWLEDGE | VDEV_DRIVER | VDEV_DRIVER_OK);
	assert_false(md_get(&b->md, MD_STATUS) & VDEV_DRIVER_OK);
	assert_int_equal(b->dev.activations, 0);
	/* Once they are settled, features do not change. */
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1 | F_OWN));
	md_set(&b->md, MD_DRIVER_FEATURES_SEL, 0);
	md_set(&b->md, MD_DRIVER_FEATURES, 0xffffffff);
	md_set(&b->md, MD_STATUS, MD_READY);
	md_driver_ok(&b->md);
	assert_int_equal(b->dev.activations, 1);
	assert_int_equal(b->dev.features, VDEV_F_VERSION_1 | F_OWN);
	/* Said twice it happens once; bits are taken back by a reset only. */
	md_driver_ok(&b->md);
	md_set(&b->md, MD_STATUS, VDEV_ACKNOWLEDGE);
	assert_int_equal(md_get(&b->md, MD_STATUS), MD_READY | VDEV_DRIVER_OK);
	assert_int_equal(b->dev.activations, 1);
	md_set(&b->md, MD_STATUS, VDEV_NEEDS_RESET);
	assert_false(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
	assert_int_equal(vdev_violations(b->dev.vd), 0);
}

static void requests(void **state, bool packed)
{
	struct board *b = *state;
	struct drv drv;
	uint32_t id, len;

	board_up(b, &drv, packed);
	for (unsigned i = 0; i < 100; i++) {
		unsigned edges = b->md.edges;

		drv_offer(&drv, 1, DRV_DATA, 4, DRV_DATA + 16, 16);
		md_set(&b->md, MD_QUEUE_NOTIFY, 0);
		md_round(&b->md);
		assert_true(drv_take(&drv, 2, &id, &len));
		assert_int_equal(id, 1);
		assert_int_equal(len, 1);
		assert_int_equal(*(char *)drv_at(&drv, DRV_DATA + 16), '!');
		assert_int_equal(b->md.edges, edges + 1);
		assert_int_equal(md_get(&b->md, MD_INTERRUPT_STATUS), 1);
		md_set(&b->md, MD_INTERRUPT_ACK, 1);
		assert_int_equal(md_get(&b->md, MD_INTERRUPT_STATUS), 0);
	}
	assert_int_equal(b->dev.kicks, 100);
	/* A kick for nothing interrupts nobody; one of a queue that is not there does nothing. */
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
	md_set(&b->md, MD_QUEUE_NOTIFY, QUEUES);
	md_set(&b->md, MD_QUEUE_NOTIFY, UINT32_MAX);
	md_round(&b->md);
	assert_int_equal(b->md.edges, 100);
	/* After 64 kicks KVM was asked to take them. */
	assert_int_equal(b->md.ioeventfds, 1);
	assert_int_equal(b->md.ioeventfd_index, 0);
	assert_int_equal(b->md.ioeventfd, vdev_kick_fd(b->dev.vd, 0));
}

static void test_split(void **state)
{
	requests(state, false);
}

static void test_packed(void **state)
{
	requests(state, true);
}

/* What was made available before DRIVER_OK is served without a kick. */
static void test_early(void **state)
{
	struct board *b = *state;
	struct drv drv;
	uint32_t id, len;

	drv_init(&drv, b->gm, QUEUE_SIZE, false, false);
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1));
	md_queue_set(&b->md, 0, &drv.setup);
	drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 16, 16);
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
	md_round(&b->md);
	assert_int_equal(b->dev.kicks, 0);
	assert_false(drv_take(&drv, 2, &id, &len));
	md_driver_ok(&b->md);
	md_round(&b->md);
	assert_true(drv_take(&drv, 2, &id, &len));
	assert_int_equal(b->md.edges, 1);
}

/* §2.1.2: a queue that broke the rules. */
static void test_broken(void **state)
{
	struct board *b = *state;
	struct drv drv;

	for (unsigned round = 1; round <= 20; round++) {
		board_up(b, &drv, false);
		b->md.edges = 0;
		drv_split_offer(&drv, QUEUE_SIZE);
		md_set(&b->md, MD_QUEUE_NOTIFY, 0);
		md_round(&b->md);
		assert_int_equal(
			md_get(&b->md, MD_STATUS), MD_READY | VDEV_DRIVER_OK | VDEV_NEEDS_RESET);
		assert_int_equal(b->md.edges, 1);
		assert_int_equal(md_get(&b->md, MD_INTERRUPT_STATUS), 2);
		/* Nothing more is done, and nothing more counted, until the reset. */
		md_set(&b->md, MD_QUEUE_NOTIFY, 0);
		md_round(&b->md);
		assert_int_equal(b->dev.kicks, 1);
		assert_int_equal(vdev_violations(b->dev.vd), round);
		assert_int_equal(b->md.edges, 1);
	}
	/* The log does not grow with the driver's persistence. */
	assert_in_range(b->lines, 1, 10);
	board_up(b, &drv, false);
	assert_int_equal(md_get(&b->md, MD_STATUS), MD_READY | VDEV_DRIVER_OK);
	drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 16, 16);
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
	md_round(&b->md);
	assert_int_equal(md_get(&b->md, MD_INTERRUPT_STATUS), 1);
}

/* Rings that are none, and a device that does not come up. */
static void test_bad_setup(void **state)
{
	static const struct vq_setup bad[] = {
		{.size = 2 * QUEUE_SIZE,
			.desc = DRV_DESC,
			.driver = DRV_DRIVER,
			.device = DRV_DEVICE},
		{.size = 5, .desc = DRV_DESC, .driver = DRV_DRIVER, .device = DRV_DEVICE},
		{.size = 8, .desc = DRV_DESC + 8, .driver = DRV_DRIVER, .device = DRV_DEVICE},
		{.size = 8, .desc = DRV_DESC, .driver = DRV_RAM - 8, .device = DRV_DEVICE},
		{.size = 8, .desc = DRV_DESC, .driver = DRV_DRIVER, .device = UINT64_MAX - 3},
		{.size = 8, .desc = MD_BASE, .driver = DRV_DRIVER, .device = DRV_DEVICE},
	};
	struct board *b = *state;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1));
		md_queue_set(&b->md, 2, &bad[i]);
		md_driver_ok(&b->md);
		assert_true(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
		assert_int_equal(b->dev.activations, 0);
		assert_int_equal(vdev_violations(b->dev.vd), i + 1);
	}
	b->dev.fail = -ENOMEM;
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1));
	md_driver_ok(&b->md);
	assert_true(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
	assert_int_equal(b->dev.activations, 1);
	md_set(&b->md, MD_STATUS, 0);
	assert_int_equal(b->dev.resets, 0);
}

/* A reset at any point leaves the state after creation. */
static void test_reset(void **state)
{
	struct board *b = *state;
	struct drv drv;

	for (unsigned point = 0; point < 6; point++) {
		unsigned edges;

		drv_init(&drv, b->gm, QUEUE_SIZE, false, false);
		if (point > 0)
			md_negotiate(&b->md, VDEV_F_VERSION_1 | F_OWN);
		if (point > 1)
			md_queue_set(&b->md, 0, &drv.setup);
		if (point > 2)
			md_driver_ok(&b->md);
		drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 16, 16);
		if (point > 3)
			md_set(&b->md, MD_QUEUE_NOTIFY, 0);
		if (point > 4)
			md_round(&b->md);
		md_set(&b->md, MD_STATUS, 0);
		edges = b->md.edges;
		assert_int_equal(md_get(&b->md, MD_STATUS), 0);
		assert_int_equal(md_get(&b->md, MD_INTERRUPT_STATUS), 0);
		assert_int_equal(md_get(&b->md, MD_QUEUE_READY), 0);
		b->dev.kicks = 0;
		/* The kick that was on its way finds nothing. */
		md_round(&b->md);
		md_set(&b->md, MD_QUEUE_NOTIFY, 0);
		md_round(&b->md);
		assert_int_equal(b->dev.kicks, 0);
		assert_int_equal(b->md.edges, edges);
		assert_int_equal(b->dev.resets, point > 2 ? point - 2 : 0);
		assert_int_equal(b->dev.activations, b->dev.resets);
		/* Features have to be negotiated anew. */
		md_driver_ok(&b->md);
		assert_int_equal(md_get(&b->md, MD_STATUS), VDEV_ACKNOWLEDGE | VDEV_DRIVER);
		assert_int_equal(b->dev.activations, b->dev.resets);
	}
}

/* §4.2.2.2: a queue that is in use is not changed. */
static void test_frozen(void **state)
{
	struct board *b = *state;
	struct drv drv;
	uint32_t id, len;

	drv_init(&drv, b->gm, QUEUE_SIZE, false, false);
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1));
	md_queue_set(&b->md, 0, &drv.setup);
	md_set(&b->md, MD_QUEUE_SIZE, 3);
	md_set64(&b->md, MD_QUEUE_DESC, 1);
	md_set64(&b->md, MD_QUEUE_DRIVER, 1);
	md_set64(&b->md, MD_QUEUE_DEVICE, 1);
	md_driver_ok(&b->md);
	assert_int_equal(md_get(&b->md, MD_STATUS), MD_READY | VDEV_DRIVER_OK);
	drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 16, 16);
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
	md_round(&b->md);
	assert_true(drv_take(&drv, 2, &id, &len));
	/* Zero takes it away, and now no other comes. */
	md_set(&b->md, MD_QUEUE_READY, 0);
	assert_int_equal(md_get(&b->md, MD_QUEUE_READY), 0);
	assert_int_equal(b->dev.stops, 1);
	b->dev.kicks = 0;
	drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 16, 16);
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
	md_round(&b->md);
	assert_int_equal(b->dev.kicks, 0);
	md_set(&b->md, MD_QUEUE_READY, 1);
	assert_int_equal(md_get(&b->md, MD_QUEUE_READY), 0);
	md_queue_set(&b->md, 1, &drv.setup);
	assert_int_equal(md_get(&b->md, MD_QUEUE_READY), 0);
	/* Of a queue that does not exist there is nothing to set. */
	md_queue_set(&b->md, QUEUES, &drv.setup);
	md_queue_set(&b->md, UINT32_MAX, &drv.setup);
	assert_int_equal(md_get(&b->md, MD_QUEUE_READY), 0);
	assert_int_equal(vdev_violations(b->dev.vd), 0);
}

static void test_config(void **state)
{
	struct board *b = *state;
	struct drv drv;
	uint8_t bytes[8] = {0};
	uint32_t generation;

	memcpy(b->dev.conf, "abcdef", 6);
	bus_mmio_read(b->md.bus, MD_BASE + MD_CONFIG + 1, bytes, 2);
	assert_memory_equal(bytes, "bc", 2);
	bus_mmio_read(b->md.bus, MD_BASE + MD_CONFIG, bytes, 4);
	assert_memory_equal(bytes, "abcd", 4);
	/* Across the end and behind it. */
	bus_mmio_read(b->md.bus, MD_BASE + MD_CONFIG + 4, bytes, 4);
	assert_memory_equal(bytes, "\0\0\0\0", 4);
	bus_mmio_write(b->md.bus, MD_BASE + MD_CONFIG + 4, (const uint8_t *)"xxxx", 4);
	bus_mmio_write(b->md.bus, MD_BASE + MD_CONFIG + 5, (const uint8_t *)"x", 1);
	bus_mmio_write(b->md.bus, MD_BASE + MD_CONFIG + 6, (const uint8_t *)"x", 1);
	bus_mmio_write(b->md.bus, MD_BASE + MD_CONFIG + 0xf8, (const uint8_t *)"xxxxxxxx", 8);
	assert_memory_equal(b->dev.conf, "abcdex", 6);
	/* A change is told to a driver that is ready. */
	generation = md_get(&b->md, MD_GENERATION);
	vdev_lock(b->dev.vd);
	vdev_config_changed(b->dev.vd);
	vdev_unlock(b->dev.vd);
	assert_int_not_equal(md_get(&b->md, MD_GENERATION), generation);
	assert_int_equal(b->md.edges, 0);
	board_up(b, &drv, false);
	generation = md_get(&b->md, MD_GENERATION);
	vdev_lock(b->dev.vd);
	vdev_config_changed(b->dev.vd);
	vdev_unlock(b->dev.vd);
	assert_int_not_equal(md_get(&b->md, MD_GENERATION), generation);
	assert_int_equal(b->md.edges, 1);
	assert_int_equal(md_get(&b->md, MD_INTERRUPT_STATUS), 2);
}

/* Out of descriptors at each step of creation: an error, and nothing is left behind. */
static void test_no_descriptors(void **state)
{
	struct board *b = *state;
	struct vdev_params params = {
		.ops = &dev_ops,
		.dev = &b->dev,
		.queue_count = QUEUES,
		.queue_size = QUEUE_SIZE,
		.gm = b->gm,
		.loop = b->md.loop,
	};
	struct rlimit old, tight;
	int next = dup(0);

	assert_true(next >= 0);
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (unsigned more = 0; more < QUEUES; more++) {
		struct vdev *vd = NULL;
		int r;

		tight = old;
		tight.rlim_cur = (rlim_t)next + more;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
		r = vdev_create(&vd, &params);
		setrlimit(RLIMIT_NOFILE, &old);
		assert_int_equal(r, -EMFILE);
		assert_null(vd);
	}
	assert_int_equal(dup(0), next);
	close(next);
}

/* The entropy device behind its registers. */
struct rng_board {
	struct gmem *gm;
	struct vrng *rng;
	struct md md;
	struct drv drv;
};

static void rng_make(struct rng_board *b, bool packed)
{
	struct vrng_params params;

	*b = (struct rng_board){0};
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(loop_create(&b->md.loop), 0);
	params = (struct vrng_params){.gm = b->gm, .loop = b->md.loop};
	assert_int_equal(vrng_create(&b->rng, &params), 0);
	assert_int_equal(md_attach(&b->md, vrng_vdev(b->rng)), 0);
	drv_init(&b->drv, b->gm, 64, packed, false);
	assert_true(md_negotiate(&b->md,
		VDEV_F_VERSION_1 | VDEV_F_INDIRECT_DESC | (packed ? VDEV_F_RING_PACKED : 0)));
	md_queue_set(&b->md, 0, &b->drv.setup);
	md_driver_ok(&b->md);
	md_round(&b->md);
}

static void rng_free(struct rng_board *b)
{
	md_detach(&b->md);
	vrng_destroy(b->rng);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
}

static void test_rng(void **state)
{
	struct rng_board b;
	uint32_t id, len;

	for (unsigned packed = 0; packed < 2; packed++) {
		unsigned zeroes = 0;
		const uint8_t *got;

		rng_make(&b, packed);
		assert_int_equal(md_get(&b.md, MD_DEVICE_ID), 4);
		drv_offer(&b.drv, 0, DRV_DATA, 4, DRV_DATA + 64, 4096);
		md_set(&b.md, MD_QUEUE_NOTIFY, 0);
		md_round(&b.md);
		assert_true(drv_take(&b.drv, 2, &id, &len));
		assert_int_equal(len, 4096);
		got = drv_at(&b.drv, DRV_DATA);
		/* Only where the driver said, and no constant: 4096 / 256 = 16 are expected. */
		assert_int_equal(got[63] | got[64 + 4096], 0);
		for (unsigned i = 0; i < 4096; i++)
			zeroes += !got[64 + i];
		assert_in_range(zeroes, 0, 100);
		rng_free(&b);
	}
}

/* A driver that offers more than a round's share gets it in several. */
static void test_rng_share(void **state)
{
	struct rng_board b;
	uint32_t id, len;
	unsigned rounds = 0, answers = 0;
	uint64_t bytes = 0;

	rng_make(&b, false);
	for (uint16_t i = 0; i < 31; i++)
		drv_offer(&b.drv, i, DRV_DATA, 4, DRV_DATA + 64, 0x8000);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	while (answers < 31) {
		uint64_t round = 0;

		md_round(&b.md);
		rounds++;
		while (drv_take(&b.drv, 2, &id, &len)) {
			answers++;
			round += len;
		}
		assert_in_range(round, 1, 65536);
		bytes += round;
	}
	assert_int_equal(bytes, 31 * 0x8000);
	assert_int_equal(rounds, 16);
	rng_free(&b);
}

int main(void)
{
#define ON_BOARD(test) cmocka_unit_test_setup_teardown(test, board_make, board_free)
	const struct CMUnitTest tests[] = {
		ON_BOARD(test_identity),
		ON_BOARD(test_negotiation),
		ON_BOARD(test_split),
		ON_BOARD(test_packed),
		ON_BOARD(test_early),
		ON_BOARD(test_broken),
		ON_BOARD(test_bad_setup),
		ON_BOARD(test_reset),
		ON_BOARD(test_frozen),
		ON_BOARD(test_config),
		ON_BOARD(test_no_descriptors),
		cmocka_unit_test(test_rng),
		cmocka_unit_test(test_rng_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
