/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_stat.h"

#include <math.h>
#include <stdlib.h>

#include "base/fd.h"

struct ranked {
	double value;
	int of_a;
};

static int ranked_compare(const void *x, const void *y)
{
	double a = ((const struct ranked *)x)->value, b = ((const struct ranked *)y)->value;

	return (a > b) - (a < b);
}

double bench_rank_test(const double *a, size_t na, const double *b, size_t nb)
{
	size_t n = na + nb;
	MEM_SCOPED struct ranked *all = calloc(n + 1, sizeof(*all));
	double rank_sum = 0, ties = 0, u, mean, variance, distance;

	if (!all || !na || !nb)
		return 1;
	for (size_t i = 0; i < n; i++)
		all[i] = (struct ranked){i < na ? a[i] : b[i - na], i < na};
	qsort(all, n, sizeof(*all), ranked_compare);
	/* Equal values share the mean of the ranks that they take up. */
	for (size_t i = 0, end; i < n; i = end) {
		double count;

		for (end = i + 1; end < n && all[end].value == all[i].value; end++)
			continue;
		count = (double)(end - i);
		ties += count * count * count - count;
		for (size_t k = i; k < end; k++)
			if (all[k].of_a)
				rank_sum += ((double)i + 1 + (double)end) / 2;
	}
	u = rank_sum - (double)na * ((double)na + 1) / 2;
	mean = (double)na * (double)nb / 2;
	variance = (double)na * (double)nb / 12 *
		   ((double)n + 1 - ties / ((double)n * ((double)n - 1)));
	if (variance <= 0)
		return 1;
	distance = fabs(u - mean) - 0.5;
	return distance <= 0 ? 1 : erfc(distance / sqrt(2 * variance));
}
