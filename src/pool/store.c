/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/store.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "gmem/host.h"
#include "pool/clear.h"
#include "trace/timeline.h"

/* How long a chunk may be held after the end of its lease: address spaces die a moment later than
 * sockets, and only when the last thread is gone. */
#define HELD_NS	    1000000000ULL
#define HELD_TRY_NS 2000000

/*
 * The loop is not woken for each of many chunks that take a few microseconds each: a switch of
 * threads costs as much as cleaning one.
 */
#define SHORT_PAGES 256
#define TELL_NS	    200000

#define SPARE_BYTES	  (64 * MIB) /* of the host's memory that filling leaves to others */
#define GROUP_SPARE_BYTES (8 * MIB)  /* of a control group's limit: page tables and the like */

struct store {
	const struct chunk_form *form; /* [c] */
	enum pool_verify verify;       /* [c] */
	void (*done)(void *ctx);       /* [c] */
	void *ctx;		       /* [c] */
	int event_fd;		       /* [c] */
	struct loop_source *source;    /* [l] */
	pthread_t *threads;	       /* [c] */
	unsigned thread_count;	       /* [c] */
	atomic_bool stop;	       /* [a] */

	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t work;
	struct chunk *first, **end;
	struct chunk *done_first, **done_end;
	uint64_t done_ns;	/* when the first of them was done */
	bool told;		/* the loop knows that there are some */
	uint64_t filling_bytes; /* being populated now: not yet seen in MemAvailable */
	struct store_counts counts;
	struct kv_err err;
};

/* Memory that can be had without pushing others out, or UINT64_MAX when the kernel does not say. */
static uint64_t memory_free(void)
{
	MEM_SCOPED char *text = NULL;
	const char *line;
	unsigned long long kib;

	if (file_read_all("/proc/meminfo", 64 * KIB, &text) < 0)
		return UINT64_MAX;
	line = strstr(text, "MemAvailable:");
	if (!line || sscanf(line, "MemAvailable: %llu", &kib) != 1)
		return UINT64_MAX;
	return kib * KIB;
}

static void fill_end(struct store *store, uint64_t bytes)
{
	pthread_mutex_lock(&store->lock);
	if (store->form->page_bytes == PAGE_BYTES)
		store->filling_bytes -= bytes;
	pthread_mutex_unlock(&store->lock);
}

/*
 * The kernel hands out small pages until the OOM killer comes, so look before. Huge pages are
 * reserved by mmap(), which fails in time.
 */
static int fill_begin(struct store *store, uint64_t bytes, struct kv_err *err)
{
	uint64_t need, have, total, free = 0;
	bool bound = false;
	char size[24];
	int r;

	if (store->form->page_bytes != PAGE_BYTES)
		return 0;
	/* First of all, so that what others finish meanwhile is counted at least once. */
	pthread_mutex_lock(&store->lock);
	store->filling_bytes += bytes;
	need = store->filling_bytes;
	pthread_mutex_unlock(&store->lock);
	have = memory_free();
	/* What is bound to a node is not taken from others. */
	if (store->form->node >= 0)
		bound = gmem_node_memory((unsigned)store->form->node, &total, &free) && free < have;
	have = bound ? free : have;
	if (have >= need + SPARE_BYTES)
		r = gmem_group_check(need + GROUP_SPARE_BYTES, "a chunk",
			", or take a smaller pool: kvick pool shrink", err);
	else if (bound)
		r = err_set(err, -ENOMEM, "a chunk of %s: NUMA node %d has only %llu MiB to spare",
			size_format(store->form->bytes, size, sizeof(size)), store->form->node,
			(unsigned long long)(have / MIB));
	else
		r = err_set(err, -ENOMEM,
			"a chunk of %s: the host has only %llu MiB to spare (MemAvailable)",
			size_format(store->form->bytes, size, sizeof(size)),
			(unsigned long long)(have / MIB));
	if (r < 0)
		fill_end(store, bytes);
	return r;
}

static int job_fill(struct store *store, struct chunk *chunk)
{
	struct kv_err err = {0};
	int r = fill_begin(store, store->form->bytes, &err);

	if (!r) {
		r = chunk_make(&chunk->mem, store->form, &store->stop, &err);
		fill_end(store, store->form->bytes);
	}
	chunk->bound = chunk->lent = false;
	if (r < 0) {
		pthread_mutex_lock(&store->lock);
		store->err = err;
		pthread_mutex_unlock(&store->lock);
	}
	return r;
}

/* Processor time, so that what else the machine does is not counted. */
static uint64_t cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Wake the loop if chunks are done of which it does not know. Called with the lock. */
static void done_send(struct store *store)
{
	uint64_t one = 1;

	if (store->told || !store->done_first)
		return;
	store->told = true;
	while (write(store->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* What is done does not wait for a job that takes longer than it looked. */
static void job_long(struct store *store)
{
	pthread_mutex_lock(&store->lock);
	done_send(store);
	pthread_mutex_unlock(&store->lock);
}

static int job_renew(struct store *store, struct chunk *chunk)
{
	uint64_t start = cpu_ns();
	int r;

	job_long(store);
	chunk_drop(&chunk->mem, store->form, chunk->lent);
	r = job_fill(store, chunk);
	if (!r) {
		pthread_mutex_lock(&store->lock);
		store->counts.renewed_bytes += store->form->bytes;
		store->counts.renewed_ns += cpu_ns() - start;
		pthread_mutex_unlock(&store->lock);
	}
	return r;
}

/* One page in 64, or all. */
static bool chunk_verify(const struct store *store, const struct chunk *chunk)
{
	if (store->verify == POOL_VERIFY_ALL)
		return pool_is_zero(chunk->mem.map, store->form->bytes);
	if (store->verify == POOL_VERIFY_SAMPLE)
		for (uint64_t at = 0; at < store->form->bytes; at += 64 * PAGE_BYTES)
			if (!pool_is_zero((char *)chunk->mem.map + at, PAGE_BYTES))
				return false;
	return true;
}

/* A client may have punched holes into the chunk, whose memory others may have by now. */
static int holes_fill(struct store *store, struct chunk *chunk)
{
	int64_t bytes = chunk_holes(&chunk->mem, store->form);
	int r;

	if (bytes <= 0)
		return (int)bytes;
	r = fill_begin(store, (uint64_t)bytes, NULL);
	if (r < 0)
		return r;
	r = chunk_populate(&chunk->mem, store->form, &store->stop);
	fill_end(store, (uint64_t)bytes);
	return r;
}

static int clean_here(struct store *store, struct chunk *chunk)
{
	const struct pool_span *none = (const struct pool_span *)"";
	const struct pool_span *spans = chunk->span_count ? chunk->spans : none;
	uint64_t start = cpu_ns(), bytes;
	int r = holes_fill(store, chunk);

	if (r < 0)
		return r;
	r = chunk_clean(&chunk->mem, store->form, chunk->spans_known ? spans : NULL,
		chunk->span_count, &bytes);
	if (r < 0)
		return r;
	pthread_mutex_lock(&store->lock);
	store->counts.cleaned_bytes += bytes;
	store->counts.cleaned_ns += cpu_ns() - start;
	pthread_mutex_unlock(&store->lock);
	if (!chunk_verify(store, chunk)) {
		pthread_mutex_lock(&store->lock);
		store->counts.verify_failed++;
		pthread_mutex_unlock(&store->lock);
		return -EIO;
	}
	return chunk_lend(&chunk->mem);
}

/* -EAGAIN: somebody still holds the chunk; to be tried again after others. */
static int job_clean(struct store *store, struct chunk *chunk)
{
	if (!chunk_alone(&chunk->mem)) {
		struct timespec pause = {.tv_nsec = HELD_TRY_NS};

		if (clock_ns() - chunk->ended_ns < HELD_NS) {
			job_long(store);
			nanosleep(&pause, NULL);
			return -EAGAIN;
		}
		pthread_mutex_lock(&store->lock);
		store->counts.held_chunks++;
		pthread_mutex_unlock(&store->lock);
		return job_renew(store, chunk);
	}
	if (clean_here(store, chunk) < 0)
		return job_renew(store, chunk);
	return 0;
}

static int job_run(struct store *store, struct chunk *chunk)
{
	switch (chunk->job) {
	case JOB_FILL:
		return job_fill(store, chunk);
	case JOB_CLEAN:
		return job_clean(store, chunk);
	case JOB_RENEW:
		return job_renew(store, chunk);
	case JOB_DROP:
		chunk_drop(&chunk->mem, store->form, chunk->lent);
		return 0;
	}
	return -EINVAL;
}

/* Called with the lock. */
static void queue_put(struct chunk ***end, struct chunk *chunk)
{
	chunk->next = NULL;
	**end = chunk;
	*end = &chunk->next;
}

/* Called with the lock. */
static struct chunk *queue_get(struct chunk **first, struct chunk ***end)
{
	struct chunk *chunk = *first;

	if (chunk) {
		*first = chunk->next;
		if (!*first)
			*end = first;
	}
	return chunk;
}

/* Whether cleaning @chunk is a matter of microseconds, when nobody holds it any more. */
static bool job_short(const struct store *store, const struct chunk *chunk)
{
	uint64_t pages = 0;

	if (chunk->job != JOB_CLEAN || !chunk->spans_known || store->verify == POOL_VERIFY_ALL)
		return false;
	for (uint32_t i = 0; i < chunk->span_count && pages <= SHORT_PAGES; i++)
		pages += chunk->spans[i].pages;
	return pages <= SHORT_PAGES;
}

/* Called with the lock, after each job: wake the loop now, or let some more get ready. */
static void done_tell(struct store *store)
{
	if (store->first && job_short(store, store->first) && clock_ns() - store->done_ns < TELL_NS)
		return;
	done_send(store);
}

static void *store_thread(void *ctx)
{
	struct store *store = ctx;

	/* Machines at work come first. */
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
	pthread_mutex_lock(&store->lock);
	for (;;) {
		struct chunk *chunk;
		int r;

		while (!atomic_load(&store->stop) && !store->first)
			pthread_cond_wait(&store->work, &store->lock);
		if (atomic_load(&store->stop))
			break;
		chunk = queue_get(&store->first, &store->end);
		pthread_mutex_unlock(&store->lock);
		r = job_run(store, chunk);
		pthread_mutex_lock(&store->lock);
		if (r == -EAGAIN && chunk->job == JOB_CLEAN) {
			queue_put(&store->end, chunk);
		} else {
			chunk->result = r;
			if (!store->done_first)
				store->done_ns = clock_ns();
			queue_put(&store->done_end, chunk);
		}
		done_tell(store);
	}
	pthread_mutex_unlock(&store->lock);
	return NULL;
}

static void store_ready(void *ctx, uint32_t events)
{
	struct store *store = ctx;
	uint64_t count;

	if (read(store->event_fd, &count, sizeof(count)) == sizeof(count))
		store->done(store->ctx);
}

/* The threads take no signals: those are the program's. */
static int threads_start(struct store *store, unsigned threads)
{
	sigset_t all, before;
	int r = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (!r && store->thread_count < threads) {
		r = -pthread_create(
			&store->threads[store->thread_count], NULL, store_thread, store);
		if (!r)
			store->thread_count++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int store_create(struct store **ret, struct loop *loop, const struct chunk_form *form,
	unsigned threads, enum pool_verify verify, void (*done)(void *ctx), void *ctx)
{
	struct store *store = calloc(1, sizeof(*store));
	int r = -ENOMEM;

	if (!store)
		return -ENOMEM;
	*store = (struct store){.form = form, .verify = verify, .done = done, .ctx = ctx};
	pthread_mutex_init(&store->lock, NULL);
	pthread_cond_init(&store->work, NULL);
	store->end = &store->first;
	store->done_end = &store->done_first;
	store->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (store->event_fd < 0)
		r = -errno;
	store->threads = calloc(threads, sizeof(*store->threads));
	if (store->event_fd >= 0 && store->threads)
		r = loop_add_fd(loop, store->event_fd, EPOLLIN, store_ready, store, &store->source);
	if (!r)
		r = threads_start(store, threads);
	if (r < 0) {
		store_destroy(store);
		return r;
	}
	*ret = store;
	return 0;
}

void store_destroy(struct store *store)
{
	if (!store)
		return;
	atomic_store(&store->stop, true);
	pthread_mutex_lock(&store->lock);
	pthread_cond_broadcast(&store->work);
	pthread_mutex_unlock(&store->lock);
	for (unsigned i = 0; i < store->thread_count; i++)
		pthread_join(store->threads[i], NULL);
	loop_remove(store->source);
	fd_close(&store->event_fd);
	pthread_cond_destroy(&store->work);
	pthread_mutex_destroy(&store->lock);
	free(store->threads);
	free(store);
}

void store_push(struct store *store, struct chunk *chunks)
{
	pthread_mutex_lock(&store->lock);
	for (struct chunk *chunk = chunks, *next; chunk; chunk = next) {
		next = chunk->next;
		queue_put(&store->end, chunk);
		pthread_cond_signal(&store->work);
	}
	pthread_mutex_unlock(&store->lock);
}

struct chunk *store_take(struct store *store, struct kv_err *err)
{
	struct chunk *chunk;

	pthread_mutex_lock(&store->lock);
	chunk = queue_get(&store->done_first, &store->done_end);
	if (!chunk)
		store->told = false;
	else if (chunk->result < 0 && err)
		*err = store->err;
	pthread_mutex_unlock(&store->lock);
	return chunk;
}

void store_counts(struct store *store, struct store_counts *counts)
{
	pthread_mutex_lock(&store->lock);
	*counts = store->counts;
	pthread_mutex_unlock(&store->lock);
}
