/* SPDX-License-Identifier: Apache-2.0 */
#include "gmem/populate.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "gmem/fill.h"
#include "gmem/host.h"
#include "gmem/internal.h"

/* Not worth another thread. */
#define SLICE_MIN (64 * MIB)

/* Clearing saturates the memory before it runs out of CPUs. */
#define THREADS_AUTO_MAX 16

/* How often a thread that only waits looks up, ns. */
#define TICK_NS 20000000

/* These threads call the kernel and little else. */
#define STACK_BYTES (64 * 1024)

/* The lowest priority there is: SCHED_IDLE, and among those the nicest. */
#define NICE_LOWEST 19

const char *gmem_populate_name(enum gmem_populate how)
{
	static const char *const names[GMEM_POPULATES] = {
		[GMEM_POPULATE_NONE] = "none",
		[GMEM_POPULATE_FULL] = "full",
		[GMEM_POPULATE_BACKGROUND] = "background",
		[GMEM_POPULATE_VCPU] = "vcpu",
	};

	return names[how];
}

/* As many threads as gain something; never did another CPU make it slower (docs/performance.md). */
static unsigned threads_choose(const struct gmem_fill *fill)
{
	unsigned cpus = gmem_cpus();
	uint64_t most = fill->total_bytes / SLICE_MIN;

	if (cpus > THREADS_AUTO_MAX)
		cpus = THREADS_AUTO_MAX;
	if (cpus > most)
		cpus = (unsigned)most;
	return cpus ? cpus : 1;
}

/* Fresh pages that a full host cannot give: not those that were reserved or exist already. */
static uint64_t unreserved_bytes(const struct gmem_fill *fill)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < fill->piece_count; i++)
		if (fill->pieces[i].fresh)
			bytes += fill->pieces[i].bytes;
	return bytes;
}

/* The nodes that fresh pages come from; 0: any. */
static uint64_t nodes_all(const struct gmem *gm)
{
	uint64_t nodes = 0;

	for (unsigned i = 0; i < gm->region_count; i++) {
		if (!gm->regions[i].backing.nodes)
			return 0;
		nodes |= gm->regions[i].backing.nodes;
	}
	return nodes;
}

int gmem_fill_create(struct gmem_fill **ret, struct gmem *gm, const struct gmem_fill_opts *opts,
	struct kv_err *err)
{
	struct gmem_fill *fill = calloc(1, sizeof(*fill));
	int r;

	if (!fill)
		return err_set(err, -ENOMEM, "memory: populate: out of memory");
	fill->gm = gm;
	fill->touch = opts->touch;
	fill->huge_only = opts->huge_only;
	for (unsigned i = 0; i < gm->region_count; i++)
		fill->nodes |= gm->regions[i].backing.nodes;
	gmem_pieces_find(fill, gm);
	pthread_mutex_init(&fill->lock, NULL);
	pthread_cond_init(&fill->changed, NULL);
	r = gmem_room_check(
		unreserved_bytes(fill), nodes_all(gm), "memory: populate", "populate=none", err);
	if (r < 0) {
		gmem_fill_destroy(fill);
		return r;
	}
	gmem_pieces_advise(fill);
	fill->threads_asked = opts->threads;
	fill->thread_count = opts->threads ? opts->threads : threads_choose(fill);
	if (fill->thread_count > GMEM_THREADS_MAX)
		fill->thread_count = GMEM_THREADS_MAX;
	fill->slices_left = fill->thread_count;
	*ret = fill;
	return 0;
}

uint64_t gmem_fill_total(const struct gmem_fill *fill)
{
	return fill->total_bytes;
}

uint64_t gmem_fill_done(const struct gmem_fill *fill)
{
	return atomic_load_explicit(&fill->done_bytes, memory_order_relaxed);
}

unsigned gmem_fill_threads(const struct gmem_fill *fill)
{
	return fill->thread_count;
}

void gmem_fill_stop(struct gmem_fill *fill)
{
	if (fill)
		atomic_store(&fill->stop, true);
}

/*
 * A write to each page that leaves its contents as they are, whoever else writes at the same time.
 * Files and hugetlb pages are reserved, so that this cannot end in a SIGBUS, except where hugetlb
 * pages are bound to nodes and others take them in this moment.
 */
static void pages_touch(uint8_t *host, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += PAGE_BYTES)
		__atomic_fetch_or(host + at, 0, __ATOMIC_RELAXED);
}

/* Populate one step of @piece. Returns 0 or -errno. */
static int step_run(
	const struct gmem_fill *fill, const struct fill_piece *piece, uint8_t *host, uint64_t bytes)
{
	if (piece->skip)
		return 0;
	if (piece->file) {
		/* What fails here (a file cut short, an old kernel) the guest's own accesses will
		 * do. */
		madvise(host, bytes, MADV_POPULATE_READ);
		return 0;
	}
	while (!fill->touch) {
		if (!madvise(host, bytes, MADV_POPULATE_WRITE))
			return 0;
		/* Linux before 5.14. */
		if (errno == EINVAL)
			break;
		/* That is how a huge page that is not there is told: it would be a SIGBUS. */
		if (errno == EFAULT && piece->page_bytes > PAGE_BYTES)
			return -ENOMEM;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
		if (atomic_load(&fill->stop))
			return -ECANCELED;
	}
	pages_touch(host, bytes);
	return 0;
}

/* Populate slice @part of @parts. @watch: of a thread that reports. */
static int slice_run(
	struct gmem_fill *fill, unsigned part, unsigned parts, const struct gmem_watch *watch)
{
	uint64_t at = gmem_fill_bound(fill, part, parts),
		 end = gmem_fill_bound(fill, part + 1, parts);

	for (unsigned i = 0; i < fill->piece_count && at < end; i++) {
		const struct fill_piece *piece = &fill->pieces[i];

		while (at < end && at - piece->start < piece->bytes) {
			uint8_t *host = piece->host + (at - piece->start);
			uint64_t left = piece->start + piece->bytes - at;
			uint64_t step = gmem_fill_step(fill, piece, host);
			int r;

			step = step < left ? step : left;
			step = step < end - at ? step : end - at;
			if (atomic_load_explicit(&fill->stop, memory_order_relaxed))
				return -ECANCELED;
			r = step_run(fill, piece, host, step);
			if (r < 0)
				return r;
			if (!piece->file && !piece->skip)
				atomic_fetch_add_explicit(
					&fill->done_bytes, step, memory_order_relaxed);
			at += step;
			if (watch &&
				watch->tick(watch->ctx, gmem_fill_done(fill), fill->total_bytes))
				return -ECANCELED;
		}
	}
	return 0;
}

/* Keep the calling thread on the CPUs of its node. */
static void node_pin(const struct gmem_fill *fill, unsigned index)
{
	cpu_set_t cpus;

	if (gmem_node_cpus(fill->nodes, index, &cpus) > 0)
		sched_setaffinity(0, sizeof(cpus), &cpus);
}

/* A slice's end: the first failure counts and stops the others. */
static void result_note(struct gmem_fill *fill, int r)
{
	int none = 0;

	if (!r)
		return;
	atomic_compare_exchange_strong(&fill->result, &none, r);
	atomic_store(&fill->stop, true);
}

/* A slice has ended. Returns true for the last one. */
static bool slice_ended(struct gmem_fill *fill)
{
	bool last;

	pthread_mutex_lock(&fill->lock);
	last = --fill->slices_left == 0;
	pthread_cond_signal(&fill->changed);
	pthread_mutex_unlock(&fill->lock);
	return last;
}

/*
 * Populate slices that nobody has begun until there are none, so that threads which could not be
 * started leave nothing behind. Returns true when the last of all slices ended here.
 */
static bool slices_run(struct gmem_fill *fill, const struct gmem_watch *watch)
{
	bool last = false;
	unsigned part;

	while ((part = atomic_fetch_add(&fill->slices_begun, 1)) < fill->thread_count) {
		result_note(fill, slice_run(fill, part, fill->thread_count, watch));
		last = slice_ended(fill);
	}
	return last;
}

static void *worker_main(void *arg)
{
	struct fill_thread *thread = arg;

	node_pin(thread->fill, thread->index);
	slices_run(thread->fill, NULL);
	return NULL;
}

static void *background_main(void *arg)
{
	struct fill_thread *thread = arg;
	struct gmem_fill *fill = thread->fill;
	struct sched_param none = {0};
	int r;

	atomic_store(&thread->tid, gettid());
	/* Neither may fail for a thread that steps down; if it did, it would only be impolite. */
	sched_setscheduler(0, SCHED_IDLE, &none);
	setpriority(PRIO_PROCESS, (id_t)gettid(), NICE_LOWEST);
	node_pin(fill, thread->index);
	pthread_setname_np(pthread_self(), "kvick populate");
	pthread_mutex_lock(&fill->lock);
	while (!fill->begun)
		pthread_cond_wait(&fill->changed, &fill->lock);
	pthread_mutex_unlock(&fill->lock);
	if (!slices_run(fill, NULL) || !fill->done)
		return NULL;
	r = atomic_load(&fill->result);
	if (r != -ECANCELED)
		fill->done(fill->done_ctx, r);
	return NULL;
}

/*
 * Start the threads from the @first, which take no signals; fill->started counts them.
 * Returns 0 or -errno, with those that could be started.
 */
static int threads_start(struct gmem_fill *fill, unsigned first, void *(*start)(void *))
{
	fill->threads = calloc(fill->thread_count, sizeof(*fill->threads));
	if (!fill->threads)
		return -ENOMEM;
	for (unsigned i = first; i < fill->thread_count; i++) {
		struct fill_thread *thread = &fill->threads[fill->started];
		int r;

		*thread = (struct fill_thread){.fill = fill, .index = i};
		r = thread_start(&thread->thread, STACK_BYTES, 0, start, thread);
		if (r < 0)
			return r;
		fill->started++;
	}
	return 0;
}

/* Tell @watch until all slices have ended. */
static void threads_watch(struct gmem_fill *fill, const struct gmem_watch *watch)
{
	pthread_mutex_lock(&fill->lock);
	while (fill->slices_left) {
		struct timespec until;

		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += TICK_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_clockwait(&fill->changed, &fill->lock, CLOCK_MONOTONIC, &until) !=
			ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&fill->lock);
		if (watch->tick(watch->ctx, gmem_fill_done(fill), fill->total_bytes))
			result_note(fill, -ECANCELED);
		pthread_mutex_lock(&fill->lock);
	}
	pthread_mutex_unlock(&fill->lock);
}

static void threads_join(struct gmem_fill *fill)
{
	for (unsigned i = 0; i < fill->started; i++)
		pthread_join(fill->threads[i].thread, NULL);
	fill->started = 0;
	free(fill->threads);
	fill->threads = NULL;
}

/*
 * Give slice @part back. Files are left to their end, since a lock of theirs lets no two threads
 * in, and huge pages, which are few.
 */
static void slice_drop(const struct gmem_fill *fill, unsigned part)
{
	uint64_t start = gmem_fill_bound(fill, part, fill->thread_count),
		 end = gmem_fill_bound(fill, part + 1, fill->thread_count);

	for (unsigned i = 0; i < fill->piece_count; i++) {
		const struct fill_piece *piece = &fill->pieces[i];
		uint64_t from = start > piece->start ? start : piece->start;
		uint64_t to = end < piece->start + piece->bytes ? end : piece->start + piece->bytes;
		uint8_t *host = piece->host + (from - piece->start);

		/* The second is for what is locked. */
		if (piece->own && from < to && madvise(host, to - from, MADV_DONTNEED) < 0)
			madvise(host, to - from, MADV_DONTNEED_LOCKED);
	}
}

static void slices_drop(struct gmem_fill *fill)
{
	unsigned part;

	while ((part = atomic_fetch_add(&fill->slices_begun, 1)) < fill->thread_count)
		slice_drop(fill, part);
}

static void *drop_main(void *arg)
{
	slices_drop(((struct fill_thread *)arg)->fill);
	return NULL;
}

/* Give memory back with as many threads as filled it: unmapping does the same with one. */
static void memory_drop(struct gmem_fill *fill)
{
	atomic_store(&fill->slices_begun, 0);
	/* Those that cannot be started are not needed. */
	if (fill->thread_count > 1)
		threads_start(fill, 1, drop_main);
	slices_drop(fill);
	threads_join(fill);
}

static int threads_failed(const struct gmem_fill *fill, int r, struct kv_err *err)
{
	return err_set(err, r,
		"memory: populate: %u threads cannot be started (%s); give fewer by threads=, or "
		"see "
		"ulimit -u and pids.max of the control group",
		fill->thread_count, err_text(r));
}

static int fill_failed(const struct gmem_fill *fill, int r, struct kv_err *err)
{
	bool bound = gmem_is_bound(&fill->gm->regions[0].backing);
	char done[24], total[24];

	if (r == -ECANCELED)
		return err_set(err, r, "memory: populate: stopped");
	/* Somebody was faster, and still has the pages. */
	if (r == -ENOMEM && gmem_huge_short(fill->gm, err) < 0)
		return r;
	size_format(align_down(gmem_fill_done(fill), MIB), done, sizeof(done));
	size_format(align_up(fill->total_bytes, MIB), total, sizeof(total));
	return err_set(err, r,
		"memory: populate: the host could not give more than %s of %s: %s; give the VM "
		"less memory, make room on the host (or on the NUMA node), raise the limits of "
		"the control group%s",
		done, total, err_text(r), bound ? "" : ", or populate=none");
}

int gmem_fill_run(struct gmem_fill *fill, const struct gmem_watch *watch, struct kv_err *err)
{
	bool pin = fill->nodes != 0;
	cpu_set_t own;
	int r = 0;

	if (fill->thread_count > 1)
		r = threads_start(fill, 1, worker_main);
	if (r < 0 && fill->threads_asked) {
		gmem_fill_stop(fill);
		threads_join(fill);
		memory_drop(fill);
		return threads_failed(fill, r, err);
	}
	pin = pin && !sched_getaffinity(0, sizeof(own), &own);
	if (pin)
		node_pin(fill, 0);
	slices_run(fill, watch);
	if (pin)
		sched_setaffinity(0, sizeof(own), &own);
	if (watch)
		threads_watch(fill, watch);
	threads_join(fill);
	r = atomic_load(&fill->result);
	if (!r)
		return 0;
	r = fill_failed(fill, r, err);
	memory_drop(fill);
	return r;
}

int gmem_fill_ready(struct gmem_fill *fill, struct kv_err *err)
{
	int r;

	fill->idle = true;
	if (!fill->threads_asked)
		return 0;
	r = threads_start(fill, 0, background_main);
	return r < 0 ? threads_failed(fill, r, err) : 0;
}

/* Threads that wait begin. */
static void threads_let(struct gmem_fill *fill)
{
	pthread_mutex_lock(&fill->lock);
	fill->begun = true;
	pthread_cond_broadcast(&fill->changed);
	pthread_mutex_unlock(&fill->lock);
}

int gmem_fill_start(struct gmem_fill *fill, void (*done)(void *ctx, int result), void *ctx)
{
	int r = 0;

	fill->done = done;
	fill->done_ctx = ctx;
	threads_let(fill);
	if (!fill->threads_asked)
		r = threads_start(fill, 0, background_main);
	return fill->started ? 0 : r;
}

int gmem_fill_part(struct gmem_fill *fill, unsigned part, unsigned parts, struct kv_err *err)
{
	int r = slice_run(fill, part, parts, NULL);

	return r < 0 ? fill_failed(fill, r, err) : 0;
}

/*
 * On a busy host a thread of the lowest priority may need a second to notice that it shall stop.
 * Only privileged users can raise it again; for others the wait is as it is.
 */
static void threads_hurry(struct gmem_fill *fill)
{
	struct sched_param none = {0};

	for (unsigned i = 0; i < fill->started; i++) {
		pid_t tid = atomic_load(&fill->threads[i].tid);

		pthread_setschedparam(fill->threads[i].thread, SCHED_OTHER, &none);
		if (tid)
			setpriority(PRIO_PROCESS, (id_t)tid, 0);
	}
}

void gmem_fill_destroy(struct gmem_fill *fill)
{
	if (!fill)
		return;
	gmem_fill_stop(fill);
	if (fill->idle) {
		threads_let(fill);
		threads_hurry(fill);
	}
	threads_join(fill);
	pthread_cond_destroy(&fill->changed);
	pthread_mutex_destroy(&fill->lock);
	free(fill);
}
