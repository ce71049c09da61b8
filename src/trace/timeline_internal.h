/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TRACE_TIMELINE_INTERNAL_H
#define KV_TRACE_TIMELINE_INTERNAL_H

#include <stdio.h>

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
 * Close @stream, which open_memstream(3) made, and give @fd the text in *@out, which is freed.
 * Returns 0; -ENOMEM; -errno of write(2).
 */
int timeline_flush(FILE *stream, char **out, size_t *len, int fd);

#endif
