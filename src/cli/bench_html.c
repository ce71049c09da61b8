/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_html.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"

#define WIDTH 640 /* of a chart, in its own units */

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
	"code{font-size:.85rem;overflow-wrap:anywhere}figure{margin:1rem 0}"
	"svg{width:100%;max-width:44rem;height:auto;font:13px system-ui,sans-serif}"
	"svg text{fill:var(--ink)}svg line{stroke:var(--line)}\n"
	".a{fill:var(--a)}.b{fill:var(--b)}.c{fill:var(--c)}.d{fill:var(--d)}"
	".la{stroke:var(--a);fill:none;stroke-width:2}.lb{stroke:var(--b);fill:none;"
	"stroke-width:2}\n</style></head><body>\n";

/* Text from elsewhere, so that it cannot become markup. */
static void escape(FILE *f, const char *text)
{
	for (; text && *text; text++) {
		if (*text == '<')
			fputs("&lt;", f);
		else if (*text == '>')
			fputs("&gt;", f);
		else if (*text == '&')
			fputs("&amp;", f);
		else if (*text == '"')
			fputs("&quot;", f);
		else
			fputc(*text, f);
	}
}

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
	escape(f, name);
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

/* One bar of a chart. */
struct bar {
	char name[64];
	double from, value;
	char class; /* of the colour: a to d */
};

/* Horizontal bars on a common axis; with @from they make a waterfall. */
static void bars(
	FILE *f, const struct bar *list, unsigned count, const char *unit, const char *what)
{
	double all = 0;

	for (unsigned i = 0; i < count; i++)
		all = fmax(all, list[i].from + list[i].value);
	if (all <= 0)
		return;
	fprintf(f, "<figure><svg viewBox=\"0 0 %d %u\" role=\"img\"><title>%s</title>\n", WIDTH,
		count * 24 + 6, what);
	for (unsigned i = 0; i < count; i++) {
		double x = 170 + list[i].from / all * 360, w = list[i].value / all * 360;

		fprintf(f, "<text x=\"164\" y=\"%u\" text-anchor=\"end\">", i * 24 + 18);
		escape(f, list[i].name);
		fprintf(f,
			"</text><rect class=\"%c\" x=\"%.1f\" y=\"%u\" width=\"%.1f\" "
			"height=\"18\" "
			"rx=\"2\"/><text x=\"%.1f\" y=\"%u\">%.3f %s</text>\n",
			list[i].class, x, i * 24 + 4, fmax(w, 1), x + fmax(w, 1) + 6, i * 24 + 18,
			list[i].value, unit);
	}
	fprintf(f, "</svg><figcaption>%s</figcaption></figure>\n", what);
}

/* A pie of up to 4 slices. */
static void pie(FILE *f, const struct bar *list, unsigned count, const char *unit, const char *what)
{
	double all = 0, at = -M_PI / 2;

	for (unsigned i = 0; i < count; i++)
		all += list[i].value;
	if (all <= 0)
		return;
	fprintf(f, "<figure><svg viewBox=\"0 0 %d 200\" role=\"img\"><title>%s</title>\n", WIDTH,
		what);
	for (unsigned i = 0; i < count; i++) {
		/* An arc of the whole circle would have no length. */
		double turn = fmin(list[i].value / all, 0.9999) * 2 * M_PI, end = at + turn;

		fprintf(f,
			"<path class=\"%c\" d=\"M100 100L%.2f %.2fA90 90 0 %d 1 %.2f %.2fZ\"/>"
			"<rect class=\"%c\" x=\"220\" y=\"%u\" width=\"14\" height=\"14\"/>"
			"<text x=\"242\" y=\"%u\">",
			list[i].class, 100 + 90 * cos(at), 100 + 90 * sin(at), turn > M_PI,
			100 + 90 * cos(end), 100 + 90 * sin(end), list[i].class, 50 + i * 26,
			62 + i * 26);
		escape(f, list[i].name);
		fprintf(f, ": %.3f %s (%.1f %%)</text>\n", list[i].value, unit,
			100 * list[i].value / all);
		at = end;
	}
	fprintf(f, "</svg><figcaption>%s</figcaption></figure>\n", what);
}

/* The last figures' section heads: what ran, and how quiet it was. */
static void section_head(FILE *f, const char *title, json_t *section)
{
	double others = number(json_object_get(section, "noise"), "others_share");

	fprintf(f, "<h2>%s</h2>\n<p><code>", title);
	escape(f, string(section, "command"));
	fprintf(f, "</code><br>Others used %.0f %% of the CPUs meanwhile%s.</p>\n", others * 100,
		others > 0.15 ? ": the machine was <strong>noisy</strong>, so trust ratios, minima "
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
	struct bar list[16];
	unsigned count = 0;
	double at = 0;
	const char *name;
	json_t *samples;

	json_object_foreach(phases, name, samples)
	{
		if (count == ARRAY_LEN(list) || !strcmp(name, "exec to boot byte"))
			continue;
		list[count] = (struct bar){
			"", at, number(samples, "median"), strncmp(name, "run", 3) ? 'a' : 'b'};
		snprintf(list[count].name, sizeof(list[count].name), "%.60s", name);
		at += list[count++].value;
	}
	bars(f, list, count, "ms",
		"From exec to exit, step by step (medians; orange: the guest runs)");
}

static void start_section(FILE *f, json_t *section)
{
	json_t *cases = json_object_get(json_object_get(section, "result"), "cases"), *c, *subject;
	struct bar list[32];
	unsigned count = 0;
	size_t i, s;

	section_head(f, "Start: exec to exit", section);
	table(f, "kernel / initrd / memory, ms", "x floor");
	json_array_foreach(cases, i, c)
	{
		json_t *subjects = json_object_get(c, "subjects");
		double base = median(json_array_get(subjects, 0), "wall_ms");
		char name[80], title[200];

		case_name(c, name, sizeof(name));
		json_array_foreach(subjects, s, subject)
		{
			snprintf(title, sizeof(title), "%s: %.80s", name, string(subject, "name"));
			row(f, title, json_object_get(subject, "wall_ms"), base, 1);
			if (s < 2 && count < ARRAY_LEN(list)) {
				list[count] = (struct bar){
					"", 0, median(subject, "wall_ms"), s ? 'a' : 'c'};
				snprintf(
					list[count++].name, 64, "%.40s%s", name, s ? "" : " floor");
			}
		}
	}
	table_end(f);
	bars(f, list, count, "ms",
		"Start time against kernel, initrd and memory size, beside the floor of the bare "
		"KVM calls (medians)");
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

		fprintf(f, "<p>%d thread(s) at once</p>\n", (int)number(round, "threads"));
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
	static const char *const keys[] = {"uss_bytes", "pss_bytes"};
	json_t *sets = json_object_get(subject, "sets"), *set;
	size_t count = json_array_size(sets), i;
	double top = 0;

	json_array_foreach(sets, i, set) top =
		fmax(top, fmax(median(set, keys[0]), median(set, keys[1])));
	if (top <= 0 || count < 2)
		return;
	fprintf(f,
		"<figure><svg viewBox=\"0 0 %d 240\" role=\"img\"><title>memory per "
		"instance</title>"
		"<line x1=\"70\" x2=\"610\" y1=\"200\" y2=\"200\"/>"
		"<text x=\"64\" y=\"204\" text-anchor=\"end\">0</text>"
		"<text x=\"64\" y=\"24\" text-anchor=\"end\">%.2f MiB</text>\n",
		WIDTH, top / (double)MIB);
	for (int k = 0; k < 2; k++) {
		fprintf(f, "<polyline class=\"l%c\" points=\"", 'a' + k);
		json_array_foreach(sets, i, set)
			fprintf(f, "%.1f,%.1f ", 80 + (double)i * 520 / (double)(count - 1),
				200 - median(set, keys[k]) / top * 180);
		fprintf(f, "\"/>");
	}
	json_array_foreach(sets, i, set)
		fprintf(f, "<text x=\"%.1f\" y=\"220\" text-anchor=\"middle\">%d</text>",
			80 + (double)i * 520 / (double)(count - 1), (int)number(set, "instances"));
	fprintf(f, "<rect class=\"a\" x=\"440\" y=\"14\" width=\"14\" height=\"14\"/><text "
		   "x=\"460\" y=\"26\">USS</text>"
		   "<rect class=\"b\" x=\"520\" y=\"14\" width=\"14\" height=\"14\"/><text "
		   "x=\"540\" y=\"26\">PSS</text>"
		   "</svg><figcaption>Memory per instance against the number of instances: ");
	escape(f, string(subject, "name"));
	fprintf(f, "</figcaption></figure>\n");
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
			escape(f, string(subject, "name"));
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

static void boot_section(FILE *f, json_t *section)
{
	json_t *result = json_object_get(section, "result"), *best, *subject, *samples;
	struct bar list[4];
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
		list[count] = (struct bar){"", 0, json_number_value(samples), (char)('a' + count)};
		snprintf(list[count++].name, 64, "%.60s", name);
	}
	pie(f, list, count, "ms", "The best run");
}

static void host_section(FILE *f, json_t *report)
{
	json_t *host = json_object_get(report, "host");
	char memory[24];

	fprintf(f, "<h1>kvick %s, measured</h1>\n<p>", string(report, "kvick"));
	escape(f, string(report, "date"));
	fprintf(f, ". ");
	escape(f, string(host, "cpu"));
	fprintf(f, ", %d CPUs, %s of memory, Linux ", (int)number(host, "cpus"),
		size_format((uint64_t)number(host, "memory_bytes") / MIB * MIB, memory,
			sizeof(memory)));
	escape(f, string(host, "kernel"));
	fprintf(f, ", KVM: ");
	escape(f, string(host, "kvm"));
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
