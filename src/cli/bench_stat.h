/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_STAT_H
#define KV_CLI_BENCH_STAT_H

#include <stddef.h>

/*
 * Mann-Whitney's U test: how likely two samples of @na and @nb values differ as much as these in
 * their ranks, in either direction, when both come from the same distribution. By the normal
 * approximation, with corrections for ties and continuity: good from about 8 values each, rough
 * below.
 * Returns the probability, 0..1; 1 when a sample is empty, memory is short, or all values are
 * equal. Source: H. B. Mann, D. R. Whitney, Ann. Math. Statist. 18 (1947) 50-60.
 */
double bench_rank_test(const double *a, size_t na, const double *b, size_t nb);

#endif
