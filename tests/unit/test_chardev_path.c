/* SPDX-License-Identifier: Apache-2.0 */
/* legacy/chardev with a file, a FIFO, a pseudo-terminal or a socket on the other side. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

#include "chardev_desk.h"

/* Threads write, as vCPUs do, while the loop runs: every thread's bytes arrive in order. */
#define WRITERS 3
#define LINES	2000

struct writer {
	struct chardev *dev;
	struct loop *loop;
	unsigned index;
	_Atomic unsigned *done;
};

static void stop(void *ctx)
{
	loop_stop(ctx);
}

static void *writer_thread(void *arg)
{
	struct writer *writer = arg;
	char line[32];

	for (unsigned i = 0; i < LINES; i++) {
		snprintf(line, sizeof(line), "%u %u\n", writer->index, i);
		chardev_write(writer->dev, (const uint8_t *)line, strlen(line));
		if (i % 50 == 0)
			usleep(500);
	}
	if (++*writer->done == WRITERS)
		loop_post(writer->loop, stop, writer->loop);
	return NULL;
}

static void test_threads(void **state)
{
	struct desk *desk = *state;
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];
	_Atomic unsigned done = 0;
	unsigned next[WRITERS] = {0}, index, line;
	char path[80], text[64];
	FILE *file;

	snprintf(path, sizeof(path), "%s/out", desk->dir);
	assert_int_equal(chardev_file(&desk->dev, desk->loop, path, &desk->err), 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){desk->dev, desk->loop, i, &done};
		assert_int_equal(pthread_create(&threads[i], NULL, writer_thread, &writers[i]), 0);
	}
	assert_int_equal(loop_run(desk->loop), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(chardev_dropped(desk->dev), 0);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	file = fopen(path, "r");
	while (fgets(text, sizeof(text), file)) {
		assert_int_equal(sscanf(text, "%u %u\n", &index, &line), 2);
		assert_true(index < WRITERS);
		assert_int_equal(line, next[index]++);
	}
	fclose(file);
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(next[i], LINES);
	unlink(path);
}

/* Files. */

static void test_file(void **state)
{
	struct desk *desk = *state;
	char path[80], text[64] = {0};
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/out", desk->dir);
	umask(0);
	assert_int_equal(chardev_file(&desk->dev, desk->loop, path, &desk->err), 0);
	umask(022);
	assert_string_equal(chardev_name(desk->dev), path);
	attach(desk);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	say(desk, "one\n");
	run(desk, 20);
	/* Emptied by a log rotation: it goes on at the new end. */
	assert_int_equal(truncate(path, 0), 0);
	say(desk, "two\n");
	run(desk, 20);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, text, sizeof(text)), 4);
	assert_string_equal(text, "two\n");
	close(fd);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	assert_int_equal(chardev_file(&desk->dev, desk->loop, path, &desk->err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 0);
	unlink(path);
}

static void expect_refused(struct desk *desk,
	int (*open_fn)(struct chardev **, struct loop *, const char *, struct kv_err *),
	const char *path, int code)
{
	struct chardev *dev = NULL;

	desk->err.text[0] = '\0';
	assert_int_equal(open_fn(&dev, desk->loop, path, &desk->err), code);
	assert_null(dev);
	assert_non_null(strstr(desk->err.text, path));
}

static void test_file_refused(void **state)
{
	struct desk *desk = *state;
	char path[128];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	expect_refused(desk, chardev_file, desk->dir, -EISDIR);
	snprintf(path, sizeof(path), "%s/no/such", desk->dir);
	expect_refused(desk, chardev_file, path, -ENOENT);
	assert_non_null(strstr(desk->err.text, "folder"));
	expect_refused(desk, chardev_file, "/dev/null/x", -ENOTDIR);
	expect_refused(desk, chardev_file, "", -ENOENT);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/sock", desk->dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	expect_refused(desk, chardev_file, addr.sun_path, -ENXIO);
	unlink(addr.sun_path);
	close(fd);
}

static void test_file_full(void **state)
{
	struct desk *desk = *state;

	assert_int_equal(chardev_file(&desk->dev, desk->loop, "/dev/full", &desk->err), 0);
	say(desk, "12345");
	expect_idle(desk);
	assert_int_equal(chardev_dropped(desk->dev), 5);
}

/* A FIFO without reader: opening does not wait, and the first reader gets what was said. */
static void test_file_fifo(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[150000], back[sizeof(bytes)];
	char path[80];
	int fd;

	pattern(bytes, sizeof(bytes), 5);
	snprintf(path, sizeof(path), "%s/fifo", desk->dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(chardev_file(&desk->dev, desk->loop, path, &desk->err), 0);
	chardev_write(desk->dev, bytes, sizeof(bytes));
	expect_idle(desk);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_int_equal(take(desk, fd, back, sizeof(back)), sizeof(back));
	assert_memory_equal(back, bytes, sizeof(bytes));
	close(fd);
	/* With a reader from the start. */
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_int_equal(chardev_file(&desk->dev, desk->loop, path, &desk->err), 0);
	say(desk, "second");
	expect_text(desk, fd, "second");
	close(fd);
	unlink(path);
}

/* Pseudo-terminal. */

static void test_pty(void **state)
{
	struct desk *desk = *state;
	char name[64];
	struct termios settings;
	int fd;

	assert_int_equal(chardev_pty(&desk->dev, desk->loop, &desk->err), 0);
	attach(desk);
	snprintf(name, sizeof(name), "%s", chardev_name(desk->dev));
	/* Said before anybody looked. */
	say(desk, "boot\n");
	expect_idle(desk);
	for (unsigned visit = 0; visit < 3; visit++) {
		fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(tcgetattr(fd, &settings), 0);
		assert_int_equal(settings.c_lflag & (ECHO | ICANON | ISIG), 0);
		/* No carriage returns are put in, in neither direction. */
		expect_text(desk, fd, "boot\n");
		type(fd, "ls\r\n\003\001x");
		expect_got(desk, "ls\r\n\003\001x", 7);
		assert_int_equal(desk->quits, 0);
		close(fd);
		say(desk, "boot\n");
		expect_idle(desk);
	}
}

/* Unix socket. */

static int client_try(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	strcpy(addr.sun_path, path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	close(fd);
	return -1;
}

static int client(const char *path)
{
	int fd = client_try(path);

	assert_true(fd >= 0);
	return fd;
}

static void unix_open(struct desk *desk, char *path, size_t path_bytes)
{
	snprintf(path, path_bytes, "%s/sock", desk->dir);
	if (chardev_unix(&desk->dev, desk->loop, path, &desk->err) < 0)
		fail_msg("%s", desk->err.text);
	assert_string_equal(chardev_name(desk->dev), path);
	attach(desk);
}

static void test_unix(void **state)
{
	struct desk *desk = *state;
	int fd, second;
	char path[80];
	struct stat st;

	umask(0);
	unix_open(desk, path, sizeof(path));
	umask(022);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0600);
	say(desk, "early ");
	expect_idle(desk);
	fd = client(path);
	expect_text(desk, fd, "early ");
	say(desk, "now");
	expect_text(desk, fd, "now");
	assert_int_equal(write(fd, "in\001x", 4), 4);
	expect_got(desk, "in\001x", 4);
	/* A second one waits until the first leaves. */
	second = client(path);
	assert_int_equal(write(second, "2", 1), 1);
	say(desk, "first");
	expect_text(desk, fd, "first");
	assert_int_equal(desk->got_used, 0);
	expect_idle(desk);
	close(fd);
	say(desk, "next");
	expect_text(desk, second, "next");
	expect_got(desk, "2", 1);
	close(second);
	expect_idle(desk);
	assert_int_equal(chardev_dropped(desk->dev), 0);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	assert_int_equal(stat(path, &st), -1);
}

/* Whoever stops sending may still listen; a farewell and its words arrive. */
static void test_unix_half_closed(void **state)
{
	struct desk *desk = *state;
	char path[80];
	int fd;

	unix_open(desk, path, sizeof(path));
	fd = client(path);
	assert_int_equal(write(fd, "cmd", 3), 3);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	expect_got(desk, "cmd", 3);
	expect_idle(desk);
	say(desk, "answer");
	expect_text(desk, fd, "answer");
	close(fd);
	run(desk, 20);
	/* Written and gone before the loop looked. */
	fd = client(path);
	assert_int_equal(write(fd, "bye", 3), 3);
	close(fd);
	expect_got(desk, "bye", 3);
	fd = client(path);
	say(desk, "hello");
	expect_text(desk, fd, "hello");
	/* Deaf: the guest's bytes wait for the next client. */
	assert_int_equal(shutdown(fd, SHUT_RD), 0);
	say(desk, "kept");
	run(desk, 20);
	close(fd);
	fd = client(path);
	expect_text(desk, fd, "kept");
	close(fd);
}

/* A client whose input the guest does not take leaves: the next one finds an open door. */
static void test_unix_guest_hangs(void **state)
{
	struct desk *desk = *state;
	static char keys[3000];
	char path[80];
	int fd;

	memset(keys, 'k', sizeof(keys));
	unix_open(desk, path, sizeof(path));
	desk->room = 5;
	fd = client(path);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(write(fd, keys, sizeof(keys)), sizeof(keys));
		run(desk, 5);
	}
	expect_idle(desk);
	close(fd);
	expect_idle(desk);
	fd = client(path);
	say(desk, "hello");
	expect_text(desk, fd, "hello");
	assert_int_equal(write(fd, "!", 1), 1);
	desk->room = SIZE_MAX;
	chardev_accept(desk->dev);
	for (unsigned i = 0; i < 100 && (!desk->got_used || desk->got[desk->got_used - 1] != '!');
		i++)
		run(desk, 5);
	assert_int_equal(desk->got[desk->got_used - 1], '!');
	/* As much as there was room for, in order. */
	assert_true(desk->got_used > 5 + sizeof(keys) && desk->got_used <= 4 * sizeof(keys) + 1);
	close(fd);
}

static void test_unix_blocked(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[1 << 20], back[sizeof(bytes)];
	char path[80];
	uint64_t dropped;
	size_t len;
	int fd;

	pattern(bytes, sizeof(bytes), 6);
	unix_open(desk, path, sizeof(path));
	fd = client(path);
	run(desk, 5);
	for (size_t at = 0; at < sizeof(bytes); at += 4096) {
		chardev_write(desk->dev, bytes + at, 4096);
		if (at % 65536 == 0)
			run(desk, 1);
	}
	expect_idle(desk);
	dropped = chardev_dropped(desk->dev);
	assert_true(dropped > 0);
	len = sizeof(bytes) - dropped;
	assert_int_equal(take(desk, fd, back, len), len);
	assert_memory_equal(back + len - CHARDEV_RING_BYTES,
		bytes + sizeof(bytes) - CHARDEV_RING_BYTES, CHARDEV_RING_BYTES);
	expect_idle(desk);
	close(fd);
}

static void test_unix_stale(void **state)
{
	struct desk *desk = *state;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat st;
	char path[80];

	/* Left behind by a program that was killed. */
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/sock", desk->dir);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	unix_open(desk, path, sizeof(path));
	fd = client(path);
	say(desk, "alive");
	expect_text(desk, fd, "alive");
	/* In use: with a client inside, and without. Asking does not take the next client's bytes.
	 */
	expect_refused(desk, chardev_unix, path, -EADDRINUSE);
	close(fd);
	run(desk, 20);
	say(desk, "again");
	run(desk, 20);
	expect_refused(desk, chardev_unix, path, -EADDRINUSE);
	run(desk, 20);
	fd = client(path);
	expect_text(desk, fd, "again");
	close(fd);
	/* Somebody else's socket in its place stays. */
	unlink(path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	assert_int_equal(lstat(path, &st), 0);
	unlink(path);
	close(fd);
}

static void test_unix_refused(void **state)
{
	struct desk *desk = *state;
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/no/such", desk->dir);
	expect_refused(desk, chardev_unix, path, -ENOENT);
	assert_non_null(strstr(desk->err.text, "folder"));
	snprintf(path, sizeof(path), "%s/file", desk->dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	expect_refused(desk, chardev_unix, path, -ENOTSOCK);
	assert_int_equal(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/%0*d", desk->dir, 120, 0);
	expect_refused(desk, chardev_unix, path, -ENAMETOOLONG);
	expect_refused(desk, chardev_unix, "", -ENAMETOOLONG);
	/* 107 bytes are the most, and are enough. */
	path[107] = '\0';
	assert_int_equal(chardev_unix(&desk->dev, desk->loop, path, &desk->err), 0);
	fd = client(path);
	close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_threads),
		TEST(test_file),
		TEST(test_file_refused),
		TEST(test_file_full),
		TEST(test_file_fifo),
		TEST(test_pty),
		TEST(test_unix),
		TEST(test_unix_half_closed),
		TEST(test_unix_guest_hangs),
		TEST(test_unix_blocked),
		TEST(test_unix_stale),
		TEST(test_unix_refused),
	};

	/* As the program does (cli/): a closed pipe is an error of write(), not the end. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
