/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/num.h"
#include "cli/bench_stat.h"

static void near(double value, double expected)
{
	assert_true(value > expected * 0.999999 && value < expected * 1.000001);
}

/* Of the 252 ways to pick 5 of 10 two are as far apart: the first five and the last five. */
static void test_apart(void **state)
{
	const double a[] = {1, 2, 3, 4, 5}, b[] = {6, 7, 8, 9, 10}, c[] = {6, 7, 8, 9, 4.5};

	near(bench_rank_test(a, 5, b, 5), 2. / 252);
	near(bench_rank_test(b, 5, a, 5), 2. / 252);
	/* U = 1: one way more to each side. */
	near(bench_rank_test(a, 5, c, 5), 4. / 252);
	near(bench_rank_test(a, 4, b, 4), 2. / 70);
	near(bench_rank_test(a, 4, b, 5), 2. / 126);
	near(bench_rank_test(a, 1, b, 1), 1);
}

/* The critical value of U in the tables: for 10 and 10, two-sided at 0.01, 16. */
static void test_large(void **state)
{
	double a[BENCH_STAT_MAX], b[BENCH_STAT_MAX];

	assert_int_equal(BENCH_STAT_MAX, 10);
	for (int i = 0; i < 10; i++) {
		a[i] = i;
		b[i] = 100 + i;
	}
	/* 2 of 20! / (10! * 10!) */
	near(bench_rank_test(a, 10, b, 10), 2 / 184756.);
	/* One of a is above all of b, another above six. */
	a[0] = 200;
	a[1] = 105.5;
	assert_true(bench_rank_test(a, 10, b, 10) < 0.01);
	a[1] = 106.5;
	assert_true(bench_rank_test(a, 10, b, 10) >= 0.01);
}

/* Every way to pick, one by one, with the ranks 1, 3, 3, 5.5 and 3, 5.5, 7, 8 of twice each. */
static void test_ties(void **state)
{
	const double a[] = {1, 2, 2, 3}, b[] = {2, 3, 4, 5};
	const int ranks[] = {2, 6, 6, 11, 6, 11, 14, 16};
	unsigned all = 0, far = 0;

	for (unsigned set = 0; set < 256; set++) {
		int sum = 0;

		if (__builtin_popcount(set) != 4)
			continue;
		for (int i = 0; i < 8; i++)
			sum += set >> i & 1 ? ranks[i] : 0;
		all++;
		/* a has 25, the mean is 36. */
		far += sum <= 25 || sum >= 47;
	}
	assert_int_equal(all, 70);
	near(bench_rank_test(a, 4, b, 4), (double)far / all);
	near(bench_rank_test(b, 4, a, 4), (double)far / all);
}

static void test_alike(void **state)
{
	const double a[] = {1, 4, 5, 8}, b[] = {2, 3, 6, 7}, same[] = {7, 7, 7, 7};
	const double many[BENCH_STAT_MAX + 1] = {0};

	near(bench_rank_test(a, 4, b, 4), 1);
	near(bench_rank_test(same, 4, same, 4), 1);
	near(bench_rank_test(a, 0, b, 4), 1);
	near(bench_rank_test(a, 4, b, 0), 1);
	near(bench_rank_test(a, 4, many, BENCH_STAT_MAX + 1), 1);
}

static void test_thin(void **state)
{
	double values[50] = {5, 3, 4};

	assert_int_equal(bench_stat_thin(values, 0), 0);
	assert_int_equal(bench_stat_thin(values, 3), 3);
	assert_true(values[0] == 5 && values[1] == 3 && values[2] == 4);
	/* Batches of 2 and 3; every value once. */
	for (int i = 0; i < 25; i++)
		values[i] = 25 - i;
	assert_int_equal(bench_stat_thin(values, 25), BENCH_STAT_MAX);
	for (int i = 0; i < 5; i++) {
		assert_true(values[2 * i] == 24.5 - 5 * i);
		assert_true(values[2 * i + 1] == 22 - 5 * i);
	}
	/* What is extreme in a batch is not its median. */
	for (int i = 0; i < 50; i++)
		values[i] = i % 5 < 2 ? 1000 : 7;
	assert_int_equal(bench_stat_thin(values, 50), BENCH_STAT_MAX);
	for (int i = 0; i < BENCH_STAT_MAX; i++)
		assert_true(values[i] == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_apart),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_ties),
		cmocka_unit_test(test_alike),
		cmocka_unit_test(test_thin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
