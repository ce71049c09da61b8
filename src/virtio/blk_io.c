/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/blk_io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fd.h"

#define ENTRIES_MAX 256

struct blk_io {
	struct blk_io_params p; /* [c] */
	/* All below: under the caller's lock. */
	bool tried;		    /* to set io_uring up */
	bool ring_made;		    /* and it is there */
	struct io_uring ring;	    /* valid with ring_made */
	int event_fd;		    /* what io_uring writes; -1 without */
	struct loop_source *source; /* [l] */
	unsigned under_way;	    /* with the kernel, or about to be */
};

int blk_io_create(struct blk_io **ret, const struct blk_io_params *params)
{
	struct blk_io *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	io->p = *params;
	io->event_fd = -1;
	*ret = io;
	return 0;
}

static void ring_free(struct blk_io *io)
{
	loop_remove(io->source);
	io->source = NULL;
	if (io->ring_made)
		io_uring_queue_exit(&io->ring);
	io->ring_made = false;
	fd_close(&io->event_fd);
}

void blk_io_destroy(struct blk_io *io)
{
	if (!io)
		return;
	ring_free(io);
	free(io);
}

static void event_ready(void *ctx, uint32_t events)
{
	struct blk_io *io = ctx;
	uint64_t count;

	if (read(io->event_fd, &count, sizeof(count)) == sizeof(count))
		io->p.ready(io->p.ctx);
}

static int ring_make(struct blk_io *io)
{
	unsigned entries = io->p.depth < ENTRIES_MAX ? io->p.depth : ENTRIES_MAX;
	struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE};
	int r;

	/* Room for the answers to all requests, so that none waits in the kernel. */
	params.cq_entries = io->p.depth < entries ? entries : io->p.depth;
	r = io_uring_queue_init_params(entries, &io->ring, &params);
	if (r < 0)
		return r;
	io->ring_made = true;
	io->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = io->event_fd < 0 ? -errno : io_uring_register_eventfd(&io->ring, io->event_fd);
	if (!r)
		r = loop_add_fd(io->p.loop, io->event_fd, EPOLLIN, event_ready, io, &io->source);
	if (r < 0)
		ring_free(io);
	return r;
}

/* One attempt at what is left of @req. Returns bytes done, 0 for what has none, or -errno. */
static ssize_t attempt(const struct blk_io_req *req)
{
	int count = req->iov_count < IOV_MAX ? (int)req->iov_count : IOV_MAX;
	off_t at = (off_t)req->offset;
	ssize_t n = 0;

	switch (req->kind) {
	case BLK_IO_READ:
		n = preadv(req->fd, req->iov, count, at);
		break;
	case BLK_IO_WRITE:
		n = pwritev2(req->fd, req->iov, count, at, req->flags);
		break;
	case BLK_IO_SYNC:
		n = fdatasync(req->fd);
		break;
	case BLK_IO_FALLOCATE:
		n = fallocate(req->fd, req->flags, at, (off_t)req->bytes);
		break;
	}
	return n < 0 ? -errno : n;
}

/*
 * Take note of what an attempt came to. Returns true when @req is to be tried again for the rest;
 * else *@result is its end.
 */
static bool goes_on(struct blk_io_req *req, ssize_t n, int *result)
{
	bool data = req->kind == BLK_IO_READ || req->kind == BLK_IO_WRITE;

	*result = 0;
	if (n == -EINTR || n == -EAGAIN)
		return true;
	/* Behind the end of a file that shrank there is nothing to be read. */
	if (n < 0 || (data && n == 0 && req->bytes))
		*result = n < 0 ? (int)n : -EIO;
	if (*result || !data)
		return false;
	req->offset += (uint64_t)n;
	req->bytes -= (uint64_t)n;
	while (n > 0 && (size_t)n >= req->iov->iov_len) {
		n -= (ssize_t)req->iov->iov_len;
		req->iov++;
		req->iov_count--;
	}
	if (n > 0) {
		req->iov->iov_base = (uint8_t *)req->iov->iov_base + n;
		req->iov->iov_len -= (size_t)n;
	}
	return req->bytes > 0;
}

static void sync_do(struct blk_io *io, struct blk_io_req *req)
{
	int result;

	while (goes_on(req, attempt(req), &result))
		;
	io->p.done(io->p.ctx, req, result);
}

/* Put @req into the submission queue. Returns false when the kernel takes nothing at present. */
static bool entry_put(struct blk_io *io, struct blk_io_req *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
	unsigned count = req->iov_count < IOV_MAX ? req->iov_count : IOV_MAX;

	if (!sqe) {
		io_uring_submit(&io->ring);
		sqe = io_uring_get_sqe(&io->ring);
	}
	if (!sqe)
		return false;
	switch (req->kind) {
	case BLK_IO_READ:
		io_uring_prep_readv(sqe, req->fd, req->iov, count, req->offset);
		break;
	case BLK_IO_WRITE:
		io_uring_prep_writev2(sqe, req->fd, req->iov, count, req->offset, req->flags);
		break;
	case BLK_IO_SYNC:
		io_uring_prep_fsync(sqe, req->fd, IORING_FSYNC_DATASYNC);
		break;
	case BLK_IO_FALLOCATE:
		io_uring_prep_fallocate(
			sqe, req->fd, req->flags, (off_t)req->offset, (off_t)req->bytes);
		break;
	}
	io_uring_sqe_set_data(sqe, req);
	io->under_way++;
	return true;
}

void blk_io_submit(struct blk_io *io, struct blk_io_req *req)
{
	if (!io->tried && !io->p.sync) {
		int r = ring_make(io);

		if (r < 0)
			log_msg(io->p.log, LOG_LEVEL_WARN,
				"io_uring cannot be had (%s): disk requests are done one by one",
				err_text(r));
	}
	io->tried = true;
	if (!io->ring_made || !entry_put(io, req))
		sync_do(io, req);
}

void blk_io_flush(struct blk_io *io)
{
	if (!io->ring_made || !io_uring_sq_ready(&io->ring))
		return;
	io_uring_submit(&io->ring);
	/* The kernel may lack memory for the moment; the loop comes back. */
	if (io_uring_sq_ready(&io->ring))
		eventfd_write(io->event_fd, 1);
}

static void entry_done(struct blk_io *io, struct io_uring_cqe *cqe)
{
	struct blk_io_req *req = io_uring_cqe_get_data(cqe);
	int n = cqe->res, result;

	io_uring_cqe_seen(&io->ring, cqe);
	io->under_way--;
	if (!goes_on(req, n, &result))
		io->p.done(io->p.ctx, req, result);
	else if (!entry_put(io, req))
		sync_do(io, req);
}

void blk_io_reap(struct blk_io *io)
{
	struct io_uring_cqe *cqe;

	if (!io->ring_made)
		return;
	while (!io_uring_peek_cqe(&io->ring, &cqe))
		entry_done(io, cqe);
	blk_io_flush(io);
}

void blk_io_drain(struct blk_io *io)
{
	struct io_uring_cqe *cqe;

	while (io->ring_made && io->under_way) {
		io_uring_submit(&io->ring);
		/* Nothing ends while the kernel has taken nothing. */
		if (io->under_way <= io_uring_sq_ready(&io->ring))
			usleep(1000);
		else if (!io_uring_wait_cqe(&io->ring, &cqe))
			entry_done(io, cqe);
	}
}
