/* SPDX-License-Identifier: Apache-2.0 */
/* gmem/hot: areas, windows, listeners that refuse, and pages given back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "bank.h"
#include "gmem/hot.h"

#define BASE	 (8 * GIB)
#define BLOCK	 (2 * MIB)
#define WINDOW	 (8 * MIB)
#define BYTES	 (60 * MIB) /* eight windows, the last one half as long */
#define WINDOWS	 8
#define PIECE	 (4 * MIB)
#define LISTENER 3

/* What a listener was told, and when it shall refuse. */
struct fake {
	bool mapped[GMEM_REGIONS_MAX + GMEM_WINDOWS_MAX];
	uint64_t bytes; /* of all that is mapped */
	int maps;
	int fail_at; /* the call of map that fails, from 1; 0: none */
};

static int fake_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct fake *fake = ctx;

	assert_false(fake->mapped[region]);
	if (++fake->maps == fake->fail_at)
		return -ENOSPC;
	fake->mapped[region] = true;
	fake->bytes += bytes;
	return 0;
}

static void fake_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	struct fake *fake = ctx;

	assert_true(fake->mapped[region]);
	fake->mapped[region] = false;
	fake->bytes -= bytes;
}

static void listen_fake(struct gmem *gm, struct fake *fake)
{
	struct gmem_listener l = {fake_map, fake_unmap, fake};

	assert_int_equal(gmem_listen(gm, &l), 0);
}

static struct gmem_hot *area_make(struct gmem *gm, const struct gmem_backing *backing, bool whole)
{
	struct gmem_hot_params params = {
		.gpa = BASE,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.window_bytes = WINDOW,
		.whole = whole,
		.backing = backing,
	};
	struct gmem_hot *hot = NULL;
	struct kv_err err = {0};

	if (gmem_hot_add(&hot, gm, &params, &err) < 0)
		fail_msg("%s", err.text);
	return hot;
}

static struct gmem *gmem_make(void)
{
	struct gmem *gm;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, MIB, NULL), 0);
	return gm;
}

static uint64_t resident(const struct gmem_hot *hot)
{
	uint64_t at = 0, bytes = 0;

	while (gmem_hot_resident(hot, &at, &bytes))
		;
	return bytes;
}

static void test_blocks(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem *gm = gmem_make();
	struct gmem_hot *hot = area_make(gm, &anon, false);
	uint8_t *at;

	assert_null(gmem_at(gm, BASE, 1));
	assert_int_equal(gmem_hot_plug(hot, BASE, 3 * BLOCK), 0);
	at = gmem_at(gm, BASE, 3 * BLOCK);
	assert_non_null(at);
	assert_int_equal((uintptr_t)at % BLOCK, 0);
	memset(at, 0x5a, 3 * BLOCK);
	assert_null(gmem_at(gm, BASE, 3 * BLOCK + 1));
	assert_null(gmem_at(gm, BASE + 3 * BLOCK, 1));
	assert_null(gmem_at(gm, BASE - 1, 2));
	assert_null(gmem_at(gm, BASE + 1, UINT64_MAX));
	assert_int_equal(gmem_write(gm, BASE + 3 * BLOCK - 1, "ab", 2), -EFAULT);

	/* Not whole blocks, outside, twice. */
	assert_int_equal(gmem_hot_plug(hot, BASE + 1, BLOCK), -EINVAL);
	assert_int_equal(gmem_hot_plug(hot, BASE, BLOCK + 4096), -EINVAL);
	assert_int_equal(gmem_hot_plug(hot, BASE, 0), -EINVAL);
	assert_int_equal(gmem_hot_plug(hot, BASE - BLOCK, BLOCK), -EINVAL);
	assert_int_equal(gmem_hot_plug(hot, BASE + BYTES, BLOCK), -EINVAL);
	assert_int_equal(gmem_hot_plug(hot, BASE + BYTES - BLOCK, 2 * BLOCK), -EINVAL);
	assert_int_equal(gmem_hot_plug(hot, BASE + 2 * BLOCK, 2 * BLOCK), -EEXIST);
	assert_int_equal(gmem_hot_unplug(hot, BASE + 2 * BLOCK, 2 * BLOCK), -ENOENT);
	assert_int_equal(gmem_hot_unplug(hot, BASE + 7 * BLOCK, BLOCK), -ENOENT);
	assert_int_equal(gmem_hot_plugged(hot, BASE, BYTES), 3 * BLOCK);

	/* What was unplugged is gone, its neighbours are not. */
	assert_int_equal(gmem_hot_unplug(hot, BASE + BLOCK, BLOCK), 0);
	assert_null(gmem_at(gm, BASE + BLOCK, 1));
	assert_null(gmem_at(gm, BASE, BLOCK + 1));
	assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + BLOCK - 1, 1), 0x5a);
	assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + 2 * BLOCK, 1), 0x5a);
	assert_int_equal(resident(hot), 2 * BLOCK);
	/* What a guest writes against the rules is no less in use. */
	at[3 * BLOCK] = 1;
	assert_in_range(resident(hot), 2 * BLOCK + PAGE_BYTES, 3 * BLOCK);
	assert_int_equal(gmem_hot_plug(hot, BASE + BLOCK, BLOCK), 0);
	assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + BLOCK, 1), 0);
	gmem_hot_clear(hot);
	assert_int_equal(gmem_hot_plugged(hot, BASE, BYTES), 0);
	assert_int_equal(resident(hot), 0);
	gmem_destroy(gm);
}

static void test_windows(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem *gm = gmem_make();
	struct gmem_hot *hot = area_make(gm, &anon, false);
	struct fake fake = {0}, late = {0};
	struct gmem_hot_info info;

	listen_fake(gm, &fake);
	assert_int_equal(fake.bytes, MIB);
	/* Across two windows, and the short one at the end. */
	assert_int_equal(gmem_hot_plug(hot, BASE + 3 * BLOCK, 2 * BLOCK), 0);
	assert_int_equal(gmem_hot_plug(hot, BASE + BYTES - BLOCK, BLOCK), 0);
	assert_int_equal(fake.bytes, MIB + 2 * WINDOW + WINDOW / 2);
	assert_int_equal(fake.maps, 4);
	assert_int_equal(gmem_hot_plug(hot, BASE + 5 * BLOCK, 3 * BLOCK), 0);
	assert_int_equal(fake.maps, 4);
	gmem_hot_info(hot, &info);
	assert_int_equal(info.windows, WINDOWS);
	assert_int_equal(info.windows_mapped, 3);
	assert_int_equal(info.plugged_bytes, 6 * BLOCK);

	/* Who comes late is told of what is there. */
	listen_fake(gm, &late);
	assert_int_equal(late.bytes, fake.bytes);
	for (int at = 1; at <= 4; at++) {
		struct fake failing = {.fail_at = at};
		struct gmem_listener l = {fake_map, fake_unmap, &failing};

		assert_int_equal(gmem_listen(gm, &l), -ENOSPC);
		assert_int_equal(failing.bytes, 0);
		assert_int_equal(failing.maps, at);
	}

	/* A window goes with its last block. */
	assert_int_equal(gmem_hot_unplug(hot, BASE + 3 * BLOCK, BLOCK), 0);
	assert_int_equal(fake.bytes, MIB + WINDOW + WINDOW / 2);
	assert_int_equal(gmem_hot_unplug(hot, BASE + 4 * BLOCK, 3 * BLOCK), 0);
	assert_int_equal(fake.bytes, MIB + WINDOW + WINDOW / 2);
	gmem_hot_clear(hot);
	assert_int_equal(fake.bytes, MIB);
	assert_int_equal(late.bytes, MIB);
	gmem_hot_info(hot, &info);
	assert_int_equal(info.windows_mapped, 0);
	gmem_destroy(gm);
	assert_int_equal(fake.bytes, 0);
}

/* Each listener refuses each window of a request: nothing must have happened. */
static void test_refused(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};

	for (int who = 0; who < LISTENER; who++)
		for (int at = 1; at <= 3; at++) {
			struct gmem *gm = gmem_make();
			struct gmem_hot *hot = area_make(gm, &anon, false);
			struct fake fakes[LISTENER] = {0};
			uint64_t before;

			for (int i = 0; i < LISTENER; i++)
				listen_fake(gm, &fakes[i]);
			/* The second of four windows is there before. */
			assert_int_equal(gmem_hot_plug(hot, BASE + WINDOW, BLOCK), 0);
			before = fakes[0].bytes;
			memset(gmem_at(gm, BASE + WINDOW, BLOCK), 0x5a, BLOCK);
			fakes[who].fail_at = fakes[who].maps + at;
			assert_int_equal(
				gmem_hot_plug(hot, BASE + WINDOW + BLOCK, 3 * WINDOW + BLOCK),
				-ENOSPC);
			for (int i = 0; i < LISTENER; i++)
				assert_int_equal(fakes[i].bytes, before);
			assert_null(gmem_at(gm, BASE + WINDOW + BLOCK, 1));
			assert_int_equal(gmem_hot_plugged(hot, BASE, BYTES), BLOCK);
			assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + WINDOW, 1), 0x5a);
			/* And it can be had when nobody minds any more. */
			assert_int_equal(
				gmem_hot_plug(hot, BASE + WINDOW + BLOCK, 3 * WINDOW + BLOCK), 0);
			for (int i = 0; i < LISTENER; i++)
				assert_int_equal(fakes[i].bytes, before + 3 * WINDOW);
			gmem_destroy(gm);
		}
}

static void test_whole(void **state)
{
	static const struct gmem_backing memfd = {.kind = GMEM_MEMFD};
	struct gmem *gm = gmem_make();
	struct fake fake = {0};
	struct gmem_hot_params params = {
		.gpa = 16 * GIB,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.whole = true,
		.backing = &memfd,
	};
	struct gmem_hot *hot;

	listen_fake(gm, &fake);
	hot = area_make(gm, &memfd, true);
	assert_int_equal(fake.bytes, MIB + BYTES);
	assert_int_equal(gmem_hot_plug(hot, BASE + BLOCK, BLOCK), 0);
	memset(gmem_at(gm, BASE + BLOCK, BLOCK), 1, BLOCK);
	assert_int_equal(resident(hot), BLOCK);
	assert_int_equal(gmem_hot_unplug(hot, BASE + BLOCK, BLOCK), 0);
	assert_int_equal(gmem_hot_plug(hot, BASE + BLOCK, BLOCK), 0);
	assert_int_equal(resident(hot), 0);
	assert_int_equal(fake.maps, 2);
	/* One that nobody can map is not there. */
	fake.fail_at = fake.maps + 1;
	assert_int_equal(gmem_hot_add(&hot, gm, &params, NULL), -ENOSPC);
	assert_int_equal(fake.bytes, MIB + BYTES);
	gmem_destroy(gm);
}

static void test_add_errors(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON}, file = {.kind = GMEM_FILE};
	struct gmem *gm = gmem_make();
	const struct gmem_hot_params good = {
		.gpa = BASE,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.window_bytes = WINDOW,
		.backing = &anon,
	};
	struct gmem_hot_params bad[11];
	struct gmem_hot *hot;

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
		bad[i] = good;
	bad[0].gpa = BASE + MIB;
	bad[1].bytes = BYTES - MIB;
	bad[2].block_bytes = 3 * MIB;
	bad[3].block_bytes = 2 * KIB;
	bad[4].window_bytes = MIB;
	bad[5].window_bytes = 3 * BLOCK;
	bad[6].backing = &file;
	bad[7].gpa = 0; /* RAM is there */
	bad[8].gpa = align_down(UINT64_MAX, BLOCK);
	bad[9].bytes = 0;
	bad[10].turn_bytes = PAGE_BYTES + 1;
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(gmem_hot_add(&hot, gm, &bad[i], NULL), -EINVAL);
	assert_int_equal(gmem_hot_add(&hot, gm, &good, NULL), 0);
	assert_int_equal(gmem_hot_add(&hot, gm, &good, NULL), -EINVAL);
	/* Windows are counted over all areas. */
	bad[0] = good;
	bad[0].gpa = TIB;
	bad[0].bytes = (GMEM_WINDOWS_MAX - WINDOWS + 1) * WINDOW;
	assert_int_equal(gmem_hot_add(&hot, gm, &bad[0], NULL), -ENOSPC);
	bad[0].bytes -= WINDOW;
	assert_int_equal(gmem_hot_add(&hot, gm, &bad[0], NULL), 0);
	gmem_destroy(gm);
}

/* Bytes in huge pages that this process has. */
static uint64_t huge_held(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kib = 0;
	char line[256];
	bool found = false;

	assert_non_null(f);
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "HugetlbPages: %llu kB", &kib) == 1;
	fclose(f);
	assert_true(found);
	return kib * KIB;
}

/* Without huge pages on this host there are none to plug; with some, they come and go. */
static void test_huge(void **state)
{
	static const struct gmem_backing huge = {.kind = GMEM_HUGETLB_2M};
	struct gmem *gm = gmem_make();
	struct gmem_hot *hot = area_make(gm, &huge, false);
	struct fake fake = {0};
	int r;

	listen_fake(gm, &fake);
	r = gmem_hot_plug(hot, BASE, BLOCK);
	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(fake.bytes, MIB);
		assert_null(gmem_at(gm, BASE, 1));
	} else {
		*(uint8_t *)gmem_at(gm, BASE, BLOCK) = 1;
		assert_int_equal(resident(hot), BLOCK);
		assert_int_equal(huge_held(), BLOCK);
		assert_int_equal(gmem_hot_unplug(hot, BASE, BLOCK), 0);
		assert_int_equal(resident(hot), 0);
		assert_int_equal(huge_held(), 0);
	}
	gmem_destroy(gm);
}

/* Memory that is lent piece by piece: each as long as something in it is plugged. */
static void test_lent(void **state)
{
	static const struct gmem_backing pool = {.kind = GMEM_POOL};
	struct bank bank = {.bytes = PIECE, .most = 3};
	struct gmem_lender lender = {PIECE, PAGE_BYTES, bank_lend, bank_back, &bank};
	struct gmem_hot_params params = {
		.gpa = BASE,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.window_bytes = WINDOW,
		.backing = &pool,
	};
	struct gmem *gm = gmem_make();
	struct fake fake = {0};
	struct gmem_hot *hot;

	assert_int_equal(gmem_hot_add(&hot, gm, &params, NULL), -EINVAL);
	params.lender = &lender;
	assert_int_equal(gmem_hot_add(&hot, gm, &params, NULL), 0);
	listen_fake(gm, &fake);
	assert_int_equal(bank.lent, 0);
	/* Parts of two pieces, and the rest of the second one. */
	assert_int_equal(gmem_hot_plug(hot, BASE + BLOCK, 2 * BLOCK), 0);
	assert_int_equal(bank.lent, 2);
	assert_int_equal(gmem_hot_plug(hot, BASE + 3 * BLOCK, BLOCK), 0);
	assert_int_equal(bank.lent, 2);
	memset(gmem_at(gm, BASE + BLOCK, 3 * BLOCK), 0x5a, 3 * BLOCK);
	assert_int_equal(resident(hot), 3 * BLOCK);
	/* Part of a piece: its pages go, the piece stays. */
	assert_int_equal(gmem_hot_unplug(hot, BASE + 2 * BLOCK, BLOCK), 0);
	assert_int_equal(bank.lent, 2);
	assert_int_equal(resident(hot), 2 * BLOCK);
	assert_int_equal(gmem_hot_plug(hot, BASE + 2 * BLOCK, BLOCK), 0);
	assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + 2 * BLOCK, 1), 0);
	assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + 3 * BLOCK, 1), 0x5a);
	/* One that is short lends nothing of a request, and what was there before stays. */
	assert_int_equal(gmem_hot_plug(hot, BASE + 4 * BLOCK, 4 * BLOCK), -EAGAIN);
	assert_int_equal(bank.lent, 2);
	assert_int_equal(gmem_hot_plug(hot, BASE, BLOCK), 0);
	/* The same when a listener refuses. */
	fake.fail_at = fake.maps + 1;
	assert_int_equal(gmem_hot_plug(hot, BASE + 4 * BLOCK, 2 * BLOCK), -ENOSPC);
	assert_int_equal(bank.lent, 2);
	assert_int_equal(*(uint8_t *)gmem_at(gm, BASE + 3 * BLOCK, 1), 0x5a);
	/* The last piece is longer than what is left of the area. */
	bank.most = 16;
	assert_int_equal(gmem_hot_plug(hot, BASE + BYTES - BLOCK, BLOCK), 0);
	assert_int_equal(bank.lent, 3);
	assert_int_equal(gmem_hot_unplug(hot, BASE, 2 * BLOCK), 0);
	assert_int_equal(bank.lent, 2);
	gmem_hot_clear(hot);
	assert_int_equal(bank.lent, 0);
	assert_int_equal(gmem_hot_plug(hot, BASE, 2 * WINDOW), 0);
	gmem_destroy(gm);
	assert_int_equal(bank.lent, 0);
}

/* A request in turns: what is plugged changes at its end, what is unplugged at its begin. */
static void test_turns(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem *gm = gmem_make();
	struct gmem_hot_params params = {
		.gpa = BASE,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.window_bytes = WINDOW,
		.populate = true,
		.turn_bytes = BLOCK,
		.backing = &anon,
	};
	struct fake fake = {0};
	struct gmem_hot *hot;
	unsigned turns = 0;

	assert_int_equal(gmem_hot_add(&hot, gm, &params, NULL), 0);
	listen_fake(gm, &fake);
	assert_int_equal(gmem_hot_turn(hot), 0);
	gmem_hot_cancel(hot);
	assert_false(gmem_hot_busy(hot));
	assert_int_equal(gmem_hot_begin(hot, GMEM_HOT_CLEAR, 0, 0), 0);
	assert_false(gmem_hot_busy(hot));
	assert_int_equal(gmem_hot_begin(hot, GMEM_HOT_PLUG, BASE, 5 * BLOCK), 0);
	while (gmem_hot_turn(hot)) {
		turns++;
		assert_int_equal(resident(hot), turns * BLOCK);
		assert_null(gmem_at(gm, BASE, 1));
		assert_int_equal(fake.bytes, MIB);
		assert_int_equal(gmem_hot_begin(hot, GMEM_HOT_CLEAR, 0, 0), -EBUSY);
		assert_int_equal(gmem_hot_plug(hot, BASE + 6 * BLOCK, BLOCK), -EBUSY);
	}
	assert_int_equal(turns, 4);
	assert_int_equal(resident(hot), 5 * BLOCK);
	/* Cancelled before its first turn, in between, and when there is nothing to cancel. */
	for (turns = 0; turns < 3; turns++) {
		assert_int_equal(
			gmem_hot_begin(hot, GMEM_HOT_PLUG, BASE + WINDOW + BLOCK, WINDOW), 0);
		for (unsigned i = 0; i < turns; i++)
			assert_int_equal(gmem_hot_turn(hot), 1);
		gmem_hot_cancel(hot);
		gmem_hot_cancel(hot);
		for (unsigned i = 1; i < turns; i++)
			assert_int_equal(gmem_hot_turn(hot), 1);
		assert_int_equal(gmem_hot_turn(hot), -ECANCELED);
		assert_false(gmem_hot_busy(hot));
		assert_int_equal(gmem_hot_plugged(hot, BASE, BYTES), 5 * BLOCK);
		assert_int_equal(resident(hot), 5 * BLOCK);
	}
	assert_int_equal(gmem_hot_begin(hot, GMEM_HOT_UNPLUG, BASE, 5 * BLOCK), 0);
	assert_null(gmem_at(gm, BASE, 1));
	assert_int_equal(fake.bytes, MIB);
	gmem_hot_cancel(hot);
	/* Both windows as a whole. */
	for (turns = 1; gmem_hot_turn(hot); turns++)
		;
	assert_int_equal(turns, 2 * WINDOW / BLOCK);
	assert_int_equal(resident(hot), 0);
	gmem_destroy(gm);
}

/* Counting takes a GiB at a time, of windows that something may be in. */
static void test_resident(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON}, memfd = {.kind = GMEM_MEMFD};
	const uint64_t window = 16 * GIB, bytes = 7 * window + window / 2;
	struct gmem_hot_params params = {
		.gpa = 128 * GIB,
		.bytes = bytes,
		.block_bytes = BLOCK,
		.window_bytes = window,
		.populate = true,
		.backing = &anon,
	};

	for (unsigned i = 0; i < 2; i++) {
		struct gmem *gm = gmem_make();
		uint64_t at = 0, sum = 0, stray;
		unsigned parts = 1;
		struct gmem_hot *hot;
		uint8_t *host;

		assert_int_equal(gmem_hot_add(&hot, gm, &params, NULL), 0);
		assert_false(gmem_hot_resident(hot, &at, &sum));
		assert_int_equal(at, bytes);
		assert_int_equal(sum, 0);
		assert_int_equal(gmem_hot_plug(hot, params.gpa + window - BLOCK, 2 * BLOCK), 0);
		assert_int_equal(gmem_hot_plug(hot, params.gpa + bytes - BLOCK, BLOCK), 0);
		host = gmem_at(gm, params.gpa + window, 1);
		for (at = 0; gmem_hot_resident(hot, &at, &sum);)
			parts++;
		assert_int_equal(sum, 3 * BLOCK);
		assert_int_equal(parts, i ? 1 : 2 * 16 + 8);
		/* What a device still writes into a window that is gone is seen. */
		gmem_hot_clear(hot);
		assert_int_equal(resident(hot), 0);
		*host = 1;
		stray = resident(hot);
		assert_in_range(stray, PAGE_BYTES, BLOCK);
		gmem_destroy(gm);
		params.backing = &memfd;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_windows),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_add_errors),
		cmocka_unit_test(test_huge),
		cmocka_unit_test(test_lent),
		cmocka_unit_test(test_turns),
		cmocka_unit_test(test_resident),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
