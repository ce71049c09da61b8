/* SPDX-License-Identifier: Apache-2.0 */
/* loop/: descriptors, timers, posts, stopping. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/num.h"
#include "loop/loop.h"
#include "trace/timeline.h"

#define MS 1000000ULL

static int setup(void **state)
{
	struct loop *loop = NULL;

	if (loop_create(&loop) < 0)
		return -1;
	*state = loop;
	return 0;
}

static int teardown(void **state)
{
	loop_destroy(*state);
	return 0;
}

static void stop(void *ctx)
{
	loop_stop(ctx);
}

static void stop_timer(void *ctx, uint32_t events)
{
	assert_int_equal(events, 0);
	loop_stop(ctx);
}

/* Run what is ready and return: the post stands behind it. */
static void run_once(struct loop *loop)
{
	assert_int_equal(loop_post(loop, stop, loop), 0);
	assert_int_equal(loop_run(loop), 0);
}

struct watch {
	struct loop *loop;
	struct loop_source *source;
	struct watch *victim; /* removed by the handler */
	int fd;
	unsigned calls;
	uint32_t events;
};

static void watch_fn(void *ctx, uint32_t events)
{
	struct watch *watch = ctx;

	watch->calls++;
	watch->events = events;
	if (watch->victim) {
		struct watch *victim = watch->victim;

		watch->victim = NULL;
		victim->victim = NULL;
		loop_remove(victim->source);
		victim->source = NULL;
	}
}

static struct watch watch_add(struct loop *loop, int fd)
{
	return (struct watch){.loop = loop, .fd = fd};
}

static void test_fd(void **state)
{
	struct loop *loop = *state;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct watch watch = watch_add(loop, fd);
	struct loop_source *again = NULL;
	uint64_t value = 1;

	assert_int_equal(loop_add_fd(loop, fd, EPOLLIN, watch_fn, &watch, &watch.source), 0);
	assert_int_equal(loop_add_fd(loop, fd, EPOLLIN, watch_fn, &watch, &again), -EEXIST);
	assert_null(again);
	assert_int_equal(loop_set_timer(watch.source, 1), -EINVAL);
	run_once(loop);
	assert_int_equal(watch.calls, 0);
	assert_int_equal(write(fd, &value, sizeof(value)), sizeof(value));
	run_once(loop);
	run_once(loop);
	assert_int_equal(watch.calls, 2);
	assert_int_equal(watch.events, EPOLLIN);
	assert_int_equal(loop_mod_fd(watch.source, EPOLLOUT), 0);
	run_once(loop);
	assert_int_equal(watch.events, EPOLLOUT);
	assert_int_equal(loop_mod_fd(watch.source, 0), 0);
	run_once(loop);
	assert_int_equal(watch.calls, 3);
	loop_remove(watch.source);
	run_once(loop);
	assert_int_equal(watch.calls, 3);
	/* The same descriptor can be watched anew. */
	assert_int_equal(loop_add_fd(loop, fd, EPOLLIN, watch_fn, &watch, &watch.source), 0);
	run_once(loop);
	assert_int_equal(watch.calls, 4);
	loop_remove(watch.source);
	close(fd);
}

static void test_fd_refused(void **state)
{
	struct loop *loop = *state;
	int fd = memfd_create("regular", MFD_CLOEXEC);
	struct watch watch = watch_add(loop, fd);

	assert_true(fd >= 0);
	assert_int_equal(loop_add_fd(loop, fd, EPOLLIN, watch_fn, &watch, &watch.source), -EPERM);
	close(fd);
	assert_int_equal(loop_add_fd(loop, fd, EPOLLIN, watch_fn, &watch, &watch.source), -EBADF);
	assert_null(watch.source);
}

/* Handlers remove themselves and each other while both have events in the same batch. */
static void test_remove_in_batch(void **state)
{
	struct loop *loop = *state;
	struct watch watches[24];

	for (unsigned i = 0; i < ARRAY_LEN(watches); i++) {
		watches[i] = watch_add(loop, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
		watches[i].victim = &watches[i ^ 1];
		assert_int_equal(loop_add_fd(loop, watches[i].fd, EPOLLIN, watch_fn, &watches[i],
					 &watches[i].source),
			0);
	}
	run_once(loop);
	for (unsigned i = 0; i < ARRAY_LEN(watches); i += 2) {
		struct watch *left = watches[i].source ? &watches[i] : &watches[i + 1];

		/* One of each pair came first and took the other's turn away. */
		assert_int_equal(watches[i].calls + watches[i + 1].calls, 1);
		assert_int_equal(left->calls, 1);
		left->victim = left;
	}
	run_once(loop);
	for (unsigned i = 0; i < ARRAY_LEN(watches); i += 2)
		assert_int_equal(watches[i].calls + watches[i + 1].calls, 2);
	for (unsigned i = 0; i < ARRAY_LEN(watches); i++) {
		assert_null(watches[i].source);
		close(watches[i].fd);
	}
}

static void stopping_fn(void *ctx, uint32_t events)
{
	struct watch *watch = ctx;

	watch->calls++;
	loop_stop(watch->loop);
}

/* An edge that was fetched but not dispatched when the loop stopped is not lost. */
static void test_stop_keeps_batch(void **state)
{
	struct loop *loop = *state;
	struct watch watches[5];
	unsigned calls = 0;

	for (unsigned i = 0; i < ARRAY_LEN(watches); i++) {
		watches[i] = watch_add(loop, eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
		assert_int_equal(loop_add_fd(loop, watches[i].fd, EPOLLIN | EPOLLET, stopping_fn,
					 &watches[i], &watches[i].source),
			0);
	}
	for (unsigned run = 1; run < ARRAY_LEN(watches); run++) {
		assert_int_equal(loop_run(loop), 0);
		calls = 0;
		for (unsigned i = 0; i < ARRAY_LEN(watches); i++)
			calls += watches[i].calls;
		assert_int_equal(calls, run);
	}
	/* The last one goes away while its event waits. */
	for (unsigned i = 0; i < ARRAY_LEN(watches); i++) {
		loop_remove(watches[i].source);
		close(watches[i].fd);
	}
	run_once(loop);
	for (unsigned i = 0; i < ARRAY_LEN(watches); i++)
		calls -= watches[i].calls;
	assert_int_equal(calls, 0);
}

struct alarm {
	struct loop *loop;
	struct loop_source *timer;
	struct alarm *order; /* the first of the array, whose calls counts all */
	uint64_t again_ns;
	unsigned calls;
	unsigned place;
	bool suicide;
};

static void alarm_fn(void *ctx, uint32_t events)
{
	struct alarm *alarm = ctx;

	assert_int_equal(events, 0);
	alarm->calls++;
	if (alarm->order)
		alarm->place = ++alarm->order->calls;
	if (alarm->again_ns)
		loop_set_timer(alarm->timer, alarm->again_ns);
	if (alarm->suicide)
		loop_remove(alarm->timer);
}

static void alarm_add(struct loop *loop, struct alarm *alarm)
{
	alarm->loop = loop;
	assert_int_equal(loop_add_timer(loop, alarm_fn, alarm, &alarm->timer), 0);
}

static void run_for(struct loop *loop, uint64_t ns)
{
	struct loop_source *timer = NULL;

	assert_int_equal(loop_add_timer(loop, stop_timer, loop, &timer), 0);
	assert_int_equal(loop_set_timer(timer, ns), 0);
	assert_int_equal(loop_run(loop), 0);
	loop_remove(timer);
}

static void test_timer(void **state)
{
	struct loop *loop = *state;
	struct alarm fires = {0}, disarmed = {0}, never = {0}, ever = {0}, gone = {.suicide = true};
	uint64_t start;

	alarm_add(loop, &fires);
	alarm_add(loop, &disarmed);
	alarm_add(loop, &never);
	alarm_add(loop, &ever);
	alarm_add(loop, &gone);
	assert_int_equal(loop_mod_fd(fires.timer, EPOLLIN), -EINVAL);
	loop_set_timer(fires.timer, 5 * MS);
	loop_set_timer(disarmed.timer, 1 * MS);
	loop_set_timer(disarmed.timer, 0);
	loop_set_timer(disarmed.timer, 0);
	loop_set_timer(ever.timer, UINT64_MAX);
	loop_set_timer(gone.timer, 1);
	start = clock_ns();
	run_for(loop, 20 * MS);
	assert_true(clock_ns() - start >= 20 * MS);
	assert_int_equal(fires.calls, 1);
	assert_int_equal(disarmed.calls, 0);
	assert_int_equal(never.calls, 0);
	assert_int_equal(ever.calls, 0);
	assert_int_equal(gone.calls, 1);
	/* One shot; armed again it fires again; the later time replaces the earlier. */
	loop_set_timer(fires.timer, 1);
	loop_set_timer(fires.timer, 2 * MS);
	run_for(loop, 10 * MS);
	assert_int_equal(fires.calls, 2);
	loop_remove(fires.timer);
	loop_remove(disarmed.timer);
	loop_remove(never.timer);
	loop_remove(ever.timer);
}

/* A timer that arms itself for at once starves neither posts nor descriptors. */
static void test_timer_busy(void **state)
{
	struct loop *loop = *state;
	struct alarm busy = {.again_ns = 1};

	alarm_add(loop, &busy);
	loop_set_timer(busy.timer, 1);
	run_for(loop, 2 * MS);
	run_once(loop);
	assert_true(busy.calls > 1);
	loop_remove(busy.timer);
}

static void test_timer_order(void **state)
{
	static const unsigned ms[] = {
		9, 3, 7, 1, 8, 2, 6, 4, 5, 10, 14, 12, 11, 13, 20, 17, 16, 15};
	struct loop *loop = *state;
	struct alarm head = {0}, alarms[ARRAY_LEN(ms)] = {0};

	for (unsigned i = 0; i < ARRAY_LEN(ms); i++) {
		alarms[i].order = &head;
		alarm_add(loop, &alarms[i]);
		loop_set_timer(alarms[i].timer, 1000 * MS + i);
	}
	/* Moved within the heap, and three taken out of its middle. */
	for (unsigned i = 0; i < ARRAY_LEN(ms); i++)
		loop_set_timer(alarms[i].timer, ms[i] * 2 * MS);
	for (unsigned i = 3; i < 6; i++)
		loop_set_timer(alarms[i].timer, 0);
	run_for(loop, 60 * MS);
	for (unsigned i = 0; i < ARRAY_LEN(ms); i++) {
		unsigned place = 1;

		for (unsigned j = 0; j < ARRAY_LEN(ms); j++)
			place += (j < 3 || j > 5) && ms[j] < ms[i];
		assert_int_equal(alarms[i].place, i < 3 || i > 5 ? place : 0);
		loop_remove(alarms[i].timer);
	}
}

struct posted {
	struct loop *loop;
	unsigned next;
	unsigned again;
};

static void posted_fn(void *ctx)
{
	struct posted *posted = ctx;

	posted->next++;
	if (posted->again && posted->again--)
		loop_post(posted->loop, posted_fn, posted);
}

static void test_post(void **state)
{
	struct loop *loop = *state;
	struct posted posted = {.loop = loop, .again = 3};

	loop_post(loop, posted_fn, &posted);
	run_once(loop);
	/* What a call posts waits behind what was there. */
	assert_int_equal(posted.next, 1);
	run_once(loop);
	assert_int_equal(posted.next, 2);
	run_once(loop);
	run_once(loop);
	assert_int_equal(posted.next, 4);
	/* What never runs is freed with the loop. */
	loop_post(loop, posted_fn, &posted);
}

static void forever(void *ctx)
{
	struct posted *posted = ctx;

	posted->next++;
	if (posted->again)
		loop_post(posted->loop, forever, posted);
}

/* A call that posts itself starves neither timers nor descriptors. */
static void test_post_busy(void **state)
{
	struct loop *loop = *state;
	struct posted posted = {.loop = loop, .again = 1};

	loop_post(loop, forever, &posted);
	run_for(loop, 2 * MS);
	assert_true(posted.next > 1);
	posted.again = 0;
	run_once(loop);
}

static void test_stop_before_run(void **state)
{
	struct loop *loop = *state;
	struct posted posted = {.loop = loop};

	loop_stop(loop);
	loop_stop(loop);
	loop_post(loop, posted_fn, &posted);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(posted.next, 0);
	run_once(loop);
	assert_int_equal(posted.next, 1);
}

/* Threads post, arm timers and stop while the loop sleeps: no wake-up may be lost. */
#define THREADS 3
#define ROUNDS	2000

struct crowd {
	struct loop *loop;
	struct loop_source *timer;
	unsigned posts, timers; /* loop thread */
	_Atomic unsigned acks;
	_Atomic unsigned done;
};

static void crowd_post(void *ctx)
{
	struct crowd *crowd = ctx;

	crowd->posts++;
	crowd->acks++;
}

static void crowd_timer(void *ctx, uint32_t events)
{
	struct crowd *crowd = ctx;

	crowd->timers++;
}

static void *crowd_thread(void *arg)
{
	struct crowd *crowd = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		loop_set_timer(crowd->timer, 1 + i % 1000);
		if (loop_post(crowd->loop, crowd_post, crowd) < 0)
			abort();
		/* Let the loop fall asleep now and then. */
		while (i % 64 == 0 && crowd->acks < i)
			usleep(50);
	}
	if (++crowd->done == THREADS)
		loop_post(crowd->loop, stop, crowd->loop);
	return NULL;
}

static void test_threads(void **state)
{
	struct crowd crowd = {.loop = *state};
	pthread_t threads[THREADS];

	assert_int_equal(loop_add_timer(crowd.loop, crowd_timer, &crowd, &crowd.timer), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_thread, &crowd), 0);
	assert_int_equal(loop_run(crowd.loop), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(crowd.posts, THREADS * ROUNDS);
	assert_true(crowd.timers > 0);
	loop_remove(crowd.timer);
}

static void *late_timer(void *arg)
{
	usleep(20000);
	loop_set_timer(arg, 1 * MS);
	return NULL;
}

/* A timer armed from outside shortens a sleep that has begun. */
static void test_timer_wakes(void **state)
{
	struct loop *loop = *state;
	struct loop_source *far = NULL, *near = NULL;
	uint64_t start = clock_ns();
	pthread_t thread;

	assert_int_equal(loop_add_timer(loop, stop_timer, loop, &far), 0);
	assert_int_equal(loop_add_timer(loop, stop_timer, loop, &near), 0);
	loop_set_timer(far, 60000 * MS);
	assert_int_equal(pthread_create(&thread, NULL, late_timer, near), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(clock_ns() - start < 30000 * MS);
	pthread_join(thread, NULL);
	loop_remove(far);
	loop_remove(near);
}

/* A signal handler has no argument of its own. */
static struct loop *signal_loop;

static void on_alarm(int signal)
{
	loop_stop(signal_loop);
}

static void test_stop_by_signal(void **state)
{
	struct sigaction action = {.sa_handler = on_alarm}, old;
	struct itimerval timer = {.it_value.tv_usec = 20000};

	signal_loop = *state;
	assert_int_equal(sigaction(SIGALRM, &action, &old), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
	assert_int_equal(loop_run(*state), 0);
	sigaction(SIGALRM, &old, NULL);
}

/* Fails cleanly at each of the two descriptors it needs. */
static void test_no_descriptors(void **state)
{
	struct loop *loop = NULL;
	struct rlimit old, low;
	int next = dup(0);

	assert_true(next >= 0);
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	for (unsigned room = 0; room < 2; room++) {
		int r;

		low = (struct rlimit){(rlim_t)next + room, old.rlim_max};
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
		r = loop_create(&loop);
		setrlimit(RLIMIT_NOFILE, &old);
		assert_int_equal(r, -EMFILE);
		assert_null(loop);
	}
	assert_int_equal(dup(0), next);
	close(next);
}

/* A descriptor that is read when it is ready, and a timer, both counted. */
struct held {
	int fd;
	unsigned read, fired;
};

static void held_read(void *ctx, uint32_t events)
{
	struct held *held = ctx;
	uint64_t n;

	held->read++;
	assert_int_equal(read(held->fd, &n, sizeof(n)), sizeof(n));
}

static void held_fire(void *ctx, uint32_t events)
{
	((struct held *)ctx)->fired++;
}

/* What a held branch missed comes when it goes on; the trunk and other branches go on all along. */
static void test_branch(void **state)
{
	struct loop *loop = *state, *branch = NULL, *other = NULL;
	struct held held = {0}, free_one = {0}, trunk = {0};
	struct loop_source *sources[3], *timer, *unset;

	assert_int_equal(loop_branch(&branch, loop), 0);
	assert_int_equal(loop_branch(&other, loop), 0);
	held.fd = eventfd(1, EFD_NONBLOCK);
	free_one.fd = eventfd(1, EFD_NONBLOCK);
	trunk.fd = eventfd(1, EFD_NONBLOCK);
	assert_int_equal(loop_add_fd(branch, held.fd, EPOLLIN, held_read, &held, &sources[0]), 0);
	assert_int_equal(
		loop_add_fd(other, free_one.fd, EPOLLIN, held_read, &free_one, &sources[1]), 0);
	assert_int_equal(loop_add_fd(loop, trunk.fd, EPOLLIN, held_read, &trunk, &sources[2]), 0);
	assert_int_equal(loop_add_timer(branch, held_fire, &held, &timer), 0);
	assert_int_equal(loop_add_timer(branch, held_fire, &held, &unset), 0);
	loop_set_timer(timer, 1);
	loop_set_timer(unset, 1);
	loop_hold(branch, true);
	for (unsigned i = 0; i < 3; i++)
		run_once(loop);
	assert_int_equal(held.read, 0);
	assert_int_equal(held.fired, 0);
	assert_int_equal(free_one.read, 1);
	assert_int_equal(trunk.read, 1);
	/* Changes made meanwhile count. */
	assert_int_equal(loop_mod_fd(sources[0], 0), 0);
	loop_set_timer(unset, 0);
	loop_hold(branch, false);
	run_once(loop);
	run_once(loop);
	assert_int_equal(held.read, 0);
	assert_int_equal(held.fired, 1);
	loop_hold(branch, true);
	assert_int_equal(loop_mod_fd(sources[0], EPOLLIN), 0);
	run_once(loop);
	run_once(loop);
	loop_hold(branch, false);
	run_once(loop);
	assert_int_equal(held.read, 1);
	/* Removed while it is off. */
	loop_hold(branch, true);
	assert_int_equal(write(held.fd, &(uint64_t){1}, 8), 8);
	run_once(loop);
	loop_remove(sources[0]);
	loop_remove(timer);
	loop_remove(unset);
	loop_hold(branch, false);
	run_once(loop);
	assert_int_equal(held.read, 1);
	loop_remove(sources[1]);
	loop_remove(sources[2]);
	loop_destroy(branch);
	loop_destroy(other);
	close(held.fd);
	close(free_one.fd);
	close(trunk.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_fd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fd_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_remove_in_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_keeps_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_post, setup, teardown),
		cmocka_unit_test_setup_teardown(test_post_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_before_run, setup, teardown),
		cmocka_unit_test_setup_teardown(test_branch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_timer_wakes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_by_signal, setup, teardown),
		cmocka_unit_test(test_no_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
