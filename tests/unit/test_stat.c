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
	assert_true(value > expected - 0.0005 && value < expected + 0.0005);
}

/* By hand: U = 0 of 25, mean 12.5, variance 25 * 11 / 12; z = 12 / 4.787. */
static void test_apart(void **state)
{
	const double a[] = {1, 2, 3, 4, 5}, b[] = {6, 7, 8, 9, 10};

	near(bench_rank_test(a, 5, b, 5), 0.0122);
	near(bench_rank_test(b, 5, a, 5), 0.0122);
}

/* By hand: ranks 1, 3, 3, 5.5 and 3, 5.5, 7, 8; U = 2.5, ties 24 + 6. */
static void test_ties(void **state)
{
	const double a[] = {1, 2, 2, 3}, b[] = {2, 3, 4, 5};

	near(bench_rank_test(a, 4, b, 4), 0.1367);
}

static void test_alike(void **state)
{
	const double a[] = {1, 4, 5, 8}, b[] = {2, 3, 6, 7}, same[] = {7, 7, 7, 7};

	near(bench_rank_test(a, 4, b, 4), 1);
	near(bench_rank_test(same, 4, same, 4), 1);
	near(bench_rank_test(a, 0, b, 4), 1);
	near(bench_rank_test(a, 4, b, 0), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_apart),
		cmocka_unit_test(test_ties),
		cmocka_unit_test(test_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
