/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_TIMELINE_FILE_H
#define KV_CLI_TIMELINE_FILE_H

#include <stdbool.h>

#include "base/err.h"
#include "trace/timeline.h"

enum timeline_format { TIMELINE_TEXT, TIMELINE_JSON, TIMELINE_SVG };

/* The target of --timeline. */
struct timeline_file {
	enum timeline_format format; /* by the name's suffix */
	const char *path;	     /* borrowed */
};

/*
 * Before the run: see whether @path can be written afterwards; "-" is stderr. A name ending in
 * .json gets trace-event JSON, one in .svg a chart, one in .txt or "-" a table; other names are
 * refused. Nothing is made yet, which would be part of the time that is measured.
 * Returns 0; -EINVAL for another suffix; -errno of out_file_check().
 */
int timeline_file_check(struct timeline_file *file, const char *path, struct kv_err *err);

/*
 * Write @tl, in JSON with @detail (may be NULL). A regular file that could not be written whole is
 * emptied, and removed when it was not there before. Returns 0 or -errno with a sentence that names
 * the path.
 */
int timeline_file_write(const struct timeline_file *file, const struct timeline *tl,
	const struct timeline_detail *detail, struct kv_err *err);

/* True when @path (may be NULL) is one that gets JSON. */
bool timeline_wants_json(const char *path);

#endif
