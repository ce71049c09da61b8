/* SPDX-License-Identifier: Apache-2.0 */
/* kvick bench pool: VMs that lease their memory, beside others. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench_marks.h"
#include "cli/bench_out.h"
#include "cli/bench_pool.h"
#include "pool/client.h"
#include "trace/timeline.h"

#define LIMIT_NS    200000000000ULL
#define SMALL_BYTES (128 * MIB)

/* The guest writes from here on: above its image. */
#define WRITE_START (16 * MIB)
#define HOLE_START  (3 * GIB)
#define HOLE_END    (4 * GIB)

static const struct {
	const char *name, *json;
	unsigned part; /* its memory is the pool's, divided by that; 0: SMALL_BYTES */
	bool leased;
} start_kinds[BENCH_STARTS] = {
	[BENCH_START_SMALL] = {"128M, anonymous", "anon_128m", 0, false},
	[BENCH_START_ANON] = {"as the lease, anonymous", "anon", 1, false},
	[BENCH_START_LEASE] = {"leased", "lease", 1, true},
	[BENCH_START_HALF] = {"half of it, leased", "lease_half", 2, true},
	[BENCH_START_QUARTER] = {"a quarter, leased", "lease_quarter", 4, true},
	[BENCH_START_EIGHTH] = {"an eighth, leased", "lease_eighth", 8, true},
};

static const struct {
	const char *name, *json, *keys;
} write_names[BENCH_WRITES] = {
	[BENCH_WRITE_ANON] = {"anonymous", "anon", "thp=off"},
	[BENCH_WRITE_LEASE] = {"leased", "lease", "backing=pool:"},
	[BENCH_WRITE_MAPPED] = {"leased, populate=full", "lease_mapped",
		"populate=full,backing=pool:"},
};

static const struct {
	const char *name, *json;
	/* Which pages: one in @stride, of the first 1/@part of all. */
	unsigned stride, part;
} left_names[BENCH_LEFTS] = {
	[BENCH_LEFT_ALL] = {"all of it", "all", 1, 1},
	[BENCH_LEFT_1PCT] = {"1 %, scattered", "1pct", 100, 1},
	[BENCH_LEFT_PIECE] = {"1 %, in one piece", "1pct_piece", 1, 100},
};

int bench_vms_prepare(struct bench_vms *vms, uint64_t bytes, struct kv_err *err)
{
	int r = bench_self(vms->self, err);

	vms->bytes = bytes;
	if (r < 0)
		return r;
	r = bench_locate(vms->signal, sizeof(vms->signal), "guest/flat/signal.pvh.elf",
		"signal.pvh.elf", err);
	if (!r)
		r = bench_locate(vms->worker, sizeof(vms->worker), "guest/flat/worker.pvh.elf",
			"worker.pvh.elf", err);
	if (!r)
		r = bench_dir_make(vms->dir, err);
	if (!r)
		snprintf(vms->timeline, sizeof(vms->timeline), "%s/timeline.json", vms->dir);
	return r;
}

static void samples_free(struct bench_samples *const *samples, size_t count)
{
	for (size_t i = 0; i < count; i++)
		bench_free(samples[i]);
}

void bench_vms_free(struct bench_vms *vms)
{
	for (unsigned i = 0; i < BENCH_STARTS; i++)
		samples_free(
			(struct bench_samples *[]){&vms->starts[i].boot_ms, &vms->starts[i].less_ms,
				&vms->starts[i].wall_ms, &vms->starts[i].cpu_ms,
				&vms->starts[i].boot_x, &vms->starts[i].less_x},
			6);
	for (unsigned i = 0; i < BENCH_WRITES; i++)
		samples_free(
			(struct bench_samples *[]){&vms->writes[i].minor, &vms->writes[i].major,
				&vms->writes[i].allocated, &vms->writes[i].us_page},
			4);
	for (unsigned i = 0; i < BENCH_LEFTS; i++)
		samples_free(
			(struct bench_samples *[]){&vms->clean_ms[i], &vms->clean_cpu_ms[i]}, 2);
	if (vms->dir[0]) {
		unlink(vms->timeline);
		rmdir(vms->dir);
	}
}

static int vm_run(struct bench_run *run, char *const *argv, const char *memory, struct kv_err *err)
{
	int r = bench_spawn(run, argv, LIMIT_NS);

	if (r == -EINTR)
		return err_set(err, r, "interrupted");
	if (!r && run->status)
		r = -EIO;
	return r < 0 ? err_set(err, r, "kvick run --memory %s: %s", memory, err_text(r)) : 0;
}

static int start_note(struct bench_vms *vms, enum bench_start kind, const struct bench_run *run)
{
	struct bench_marks marks;
	int r = bench_marks_read(&marks, vms->timeline);
	double boot = bench_span_ms(&marks, MARK_EXEC, MARK_BOOT);
	double kvm = bench_span_ms(&marks, MARK_MEMORY, MARK_VM);

	if (!r && boot <= 0)
		r = -EIO;
	if (!r)
		r = bench_add(&vms->starts[kind].boot_ms, boot);
	if (!r)
		r = bench_add(&vms->starts[kind].less_ms, boot - kvm);
	if (!r)
		r = bench_add(&vms->starts[kind].wall_ms, (double)run->wall_ns / 1e6);
	if (!r)
		r = bench_add(&vms->starts[kind].cpu_ms, (double)run->cpu_ns / 1e6);
	return r;
}

/* Of two figures, what was measured last. */
static double last_ratio(const struct bench_samples *a, const struct bench_samples *b)
{
	return a->values[a->count - 1] / b->values[b->count - 1];
}

/* Starts of one round. */
static int starts_compare(struct bench_vms *vms)
{
	int r = 0;

	for (unsigned i = 0; !r && i < BENCH_STARTS; i++) {
		if (!vms->starts[i].boot_ms.count)
			continue;
		r = bench_add(&vms->starts[i].boot_x,
			last_ratio(&vms->starts[i].boot_ms, &vms->starts[0].boot_ms));
		if (!r)
			r = bench_add(&vms->starts[i].less_x,
				last_ratio(&vms->starts[i].less_ms, &vms->starts[0].less_ms));
	}
	return r;
}

int bench_vms_start(struct bench_vms *vms, bool counted, struct kv_err *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < BENCH_STARTS; i++) {
		unsigned kind = bench_turn(vms->round, i, BENCH_STARTS);
		unsigned part = start_kinds[kind].part;
		uint64_t bytes = part ? vms->bytes / part : SMALL_BYTES;
		bool leased = start_kinds[kind].leased;
		char size[24], memory[160];
		char *argv[] = {vms->self, "run", vms->signal, "--memory", memory, "--timeline",
			vms->timeline, NULL};
		struct bench_run run;
		struct pool_info info;

		snprintf(memory, sizeof(memory), "%s%s%s", size_format(bytes, size, sizeof(size)),
			leased ? ",backing=pool:" : "", leased ? vms->socket : "");
		/* Parts that are too small, or not of whole chunks, are left out. */
		if (part > 1 && (bytes < SMALL_BYTES || bytes % vms->chunk_bytes))
			continue;
		/* No start has the cleaning beside it. */
		r = bench_pool_settle(vms->socket, vms->bytes, &info, NULL, err);
		if (!r)
			r = vm_run(&run, argv, memory, err);
		if (!r && counted && start_note(vms, (enum bench_start)kind, &run) < 0)
			r = err_set(err, -EIO, "%s: cannot be read", vms->timeline);
	}
	vms->round++;
	if (!r && counted && starts_compare(vms) < 0)
		r = err_set(err, -ENOMEM, "out of memory");
	return r;
}

/*
 * The guest's argument for every @stride-th page of what it may write of @bytes of RAM. Returns how
 * many it writes.
 */
static uint64_t worker_arg(char *buf, size_t buf_bytes, uint64_t bytes, unsigned stride)
{
	uint64_t low = (bytes < HOLE_START ? bytes : HOLE_START) - WRITE_START;
	uint64_t high = bytes > HOLE_START ? bytes - HOLE_START : 0;
	uint64_t low_pages = low / PAGE_BYTES / stride, high_pages = high / PAGE_BYTES / stride;
	int n = snprintf(buf, buf_bytes, "worker=0x%llx,%" PRIu64 ",%u",
		(unsigned long long)WRITE_START, low_pages, stride);

	if (high_pages)
		snprintf(buf + n, buf_bytes - (size_t)n, ",0x%llx,%" PRIu64 ",%u",
			(unsigned long long)HOLE_END, high_pages, stride);
	return low_pages + high_pages;
}

/* Pages that the kernel has given to anybody since the host's start. */
static uint64_t pages_given(void)
{
	MEM_SCOPED char *text = NULL;
	uint64_t sum = 0;

	if (file_read_all("/proc/vmstat", 64 * KIB, &text) < 0)
		return 0;
	for (const char *at = text; (at = strstr(at, "\npgalloc_")); at++) {
		const char *space = strchr(at, ' ');

		sum += space ? strtoull(space, NULL, 10) : 0;
	}
	return sum;
}

/* What a VM needed. */
struct needs {
	struct bench_run run;
	uint64_t given;
};

static int needs_measure(struct bench_vms *vms, const char *guest, const char *keys, char *append,
	struct needs *needs, struct kv_err *err)
{
	bool leased = strstr(keys, "pool:");
	char size[24], memory[200];
	char *argv[] = {
		vms->self, "run", (char *)guest, "--memory", memory, "--append", append, NULL};
	int r;

	snprintf(memory, sizeof(memory), "%s,%s%s", size_format(vms->bytes, size, sizeof(size)),
		keys, leased ? vms->socket : "");
	needs->given = pages_given();
	r = vm_run(&needs->run, argv, memory, err);
	needs->given = pages_given() - needs->given;
	return r;
}

static double beyond(uint64_t with, uint64_t without)
{
	return with > without ? (double)(with - without) : 0;
}

static int write_round(struct bench_vms *vms, enum bench_write kind, struct kv_err *err)
{
	const char *keys = write_names[kind].keys;
	struct needs idle, busy;
	struct pool_info info;
	char append[160], none[] = "";
	int r;

	vms->pages = worker_arg(append, sizeof(append), vms->bytes, 1);
	r = needs_measure(vms, vms->signal, keys, none, &idle, err);
	if (!r)
		r = bench_pool_settle(vms->socket, vms->bytes, &info, NULL, err);
	if (!r)
		r = needs_measure(vms, vms->worker, keys, append, &busy, err);
	if (!r)
		r = bench_pool_settle(vms->socket, vms->bytes, &info, NULL, err);
	if (r)
		return r;
	r |= bench_add(
		&vms->writes[kind].minor, beyond(busy.run.minor_faults, idle.run.minor_faults));
	r |= bench_add(
		&vms->writes[kind].major, beyond(busy.run.major_faults, idle.run.major_faults));
	r |= bench_add(&vms->writes[kind].allocated, beyond(busy.given, idle.given));
	r |= bench_add(&vms->writes[kind].us_page,
		beyond(busy.run.system_ns, idle.run.system_ns) / 1e3 / (double)vms->pages);
	return r < 0 ? err_set(err, -ENOMEM, "out of memory") : 0;
}

/* From the end of a VM that wrote every page, or one in a hundred, until all is zero again. */
static int clean_round(struct bench_vms *vms, enum bench_left left, struct kv_err *err)
{
	struct pool_info before, after;
	struct needs needs;
	uint64_t ended, done = 0;
	char append[160];
	int r = bench_pool_settle(vms->socket, vms->bytes, &before, NULL, err);

	worker_arg(append, sizeof(append),
		WRITE_START + (vms->bytes - WRITE_START) / left_names[left].part,
		left_names[left].stride);
	if (!r)
		r = needs_measure(
			vms, vms->worker, write_names[BENCH_WRITE_LEASE].keys, append, &needs, err);
	ended = clock_ns();
	if (!r)
		r = bench_pool_settle(vms->socket, vms->bytes, &after, &done, err);
	if (r)
		return r;
	r |= bench_add(&vms->clean_ms[left], (double)(done - ended) / 1e6);
	r |= bench_add(
		&vms->clean_cpu_ms[left], (double)(after.cleaned_ns - before.cleaned_ns) / 1e6);
	return r < 0 ? err_set(err, -ENOMEM, "out of memory") : 0;
}

int bench_vms_write(struct bench_vms *vms, struct kv_err *err)
{
	struct pool_info info;
	int r = bench_pool_settle(vms->socket, vms->bytes, &info, NULL, err);

	for (unsigned kind = 0; !r && kind < BENCH_WRITES; kind++)
		r = write_round(vms, (enum bench_write)kind, err);
	for (unsigned left = 0; !r && left < BENCH_LEFTS; left++)
		r = clean_round(vms, (enum bench_left)left, err);
	return r;
}

static double ratio(const struct bench_samples *a, const struct bench_samples *b, double share)
{
	double by = bench_rank(b, share);

	return by > 0 ? bench_rank(a, share) / by : 0;
}

static void starts_print(struct bench_vms *vms)
{
	printf("VM start, ms: min, median (x: by the first row's; last: median of each round's)\n"
	       "  %-24s %-34s %-34s %-29s\n",
		"", "exec to boot byte", "without KVM's VM and slots", "CPU time, exec to exit");
	for (unsigned i = 0; i < BENCH_STARTS; i++) {
		struct bench_samples *columns[] = {
			&vms->starts[i].boot_ms, &vms->starts[i].less_ms, &vms->starts[i].cpu_ms};
		struct bench_samples *first[] = {
			&vms->starts[0].boot_ms, &vms->starts[0].less_ms, &vms->starts[0].cpu_ms};
		struct bench_samples *paired[] = {
			&vms->starts[i].boot_x, &vms->starts[i].less_x, NULL};

		if (!columns[0]->count)
			continue;
		printf("  %-24s", start_kinds[i].name);
		for (unsigned c = 0; c < ARRAY_LEN(columns); c++) {
			printf(" %6.2f %6.2f x %4.2f %4.2f", bench_rank(columns[c], 0),
				bench_rank(columns[c], 0.5), ratio(columns[c], first[c], 0),
				ratio(columns[c], first[c], 0.5));
			if (paired[c])
				printf(" %4.2f", bench_rank(paired[c], 0.5));
			printf("   ");
		}
		printf("\n");
	}
}

static void writes_print(struct bench_vms *vms)
{
	char size[24];

	printf("a VM of %s writes %" PRIu64 " pages from user mode (medians)\n"
	       "  %-24s %12s %12s %22s %14s\n",
		size_format(vms->bytes, size, sizeof(size)), vms->pages, "", "minor faults",
		"major faults", "pages given (host)", "system us/page");
	for (unsigned i = 0; i < BENCH_WRITES; i++)
		printf("  %-24s %12.0f %12.0f %22.0f %14.2f\n", write_names[i].name,
			bench_rank(&vms->writes[i].minor, 0.5),
			bench_rank(&vms->writes[i].major, 0.5),
			bench_rank(&vms->writes[i].allocated, 0.5),
			bench_rank(&vms->writes[i].us_page, 0.5));
	printf("a VM has ended: until all is free, ms (processor time of cleaning)\n");
	for (unsigned i = 0; i < BENCH_LEFTS; i++)
		printf("  %-24s %9.2f (%9.2f): %5.1f times faster (%5.1f)\n", left_names[i].name,
			bench_rank(&vms->clean_ms[i], 0.5), bench_rank(&vms->clean_cpu_ms[i], 0.5),
			ratio(&vms->clean_ms[0], &vms->clean_ms[i], 0.5),
			ratio(&vms->clean_cpu_ms[0], &vms->clean_cpu_ms[i], 0.5));
}

void bench_vms_print(struct bench_vms *vms)
{
	if (vms->starts[0].boot_ms.count)
		starts_print(vms);
	if (vms->pages)
		writes_print(vms);
}

static json_t *starts_json(struct bench_vms *vms)
{
	json_t *starts = json_object();

	for (unsigned i = 0; i < BENCH_STARTS; i++)
		if (vms->starts[i].boot_ms.count)
			json_object_set_new(starts, start_kinds[i].json,
				json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "boot_ms",
					bench_json(&vms->starts[i].boot_ms), "boot_x",
					bench_json(&vms->starts[i].boot_x), "less_kvm_ms",
					bench_json(&vms->starts[i].less_ms), "less_kvm_x",
					bench_json(&vms->starts[i].less_x), "wall_ms",
					bench_json(&vms->starts[i].wall_ms), "cpu_ms",
					bench_json(&vms->starts[i].cpu_ms)));
	return starts;
}

/* Add what guests that write needed, and what cleaning after them took, to @root. */
static void writes_json(struct bench_vms *vms, json_t *root)
{
	json_t *writes = json_object(), *lefts = json_object();

	for (unsigned i = 0; i < BENCH_WRITES; i++)
		json_object_set_new(writes, write_names[i].json,
			json_pack("{s:o, s:o, s:o, s:o}", "minor_faults",
				bench_json(&vms->writes[i].minor), "major_faults",
				bench_json(&vms->writes[i].major), "pages_given",
				bench_json(&vms->writes[i].allocated), "us_page",
				bench_json(&vms->writes[i].us_page)));
	for (unsigned i = 0; i < BENCH_LEFTS; i++)
		json_object_set_new(lefts, left_names[i].json,
			json_pack("{s:o, s:o}", "ms", bench_json(&vms->clean_ms[i]), "cpu_ms",
				bench_json(&vms->clean_cpu_ms[i])));
	json_object_set_new(root, "pages", json_integer((json_int_t)vms->pages));
	json_object_set_new(root, "write", writes);
	json_object_set_new(root, "clean", lefts);
}

json_t *bench_vms_json(struct bench_vms *vms)
{
	json_t *root = json_object();

	if (vms->starts[0].boot_ms.count)
		json_object_set_new(root, "start", starts_json(vms));
	if (vms->pages)
		writes_json(vms, root);
	return root;
}
