/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_BLK_IO_H
#define KV_VIRTIO_BLK_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/log.h"
#include "loop/loop.h"

/* How a block device's requests are carried out; inside virtio/ only. */
struct blk_io;

enum blk_io_kind { BLK_IO_READ, BLK_IO_WRITE, BLK_IO_SYNC, BLK_IO_FALLOCATE };

/* One request; the caller's until blk_io_submit(), and again when it is reported done. */
struct blk_io_req {
	enum blk_io_kind kind;
	int fd;
	uint64_t offset;
	uint64_t bytes;	   /* of the iovecs, or of the range */
	struct iovec *iov; /* used up as the request goes on */
	unsigned iov_count;
	int flags; /* RWF_* of a write, FALLOC_FL_* */
};

struct blk_io_params {
	struct loop *loop;
	const struct kv_log *log;
	unsigned depth; /* requests that may be under way */
	bool sync;	/* without io_uring */
	/*
	 * @req ended; @result: 0 or -errno. With what the caller of blk_io_submit(), blk_io_flush()
	 * or blk_io_reap() holds.
	 */
	void (*done)(void *ctx, struct blk_io_req *req, int result);
	/* Something ended: call blk_io_reap(). Context: loop thread. */
	void (*ready)(void *ctx);
	void *ctx;
};

/* Returns 0 or -ENOMEM. Owns: destroyed with nothing under way, where loop_remove() may be called.
 */
int blk_io_create(struct blk_io **ret, const struct blk_io_params *params);
void blk_io_destroy(struct blk_io *io);

/*
 * Take @req on; without io_uring it is done when this returns. The first call sets io_uring up.
 * Context: loop thread, under the caller's lock.
 */
void blk_io_submit(struct blk_io *io, struct blk_io_req *req);

/* Hand what was taken on to the kernel, in one system call. Context: as blk_io_submit(). */
void blk_io_flush(struct blk_io *io);

/* Report what ended. Context: loop thread, under the caller's lock. */
void blk_io_reap(struct blk_io *io);

/* Wait until nothing is under way, reporting all. Context: any thread, under the caller's lock. */
void blk_io_drain(struct blk_io *io);

#endif
