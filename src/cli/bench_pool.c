/* SPDX-License-Identifier: Apache-2.0 */
/* kvick bench pool: how long a lease takes, and how fast what comes back is zero again. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_out.h"
#include "cli/bench_pool.h"
#include "cli/bench_util.h"
#include "cli/cli.h"
#include "pool/clear.h"
#include "pool/client.h"
#include "pool/path.h"
#include "pool/server.h"
#include "trace/timeline.h"

#define SIZES_MAX 16
#define WARM_UP	  2

/* That clean. */
#define THREADS_MAX 64

/* What the guests that write need. */
#define VM_MIN_BYTES (32 * MIB)

enum figure {
	FIG_MEMSET, /* present memory, GB/s */
	FIG_STREAM, /* the same by streaming stores */
	FIG_STREAM_WALL,
	FIG_KERNEL,    /* fresh memory by MADV_POPULATE_WRITE, the bare loop */
	FIG_CLEAN,     /* lease ended to all of it free again: in place */
	FIG_CLEAN_CPU, /* the same, by processor time */
	FIG_RENEW,     /* the same, by the kernel */
	FIG_CLEAN_CPU_MS,
	FIG_REPORT_CPU_MS,
	FIG_REPORT_WALL, /* 1 % of pages written at random and reported, ms */
	FIG_FETCH_WALL,	 /* 1 % of the chunks fetched, ms: renewed */
	FIG_CLEAN_WALL,
	FIG_RENEW_WALL,
	FIG_COUNT,
};

static const struct {
	const char *name, *json;
} figures[FIG_COUNT] = {
	[FIG_MEMSET] = {"memset of present memory, GB/s", "memset_gb_s"},
	[FIG_STREAM] = {"streaming stores, GB/s", "stream_gb_s"},
	[FIG_STREAM_WALL] = {"  the same, by the clock, GB/s", "stream_wall_gb_s"},
	[FIG_KERNEL] = {"kernel, fresh pages, GB/s", "kernel_gb_s"},
	[FIG_CLEAN] = {"pool, cleaned in place, by the clock", "clean_gb_s"},
	[FIG_CLEAN_CPU] = {"  the same, of processor time, GB/s", "clean_cpu_gb_s"},
	[FIG_RENEW] = {"pool, renewed, by the clock, GB/s", "renew_gb_s"},
	[FIG_CLEAN_WALL] = {"whole lease cleaned in place, ms", "clean_ms"},
	[FIG_REPORT_WALL] = {"  1 % written and reported, ms", "clean_1pct_ms"},
	[FIG_CLEAN_CPU_MS] = {"  whole lease, processor time, ms", "clean_cpu_ms"},
	[FIG_REPORT_CPU_MS] = {"  1 % written, processor time, ms", "clean_1pct_cpu_ms"},
	[FIG_RENEW_WALL] = {"whole lease renewed, ms", "renew_ms"},
	[FIG_FETCH_WALL] = {"  1 % of the chunks fetched, ms", "renew_1pct_ms"},
};

struct bench {
	struct pool_config config;
	uint64_t size_bytes;
	unsigned rounds;
	bool json;
	bool chunks, starts, writes; /* what is measured */
	uid_t uid;
	cpu_set_t cpus; /* that this process may use */

	char dir[32], path[64];
	struct loop *loop;
	struct pool_server *server;
	pthread_t thread;

	struct bench_samples samples[FIG_COUNT];
	unsigned size_count;
	uint64_t sizes[SIZES_MAX];
	struct bench_samples lease_us[SIZES_MAX], map_us[SIZES_MAX];
	struct bench_vms vms;
};

static void *loop_thread(void *ctx)
{
	loop_run(ctx);
	return NULL;
}

static int pool_stop(struct bench *bench)
{
	char lock[80];

	loop_stop(bench->loop);
	pthread_join(bench->thread, NULL);
	pool_server_destroy(bench->server);
	loop_destroy(bench->loop);
	unlink(bench->path);
	snprintf(lock, sizeof(lock), "%s.lock", bench->path);
	unlink(lock);
	return rmdir(bench->dir);
}

/* A server in a thread of this process, which trusts its own user or not. */
static int pool_start(struct bench *bench, bool trust, struct kv_err *err)
{
	int fd, r;

	strcpy(bench->dir, "/tmp/kvick-bench-XXXXXX");
	if (!mkdtemp(bench->dir))
		return err_set(err, -errno, "%s: %s", bench->dir, err_text(errno));
	snprintf(bench->path, sizeof(bench->path), "%s/pool.sock", bench->dir);
	bench->uid = geteuid();
	bench->config.trust = &bench->uid;
	bench->config.trust_count = trust;
	r = loop_create(&bench->loop);
	if (r < 0)
		return err_set(err, r, "event loop: %s", err_text(r));
	fd = pool_listen(bench->path, 0, err);
	if (fd < 0)
		return fd;
	r = pool_server_create(&bench->server, &bench->config, fd, bench->loop, NULL, err);
	if (r < 0)
		return r;
	r = -pthread_create(&bench->thread, NULL, loop_thread, bench->loop);
	return r < 0 ? err_set(err, r, "thread: %s", err_text(r)) : 0;
}

/* Wait until the new pool has its memory. */
static int pool_filled(struct bench *bench, struct kv_err *err)
{
	struct pool_info info;
	int r;

	do {
		usleep(10000);
		r = pool_status(bench->path, &info, err);
	} while (!r && info.filling_chunks && !info.missing_chunks);
	if (!r && info.missing_chunks)
		r = err_set(err, -ENOMEM,
			"the host has too little free memory for the pool: take a smaller --size");
	return r;
}

int bench_pool_settle(const char *socket, uint64_t bytes, struct pool_info *info, uint64_t *when,
	struct kv_err *err)
{
	struct pool_lease *lease;
	int r = pool_lease_with(&lease, socket, bytes, POOL_WAIT | POOL_LAZY, err);

	if (r < 0)
		return r;
	if (when)
		*when = clock_ns();
	pool_lease_end(lease);
	return pool_status(socket, info, err);
}

static int pool_settle(
	struct bench *bench, struct pool_info *info, uint64_t *when, struct kv_err *err)
{
	return bench_pool_settle(bench->path, bench->size_bytes, info, when, err);
}

/* Map a lease's chunks one behind the other, as a machine's memory is. */
static char *lease_map(const struct pool_lease *lease, uint64_t *bytes)
{
	unsigned count;
	const struct pool_chunk *chunks = pool_chunks(lease, &count);
	uint64_t each = chunks[0].bytes;
	char *at = mmap(NULL, count * each, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*bytes = count * each;
	for (unsigned i = 0; at != MAP_FAILED && i < count; i++)
		if (chunks[i].fd >= 0 &&
			mmap(at + i * each, each, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				chunks[i].fd, 0) == MAP_FAILED)
			return MAP_FAILED;
	return at;
}

static double gb_s(uint64_t bytes, uint64_t ns)
{
	return (double)bytes / (double)(ns ? ns : 1);
}

/* Processor time, as the pool counts its own: others use the machine, too. */
static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A thread's part of what the machine itself does. */
struct raw_slice {
	pthread_t thread;
	int (*work)(char *at, uint64_t bytes);
	char *at;
	uint64_t bytes, cpu_ns, start_ns, end_ns;
	int result;
};

struct raw_rates {
	double cpu, wall;
};

static int work_populate(char *at, uint64_t bytes)
{
	return madvise(at, bytes, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

static int work_memset(char *at, uint64_t bytes)
{
	memset(at, 0, bytes);
	/* The compiler must not see that nobody reads it. */
	__asm__ volatile("" : : "r"(at) : "memory");
	return 0;
}

static int work_stream(char *at, uint64_t bytes)
{
	pool_clear(at, bytes);
	pool_clear_end();
	return 0;
}

static void *raw_thread(void *ctx)
{
	struct raw_slice *slice = ctx;
	uint64_t start = cpu_ns();

	slice->start_ns = clock_ns();
	slice->result = slice->work(slice->at, slice->bytes);
	slice->end_ns = clock_ns();
	slice->cpu_ns = cpu_ns() - start;
	return NULL;
}

/* What so much processor time of all threads together is as a rate of the threads side by side. */
static double rate_of(const struct bench *bench, uint64_t bytes, uint64_t ns)
{
	unsigned cpus = (unsigned)CPU_COUNT(&bench->cpus), threads = bench->config.threads;

	return gb_s(bytes, ns) * (threads < cpus ? threads : cpus);
}

/* Have as many threads as the pool cleans with do @work on equal parts of the memory at @at. */
static int raw_run(const struct bench *bench, char *at, const cpu_set_t *cpus,
	int (*work)(char *at, uint64_t bytes), struct raw_rates *rates)
{
	struct raw_slice slices[THREADS_MAX];
	uint64_t each = align_down(bench->size_bytes / bench->config.threads, PAGE_BYTES);
	uint64_t first = UINT64_MAX, last = 0, used = 0, done = 0;
	unsigned started = 0;
	pthread_attr_t attr;
	int r = 0;

	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(*cpus), cpus);
	while (!r && started < bench->config.threads) {
		bool rest = started + 1 == bench->config.threads;
		uint64_t bytes = rest ? bench->size_bytes - done : each;

		slices[started] = (struct raw_slice){.work = work, .at = at + done, .bytes = bytes};
		done += bytes;
		r = -pthread_create(&slices[started].thread, &attr, raw_thread, &slices[started]);
		started += !r;
	}
	pthread_attr_destroy(&attr);
	for (unsigned i = 0; i < started; i++) {
		pthread_join(slices[i].thread, NULL);
		r = r ? r : slices[i].result;
		used += slices[i].cpu_ns;
		first = slices[i].start_ns < first ? slices[i].start_ns : first;
		last = slices[i].end_ns > last ? slices[i].end_ns : last;
	}
	rates->cpu = rate_of(bench, bench->size_bytes, used);
	rates->wall = gb_s(bench->size_bytes, last - first);
	return r;
}

/*
 * Streaming stores over memory as the pool's threads meet it: one CPU, another one if there are
 * enough, has just written to every page, and its cache still has those lines.
 */
static int stream_measure(const struct bench *bench, char *at, struct raw_rates *rates)
{
	cpu_set_t here, others = bench->cpus;
	uint64_t bytes = bench->size_bytes;
	int cpu = sched_getcpu(), r;

	if (cpu < 0)
		return -errno;
	CPU_ZERO(&here);
	CPU_SET(cpu, &here);
	if ((unsigned)CPU_COUNT(&others) > bench->config.threads)
		CPU_CLR(cpu, &others);
	sched_setaffinity(0, sizeof(here), &here);
	work_stream(at, bytes);
	for (uint64_t i = 0; i < bytes; i += PAGE_BYTES)
		at[i] = 1;
	r = raw_run(bench, at, &others, work_stream, rates);
	sched_setaffinity(0, sizeof(bench->cpus), &bench->cpus);
	return r;
}

/* What the machine itself does, with as many threads. */
static int raw_round(struct bench *bench, struct kv_err *err)
{
	uint64_t bytes = bench->size_bytes;
	struct raw_rates kernel = {0}, set = {0}, stream = {0};
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int r;

	if (at == MAP_FAILED)
		return err_set(err, -errno, "memory to compare with: %s", err_text(errno));
	r = raw_run(bench, at, &bench->cpus, work_populate, &kernel);
	if (!r)
		r = raw_run(bench, at, &bench->cpus, work_memset, &set);
	if (!r)
		r = stream_measure(bench, at, &stream);
	munmap(at, bytes);
	if (r < 0)
		return err_set(err, r, "memory to compare with: %s", err_text(r));
	r |= bench_add(&bench->samples[FIG_KERNEL], kernel.cpu);
	r |= bench_add(&bench->samples[FIG_MEMSET], set.cpu);
	r |= bench_add(&bench->samples[FIG_STREAM], stream.cpu);
	r |= bench_add(&bench->samples[FIG_STREAM_WALL], stream.wall);
	return r < 0 ? err_set(err, -ENOMEM, "out of memory") : 0;
}

/* Write every page of the lease, or one in a hundred, at random and reported. */
static int lease_write(struct pool_lease *lease, char *at, uint64_t bytes, bool some)
{
	unsigned count;
	uint64_t pages = pool_chunks(lease, &count)[0].bytes / PAGE_BYTES;
	struct pool_span spans[POOL_SPANS_MAX];
	uint64_t seed = 88172645463325252ULL;

	if (!some) {
		for (uint64_t i = 0; i < bytes; i += PAGE_BYTES)
			at[i] = 1;
		return 0;
	}
	for (unsigned chunk = 0; chunk < count; chunk++) {
		unsigned used = 0;
		int r = 0;

		for (uint64_t n = 0; !r && n < pages / 100; n++) {
			/* xorshift64 (Marsaglia 2003) */
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			spans[used] = (struct pool_span){(uint32_t)(seed % pages), 1};
			at[(chunk * pages + spans[used].page) * PAGE_BYTES] = 1;
			if (++used == POOL_SPANS_MAX) {
				r = pool_wrote(lease, chunk, spans, used);
				used = 0;
			}
		}
		if (!r && used)
			r = pool_wrote(lease, chunk, spans, used);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Lease everything, write to it, end the lease; *@ns is from there to when all is free again. With
 * @some, only 1 %: reported where the pool trusts us, else by fetching only so many chunks.
 */
static int return_round(
	struct bench *bench, bool trust, bool some, uint64_t *ns, struct kv_err *err)
{
	bool lazy = some && !trust;
	struct pool_lease *lease;
	struct pool_info info;
	uint64_t bytes, start, end = 0;
	unsigned count;
	char *at;
	int r = pool_lease_with(
		&lease, bench->path, bench->size_bytes, POOL_WAIT | (lazy ? POOL_LAZY : 0), err);

	if (r < 0)
		return r;
	pool_chunks(lease, &count);
	for (unsigned i = 0; lazy && !r && i < (count + 99) / 100; i++)
		r = pool_fetch(lease, i, err);
	at = r < 0 ? MAP_FAILED : lease_map(lease, &bytes);
	if (at == MAP_FAILED) {
		pool_lease_end(lease);
		return r < 0 ? r : err_set(err, -ENOMEM, "mmap: %s", err_text(errno));
	}
	if (lazy)
		r = lease_write(lease, at, (count + 99) / 100 * (bytes / count), false);
	else
		r = lease_write(lease, at, bytes, some);
	munmap(at, bytes);
	start = clock_ns();
	if (some && trust && !r)
		pool_lease_report(lease);
	else
		pool_lease_end(lease);
	if (r < 0)
		return err_set(err, r, "report: %s", err_text(r));
	r = pool_settle(bench, &info, &end, err);
	*ns = end - start;
	return r;
}

static int mode_round(struct bench *bench, bool trust, struct kv_err *err)
{
	struct pool_info before = {0}, after = {0}, last = {0};
	uint64_t whole_ns = 0, part_ns = 0, bytes = bench->size_bytes;
	int r = pool_settle(bench, &before, NULL, err);

	if (!r)
		r = return_round(bench, trust, false, &whole_ns, err);
	if (!r)
		r = pool_settle(bench, &after, NULL, err);
	if (!r)
		r = return_round(bench, trust, true, &part_ns, err);
	if (!r)
		r = pool_settle(bench, &last, NULL, err);
	if (r < 0)
		return r;
	r |= bench_add(&bench->samples[trust ? FIG_CLEAN : FIG_RENEW], gb_s(bytes, whole_ns));
	r |= bench_add(
		&bench->samples[trust ? FIG_CLEAN_WALL : FIG_RENEW_WALL], (double)whole_ns / 1e6);
	r |= bench_add(
		&bench->samples[trust ? FIG_REPORT_WALL : FIG_FETCH_WALL], (double)part_ns / 1e6);
	if (trust) {
		uint64_t whole = after.cleaned_ns - before.cleaned_ns;
		uint64_t part = last.cleaned_ns - after.cleaned_ns;

		r |= bench_add(&bench->samples[FIG_CLEAN_CPU],
			rate_of(bench, after.cleaned_bytes - before.cleaned_bytes, whole));
		r |= bench_add(&bench->samples[FIG_CLEAN_CPU_MS], (double)whole / 1e6);
		r |= bench_add(&bench->samples[FIG_REPORT_CPU_MS], (double)part / 1e6);
	}
	return r < 0 ? err_set(err, -ENOMEM, "out of memory") : 0;
}

/* How long a machine's start waits for its memory: the lease, and mapping it. */
static int lease_round(struct bench *bench, unsigned size, struct kv_err *err)
{
	struct pool_lease *lease;
	struct pool_info info;
	uint64_t bytes, start, leased, mapped;
	char *at;
	int r = pool_lease_with(&lease, bench->path, 1, POOL_WAIT | POOL_LAZY, err);

	/* Once to warm up: the connection and the server's thread. */
	if (r < 0)
		return r;
	pool_lease_end(lease);
	r = pool_settle(bench, &info, NULL, err);
	if (r < 0)
		return r;
	start = clock_ns();
	r = pool_lease(&lease, bench->path, bench->sizes[size], true, err);
	if (r < 0)
		return r;
	leased = clock_ns();
	at = lease_map(lease, &bytes);
	mapped = clock_ns();
	if (at != MAP_FAILED)
		munmap(at, bytes);
	pool_lease_end(lease);
	if (at == MAP_FAILED || bench_add(&bench->lease_us[size], (double)(leased - start) / 1e3) ||
		bench_add(&bench->map_us[size], (double)(mapped - leased) / 1e3))
		return err_set(err, -ENOMEM, "out of memory");
	return pool_settle(bench, &info, NULL, err);
}

static int interrupted(struct kv_err *err)
{
	return bench_interrupted() ? err_set(err, -EINTR, "interrupted") : 0;
}

/* VMs that are started, and then VMs that write all they have, which takes longer. */
static int machines_run(struct bench *bench, struct kv_err *err)
{
	int r = 0;

	bench->vms.socket = bench->path;
	bench->vms.chunk_bytes = bench->config.chunk_bytes;
	for (unsigned round = 0; bench->starts && !r && round < bench->rounds + WARM_UP; round++)
		r = bench_vms_start(&bench->vms, round >= WARM_UP, err);
	for (unsigned round = 0; bench->writes && !r && round < (bench->rounds + 9) / 10; round++)
		r = bench_vms_write(&bench->vms, err);
	return r;
}

static int mode_run(struct bench *bench, bool trust, struct kv_err *err)
{
	int r = pool_start(bench, trust, err);

	if (r < 0)
		return r;
	r = pool_filled(bench, err);
	if (!r && trust)
		r = machines_run(bench, err);
	for (unsigned round = 0; !r && bench->chunks && round < bench->rounds; round++) {
		r = interrupted(err);
		if (r < 0)
			break;
		r = mode_round(bench, trust, err);
		/* Beside it, what the machine does at that very time. */
		if (!r && trust)
			r = raw_round(bench, err);
		for (unsigned size = 0; !r && trust && size < bench->size_count; size++)
			r = lease_round(bench, size, err);
	}
	pool_stop(bench);
	return r;
}

static double median(struct bench *bench, enum figure figure)
{
	return bench_rank(&bench->samples[figure], 0.5);
}

static void text_print(struct bench *bench)
{
	char size[24], chunk[24], page[24];

	printf("pool %s in chunks of %s, pages of %s, %u threads, %u rounds\n",
		size_format(bench->size_bytes, size, sizeof(size)),
		size_format(bench->config.chunk_bytes, chunk, sizeof(chunk)),
		size_format(bench->config.page_bytes, page, sizeof(page)), bench->config.threads,
		bench->rounds);
	if (bench->starts || bench->writes)
		bench_vms_print(&bench->vms);
	if (!bench->chunks)
		return;
	printf("  %-38s %9s %9s %9s\n", "", "min", "median", "p99");
	for (unsigned i = 0; i < FIG_COUNT; i++)
		printf("  %-38s %9.3f %9.3f %9.3f\n", figures[i].name,
			bench_rank(&bench->samples[i], 0), median(bench, i),
			bench_rank(&bench->samples[i], 0.99));
	printf("  cleaning against streaming stores: %.2f (by the clock: %.2f); 1 %% against all: "
	       "%.1f times faster (reported; processor time: %.1f), %.1f (fetched)\n",
		median(bench, FIG_CLEAN_CPU) / median(bench, FIG_STREAM),
		median(bench, FIG_CLEAN) / median(bench, FIG_STREAM_WALL),
		median(bench, FIG_CLEAN_WALL) / median(bench, FIG_REPORT_WALL),
		median(bench, FIG_CLEAN_CPU_MS) / median(bench, FIG_REPORT_CPU_MS),
		median(bench, FIG_RENEW_WALL) / median(bench, FIG_FETCH_WALL));
	for (unsigned i = 0; i < bench->size_count; i++)
		printf("  lease of %-6s %8.1f us (p99 %8.1f), mapping it %8.1f us\n",
			size_format(bench->sizes[i], size, sizeof(size)),
			bench_rank(&bench->lease_us[i], 0.5), bench_rank(&bench->lease_us[i], 0.99),
			bench_rank(&bench->map_us[i], 0.5));
}

/* Add what was measured of chunks and leases to @result. */
static void chunks_json(struct bench *bench, json_t *result)
{
	json_t *chunks = json_object(), *leases = json_array();

	for (unsigned i = 0; i < FIG_COUNT; i++)
		json_object_set_new(chunks, figures[i].json, bench_json(&bench->samples[i]));
	for (unsigned i = 0; i < bench->size_count; i++)
		json_array_append_new(
			leases, json_pack("{s:I, s:o, s:o}", "bytes", (json_int_t)bench->sizes[i],
					"lease_us", bench_json(&bench->lease_us[i]), "map_us",
					bench_json(&bench->map_us[i])));
	json_object_set_new(result, "chunks", chunks);
	json_object_set_new(result, "leases", leases);
}

static int json_print(struct bench *bench, const struct bench_noise *noise)
{
	json_t *result = json_pack("{s:I, s:I, s:I, s:i, s:i}", "size_bytes",
		(json_int_t)bench->size_bytes, "chunk_bytes", (json_int_t)bench->config.chunk_bytes,
		"page_bytes", (json_int_t)bench->config.page_bytes, "threads",
		(int)bench->config.threads, "rounds", (int)bench->rounds);

	if (bench->chunks)
		chunks_json(bench, result);
	if (bench->starts || bench->writes)
		json_object_set_new(result, "machines", bench_vms_json(&bench->vms));
	return bench_json_print("pool", noise, result);
}

static int size_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;
	uint64_t *to = &bench->size_bytes;
	int r;

	if (!strcmp(option->name, "chunk"))
		to = &bench->config.chunk_bytes;
	else if (!strcmp(option->name, "page-size"))
		to = &bench->config.page_bytes;
	r = cli_size(option->name, value, "64M", to, err);
	if (r < 0)
		return r;
	if (to == &bench->config.page_bytes && *to != PAGE_BYTES && *to != 2 * MIB && *to != GIB)
		return err_set(err, -EINVAL,
			"--page-size: \"%.40s\" is not allowed; give 4K, 2M or 1G", value);
	return *to ? 0
		   : err_set(err, -EINVAL, "--%s: \"%.40s\" is nothing; give a size such as 64M",
			     option->name, value);
}

static int count_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;
	bool threads = !strcmp(option->name, "threads");
	uint64_t n;

	if (uint_parse(value, 1, threads ? THREADS_MAX : 10000, &n) < 0)
		return err_set(err, -EINVAL, "--%s %s: 1 to %d", option->name, value,
			threads ? THREADS_MAX : 10000);
	if (threads)
		bench->config.threads = (unsigned)n;
	else
		bench->rounds = (unsigned)n;
	return 0;
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct bench *)ctx)->json = true;
	return 0;
}

static int only_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;

	bench->chunks = !strcmp(value, "chunks");
	bench->starts = !strcmp(value, "starts");
	bench->writes = !strcmp(value, "writes");
	if (!bench->chunks && !bench->starts && !bench->writes)
		return err_set(err, -EINVAL, "--only %s: chunks, starts or writes", value);
	return 0;
}

static const struct cli_option options[] = {
	{"size", "SIZE",
		"of the pool, and of the lease that is cleaned: whole chunks, and\n"
		"32M or more where VMs write (default 1G)",
		size_set, 0},
	{"page-size", "4K|2M|1G", "pages of the pool (default 4K)", size_set, 0},
	{"chunk", "SIZE", "of the pool (default: a hundredth of its size, at least 2M)", size_set,
		0},
	{"threads", "N", "that clean, in the pool and beside it, 1 to 64 (default 1)", count_set,
		0},
	{"rounds", "N", "repetitions (default 10)", count_set, 0},
	{"only", "WHAT",
		"chunks: leases and their cleaning; starts: VMs that start; writes:\n"
		"VMs that write (default: all, without VMs where there is no\n"
		"/dev/kvm)",
		only_set, 0},
	{"json", NULL, "print JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench pool",
	.synopsis = "[OPTION...]",
	.about = "Measure a pool of zeroed pages: how long leases of growing size take, and how\n"
		 "fast a lease that was written, whole or 1 %, is zero and free again: cleaned in\n"
		 "place (users that are trusted) and renewed by the kernel. Beside it, in the\n"
		 "same run with as many threads, memset, streaming stores and the kernel's own\n"
		 "clearing, by processor time where nothing else is said. And VMs that lease the\n"
		 "pool or part of it: their start beside that of VMs with untouched anonymous\n"
		 "memory, the page faults of a guest that writes every page, and how soon the\n"
		 "lease is zero after a guest that wrote all of it, or 1 %, scattered or not.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

/* What the options are together. */
static int config_finish(struct bench *bench, struct kv_err *err)
{
	uint64_t *chunk = &bench->config.chunk_bytes;
	char a[24], b[24];

	if (!*chunk) {
		*chunk = 2 * MIB;
		while (*chunk * 200 <= bench->size_bytes)
			*chunk *= 2;
		if (*chunk < bench->config.page_bytes)
			*chunk = bench->config.page_bytes;
	}
	if (*chunk % bench->config.page_bytes)
		return err_set(err, -EINVAL,
			"--chunk: %s is not a multiple of %s, the size of a page",
			size_format(*chunk, a, sizeof(a)),
			size_format(bench->config.page_bytes, b, sizeof(b)));
	if (bench->size_bytes % *chunk)
		return err_set(err, -EINVAL,
			"--size: %s is not a multiple of %s, the size of a chunk",
			size_format(bench->size_bytes, a, sizeof(a)),
			size_format(*chunk, b, sizeof(b)));
	bench->config.size_bytes = bench->size_bytes;
	if (bench->writes && bench->size_bytes < VM_MIN_BYTES)
		return err_set(err, -EINVAL, "--size: %s is too little; VMs that write need 32M",
			size_format(bench->size_bytes, a, sizeof(a)));
	for (uint64_t size = *chunk; bench->size_count < SIZES_MAX; size *= 4) {
		if (size >= bench->size_bytes)
			size = bench->size_bytes;
		bench->sizes[bench->size_count++] = size;
		if (size == bench->size_bytes)
			break;
	}
	return 0;
}

int bench_pool(int argc, char **argv)
{
	struct bench bench = {
		.size_bytes = 1 * GIB,
		.rounds = 10,
		.chunks = true,
		.starts = !access("/dev/kvm", R_OK | W_OK),
		.writes = !access("/dev/kvm", R_OK | W_OK),
		.config = {.page_bytes = PAGE_BYTES, .node = -1, .threads = 1, .clients_max = 64},
	};
	struct bench_noise noise;
	struct kv_err err = {0};
	int status = cli_parse(&usage, argc, argv, &bench), r;

	if (status != CLI_GO_ON)
		return status;
	if (config_finish(&bench, &err) < 0)
		return cli_usage_error("bench pool", "%s", err.text);
	signal(SIGIO, SIG_IGN);
	bench_catch_signals();
	bench_noise_start(&noise);
	r = 0;
	if (sched_getaffinity(0, sizeof(bench.cpus), &bench.cpus) < 0)
		r = err_set(&err, -errno, "CPUs of this process: %s", err_text(errno));
	if (!r && (bench.starts || bench.writes))
		r = bench_vms_prepare(&bench.vms, bench.size_bytes, &err);
	for (int trust = 1; !r && trust >= !bench.chunks; trust--)
		r = mode_run(&bench, trust, &err);
	if (!r && bench.json) {
		r = json_print(&bench, &noise);
	} else if (!r) {
		text_print(&bench);
		bench_noise_print(&noise);
	}
	if (r < 0)
		cli_error("bench pool", "%s", err.text[0] ? err.text : err_text(r));
	for (unsigned i = 0; i < FIG_COUNT; i++)
		bench_free(&bench.samples[i]);
	for (unsigned i = 0; i < SIZES_MAX; i++) {
		bench_free(&bench.lease_us[i]);
		bench_free(&bench.map_us[i]);
	}
	bench_vms_free(&bench.vms);
	return r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
}
