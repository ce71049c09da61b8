/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/num.h"
#include "trace/exits_internal.h"

/* A line of the export: a copy of counters that go on changing. */
struct line {
	enum exit_access access; /* EXIT_OTHER: an exit reason */
	uint64_t key;		 /* reason, port or address */
	uint64_t count, guest_ns, handled_ns;
	bool rest; /* places that found no room of their own */
};

#define LINES_MAX (EXITS_REASONS_MAX + EXITS_PLACES_MAX + 1)

static struct line line_make(const struct exits_cost *cost, enum exit_access access, uint64_t key)
{
	return (struct line){access, key, cost->count, cost->guest_ns, cost->handled_ns, false};
}

/* Reasons first, then ports, then memory; each by the time that their handling took. */
static int line_compare(const void *a, const void *b)
{
	const struct line *x = a, *y = b;
	int xs = (x->access + 1) / 2, ys = (y->access + 1) / 2;

	if (x->rest != y->rest)
		return x->rest - y->rest;
	if (xs != ys)
		return xs - ys;
	return (x->handled_ns < y->handled_ns) - (x->handled_ns > y->handled_ns);
}

static unsigned lines_collect(struct exits_cpu *cpu, struct line *lines, struct line *sum)
{
	unsigned n = 0;

	*sum = (struct line){0};
	for (unsigned i = 0; i < EXITS_REASONS_MAX; i++) {
		if (!cpu->reasons[i].count)
			continue;
		lines[n] = line_make(&cpu->reasons[i], EXIT_OTHER, i);
		sum->count += lines[n].count;
		sum->guest_ns += lines[n].guest_ns;
		sum->handled_ns += lines[n++].handled_ns;
	}
	for (unsigned i = 0; i <= EXITS_PLACES_MAX; i++) {
		struct exits_place *place = &cpu->places[i];

		if (!place->cost.count)
			continue;
		lines[n] = line_make(&place->cost, place->access, place->address);
		lines[n++].rest = i == EXITS_PLACES_MAX;
	}
	qsort(lines, n, sizeof(*lines), line_compare);
	return n;
}

static const char *line_name(const struct line *line, exits_name_fn name, char *buf, size_t bytes)
{
	static const char *const forms[] = {
		[EXIT_PORT_IN] = "port 0x%" PRIx64 " in",
		[EXIT_PORT_OUT] = "port 0x%" PRIx64 " out",
		[EXIT_MMIO_READ] = "mmio 0x%" PRIx64 " read",
		[EXIT_MMIO_WRITE] = "mmio 0x%" PRIx64 " write",
	};

	if (line->rest)
		snprintf(buf, bytes, "ports and addresses beyond %d", EXITS_PLACES_MAX);
	else if (line->access != EXIT_OTHER)
		snprintf(buf, bytes, forms[line->access], line->key);
	else if (name((unsigned)line->key))
		snprintf(buf, bytes, "%s", name((unsigned)line->key));
	else
		snprintf(buf, bytes, "reason %" PRIu64, line->key);
	return buf;
}

static void cpu_text(FILE *f, unsigned index, struct exits_cpu *cpu, exits_name_fn name)
{
	struct line lines[LINES_MAX], sum;
	unsigned count = lines_collect(cpu, lines, &sum);
	char buf[64];

	fprintf(f,
		"vCPU %u: %" PRIu64
		" exits, %.3f ms handling them, %.3f ms in the guest or halted\n",
		index, sum.count, (double)sum.handled_ns / 1e6, (double)sum.guest_ns / 1e6);
	if (count)
		fprintf(f, "  %-28s %10s %12s %10s %12s\n", "exits", "count", "handled ms",
			"us each", "before ms");
	for (unsigned i = 0; i < count; i++)
		fprintf(f, "  %-28s %10" PRIu64 " %12.3f %10.3f %12.3f\n",
			line_name(&lines[i], name, buf, sizeof(buf)), lines[i].count,
			(double)lines[i].handled_ns / 1e6,
			(double)lines[i].handled_ns / 1e3 / (double)lines[i].count,
			(double)lines[i].guest_ns / 1e6);
}

static void line_json(FILE *f, const struct line *line, exits_name_fn name, bool first)
{
	char buf[64];

	fprintf(f, "%s\n   {\"name\":\"%s\"", first ? "" : ",",
		line_name(line, name, buf, sizeof(buf)));
	if (line->access == EXIT_OTHER && !line->rest)
		fprintf(f, ",\"reason\":%" PRIu64, line->key);
	else if (line->access != EXIT_OTHER)
		fprintf(f, ",\"%s\":%" PRIu64 ",\"write\":%s",
			line->access <= EXIT_PORT_OUT ? "port" : "gpa", line->key,
			line->access == EXIT_PORT_OUT || line->access == EXIT_MMIO_WRITE ? "true"
											 : "false");
	fprintf(f, ",\"count\":%" PRIu64 ",\"handled_ns\":%" PRIu64 ",\"before_ns\":%" PRIu64 "}",
		line->count, line->handled_ns, line->guest_ns);
}

/* The lines from @at on that are (@places) or are not about places. Returns where they end. */
static unsigned lines_json(FILE *f, const struct line *lines, unsigned at, unsigned count,
	bool places, exits_name_fn name)
{
	unsigned start = at;

	for (; at < count; at++) {
		if ((lines[at].access != EXIT_OTHER || lines[at].rest) != places)
			break;
		line_json(f, &lines[at], name, at == start);
	}
	return at;
}

static void cpu_json(FILE *f, unsigned index, struct exits_cpu *cpu, exits_name_fn name)
{
	struct line lines[LINES_MAX], sum;
	unsigned count = lines_collect(cpu, lines, &sum), at;

	fprintf(f,
		"%s\n {\"vcpu\":%u,\"exits\":%" PRIu64 ",\"handled_ns\":%" PRIu64
		",\"before_ns\":%" PRIu64 ",\n  \"reasons\":[",
		index ? "," : "", index, sum.count, sum.handled_ns, sum.guest_ns);
	at = lines_json(f, lines, 0, count, false, name);
	fprintf(f, "],\n  \"places\":[");
	lines_json(f, lines, at, count, true, name);
	fprintf(f, "]}");
}

int exits_text(struct exits *exits, exits_name_fn name, char **ret)
{
	size_t len;
	char *out = NULL;
	FILE *f = open_memstream(&out, &len);

	if (!f)
		return -ENOMEM;
	for (unsigned i = 0; i < exits->cpu_count; i++)
		cpu_text(f, i, &exits->cpus[i], name);
	if (fclose(f)) {
		free(out);
		return -ENOMEM;
	}
	*ret = out;
	return 0;
}

int exits_json(struct exits *exits, exits_name_fn name, char **ret)
{
	size_t len;
	char *out = NULL;
	FILE *f = open_memstream(&out, &len);

	if (!f)
		return -ENOMEM;
	fprintf(f, "{\"vcpus\":[");
	for (unsigned i = 0; i < exits->cpu_count; i++)
		cpu_json(f, i, &exits->cpus[i], name);
	fprintf(f, "\n]}\n");
	if (fclose(f)) {
		free(out);
		return -ENOMEM;
	}
	*ret = out;
	return 0;
}
