/* SPDX-License-Identifier: Apache-2.0 */
/*
 * passt as the host side of a network device: packets go through a stream socket, each behind its
 * length in 32 bits, big-endian (passt(1), qemu's -netdev stream).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "virtio/net_host.h"
#include "virtio/vq.h"

#define FRAME_MAX  (VNET_PACKET_MAX - sizeof(struct vnet_header))
#define IN_BYTES   (256 * KIB)
#define READY_MS   10000
#define SEND_IOVS  1024
#define ARGS_MAX   (12 + 2 * VNET_FORWARDS_MAX)
#define WORD_BYTES 32

extern char **environ;

struct user {
	struct vnet_host host;
	pid_t pid;     /* of passt; 0: it does not run */
	int stderr_fd; /* never read after the start: what passt says then is of no use to anyone */
	uint8_t *in;   /* IN_BYTES: [in_at, in_end) was read and not received yet */
	size_t in_at, in_end;
	uint8_t *out; /* of a packet that the socket took in part: [out_at, out_end) */
	size_t out_at, out_end;
};

static void user_flush(struct vnet_host *host)
{
	struct user *user = (struct user *)host;
	ssize_t n = send(host->fds[0], user->out + user->out_at, user->out_end - user->out_at,
		MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n > 0)
		user->out_at += (size_t)n;
	/* A socket that is gone takes nothing any more; receiving finds out. */
	else if (errno != EAGAIN && errno != EINTR)
		user->out_at = user->out_end;
	host->pending = user->out_at < user->out_end;
}

static bool user_send(
	struct vnet_host *host, unsigned pair, const struct iovec *iov, unsigned count)
{
	struct user *user = (struct user *)host;
	struct iovec parts[SEND_IOVS];
	struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 1};
	size_t skip = sizeof(struct vnet_header), bytes = 0;
	uint32_t length;
	ssize_t n;

	if (host->pending)
		user_flush(host);
	if (host->pending)
		return false;
	parts[0] = (struct iovec){.iov_base = &length, .iov_len = sizeof(length)};
	for (unsigned i = 0; i < count; i++) {
		size_t cut = skip < iov[i].iov_len ? skip : iov[i].iov_len;

		skip -= cut;
		if (cut == iov[i].iov_len)
			continue;
		parts[msg.msg_iovlen++] =
			(struct iovec){.iov_base = (uint8_t *)iov[i].iov_base + cut,
				.iov_len = iov[i].iov_len - cut};
		bytes += iov[i].iov_len - cut;
	}
	if (bytes < VNET_ETH_BYTES || bytes > FRAME_MAX)
		return true;
	length = htonl((uint32_t)bytes);
	bytes += sizeof(length);
	n = sendmsg(host->fds[0], &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno != EAGAIN && errno != EINTR;
	if ((size_t)n < bytes) {
		user->out_at = 0;
		user->out_end = bytes - (size_t)n;
		vq_iov_read(parts, (unsigned)msg.msg_iovlen, (size_t)n, user->out, user->out_end);
		host->pending = true;
	}
	return true;
}

/* Give the @len bytes of a frame, behind an empty header. Returns the packet's bytes. */
static ssize_t frame_give(struct iovec *iov, unsigned count, const uint8_t *frame, size_t len)
{
	static const struct vnet_header none;

	vq_iov_write(iov, count, 0, &none, sizeof(none));
	vq_iov_write(iov, count, sizeof(none), frame, len);
	return (ssize_t)(sizeof(none) + len);
}

static ssize_t user_recv(struct vnet_host *host, unsigned pair, struct iovec *iov, unsigned count)
{
	struct user *user = (struct user *)host;

	for (;;) {
		size_t have = user->in_end - user->in_at;
		uint32_t length = 0;
		ssize_t n;

		if (have >= sizeof(length)) {
			memcpy(&length, user->in + user->in_at, sizeof(length));
			length = ntohl(length);
			if (length < VNET_ETH_BYTES || length > FRAME_MAX)
				return -EBADMSG;
		}
		if (length && have - sizeof(length) >= length) {
			n = frame_give(iov, count, user->in + user->in_at + sizeof(length), length);
			user->in_at += sizeof(length) + length;
			return n;
		}
		memmove(user->in, user->in + user->in_at, have);
		user->in_at = 0;
		user->in_end = have;
		n = recv(host->fds[0], user->in + have, IN_BYTES - have, MSG_DONTWAIT);
		if (n < 0 && errno != EINTR)
			return errno == EAGAIN ? 0 : -errno;
		if (!n)
			return -EPIPE;
		user->in_end += n > 0 ? (size_t)n : 0;
	}
}

static void user_close(struct vnet_host *host)
{
	struct user *user = (struct user *)host;

	fd_close(&host->fds[0]);
	fd_close(&user->stderr_fd);
	if (user->pid) {
		/* It keeps nothing that would want to be put away. */
		kill(user->pid, SIGKILL);
		waitpid(user->pid, NULL, 0);
	}
	free(user->in);
	free(user->out);
	free(user);
}

static const struct vnet_host_ops user_ops = {
	.send = user_send,
	.recv = user_recv,
	.flush = user_flush,
	.close = user_close,
};

/* Returns 0 when a port of this host can be listened at, or -errno. */
static int port_try(const struct vnet_forward *forward)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(forward->host)};
	FD_SCOPED int fd =
		socket(AF_INET, (forward->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	int on = 1;

	if (fd < 0)
		return -errno;
	/* Connections that ended a moment ago are in nobody's way. */
	if (!forward->udp)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		(!forward->udp && listen(fd, 1) < 0))
		return -errno;
	return 0;
}

/* passt does not tell when it cannot listen. Returns 0 or -errno with a sentence. */
static int ports_free(const struct vnet_user_params *params, struct kv_err *err)
{
	for (unsigned i = 0; i < params->forward_count; i++) {
		const struct vnet_forward *forward = &params->forwards[i];
		int r = port_try(forward);

		if (r == -EADDRINUSE)
			return err_set(err, r, "forward: %s port %u of this host is taken",
				forward->udp ? "UDP" : "TCP", forward->host);
		if (r < 0)
			return err_set(err, r, "forward: port %u of this host cannot be had: %s",
				forward->host, err_text(r));
	}
	return 0;
}

/* A port that could be had is passt's by now. Returns 0 or -EACCES with a sentence. */
static int ports_taken(const struct vnet_user_params *params, struct kv_err *err)
{
	for (unsigned i = 0; i < params->forward_count; i++)
		if (port_try(&params->forwards[i]) != -EADDRINUSE)
			return err_set(err, -EACCES,
				"forward: passt cannot listen at %s port %u of this host",
				params->forwards[i].udp ? "UDP" : "TCP", params->forwards[i].host);
	return 0;
}

/* What passt needs to know. */
struct passt_args {
	char *argv[ARGS_MAX + 1];
	char words[2 + VNET_FORWARDS_MAX][WORD_BYTES];
};

static void args_make(struct passt_args *args, const struct vnet_user_params *params, int socket_fd)
{
	/* Where it writes its process's number when it is ready: what it began with as output. */
	static const char *const fixed[] = {
		"passt", "-f", "-q", "-e", "-P", "/proc/self/fd/1", "-F"};
	unsigned n = 0, word = 0;

	for (; n < ARRAY_LEN(fixed); n++)
		args->argv[n] = (char *)fixed[n];
	snprintf(args->words[word], WORD_BYTES, "%d", socket_fd);
	args->argv[n++] = args->words[word++];
	snprintf(args->words[word], WORD_BYTES, "%u", params->mtu);
	args->argv[n++] = (char *)"-m";
	args->argv[n++] = args->words[word++];
	for (unsigned i = 0; i < params->forward_count; i++) {
		const struct vnet_forward *forward = &params->forwards[i];

		snprintf(args->words[word], WORD_BYTES, "%u:%u", forward->host, forward->guest);
		args->argv[n++] = (char *)(forward->udp ? "-u" : "-t");
		args->argv[n++] = args->words[word++];
	}
	args->argv[n] = NULL;
}

/* Start it with the three descriptors of ours. Returns 0 or -errno. */
static int passt_spawn(pid_t *pid, char *const *argv, int socket_fd, int stdout_fd, int stderr_fd)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none;
	int r;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	/* Of its own group: keys that end programs on a terminal are not for it. */
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
	posix_spawnattr_setsigmask(&attr, &none);
	r = -posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	if (!r)
		r = -posix_spawn_file_actions_adddup2(&actions, stdout_fd, 1);
	if (!r)
		r = -posix_spawn_file_actions_adddup2(&actions, stderr_fd, 2);
	/* Onto itself: that it is closed by exec is undone. */
	if (!r)
		r = -posix_spawn_file_actions_adddup2(&actions, socket_fd, socket_fd);
	if (!r)
		r = -posix_spawnp(pid, "passt", &actions, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return r;
}

/* The last line that passt wrote that tells something, or "". */
static void last_words(int fd, char *text, size_t size)
{
	char buf[4096], *rest = buf, *line;
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	*text = 0;
	buf[n > 0 ? n : 0] = 0;
	while ((line = strsep(&rest, "\n")))
		if (*line && strncmp(line, "Failed to send", 14) && strncmp(line, "Don't run", 9))
			snprintf(text, size, "%s", line);
	for (char *c = text; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
}

/* Wait until passt says that it is ready. Returns 0 or -errno with a sentence. */
static int ready_wait(struct user *user, int ready_fd, struct kv_err *err)
{
	struct pollfd poll_fd = {.fd = ready_fd, .events = POLLIN};
	char text[160], pid[16];
	int n;

	do {
		n = poll(&poll_fd, 1, READY_MS);
	} while (n < 0 && errno == EINTR);
	if (n > 0 && read(ready_fd, pid, sizeof(pid)) > 0)
		return 0;
	if (!n)
		return err_set(err, -ETIMEDOUT, "passt is not ready after %d s", READY_MS / 1000);
	last_words(user->stderr_fd, text, sizeof(text));
	return err_set(
		err, -EIO, "passt does not start: %s", *text ? text : "it ended without a word");
}

/* Returns 0 or -errno with a sentence. */
static int passt_start(struct user *user, const struct vnet_user_params *params, struct kv_err *err)
{
	FD_SCOPED int far_fd = -1, ready_fd = -1, told_fd = -1, words_fd = -1;
	struct passt_args args;
	int fds[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "no socket for passt: %s", err_text(-errno));
	user->host.fds[0] = fds[0];
	far_fd = fds[1];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "no pipe for passt: %s", err_text(-errno));
	ready_fd = fds[0];
	told_fd = fds[1];
	/* passt may have become another user when it opens it. */
	if (fchmod(told_fd, 0666) < 0 || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set(err, -errno, "no pipe for passt: %s", err_text(-errno));
	user->stderr_fd = fds[0];
	words_fd = fds[1];
	args_make(&args, params, far_fd);
	r = passt_spawn(&user->pid, args.argv, far_fd, told_fd, words_fd);
	if (r == -ENOENT)
		return err_set(err, r,
			"user networking needs the program passt, which is not in PATH; install "
			"it: apt-get install passt");
	if (r < 0)
		return err_set(err, r, "passt cannot be run: %s", err_text(r));
	/* Its end is to be seen. */
	fd_close(&told_fd);
	return ready_wait(user, ready_fd, err);
}

int vnet_user_open(
	struct vnet_host **ret, const struct vnet_user_params *params, struct kv_err *err)
{
	struct user *user = calloc(1, sizeof(*user));
	int r = 0;

	if (!user)
		return err_set(err, -ENOMEM, "out of memory");
	user->host = (struct vnet_host){.ops = &user_ops, .pair_count = 1, .fds = {-1}};
	user->stderr_fd = -1;
	user->in = malloc(IN_BYTES);
	user->out = malloc(VNET_PACKET_MAX);
	if (!user->in || !user->out)
		r = err_set(err, -ENOMEM, "out of memory");
	if (!r)
		r = ports_free(params, err);
	if (!r)
		r = passt_start(user, params, err);
	if (!r)
		r = ports_taken(params, err);
	if (r < 0) {
		user_close(&user->host);
		return r;
	}
	*ret = &user->host;
	return 0;
}
