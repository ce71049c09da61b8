/* SPDX-License-Identifier: Apache-2.0 */
/* legacy/chardev on standard input and output, with real pipes and terminals there. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>

#include "chardev_desk.h"

/* Put @in and @out (both consumed) in the place of standard input and output. */
static void stdio_take(struct desk *desk, int in, int out)
{
	int fds[2] = {in, out};

	fflush(stdout);
	for (int fd = 0; fd < 2; fd++) {
		desk->saved[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 100);
		assert_true(desk->saved[fd] >= 0);
	}
	for (int fd = 0; fd < 2; fd++)
		assert_int_equal(dup2(fds[fd], fd), fd);
	close(in);
	if (out != in)
		close(out);
}

static void stdio_open(struct desk *desk)
{
	assert_int_equal(chardev_stdio(&desk->dev, desk->loop, &desk->err), 0);
	assert_null(chardev_name(desk->dev));
	attach(desk);
}

static void pipe_make(int *reader, int *writer)
{
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	*reader = fds[0];
	*writer = fds[1];
}

static void test_stdio_pipes(void **state)
{
	struct desk *desk = *state;
	int in, in_w, out, out_r;

	pipe_make(&in, &in_w);
	pipe_make(&out_r, &out);
	stdio_take(desk, in, out);
	stdio_open(desk);
	say(desk, "out\n");
	expect_text(desk, out_r, "out\n");
	/* Keys mean nothing on a pipe: all bytes are the guest's. */
	assert_int_equal(write(in_w, "in\001x\001a\003", 7), 7);
	expect_got(desk, "in\001x\001a\003", 7);
	assert_int_not_equal(desk->dev->in.fd, 0);
	assert_int_equal(desk->quits, 0);
	/* Whoever shares these descriptors finds them as they were. */
	assert_int_equal(fcntl(0, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(chardev_dropped(desk->dev), 0);
	/* The end of input ends nothing but input. */
	assert_int_equal(write(in_w, "last", 4), 4);
	close(in_w);
	expect_got(desk, "last", 4);
	say(desk, "more");
	expect_text(desk, out_r, "more");
	close(out_r);
}

static void test_stdin_kinds(void **state)
{
	struct desk *desk = *state;
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	/* Ended at once. */
	stdio_take(desk, nothing, open("/dev/null", O_WRONLY | O_CLOEXEC));
	stdio_open(desk);
	expect_idle(desk);
	say(desk, "to /dev/null");
	expect_got(desk, "", 0);
	assert_int_equal(chardev_dropped(desk->dev), 0);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	/* Closed. */
	close(0);
	stdio_open(desk);
	expect_idle(desk);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	/* Closed at the other side. */
	close(1);
	assert_int_equal(open("/dev/null", O_RDONLY), 0);
	stdio_open(desk);
	say(desk, "nowhere");
	expect_idle(desk);
	assert_int_equal(chardev_dropped(desk->dev), 7);
}

/* epoll refuses regular files; the receiver takes them in its own time. */
static void test_stdin_file(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[50000];
	FILE *file = tmpfile();
	size_t given = 0;

	pattern(bytes, sizeof(bytes), 1);
	assert_int_equal(fwrite(bytes, 1, sizeof(bytes), file), sizeof(bytes));
	rewind(file);
	stdio_take(desk, dup(fileno(file)), open("/dev/null", O_WRONLY | O_CLOEXEC));
	fclose(file);
	desk->room = 0;
	stdio_open(desk);
	expect_idle(desk);
	assert_int_equal(desk->got_used, 0);
	while (given < sizeof(bytes)) {
		desk->room = 777;
		given += 777;
		chardev_accept(desk->dev);
		for (unsigned i = 0; i < 2000 && desk->room && desk->got_used < sizeof(bytes); i++)
			run(desk, 1);
	}
	expect_got(desk, bytes, sizeof(bytes));
	expect_idle(desk);
}

static void test_stdio_socket(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[CHARDEV_RING_BYTES], back[sizeof(bytes)];
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	stdio_take(desk, dup(fds[1]), fds[1]);
	stdio_open(desk);
	say(desk, "out");
	expect_text(desk, fds[0], "out");
	assert_int_equal(write(fds[0], "in", 2), 2);
	expect_got(desk, "in", 2);
	assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
	/* It takes no more: nobody waits. */
	chardev_write(desk->dev, bytes, sizeof(bytes));
	expect_idle(desk);
	assert_int_equal(take(desk, fds[0], back, sizeof(back)), sizeof(back));
	/* The other side goes: no signal, no end. */
	close(fds[0]);
	say(desk, "gone");
	expect_idle(desk);
	assert_int_equal(chardev_dropped(desk->dev), 4);
}

/* A receiver that refuses: order kept, and the writer of the pipe is held up in the end. */
static void test_input_refused(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[100000];
	size_t sent = 0;
	int in, in_w;

	pattern(bytes, sizeof(bytes), 2);
	pipe_make(&in, &in_w);
	stdio_take(desk, in, open("/dev/null", O_WRONLY | O_CLOEXEC));
	fcntl(in_w, F_SETFL, O_NONBLOCK);
	desk->room = 10;
	stdio_open(desk);
	for (unsigned i = 0; i < 100; i++) {
		ssize_t n = write(in_w, bytes + sent, sizeof(bytes) - sent);

		sent += n > 0 ? (size_t)n : 0;
		run(desk, 1);
	}
	/* A pipe and the device's own buffer, no more. */
	assert_true(sent < sizeof(bytes));
	assert_int_equal(desk->got_used, 10);
	expect_idle(desk);
	while (desk->got_used < sizeof(bytes)) {
		ssize_t n = write(in_w, bytes + sent, sizeof(bytes) - sent);

		sent += n > 0 ? (size_t)n : 0;
		desk->room = 3000;
		chardev_accept(desk->dev);
		run(desk, 1);
	}
	expect_got(desk, bytes, sizeof(bytes));
	/* Without a receiver nothing is read. */
	assert_int_equal(chardev_attach(desk->dev, NULL), 0);
	assert_int_equal(write(in_w, "later", 5), 5);
	expect_idle(desk);
	desk->room = SIZE_MAX;
	attach(desk);
	expect_got(desk, "later", 5);
	close(in_w);
}

static int terminal_make(int *master)
{
	char name[64];
	int slave;

	*master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(*master >= 0);
	assert_int_equal(grantpt(*master), 0);
	assert_int_equal(unlockpt(*master), 0);
	assert_int_equal(ptsname_r(*master, name, sizeof(name)), 0);
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(slave >= 0);
	return slave;
}

/* Nobody reads: writing goes on without waiting, and in the end the latest output is there. */
static void test_output_blocked(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[2 << 20], back[2 << 20];
	uint64_t start, dropped;
	int out, out_r;
	size_t n;

	pattern(bytes, sizeof(bytes), 3);
	pipe_make(&out_r, &out);
	stdio_take(desk, open("/dev/null", O_RDONLY | O_CLOEXEC), out);
	stdio_open(desk);
	start = clock_ns();
	for (size_t at = 0; at < sizeof(bytes); at += 1024) {
		chardev_write(desk->dev, bytes + at, 1024);
		if (at % (64 * 1024) == 0)
			run(desk, 1);
	}
	expect_idle(desk);
	assert_true(clock_ns() - start < 8000 * MS);
	dropped = chardev_dropped(desk->dev);
	assert_true(dropped > 0 && dropped < sizeof(bytes) - CHARDEV_RING_BYTES);
	n = take(desk, out_r, back, sizeof(bytes) - dropped);
	assert_int_equal(n, sizeof(bytes) - dropped);
	/* The gap is in one place: a beginning, and the latest ring's worth. */
	n -= CHARDEV_RING_BYTES;
	assert_memory_equal(back, bytes, n);
	assert_memory_equal(
		back + n, bytes + sizeof(bytes) - CHARDEV_RING_BYTES, CHARDEV_RING_BYTES);
	/* Then it goes on as ever. */
	say(desk, "again");
	assert_int_equal(take(desk, out_r, back, 5), 5);
	assert_memory_equal(back, "again", 5);
	assert_int_equal(chardev_dropped(desk->dev), dropped);
	/* One piece larger than all. */
	chardev_write(desk->dev, bytes, sizeof(bytes));
	assert_int_equal(take(desk, out_r, back, CHARDEV_RING_BYTES), CHARDEV_RING_BYTES);
	assert_memory_equal(back, bytes + sizeof(bytes) - CHARDEV_RING_BYTES, CHARDEV_RING_BYTES);
	close(out_r);
}

/* Without /proc the shared descriptor itself is written, and only when it cannot wait. */
static void test_output_shared(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[150000], back[sizeof(bytes)];
	int out, out_r, master;

	pattern(bytes, sizeof(bytes), 7);
	pipe_make(&out_r, &out);
	stdio_take(desk, open("/dev/null", O_RDONLY | O_CLOEXEC), out);
	stdio_open(desk);
	desk->dev->out.inherited = false;
	desk->dev->out.may_wait = true;
	chardev_write(desk->dev, bytes, sizeof(bytes));
	expect_idle(desk);
	assert_int_equal(take(desk, out_r, back, sizeof(back)), sizeof(back));
	assert_memory_equal(back, bytes, sizeof(bytes));
	/* A terminal that nobody reads, in the same way. */
	assert_int_equal(dup2(terminal_make(&master), 1), 1);
	chardev_write(desk->dev, bytes, sizeof(bytes));
	run(desk, 500);
	assert_int_equal(chardev_dropped(desk->dev), 0);
	assert_int_equal(chardev_attach(desk->dev, NULL), 0);
	assert_true(take(desk, master, back, 100000) == 100000);
	close(out_r);
	close(master);
}

struct flood {
	struct chardev *dev;
	_Atomic bool end;
	uint64_t sent;
};

static void *flood_thread(void *arg)
{
	struct flood *flood = arg;
	static const uint8_t bytes[1000];

	while (!flood->end) {
		chardev_write(flood->dev, bytes, sizeof(bytes));
		flood->sent += sizeof(bytes);
	}
	return NULL;
}

/* Bytes are dropped while others of them are on their way out: each is counted one way. */
static void test_output_counted(void **state)
{
	struct desk *desk = *state;
	static uint8_t back[1 << 16];
	struct flood flood = {0};
	uint64_t got = 0;
	pthread_t thread;
	int out, out_r;

	pipe_make(&out_r, &out);
	stdio_take(desk, open("/dev/null", O_RDONLY | O_CLOEXEC), out);
	stdio_open(desk);
	fcntl(out_r, F_SETFL, O_NONBLOCK);
	flood.dev = desk->dev;
	assert_int_equal(pthread_create(&thread, NULL, flood_thread, &flood), 0);
	for (unsigned round = 0; round < 300 || !got; round++) {
		ssize_t n = read(out_r, back, sizeof(back));

		got += n > 0 ? (uint64_t)n : 0;
		run(desk, 1);
	}
	flood.end = true;
	pthread_join(thread, NULL);
	for (unsigned idle = 0; idle < 20; idle++) {
		ssize_t n = read(out_r, back, sizeof(back));

		idle = n > 0 ? 0 : idle;
		got += n > 0 ? (uint64_t)n : 0;
		run(desk, 1);
	}
	assert_true(chardev_dropped(desk->dev) > 0);
	assert_int_equal(got + chardev_dropped(desk->dev), flood.sent);
	close(out_r);
}

static void test_output_closed(void **state)
{
	struct desk *desk = *state;
	int out, out_r;

	pipe_make(&out_r, &out);
	stdio_take(desk, open("/dev/null", O_RDONLY | O_CLOEXEC), out);
	stdio_open(desk);
	close(out_r);
	say(desk, "lost");
	run(desk, 20);
	assert_int_equal(chardev_dropped(desk->dev), 4);
	say(desk, "too");
	expect_idle(desk);
	assert_int_equal(chardev_dropped(desk->dev), 7);
}

/* A full pipe whose reader goes away while the device waits for room. */
static void test_output_closed_full(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[100000];
	int out, out_r;

	pipe_make(&out_r, &out);
	stdio_take(desk, open("/dev/null", O_RDONLY | O_CLOEXEC), out);
	stdio_open(desk);
	chardev_write(desk->dev, bytes, sizeof(bytes));
	run(desk, 20);
	assert_int_equal(chardev_dropped(desk->dev), 0);
	close(out_r);
	expect_idle(desk);
	assert_true(chardev_dropped(desk->dev) > 0);
}

/* The end of the run: what was written goes out without the loop, and nobody holds it up. */
static void test_destroy_flushes(void **state)
{
	struct desk *desk = *state;
	static uint8_t bytes[200000], back[sizeof(bytes)];
	int out, out_r;
	uint64_t start;

	pattern(bytes, sizeof(bytes), 4);
	pipe_make(&out_r, &out);
	stdio_take(desk, open("/dev/null", O_RDONLY | O_CLOEXEC), out);
	stdio_open(desk);
	chardev_write(desk->dev, bytes, 30000);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	assert_int_equal(read(out_r, back, sizeof(back)), 30000);
	assert_memory_equal(back, bytes, 30000);
	stdio_open(desk);
	chardev_write(desk->dev, bytes, sizeof(bytes));
	start = clock_ns();
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	assert_true(clock_ns() - start >= 200 * MS);
	assert_true(clock_ns() - start < 5000 * MS);
	close(out_r);
}

/* Terminals. */

static bool same_settings(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && !memcmp(a->c_cc, b->c_cc, VEOL2 + 1);
}

static void test_terminal(void **state)
{
	struct desk *desk = *state;
	struct termios before, raw, after;
	int master, slave = terminal_make(&master);

	assert_int_equal(tcgetattr(slave, &before), 0);
	assert_true(before.c_lflag & ICANON);
	stdio_take(desk, dup(slave), slave);
	stdio_open(desk);
	assert_int_equal(tcgetattr(0, &raw), 0);
	assert_int_equal(raw.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), 0);
	assert_int_equal(raw.c_iflag & (ICRNL | IXON | ISTRIP), 0);
	/* Every key as one byte, the terminal's own keys too, and no echo. */
	type(master, "ab\r\n\003\032\034\021\023\004\177\026");
	expect_got(desk, "ab\r\n\003\032\034\021\023\004\177\026", 12);
	say(desk, "down\n\r\nprompt$ ");
	expect_text(desk, master, "down\n\r\nprompt$ ");
	assert_int_equal(fcntl(0, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
	/* A signal handler may come first. */
	chardev_restore(desk->dev);
	assert_int_equal(tcgetattr(0, &after), 0);
	assert_true(same_settings(&after, &before));
	tcsetattr(0, TCSANOW, &raw);
	chardev_destroy(desk->dev);
	desk->dev = NULL;
	assert_int_equal(tcgetattr(0, &after), 0);
	assert_true(same_settings(&after, &before));
	chardev_restore(NULL);
	close(master);
}

static void test_terminal_keys(void **state)
{
	struct desk *desk = *state;
	int master, slave = terminal_make(&master);
	char text[512];
	size_t n;

	stdio_take(desk, dup(slave), slave);
	stdio_open(desk);
	/* One Ctrl-A for the guest, in three ways; keys without meaning are swallowed. */
	type(master, "1\001\0012\001a3\001A4\001z5");
	expect_got(desk, "1\0012\0013\00145", 8);
	/* Ctrl-A and its key may come far apart. */
	type(master, "\001");
	run(desk, 20);
	assert_int_equal(desk->got_used, 0);
	type(master, "h6");
	expect_got(desk, "6", 1);
	n = take(desk, master, text, 20);
	run(desk, 20);
	n += take(desk, master, text + n, 60);
	text[n] = '\0';
	assert_non_null(strstr(text, "Ctrl-A X"));
	assert_int_equal(desk->quits, 0);
	type(master, "\001x");
	run(desk, 20);
	assert_int_equal(desk->quits, 1);
	type(master, "\001X");
	run(desk, 20);
	assert_int_equal(desk->quits, 2);
	expect_got(desk, "", 0);
	close(master);
}

/* A guest that hangs takes no input: the way out must work all the same. */
static void test_terminal_guest_hangs(void **state)
{
	struct desk *desk = *state;
	int master, slave = terminal_make(&master);
	char keys[1001];

	memset(keys, 'k', sizeof(keys) - 1);
	keys[sizeof(keys) - 1] = '\0';
	stdio_take(desk, dup(slave), slave);
	desk->room = 5;
	stdio_open(desk);
	for (unsigned i = 0; i < 20; i++) {
		type(master, keys);
		run(desk, 5);
	}
	expect_idle(desk);
	type(master, "\001x");
	run(desk, 20);
	assert_int_equal(desk->quits, 1);
	/* What fitted is still there. */
	desk->room = SIZE_MAX;
	chardev_accept(desk->dev);
	run(desk, 20);
	assert_int_equal(desk->got_used, 5 + CHARDEV_INPUT_BYTES);
	close(master);
}

/* The window is closed: no endless loop over the hang-up. */
static void test_terminal_hangup(void **state)
{
	struct desk *desk = *state;
	int master, slave = terminal_make(&master);

	stdio_take(desk, dup(slave), slave);
	stdio_open(desk);
	run(desk, 5);
	close(master);
	expect_idle(desk);
	say(desk, "x");
	expect_idle(desk);
}

/* Stopped terminal (Ctrl-S at the other side's flow control): writing must not wait. */
static void test_terminal_stopped(void **state)
{
	struct desk *desk = *state;
	int master, slave = terminal_make(&master);
	static uint8_t bytes[300000];
	uint64_t start = clock_ns();

	memset(bytes, 'x', sizeof(bytes));
	stdio_take(desk, dup(slave), slave);
	stdio_open(desk);
	chardev_write(desk->dev, bytes, sizeof(bytes));
	expect_idle(desk);
	assert_true(clock_ns() - start < 4000 * MS);
	close(master);
}

/* In a job in the background the terminal belongs to another: leave it alone, do not get stopped.
 */
static int background_job(int master, const char *name)
{
	struct termios before, after;
	struct chardev *dev = NULL;
	struct loop *loop = NULL;
	int fd = open(name, O_RDWR);

	close(master);
	if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) < 0 || tcgetattr(fd, &before) < 0)
		return 10;
	if (dup2(fd, 0) < 0 || dup2(fd, 1) < 0)
		return 11;
	/* The session's leader stays in the foreground group; this child makes its own. */
	pid_t child = fork();

	if (child) {
		int status = 0;

		if (child < 0 || waitpid(child, &status, WUNTRACED) != child)
			return 12;
		if (WIFSTOPPED(status))
			kill(child, SIGKILL);
		return WIFEXITED(status) ? WEXITSTATUS(status) : 13;
	}
	setpgid(0, 0);
	if (loop_create(&loop) < 0 || chardev_stdio(&dev, loop, NULL) < 0)
		_exit(20);
	chardev_attach(dev, &(struct chardev_ops){.rx = on_rx});
	chardev_write(dev, (const uint8_t *)"out", 3);
	if (tcgetattr(0, &after) < 0 || !same_settings(&before, &after))
		_exit(21);
	chardev_destroy(dev);
	loop_destroy(loop);
	_exit(0);
}

static void test_terminal_background(void **state)
{
	struct desk *desk = *state;
	int master, status = 0, slave = terminal_make(&master);
	char name[64];
	pid_t child;

	assert_int_equal(ptsname_r(master, name, sizeof(name)), 0);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		setsid();
		_exit(background_job(master, name));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	expect_text(desk, master, "out");
	close(slave);
	close(master);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_stdio_pipes),
		TEST(test_stdin_kinds),
		TEST(test_stdin_file),
		TEST(test_stdio_socket),
		TEST(test_input_refused),
		TEST(test_output_blocked),
		TEST(test_output_shared),
		TEST(test_output_counted),
		TEST(test_output_closed),
		TEST(test_output_closed_full),
		TEST(test_destroy_flushes),
		TEST(test_terminal),
		TEST(test_terminal_keys),
		TEST(test_terminal_guest_hangs),
		TEST(test_terminal_hangup),
		TEST(test_terminal_stopped),
		TEST(test_terminal_background),
	};

	/* As the program does (cli/): a closed pipe is an error of write(), not the end. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
