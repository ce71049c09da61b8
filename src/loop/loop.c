/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "trace/exits.h"
#include "trace/timeline.h"

#define BATCH 32 /* events fetched by one system call */

#define NOT_ARMED SIZE_MAX

struct loop_source {
	struct loop *loop; /* [c] */
	loop_fn fn;	   /* [c] */
	void *ctx;	   /* [c] */
	int fd;		   /* [c] -1: a timer */
	size_t heap_at;	   /* timer: place in the heap, NOT_ARMED; under the loop's lock */
	uint64_t due_ns;   /* timer: CLOCK_MONOTONIC; under the loop's lock */

	/* Of a branch's sources: */
	struct loop *branch;		 /* [c] or NULL */
	struct loop_source *prev, *next; /* [l] in the branch's list */
	uint32_t events;		 /* [l] what to watch for, while it is off, too */
	bool off;  /* [l] descriptor: it was ready while the branch was held */
	bool late; /* timer: it was due while the branch was held; under the loop's lock */
};

struct post {
	struct post *next;
	void (*fn)(void *ctx);
	void *ctx;
};

struct loop {
	struct loop *trunk;	     /* [c] of a branch, which uses the next two only; or NULL */
	bool held;		     /* [l] */
	struct loop_source *sources; /* [l] */

	int epoll_fd;		/* [c] */
	int wake_fd;		/* [c] eventfd */
	_Atomic bool stop;	/* [a] */
	struct exits_cpu *work; /* [l] or NULL */

	/* [l] the batch at work; what a stopped run left in it is served by the next run */
	struct epoll_event ready[BATCH];
	int ready_at;
	int ready_count;

	pthread_mutex_t lock; /* guards all below; taken last, nothing is called under it */
	bool waiting;	      /* the loop thread sleeps or is about to: who adds work wakes it */
	struct post *post_first;
	struct post **post_end;
	size_t timer_count; /* all timers, armed or not: the heap has room for them */
	size_t heap_count;
	size_t heap_room;
	struct loop_source **heap; /* armed timers, the earliest at 0 */
};

int loop_create(struct loop **ret)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	/* A null pointer is the mark of the wake-up. */
	struct epoll_event event = {.events = EPOLLIN};
	int r;

	if (!loop)
		return -ENOMEM;
	loop->post_end = &loop->post_first;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0) {
		r = -errno;
		goto err_free;
	}
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0) {
		r = -errno;
		goto err_epoll;
	}
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
		r = -errno;
		goto err_wake;
	}
	pthread_mutex_init(&loop->lock, NULL);
	*ret = loop;
	return 0;

err_wake:
	fd_close(&loop->wake_fd);
err_epoll:
	fd_close(&loop->epoll_fd);
err_free:
	free(loop);
	return r;
}

int loop_branch(struct loop **ret, struct loop *trunk)
{
	struct loop *branch = calloc(1, sizeof(*branch));

	if (!branch)
		return -ENOMEM;
	branch->trunk = trunk;
	*ret = branch;
	return 0;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->trunk) {
		free(loop);
		return;
	}
	for (struct post *post = loop->post_first, *next; post; post = next) {
		next = post->next;
		free(post);
	}
	free(loop->heap);
	fd_close(&loop->wake_fd);
	fd_close(&loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

/* Async-signal-safe. The counter cannot overflow into EAGAIN before 2^64 unread wake-ups. */
static void wake(struct loop *loop)
{
	int saved = errno;
	uint64_t one = 1;
	ssize_t n;

	do {
		n = write(loop->wake_fd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
	errno = saved;
}

/* Called with the lock, which it releases. */
static void unlock_and_wake(struct loop *loop, bool work)
{
	bool sleeping = work && loop->waiting;

	if (sleeping)
		loop->waiting = false;
	pthread_mutex_unlock(&loop->lock);
	if (sleeping)
		wake(loop);
}

/* A new source of @loop, which may be a branch; NULL: out of memory. */
static struct loop_source *source_make(struct loop *loop, int fd, loop_fn fn, void *ctx)
{
	struct loop_source *source = calloc(1, sizeof(*source));

	if (!source)
		return NULL;
	*source = (struct loop_source){
		.loop = loop, .fn = fn, .ctx = ctx, .fd = fd, .heap_at = NOT_ARMED};
	if (loop->trunk) {
		source->loop = loop->trunk;
		source->branch = loop;
		source->next = loop->sources;
		if (source->next)
			source->next->prev = source;
		loop->sources = source;
	}
	return source;
}

static void source_free(struct loop_source *source)
{
	if (source->prev)
		source->prev->next = source->next;
	else if (source->branch)
		source->branch->sources = source->next;
	if (source->next)
		source->next->prev = source->prev;
	free(source);
}

int loop_add_fd(
	struct loop *loop, int fd, uint32_t events, loop_fn fn, void *ctx, struct loop_source **ret)
{
	struct loop_source *source = source_make(loop, fd, fn, ctx);
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (!source)
		return -ENOMEM;
	source->events = events;
	if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		int r = -errno;

		source_free(source);
		return r;
	}
	*ret = source;
	return 0;
}

int loop_mod_fd(struct loop_source *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (source->fd < 0)
		return -EINVAL;
	source->events = events;
	if (source->off)
		return 0;
	if (epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0)
		return -errno;
	return 0;
}

/*
 * Do not hear of @source any more until source_on(). It stays in the set, so that coming back
 * cannot fail; hanging up, which cannot be masked, is then reported once at most.
 */
static void source_off(struct loop_source *source)
{
	struct epoll_event event = {.events = EPOLLET, .data.ptr = source};

	if (!source->off)
		epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
	source->off = true;
}

/* What became ready meanwhile is reported anew. */
static void source_on(struct loop_source *source)
{
	struct epoll_event event = {.events = source->events, .data.ptr = source};

	source->off = false;
	epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
}

void loop_hold(struct loop *branch, bool hold)
{
	struct loop *loop = branch->trunk;

	branch->held = hold;
	if (hold)
		return;
	for (struct loop_source *source = branch->sources; source; source = source->next) {
		bool late;

		if (source->off)
			source_on(source);
		pthread_mutex_lock(&loop->lock);
		late = source->late;
		pthread_mutex_unlock(&loop->lock);
		if (late)
			loop_set_timer(source, 1);
	}
}

/* The heap: all four are called with the lock. */

static void heap_put(struct loop *loop, size_t at, struct loop_source *timer)
{
	loop->heap[at] = timer;
	timer->heap_at = at;
}

/* Move the timer at @at up or down to where its time belongs. */
static void heap_fix(struct loop *loop, size_t at)
{
	struct loop_source *timer = loop->heap[at];

	while (at > 0 && timer->due_ns < loop->heap[(at - 1) / 2]->due_ns) {
		heap_put(loop, at, loop->heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	for (;;) {
		size_t child = 2 * at + 1;

		if (child + 1 < loop->heap_count &&
			loop->heap[child + 1]->due_ns < loop->heap[child]->due_ns)
			child++;
		if (child >= loop->heap_count || timer->due_ns <= loop->heap[child]->due_ns)
			break;
		heap_put(loop, at, loop->heap[child]);
		at = child;
	}
	heap_put(loop, at, timer);
}

static void heap_drop(struct loop *loop, struct loop_source *timer)
{
	size_t at = timer->heap_at;
	struct loop_source *last;

	if (at == NOT_ARMED)
		return;
	timer->heap_at = NOT_ARMED;
	last = loop->heap[--loop->heap_count];
	if (last == timer)
		return;
	heap_put(loop, at, last);
	heap_fix(loop, at);
}

/* Make room for one more timer. */
static int heap_reserve(struct loop *loop)
{
	struct loop_source **grown;

	if (loop->timer_count < loop->heap_room)
		return 0;
	grown = reallocarray(loop->heap, loop->heap_room + 8, 2 * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	loop->heap = grown;
	loop->heap_room = (loop->heap_room + 8) * 2;
	return 0;
}

int loop_add_timer(struct loop *loop, loop_fn fn, void *ctx, struct loop_source **ret)
{
	struct loop_source *source = source_make(loop, -1, fn, ctx);
	int r;

	if (!source)
		return -ENOMEM;
	loop = source->loop;
	pthread_mutex_lock(&loop->lock);
	r = heap_reserve(loop);
	if (!r)
		loop->timer_count++;
	pthread_mutex_unlock(&loop->lock);
	if (r < 0) {
		source_free(source);
		return r;
	}
	*ret = source;
	return 0;
}

int loop_set_timer(struct loop_source *source, uint64_t ns)
{
	struct loop *loop = source->loop;
	uint64_t due;

	if (source->fd >= 0)
		return -EINVAL;
	if (ns && __builtin_add_overflow(clock_ns(), ns, &due))
		due = UINT64_MAX;
	pthread_mutex_lock(&loop->lock);
	heap_drop(loop, source);
	source->late = false;
	if (ns) {
		source->due_ns = due;
		heap_put(loop, loop->heap_count++, source);
		heap_fix(loop, source->heap_at);
	}
	unlock_and_wake(loop, source->heap_at == 0);
	return 0;
}

void loop_remove(struct loop_source *source)
{
	struct loop *loop;

	if (!source)
		return;
	loop = source->loop;
	if (source->fd >= 0) {
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
		/* Its event may have been fetched already: a zero mask is passed over. */
		for (int i = loop->ready_at; i < loop->ready_count; i++)
			if (loop->ready[i].data.ptr == source)
				loop->ready[i].events = 0;
	} else {
		pthread_mutex_lock(&loop->lock);
		heap_drop(loop, source);
		loop->timer_count--;
		pthread_mutex_unlock(&loop->lock);
	}
	source_free(source);
}

int loop_post(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
	struct post *post = malloc(sizeof(*post));

	if (!post)
		return -ENOMEM;
	if (loop->trunk)
		loop = loop->trunk;
	*post = (struct post){.fn = fn, .ctx = ctx};
	pthread_mutex_lock(&loop->lock);
	*loop->post_end = post;
	loop->post_end = &post->next;
	unlock_and_wake(loop, true);
	return 0;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	wake(loop);
}

/*
 * How long the loop may sleep: false means for ever. From here on until the batch is there, who
 * adds work wakes the loop.
 */
static bool sleep_begin(struct loop *loop, struct timespec *timeout)
{
	bool bounded = true;
	uint64_t ns = 0;

	pthread_mutex_lock(&loop->lock);
	if (!loop->post_first && loop->heap_count) {
		uint64_t due = loop->heap[0]->due_ns, now = clock_ns();

		ns = due > now ? due - now : 0;
	} else if (!loop->post_first) {
		bounded = false;
	}
	loop->waiting = true;
	pthread_mutex_unlock(&loop->lock);
	timeout->tv_sec = (time_t)(ns / 1000000000);
	timeout->tv_nsec = (long)(ns % 1000000000);
	return bounded;
}

/* Kernels before 5.11 and some sandboxes have only the call with milliseconds. */
static int wait_coarse(struct loop *loop, const struct timespec *timeout)
{
	int ms = -1;

	if (timeout && timeout->tv_sec < 1000000)
		ms = (int)(timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000);
	else if (timeout)
		ms = 1000000000;
	return epoll_wait(loop->epoll_fd, loop->ready, BATCH, ms);
}

/* Fetch the next batch. Returns 0 or -errno. */
static int batch_wait(struct loop *loop)
{
	struct timespec timeout;
	bool bounded = sleep_begin(loop, &timeout);
	int n = epoll_pwait2(loop->epoll_fd, loop->ready, BATCH, bounded ? &timeout : NULL, NULL);
	int r;

	if (n < 0 && errno == ENOSYS)
		n = wait_coarse(loop, bounded ? &timeout : NULL);
	r = n < 0 && errno != EINTR ? -errno : 0;
	pthread_mutex_lock(&loop->lock);
	loop->waiting = false;
	pthread_mutex_unlock(&loop->lock);
	loop->ready_at = 0;
	loop->ready_count = n > 0 ? n : 0;
	return r;
}

void loop_trace(struct loop *loop, struct exits_cpu *work)
{
	loop->work = work;
	if (work)
		exits_begin(work);
}

/* Call a handler, which may free the source. */
static void source_call(struct loop *loop, struct loop_source *source, uint32_t events)
{
	uint64_t address = source->fd > 0 ? (uint64_t)source->fd : 0, start;

	if (!loop->work) {
		source->fn(source->ctx, events);
		return;
	}
	start = clock_ns();
	source->fn(source->ctx, events);
	exits_add(loop->work, start, 0, EXIT_OTHER, address);
}

/* A handler may free any source: after it, only the loop itself is touched. */
static void batch_run(struct loop *loop)
{
	while (loop->ready_at < loop->ready_count && !atomic_load(&loop->stop)) {
		const struct epoll_event *event = &loop->ready[loop->ready_at++];
		struct loop_source *source = event->data.ptr;
		uint64_t count;
		ssize_t n;

		if (!source) {
			/* Only to make it unreadable; what there is to do is found by looking. */
			n = read(loop->wake_fd, &count, sizeof(count));
			(void)n;
		} else if (!event->events) {
			continue; /* removed meanwhile */
		} else if (source->branch && source->branch->held) {
			source_off(source);
		} else {
			source_call(loop, source, event->events);
		}
	}
}

/* Timers due by now; one that its handler arms again has to wait for the next round. */
static void timers_run(struct loop *loop)
{
	uint64_t now = 0;

	while (!atomic_load(&loop->stop)) {
		struct loop_source *timer = NULL;
		bool held = false;

		pthread_mutex_lock(&loop->lock);
		if (loop->heap_count) {
			if (!now)
				now = clock_ns();
			timer = loop->heap[0];
			if (timer->due_ns <= now)
				heap_drop(loop, timer);
			else
				timer = NULL;
			if (timer && timer->branch && timer->branch->held)
				timer->late = held = true;
		}
		pthread_mutex_unlock(&loop->lock);
		if (!timer)
			return;
		if (!held)
			source_call(loop, timer, 0);
	}
}

/* The calls posted by now; those they post wait for the next round. */
static void posts_run(struct loop *loop)
{
	struct post **end, *post;

	pthread_mutex_lock(&loop->lock);
	end = loop->post_end;
	post = loop->post_first;
	pthread_mutex_unlock(&loop->lock);
	while (post && !atomic_load(&loop->stop)) {
		bool last = end == &post->next;

		pthread_mutex_lock(&loop->lock);
		loop->post_first = post->next;
		if (!loop->post_first)
			loop->post_end = &loop->post_first;
		pthread_mutex_unlock(&loop->lock);
		post->fn(post->ctx);
		free(post);
		if (last)
			return;
		/* Only this thread takes posts away, and there is one before @end. */
		pthread_mutex_lock(&loop->lock);
		post = loop->post_first;
		pthread_mutex_unlock(&loop->lock);
	}
}

int loop_run(struct loop *loop)
{
	int r = 0;

	while (!r && !atomic_load(&loop->stop)) {
		if (loop->ready_at == loop->ready_count)
			r = batch_wait(loop);
		batch_run(loop);
		timers_run(loop);
		posts_run(loop);
	}
	atomic_store(&loop->stop, false);
	return r;
}
