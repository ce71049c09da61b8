/* SPDX-License-Identifier: Apache-2.0 */
/* What all kinds of host sides have in common: the output ring, and input on its way. */
#include "legacy/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "legacy/internal.h"
#include "trace/timeline.h"

/*
 * Output is written by the loop thread this long after its first byte: the console of a guest sends
 * byte by byte, and this way some thousands of them share one system call. Nobody sees the delay.
 */
#define FLUSH_NS 1000000

#define RETRY_NS	 100000000 /* after the host ran out of descriptors */
#define DESTROY_FLUSH_NS 200000000

#define KEY_ESCAPE 0x01 /* Ctrl-A */

static void end_unwatch(struct chardev_end *end)
{
	loop_remove(end->source);
	end->source = NULL;
}

static void end_close(struct chardev_end *end)
{
	end_unwatch(end);
	if (end->own)
		fd_close(&end->fd);
	end->fd = -1;
}

/* Watch @end for @events and its hanging up. Returns 0 or loop_add_fd()'s errors. */
static int end_watch(struct chardev *dev, struct chardev_end *end, uint32_t events, loop_fn fn)
{
	int r;

	if (end->source && end->events == events)
		return 0;
	if (end->source)
		r = loop_mod_fd(end->source, events);
	else
		r = loop_add_fd(dev->loop, end->fd, events, fn, dev, &end->source);
	if (!r)
		end->events = events;
	return r;
}

/* The ring: called with the lock. */

static void ring_drop(struct chardev *dev, size_t len)
{
	dev->ring_start = (dev->ring_start + len) % CHARDEV_RING_BYTES;
	dev->ring_used -= len;
	dev->dropped += len;
}

/* When it is full the oldest bytes go: what a guest said last tells what became of it. */
static void ring_put(struct chardev *dev, const uint8_t *bytes, size_t len)
{
	size_t at, first;

	if (!dev->ring)
		dev->ring = malloc(CHARDEV_RING_BYTES);
	if (!dev->ring) {
		dev->dropped += len;
		return;
	}
	if (len > CHARDEV_RING_BYTES) {
		dev->dropped += len - CHARDEV_RING_BYTES;
		bytes += len - CHARDEV_RING_BYTES;
		len = CHARDEV_RING_BYTES;
	}
	if (len > CHARDEV_RING_BYTES - dev->ring_used)
		ring_drop(dev, len - (CHARDEV_RING_BYTES - dev->ring_used));
	at = (dev->ring_start + dev->ring_used) % CHARDEV_RING_BYTES;
	first = len < CHARDEV_RING_BYTES - at ? len : CHARDEV_RING_BYTES - at;
	memcpy(dev->ring + at, bytes, first);
	memcpy(dev->ring, bytes + first, len - first);
	dev->ring_used += len;
}

static size_t ring_peek(const struct chardev *dev, uint8_t *bytes, size_t len)
{
	size_t first;

	if (len > dev->ring_used)
		len = dev->ring_used;
	if (!len)
		return 0;
	first = CHARDEV_RING_BYTES - dev->ring_start;
	if (first > len)
		first = len;
	memcpy(bytes, dev->ring + dev->ring_start, first);
	memcpy(bytes + first, dev->ring, len - first);
	return len;
}

/* @len bytes of those peeked at went out; since then @lost of them were dropped from the ring. */
static void ring_took(struct chardev *dev, size_t len, uint64_t lost)
{
	if (lost > len)
		lost = len;
	dev->dropped -= lost;
	len -= (size_t)lost;
	dev->ring_used -= len;
	dev->ring_start = dev->ring_used ? (dev->ring_start + len) % CHARDEV_RING_BYTES : 0;
}

void chardev_write(struct chardev *dev, const uint8_t *bytes, size_t len)
{
	bool arm;

	pthread_mutex_lock(&dev->lock);
	ring_put(dev, bytes, len);
	arm = dev->state == CHARDEV_OUT_IDLE;
	if (arm)
		dev->state = CHARDEV_OUT_ARMED;
	pthread_mutex_unlock(&dev->lock);
	if (arm)
		loop_set_timer(dev->flush_timer, FLUSH_NS);
}

/* One write that does not wait. Returns the bytes taken or -errno. */
static ssize_t out_write(struct chardev_end *out, const uint8_t *bytes, size_t len)
{
	struct pollfd ready = {.fd = out->fd, .events = POLLOUT};
	ssize_t n;

	if (out->socket) {
		n = send(out->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	} else {
		if (out->may_wait && poll(&ready, 1, 0) <= 0)
			return -EAGAIN;
		n = write(out->fd, bytes, len);
	}
	return n < 0 ? -errno : n;
}

static void client_check(struct chardev *dev)
{
	if (dev->listen_fd >= 0 && dev->in.fd < 0 && dev->out.fd < 0)
		chardev_listen(dev);
}

static void in_read(struct chardev *dev);

/* The client went away: what it sent before is kept, as far as there is room. */
static void client_gone(struct chardev *dev)
{
	if (dev->in.fd >= 0)
		in_read(dev);
	end_close(&dev->in);
	end_close(&dev->out);
	pthread_mutex_lock(&dev->lock);
	dev->state = CHARDEV_OUT_HELD;
	pthread_mutex_unlock(&dev->lock);
	client_check(dev);
}

static void out_event(void *ctx, uint32_t events)
{
	struct chardev *dev = ctx;

	if (dev->listen_fd >= 0 && events & (EPOLLHUP | EPOLLERR))
		client_gone(dev);
	else
		chardev_flush(dev);
}

/* The other side takes nothing now: wait until it does. */
static void out_hold(struct chardev *dev)
{
	enum chardev_out state = CHARDEV_OUT_HELD;

	/* What cannot be watched is tried again; without descriptor the next client goes on. */
	if (dev->out.fd >= 0 && end_watch(dev, &dev->out, EPOLLOUT, out_event) < 0)
		state = CHARDEV_OUT_ARMED;
	pthread_mutex_lock(&dev->lock);
	dev->state = state;
	pthread_mutex_unlock(&dev->lock);
	if (state == CHARDEV_OUT_ARMED)
		loop_set_timer(dev->flush_timer, 10 * FLUSH_NS);
}

/* Everything is written: stop waiting for room. */
static void out_rest(struct chardev *dev)
{
	if (dev->listen_fd >= 0 && dev->out.fd >= 0)
		end_watch(dev, &dev->out, 0, out_event);
	else
		end_unwatch(&dev->out);
}

/*
 * The write failed for good. A client's bytes wait for the next client; others have no second
 * chance, and keeping them would only delay what comes when the disk has room again.
 */
static void out_failed(struct chardev *dev)
{
	if (dev->listen_fd >= 0) {
		client_gone(dev);
		return;
	}
	pthread_mutex_lock(&dev->lock);
	ring_drop(dev, dev->ring_used);
	dev->state = CHARDEV_OUT_IDLE;
	pthread_mutex_unlock(&dev->lock);
	out_rest(dev);
}

/* What one write may carry: a descriptor that may wait promises little room when it is ready. */
static size_t out_chunk(const struct chardev_end *out)
{
	if (!out->may_wait)
		return CHARDEV_CHUNK_BYTES;
	return isatty(out->fd) ? 1 : PIPE_BUF;
}

void chardev_flush(struct chardev *dev)
{
	uint8_t bytes[CHARDEV_CHUNK_BYTES];
	size_t chunk;

	if (dev->out.inherited)
		chardev_reopen(&dev->out, true);
	if (dev->out.fd < 0) {
		out_hold(dev);
		return;
	}
	chunk = out_chunk(&dev->out);
	for (unsigned turns = CHARDEV_RING_BYTES / CHARDEV_CHUNK_BYTES; turns > 0; turns--) {
		uint64_t dropped;
		size_t len;
		ssize_t n;

		pthread_mutex_lock(&dev->lock);
		len = ring_peek(dev, bytes, chunk);
		dropped = dev->dropped;
		dev->state = len ? CHARDEV_OUT_ARMED : CHARDEV_OUT_IDLE;
		pthread_mutex_unlock(&dev->lock);
		if (!len) {
			out_rest(dev);
			return;
		}
		n = out_write(&dev->out, bytes, len);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			out_hold(dev);
			return;
		}
		if (n < 0) {
			out_failed(dev);
			return;
		}
		pthread_mutex_lock(&dev->lock);
		ring_took(dev, (size_t)n, dev->dropped - dropped);
		pthread_mutex_unlock(&dev->lock);
	}
	/* Others of the loop have their turn first. */
	loop_set_timer(dev->flush_timer, 1);
}

static void flush_due(void *ctx, uint32_t events)
{
	chardev_flush(ctx);
}

/* Input. */

static void in_deliver(struct chardev *dev)
{
	while (dev->held_used && dev->ops.rx) {
		size_t n = dev->ops.rx(dev->ops.ctx, dev->held + dev->held_start, dev->held_used);

		if (!n)
			return;
		dev->held_used -= n;
		dev->held_start = dev->held_used ? dev->held_start + n : 0;
	}
}

/* Keep a byte for the receiver; a terminal's that find no room are lost as they are in a tty. */
static void in_keep(struct chardev *dev, uint8_t byte)
{
	if (dev->held_start) {
		memmove(dev->held, dev->held + dev->held_start, dev->held_used);
		dev->held_start = 0;
	}
	if (dev->held_used < sizeof(dev->held))
		dev->held[dev->held_used++] = byte;
}

static void in_key(struct chardev *dev, uint8_t byte)
{
	static const char help[] = "\r\nCtrl-A X       end the virtual machine\r\n"
				   "Ctrl-A Ctrl-A  send Ctrl-A\r\n"
				   "Ctrl-A H       this list\r\n";

	if (!dev->escape && byte == KEY_ESCAPE) {
		dev->escape = true;
		return;
	}
	if (!dev->escape) {
		in_keep(dev, byte);
		return;
	}
	dev->escape = false;
	switch (byte) {
	case KEY_ESCAPE:
	case 'a':
	case 'A':
		in_keep(dev, KEY_ESCAPE);
		break;
	case 'x':
	case 'X':
		if (dev->ops.quit)
			dev->ops.quit(dev->ops.ctx);
		break;
	case 'h':
	case 'H':
	case '?':
		chardev_write(dev, (const uint8_t *)help, sizeof(help) - 1);
		break;
	default:
		break;
	}
}

/* One read; at the end of input its end is closed. */
static void in_read(struct chardev *dev)
{
	uint8_t bytes[CHARDEV_CHUNK_BYTES];
	size_t room = dev->terminal ? sizeof(bytes) : sizeof(dev->held) - dev->held_used;
	ssize_t n;

	if (!room)
		return;
	if (dev->in.socket)
		n = recv(dev->in.fd, bytes, room, MSG_DONTWAIT);
	else
		n = read(dev->in.fd, bytes, room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end_close(&dev->in);
		client_check(dev);
		return;
	}
	for (ssize_t i = 0; i < n; i++) {
		if (dev->terminal)
			in_key(dev, bytes[i]);
		else
			in_keep(dev, bytes[i]);
	}
	in_deliver(dev);
}

static void in_event(void *ctx, uint32_t events)
{
	struct chardev *dev = ctx;

	if (dev->in.inherited) {
		/* The new descriptor is watched instead of the shared one. */
		end_unwatch(&dev->in);
		chardev_reopen(&dev->in, false);
	}
	in_read(dev);
	chardev_in_watch(dev);
}

void chardev_in_watch(struct chardev *dev)
{
	/* The escape keys must work when the guest takes no input, so a terminal is always read. */
	bool wanted = dev->in.fd >= 0 && dev->ops.rx && (dev->terminal || !dev->held_used);
	int r;

	if (!wanted) {
		end_unwatch(&dev->in);
		return;
	}
	if (!dev->in_direct) {
		r = end_watch(dev, &dev->in, EPOLLIN, in_event);
		dev->in_direct = r == -EPERM;
		if (!r)
			return;
	}
	if (dev->in_direct)
		loop_set_timer(dev->in_timer, 1);
	else
		end_close(&dev->in);
}

/* The receiver has room again, or a file's next piece is due, or the next try to listen. */
static void in_due(void *ctx, uint32_t events)
{
	struct chardev *dev = ctx;

	in_deliver(dev);
	if (dev->in_direct && dev->in.fd >= 0 && dev->ops.rx && !dev->held_used)
		in_read(dev);
	chardev_in_watch(dev);
	client_check(dev);
}

void chardev_accept(struct chardev *dev)
{
	loop_set_timer(dev->in_timer, 1);
}

int chardev_attach(struct chardev *dev, const struct chardev_ops *ops)
{
	dev->ops = ops ? *ops : (struct chardev_ops){0};
	chardev_in_watch(dev);
	return 0;
}

/* Unix socket. */

int chardev_client(struct chardev *dev, int fd)
{
	/* Each direction has its own descriptor: one may end, or wait, before the other. */
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int r;

	if (copy < 0)
		return -errno;
	dev->out = (struct chardev_end){.fd = copy, .own = true, .socket = true};
	r = end_watch(dev, &dev->out, 0, out_event);
	if (r < 0) {
		end_close(&dev->out);
		return r;
	}
	dev->in = (struct chardev_end){.fd = fd, .own = true, .socket = true};
	loop_remove(dev->listen_source);
	dev->listen_source = NULL;
	chardev_in_watch(dev);
	chardev_flush(dev);
	return 0;
}

static void listen_event(void *ctx, uint32_t events)
{
	struct chardev *dev = ctx;
	int fd = accept4(dev->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int r = fd < 0 ? -errno : chardev_client(dev, fd);

	if (!r || r == -EAGAIN || r == -EINTR || r == -ECONNABORTED)
		return;
	fd_close(&fd);
	/* Out of descriptors or memory: the client keeps waiting, and so does the loop. */
	loop_remove(dev->listen_source);
	dev->listen_source = NULL;
	loop_set_timer(dev->in_timer, RETRY_NS);
}

void chardev_listen(struct chardev *dev)
{
	if (!dev->listen_source && loop_add_fd(dev->loop, dev->listen_fd, EPOLLIN, listen_event,
					   dev, &dev->listen_source) < 0)
		loop_set_timer(dev->in_timer, RETRY_NS);
}

/* Beginning and end. */

int chardev_make(struct chardev **ret, struct loop *loop, const char *name)
{
	struct chardev *dev = malloc(sizeof(*dev));
	int r = -ENOMEM;

	if (!dev)
		return -ENOMEM;
	memset(dev, 0, offsetof(struct chardev, held));
	dev->loop = loop;
	dev->in.fd = -1;
	dev->out.fd = -1;
	dev->peer_fd = -1;
	dev->listen_fd = -1;
	if (name) {
		dev->name = strdup(name);
		if (!dev->name)
			goto err_free;
	}
	r = loop_add_timer(loop, in_due, dev, &dev->in_timer);
	if (r < 0)
		goto err_free;
	r = loop_add_timer(loop, flush_due, dev, &dev->flush_timer);
	if (r < 0)
		goto err_timer;
	pthread_mutex_init(&dev->lock, NULL);
	*ret = dev;
	return 0;

err_timer:
	loop_remove(dev->in_timer);
err_free:
	free(dev->name);
	free(dev);
	return r;
}

/* Write what is left, as long as the other side takes it within the time. */
static void last_flush(struct chardev *dev)
{
	uint64_t until = clock_ns() + DESTROY_FLUSH_NS;

	while (dev->ring_used) {
		struct pollfd ready = {.events = POLLOUT};
		uint64_t now;

		chardev_flush(dev);
		now = clock_ns();
		if (!dev->ring_used || dev->out.fd < 0 || now >= until)
			return;
		ready.fd = dev->out.fd;
		poll(&ready, 1, (int)((until - now) / 1000000) + 1);
	}
}

void chardev_destroy(struct chardev *dev)
{
	struct stat st;

	if (!dev)
		return;
	last_flush(dev);
	chardev_restore(dev);
	end_close(&dev->in);
	end_close(&dev->out);
	loop_remove(dev->listen_source);
	loop_remove(dev->in_timer);
	loop_remove(dev->flush_timer);
	fd_close(&dev->peer_fd);
	/* Somebody may have put another socket in its place meanwhile. */
	if (dev->listen_fd >= 0 && dev->path_ino && !lstat(dev->name, &st) &&
		st.st_dev == dev->path_dev && st.st_ino == dev->path_ino)
		unlink(dev->name);
	fd_close(&dev->listen_fd);
	pthread_mutex_destroy(&dev->lock);
	free(dev->ring);
	free(dev->name);
	free(dev);
}

const char *chardev_name(const struct chardev *dev)
{
	return dev->name;
}

uint64_t chardev_dropped(const struct chardev *dev)
{
	return dev->dropped;
}

void chardev_restore(const struct chardev *dev)
{
	if (dev && dev->terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &dev->cooked);
}
