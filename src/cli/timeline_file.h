/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_TIMELINE_FILE_H
#define KV_CLI_TIMELINE_FILE_H

#include <stdbool.h>

#include "base/err.h"
#include "trace/timeline.h"

enum timeline_format { TIMELINE_TEXT, TIMELINE_JSON, TIMELINE_SVG };

/* The target of --timeline: opened before the run, so that a wrong path is known early. */
struct timeline_file {
	int fd;
	enum timeline_format format; /* by the name's suffix */
	bool created;		     /* nothing was there before: a failed write removes it again */
	const char *path;	     /* borrowed */
};

/*
 * Open @path for writing; "-" is stderr. A name ending in .json gets trace-event JSON, one in .svg
 * a chart, one in .txt or "-" a table; other regular names are refused. Returns 0; -EINVAL for
 * another suffix; -errno of open(2).
 */
int timeline_file_open(struct timeline_file *file, const char *path, struct kv_err *err);

/*
 * Write @tl, in JSON with @detail (may be NULL), and close. A regular file that could not be
 * written whole is emptied, and removed when it was not there before. Returns 0 or -errno with a
 * sentence that names the path.
 */
int timeline_file_write(struct timeline_file *file, const struct timeline *tl,
	const struct timeline_detail *detail, struct kv_err *err);

/* True when @path (may be NULL) is one that gets JSON. */
bool timeline_wants_json(const char *path);

#endif
