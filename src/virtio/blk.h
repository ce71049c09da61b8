/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_BLK_H
#define KV_VIRTIO_BLK_H

#include "virtio/limit.h"
#include "virtio/vdev.h"

/*
 * Block device (virtio 1.3 §5.2) over a raw file or a host block device. Requests go through
 * io_uring, which is set up when the first one comes; where the host forbids it they are done one
 * by one in the loop thread.
 */
struct vblk;

#define VBLK_SECTOR_BYTES 512
#define VBLK_SERIAL_BYTES 20 /* without a NUL when it is that long */
#define VBLK_QUEUES_MAX	  16

/* An open disk: its descriptors and what the host says of it. */
struct vblk_file {
	int fd;
	int direct_fd;	/* the same file with O_DIRECT, or -1 */
	uint64_t bytes; /* a multiple of VBLK_SECTOR_BYTES, > 0 */
	/* What the host discards and zeroes in: a power of 2 and a multiple of VBLK_SECTOR_BYTES */
	uint32_t block_bytes;
	bool read_only;
};

/*
 * Open @path, a regular file or a block device, and lock it: a disk that is written to has one
 * user, one that is only read any number (open file description locks, fcntl(2)). @direct: go
 * around the host's page cache.
 * Returns 0; -errno of open(2); -EBUSY (in use, and still so a second later); -EINVAL (no disk;
 * size not a multiple of 512; empty; no O_DIRECT there) with a sentence.
 * Owns: the caller closes it with vblk_file_close(), unless a device takes it.
 * Context: before the loop runs, as it may take that second.
 */
int vblk_file_open(
	struct vblk_file *file, const char *path, bool read_only, bool direct, struct kv_err *err);
void vblk_file_close(struct vblk_file *file);

/*
 * The size of the disk behind @fd. Returns 0; -errno of fstat(2) or ioctl(2); -EINVAL (no disk).
 */
int vblk_file_size(int fd, uint64_t *bytes);

struct vblk_params {
	const struct gmem *gm; /* borrowed, as loop and log */
	struct loop *loop;
	const struct kv_log *log;
	const char *serial; /* at most VBLK_SERIAL_BYTES bytes; NULL: none */
	bool writeback;	    /* offer flush; else what is written is as safe as the host's memory */
	bool sync;	    /* do without io_uring */
	unsigned queues;    /* 1..VBLK_QUEUES_MAX */
	struct limit_rates limit;
};

/*
 * Make the device of @file. Returns 0 or vdev_create()'s errors.
 * Owns: @file on success; the device is destroyed after its transport.
 */
int vblk_create(struct vblk **ret, const struct vblk_params *params, const struct vblk_file *file);
void vblk_destroy(struct vblk *blk);

/*
 * Look at the size of the file again; *@bytes gets it. A driver is told of a disk that grew. One
 * that shrank keeps its capacity: what is not there any more cannot be read or written.
 * Returns 1 when it grew; 0 when it did not change; -ERANGE when it shrank; vblk_file_size()'s
 * errors. Context: any thread, one at a time.
 */
int vblk_resize(struct vblk *blk, uint64_t *bytes);

/* The limits in force, and others from now on (limit_set()). Context: as vblk_resize(). */
struct limit_rates vblk_rates(struct vblk *blk);
void vblk_limit(struct vblk *blk, const struct limit_rates *rates);

/* The device core, to be given to a transport. */
struct vdev *vblk_vdev(struct vblk *blk);

#endif
