/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a disk: opening, checking and locking it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "virtio/blk.h"

/* How long to wait for a lock, in how many steps. */
#define LOCK_STEP_US 5000
#define LOCK_STEPS   200

/* A second open of the same file, by a name that cannot have changed hands meanwhile. */
static int direct_open(int fd, bool read_only)
{
	char name[32];
	int r;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	r = open(name, (read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	return r < 0 ? -errno : r;
}

int vblk_file_size(int fd, uint64_t *ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode)) {
		*ret = (uint64_t)st.st_size;
		return 0;
	}
	if (!S_ISBLK(st.st_mode))
		return -EINVAL;
	return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
}

/* A file system takes any range of a file; a block device whole blocks. */
static int block_size(int fd, uint32_t *ret)
{
	struct stat st;
	int bytes = VBLK_SECTOR_BYTES;

	if (fstat(fd, &st) < 0 || (S_ISBLK(st.st_mode) && ioctl(fd, BLKSSZGET, &bytes) < 0))
		return -errno;
	*ret = (uint32_t)bytes;
	return 0;
}

static int lock_try(int fd, bool read_only)
{
	struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
	int r = fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;

	return r == -EAGAIN || r == -EACCES ? -EBUSY : r;
}

/*
 * Requests that io_uring has under way keep the open file, and its lock with it, beyond the end of
 * a process that was killed: who starts again at once waits for them.
 */
static int lock_take(int fd, bool read_only)
{
	int r = lock_try(fd, read_only);

	for (unsigned i = 0; r == -EBUSY && i < LOCK_STEPS; i++) {
		usleep(LOCK_STEP_US);
		r = lock_try(fd, read_only);
	}
	return r;
}

/* Returns 0 or -errno with a sentence about @path. */
static int file_check(
	struct vblk_file *file, const char *path, bool read_only, bool direct, struct kv_err *err)
{
	int r = vblk_file_size(file->fd, &file->bytes);

	if (!r)
		r = block_size(file->fd, &file->block_bytes);
	if (r == -EINVAL)
		return err_set(err, r, "%s is neither a file nor a block device", path);
	if (r < 0)
		return err_set(err, r, "the size of %s cannot be found: %s", path, err_text(r));
	if (!file->bytes || file->bytes % VBLK_SECTOR_BYTES)
		return err_set(err, -EINVAL,
			"%s has %llu bytes; a disk has a multiple of 512, and not 0", path,
			(unsigned long long)file->bytes);
	r = lock_take(file->fd, read_only);
	if (r == -EBUSY)
		return err_set(err, r, "%s is in use by another disk or process%s", path,
			read_only ? ", which writes to it" : "; only read-only disks are shared");
	if (r < 0)
		return err_set(err, r, "%s cannot be locked: %s", path, err_text(r));
	/*
	 * O_NONBLOCK has done its work. To io_uring it means that a request must not wait at all,
	 * on all kernels before 5.12 and on later ones where the device cannot promise that.
	 */
	if (fcntl(file->fd, F_SETFL, 0) < 0)
		return err_set(err, -errno, "%s cannot be used: %s", path, err_text(errno));
	if (!direct)
		return 0;
	r = direct_open(file->fd, read_only);
	if (r < 0)
		return err_set(err, r, "%s cannot be used without the page cache (direct): %s",
			path, err_text(r));
	file->direct_fd = r;
	return 0;
}

int vblk_file_open(
	struct vblk_file *ret, const char *path, bool read_only, bool direct, struct kv_err *err)
{
	/* O_NONBLOCK: opening a FIFO by mistake must not wait. */
	int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
	struct vblk_file file = {.fd = open(path, flags), .direct_fd = -1, .read_only = read_only};
	int r = file.fd < 0 ? -errno : 0;

	if (r < 0)
		return err_set(err, r, "%s cannot be opened%s: %s", path,
			read_only ? "" : " for writing", err_text(r));
	r = file_check(&file, path, read_only, direct, err);
	if (r < 0) {
		vblk_file_close(&file);
		return r;
	}
	*ret = file;
	return 0;
}

void vblk_file_close(struct vblk_file *file)
{
	fd_close(&file->direct_fd);
	fd_close(&file->fd);
}
