/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "pool/path.h"

#define ANSWER_SECONDS 5

/* A server that does not read cleans everything; nobody's end waits longer for it. */
#define REPORT_US 200000

struct pool_lease {
	int fd;
	uint64_t asked_bytes;
	bool wait, lazy, renew;
	bool ending; /* what is sent now is not waited for long */
	uint64_t chunk_bytes, page_bytes;
	unsigned count, taken; /* chunks, and those of them that came with the grant */
	struct pool_chunk *chunks;
};

/* A connection, or -errno. */
static int pool_connect(const char *path, bool wait, struct kv_err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = ANSWER_SECONDS};
	int fd, r;

	if (!path) {
		r = pool_path(addr.sun_path, sizeof(addr.sun_path), err);
		if (r < 0)
			return r;
	} else {
		if (strlen(path) >= sizeof(addr.sun_path))
			return err_set(err, -ENAMETOOLONG, "pool %s: the path is too long", path);
		strcpy(addr.sun_path, path);
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(err, -errno, "socket: %s", err_text(errno));
	/* The time to send bounds connect(), too. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
		(!wait && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)) {
		r = err_set(err, -errno, "setsockopt: %s", err_text(errno));
		goto err_fd;
	}
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = errno == EAGAIN ? -ETIMEDOUT : -errno;
		err_set(err, r, "no pool answers at %s: %s", addr.sun_path, err_text(r));
		goto err_fd;
	}
	return fd;

err_fd:
	fd_close(&fd);
	return r;
}

static int request_send(int fd, uint16_t type, uint32_t index, uint64_t bytes, uint32_t flags)
{
	struct pool_msg msg = {
		.magic = POOL_MAGIC,
		.version = POOL_VERSION,
		.type = type,
		.flags = flags,
		.index = index,
		.bytes = bytes,
	};

	return send(fd, &msg, sizeof(msg), MSG_NOSIGNAL) == sizeof(msg) ? 0 : -errno;
}

static int error_tell(const struct pool_msg *msg, struct kv_err *err)
{
	int code = msg->error > 0 && msg->error < 4096 ? -(int)msg->error : -EPROTO;
	char size[24];

	switch (code) {
	case -EAGAIN:
		return err_set(err, code, "the pool is short of free chunks at the moment");
	case -ENOSPC:
		return err_set(err, code, "the pool has only %s in all",
			size_format(msg->bytes, size, sizeof(size)));
	case -EDQUOT:
		return err_set(err, code, "the pool gives one user no more than %s at a time",
			size_format(msg->bytes, size, sizeof(size)));
	case -EACCES:
		return err_set(err, code, "the pool does not serve this user");
	case -EPERM:
		return err_set(err, code, "only the pool's own user and root may do that");
	case -EBUSY:
		return err_set(err, code, "the pool has too many connections");
	default:
		return err_set(err, code, "the pool refuses: %s", err_text(code));
	}
}

/* The descriptors of a received packet; *@count of them. */
static const int *fds_of(struct msghdr *msg, unsigned *count)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);

	*count = 0;
	if (!cmsg || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
		return NULL;
	*count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	return (const int *)CMSG_DATA(cmsg);
}

/*
 * Receive an answer of @type and @len bytes. Descriptors go to @fds (POOL_FDS_MAX), their number to
 * *@fd_count; when this fails, none stays open.
 */
static int answer_read(int fd, uint16_t type, void *answer, size_t len, int *fds,
	unsigned *fd_count, struct kv_err *err)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(POOL_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = answer, .iov_len = len};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct pool_msg *head = answer;
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	const int *got;
	unsigned count;
	int r;

	/* Who closes with something unread has reset: that is told once, before what it sent. */
	if (n < 0 && errno == ECONNRESET)
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0) {
		r = errno == EAGAIN ? -ETIMEDOUT : -errno;
		return err_set(err, r, "the pool does not answer: %s", err_text(r));
	}
	got = fds_of(&msg, &count);
	if ((size_t)n == len && head->magic == POOL_MAGIC && head->version == POOL_VERSION &&
		head->type == type && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
		(fds || !count)) {
		for (unsigned i = 0; i < count; i++)
			fds[i] = got[i];
		if (fd_count)
			*fd_count = count;
		return 0;
	}
	for (unsigned i = 0; i < count; i++)
		close(got[i]);
	if ((size_t)n >= sizeof(*head) && head->magic == POOL_MAGIC && head->type == POOL_ERROR)
		return error_tell(head, err);
	if (n == 0)
		return err_set(err, -ECONNRESET, "the pool has closed the connection");
	if (msg.msg_flags & MSG_CTRUNC)
		return err_set(err, -EMFILE, "too few descriptors are allowed (ulimit -n)");
	return err_set(err, -EPROTO, "the pool's answer is not understood");
}

/* A chunk that could shrink would be a SIGBUS for who maps it. */
static int chunk_check(int fd, uint64_t bytes)
{
	int seals = fcntl(fd, F_GET_SEALS), want = F_SEAL_SHRINK | F_SEAL_GROW;
	struct stat st;

	if (seals < 0 || (seals & want) != want || fstat(fd, &st) < 0)
		return -EPROTO;
	return (uint64_t)st.st_size == bytes ? 0 : -EPROTO;
}

/* Keep the descriptors of a grant; those that cannot be kept are closed. */
static int grant_take(struct pool_lease *lease, const struct pool_msg *msg, const int *fds,
	unsigned fd_count, struct kv_err *err)
{
	int r = msg->count == fd_count && msg->index <= lease->count &&
				fd_count <= lease->count - msg->index
			? 0
			: -EPROTO;

	for (unsigned i = 0; i < fd_count; i++) {
		int *to = &lease->chunks[msg->index + i].fd;

		if (!r && *to >= 0)
			r = -EPROTO;
		if (!r)
			r = chunk_check(fds[i], lease->chunk_bytes);
		if (!r)
			*to = fds[i];
		else
			close(fds[i]);
	}
	return r < 0 ? err_set(err, r, "the pool's chunks are not what was asked for") : 0;
}

/* Whether what a server says of its chunks can be. */
static int sizes_check(const struct pool_msg *msg, struct kv_err *err)
{
	uint64_t page = msg->page_bytes;

	if (!msg->chunk_bytes || page < PAGE_BYTES || page & (page - 1) || msg->chunk_bytes % page)
		return err_set(err, -EPROTO, "the pool's answer makes no sense");
	return 0;
}

/* What the first grant says of the lease as a whole. */
static int lease_size(
	struct pool_lease *lease, const struct pool_msg *msg, uint64_t bytes, struct kv_err *err)
{
	int r = sizes_check(msg, err);
	uint64_t count = r < 0 ? 0 : msg->bytes / msg->chunk_bytes;

	if (r < 0)
		return r;
	if (!count || count > POOL_CHUNKS_MAX || msg->bytes < bytes ||
		msg->bytes % msg->chunk_bytes)
		return err_set(err, -EPROTO, "the pool's answer makes no sense");
	lease->chunks = calloc(count, sizeof(*lease->chunks));
	if (!lease->chunks)
		return err_set(err, -ENOMEM, "out of memory");
	lease->count = (unsigned)count;
	lease->chunk_bytes = msg->chunk_bytes;
	lease->page_bytes = msg->page_bytes;
	for (unsigned i = 0; i < lease->count; i++)
		lease->chunks[i] = (struct pool_chunk){.fd = -1, .bytes = msg->chunk_bytes};
	return 0;
}

int pool_ask(struct pool_lease **ret, const char *path, uint64_t bytes, uint32_t flags,
	struct kv_err *err)
{
	struct pool_lease *lease;
	int r;

	if (!bytes) {
		err_set(err, -EINVAL, "a lease of 0 bytes");
		return -EINVAL;
	}
	lease = calloc(1, sizeof(*lease));
	if (!lease) {
		err_set(err, -ENOMEM, "out of memory");
		return -ENOMEM;
	}
	lease->asked_bytes = bytes;
	lease->wait = flags & POOL_WAIT;
	lease->lazy = flags & POOL_LAZY;
	lease->renew = flags & POOL_RENEW;
	lease->fd = pool_connect(path, flags & POOL_WAIT, err);
	if (lease->fd < 0) {
		r = lease->fd;
		goto err_end;
	}
	r = request_send(lease->fd, POOL_LEASE, 0, bytes, flags);
	/* A server that refuses a connection has said why, and does not read. */
	if (r < 0 && r != -EPIPE && r != -ECONNRESET) {
		err_set(err, r, "the pool takes no request: %s", err_text(r));
		goto err_end;
	}
	*ret = lease;
	return 0;

err_end:
	pool_lease_end(lease);
	return r;
}

int pool_await(const struct pool_lease *lease, int stop_fd, struct kv_err *err)
{
	struct pollfd fds[] = {
		{.fd = lease->fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
	int n;

	do
		n = poll(fds, ARRAY_LEN(fds), lease->wait ? -1 : ANSWER_SECONDS * 1000);
	while (n < 0 && errno == EINTR);
	if (n <= 0) {
		n = n ? -errno : -ETIMEDOUT;
		return err_set(err, n, "the pool does not answer: %s", err_text(n));
	}
	return !fds[0].revents;
}

int pool_take(struct pool_lease *lease, struct kv_err *err)
{
	int fds[POOL_FDS_MAX];
	unsigned fd_count;
	struct pool_msg msg;
	int r = answer_read(lease->fd, POOL_GRANT, &msg, sizeof(msg), fds, &fd_count, err);

	if (r < 0)
		return r;
	if (!lease->chunks)
		r = lease_size(lease, &msg, lease->asked_bytes, err);
	if (r < 0) {
		for (unsigned i = 0; i < fd_count; i++)
			close(fds[i]);
		return r;
	}
	r = grant_take(lease, &msg, fds, fd_count, err);
	if (!r && !fd_count && !lease->lazy)
		r = err_set(err, -EPROTO, "the pool sent no chunks");
	if (r < 0)
		return r;
	lease->taken += fd_count;
	return !lease->lazy && lease->taken < lease->count;
}

int pool_lease_with(struct pool_lease **ret, const char *path, uint64_t bytes, uint32_t flags,
	struct kv_err *err)
{
	struct pool_lease *lease = NULL;
	int r = pool_ask(&lease, path, bytes, flags, err);

	if (r < 0)
		return r;
	do
		r = pool_take(lease, err);
	while (r > 0);
	if (r < 0) {
		pool_lease_end(lease);
		return r;
	}
	*ret = lease;
	return 0;
}

int pool_lease(
	struct pool_lease **ret, const char *path, uint64_t bytes, bool wait, struct kv_err *err)
{
	return pool_lease_with(ret, path, bytes, wait ? POOL_WAIT : 0, err);
}

int pool_fetch(struct pool_lease *lease, unsigned index, struct kv_err *err)
{
	int fds[POOL_FDS_MAX];
	unsigned fd_count;
	struct pool_msg msg;
	int r;

	if (index >= lease->count)
		return err_set(err, -EINVAL, "chunk %u of %u", index, lease->count);
	if (lease->chunks[index].fd >= 0)
		return 0;
	r = request_send(lease->fd, POOL_FETCH, index, 0, 0);
	if (r < 0)
		return err_set(err, r, "the pool takes no request: %s", err_text(r));
	r = answer_read(lease->fd, POOL_GRANT, &msg, sizeof(msg), fds, &fd_count, err);
	if (!r)
		r = grant_take(lease, &msg, fds, fd_count, err);
	if (!r && lease->chunks[index].fd < 0)
		r = err_set(err, -EPROTO, "the pool sent another chunk");
	return r;
}

const struct pool_chunk *pool_chunks(const struct pool_lease *lease, unsigned *count)
{
	*count = lease->count;
	return lease->chunks;
}

uint64_t pool_page_bytes(const struct pool_lease *lease)
{
	return lease->page_bytes;
}

/* A report saves work, and no more: from here on a server that does not read is not waited for. */
static void sends_hurry(struct pool_lease *lease)
{
	struct timeval limit = {.tv_usec = REPORT_US};

	if (!lease->ending)
		setsockopt(lease->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	lease->ending = true;
}

int pool_wrote(
	struct pool_lease *lease, unsigned index, const struct pool_span *spans, unsigned count)
{
	struct pool_wrote wrote = {
		.msg = {.magic = POOL_MAGIC,
			.version = POOL_VERSION,
			.type = POOL_WROTE,
			.index = index,
			.count = count},
	};
	size_t len = sizeof(wrote.msg) + count * sizeof(*spans);

	if (index >= lease->count || count > POOL_SPANS_MAX)
		return -EINVAL;
	sends_hurry(lease);
	memcpy(wrote.spans, spans, count * sizeof(*spans));
	return send(lease->fd, &wrote, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -errno;
}

static void chunks_close(struct pool_lease *lease)
{
	for (unsigned i = 0; i < lease->count; i++)
		fd_close(&lease->chunks[i].fd);
}

void pool_lease_quiet(struct pool_lease *lease)
{
	if (!lease->renew)
		return;
	sends_hurry(lease);
	/* When it does not get through, the chunks are renewed. */
	request_send(lease->fd, POOL_QUIET, 0, 0, 0);
}

void pool_lease_report(struct pool_lease *lease)
{
	/* The server looks whether anybody still holds them. */
	chunks_close(lease);
	/* When it does not get through, everything is cleaned. */
	request_send(lease->fd, POOL_END, 0, 0, 0);
	pool_lease_end(lease);
}

void pool_lease_end(struct pool_lease *lease)
{
	if (!lease)
		return;
	chunks_close(lease);
	fd_close(&lease->fd);
	free(lease->chunks);
	free(lease);
}

int pool_status(const char *path, struct pool_info *info, struct kv_err *err)
{
	FD_SCOPED int fd = pool_connect(path, false, err);
	int r = fd < 0 ? fd : request_send(fd, POOL_STATUS, 0, 0, 0);

	if (fd < 0)
		return r;
	r = answer_read(fd, POOL_INFO, info, sizeof(*info), NULL, NULL, err);
	return r < 0 ? r : sizes_check(&info->msg, err);
}

int pool_resize(const char *path, enum pool_type type, uint64_t bytes, struct kv_err *err)
{
	FD_SCOPED int fd = pool_connect(path, false, err);
	struct pool_msg msg;
	int r;

	if (fd < 0)
		return fd;
	request_send(fd, (uint16_t)type, 0, bytes, 0);
	r = answer_read(fd, POOL_DONE, &msg, sizeof(msg), NULL, NULL, err);
	switch (r) {
	case -ENOSPC: /* of a lease it means something else */
		return err_set(err, r, "a pool has at most %u chunks", POOL_CHUNKS_MAX);
	case -ENOMEM:
		return err_set(err, r,
			"more than the memory, or the huge pages, that the pool's host has");
	case -EMFILE:
		return err_set(err, r,
			"the pool's server may not have enough descriptors for so many chunks "
			"(its ulimit -n)");
	case -ETIMEDOUT:
		return err_set(
			err, r, "the pool does not answer; it does what was asked when it goes on");
	default:
		return r;
	}
}
