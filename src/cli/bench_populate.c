/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench populate: how fast guest memory becomes present, by backing, method and number of
 * threads, beside what the kernel does in a bare loop and what the memory itself can take, in
 * turns; and how long a VM takes to start against the size of its memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_marks.h"
#include "cli/bench_out.h"
#include "cli/bench_util.h"
#include "cli/cli.h"
#include "gmem/copy.h"
#include "gmem/host.h"
#include "gmem/populate.h"
#include "trace/timeline.h"

#define THREADS_MAX 64
#define COLUMNS_MAX 8
#define SIZES	    4
#define DROPPED	    1
/* The smallest VM has an eighth of it. */
#define SIZE_MIN (128 * MIB)
#define LIMIT_NS 120000000000ULL

/* What memory is made of. */
static const struct kind {
	const char *name, *word;     /* @word: for --only */
	struct gmem_backing backing; /* of a file without its path */
	int map_flags, advice;	     /* of the bare loop */
	const char *start;	     /* the keys of --memory that ask for it */
} kinds[] = {
	{"anon, 4 KiB", "4k", {.kind = GMEM_ANON, .thp = GMEM_OFF}, MAP_PRIVATE | MAP_ANONYMOUS,
		MADV_NOHUGEPAGE, "thp=off"},
	{"anon, THP", "thp", {.kind = GMEM_ANON, .thp = GMEM_ON}, MAP_PRIVATE | MAP_ANONYMOUS,
		MADV_HUGEPAGE, "thp=on"},
	{"memfd", "memfd", {.kind = GMEM_MEMFD}, MAP_SHARED | MAP_ANONYMOUS, 0, "backing=memfd"},
	{"hugetlb-2m", "hugetlb-2m", {.kind = GMEM_HUGETLB_2M},
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT, 0,
		"backing=hugetlb-2m"},
	{"hugetlb-1g", "hugetlb-1g", {.kind = GMEM_HUGETLB_1G},
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT, 0,
		"backing=hugetlb-1g"},
	{"file", "file", {.kind = GMEM_FILE}, MAP_SHARED, 0, "backing=file:"},
};
#define KINDS ARRAY_LEN(kinds)

enum method { FULL, BACKGROUND, VCPU, BARE, TOUCH, METHODS };
static const char *const method_names[METHODS] = {
	"full", "background", "vcpu", "bare loop", "touch"};

/* Clearing memory that is present. */
enum clear { MEMSET, STREAM, CLEARS };
static const char *const clear_names[CLEARS] = {"memset", "streaming stores"};

/* When memory becomes present at a VM's start. */
static const char *const starts[] = {
	"populate=none", "populate=full", "populate=vcpu", "populate=background"};
#define STARTS ARRAY_LEN(starts)

/* GB/s, of wall time and of CPU time, and both divided by the bare loop's of the same round. */
struct cell {
	struct bench_samples rate, cpu_rate, ratio, cpu_ratio;
};

struct bench {
	uint64_t size_bytes;
	unsigned rounds;
	unsigned column_count, columns[COLUMNS_MAX]; /* numbers of threads */
	bool json, no_start;
	bool only, wanted[KINDS]; /* --only */
	bool offered[KINDS];
	unsigned chosen[KINDS]; /* threads that kvick takes when nobody says */
	struct cell cells[KINDS][COLUMNS_MAX][METHODS];
	struct bench_samples clears[COLUMNS_MAX][CLEARS];
	uint64_t sizes[SIZES];
	struct bench_samples start_ms[KINDS][STARTS][SIZES];
	char dir[BENCH_DIR_MAX], self[BENCH_SELF_MAX], guest[4200], timeline[BENCH_FILE_MAX];
	char file[BENCH_FILE_MAX]; /* RAM */
};

/* Work on a slice of memory in a thread. */
struct slice {
	pthread_t thread;
	void (*work)(struct slice *slice);
	uint8_t *at;
	uint64_t bytes;
	struct gmem_fill *fill; /* of which this is @part of @parts, or NULL */
	unsigned part, parts;
	int result;
	struct kv_err err;
};

/* As vCPUs do before they enter the guest. */
static void slice_fill(struct slice *slice)
{
	slice->result = gmem_fill_part(slice->fill, slice->part, slice->parts, &slice->err);
}

static void slice_populate(struct slice *slice)
{
	slice->result = madvise(slice->at, slice->bytes, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

static void slice_memset(struct slice *slice)
{
	memset(slice->at, 0, slice->bytes);
}

static void slice_stream(struct slice *slice)
{
	gmem_stream_zero(slice->at, slice->bytes);
}

static void *slice_main(void *arg)
{
	struct slice *slice = arg;

	slice->work(slice);
	return NULL;
}

/* Give @threads slices of one work, the first of them to this thread. */
static int slices_start(struct slice *slices, unsigned threads)
{
	unsigned started = 1;
	int r = 0;

	if (!threads)
		return -EINVAL;
	while (started < threads && !r) {
		r = -pthread_create(&slices[started].thread, NULL, slice_main, &slices[started]);
		started += !r;
	}
	slice_main(&slices[0]);
	for (unsigned i = 0; i < started; i++) {
		if (i)
			pthread_join(slices[i].thread, NULL);
		if (!r)
			r = slices[i].result;
	}
	return r;
}

/* Work on equal slices of whole @page_bytes. */
static int slices_run(uint8_t *at, uint64_t bytes, uint64_t page_bytes, unsigned threads,
	void (*work)(struct slice *slice))
{
	struct slice slices[THREADS_MAX] = {0};
	uint64_t done = 0;

	if (threads > THREADS_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < threads; i++) {
		uint64_t end = align_down(bytes / threads * (i + 1), page_bytes);

		if (i + 1 == threads)
			end = bytes;
		slices[i] = (struct slice){.work = work, .at = at + done, .bytes = end - done};
		done = end;
	}
	return slices_start(slices, threads);
}

/* Bytes a second, of wall and CPU time. */
struct rates {
	double wall, cpu;
};

static struct rates rates_of(uint64_t bytes, uint64_t wall_ns, uint64_t used_ns)
{
	return (struct rates){(double)bytes / (double)wall_ns, (double)bytes / (double)used_ns};
}

static struct gmem_backing backing_of(const struct bench *bench, unsigned k)
{
	struct gmem_backing backing = kinds[k].backing;

	if (backing.kind == GMEM_FILE)
		backing.path = bench->file;
	return backing;
}

/* A file without a name that has its space, where the file system can reserve it. Or -errno. */
static int file_make(const struct bench *bench, uint64_t bytes)
{
	int fd = open(bench->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r;

	if (fd < 0)
		return -errno;
	unlink(bench->file);
	if (!ftruncate(fd, (off_t)bytes) &&
		(!fallocate(fd, 0, 0, (off_t)bytes) || errno == EOPNOTSUPP))
		return fd;
	r = -errno;
	close(fd);
	return r;
}

/* The memory that a bare loop populates. */
static uint8_t *bare_map(const struct bench *bench, const struct kind *kind, uint64_t bytes)
{
	bool is_file = kind->backing.kind == GMEM_FILE;
	FD_SCOPED int fd = is_file ? file_make(bench, bytes) : -1;

	if (is_file && fd < 0) {
		errno = -fd;
		return MAP_FAILED;
	}
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, kind->map_flags | MAP_NORESERVE, fd, 0);
}

static int bare_run(
	const struct bench *bench, const struct kind *kind, unsigned threads, struct rates *rates)
{
	uint64_t page = gmem_page_bytes(&kind->backing), span = bench->size_bytes;
	uint64_t slack = page > PAGE_BYTES ? 0 : 2 * MIB, begun, used;
	uint8_t *map = bare_map(bench, kind, span + slack), *at;
	int r;

	if (map == MAP_FAILED)
		return -errno;
	at = slack ? (uint8_t *)align_up((uintptr_t)map, 2 * MIB) : map;
	if (kind->advice)
		madvise(at, span, kind->advice);
	used = bench_cpu_ns();
	begun = clock_ns();
	r = slices_run(at, span, page > 2 * MIB ? page : 2 * MIB, threads, slice_populate);
	*rates = rates_of(span, clock_ns() - begun, bench_cpu_ns() - used);
	munmap(map, span + slack);
	return r;
}

/* Ask kvick how many threads it would take. */
static int chosen_find(struct bench *bench, unsigned k, struct kv_err *err)
{
	struct gmem_backing backing = backing_of(bench, k);
	struct gmem_fill_opts opts = {0};
	struct gmem_fill *fill = NULL;
	struct gmem *gm;
	int r = gmem_create(&gm, NULL);

	if (r < 0)
		return err_set(err, r, "out of memory");
	r = gmem_add_backed(gm, 0, bench->size_bytes, &backing, 0, err);
	if (!r)
		r = gmem_fill_create(&fill, gm, &opts, err);
	if (!r)
		bench->chosen[k] = gmem_fill_threads(fill);
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	return r;
}

static int parts_run(struct gmem_fill *fill, unsigned threads, struct kv_err *err)
{
	struct slice slices[THREADS_MAX] = {0};
	int r;

	for (unsigned i = 0; i < threads; i++)
		slices[i] = (struct slice){
			.work = slice_fill, .fill = fill, .part = i, .parts = threads};
	r = slices_start(slices, threads);
	for (unsigned i = 0; i < threads; i++)
		if (slices[i].result < 0) {
			*err = slices[i].err;
			return slices[i].result;
		}
	return r < 0 ? err_set(err, r, "populate=vcpu: %s", err_text(r)) : 0;
}

/* How the background's threads ended, once they have. */
struct ending {
	sem_t over;
	int result;
};

static void background_over(void *ctx, int result)
{
	struct ending *ending = ctx;

	ending->result = result;
	sem_post(&ending->over);
}

/* @ending must live until @fill is gone: an interrupted wait leaves the threads at work. */
static int background_run(struct gmem_fill *fill, struct ending *ending, struct kv_err *err)
{
	struct timespec until;
	int r = gmem_fill_ready(fill, err);

	if (r < 0)
		return r;
	clock_gettime(CLOCK_MONOTONIC, &until);
	r = gmem_fill_start(fill, background_over, ending);
	if (!r) {
		while (sem_clockwait(&ending->over, CLOCK_MONOTONIC, &until) < 0) {
			if (bench_interrupted())
				return err_set(err, -EINTR, "interrupted");
			until.tv_sec++;
		}
		r = ending->result;
	}
	return r < 0 ? err_set(err, r, "populate=background: %s", err_text(r)) : 0;
}

static int kvick_run(const struct bench *bench, unsigned k, enum method method, unsigned threads,
	struct rates *rates, struct kv_err *err)
{
	struct gmem_fill_opts opts = {.threads = threads, .touch = method == TOUCH};
	struct gmem_backing backing = backing_of(bench, k);
	struct gmem_fill *fill = NULL;
	struct ending ending = {.result = 0};
	uint64_t begun, used;
	struct gmem *gm;
	int r = gmem_create(&gm, NULL);

	if (r < 0)
		return err_set(err, r, "out of memory");
	sem_init(&ending.over, 0, 0);
	r = gmem_add_backed(gm, 0, bench->size_bytes, &backing, 0, err);
	used = bench_cpu_ns();
	begun = clock_ns();
	if (!r)
		r = gmem_fill_create(&fill, gm, &opts, err);
	if (!r && method == BACKGROUND)
		r = background_run(fill, &ending, err);
	else if (!r && method == VCPU)
		r = parts_run(fill, threads, err);
	else if (!r)
		r = gmem_fill_run(fill, NULL, err);
	*rates = rates_of(bench->size_bytes, clock_ns() - begun, bench_cpu_ns() - used);
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	sem_destroy(&ending.over);
	return r;
}

static int method_run(const struct bench *bench, unsigned k, enum method method, unsigned threads,
	struct rates *rates, struct kv_err *err)
{
	int r;

	if (method != BARE)
		return kvick_run(bench, k, method, threads, rates, err);
	r = bare_run(bench, &kinds[k], threads, rates);
	return r < 0 ? err_set(err, r, "%s: the bare loop: %s", kinds[k].name, err_text(r)) : 0;
}

/* All methods of one kind and number of threads. */
static int cell_round(
	struct bench *bench, unsigned k, unsigned column, unsigned round, struct kv_err *err)
{
	struct rates rates[METHODS];
	int r = 0;

	for (unsigned i = 0; !r && i < METHODS; i++) {
		enum method method = (enum method)bench_turn(round, i, METHODS);

		if (bench_interrupted())
			return err_set(err, -EINTR, "interrupted");
		r = method_run(bench, k, method, bench->columns[column], &rates[method], err);
	}
	if (r < 0 || round < DROPPED)
		return r;
	for (unsigned m = 0; !r && m < METHODS; m++) {
		struct cell *cell = &bench->cells[k][column][m];

		r = bench_add(&cell->rate, rates[m].wall);
		if (!r)
			r = bench_add(&cell->cpu_rate, rates[m].cpu);
		if (!r)
			r = bench_add(&cell->ratio, rates[m].wall / rates[BARE].wall);
		if (!r)
			r = bench_add(&cell->cpu_ratio, rates[m].cpu / rates[BARE].cpu);
	}
	return r < 0 ? err_set(err, r, "out of memory") : 0;
}

/* Clearing memory that is there, in huge pages where they are to be had. */
static int clear_round(struct bench *bench, uint8_t *at, unsigned column, unsigned round)
{
	static void (*const works[CLEARS])(struct slice * slice) = {
		[MEMSET] = slice_memset, [STREAM] = slice_stream};
	int r = 0;

	for (unsigned i = 0; !r && i < CLEARS; i++) {
		unsigned clear = (i + round) % CLEARS;
		uint64_t begun = clock_ns(), ns;

		r = slices_run(
			at, bench->size_bytes, 2 * MIB, bench->columns[column], works[clear]);
		ns = clock_ns() - begun;
		if (!r && round >= DROPPED)
			r = bench_add(&bench->clears[column][clear],
				(double)bench->size_bytes / (double)ns);
	}
	return r;
}

static int clears_run(struct bench *bench, unsigned round, struct kv_err *err)
{
	uint64_t span = bench->size_bytes + 2 * MIB;
	uint8_t *map = mmap(NULL, span, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *at;
	int r = 0;

	if (map == MAP_FAILED)
		return err_set(err, -errno, "no memory to clear: %s", err_text(errno));
	at = (uint8_t *)align_up((uintptr_t)map, 2 * MIB);
	madvise(at, bench->size_bytes, MADV_HUGEPAGE);
	memset(at, 1, bench->size_bytes);
	for (unsigned i = 0; !r && i < bench->column_count; i++)
		r = clear_round(bench, at, i, round);
	munmap(map, span);
	return r < 0 ? err_set(err, r, "clearing: %s", err_text(r)) : 0;
}

static int start_run(struct bench *bench, unsigned k, unsigned s, unsigned size, bool counted,
	struct kv_err *err)
{
	bool is_file = kinds[k].backing.kind == GMEM_FILE;
	char bytes[24], memory[160 + BENCH_FILE_MAX];
	char *argv[] = {bench->self, "run", bench->guest, "--memory", memory, "--timeline",
		bench->timeline, NULL};
	struct bench_run run;
	double ms = 0;
	int r;

	snprintf(memory, sizeof(memory), "%s,%s,%s%s",
		size_format(bench->sizes[size], bytes, sizeof(bytes)), starts[s], kinds[k].start,
		is_file ? bench->file : "");
	r = bench_spawn(&run, argv, LIMIT_NS);
	/* A VM's file stays behind it. */
	unlink(bench->file);
	if (r == -EINTR)
		return err_set(err, r, "interrupted");
	if (!r && run.status)
		r = -EIO;
	if (!r)
		r = bench_boot_ms(bench->timeline, &ms);
	if (r < 0)
		return err_set(err, r, "kvick run --memory %s: %s", memory, err_text(r));
	return counted ? bench_add(&bench->start_ms[k][s][size], ms) : 0;
}

static int starts_round(struct bench *bench, unsigned round, struct kv_err *err)
{
	int r = 0;

	for (unsigned k = 0; k < KINDS; k++)
		for (unsigned s = 0; bench->offered[k] && s < STARTS; s++)
			for (unsigned i = 0; !r && i < SIZES; i++)
				if (bench->sizes[i] % gmem_page_bytes(&kinds[k].backing) == 0)
					r = start_run(bench, k, s, i, round >= DROPPED, err);
	return r;
}

static int rounds_run(struct bench *bench, struct kv_err *err)
{
	unsigned all = bench->rounds + DROPPED;
	int r = 0;

	for (unsigned round = 0; !r && round < all; round++) {
		bench_progress(round, all);
		for (unsigned k = 0; k < KINDS; k++)
			for (unsigned i = 0; bench->offered[k] && !r && i < bench->column_count;
				i++)
				r = cell_round(bench, k, i, round, err);
		if (!r)
			r = clears_run(bench, round, err);
		if (!r && !bench->no_start)
			r = starts_round(bench, round, err);
	}
	bench_progress(0, 0);
	return r;
}

static void kind_print(struct bench *bench, unsigned k)
{
	for (unsigned m = 0; m < METHODS; m++) {
		printf("%-16s %-10s", m ? "" : kinds[k].name, method_names[m]);
		for (unsigned i = 0; i < bench->column_count; i++) {
			struct cell *cell = &bench->cells[k][i][m];

			printf("  %6.2f (%6.2f) x %4.2f (%4.2f)", bench_rank(&cell->rate, 0.5),
				bench_rank(&cell->cpu_rate, 0.5), bench_rank(&cell->ratio, 0.5),
				bench_rank(&cell->cpu_ratio, 0.5));
		}
		printf("\n");
	}
}

/* kvick's own rate with the threads it chooses; 0 when that column is not measured. */
static double chosen_rate(struct bench *bench, unsigned k)
{
	for (unsigned i = 0; i < bench->column_count; i++)
		if (bench->columns[i] == bench->chosen[k])
			return bench_rank(&bench->cells[k][i][FULL].rate, 0.5);
	return 0;
}

/* The highest median of a kind's rows and columns. */
static double best_rate(struct bench *bench, unsigned k)
{
	double best = 0;

	for (unsigned i = 0; i < bench->column_count; i++)
		for (unsigned m = 0; m < METHODS; m++) {
			double rate = bench_rank(&bench->cells[k][i][m].rate, 0.5);

			best = rate > best ? rate : best;
		}
	return best;
}

/* A file is written to a disk, dozens of times: only for who asks for that. */
static bool is_wanted(const struct bench *bench, unsigned k)
{
	return bench->only ? bench->wanted[k] : kinds[k].backing.kind != GMEM_FILE;
}

static void cells_print(struct bench *bench)
{
	char size[24];

	printf("%s populated, GB/s: median of %u rounds (of CPU time), all in turns\n"
	       "x: divided by the bare loop's in the same round, median (of CPU time)\n",
		size_format(bench->size_bytes, size, sizeof(size)), bench->rounds);
	printf("%-16s %-10s", "", "");
	for (unsigned i = 0; i < bench->column_count; i++)
		printf("  %22u thread%s", bench->columns[i], bench->columns[i] > 1 ? "s" : " ");
	printf("\n");
	for (unsigned k = 0; k < KINDS; k++) {
		if (bench->offered[k])
			kind_print(bench, k);
		else if (is_wanted(bench, k))
			printf("%-16s not enough %s\n", kinds[k].name,
				kinds[k].backing.kind == GMEM_FILE ? "room for the file"
								   : "free pages of this size");
	}
	for (unsigned k = 0; k < KINDS; k++)
		if (bench->offered[k] && chosen_rate(bench, k) > 0)
			printf("%-16s by default %u thread%s: %.2f of the best in these rows\n",
				kinds[k].name, bench->chosen[k], bench->chosen[k] > 1 ? "s" : "",
				chosen_rate(bench, k) / best_rate(bench, k));
	for (unsigned c = 0; c < CLEARS; c++) {
		printf("%-27s", c ? clear_names[c] : "present: memset");
		for (unsigned i = 0; i < bench->column_count; i++)
			printf("  %6.2f %23s", bench_rank(&bench->clears[i][c], 0.5), "");
		printf("\n");
	}
}

static void starts_print(struct bench *bench)
{
	char size[24];

	printf("\nVM start, exec to the guest's boot byte, ms: median (min)\n%-36s", "memory");
	for (unsigned i = 0; i < SIZES; i++)
		printf(" %19s", size_format(bench->sizes[i], size, sizeof(size)));
	printf("\n");
	for (unsigned k = 0; k < KINDS; k++) {
		for (unsigned s = 0; bench->offered[k] && s < STARTS; s++) {
			printf("%-15s %-20s", kinds[k].name, starts[s]);
			for (unsigned i = 0; i < SIZES; i++) {
				struct bench_samples *ms = &bench->start_ms[k][s][i];

				if (ms->count)
					printf(" %9.2f (%7.2f)", bench_rank(ms, 0.5),
						bench_rank(ms, 0));
				else
					printf(" %19s", "-");
			}
			printf("\n");
		}
	}
}

static json_t *cells_json(struct bench *bench)
{
	json_t *rows = json_array();

	for (unsigned k = 0; k < KINDS; k++)
		for (unsigned i = 0; bench->offered[k] && i < bench->column_count; i++)
			for (unsigned m = 0; m < METHODS; m++) {
				struct cell *cell = &bench->cells[k][i][m];

				json_array_append_new(rows,
					json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:o}", "memory",
						kinds[k].name, "method", method_names[m], "threads",
						(int)bench->columns[i], "gb_s",
						bench_json(&cell->rate), "cpu_gb_s",
						bench_json(&cell->cpu_rate), "x_bare",
						bench_json(&cell->ratio), "cpu_x_bare",
						bench_json(&cell->cpu_ratio)));
			}
	return rows;
}

static json_t *result_json(struct bench *bench)
{
	json_t *clears = json_array(), *vms = json_array(), *chosen = json_object();

	for (unsigned i = 0; i < bench->column_count; i++)
		for (unsigned c = 0; c < CLEARS; c++)
			json_array_append_new(
				clears, json_pack("{s:s, s:i, s:o}", "method", clear_names[c],
						"threads", (int)bench->columns[i], "gb_s",
						bench_json(&bench->clears[i][c])));
	for (unsigned k = 0; k < KINDS; k++)
		for (unsigned s = 0; bench->offered[k] && s < STARTS; s++)
			for (unsigned i = 0; i < SIZES; i++)
				if (bench->start_ms[k][s][i].count)
					json_array_append_new(vms,
						json_pack("{s:s, s:s, s:I, s:o}", "memory",
							kinds[k].name, "start", starts[s], "bytes",
							(json_int_t)bench->sizes[i], "ms",
							bench_json(&bench->start_ms[k][s][i])));
	for (unsigned k = 0; k < KINDS; k++)
		if (bench->offered[k])
			json_object_set_new(chosen, kinds[k].name, json_integer(bench->chosen[k]));
	return json_pack("{s:I, s:i, s:o, s:o, s:o, s:o}", "size_bytes",
		(json_int_t)bench->size_bytes, "rounds", (int)bench->rounds, "populate",
		cells_json(bench), "default_threads", chosen, "clear", clears, "start", vms);
}

static int size_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;

	if (size_parse(value, &bench->size_bytes) < 0 || bench->size_bytes < SIZE_MIN ||
		bench->size_bytes % (16 * MIB))
		return err_set(err, -EINVAL, "--size: \"%.40s\" is not a multiple of 16M from 128M",
			value);
	return 0;
}

static int threads_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;
	uint64_t most;

	if (uint_parse(value, 1, THREADS_MAX, &most) < 0)
		return err_set(err, -EINVAL, "--threads: \"%.40s\" is not a number from 1 to %d",
			value, THREADS_MAX);
	bench->column_count = 0;
	/* All, or powers of two and the most itself where there are too many. */
	for (unsigned n = 1; n <= most && bench->column_count < COLUMNS_MAX;
		n = most <= COLUMNS_MAX	       ? n + 1
		    : n < most && n * 2 > most ? (unsigned)most
					       : n * 2)
		bench->columns[bench->column_count++] = n;
	return 0;
}

static int rounds_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	uint64_t n;

	if (uint_parse(value, 1, 1000, &n) < 0)
		return err_set(
			err, -EINVAL, "--rounds: \"%.40s\" is not a number from 1 to 1000", value);
	((struct bench *)ctx)->rounds = (unsigned)n;
	return 0;
}

static int only_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;

	bench->only = true;
	for (unsigned k = 0; k < KINDS; k++)
		if (!strcmp(value, kinds[k].word)) {
			bench->wanted[k] = true;
			return 0;
		}
	return err_set(err, -EINVAL,
		"--only: \"%.40s\" is none of 4k, thp, memfd, hugetlb-2m, hugetlb-1g, file", value);
}

static int no_start_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct bench *)ctx)->no_start = true;
	return 0;
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct bench *)ctx)->json = true;
	return 0;
}

static const struct cli_option options[] = {
	{"size", "SIZE",
		"memory to populate, and of the largest VM: a multiple of 16M from\n"
		"128M (default 1G)",
		size_set, 0},
	{"threads", "N", "1 to N threads, up to 64 (default: the number of CPUs)", threads_set, 0},
	{"rounds", "N", "counted rounds (default 7); one more goes first", rounds_set, 0},
	{"only", "MEMORY",
		"4k, thp, memfd, hugetlb-2m, hugetlb-1g or file (written to the folder\n"
		"for temporary files); repeatable (default: all but file that are to\n"
		"be had)",
		only_set, CLI_OPT_REPEAT},
	{"no-start", NULL, "leave out the starts of VMs", no_start_set, 0},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench populate",
	.synopsis = "[OPTION...]",
	.about =
		"Measure how fast guest memory becomes present: each backing, by kvick's own ways\n"
		"(populate=full, background, vcpu), by a bare loop of mmap and\n"
		"MADV_POPULATE_WRITE, and by touching; how fast memory that is present is\n"
		"cleared; and how long VMs of several sizes take to start. Huge pages take part\n"
		"when enough of them are reserved, a file when it is asked for.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

/* Whether this host has the memory or, with something to spare, the room for the file. */
static bool is_offered(const struct bench *bench, unsigned k)
{
	struct gmem_backing backing = backing_of(bench, k);
	struct statvfs fs;

	if (gmem_backing_check(&backing, bench->size_bytes, NULL) < 0)
		return false;
	return backing.kind != GMEM_FILE ||
	       (!statvfs(bench->dir, &fs) &&
		       (uint64_t)fs.f_bavail * fs.f_frsize > bench->size_bytes * 2);
}

static int bench_prepare(struct bench *bench, struct kv_err *err)
{
	int r = bench_self(bench->self, err);
	char most[16];

	if (r < 0)
		return r;
	if (!bench->column_count) {
		unsigned cpus = gmem_cpus();

		snprintf(most, sizeof(most), "%u", cpus < THREADS_MAX ? cpus : THREADS_MAX);
		r = threads_set(bench, NULL, most, err);
		if (r < 0)
			return r;
	}
	r = bench_dir_make(bench->dir, err);
	if (r < 0)
		return r;
	snprintf(bench->timeline, sizeof(bench->timeline), "%s/timeline.json", bench->dir);
	snprintf(bench->file, sizeof(bench->file), "%s/ram", bench->dir);
	for (unsigned k = 0; k < KINDS; k++)
		bench->offered[k] = is_wanted(bench, k) && is_offered(bench, k);
	for (unsigned i = 0; i < SIZES; i++)
		bench->sizes[i] = bench->size_bytes >> (SIZES - 1 - i);
	r = gmem_room_check(bench->size_bytes, 0, "--size", "a smaller --size", err);
	for (unsigned k = 0; !r && k < KINDS; k++)
		r = bench->offered[k] ? chosen_find(bench, k, err) : 0;
	if (!r)
		r = bench_locate(bench->guest, sizeof(bench->guest), "guest/flat/signal.pvh.elf",
			"signal.pvh.elf", err);
	return r;
}

static void bench_clear(struct bench *bench)
{
	for (unsigned k = 0; k < KINDS; k++) {
		for (unsigned i = 0; i < COLUMNS_MAX; i++)
			for (unsigned m = 0; m < METHODS; m++) {
				bench_free(&bench->cells[k][i][m].rate);
				bench_free(&bench->cells[k][i][m].cpu_rate);
				bench_free(&bench->cells[k][i][m].ratio);
				bench_free(&bench->cells[k][i][m].cpu_ratio);
			}
		for (unsigned s = 0; s < STARTS; s++)
			for (unsigned i = 0; i < SIZES; i++)
				bench_free(&bench->start_ms[k][s][i]);
	}
	for (unsigned i = 0; i < COLUMNS_MAX; i++)
		for (unsigned c = 0; c < CLEARS; c++)
			bench_free(&bench->clears[i][c]);
	if (bench->dir[0]) {
		unlink(bench->timeline);
		unlink(bench->file);
		rmdir(bench->dir);
	}
	free(bench);
}

int bench_populate(int argc, char **argv)
{
	struct bench *bench = calloc(1, sizeof(*bench));
	struct bench_noise noise;
	struct kv_err err = {0};
	int status, r;

	if (!bench) {
		cli_error("bench populate", "out of memory");
		return CLI_EXIT_START;
	}
	bench->size_bytes = GIB;
	bench->rounds = 7;
	bench_catch_signals();
	status = cli_parse(&usage, argc, argv, bench);
	if (status == CLI_GO_ON) {
		bench_noise_start(&noise);
		r = bench_prepare(bench, &err);
		if (!r)
			r = rounds_run(bench, &err);
		if (!r && bench->json)
			r = bench_json_print("populate", &noise, result_json(bench));
		if (!r && !bench->json) {
			cells_print(bench);
			if (!bench->no_start)
				starts_print(bench);
			bench_noise_print(&noise);
		}
		if (r < 0)
			cli_error("bench populate", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(bench);
	return status;
}
