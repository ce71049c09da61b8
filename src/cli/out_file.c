/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"

static int failed(const char *path, int code, struct kv_err *err)
{
	return err_set(err, code, "%s: cannot be written: %s", path, err_text(code));
}

/* As many links behind one another as the kernel follows. */
#define LINKS_MAX 40

/* Where what is written to a path ends up. */
struct target {
	char path[PATH_MAX]; /* behind all links */
	bool there;
	bool special;	/* no contents to replace: a device, a FIFO, a descriptor below /proc */
	struct stat st; /* once it is there */
};

/* Put @link, what the link @path holds, in the place of @path. Returns 0 or -ENAMETOOLONG. */
static int link_follow(char path[PATH_MAX], const char *link)
{
	char *slash = *link == '/' ? NULL : strrchr(path, '/');
	size_t folder = slash ? (size_t)(slash - path) + 1 : 0;

	if (folder + strlen(link) >= PATH_MAX)
		return -ENAMETOOLONG;
	strcpy(path + folder, link);
	return 0;
}

/*
 * Go from @at, one link after the other, to what is none. Links on procfs are not followed but
 * opened: /dev/stdout would be replaced for all, and what they hold need not be a path.
 * Returns 0; -ELOOP; -ENAMETOOLONG.
 */
static int links_walk(struct target *at)
{
	for (unsigned i = 0; i <= LINKS_MAX; i++) {
		FD_SCOPED int fd = open(at->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		char link[PATH_MAX];
		struct statfs fs;
		ssize_t len;
		int r;

		/* stat(2) tells what there is to complain of. */
		len = fd < 0 ? -1 : readlinkat(fd, "", link, sizeof(link) - 1);
		if (len <= 0)
			return 0;
		if (!fstatfs(fd, &fs) && fs.f_type == PROC_SUPER_MAGIC) {
			at->special = true;
			return 0;
		}
		link[len] = '\0';
		r = link_follow(at->path, link);
		if (r < 0)
			return r;
	}
	return -ELOOP;
}

/* Returns 0, whether @path is there or not; -errno. */
static int target_find(const char *path, struct target *ret)
{
	struct stat st;
	int r;

	*ret = (struct target){0};
	if ((size_t)snprintf(ret->path, sizeof(ret->path), "%s", path) >= sizeof(ret->path))
		return -ENAMETOOLONG;
	r = links_walk(ret);
	if (r < 0)
		return r;
	ret->there = !stat(path, &ret->st);
	if (!ret->there)
		return errno == ENOENT ? 0 : -errno;
	ret->special |= !S_ISREG(ret->st.st_mode);
	/* The kernel has a say in which links are followed (fs.protected_symlinks). */
	if (!ret->special && (lstat(ret->path, &st) < 0 || st.st_dev != ret->st.st_dev ||
				     st.st_ino != ret->st.st_ino))
		return -EAGAIN;
	return 0;
}

int out_file_check(const char *path, bool in_place, struct kv_err *err)
{
	char folder[PATH_MAX] = ".";
	struct target target;
	const char *slash;
	int r = target_find(path, &target);

	if (r < 0)
		return failed(path, r, err);
	if (target.there && S_ISDIR(target.st.st_mode))
		return failed(path, -EISDIR, err);
	if (target.there && (in_place || target.special))
		return access(path, W_OK) < 0 ? failed(path, -errno, err) : 0;
	slash = strrchr(target.path, '/');
	if (slash)
		snprintf(folder, sizeof(folder), "%.*s", (int)(slash - target.path) + 1,
			target.path);
	return access(folder, W_OK | X_OK) < 0 ? failed(path, -errno, err) : 0;
}

/* The name of a file beside @target in @buf, opened. Returns the descriptor or -errno. */
static int beside_open(const struct target *target, char *buf, size_t bytes)
{
	mode_t mode = target->st.st_mode & 07777;
	int fd;

	if ((size_t)snprintf(buf, bytes, "%s.XXXXXX", target->path) >= bytes)
		return -ENAMETOOLONG;
	fd = mkostemp(buf, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* mkostemp() keeps others out; a new file gets what open(2) would give it. */
	if (!target->there) {
		mode_t mask = umask(0);

		umask(mask);
		mode = 0666 & ~mask;
	}
	fchmod(fd, mode);
	return fd;
}

static int target_write(const struct target *target, const void *data, size_t len)
{
	char beside[PATH_MAX];
	int fd, r;

	/* Behind what others wrote to the same file by the same descriptor. */
	fd = target->special ? open(target->path, O_WRONLY | O_CLOEXEC | O_APPEND)
			     : beside_open(target, beside, sizeof(beside));
	if (fd < 0)
		return target->special ? -errno : fd;
	r = fd_write_all(fd, data, len);
	/* Some file systems only tell of a full disk now. */
	if (close(fd) < 0 && !r)
		r = -errno;
	if (!r && !target->special && rename(beside, target->path) < 0)
		r = -errno;
	if (r < 0 && !target->special)
		unlink(beside);
	return r;
}

int out_file_write(const char *path, const void *data, size_t len, struct kv_err *err)
{
	struct target target;
	int r = target_find(path, &target);

	if (!r)
		r = target_write(&target, data, len);
	return r < 0 ? failed(path, r, err) : 0;
}

/* Write to a device or FIFO that must not hold us up. Returns 0 or -errno. */
static int special_offer(const char *path, const char *data, size_t len, int wait_ms)
{
	FD_SCOPED int fd = open(path, O_WRONLY | O_CLOEXEC | O_APPEND | O_NONBLOCK | O_NOCTTY);
	struct pollfd room = {.fd = fd, .events = POLLOUT};

	if (fd < 0)
		return -errno;
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n < 0 && errno == EAGAIN && !poll(&room, 1, wait_ms))
			return -ETIMEDOUT;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int out_file_offer(const char *path, const void *data, size_t len, int wait_ms, struct kv_err *err)
{
	struct target target;
	int r = target_find(path, &target);

	if (!r)
		r = target.special ? special_offer(target.path, data, len, wait_ms)
				   : target_write(&target, data, len);
	if (target.special && (r == -ENXIO || r == -ETIMEDOUT))
		return err_set(err, r, "%s: cannot be written: nobody reads from it", path);
	return r < 0 ? failed(path, r, err) : 0;
}
