/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/thread.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/thread.h"
#include "trace/timeline.h"

/* As that of a vCPU's thread, for the same reasons. */
#define STACK_BYTES (256 * 1024)

#define NS_PER_S 1000000000ULL

struct loop_thread {
	struct loop *loop;	   /* [c] */
	struct loop_source *pause; /* [c] timer: the thread waits in its handler */
	char name[16];		   /* [c] */
	pthread_t thread;	   /* the owner's, valid when @started */
	bool started;		   /* the owner's */
	pthread_mutex_t lock;	   /* guards the rest; taken last */
	pthread_cond_t turn;	   /* @hold or @parked changed */
	bool hold;		   /* call no handler */
	bool parked;		   /* in none, and calls none while @hold is set */
};

/* Called in the loop's thread, between handlers of others. */
static void pause_due(void *ctx, uint32_t events)
{
	struct loop_thread *thread = ctx;

	pthread_mutex_lock(&thread->lock);
	while (thread->hold) {
		thread->parked = true;
		pthread_cond_broadcast(&thread->turn);
		pthread_cond_wait(&thread->turn, &thread->lock);
	}
	thread->parked = false;
	pthread_mutex_unlock(&thread->lock);
}

int loop_thread_create(struct loop_thread **ret, const char *name)
{
	struct loop_thread *thread = calloc(1, sizeof(*thread));
	pthread_condattr_t attr;
	int r;

	if (!thread)
		return -ENOMEM;
	r = loop_create(&thread->loop);
	if (!r)
		r = loop_add_timer(thread->loop, pause_due, thread, &thread->pause);
	if (r < 0) {
		loop_destroy(thread->loop);
		free(thread);
		return r;
	}
	snprintf(thread->name, sizeof(thread->name), "%s", name);
	pthread_mutex_init(&thread->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&thread->turn, &attr);
	pthread_condattr_destroy(&attr);
	*ret = thread;
	return 0;
}

void loop_thread_destroy(struct loop_thread *thread)
{
	if (!thread)
		return;
	if (thread->started) {
		loop_stop(thread->loop);
		loop_thread_resume(thread);
		pthread_join(thread->thread, NULL);
	}
	loop_remove(thread->pause);
	loop_destroy(thread->loop);
	pthread_cond_destroy(&thread->turn);
	pthread_mutex_destroy(&thread->lock);
	free(thread);
}

struct loop *loop_thread_loop(struct loop_thread *thread)
{
	return thread->loop;
}

static void *thread_main(void *arg)
{
	struct loop_thread *thread = arg;

	pthread_setname_np(pthread_self(), thread->name);
	loop_run(thread->loop);
	return NULL;
}

int loop_thread_start(struct loop_thread *thread, struct kv_err *err)
{
	int r = thread_start(&thread->thread, STACK_BYTES, 0, thread_main, thread);

	if (r < 0)
		return err_set(err, r, "cannot start the thread %s: %s", thread->name, err_text(r));
	thread->started = true;
	return 0;
}

void loop_thread_pause(struct loop_thread *thread)
{
	pthread_mutex_lock(&thread->lock);
	thread->hold = true;
	pthread_mutex_unlock(&thread->lock);
	loop_set_timer(thread->pause, 1);
}

int loop_thread_parked(struct loop_thread *thread, uint64_t ns)
{
	struct timespec until;
	uint64_t due;
	int r = 0;

	if (!thread->started)
		return 0;
	if (__builtin_add_overflow(clock_ns(), ns, &due))
		due = INT64_MAX;
	until = (struct timespec){(time_t)(due / NS_PER_S), (long)(due % NS_PER_S)};
	pthread_mutex_lock(&thread->lock);
	while (!r && !thread->parked)
		r = pthread_cond_timedwait(&thread->turn, &thread->lock, &until);
	pthread_mutex_unlock(&thread->lock);
	return -r;
}

void loop_thread_resume(struct loop_thread *thread)
{
	pthread_mutex_lock(&thread->lock);
	thread->hold = false;
	pthread_cond_broadcast(&thread->turn);
	pthread_mutex_unlock(&thread->lock);
}
