/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void fd_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

void mem_free(void *pointer_address)
{
	free(*(void **)pointer_address);
}

bool fd_is_at(int fd, int dir_fd, const char *name)
{
	struct stat open, there;

	return !fstat(fd, &open) && !fstatat(dir_fd, name, &there, AT_SYMLINK_NOFOLLOW) &&
	       open.st_dev == there.st_dev && open.st_ino == there.st_ino;
}

int fd_pread_all(int fd, void *buf, size_t len, uint64_t offset)
{
	char *at = buf;

	while (len > 0) {
		ssize_t n = pread(fd, at, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		at += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_write_all(int fd, const void *buf, size_t len)
{
	const char *at = buf;

	while (len > 0) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t file_read_all(const char *path, size_t max_bytes, char **ret)
{
	FD_SCOPED int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t room = max_bytes < 4096 ? max_bytes : 4096;
	MEM_SCOPED char *buf = NULL;
	size_t used = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		/* One byte more than may be used tells "just fits" from "too large". */
		char *grown = realloc(buf, room + 2);
		ssize_t n;

		if (!grown)
			return -ENOMEM;
		buf = grown;
		n = read(fd, buf + used, room + 1 - used);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > max_bytes)
			return -EFBIG;
		if (used > room)
			room = room * 2 < max_bytes ? room * 2 : max_bytes;
	}
	buf[used] = '\0';
	*ret = buf;
	buf = NULL;
	return (ssize_t)used;
}
