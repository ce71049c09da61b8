/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_html.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "cli/bench_chart.h"
#include "cli/bench_out.h"

#define GROUPS_MAX 48 /* of one chart */

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
	"<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
	"<link rel=\"icon\" href=\"data:,\"><title>kvick, measured</title>\n<style>\n"
	":root{color-scheme:light dark;--bg:#fff;--ink:#1a1a1a;--dim:#666;--line:#ddd;"
	"--a:#3b6fb6;--b:#c2691c;--c:#4b8b3b;--d:#8a5aa8}\n"
	"@media(prefers-color-scheme:dark){:root{--bg:#16181c;--ink:#e6e6e6;--dim:#9a9da5;"
	"--line:#363940;--a:#7fb0ee;--b:#f0a35e;--c:#8fce7d;--d:#c79be3}}\n"
	"body{background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif;"
	"max-width:60rem;margin:0 auto;padding:1rem}\n"
	"h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem;border-bottom:1px solid "
	"var(--line)}p,figcaption{color:var(--dim)}\n"
	".w{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;"
	"font-size:.9rem}th,td{padding:.2rem .7rem;text-align:right;white-space:nowrap}"
	"th:first-child,td:first-child{text-align:left}tr{border-bottom:1px solid var(--line)}\n"
	"@media(max-width:30rem){th,td{padding:.2rem .3rem;font-size:.8rem}}\n"
	"code{font-size:.85rem;overflow-wrap:anywhere}figure{margin:1rem 0}"
	"svg{width:100%;max-width:30rem;height:auto;font:13px system-ui,sans-serif}.v{font-size:"
	"11px}"
	"svg text{fill:var(--ink)}svg line{stroke:var(--line)}\n"
	".a{fill:var(--a)}.b{fill:var(--b)}.c{fill:var(--c)}.d{fill:var(--d)}"
	".la{stroke:var(--a);fill:none;stroke-width:2}.lb{stroke:var(--b);fill:none;"
	"stroke-width:2}\n</style></head><body>\n";

static double number(json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static const char *string(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static double median(json_t *object, const char *key)
{
	return number(json_object_get(object, key), "median");
}

/* A row of a table: its name, then min, median, p99, and the ratio of the median to @base. */
static void row(FILE *f, const char *name, json_t *samples, double base, double unit)
{
	fprintf(f, "<tr><td>");
	bench_escape(f, name);
	fprintf(f, "</td><td>%.3f</td><td>%.3f</td><td>%.3f</td>", number(samples, "min") / unit,
		number(samples, "median") / unit, number(samples, "p99") / unit);
	if (base > 0)
		fprintf(f, "<td>%.2f</td>", number(samples, "median") / base);
	else
		fprintf(f, "<td></td>");
	fprintf(f, "</tr>\n");
}

static void table(FILE *f, const char *first, const char *last)
{
	fprintf(f,
		"<div class=\"w\"><table><tr><th>%s</th><th>min</th><th>median</th><th>p99</th>"
		"<th>%s</th></tr>\n",
		first, last);
}

static void table_end(FILE *f)
{
	fprintf(f, "</table></div>\n");
}

/* The last figures' section heads: what ran, and how quiet it was. */
static void section_head(FILE *f, const char *title, json_t *section)
{
	double others = number(json_object_get(section, "noise"), "others_share");

	fprintf(f, "<h2>%s</h2>\n<p><code>", title);
	bench_escape(f, string(section, "command"));
	fprintf(f, "</code><br>Others used %.0f %% of the CPUs meanwhile%s.</p>\n", others * 100,
		others > BENCH_NOISY
			? ": the machine was <strong>noisy</strong>, so trust ratios, minima "
			  "and CPU time"
			: "");
}

static void case_name(json_t *c, char *buf, size_t bytes)
{
	char kernel[24], initrd[24], memory[24];

	snprintf(buf, bytes, "%s / %s / %s",
		size_format((uint64_t)number(c, "kernel_bytes"), kernel, sizeof(kernel)),
		size_format((uint64_t)number(c, "initrd_bytes"), initrd, sizeof(initrd)),
		size_format((uint64_t)number(c, "memory_bytes"), memory, sizeof(memory)));
}

/* The phases of the first case as a waterfall. Those that span others come last and are left out.
 */
static void start_waterfall(FILE *f, json_t *c)
{
	json_t *phases =
		json_object_get(json_array_get(json_object_get(c, "subjects"), 2), "phases_ms");
	struct bench_bar list[16];
	unsigned count = 0;
	double at = 0;
	const char *name;
	json_t *samples;

	json_object_foreach(phases, name, samples)
	{
		if (count == ARRAY_LEN(list) || !strcmp(name, "exec to boot byte"))
			continue;
		list[count] = (struct bench_bar){
			"", at, number(samples, "median"), strncmp(name, "run", 3) ? 'a' : 'b'};
		snprintf(list[count].name, sizeof(list[count].name), "%.60s", name);
		at += list[count++].value;
	}
	bench_waterfall(f, list, count, "ms",
		"From exec to exit of the first of these, step by step (medians; orange: the guest "
		"runs)");
}

/* The cases that differ from the first in the size of the images, or in that of the memory. */
static void start_bars(FILE *f, json_t *cases, bool by_memory)
{
	static const char *const legend[BENCH_GROUP_BARS] = {"kvick", "floor"};
	json_t *first = json_array_get(cases, 0), *c;
	struct bench_group list[GROUPS_MAX];
	unsigned count = 0;
	size_t i;

	json_array_foreach(cases, i, c)
	{
		json_t *subjects = json_object_get(c, "subjects");
		bool memory = number(c, "memory_bytes") != number(first, "memory_bytes");
		bool images = number(c, "kernel_bytes") != number(first, "kernel_bytes") ||
			      number(c, "initrd_bytes") != number(first, "initrd_bytes");

		if (count == ARRAY_LEN(list) || (by_memory ? images : memory))
			continue;
		case_name(c, list[count].name, sizeof(list[count].name));
		list[count].values[0] = median(json_array_get(subjects, 1), "wall_ms");
		list[count].values[1] = median(json_array_get(subjects, 0), "wall_ms");
		list[count++].values[2] = 0;
	}
	bench_groups(f, list, count, legend, "ms",
		by_memory ? "Start time against memory size (kernel / initrd / memory; medians)"
			  : "Start time against image size (kernel / initrd / memory; medians)");
}

static void start_section(FILE *f, json_t *section)
{
	json_t *cases = json_object_get(json_object_get(section, "result"), "cases"), *c, *subject;
	size_t i, s;

	section_head(f, "Start: exec to exit", section);
	table(f, "kernel / initrd / memory, ms", "x floor");
	json_array_foreach(cases, i, c)
	{
		json_t *subjects = json_object_get(c, "subjects");
		double base = median(json_array_get(subjects, 0), "wall_ms");
		char name[64], title[200];

		case_name(c, name, sizeof(name));
		json_array_foreach(subjects, s, subject)
		{
			snprintf(title, sizeof(title), "%s: %.80s", name, string(subject, "name"));
			row(f, title, json_object_get(subject, "wall_ms"), base, 1);
		}
	}
	table_end(f);
	start_bars(f, cases, false);
	start_bars(f, cases, true);
	start_waterfall(f, json_array_get(cases, 0));
}

static void halt_section(FILE *f, json_t *section)
{
	json_t *rounds = json_object_get(json_object_get(section, "result"), "rounds"), *round;
	size_t i;

	section_head(f, "Create, run, destroy in one process", section);
	json_array_foreach(rounds, i, round)
	{
		json_t *floor = json_object_get(round, "floor");
		json_t *kvick = json_object_get(round, "kvick"), *samples;
		const char *name;
		char title[100];

		fprintf(f, "<p>%d thread%s</p>\n", (int)number(round, "threads"),
			number(round, "threads") > 1 ? "s at once" : "");
		table(f, "us", "x floor");
		json_object_foreach(json_object_get(floor, "steps_us"), name, samples)
		{
			json_t *own = json_object_get(json_object_get(kvick, "steps_us"), name);

			snprintf(title, sizeof(title), "%.60s: floor", name);
			row(f, title, samples, 0, 1);
			snprintf(title, sizeof(title), "%.60s: kvick", name);
			row(f, title, own, number(samples, "median"), 1);
		}
		row(f, "CPU time: floor", json_object_get(floor, "cpu_us"), 0, 1);
		row(f, "CPU time: kvick", json_object_get(kvick, "cpu_us"), median(floor, "cpu_us"),
			1);
		table_end(f);
	}
}

/* USS and PSS of one monitor against the number of instances. */
static void footprint_curve(FILE *f, json_t *subject)
{
	static const char *const legend[] = {"USS", "PSS"};
	struct bench_point list[16];
	unsigned count = 0;
	json_t *set;
	size_t i;

	json_array_foreach(json_object_get(subject, "sets"), i, set)
	{
		if (count == ARRAY_LEN(list))
			break;
		snprintf(list[count].name, sizeof(list[count].name), "%d",
			(int)number(set, "instances"));
		list[count].values[0] = median(set, "uss_bytes") / (double)MIB;
		list[count++].values[1] = median(set, "pss_bytes") / (double)MIB;
	}
	bench_curves(f, list, count, legend, "MiB",
		"Memory per instance against the number of instances", string(subject, "name"));
}

static void footprint_section(FILE *f, json_t *section)
{
	static const char *const keys[] = {"uss_bytes", "pss_bytes", "rss_bytes",
		"private_dirty_bytes", "page_tables_bytes", "kernel_slab_bytes",
		"kernel_vmalloc_bytes", "kernel_second_tables_bytes", "kernel_stacks_bytes"};
	json_t *subjects = json_object_get(json_object_get(section, "result"), "subjects");
	json_t *subject, *set;
	size_t s, i;

	section_head(f, "Footprint: average per instance, MiB", section);
	fprintf(f,
		"<div class=\"w\"><table><tr><th>instances</th><th>USS</th><th>PSS</th><th>RSS</th>"
		"<th>private dirty</th><th>page tables</th><th>slab</th><th>vmalloc</th>"
		"<th>KVM page tables</th><th>kernel "
		"stacks</th><th>threads</th><th>fds</th></tr>\n");
	json_array_foreach(subjects, s, subject)
	{
		json_array_foreach(json_object_get(subject, "sets"), i, set)
		{
			fprintf(f, "<tr><td>%d ", (int)number(set, "instances"));
			bench_escape(f, string(subject, "name"));
			fprintf(f, "</td>");
			for (size_t k = 0; k < ARRAY_LEN(keys); k++)
				fprintf(f, "<td>%.3f</td>", median(set, keys[k]) / (double)MIB);
			fprintf(f, "<td>%.0f</td><td>%.0f</td></tr>\n", median(set, "threads"),
				median(set, "fds"));
		}
	}
	table_end(f);
	json_array_foreach(subjects, s, subject) footprint_curve(f, subject);
}

/* Memory that becomes present: each kind and number of threads by all methods; three are drawn. */
static void populate_section(FILE *f, json_t *section)
{
	static const char *const legend[BENCH_GROUP_BARS] = {"full", "bare loop", "touch"};
	json_t *result = json_object_get(section, "result"), *row;
	struct bench_group list[GROUPS_MAX] = {0};
	unsigned count = 0;
	char name[64];
	size_t i;

	section_head(f, "Making memory present", section);
	fprintf(f, "<div class=\"w\"><table><tr><th>GB/s</th><th>min</th><th>median</th>"
		   "<th>of CPU time</th><th>x bare loop</th></tr>\n");
	json_array_foreach(json_object_get(result, "populate"), i, row)
	{
		const char *method = string(row, "method");
		int threads = (int)number(row, "threads");
		json_t *rate = json_object_get(row, "gb_s");

		snprintf(name, sizeof(name), "%.30s, %d thread%s", string(row, "memory"), threads,
			threads > 1 ? "s" : "");
		if (!count || strcmp(list[count - 1].name, name)) {
			if (count == ARRAY_LEN(list))
				break;
			snprintf(list[count++].name, sizeof(list->name), "%s", name);
		}
		for (int b = 0; b < BENCH_GROUP_BARS; b++)
			if (!strcmp(method, legend[b]))
				list[count - 1].values[b] = number(rate, "median");
		fprintf(f, "<tr><td>%s: ", name);
		bench_escape(f, method);
		fprintf(f, "</td><td>%.2f</td><td>%.2f</td><td>%.2f</td><td>%.2f</td></tr>\n",
			number(rate, "min"), number(rate, "median"), median(row, "cpu_gb_s"),
			median(row, "x_bare"));
	}
	json_array_foreach(json_object_get(result, "clear"), i, row)
	{
		json_t *rate = json_object_get(row, "gb_s");
		int threads = (int)number(row, "threads");

		fprintf(f, "<tr><td>present memory, %d thread%s: ", threads,
			threads > 1 ? "s" : "");
		bench_escape(f, string(row, "method"));
		fprintf(f, "</td><td>%.2f</td><td>%.2f</td><td></td><td></td></tr>\n",
			number(rate, "min"), number(rate, "median"));
	}
	table_end(f);
	bench_groups(f, list, count, legend, "GB/s", "Guest memory becomes present (medians)");
}

/* kvick's best run from exec to the line that says that the guest is up. */
static void boot_waterfall(FILE *f, json_t *best)
{
	double all = number(best, "done_ms"), at = 0;
	struct bench_bar list[16];
	unsigned count = 0;
	const char *name;
	bool guest = false;
	json_t *ms;

	json_object_foreach(json_object_get(best, "phases_ms"), name, ms)
	{
		if (count + 1 == ARRAY_LEN(list) || !strcmp(name, "teardown") ||
			!strncmp(name, "exec to", 7))
			continue;
		list[count] = (struct bench_bar){"", at, json_number_value(ms), guest ? 'b' : 'a'};
		snprintf(list[count].name, sizeof(list[count].name), "%.60s", name);
		at += list[count++].value;
		guest |= !strcmp(name, "to first entry");
	}
	/* What no mark divides: without symbols that is all of the guest's part. */
	if (all > at)
		list[count++] = (struct bench_bar){"to the line that says so", at, all - at, 'b'};
	bench_waterfall(f, list, count, "ms",
		"The best run, from exec until the guest is up, step by step (orange: the guest "
		"runs)");
}

static void boot_section(FILE *f, json_t *section)
{
	json_t *result = json_object_get(section, "result"), *best, *subject, *samples;
	struct bench_bar list[4];
	unsigned count = 0;
	const char *name;
	size_t s;

	section_head(f, "Boot of a real kernel", section);
	table(f, "ms", "x kvick");
	json_array_foreach(json_object_get(result, "subjects"), s, subject)
	{
		json_t *own = json_array_get(json_object_get(result, "subjects"), 0);
		char title[120];

		snprintf(title, sizeof(title), "%.60s: exec to up", string(subject, "name"));
		row(f, title, json_object_get(subject, "done_ms"), median(own, "done_ms"), 1);
		snprintf(title, sizeof(title), "%.60s: CPU time", string(subject, "name"));
		row(f, title, json_object_get(subject, "cpu_ms"), median(own, "cpu_ms"), 1);
	}
	json_object_foreach(json_object_get(result, "phases_ms"), name, samples)
		row(f, name, samples, 0, 1);
	table_end(f);
	best = json_object_get(result, "best");
	json_object_foreach(json_object_get(best, "pie_ms"), name, samples)
	{
		if (count == ARRAY_LEN(list))
			break;
		list[count] =
			(struct bench_bar){"", 0, json_number_value(samples), (char)('a' + count)};
		snprintf(list[count++].name, 64, "%.60s", name);
	}
	bench_pie(f, list, count, "ms", "The best run, from the configuration read");
	boot_waterfall(f, best);
}

static void host_section(FILE *f, json_t *report)
{
	json_t *host = json_object_get(report, "host");
	char memory[24];

	fprintf(f, "<h1>kvick %s, measured</h1>\n<p>", string(report, "kvick"));
	bench_escape(f, string(report, "date"));
	fprintf(f, ". ");
	bench_escape(f, string(host, "cpu"));
	fprintf(f, ", %d CPUs, %s of memory, Linux ", (int)number(host, "cpus"),
		size_format((uint64_t)number(host, "memory_bytes") / MIB * MIB, memory,
			sizeof(memory)));
	bench_escape(f, string(host, "kernel"));
	fprintf(f, ", KVM: ");
	bench_escape(f, string(host, "kvm"));
	fprintf(f,
		".</p>\n<p>What is compared ran in turns. The first runs warm up and are dropped; "
		"no "
		"other run is. Compare figures of one page only.%s</p>\n",
		json_is_true(json_object_get(report, "quick"))
			? " <strong>This is a quick report: too few runs to conclude from.</strong>"
			: "");
}

int bench_html(json_t *report, char **ret)
{
	static const struct {
		const char *kind;
		void (*write)(FILE *f, json_t *section);
	} kinds[] = {
		{"start", start_section},
		{"halt", halt_section},
		{"footprint", footprint_section},
		{"populate", populate_section},
		{"boot", boot_section},
	};
	json_t *section;
	char *out = NULL;
	size_t len, i;
	FILE *f = open_memstream(&out, &len);

	if (!f)
		return -ENOMEM;
	fputs(head, f);
	host_section(f, report);
	json_array_foreach(json_object_get(report, "sections"), i, section)
	{
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
			if (!strcmp(string(section, "kind"), kinds[k].kind))
				kinds[k].write(f, section);
	}
	fprintf(f, "</body></html>\n");
	if (fclose(f)) {
		free(out);
		return -ENOMEM;
	}
	*ret = out;
	return 0;
}
