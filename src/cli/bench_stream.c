/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "base/thread.h"

#define PIECE_BYTES (256 * KIB)
#define STACK_BYTES (256 * KIB)

struct bench_stream {
	int listen_fd, stop_fd;	    /* [c] */
	char host[INET_ADDRSTRLEN]; /* [c] */
	uint16_t port;		    /* [c] */
	pthread_t thread;	    /* [c] */
	char piece[PIECE_BYTES];
};

/* Wait until @fd is ready for @events. Returns false when the stream is to stop. */
static bool ready_wait(const struct bench_stream *stream, int fd, short events)
{
	struct pollfd fds[] = {
		{.fd = stream->stop_fd, .events = POLLIN}, {.fd = fd, .events = events}};

	while (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno == EINTR)
		;
	return !fds[0].revents;
}

/* Read or write @bytes through the piece. Returns whether all went. */
static bool bytes_move(struct bench_stream *stream, int fd, bool out, uint64_t bytes)
{
	while (bytes) {
		size_t step = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
		ssize_t n;

		if (!ready_wait(stream, fd, out ? POLLOUT : POLLIN))
			return false;
		n = out ? send(fd, stream->piece, step, MSG_NOSIGNAL | MSG_DONTWAIT)
			: recv(fd, stream->piece, step, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0)
			return false;
		bytes -= (uint64_t)n;
	}
	return true;
}

static void *stream_main(void *ctx)
{
	struct bench_stream *stream = ctx;

	while (ready_wait(stream, stream->listen_fd, POLLIN)) {
		FD_SCOPED int fd = accept4(stream->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		uint64_t head[2];

		if (fd < 0 || !bytes_move(stream, fd, false, sizeof(head)))
			continue;
		memcpy(head, stream->piece, sizeof(head));
		memset(stream->piece, 0, sizeof(head));
		if (bytes_move(stream, fd, false, head[0]))
			bytes_move(stream, fd, true, head[1]);
	}
	return NULL;
}

/* The interface's address. Returns 0 or -errno with a sentence. */
static int address_find(struct sockaddr_in *ret, const char *name, struct kv_err *err)
{
	FD_SCOPED int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_addr = {.sa_family = AF_INET}};

	if (strlen(name) >= sizeof(ifr.ifr_name) || !if_nametoindex(name))
		return err_set(err, -ENODEV, "there is no interface %s", name);
	memcpy(ifr.ifr_name, name, strlen(name));
	if (fd < 0 || ioctl(fd, SIOCGIFADDR, &ifr) < 0)
		return err_set(err, -errno, "%s has no IPv4 address: %s", name, err_text(-errno));
	memcpy(ret, &ifr.ifr_addr, sizeof(*ret));
	return 0;
}

/* Returns 0 or -errno with a sentence. */
static int stream_listen(struct bench_stream *stream, const char *name, struct kv_err *err)
{
	struct sockaddr_in at;
	socklen_t len = sizeof(at);
	int r = address_find(&at, name, err);

	if (r < 0)
		return r;
	inet_ntop(AF_INET, &at.sin_addr, stream->host, sizeof(stream->host));
	at.sin_port = 0;
	stream->stop_fd = eventfd(0, EFD_CLOEXEC);
	stream->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (stream->stop_fd < 0 || stream->listen_fd < 0 ||
		bind(stream->listen_fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
		listen(stream->listen_fd, 1) < 0 ||
		getsockname(stream->listen_fd, (struct sockaddr *)&at, &len) < 0)
		return err_set(err, -errno, "no server at %s: %s", stream->host, err_text(-errno));
	stream->port = ntohs(at.sin_port);
	return 0;
}

static void stream_free(struct bench_stream *stream)
{
	fd_close(&stream->listen_fd);
	fd_close(&stream->stop_fd);
	free(stream);
}

int bench_stream_start(struct bench_stream **ret, const char *name, struct kv_err *err)
{
	struct bench_stream *stream = calloc(1, sizeof(*stream));
	int r;

	if (!stream)
		return err_set(err, -ENOMEM, "out of memory");
	stream->listen_fd = stream->stop_fd = -1;
	r = stream_listen(stream, name, err);
	if (!r) {
		/* Signals are for the thread that measures. */
		r = thread_start(&stream->thread, STACK_BYTES, 0, stream_main, stream);
		if (r < 0)
			err_set(err, r, "no thread: %s", err_text(r));
	}
	if (r < 0) {
		stream_free(stream);
		return r;
	}
	*ret = stream;
	return 0;
}

void bench_stream_stop(struct bench_stream *stream)
{
	if (!stream)
		return;
	eventfd_write(stream->stop_fd, 1);
	pthread_join(stream->thread, NULL);
	stream_free(stream);
}

const char *bench_stream_host(const struct bench_stream *stream)
{
	return stream->host;
}

uint16_t bench_stream_port(const struct bench_stream *stream)
{
	return stream->port;
}
