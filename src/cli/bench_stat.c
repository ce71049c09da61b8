/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_stat.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

#define ALL_MAX (2 * BENCH_STAT_MAX)

/* Ranks are counted twice over, as equal values share the mean of theirs: their sum and one more.
 */
#define SUM_ROOM (ALL_MAX * (ALL_MAX + 1) + 1)

struct ranked {
	double value;
	int of_a;
	unsigned rank; /* twice */
};

static int value_compare(const void *x, const void *y)
{
	double a = *(const double *)x, b = *(const double *)y;

	return (a > b) - (a < b);
}

static int ranked_compare(const void *x, const void *y)
{
	return value_compare(
		&((const struct ranked *)x)->value, &((const struct ranked *)y)->value);
}

void bench_stat_sort(double *values, size_t count)
{
	qsort(values, count, sizeof(*values), value_compare);
}

double bench_stat_median(const double *sorted, size_t count)
{
	return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

size_t bench_stat_thin(double *values, size_t count)
{
	if (count <= BENCH_STAT_MAX)
		return count;
	for (size_t i = 0; i < BENCH_STAT_MAX; i++) {
		size_t from = i * count / BENCH_STAT_MAX;
		size_t n = (i + 1) * count / BENCH_STAT_MAX - from;

		/* The place of the result is in this batch or one that is done with. */
		bench_stat_sort(values + from, n);
		values[i] = bench_stat_median(values + from, n);
	}
	return BENCH_STAT_MAX;
}

/* Put @all in order and give each its rank. */
static void ranks_give(struct ranked *all, size_t n)
{
	qsort(all, n, sizeof(*all), ranked_compare);
	for (size_t i = 0, end; i < n; i = end) {
		for (end = i + 1; end < n && all[end].value == all[i].value; end++)
			continue;
		for (size_t k = i; k < end; k++)
			all[k].rank = (unsigned)(i + 1 + end);
	}
}

/* The share of the ways to pick @na of @all by which their ranks sum up as far from the mean. */
static double ways_share(const struct ranked *all, size_t n, size_t na, long distance)
{
	/* ways[k][s]: to pick k of those seen so far with ranks that sum up to s. */
	double(*ways)[SUM_ROOM] = calloc(na + 1, sizeof(*ways));
	long mean = (long)(na * (n + 1));
	double far = 0, sum = 0;

	if (!ways)
		return 1;
	ways[0][0] = 1;
	for (size_t i = 0; i < n; i++)
		for (size_t k = na; k > 0; k--)
			for (size_t s = all[i].rank; s < SUM_ROOM; s++)
				ways[k][s] += ways[k - 1][s - all[i].rank];
	for (long s = 0; s < SUM_ROOM; s++) {
		sum += ways[na][s];
		far += labs(s - mean) >= distance ? ways[na][s] : 0;
	}
	free(ways);
	return far / sum;
}

double bench_rank_test(const double *a, size_t na, const double *b, size_t nb)
{
	struct ranked all[ALL_MAX];
	size_t n = na + nb;
	long rank_sum = 0;

	if (!na || !nb || na > BENCH_STAT_MAX || nb > BENCH_STAT_MAX)
		return 1;
	for (size_t i = 0; i < n; i++)
		all[i] = (struct ranked){i < na ? a[i] : b[i - na], i < na, 0};
	ranks_give(all, n);
	for (size_t i = 0; i < n; i++)
		rank_sum += all[i].of_a ? (long)all[i].rank : 0;
	return ways_share(all, n, na, labs(rank_sum - (long)(na * (n + 1))));
}
