/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TRACE_TIMELINE_INTERNAL_H
#define KV_TRACE_TIMELINE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trace/timeline.h"

/* Shared by the files of trace/ alone. */

/* One line of an export: a mark or a trace-port write. */
struct timeline_row {
	uint64_t ns;
	uint64_t cpu_ns;
	const char *text; /* NULL: in @room */
	char room[64];
};

/* A mark each, and what was kept of the trace-port writes; some 15 KiB of stack. */
#define TIMELINE_ROWS_MAX (MARK_COUNT + TRACE_EVENTS_MAX)

/* Collect what was reached, by time. @rows has room for all. Returns the number of rows. */
size_t timeline_rows(const struct timeline *tl, struct timeline_row *rows);

/*
 * An export that grows in memory. Mostly put together without printf(3), whose code a run has not
 * touched until then: that took longer than making and writing the file.
 */
struct timeline_out {
	char *text;
	size_t len, room;
	bool failed; /* memory ran out: what follows is dropped */
};

/* Append @text; @value in decimal, right-aligned to @width; @thousandths as 12.345, likewise. */
void timeline_put(struct timeline_out *out, const char *text);
void timeline_put_num(struct timeline_out *out, uint64_t value, unsigned width);
void timeline_put_milli(struct timeline_out *out, uint64_t thousandths, unsigned width);

/* Append what printf(3) makes of it. */
__attribute__((format(printf, 2, 3))) void timeline_putf(
	struct timeline_out *out, const char *format, ...);

/* Write all of it to @fd and free it. Returns 0; -ENOMEM; -errno of write(2). */
int timeline_put_end(struct timeline_out *out, int fd);

#endif
