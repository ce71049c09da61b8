/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/vq: both kinds of ring against a scripted driver, well-behaved and not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vq_driver.h"

static struct gmem *gm;

static int ram_make(void **state)
{
	return gmem_create(&gm, NULL) || gmem_add_ram(gm, 0, DRV_RAM, NULL);
}

static int ram_free(void **state)
{
	gmem_destroy(gm);
	return 0;
}

static struct vq *queue_start(struct drv *drv, uint16_t size, bool packed, bool event_idx)
{
	struct vq *vq;

	drv_init(drv, gm, size, packed, event_idx);
	assert_int_equal(vq_create(&vq, gm), 0);
	assert_int_equal(vq_start(vq, &drv->setup), 0);
	return vq;
}

/* A thousand chains through a ring of 8, several in flight, returned out of order. */
static void round_trips(bool packed)
{
	struct vq_chain chains[4];
	struct drv drv;
	struct vq *vq = queue_start(&drv, 8, packed, false);

	for (unsigned round = 0; round < 250; round++) {
		uint32_t id = 0, len = 0;

		for (uint16_t i = 0; i < 4; i++) {
			uint8_t *out = drv_at(&drv, DRV_DATA + i * 0x100ULL);

			*out = (uint8_t)(round + i);
			drv_offer(&drv, i, DRV_DATA + i * 0x100ULL, 1,
				DRV_DATA + 0x1000 + i * 0x100ULL, 16);
		}
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(vq_pop(vq, &chains[i]), 1);
			assert_int_equal(chains[i].out_count, 1);
			assert_int_equal(chains[i].in_count, 1);
			assert_int_equal(chains[i].out_bytes, 1);
			assert_int_equal(chains[i].in_bytes, 16);
		}
		assert_int_equal(vq_pop(vq, &chains[0]), 0);
		for (int i = 3; i >= 0; i--) {
			uint8_t byte = 0;

			assert_int_equal(vq_chain_read(&chains[i], 0, &byte, 1), 1);
			assert_int_equal(byte, (uint8_t)(round + (unsigned)i));
			byte ^= 0xff;
			assert_int_equal(vq_chain_write(&chains[i], 15, &byte, 1), 1);
			vq_push(vq, &chains[i], 16);
		}
		for (int i = 3; i >= 0; i--) {
			assert_true(drv_take(&drv, 2, &id, &len));
			assert_int_equal(id, i);
			assert_int_equal(len, 16);
			assert_int_equal(
				((uint8_t *)drv_at(&drv, DRV_DATA + 0x1000 + id * 0x100ULL))[15],
				(uint8_t) ~(round + id));
		}
		assert_false(drv_take(&drv, 2, &id, &len));
	}
	vq_destroy(vq);
}

static void test_round_trips(void **state)
{
	round_trips(false);
	round_trips(true);
}

static void test_unpop(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct vq_chain a, b;
		struct drv drv;
		struct vq *vq = queue_start(&drv, 8, packed, true);

		for (int round = 0; round < 20; round++) {
			uint32_t id = 0, len = 0;

			drv_offer(&drv, 1, DRV_DATA, 4, DRV_DATA + 64, 4);
			assert_int_equal(vq_pop(vq, &a), 1);
			vq_unpop(vq, &a);
			assert_int_equal(vq_pop(vq, &b), 1);
			assert_int_equal(b.id, a.id);
			vq_push(vq, &b, 0);
			assert_true(drv_take(&drv, 2, &id, &len));
		}
		vq_destroy(vq);
	}
}

static void test_indirect(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct vq_chain chain;
		struct drv drv;
		struct vq *vq = queue_start(&drv, 4, packed, false);
		uint16_t next = packed ? 0 : DRV_NEXT;

		drv_desc_set(&drv, DRV_TABLE, 0, DRV_DATA, 100, next, 1);
		drv_desc_set(&drv, DRV_TABLE, 1, DRV_DATA + 0x200, 200, next, 2);
		drv_desc_set(&drv, DRV_TABLE, 2, DRV_DATA + 0x400, 300, DRV_WRITE, 0);
		if (packed) {
			drv_packed_offer(&drv, DRV_TABLE, 48, DRV_INDIRECT, 77);
		} else {
			drv_desc_set(&drv, DRV_DESC, 3, DRV_TABLE, 48, DRV_INDIRECT, 0);
			drv_split_offer(&drv, 3);
		}
		assert_int_equal(vq_pop(vq, &chain), 1);
		assert_int_equal(chain.id, packed ? 77 : 3);
		assert_int_equal(chain.count, 1);
		assert_int_equal(chain.out_count, 2);
		assert_int_equal(chain.out_bytes, 300);
		assert_int_equal(chain.in_bytes, 300);
		vq_destroy(vq);
	}
}

/* Each breaks the rules in its own way; afterwards the queue is broken until it is started anew. */
static void rule_check(struct drv *drv, struct vq *vq, int line)
{
	struct vq_chain chain;
	int r = vq_pop(vq, &chain);

	if (r != -EPROTO)
		fail_msg("case of line %d: %d", line, r);
	assert_true(vq_broken(vq));
	assert_int_equal(vq_pop(vq, &chain), -EPROTO);
	assert_false(vq_should_notify(vq));
	memset(drv_at(drv, 0), 0, DRV_RAM);
	assert_int_equal(vq_start(vq, &drv->setup), 0);
	drv->avail = 0;
	drv->wrap = true;
	assert_int_equal(vq_pop(vq, &chain), 0);
}

static void test_split_rules(void **state)
{
	struct drv drv;
	struct vq *vq = queue_start(&drv, 8, false, false);
	uint16_t *avail = drv_at(&drv, DRV_DRIVER);

	/* a head behind the table */
	drv_split_offer(&drv, 8);
	rule_check(&drv, vq, __LINE__);
	/* an index that runs away */
	avail[1] = 9;
	rule_check(&drv, vq, __LINE__);
	/* next behind the table */
	drv_desc_set(&drv, DRV_DESC, 0, DRV_DATA, 1, DRV_NEXT, 8);
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	/* a loop */
	drv_desc_set(&drv, DRV_DESC, 0, DRV_DATA, 1, DRV_NEXT, 1);
	drv_desc_set(&drv, DRV_DESC, 1, DRV_DATA, 1, DRV_NEXT, 0);
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	/* readable behind writable */
	drv_desc_set(&drv, DRV_DESC, 0, DRV_DATA, 1, DRV_NEXT | DRV_WRITE, 1);
	drv_desc_set(&drv, DRV_DESC, 1, DRV_DATA, 1, 0, 0);
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	/* outside RAM, across its end, wrapping, empty */
	const struct {
		uint64_t addr;
		uint32_t len;
	} bad[] = {{DRV_RAM, 1}, {DRV_RAM - 1, 2}, {UINT64_MAX, 2}, {DRV_DATA, 0}, {0, UINT32_MAX}};

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		drv_desc_set(&drv, DRV_DESC, 0, bad[i].addr, bad[i].len, 0, 0);
		drv_split_offer(&drv, 0);
		rule_check(&drv, vq, __LINE__);
	}
	/* the same buffer in flight more often than there are entries */
	drv_desc_set(&drv, DRV_DESC, 0, DRV_DATA, 1, 0, 0);
	for (unsigned i = 0; i < 8; i++) {
		struct vq_chain chain;

		drv_split_offer(&drv, 0);
		assert_int_equal(vq_pop(vq, &chain), 1);
	}
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	vq_destroy(vq);
}

static void test_split_indirect_rules(void **state)
{
	struct drv drv;
	struct vq *vq = queue_start(&drv, 8, false, false);
	const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags;
	} bad[] = {
		{DRV_TABLE, 0, DRV_INDIRECT},
		{DRV_TABLE, 15, DRV_INDIRECT},
		{DRV_TABLE, 17, DRV_INDIRECT},
		{DRV_TABLE, 9 * 16, DRV_INDIRECT},
		{DRV_TABLE, 16, DRV_INDIRECT | DRV_NEXT},
		{DRV_RAM, 16, DRV_INDIRECT},
		{DRV_RAM - 8, 16, DRV_INDIRECT},
	};

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		drv_desc_set(&drv, DRV_TABLE, 0, DRV_DATA, 1, 0, 0);
		drv_desc_set(&drv, DRV_DESC, 0, bad[i].addr, bad[i].len, bad[i].flags, 1);
		drv_split_offer(&drv, 0);
		rule_check(&drv, vq, __LINE__);
	}
	/* a table in a table */
	drv_desc_set(&drv, DRV_TABLE, 0, DRV_TABLE + 0x100, 16, DRV_INDIRECT, 0);
	drv_desc_set(&drv, DRV_DESC, 0, DRV_TABLE, 16, DRV_INDIRECT, 0);
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	/* a loop in a table */
	drv_desc_set(&drv, DRV_TABLE, 0, DRV_DATA, 1, DRV_NEXT, 0);
	drv_desc_set(&drv, DRV_DESC, 0, DRV_TABLE, 16, DRV_INDIRECT, 0);
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	/* not negotiated */
	drv.setup.indirect = false;
	assert_int_equal(vq_start(vq, &drv.setup), 0);
	drv.avail = 0;
	drv_desc_set(&drv, DRV_TABLE, 0, DRV_DATA, 1, 0, 0);
	drv_desc_set(&drv, DRV_DESC, 0, DRV_TABLE, 16, DRV_INDIRECT, 0);
	drv_split_offer(&drv, 0);
	rule_check(&drv, vq, __LINE__);
	vq_destroy(vq);
}

static void test_packed_rules(void **state)
{
	struct drv drv;
	struct vq *vq = queue_start(&drv, 5, true, false);

	/* a chain longer than the ring */
	for (unsigned i = 0; i < 5; i++)
		drv_packed_offer(&drv, DRV_DATA, 1, DRV_NEXT, 0);
	rule_check(&drv, vq, __LINE__);
	/* readable behind writable */
	drv_packed_offer(&drv, DRV_DATA, 1, DRV_NEXT | DRV_WRITE, 0);
	drv_packed_offer(&drv, DRV_DATA, 1, 0, 0);
	rule_check(&drv, vq, __LINE__);
	/* a table behind a buffer, with a next, of no entries, in a table */
	drv_packed_offer(&drv, DRV_DATA, 1, DRV_NEXT, 0);
	drv_packed_offer(&drv, DRV_TABLE, 16, DRV_INDIRECT, 0);
	rule_check(&drv, vq, __LINE__);
	drv_packed_offer(&drv, DRV_TABLE, 16, DRV_INDIRECT | DRV_NEXT, 0);
	rule_check(&drv, vq, __LINE__);
	drv_packed_offer(&drv, DRV_TABLE, 0, DRV_INDIRECT, 0);
	rule_check(&drv, vq, __LINE__);
	drv_desc_set(&drv, DRV_TABLE, 0, DRV_TABLE + 0x100, 16, DRV_INDIRECT, 0);
	drv_packed_offer(&drv, DRV_TABLE, 16, DRV_INDIRECT, 0);
	rule_check(&drv, vq, __LINE__);
	/* outside RAM */
	drv_packed_offer(&drv, DRV_RAM - 1, 2, 0, 0);
	rule_check(&drv, vq, __LINE__);
	vq_destroy(vq);
}

static void test_setup(void **state)
{
	struct vq_setup good = {
		.size = 8, .desc = DRV_DESC, .driver = DRV_DRIVER, .device = DRV_DEVICE};
	struct vq_setup bad[] = {good, good, good, good, good, good, good, good};
	struct vq *vq;

	bad[0].size = 0;
	bad[1].size = VQ_SIZE_MAX * 2;
	bad[2].size = 6;
	bad[3].desc += 8;
	bad[4].driver += 1;
	bad[5].device += 2;
	bad[6].desc = DRV_RAM - 64;
	bad[7].device = UINT64_MAX - 15;
	assert_int_equal(vq_create(&vq, gm), 0);
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		struct vq_chain chain;

		assert_int_equal(vq_start(vq, &bad[i]), -EINVAL);
		assert_false(vq_running(vq));
		assert_int_equal(vq_pop(vq, &chain), 0);
	}
	assert_int_equal(vq_start(vq, &good), 0);
	good.packed = true;
	good.size = 6;
	assert_int_equal(vq_start(vq, &good), 0);
	vq_destroy(vq);
	vq_destroy(NULL);
}

/* A chain that outlives its queue's reset must neither be returned nor disturb the new one. */
static void test_stale(void **state)
{
	struct vq_chain old, chain;
	struct drv drv;
	struct vq *vq = queue_start(&drv, 8, false, false);
	uint32_t id = 0, len = 0;

	drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 64, 4);
	assert_int_equal(vq_pop(vq, &old), 1);
	vq_stop(vq);
	vq_push(vq, &old, 4);
	drv_init(&drv, gm, 8, false, false);
	assert_int_equal(vq_start(vq, &drv.setup), 0);
	vq_push(vq, &old, 4);
	vq_unpop(vq, &old);
	assert_false(drv_take(&drv, 2, &id, &len));
	for (unsigned i = 0; i < 20; i++) {
		drv_offer(&drv, 1, DRV_DATA, 4, DRV_DATA + 64, 4);
		assert_int_equal(vq_pop(vq, &chain), 1);
		vq_push(vq, &chain, 0);
		assert_true(drv_take(&drv, 2, &id, &len));
	}
	vq_destroy(vq);
}

static void one_round(struct drv *drv, struct vq *vq)
{
	struct vq_chain chain;
	uint32_t id = 0, len = 0;

	drv_offer(drv, 0, DRV_DATA, 4, DRV_DATA + 64, 4);
	assert_int_equal(vq_pop(vq, &chain), 1);
	vq_push(vq, &chain, 4);
	assert_true(drv_take(drv, 2, &id, &len));
}

static void test_notify(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct drv drv;
		struct vq *vq = queue_start(&drv, 8, packed, false);
		uint16_t *driver = drv_at(&drv, DRV_DRIVER);
		uint16_t *device = drv_at(&drv, DRV_DEVICE);

		one_round(&drv, vq);
		assert_true(vq_should_notify(vq));
		/* Nothing new, no interrupt. */
		assert_false(vq_should_notify(vq));
		/* The driver does not want any: NO_INTERRUPT, or event flags "disable". */
		driver[packed ? 1 : 0] = 1;
		one_round(&drv, vq);
		assert_false(vq_should_notify(vq));
		/* The device does not want kicks, then wants them. */
		assert_false(vq_kicks(vq, false));
		assert_int_equal(device[packed ? 1 : 0], 1);
		assert_false(vq_kicks(vq, true));
		assert_int_equal(device[packed ? 1 : 0], 0);
		drv_offer(&drv, 0, DRV_DATA, 4, DRV_DATA + 64, 4);
		assert_true(vq_kicks(vq, true));
		vq_destroy(vq);
	}
}

/* Event index: interrupt once the wanted entry was used, across the wrap of all counters. */
static void test_event_idx(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct drv drv;
		struct vq *vq = queue_start(&drv, 8, packed, true);
		uint16_t *driver = drv_at(&drv, DRV_DRIVER);
		unsigned interrupts = 0;

		vq_should_notify(vq);
		one_round(&drv, vq);
		assert_true(vq_should_notify(vq));
		for (unsigned round = 0; round < 70000; round++) {
			if (round % 4 == 0) {
				/* Wake me when three more are used. */
				if (packed) {
					unsigned at = drv.used + 2U * 2;
					bool wrap = drv.used_wrap;

					if (at >= 8) {
						at -= 8;
						wrap = !wrap;
					}
					driver[0] = (uint16_t)(at | (wrap ? 0x8000U : 0));
					driver[1] = 2;
				} else {
					driver[2 + 8] = (uint16_t)(drv.used + 2);
				}
			}
			one_round(&drv, vq);
			if (vq_should_notify(vq)) {
				assert_int_equal(round % 4, 2);
				interrupts++;
			}
		}
		assert_int_equal(interrupts, 70000 / 4);
		vq_destroy(vq);
	}
}

/* However many entries are used between two looks at what the driver wants, it is woken up. */
static void packed_lap_try(uint16_t before, unsigned pushes)
{
	struct drv drv;
	struct vq *vq = queue_start(&drv, 8, true, true);
	uint16_t *driver = drv_at(&drv, DRV_DRIVER);

	vq_should_notify(vq);
	for (unsigned i = 0; i < before; i++)
		one_round(&drv, vq);
	vq_should_notify(vq);
	for (unsigned i = 0; i < pushes; i++) {
		/* The driver polls, and would sleep until this one is used. */
		driver[0] = (uint16_t)(drv.used | (drv.used_wrap ? 0x8000U : 0));
		driver[1] = 2;
		one_round(&drv, vq);
	}
	if (!vq_should_notify(vq))
		fail_msg("no interrupt: %u entries after one at %u", pushes, before);
	assert_false(vq_should_notify(vq));
	vq_destroy(vq);
}

static void test_packed_laps(void **state)
{
	for (uint16_t before = 0; before < 8; before++)
		for (unsigned pushes = 1; pushes <= 33; pushes++)
			packed_lap_try(before, pushes);
}

/* A ring that lies in memory which went away is broken and touches nothing. */
static void test_recheck(void **state)
{
	struct gmem *small;
	struct vq_chain chain;
	struct drv drv;
	struct vq *vq;

	assert_int_equal(gmem_create(&small, NULL), 0);
	assert_int_equal(gmem_add_ram(small, 0, DRV_RAM, NULL), 0);
	drv_init(&drv, small, 8, false, false);
	assert_int_equal(vq_create(&vq, small), 0);
	assert_int_equal(vq_start(vq, &drv.setup), 0);
	vq_recheck(vq);
	assert_false(vq_broken(vq));
	assert_int_equal(vq_pop(vq, &chain), 0);
	vq_destroy(vq);
	gmem_destroy(small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_unpop),
		cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_split_rules),
		cmocka_unit_test(test_split_indirect_rules),
		cmocka_unit_test(test_packed_rules),
		cmocka_unit_test(test_setup),
		cmocka_unit_test(test_stale),
		cmocka_unit_test(test_notify),
		cmocka_unit_test(test_event_idx),
		cmocka_unit_test(test_packed_laps),
		cmocka_unit_test(test_recheck),
	};

	return cmocka_run_group_tests(tests, ram_make, ram_free);
}
