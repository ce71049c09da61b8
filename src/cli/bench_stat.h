/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_STAT_H
#define KV_CLI_BENCH_STAT_H

#include <stddef.h>

/*
 * Values of a side that are compared at most. Of four runs of one program on a busy machine, any
 * two compared, 146 of 264 figures differed with all samples, 83 with 20 batches and 63 with 10.
 */
#define BENCH_STAT_MAX 10

/* Put @count @values in ascending order. */
void bench_stat_sort(double *values, size_t count);

/* The median of @count (1 and up) @sorted values; of an even number, the mean of the middle two. */
double bench_stat_median(const double *sorted, size_t count);

/*
 * Of more than BENCH_STAT_MAX @values, in the order in which they were measured, the medians of
 * BENCH_STAT_MAX batches that follow each other, as equal in size as can be: neighbours are no
 * samples of their own, and what drifts while a benchmark runs becomes spread. In place; fewer stay
 * as they are. Returns how many are left.
 */
size_t bench_stat_thin(double *values, size_t count);

/*
 * Mann-Whitney's U test: how likely two samples of @na and @nb values (up to BENCH_STAT_MAX each)
 * differ as much as these in their ranks, in either direction, when both come from the same
 * distribution. Exact, with ties too: of all ways to deal out the ranks that there are, equal
 * values sharing theirs, those that are as far from the mean are counted.
 * Returns the probability, 0..1; 1 when a sample is empty or too large, memory is short, or all
 * values are equal. Source: H. B. Mann, D. R. Whitney, Ann. Math. Statist. 18 (1947) 50-60.
 */
double bench_rank_test(const double *a, size_t na, const double *b, size_t nb);

#endif
