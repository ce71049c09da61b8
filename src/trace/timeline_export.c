/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/timeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static const char *row_text(const struct timeline_row *row)
{
	return row->text ? row->text : row->room;
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

/* Milliseconds with three decimals, rounded. */
static void put_ms(struct timeline_out *out, uint64_t ns)
{
	timeline_put_milli(out, (ns + 500) / 1000, 12);
	timeline_put(out, " ");
}

int timeline_text(const struct timeline *tl, int fd)
{
	struct timeline_row rows[TIMELINE_ROWS_MAX];
	uint64_t start = tl->ns[MARK_EXEC], last = start;
	size_t count = timeline_rows(tl, rows);
	struct timeline_out out = {0};

	timeline_put(&out, "          ms          +ms       CPU ms  reached\n");
	for (size_t i = 0; i < count; i++) {
		put_ms(&out, rows[i].ns - start);
		put_ms(&out, rows[i].ns - last);
		put_ms(&out, rows[i].cpu_ns);
		timeline_put(&out, " ");
		timeline_put(&out, row_text(&rows[i]));
		timeline_put(&out, "\n");
		last = rows[i].ns;
	}
	if (!tl->exec_measured)
		timeline_put(&out, "(exec: derived from the CPU time used before main)\n");
	if (tl->event_count > TRACE_EVENTS_MAX)
		timeline_putf(&out, "(only the first %d trace-port writes were kept)\n",
			TRACE_EVENTS_MAX);
	return timeline_put_end(&out, fd);
}

/* The name of a track. */
static void track_json(struct timeline_out *out, unsigned tid, const char *name, unsigned index)
{
	timeline_putf(out,
		",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%u,"
		"\"args\":{\"name\":\"%s %u\"}}",
		tid, name, index);
}

static void span_json(
	struct timeline_out *out, unsigned tid, const char *name, uint64_t from_ns, uint64_t ns)
{
	timeline_put(out, ",\n{\"name\":\"");
	timeline_put(out, name);
	timeline_put(out, "\",\"ph\":\"X\",\"pid\":1,\"tid\":");
	timeline_put_num(out, tid, 0);
	timeline_put(out, ",\"ts\":");
	timeline_put_milli(out, from_ns, 0);
	timeline_put(out, ",\"dur\":");
	timeline_put_milli(out, ns, 0);
	timeline_put(out, "}");
}

/* What a vCPU did: in the guest, and the handling of each exit, which is a device's work. */
static void vcpu_json(struct timeline_out *out, const struct timeline *tl,
	const struct timeline_detail *detail, unsigned index, unsigned tid)
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

	track_json(out, tid, "vCPU", index);
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
			span_json(out, tid, "guest", entered - start, record->left_ns - entered);
		span_json(out, tid, text, record->left_ns - start, record->handled_ns);
		entered = record->left_ns + record->handled_ns;
	}
	if (dropped) {
		timeline_putf(out,
			",\n{\"name\":\"%llu exits more\",\"ph\":\"i\",\"s\":\"t\",\"pid\":1,"
			"\"tid\":%u,\"ts\":",
			(unsigned long long)dropped, tid);
		timeline_put_milli(out, entered - start, 0);
		timeline_put(out, "}");
	}
}

/* What a loop's thread did for devices. */
static void work_json(struct timeline_out *out, const struct timeline *tl,
	const struct timeline_detail *detail, unsigned index, unsigned tid)
{
	const struct exit_record *records;
	uint64_t dropped;
	uint32_t count = exits_records(detail->work, index, &records, &dropped);

	track_json(out, tid, "loop", index);
	for (uint32_t i = 0; i < count; i++) {
		char text[40];

		if (records[i].address)
			snprintf(text, sizeof(text), "descriptor %llu",
				(unsigned long long)records[i].address);
		else
			snprintf(text, sizeof(text), "timer");
		span_json(out, tid, text, records[i].left_ns - tl->ns[MARK_EXEC],
			records[i].handled_ns);
	}
}

static void row_json(struct timeline_out *out, const struct timeline_row *row, uint64_t start_ns)
{
	timeline_put(out, "{\"name\":\"");
	timeline_put(out, row_text(row));
	timeline_put(out, "\",\"ph\":\"i\",\"s\":\"g\",\"pid\":1,\"tid\":1,\"ts\":");
	timeline_put_milli(out, row->ns - start_ns, 0);
	timeline_put(out, ",\"args\":{\"cpu_us\":");
	timeline_put_milli(out, row->cpu_ns, 0);
	timeline_put(out, "}}");
}

static void marks_json(struct timeline_out *out, const struct timeline *tl)
{
	const char *before = "\"";

	for (int i = 0; i < MARK_COUNT; i++) {
		if (!tl->ns[i])
			continue;
		timeline_put(out, before);
		timeline_put(out, mark_name((enum mark)i));
		timeline_put(out, "\":{\"ns\":");
		timeline_put_num(out, tl->ns[i] - tl->ns[MARK_EXEC], 0);
		timeline_put(out, ",\"cpu_ns\":");
		timeline_put_num(out, tl->cpu_ns[i], 0);
		timeline_put(out, "}");
		before = ",\"";
	}
}

int timeline_json(const struct timeline *tl, const struct timeline_detail *detail, int fd)
{
	struct timeline_row rows[TIMELINE_ROWS_MAX];
	size_t count = timeline_rows(tl, rows);
	struct timeline_out out = {0};

	timeline_put(&out, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"exec\":\"");
	timeline_put(&out, tl->exec_measured ? "measured" : "derived");
	timeline_put(&out, "\"},\n\"traceEvents\":[\n");
	for (size_t i = 0; i < count; i++) {
		timeline_put(&out, i ? ",\n" : "");
		row_json(&out, &rows[i], tl->ns[MARK_EXEC]);
	}
	for (unsigned i = 0; detail && i < detail->cpus; i++)
		vcpu_json(&out, tl, detail, i, i + 2);
	for (unsigned i = 0; detail && i < detail->loops; i++)
		work_json(&out, tl, detail, i, detail->cpus + 2 + i);
	timeline_put(&out, "\n],\n\"marks\":{");
	marks_json(&out, tl);
	timeline_put(&out, "}");
	if (fill_rate(tl) > 0)
		timeline_putf(&out, ",\n\"populate\":{\"bytes\":%llu,\"bytes_per_second\":%.0f}",
			(unsigned long long)tl->populated_bytes, fill_rate(tl));
	timeline_put(&out, "}\n");
	return timeline_put_end(&out, fd);
}
