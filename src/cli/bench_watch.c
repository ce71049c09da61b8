/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/bench_util.h"
#include "trace/timeline.h"

#define POLL_MS	 50
#define GRACE_NS 5000000000ULL

/* Output that is searched: the end of what came before and what just came. */
struct tail {
	size_t used;
	char bytes[8192];
	/* Who is told of lines, or NULL. */
	void (*line)(void *ctx, pid_t pid, const char *line);
	void *ctx;
	pid_t pid;
	size_t line_used;
	char line_bytes[160];
};

/* Hand over the lines that end in the @n new bytes; longer ones are cut. */
static void lines_tell(struct tail *tail, const char *bytes, size_t n)
{
	for (size_t i = 0; tail->line && i < n; i++) {
		if (bytes[i] == '\n') {
			tail->line_bytes[tail->line_used] = '\0';
			tail->line(tail->ctx, tail->pid, tail->line_bytes);
			tail->line_used = 0;
		} else if (bytes[i] != '\r' && tail->line_used + 1 < sizeof(tail->line_bytes)) {
			tail->line_bytes[tail->line_used++] = bytes[i];
		}
	}
}

static int child_start(pid_t *pid, char *const *argv, int out, uint64_t *started_ns)
{
	posix_spawn_file_actions_t actions;
	char text[48];
	MEM_SCOPED char **env = bench_environ(text);
	int r;

	if (!env)
		return -ENOMEM;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out, 1);
	posix_spawn_file_actions_adddup2(&actions, out, 2);
	*started_ns = clock_ns();
	snprintf(text, sizeof(text), "KVICK_EXEC_NS=%" PRIu64, *started_ns);
	r = posix_spawnp(pid, argv[0], &actions, NULL, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

/* Keep the last line of the tail that says something. */
static void line_keep(struct bench_watch *watch, const struct tail *tail)
{
	size_t end = tail->used, start, n = 0;

	while (end && (unsigned char)tail->bytes[end - 1] <= ' ')
		end--;
	for (start = end; start && tail->bytes[start - 1] != '\n'; start--)
		continue;
	if (start == end)
		return;
	for (; start < end && n + 1 < sizeof(watch->last_line); start++)
		if (tail->bytes[start] >= ' ' && tail->bytes[start] <= '~')
			watch->last_line[n++] = tail->bytes[start];
	watch->last_line[n] = '\0';
}

/* Read what is there. Returns 1 when @text has come, 0 to go on, -ECHILD at the end of output. */
static int output_read(
	struct bench_watch *watch, int fd, struct tail *tail, const char *text, uint64_t started_ns)
{
	size_t room = sizeof(tail->bytes) / 2;
	ssize_t n;

	/* Half of it stays: the text may come in pieces. */
	if (tail->used > room) {
		memmove(tail->bytes, tail->bytes + tail->used - room, room);
		tail->used = room;
	}
	n = read(fd, tail->bytes + tail->used, sizeof(tail->bytes) - tail->used);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (!n)
		return -ECHILD;
	if (!watch->first_ns)
		watch->first_ns = clock_ns() - started_ns;
	lines_tell(tail, tail->bytes + tail->used, (size_t)n);
	tail->used += (size_t)n;
	if (!memmem(tail->bytes, tail->used, text, strlen(text)))
		return 0;
	watch->text_ns = clock_ns() - started_ns;
	return 1;
}

/* End the process; output that still comes must not block it. */
static void child_end(struct bench_watch *watch, pid_t pid, int fd, struct tail *tail)
{
	uint64_t limit = clock_ns() + GRACE_NS;
	bool killed = false;
	struct rusage usage;
	int status;
	pid_t r;

	kill(pid, SIGTERM);
	while ((r = wait4(pid, &status, WNOHANG, &usage)) == 0 || (r < 0 && errno == EINTR)) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};

		if (poll(&ready, 1, 5) > 0) {
			tail->used = 0;
			if (read(fd, tail->bytes, sizeof(tail->bytes)) <= 0)
				fd = -1;
		}
		if (!killed && clock_ns() > limit) {
			kill(pid, SIGKILL);
			killed = true;
		}
	}
	if (r < 0)
		return;
	watch->cpu_ns = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
			(uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
	watch->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int bench_watch(struct bench_watch *watch, char *const *argv, const char *text, uint64_t timeout_ns)
{
	return bench_lines(watch, argv, text, timeout_ns, NULL, NULL);
}

int bench_lines(struct bench_watch *watch, char *const *argv, const char *text, uint64_t timeout_ns,
	void (*line)(void *ctx, pid_t pid, const char *line), void *ctx)
{
	MEM_SCOPED struct tail *tail = calloc(1, sizeof(*tail));
	uint64_t started_ns;
	int pipe_fds[2], r;
	pid_t pid;

	*watch = (struct bench_watch){0};
	if (!tail)
		return -ENOMEM;
	tail->line = line;
	tail->ctx = ctx;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	r = child_start(&pid, argv, pipe_fds[1], &started_ns);
	tail->pid = r < 0 ? 0 : pid;
	close(pipe_fds[1]);
	while (!r) {
		struct pollfd ready = {.fd = pipe_fds[0], .events = POLLIN};

		if (poll(&ready, 1, POLL_MS) > 0)
			r = output_read(watch, pipe_fds[0], tail, text, started_ns);
		else if (bench_interrupted())
			r = -EINTR;
		if (!r && clock_ns() - started_ns > timeout_ns)
			r = -ETIMEDOUT;
		if (r) {
			line_keep(watch, tail);
			child_end(watch, pid, pipe_fds[0], tail);
		}
	}
	close(pipe_fds[0]);
	return r > 0 ? 0 : r;
}
