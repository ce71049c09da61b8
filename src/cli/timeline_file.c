/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/timeline_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/out_file.h"

static bool ends_with(const char *text, const char *suffix)
{
	size_t len = strlen(text), tail = strlen(suffix);

	return len >= tail && !strcmp(text + len - tail, suffix);
}

int timeline_file_check(struct timeline_file *file, const char *path, struct kv_err *err)
{
	*file = (struct timeline_file){.path = path};
	if (!strcmp(path, "-"))
		return 0;
	if (ends_with(path, ".json"))
		file->format = TIMELINE_JSON;
	else if (ends_with(path, ".svg"))
		file->format = TIMELINE_SVG;
	else if (!ends_with(path, ".txt"))
		return err_set(err, -EINVAL,
			"\"%s\" has no known format; give a name ending in .json, .svg or .txt, or "
			"- for a table on stderr",
			path);
	return out_file_check(path, true, err);
}

bool timeline_wants_json(const char *path)
{
	return path && ends_with(path, ".json");
}

static int format_write(enum timeline_format format, const struct timeline *tl,
	const struct timeline_detail *detail, int fd)
{
	switch (format) {
	case TIMELINE_JSON:
		return timeline_json(tl, detail, fd);
	case TIMELINE_SVG:
		return timeline_svg(tl, fd);
	case TIMELINE_TEXT:
		break;
	}
	return timeline_text(tl, fd);
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

/*
 * What is there already, or is a link to nothing. A FIFO without a reader is refused: the signals
 * that would end the wait are blocked by now.
 */
static int there_open(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_CREAT | O_NONBLOCK | O_NOCTTY, 0644);

	if (fd >= 0)
		fcntl(fd, F_SETFL, O_WRONLY);
	return fd;
}

int timeline_file_write(const struct timeline_file *file, const struct timeline *tl,
	const struct timeline_detail *detail, struct kv_err *err)
{
	FD_SCOPED int fd = -1;
	bool created;
	int r;

	if (!strcmp(file->path, "-")) {
		timeline_text(tl, STDERR_FILENO);
		return 0;
	}
	fd = open(file->path, O_WRONLY | O_CLOEXEC | O_CREAT | O_EXCL, 0644);
	created = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = there_open(file->path);
	r = fd < 0 ? -errno : format_write(file->format, tl, detail, fd);
	if (!r)
		r = file_cut(fd);
	if (!r)
		return 0;
	err_set(err, r, "%s: cannot be written: %s", file->path,
		r == -ENXIO ? "nobody reads from it" : err_text(r));
	if (created)
		unlink(file->path);
	else if (fd >= 0 && ftruncate(fd, 0) < 0)
		errno = 0;
	return r;
}
