/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_marks.h"

#include <errno.h>
#include <jansson.h>

int bench_marks_read(struct bench_marks *marks, const char *path)
{
	json_t *root = json_load_file(path, 0, NULL);
	json_t *all = json_object_get(root, "marks");
	int r = all ? 0 : -EIO;

	*marks = (struct bench_marks){0};
	for (int i = 0; i < MARK_COUNT; i++) {
		json_t *ns = json_object_get(json_object_get(all, mark_name((enum mark)i)), "ns");

		marks->reached[i] = ns;
		marks->ns[i] = (uint64_t)json_integer_value(ns);
	}
	json_decref(root);
	return r;
}

double bench_span_ms(const struct bench_marks *marks, enum mark from, enum mark to)
{
	if (!marks->reached[from] || !marks->reached[to])
		return -1;
	return ((double)marks->ns[to] - (double)marks->ns[from]) / 1e6;
}

int bench_boot_ms(const char *path, double *ret_ms)
{
	struct bench_marks marks;

	bench_marks_read(&marks, path);
	*ret_ms = bench_span_ms(&marks, MARK_EXEC, MARK_BOOT);
	return *ret_ms < 0 ? -EIO : 0;
}
