/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TESTS_CHARDEV_DESK_H
#define KV_TESTS_CHARDEV_DESK_H

/* What the tests of legacy/chardev share: a device with its loop, a receiver, and patience. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "legacy/chardev.h"
#include "legacy/internal.h"
#include "loop/loop.h"
#include "trace/timeline.h"

#define MS 1000000ULL

struct desk {
	struct loop *loop;
	struct loop_source *tick;
	struct chardev *dev;
	struct kv_err err;
	char dir[64];
	int saved[2]; /* descriptors 0 and 1 of the test program, while others stand there */
	unsigned quits;
	size_t room; /* what the receiver takes before it refuses */
	size_t got_used;
	uint8_t got[1 << 17];
};

static inline size_t on_rx(void *ctx, const uint8_t *bytes, size_t len)
{
	struct desk *desk = ctx;
	size_t n = len < desk->room ? len : desk->room;

	assert_true(desk->got_used + n <= sizeof(desk->got));
	memcpy(desk->got + desk->got_used, bytes, n);
	desk->got_used += n;
	desk->room -= n;
	return n;
}

static inline void on_quit(void *ctx)
{
	struct desk *desk = ctx;

	desk->quits++;
}

static inline void on_tick(void *ctx, uint32_t events)
{
	loop_stop(ctx);
}

static inline int setup(void **state)
{
	struct desk *desk = calloc(1, sizeof(*desk));

	desk->saved[0] = desk->saved[1] = -1;
	desk->room = SIZE_MAX;
	strcpy(desk->dir, "/tmp/test_chardev.XXXXXX");
	if (!mkdtemp(desk->dir) || loop_create(&desk->loop) < 0 ||
		loop_add_timer(desk->loop, on_tick, desk->loop, &desk->tick) < 0)
		return -1;
	*state = desk;
	return 0;
}

static inline void stdio_restore(struct desk *desk)
{
	for (int fd = 0; fd < 2; fd++) {
		if (desk->saved[fd] < 0)
			continue;
		dup2(desk->saved[fd], fd);
		close(desk->saved[fd]);
		desk->saved[fd] = -1;
	}
}

static inline int teardown(void **state)
{
	struct desk *desk = *state;

	chardev_destroy(desk->dev);
	stdio_restore(desk);
	loop_remove(desk->tick);
	loop_destroy(desk->loop);
	assert_int_equal(rmdir(desk->dir), 0);
	free(desk);
	return 0;
}

static inline void attach(struct desk *desk)
{
	struct chardev_ops ops = {.rx = on_rx, .quit = on_quit, .ctx = desk};

	assert_int_equal(chardev_attach(desk->dev, &ops), 0);
}

static inline void run(struct desk *desk, unsigned ms)
{
	loop_set_timer(desk->tick, ms * MS);
	assert_int_equal(loop_run(desk->loop), 0);
}

/* Let the loop work until the receiver has @want in all. */
static inline void expect_got(struct desk *desk, const void *want, size_t len)
{
	for (unsigned i = 0; i < 2000 && desk->got_used < len; i++)
		run(desk, 5);
	/* And nothing behind it. */
	run(desk, 5);
	assert_int_equal(desk->got_used, len);
	assert_memory_equal(desk->got, want, len);
	desk->got_used = 0;
}

static inline void say(struct desk *desk, const char *text)
{
	chardev_write(desk->dev, (const uint8_t *)text, strlen(text));
}

/* Read from @fd, while the loop works, until there are @len bytes or nothing comes for 10 s. */
static inline size_t take(struct desk *desk, int fd, void *buf, size_t len)
{
	size_t used = 0;

	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	for (unsigned idle = 0; used < len && idle < 2000;) {
		ssize_t n = read(fd, (char *)buf + used, len - used);

		idle = n > 0 ? 0 : idle + 1;
		used += n > 0 ? (size_t)n : 0;
		if (n <= 0)
			run(desk, 5);
	}
	return used;
}

static inline void expect_text(struct desk *desk, int fd, const char *want)
{
	char buf[512] = {0};

	assert_int_equal(take(desk, fd, buf, strlen(want)), strlen(want));
	run(desk, 5);
	assert_int_equal(read(fd, buf + strlen(want), 1), -1);
	assert_string_equal(buf, want);
}

static inline uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* With nothing to do the loop sleeps. */
static inline void expect_idle(struct desk *desk)
{
	uint64_t cpu;

	/* What is under way comes to its end first. */
	run(desk, 50);
	cpu = cpu_ns();
	run(desk, 300);
	assert_true(cpu_ns() - cpu < 20 * MS);
}

static inline void pattern(uint8_t *bytes, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)((i + seed) * 167 >> 4 ^ i);
}

static inline void type(int master, const char *keys)
{
	assert_int_equal(write(master, keys, strlen(keys)), strlen(keys));
}

#endif
