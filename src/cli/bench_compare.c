/* SPDX-License-Identifier: Apache-2.0 */
/* kvick bench compare: which figures of two reports differ by more than chance explains. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_out.h"
#include "cli/bench_stat.h"
#include "cli/cli.h"

/* A difference counts when chance explains it this seldom, and when it is at least this large. */
#define P_MAX	  0.01
#define SHARE_MIN 0.02

struct compare {
	const char *paths[2];
	unsigned path_count;
	bool json;
	unsigned better, worse, same, unsure;
	json_t *rows;
};

static int path_set(void *ctx, const char *value, struct kv_err *err)
{
	struct compare *compare = ctx;

	compare->paths[compare->path_count++] = value;
	return 0;
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct compare *)ctx)->json = true;
	return 0;
}

static const struct cli_option options[] = {
	{"json", NULL, "print the comparison as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench compare",
	.synopsis = "[OPTION...] A.json B.json",
	.about = "Compare what two runs of the same benchmark, or two reports, found: for each\n"
		 "figure of both whether B is better, worse, or within noise of A. Better is\n"
		 "less, and more of rates (GB/s, MiB/s). The test is Mann-Whitney's U, exact and\n"
		 "two-sided, p < 0.01, and the medians must differ by 2 % or more. Of more than\n"
		 "10 samples, medians of 10 successive batches are compared.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.operand = "A.json B.json",
	.operands_min = 2,
	.operands_max = 2,
	.operand_set = path_set,
};

/* The samples of a figure in @ret. Returns how many; *@ret is the caller's. */
static size_t values_of(json_t *figure, double **ret)
{
	json_t *values = json_object_get(figure, "values"), *value;
	size_t count = json_array_size(values), i;

	*ret = calloc(count + 1, sizeof(**ret));
	if (!*ret)
		return 0;
	json_array_foreach(values, i, value)(*ret)[i] = json_number_value(value);
	return count;
}

/* Of rates more is better, of all other figures less. */
static bool is_rate(const char *name)
{
	static const char *const tails[] = {"gb_s", "x_bare", "mib_per_s"};
	size_t len = strlen(name);

	for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
		size_t tail = strlen(tails[i]);

		if (len >= tail && !strcmp(name + len - tail, tails[i]))
			return true;
	}
	return false;
}

static const char *verdict(
	struct compare *compare, double p, double a, double b, bool enough, bool rate)
{
	if (!enough) {
		compare->unsure++;
		return "too few runs";
	}
	if (p >= P_MAX || fabs(b - a) < SHARE_MIN * fabs(a)) {
		compare->same++;
		return "within noise";
	}
	if (b < a ? !rate : rate) {
		compare->better++;
		return "better";
	}
	compare->worse++;
	return "worse";
}

static void figure_compare(struct compare *compare, const char *name, json_t *a, json_t *b)
{
	double ma = json_number_value(json_object_get(a, "median"));
	double mb = json_number_value(json_object_get(b, "median"));
	MEM_SCOPED double *va = NULL;
	MEM_SCOPED double *vb = NULL;
	size_t na = values_of(a, &va), nb = values_of(b, &vb);
	double p = 1;
	const char *text;

	if (va && vb) {
		na = bench_stat_thin(va, na);
		nb = bench_stat_thin(vb, nb);
		p = bench_rank_test(va, na, vb, nb);
	}
	/* Of 4 and 4 no outcome is as unlikely as P_MAX. */
	text = verdict(compare, p, ma, mb, na >= 5 && nb >= 5, is_rate(name));
	json_array_append_new(compare->rows, json_pack("{s:s, s:f, s:f, s:f, s:s}", "figure", name,
						     "a", ma, "b", mb, "p", p, "verdict", text));
}

/* What tells an element of an array from the others: names, sizes and counts; else its number. */
static void element_name(json_t *element, size_t index, char *buf, size_t bytes)
{
	static const char *const keys[] = {"name", "kind", "memory", "method", "start", "told_as",
		"work", "instances", "threads", "depth", "bytes", "block_bytes", "max_bytes",
		"plugged_bytes", "kernel_bytes", "initrd_bytes", "memory_bytes"};
	size_t at = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(keys) && at < bytes; i++) {
		json_t *value = json_object_get(element, keys[i]);
		const char *comma = at ? "," : "";
		size_t len = strlen(keys[i]);
		char size[24];

		if (json_is_string(value))
			at += (size_t)snprintf(
				buf + at, bytes - at, "%s%.40s", comma, json_string_value(value));
		else if (json_is_integer(value) && len >= 5 && !strcmp(keys[i] + len - 5, "bytes"))
			at += (size_t)snprintf(buf + at, bytes - at, "%s%s", comma,
				size_format(
					(uint64_t)json_integer_value(value), size, sizeof(size)));
		else if (json_is_integer(value))
			at += (size_t)snprintf(buf + at, bytes - at, "%s%s=%lld", comma, keys[i],
				(long long)json_integer_value(value));
	}
	if (!at)
		snprintf(buf, bytes, "%zu", index);
}

/*
 * The element of @array that is called @name, as many elements of that name behind the first as are
 * ahead of @index in @like; NULL: there are fewer. *@nth gets how many.
 */
static json_t *element_find(
	json_t *array, const char *name, json_t *like, size_t index, unsigned *nth)
{
	json_t *element;
	char other[160];
	unsigned ahead = 0;
	size_t i;

	*nth = 0;
	for (i = 0; i < index; i++) {
		element_name(json_array_get(like, i), i, other, sizeof(other));
		*nth += !strcmp(name, other);
	}
	json_array_foreach(array, i, element)
	{
		element_name(element, i, other, sizeof(other));
		if (!strcmp(name, other) && ahead++ == *nth)
			return element;
	}
	return NULL;
}

/* Go down both documents together; figures are the objects that have samples. */
static void walk(struct compare *compare, const char *path, json_t *a, json_t *b, unsigned depth)
{
	char below[400], name[160];
	const char *key;
	json_t *value;
	size_t i;

	if (depth > 16)
		return;
	if (json_is_array(json_object_get(a, "values"))) {
		if (json_is_array(json_object_get(b, "values")))
			figure_compare(compare, path, a, b);
		return;
	}
	json_object_foreach(a, key, value)
	{
		bool plain = !strcmp(key, "result") || !strcmp(key, "sections");

		snprintf(below, sizeof(below), "%s%s%.60s", path, plain || !*path ? "" : " > ",
			plain ? "" : key);
		if (json_object_get(b, key))
			walk(compare, below, value, json_object_get(b, key), depth + 1);
	}
	if (!json_is_array(a) || !json_is_array(b))
		return;
	json_array_foreach(a, i, value)
	{
		json_t *other;
		unsigned nth;
		int at;

		element_name(value, i, name, sizeof(name));
		other = element_find(b, name, a, i, &nth);
		at = snprintf(below, sizeof(below), "%s%s%s", path, *path ? " > " : "", name);
		if (nth && (size_t)at < sizeof(below))
			snprintf(below + at, sizeof(below) - (size_t)at, " (%u)", nth + 1);
		if (other)
			walk(compare, below, value, other, depth + 1);
	}
}

static void rows_print(const struct compare *compare)
{
	json_t *row;
	size_t i;

	printf("%-60s %12s %12s %8s %8s\n", "figure (medians)", "A", "B", "B/A", "p");
	json_array_foreach(compare->rows, i, row)
	{
		double a = json_number_value(json_object_get(row, "a"));
		double b = json_number_value(json_object_get(row, "b"));

		printf("%-60s %12.3f %12.3f %8.3f %8.4f  %s\n",
			json_string_value(json_object_get(row, "figure")), a, b, a != 0 ? b / a : 0,
			json_number_value(json_object_get(row, "p")),
			json_string_value(json_object_get(row, "verdict")));
	}
	printf("\nB against A: %u better, %u worse, %u within noise, %u with too few runs to tell\n"
	       "(Mann-Whitney U, exact, two-sided, p < %.2f, and medians %.0f %% apart; of more "
	       "than\n"
	       "%d samples a side, medians of %d successive batches. It tells that two runs "
	       "differ, not\n"
	       "why: another hour of a shared machine is reason enough.)\n",
		compare->better, compare->worse, compare->same, compare->unsure, P_MAX,
		SHARE_MIN * 100, BENCH_STAT_MAX, BENCH_STAT_MAX);
}

static double others_share(json_t *document)
{
	return json_number_value(
		json_object_get(json_object_get(document, "noise"), "others_share"));
}

/* Say so when others were busy while the figures of @root, or a part of them, were taken. */
static void noise_tell(const char *path, json_t *root)
{
	double most = others_share(root), share;
	json_t *section;
	size_t i;

	json_array_foreach(json_object_get(root, "sections"), i, section)
	{
		share = others_share(section);
		most = share > most ? share : most;
	}
	if (most > BENCH_NOISY)
		cli_error("bench compare",
			"warning: %s: the machine was NOISY, others used up to %.0f %% of the CPUs "
			"meanwhile; runs of one and the same program differ then",
			path, most * 100);
}

static json_t *document_load(const char *path, struct kv_err *err)
{
	json_error_t bad;
	json_t *root = json_load_file(path, 0, &bad);

	if (!root) {
		err_set(err, -EINVAL, "%s: %s", path, bad.text);
		return NULL;
	}
	if (!json_is_string(json_object_get(root, "kind"))) {
		err_set(err, -EINVAL,
			"%s: is no figures of kvick bench --json or kvick bench report", path);
		json_decref(root);
		return NULL;
	}
	return root;
}

static int documents_compare(struct compare *compare, struct kv_err *err)
{
	json_t *a = document_load(compare->paths[0], err);
	json_t *b = a ? document_load(compare->paths[1], err) : NULL;
	int r = b ? 0 : -EINVAL;

	compare->rows = json_array();
	if (!r && strcmp(json_string_value(json_object_get(a, "kind")),
			  json_string_value(json_object_get(b, "kind"))))
		r = err_set(err, -EINVAL, "%s is of the kind %s, %s of the kind %s",
			compare->paths[0], json_string_value(json_object_get(a, "kind")),
			compare->paths[1], json_string_value(json_object_get(b, "kind")));
	if (!r)
		walk(compare, "", a, b, 0);
	if (!r && !json_array_size(compare->rows))
		r = err_set(err, -EINVAL, "the two have no figure in common");
	if (!r) {
		noise_tell(compare->paths[0], a);
		noise_tell(compare->paths[1], b);
	}
	json_decref(a);
	json_decref(b);
	return r;
}

int bench_compare(int argc, char **argv)
{
	struct compare compare = {0};
	struct kv_err err = {0};
	int status = cli_parse(&usage, argc, argv, &compare);
	int r;

	if (status != CLI_GO_ON)
		return status;
	r = documents_compare(&compare, &err);
	if (r < 0) {
		cli_error("bench compare", "%s", err.text);
	} else if (compare.json) {
		json_dumpf(compare.rows, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
		printf("\n");
	} else {
		rows_print(&compare);
	}
	json_decref(compare.rows);
	return r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
}
