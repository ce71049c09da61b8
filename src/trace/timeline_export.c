/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/timeline.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "trace/timeline_internal.h"

static const char *const mark_texts[MARK_COUNT] = {
	[MARK_EXEC] = "exec",
	[MARK_MAIN] = "main() entered",
	[MARK_CONFIG] = "configuration read",
	[MARK_IMAGE] = "images opened",
	[MARK_MEMORY] = "guest memory mapped",
	[MARK_POPULATE_BEGIN] = "populating guest memory",
	[MARK_POPULATE_END] = "guest memory present",
	[MARK_VM] = "KVM VM created",
	[MARK_DEVICES] = "devices in place",
	[MARK_VCPU] = "vCPUs created",
	[MARK_READY] = "VMM ready",
	[MARK_FIRST_ENTRY] = "first guest instruction",
	[MARK_FIRST_EXIT] = "first exit",
	[MARK_SERIAL] = "first serial byte",
	[MARK_START_KERNEL] = "start_kernel",
	[MARK_INIT] = "kernel starts init",
	[MARK_USER] = "user space",
	[MARK_BOOT] = "boot complete",
	[MARK_SHUTDOWN] = "guest shut down",
	[MARK_DOWN] = "torn down",
};

/* Microseconds with their fraction. Printing floating point would cost more than the whole file. */
#define US_FORMAT   "%" PRIu64 ".%03u"
#define US_ARGS(ns) (uint64_t)((ns) / 1000), (unsigned)((ns) % 1000)

static int row_compare(const void *a, const void *b)
{
	const struct timeline_row *x = a, *y = b;

	return (x->ns > y->ns) - (x->ns < y->ns);
}

/* Bytes a second at which guest memory was populated; 0: it was not. */
static double fill_rate(const struct timeline *tl)
{
	uint64_t begin = tl->ns[MARK_POPULATE_BEGIN], end = tl->ns[MARK_POPULATE_END];

	return begin && end > begin ? (double)tl->populated_bytes * 1e9 / (double)(end - begin) : 0;
}

size_t timeline_rows(const struct timeline *tl, struct timeline_row *rows)
{
	uint32_t events = tl->event_count < TRACE_EVENTS_MAX ? tl->event_count : TRACE_EVENTS_MAX;
	size_t n = 0;

	for (int i = 0; i < MARK_COUNT; i++)
		if (tl->ns[i])
			rows[n++] =
				(struct timeline_row){tl->ns[i], tl->cpu_ns[i], mark_texts[i], ""};
	for (size_t i = 0; i < n && fill_rate(tl) > 0; i++) {
		if (rows[i].text != mark_texts[MARK_POPULATE_END])
			continue;
		snprintf(rows[i].room, sizeof(rows[i].room), "%s: %.1f MiB at %.2f GB/s",
			rows[i].text, (double)tl->populated_bytes / 1048576, fill_rate(tl) / 1e9);
		rows[i].text = NULL;
	}
	for (uint32_t i = 0; i < events; i++) {
		const struct trace_event *ev = &tl->events[i];

		if (!ev->ns)
			continue;
		rows[n] = (struct timeline_row){ev->ns, ev->cpu_ns, NULL, ""};
		snprintf(rows[n].room, sizeof(rows[n].room), "port 0x%02x: %u", ev->port, ev->code);
		n++;
	}
	qsort(rows, n, sizeof(*rows), row_compare);
	return n;
}

int timeline_flush(FILE *stream, char **out, size_t *len, int fd)
{
	int r = fclose(stream) ? -ENOMEM : fd_write_all(fd, *out, *len);

	free(*out);
	return r;
}

int timeline_text(const struct timeline *tl, int fd)
{
	struct timeline_row rows[TIMELINE_ROWS_MAX];
	uint64_t start = tl->ns[MARK_EXEC], last = start;
	char *out = NULL;
	size_t len, count;
	FILE *f;

	f = open_memstream(&out, &len);
	if (!f)
		return -ENOMEM;
	count = timeline_rows(tl, rows);
	fprintf(f, "%12s %12s %12s  %s\n", "ms", "+ms", "CPU ms", "reached");
	for (size_t i = 0; i < count; i++) {
		fprintf(f, "%12.3f %12.3f %12.3f  %s\n", (double)(rows[i].ns - start) / 1e6,
			(double)(rows[i].ns - last) / 1e6, (double)rows[i].cpu_ns / 1e6,
			rows[i].text ? rows[i].text : rows[i].room);
		last = rows[i].ns;
	}
	if (!tl->exec_measured)
		fprintf(f, "(exec: derived from the CPU time used before main)\n");
	if (tl->event_count > TRACE_EVENTS_MAX)
		fprintf(f, "(only the first %d trace-port writes were kept)\n", TRACE_EVENTS_MAX);
	return timeline_flush(f, &out, &len, fd);
}

/* The name of a track. */
static void track_json(FILE *f, unsigned tid, const char *name, unsigned index)
{
	fprintf(f,
		",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%u,"
		"\"args\":{\"name\":\"%s %u\"}}",
		tid, name, index);
}

static void span_json(FILE *f, unsigned tid, const char *name, uint64_t from_ns, uint64_t ns)
{
	fprintf(f,
		",\n{\"name\":\"%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%u,\"ts\":" US_FORMAT
		",\"dur\":" US_FORMAT "}",
		name, tid, US_ARGS(from_ns), US_ARGS(ns));
}

/* What a vCPU did: in the guest, and the handling of each exit, which is a device's work. */
static void vcpu_json(FILE *f, const struct timeline *tl, const struct timeline_detail *detail,
	unsigned index, unsigned tid)
{
	static const char *const forms[] = {
		[EXIT_OTHER] = "%s",
		[EXIT_PORT_IN] = "port 0x%llx in",
		[EXIT_PORT_OUT] = "port 0x%llx out",
		[EXIT_MMIO_READ] = "mmio 0x%llx read",
		[EXIT_MMIO_WRITE] = "mmio 0x%llx write",
	};
	const struct exit_record *records;
	uint64_t start = tl->ns[MARK_EXEC], dropped, entered = tl->ns[MARK_FIRST_ENTRY];
	uint32_t count = exits_records(detail->exits, index, &records, &dropped);

	track_json(f, tid, "vCPU", index);
	for (uint32_t i = 0; i < count; i++) {
		const struct exit_record *record = &records[i];
		const char *name = detail->name(record->reason);
		char text[48];

		if (record->access == EXIT_OTHER)
			snprintf(text, sizeof(text), "%s", name ? name : "exit");
		else
			snprintf(text, sizeof(text), forms[record->access],
				(unsigned long long)record->address);
		if (entered && record->left_ns > entered && (i || !index))
			span_json(f, tid, "guest", entered - start, record->left_ns - entered);
		span_json(f, tid, text, record->left_ns - start, record->handled_ns);
		entered = record->left_ns + record->handled_ns;
	}
	if (dropped)
		fprintf(f,
			",\n{\"name\":\"%llu exits more\",\"ph\":\"i\",\"s\":\"t\",\"pid\":1,"
			"\"tid\":%u,\"ts\":" US_FORMAT "}",
			(unsigned long long)dropped, tid, US_ARGS(entered - start));
}

/* What a loop's thread did for devices. */
static void work_json(FILE *f, const struct timeline *tl, const struct timeline_detail *detail,
	unsigned index, unsigned tid)
{
	const struct exit_record *records;
	uint64_t dropped;
	uint32_t count = exits_records(detail->work, index, &records, &dropped);

	track_json(f, tid, "loop", index);
	for (uint32_t i = 0; i < count; i++) {
		char text[40];

		if (records[i].address)
			snprintf(text, sizeof(text), "descriptor %llu",
				(unsigned long long)records[i].address);
		else
			snprintf(text, sizeof(text), "timer");
		span_json(f, tid, text, records[i].left_ns - tl->ns[MARK_EXEC],
			records[i].handled_ns);
	}
}

int timeline_json(const struct timeline *tl, const struct timeline_detail *detail, int fd)
{
	struct timeline_row rows[TIMELINE_ROWS_MAX];
	uint64_t start = tl->ns[MARK_EXEC];
	char *out = NULL;
	size_t len, count;
	FILE *f;

	f = open_memstream(&out, &len);
	if (!f)
		return -ENOMEM;
	count = timeline_rows(tl, rows);
	fprintf(f,
		"{\"displayTimeUnit\":\"ms\",\"otherData\":{\"exec\":\"%s\"},\n\"traceEvents\":[\n",
		tl->exec_measured ? "measured" : "derived");
	for (size_t i = 0; i < count; i++)
		fprintf(f,
			"%s{\"name\":\"%s\",\"ph\":\"i\",\"s\":\"g\",\"pid\":1,\"tid\":1,"
			"\"ts\":" US_FORMAT ",\"args\":{\"cpu_us\":" US_FORMAT "}}",
			i ? ",\n" : "", rows[i].text ? rows[i].text : rows[i].room,
			US_ARGS(rows[i].ns - start), US_ARGS(rows[i].cpu_ns));
	for (unsigned i = 0; detail && i < detail->cpus; i++)
		vcpu_json(f, tl, detail, i, i + 2);
	for (unsigned i = 0; detail && i < detail->loops; i++)
		work_json(f, tl, detail, i, detail->cpus + 2 + i);
	fprintf(f, "\n],\n\"marks\":{");
	count = 0;
	for (int i = 0; i < MARK_COUNT; i++)
		if (tl->ns[i])
			fprintf(f, "%s\"%s\":{\"ns\":%llu,\"cpu_ns\":%llu}", count++ ? "," : "",
				mark_name((enum mark)i), (unsigned long long)(tl->ns[i] - start),
				(unsigned long long)tl->cpu_ns[i]);
	fprintf(f, "}");
	if (fill_rate(tl) > 0)
		fprintf(f, ",\n\"populate\":{\"bytes\":%llu,\"bytes_per_second\":%.0f}",
			(unsigned long long)tl->populated_bytes, fill_rate(tl));
	fprintf(f, "}\n");
	return timeline_flush(f, &out, &len, fd);
}
