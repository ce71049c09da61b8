/* SPDX-License-Identifier: Apache-2.0 */
/* loop/thread: a loop that another thread runs, and that is held and changed from here. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/thread.h"

#define MS   1000000ULL
#define LONG (20000 * MS)

/* A source whose handler says when and where it was called. */
struct bell {
	int fd;
	sem_t rung, go;
	bool waits; /* in its handler, for go */
	pthread_t by;
	atomic_uint calls;
	struct loop_source *source;
};

static void bell_ready(void *ctx, uint32_t events)
{
	struct bell *bell = ctx;
	uint64_t count;

	assert_int_equal(read(bell->fd, &count, sizeof(count)), sizeof(count));
	bell->by = pthread_self();
	bell->calls++;
	sem_post(&bell->rung);
	if (bell->waits)
		sem_wait(&bell->go);
}

static void bell_make(struct bell *bell, struct loop_thread *thread)
{
	*bell = (struct bell){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	sem_init(&bell->rung, 0, 0);
	sem_init(&bell->go, 0, 0);
	assert_int_equal(loop_add_fd(loop_thread_loop(thread), bell->fd, EPOLLIN, bell_ready, bell,
				 &bell->source),
		0);
}

static void bell_free(struct bell *bell)
{
	loop_remove(bell->source);
	close(bell->fd);
	sem_destroy(&bell->rung);
	sem_destroy(&bell->go);
}

static void ring(struct bell *bell)
{
	assert_int_equal(eventfd_write(bell->fd, 1), 0);
}

static struct loop_thread *thread_make(const char *name)
{
	struct loop_thread *thread = NULL;

	assert_int_equal(loop_thread_create(&thread, name), 0);
	return thread;
}

static void test_serves(void **state)
{
	struct loop_thread *thread = thread_make("kvick 0123456789");
	struct kv_err err = {0};
	struct bell bell;
	char name[32];

	bell_make(&bell, thread);
	/* Nobody is there, which is as good as nobody who works. */
	loop_thread_pause(thread);
	assert_int_equal(loop_thread_parked(thread, 0), 0);
	loop_thread_resume(thread);
	ring(&bell);
	assert_int_equal(loop_thread_start(thread, &err), 0);
	sem_wait(&bell.rung);
	assert_false(pthread_equal(bell.by, pthread_self()));
	assert_int_equal(pthread_getname_np(bell.by, name, sizeof(name)), 0);
	assert_string_equal(name, "kvick 012345678");
	loop_thread_pause(thread);
	assert_int_equal(loop_thread_parked(thread, LONG), 0);
	bell_free(&bell);
	loop_thread_destroy(thread);
}

static void test_pauses(void **state)
{
	struct loop_thread *thread = thread_make("kvick x");
	struct kv_err err = {0};
	struct bell bell, late;

	bell_make(&bell, thread);
	assert_int_equal(loop_thread_start(thread, &err), 0);
	for (unsigned i = 1; i <= 20; i++) {
		loop_thread_pause(thread);
		assert_int_equal(loop_thread_parked(thread, UINT64_MAX), 0);
		ring(&bell);
		usleep(1000);
		assert_int_equal(bell.calls, i - 1);
		loop_thread_resume(thread);
		sem_wait(&bell.rung);
		assert_int_equal(bell.calls, i);
	}
	/* One that is at work is waited for. */
	loop_thread_pause(thread);
	assert_int_equal(loop_thread_parked(thread, LONG), 0);
	bell.waits = true;
	loop_thread_resume(thread);
	ring(&bell);
	sem_wait(&bell.rung);
	loop_thread_pause(thread);
	assert_int_equal(loop_thread_parked(thread, 5 * MS), -ETIMEDOUT);
	loop_thread_resume(thread);
	loop_thread_pause(thread);
	sem_post(&bell.go);
	assert_int_equal(loop_thread_parked(thread, LONG), 0);
	/* Who waited may change what the loop serves. */
	bell_free(&bell);
	bell_make(&late, thread);
	ring(&late);
	loop_thread_resume(thread);
	sem_wait(&late.rung);
	/* Ended while it is parked. */
	loop_thread_pause(thread);
	assert_int_equal(loop_thread_parked(thread, LONG), 0);
	bell_free(&late);
	loop_thread_destroy(thread);
	loop_thread_destroy(thread_make("kvick y"));
	loop_thread_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_serves),
		cmocka_unit_test(test_pauses),
	};

	return cmocka_run_group_tests_name("loop_thread", tests, NULL, NULL);
}
