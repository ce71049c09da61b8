/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static int failed(const char *path, int code, struct kv_err *err)
{
	return err_set(err, code, "%s: cannot be written: %s", path, err_text(code));
}

/* True when @path is a device, a FIFO or the like: it has no contents to replace. */
static bool is_special(const char *path)
{
	struct stat st;

	return !stat(path, &st) && !S_ISREG(st.st_mode);
}

int out_file_check(const char *path, bool in_place, struct kv_err *err)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX] = ".";
	struct stat st;
	bool there = !stat(path, &st);

	if (!there && errno != ENOENT)
		return failed(path, -errno, err);
	if (there && S_ISDIR(st.st_mode))
		return failed(path, -EISDIR, err);
	if (there && (in_place || !S_ISREG(st.st_mode)))
		return access(path, W_OK) < 0 ? failed(path, -errno, err) : 0;
	if (slash && (size_t)(slash - path) + 2 > sizeof(folder))
		return failed(path, -ENAMETOOLONG, err);
	if (slash)
		snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path) + 1, path);
	return access(folder, W_OK | X_OK) < 0 ? failed(path, -errno, err) : 0;
}

/* The name of a file beside @path in @buf, opened. Returns the descriptor or -errno. */
static int beside_open(const char *path, char *buf, size_t bytes)
{
	struct stat st;
	int fd;

	if ((size_t)snprintf(buf, bytes, "%s.XXXXXX", path) >= bytes)
		return -ENAMETOOLONG;
	fd = mkostemp(buf, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* mkostemp() keeps others out; a new file gets what open(2) would give it. */
	if (stat(path, &st) < 0) {
		mode_t mask = umask(0);

		umask(mask);
		st.st_mode = 0666 & ~mask;
	}
	fchmod(fd, st.st_mode & 07777);
	return fd;
}

int out_file_write(const char *path, const void *data, size_t len, struct kv_err *err)
{
	bool special = is_special(path);
	char beside[PATH_MAX];
	int fd, r;

	fd = special ? open(path, O_WRONLY | O_CLOEXEC) : beside_open(path, beside, sizeof(beside));
	if (fd < 0)
		return failed(path, special ? -errno : fd, err);
	r = fd_write_all(fd, data, len);
	/* Some file systems only tell of a full disk now. */
	if (close(fd) < 0 && !r)
		r = -errno;
	if (!r && !special && rename(beside, path) < 0)
		r = -errno;
	if (r < 0 && !special)
		unlink(beside);
	return r < 0 ? failed(path, r, err) : 0;
}

/* Write to a device or FIFO that must not hold us up. Returns 0 or -errno. */
static int special_offer(const char *path, const char *data, size_t len, int wait_ms)
{
	FD_SCOPED int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
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
	int r;

	if (!is_special(path))
		return out_file_write(path, data, len, err);
	r = special_offer(path, data, len, wait_ms);
	if (r == -ENXIO || r == -ETIMEDOUT)
		return err_set(err, r, "%s: cannot be written: nobody reads from it", path);
	return r < 0 ? failed(path, r, err) : 0;
}
