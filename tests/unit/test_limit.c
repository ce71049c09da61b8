/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/limit and config/limit: rate limits, by themselves and under a device. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/internal.h"
#include "mmio_driver.h"
#include "trace/timeline.h"
#include "virtio/limit.h"
#include "virtio/rng.h"

#define MS 1000000ULL

static struct limit_bucket bucket(uint64_t size, uint64_t refill_ms, uint64_t burst)
{
	const struct limit_rate rate = {size, refill_ms, burst};
	struct limit_bucket b;

	limit_fill(&b, &rate, 1000);
	return b;
}

static bool take(struct limit_bucket *b, uint64_t tokens, uint64_t now)
{
	if (limit_wait(b, tokens, now))
		return false;
	limit_spend(b, tokens);
	return true;
}

static void test_bucket(void **state)
{
	struct limit_bucket b = bucket(100, 1000, 0);

	/* Full at first. */
	assert_true(take(&b, 60, 1000));
	assert_true(take(&b, 40, 1000));
	assert_int_equal(limit_wait(&b, 1, 1000), 10 * MS);
	assert_int_equal(limit_wait(&b, 100, 1000), 1000 * MS);
	/* It refills evenly, and no part of a token is lost or won. */
	assert_int_equal(limit_wait(&b, 1, 1000 + 10 * MS - 1), 1);
	assert_true(take(&b, 1, 1000 + 10 * MS));
	assert_int_equal(limit_wait(&b, 1, 1000 + 15 * MS), 5 * MS);
	assert_true(take(&b, 1, 1000 + 20 * MS));
	assert_false(take(&b, 2, 1000 + 39 * MS));
	assert_true(take(&b, 2, 1000 + 40 * MS));
	/* Never more than its size. */
	assert_false(limit_wait(&b, 100, 1000 + 5000 * MS));
	assert_true(take(&b, 100, 1000 + 5000 * MS));
	assert_false(take(&b, 1, 1000 + 5000 * MS));
	/* A clock that stands still, or goes back, gives nothing. */
	assert_int_equal(limit_wait(&b, 1, 0), 10 * MS);
}

static void test_burst(void **state)
{
	struct limit_bucket b = bucket(10, 100, 25);

	assert_true(take(&b, 20, 1000));
	assert_int_equal(b.burst, 5);
	assert_int_equal(b.budget, 10);
	/* The rest of the burst, then the bucket; nothing is lost by a request that must wait. */
	assert_true(take(&b, 12, 1000));
	assert_int_equal(b.burst, 0);
	assert_int_equal(b.budget, 3);
	assert_false(take(&b, 4, 1000));
	assert_int_equal(b.budget, 3);
	assert_true(take(&b, 10, 1000 + 1000 * MS));
	assert_false(take(&b, 1, 1000 + 1000 * MS));
}

/* What is larger than the bucket passes, and holds up everything until it is paid back. */
static void test_large(void **state)
{
	struct limit_bucket b = bucket(10, 100, 0);

	assert_true(take(&b, 30, 1000));
	assert_int_equal(b.budget, -20);
	assert_int_equal(limit_wait(&b, 0, 1000), 200 * MS);
	assert_int_equal(limit_wait(&b, 30, 1000), 200 * MS);
	assert_int_equal(limit_wait(&b, 1, 1000), 210 * MS);
	assert_false(take(&b, 30, 1000 + 199 * MS));
	assert_true(take(&b, 30, 1000 + 200 * MS));
	assert_int_equal(limit_wait(&b, 0, 1000 + 200 * MS), 300 * MS);
}

static void test_extremes(void **state)
{
	struct limit_bucket none = bucket(0, 100, 50), no_time = bucket(100, 0, 50);
	struct limit_bucket b = bucket(UINT64_MAX, UINT64_MAX, UINT64_MAX);
	uint64_t now = UINT64_MAX - 1;

	assert_true(take(&none, UINT64_MAX, 0) && take(&none, UINT64_MAX, 0));
	assert_true(take(&no_time, UINT64_MAX, 0));
	assert_int_equal(b.size, LIMIT_TOKENS_MAX);
	assert_int_equal(b.refill_ns, LIMIT_REFILL_MAX_MS * MS);
	for (unsigned i = 0; i < 3; i++)
		assert_true(take(&b, UINT64_MAX, 1000));
	assert_int_equal(b.budget, -LIMIT_TOKENS_MAX);
	assert_true(limit_wait(&b, UINT64_MAX, 1000) > 0);
	assert_true(limit_wait(&b, 0, now) > 0 || b.budget >= 0);
	b = bucket(1, LIMIT_REFILL_MAX_MS, 0);
	assert_true(take(&b, UINT64_MAX, 1000));
	assert_int_equal(limit_wait(&b, 1, 1000), UINT64_MAX);
}

struct board {
	struct gmem *gm;
	struct vrng *rng;
	struct md md;
	struct drv drv;
	unsigned done;
};

static void up(struct board *b)
{
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1));
	drv_init(&b->drv, b->gm, 64, false, false);
	md_queue_set(&b->md, 0, &b->drv.setup);
	md_driver_ok(&b->md);
	b->done = 0;
}

static void board_make(struct board *b, const struct limit_rates *rates)
{
	struct vrng_params params = {.limit = *rates};

	*b = (struct board){0};
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(loop_create(&b->md.loop), 0);
	params.gm = b->gm;
	params.loop = b->md.loop;
	assert_int_equal(vrng_create(&b->rng, &params), 0);
	assert_int_equal(md_attach(&b->md, vrng_vdev(b->rng)), 0);
	up(b);
}

static void board_free(struct board *b)
{
	md_detach(&b->md);
	vrng_destroy(b->rng);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
}

/* @count requests of 100 bytes each, and one kick. */
static void ask(struct board *b, unsigned count)
{
	for (uint16_t i = 0; i < count; i++) {
		drv_desc_set(&b->drv, DRV_DESC, 2U * i, DRV_DATA + 128U * i, 100, DRV_WRITE, 0);
		drv_split_offer(&b->drv, (uint16_t)(2 * i));
	}
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
}

/* The requests answered so far. */
static unsigned answered(struct board *b)
{
	uint32_t id, len;

	while (drv_take(&b->drv, 1, &id, &len)) {
		assert_int_equal(id, b->done);
		assert_int_equal(len, 100);
		b->done++;
	}
	return b->done;
}

static void test_device(void **state)
{
	const struct limit_rates rates = {.bytes = {300, 60, 100}, .ops = {1000, 1, 0}};
	struct board b;
	uint64_t start;
	unsigned rounds = 0;

	board_make(&b, &rates);
	start = clock_ns();
	ask(&b, 10);
	md_round(&b.md);
	assert_in_range(answered(&b), 4, 9);
	/* The rest comes by itself: the loop sleeps in between, and the driver does not kick. */
	while (answered(&b) < 10) {
		md_round(&b.md);
		usleep(1000);
		assert_in_range(rounds++, 0, 10000);
	}
	/* 1000 bytes less the burst and a full bucket, at 300 bytes in 60 ms. */
	assert_true(clock_ns() - start >= 120 * MS);
	assert_int_equal(vdev_violations(vrng_vdev(b.rng)), 0);
	board_free(&b);
}

/* A held queue does nothing at all until its time comes, however often the driver kicks. */
static void test_held(void **state)
{
	const struct limit_rates rates = {.ops = {2, 1000ULL * 3600, 0}};
	struct board b;

	board_make(&b, &rates);
	ask(&b, 5);
	for (unsigned i = 0; i < 20; i++) {
		md_set(&b.md, MD_QUEUE_NOTIFY, 0);
		md_round(&b.md);
	}
	assert_int_equal(answered(&b), 2);
	/* A reset gives no tokens, and the queue works when they come. */
	md_set(&b.md, MD_STATUS, 0);
	up(&b);
	ask(&b, 3);
	md_round(&b.md);
	assert_int_equal(answered(&b), 0);
	/* The queue taken away while it is held. */
	md_set(&b.md, MD_QUEUE_SEL, 0);
	md_set(&b.md, MD_QUEUE_READY, 0);
	md_round(&b.md);
	up(&b);
	md_round(&b.md);
	assert_int_equal(vdev_violations(vrng_vdev(b.rng)), 0);
	board_free(&b);
}

static void kick_count(void *dev, unsigned index)
{
	((unsigned *)dev)[index]++;
}

static int no_activate(void *dev)
{
	return 0;
}

static void no_reset(void *dev)
{
}

/* Several queues: none overtakes the one that waits, and other rates take effect at once. */
static void test_queues(void **state)
{
	static const struct vdev_ops ops = {
		.name = "test",
		.activate = no_activate,
		.reset = no_reset,
		.kick = kick_count,
	};
	const struct limit_rates slow = {.bytes = {10, 1000ULL * 3600, 0}}, none = {0};
	unsigned kicks[3] = {0};
	struct vdev_params params = {.ops = &ops, .dev = kicks, .queue_count = 3, .queue_size = 16};
	struct vq_setup setups[3] = {{.size = 16, .desc = 0, .driver = 0x1000, .device = 0x2000}};
	struct md md = {0};
	struct gmem *gm = NULL;
	struct limit limit;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(loop_create(&md.loop), 0);
	params.gm = gm;
	params.loop = md.loop;
	assert_int_equal(vdev_create(&md.vd, &params), 0);
	setups[1] = setups[2] = setups[0];
	vdev_status_write(md.vd, 3, 0, setups);
	vdev_status_write(md.vd, 11, VDEV_F_VERSION_1, setups);
	vdev_status_write(md.vd, 15, VDEV_F_VERSION_1, setups);
	md_round(&md);
	memset(kicks, 0, sizeof(kicks));
	assert_int_equal(limit_init(&limit, md.vd, md.loop, &slow), 0);
	assert_true(limit_take(&limit, 0, 8));
	assert_false(limit_take(&limit, 2, 5));
	assert_false(limit_take(&limit, 0, 1));
	assert_false(limit_take(&limit, 0, 0));
	assert_true(limit_holds(&limit, 2) && limit_holds(&limit, 0) && !limit_holds(&limit, 1));
	limit_set(&limit, &none);
	for (unsigned i = 0; i < 1000 && (!kicks[0] || !kicks[2]); i++) {
		usleep(100);
		md_round(&md);
	}
	assert_int_equal(kicks[0], 1);
	assert_int_equal(kicks[1], 0);
	assert_int_equal(kicks[2], 1);
	assert_true(limit_take(&limit, 2, UINT64_MAX) && limit_take(&limit, 0, UINT64_MAX));
	limit_free(&limit);
	vdev_destroy(md.vd);
	loop_destroy(md.loop);
	gmem_destroy(gm);
}

static void test_keys(void **state)
{
	static const struct {
		const char *key, *value;
		int r;
		const char *text;
	} bad[] = {
		{"bw", "", -EINVAL, "\"\" is not a rate; give a number, or NUMBER/TIME"},
		{"bw", "1M/", -EINVAL, "\"1M/\" is not a rate"},
		{"bw", "1M/1", -EINVAL, "\"1M/1\" is not a rate"},
		{"bw", "1M/d", -EINVAL, "\"1M/d\" is not a rate"},
		{"bw", "/s", -EINVAL, "\"/s\" is not a rate"},
		{"bw", "0", -ERANGE, "\"0\" is out of range; the number is from 1"},
		{"bw", "1M/0s", -ERANGE, "\"1M/0s\" is out of range"},
		{"bw", "1M/8761h", -ERANGE, "\"1M/8761h\" is out of range"},
		{"bw", "1M/99999999999999999999h", -ERANGE, "\"1M/999"},
		{"bw", "9999999T", -ERANGE, "\"9999999T\" is out of range"},
		{"ops", "1k", -EINVAL, "\"1k\" is not a rate"},
		{"ops-burst", "1k", -EINVAL, "\"1k\" is not a burst; give a number from 1"},
		{"bw-burst", "0", -ERANGE, "\"0\" is not a burst; give a number of bytes from 1"},
	};
	struct limit_rates rates = {0};
	struct kv_err err = {0};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int r = config_limit_key(&rates, bad[i].key, bad[i].value, &err);

		if (r != bad[i].r || strncmp(err.text, bad[i].text, strlen(bad[i].text)))
			fail_msg("%s=%s: %d %s", bad[i].key, bad[i].value, r, err.text);
	}
	assert_int_equal(config_limit_key(&rates, "size", "1", &err), -ENOENT);
	assert_int_equal(config_limit_key(&rates, "bw-burst", "1G", &err), 0);
	assert_int_equal(config_limit_fits(&rates, &err), -EINVAL);
	assert_string_equal(err.text, "bw-burst says nothing without bw");
	assert_int_equal(config_limit_key(&rates, "bw", "10M/100ms", &err), 0);
	assert_int_equal(config_limit_key(&rates, "ops", "500", &err), 0);
	assert_int_equal(config_limit_fits(&rates, &err), 0);
	assert_int_equal(rates.bytes.size, 10 * MIB);
	assert_int_equal(rates.bytes.refill_ms, 100);
	assert_int_equal(rates.bytes.burst, GIB);
	assert_int_equal(rates.ops.size, 500);
	assert_int_equal(rates.ops.refill_ms, 1000);
	assert_int_equal(config_limit_key(&rates, "ops", "7/2m", &err), 0);
	assert_int_equal(rates.ops.refill_ms, 120000);
	assert_int_equal(config_limit_key(&rates, "ops", "7/s", &err), 0);
	assert_int_equal(rates.ops.refill_ms, 1000);
}

/* Of the command line and of files, there and back. */
static void test_config(void **state)
{
	static const char json[] =
		"{\"boot-source\": {\"kernel_image_path\": \"k\", \"boot_args\": \"\"}, "
		"\"drives\": [{\"drive_id\": \"a\", \"path_on_host\": \"a\", "
		"\"is_root_device\": true, \"partuuid\": \"0eaa91a0-01\", \"rate_limiter\": "
		"{\"bandwidth\": {\"size\": 1000, \"one_time_burst\": 77, \"refill_time\": 30}, "
		"\"ops\": null}}, {\"drive_id\": \"b\", \"path_on_host\": \"b\", \"rate_limiter\": "
		"{\"bandwidth\": {\"size\": 0, \"one_time_burst\": 5, \"refill_time\": 1}}}], "
		"\"entropy\": {\"rate_limiter\": {\"ops\": {\"size\": 5, \"refill_time\": 6}}}}";
	struct vm_config config, again;
	struct kv_err err = {0};
	char *text;

	assert_int_equal(vm_config_init(&config), 0);
	assert_int_equal(vm_config_init(&again), 0);
	if (config_json_parse(&config, "c", json, strlen(json), &err))
		fail_msg("%s", err.text);
	assert_int_equal(vm_config_dump(&config, &text), 0);
	if (config_json_parse(&again, "c", text, strlen(text), &err))
		fail_msg("%s: %s", err.text, text);
	free(text);
	for (unsigned i = 0; i < 2; i++) {
		const struct vm_config *c = i ? &again : &config;

		assert_int_equal(c->disks[0].limit.bytes.size, 1000);
		assert_int_equal(c->disks[0].limit.bytes.refill_ms, 30);
		assert_int_equal(c->disks[0].limit.bytes.burst, 77);
		assert_int_equal(c->disks[0].limit.ops.size, 0);
		assert_string_equal(c->disks[0].partuuid, "0eaa91a0-01");
		assert_int_equal(c->disks[1].limit.bytes.size, 0);
		assert_int_equal(c->disks[1].limit.bytes.burst, 0);
		assert_null(c->disks[1].partuuid);
		assert_true(c->rng);
		assert_int_equal(c->rng_limit.ops.size, 5);
		assert_int_equal(c->rng_limit.ops.refill_ms, 6);
		assert_int_equal(c->rng_limit.bytes.size, 0);
	}
	vm_config_free(&again);
	assert_int_equal(vm_config_set(&config, "rng", "bw=64K/s,ops-burst=3", &err), 0);
	assert_int_equal(config.rng_limit.bytes.size, 65536);
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_string_equal(err.text, "rng: ops-burst says nothing without ops");
	assert_int_equal(vm_config_set(&config, "rng", "on", &err), 0);
	assert_int_equal(config.rng_limit.bytes.size, 0);
	assert_int_equal(vm_config_set(&config, "rng", "bw", &err), -EINVAL);
	assert_non_null(strstr(err.text, "rng: \"bw\" is not allowed; give bw="));
	assert_int_equal(vm_config_set(&config, "rng", "ops=x", &err), -EINVAL);
	assert_non_null(strstr(err.text, "rng: ops: \"x\" is not a rate"));
	assert_int_equal(vm_config_set(&config, "disk", "d,partuuid=x", &err), -EINVAL);
	assert_non_null(strstr(err.text, "partuuid: \"x\" is not a partition's UUID"));
	assert_int_equal(vm_config_set(&config, "disk", "d,ops-burst=1", &err), 0);
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_string_equal(err.text, "disk disk2: ops-burst says nothing without ops");
	vm_config_free(&config);
}

static void test_json_errors(void **state)
{
	static const struct {
		const char *limiter, *text;
	} bad[] = {
		{"[]", "give an object with bandwidth and ops"},
		{"{\"bytes\": {}}", "unknown field \"bytes\"; there are bandwidth and ops"},
		{"{\"ops\": 4}", "ops: give an object with size, refill_time"},
		{"{\"ops\": {\"size\": 1}}", "ops: the field refill_time is missing"},
		{"{\"ops\": {\"size\": -1, \"refill_time\": 1}}",
			"ops: size is out of range; give 0 to 9223372036854775807"},
		{"{\"ops\": {\"size\": 1, \"refill_time\": 99999999999}}",
			"ops: refill_time is out of range; give 0 to 31536000000"},
		{"{\"bandwidth\": {\"size\": 1.5, \"refill_time\": 1}}",
			"bandwidth: size is no integer"},
		{"{\"bandwidth\": {\"size\": 1, \"burst\": 1}}",
			"bandwidth: unknown field \"burst\"; there are size"},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct vm_config config;
		struct kv_err err = {0};
		char json[256], want[256];

		snprintf(json, sizeof(json), "{\"entropy\":\n{\"rate_limiter\": %s}}",
			bad[i].limiter);
		snprintf(want, sizeof(want), "c:2: entropy.rate_limiter: %s", bad[i].text);
		assert_int_equal(vm_config_init(&config), 0);
		assert_true(config_json_parse(&config, "c", json, strlen(json), &err) < 0);
		if (strncmp(err.text, want, strlen(want)))
			fail_msg("%s: %s", json, err.text);
		vm_config_free(&config);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bucket),
		cmocka_unit_test(test_burst),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_device),
		cmocka_unit_test(test_held),
		cmocka_unit_test(test_queues),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_json_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
