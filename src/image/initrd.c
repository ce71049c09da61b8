/* SPDX-License-Identifier: Apache-2.0 */
#include "image/initrd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

/* Open one file; on failure nothing of @file is held. */
static int file_open(struct initrd_file *file, const char *path, struct kv_err *err)
{
	struct stat st;
	int r = 0;

	/* Without O_NONBLOCK a pipe would wait for its other end. */
	file->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (file->fd < 0)
		return err_set(err, -errno, "initrd %s: cannot open it: %s", path, err_text(errno));
	if (fstat(file->fd, &st))
		r = err_set(err, -errno, "initrd %s: %s", path, err_text(errno));
	else if (!S_ISREG(st.st_mode))
		r = err_set(err, -EINVAL, "initrd %s: it is not a regular file", path);
	else if (!st.st_size)
		r = err_set(err, -EINVAL, "initrd %s: the file is empty", path);
	if (r < 0)
		goto err_close;
	file->path = strdup(path);
	if (!file->path) {
		r = err_set(err, -ENOMEM, "initrd %s: no memory", path);
		goto err_close;
	}
	file->bytes = (uint64_t)st.st_size;
	return 0;

err_close:
	fd_close(&file->fd);
	return r;
}

int initrd_open(struct initrd **ret, const char *const *paths, unsigned count, struct kv_err *err)
{
	struct initrd *initrd;
	int r;

	if (count > INITRD_FILES_MAX)
		return err_set(err, -E2BIG, "%u initrd files; at most %u are allowed", count,
			INITRD_FILES_MAX);
	initrd = calloc(1, sizeof(*initrd));
	if (!initrd)
		return err_set(err, -ENOMEM, "no memory for the list of initrd files");
	for (unsigned i = 0; i < count; i++) {
		struct initrd_file *file = &initrd->files[i];

		r = file_open(file, paths[i], err);
		if (r < 0)
			goto err_destroy;
		initrd->count++;
		/* Sizes are below 2^63: neither sum wraps where the one before did not pass it. */
		file->offset = align_up(initrd->bytes, PAGE_BYTES);
		initrd->bytes = file->offset + file->bytes;
		if (initrd->bytes > INT64_MAX) {
			r = err_set(err, -EINVAL, "initrd %s: the files are larger than any memory",
				paths[i]);
			goto err_destroy;
		}
	}
	*ret = initrd;
	return 0;

err_destroy:
	initrd_destroy(initrd);
	return r;
}

void initrd_destroy(struct initrd *initrd)
{
	if (!initrd)
		return;
	for (unsigned i = 0; i < initrd->count; i++) {
		fd_close(&initrd->files[i].fd);
		free(initrd->files[i].path);
	}
	free(initrd);
}
