/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/timeline_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static bool ends_with(const char *text, const char *suffix)
{
	size_t len = strlen(text), tail = strlen(suffix);

	return len >= tail && !strcmp(text + len - tail, suffix);
}

int timeline_file_open(struct timeline_file *file, const char *path, struct kv_err *err)
{
	*file = (struct timeline_file){.fd = -1, .path = path};
	if (!strcmp(path, "-")) {
		file->fd = STDERR_FILENO;
		return 0;
	}
	if (ends_with(path, ".json"))
		file->format = TIMELINE_JSON;
	else if (ends_with(path, ".svg"))
		file->format = TIMELINE_SVG;
	else if (!ends_with(path, ".txt"))
		return err_set(err, -EINVAL,
			"\"%s\" has no known format; give a name ending in .json, .svg or .txt, or "
			"- for "
			"a "
			"table on stderr",
			path);
	file->fd = open(path, O_WRONLY | O_CLOEXEC | O_CREAT | O_EXCL, 0644);
	file->created = file->fd >= 0;
	if (file->fd < 0 && errno == EEXIST)
		file->fd = open(path, O_WRONLY | O_CLOEXEC);
	if (file->fd < 0)
		return err_set(err, -errno, "%s: cannot be written: %s", path, err_text(errno));
	return 0;
}

bool timeline_wants_json(const char *path)
{
	return path && ends_with(path, ".json");
}

static int format_write(const struct timeline_file *file, const struct timeline *tl,
	const struct timeline_detail *detail)
{
	switch (file->format) {
	case TIMELINE_JSON:
		return timeline_json(tl, detail, file->fd);
	case TIMELINE_SVG:
		return timeline_svg(tl, file->fd);
	case TIMELINE_TEXT:
		break;
	}
	return timeline_text(tl, file->fd);
}

/*
 * Cut what was there before off behind what has been written. Not the other way round: ext4 writes
 * a file that was cut to nothing and filled again to the disk when it is closed, which takes longer
 * than all the rest.
 */
static int file_cut(int fd)
{
	struct stat st;
	off_t at;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Pipes and devices cannot be cut to length, and need not be. */
	if (!S_ISREG(st.st_mode))
		return 0;
	at = lseek(fd, 0, SEEK_CUR);
	return at < 0 || (at < st.st_size && ftruncate(fd, at) < 0) ? -errno : 0;
}

int timeline_file_write(struct timeline_file *file, const struct timeline *tl,
	const struct timeline_detail *detail, struct kv_err *err)
{
	int r;

	if (file->fd == STDERR_FILENO) {
		timeline_text(tl, file->fd);
		return 0;
	}
	r = format_write(file, tl, detail);
	if (!r)
		r = file_cut(file->fd);
	if (r < 0) {
		err_set(err, r, "%s: cannot be written: %s", file->path, err_text(r));
		if (file->created)
			unlink(file->path);
		else if (ftruncate(file->fd, 0) < 0)
			errno = 0;
	}
	fd_close(&file->fd);
	return r;
}
