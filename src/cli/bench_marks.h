/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_MARKS_H
#define KV_CLI_BENCH_MARKS_H

#include <stdbool.h>
#include <stdint.h>

#include "trace/timeline.h"

/* The marks in a file that `kvick run --timeline FILE.json` wrote. */
struct bench_marks {
	bool reached[MARK_COUNT];
	uint64_t ns[MARK_COUNT]; /* since exec; 0 where it was not reached */
};

/* Read the marks of @path. Returns 0; -EIO when it is no timeline, with no mark reached. */
int bench_marks_read(struct bench_marks *marks, const char *path);

/* The time between two marks in ms; -1 when one was not reached. */
double bench_span_ms(const struct bench_marks *marks, enum mark from, enum mark to);

/* The time from exec to the guest's boot byte in @path, in ms. Returns 0; -EIO: there is none. */
int bench_boot_ms(const char *path, double *ret_ms);

#endif
