/* SPDX-License-Identifier: Apache-2.0 */
/* The cache's directory and its index; the entries are in cache_entry.c. */
#include "image/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/cache_internal.h"

/* A file's identity: while it stays, so does the content. */
struct ident {
	uint64_t dev, ino, bytes;
	int64_t mtime_s, mtime_ns, ctime_s, ctime_ns;
};

/* An index file. kvick's own format, native byte order. */
struct record {
	char magic[8];
	struct ident source; /* the bzImage */
	struct ident entry;
	uint8_t digest[CACHE_DIGEST_BYTES];
	uint64_t crc64; /* of the fields above */
};
_Static_assert(sizeof(struct record) == 160, "cache format");

#define RECORD_MAGIC "kvickIX1"

/* Longer than any kernel takes to unpack; what may hold a lock for longer is a stopped process. */
#define LOCK_WAIT_MS 30000

/* Time stamps of local file systems step with the clock tick (10 ms at most), of FAT by 2 s. */
#define TICK_NS	      10000000
#define QUIET_NS      (2 * TICK_NS)
#define QUIET_FAT_NS  2000000000
#define NS_PER_SECOND 1000000000

static struct ident ident_of(const struct stat *st)
{
	return (struct ident){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.bytes = (uint64_t)st->st_size,
		.mtime_s = st->st_mtim.tv_sec,
		.mtime_ns = st->st_mtim.tv_nsec,
		.ctime_s = st->st_ctim.tv_sec,
		.ctime_ns = st->st_ctim.tv_nsec,
	};
}

bool cache_stat_same(const struct stat *a, const struct stat *b)
{
	struct ident ia = ident_of(a), ib = ident_of(b);

	return !memcmp(&ia, &ib, sizeof(ia));
}

bool cache_quiet(const struct stat *st)
{
	int64_t window = st->st_ctim.tv_nsec % TICK_NS ? QUIET_NS : QUIET_FAT_NS;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	/* Years apart do not fit in ns; a stamp of the future is never quiet. */
	if (now.tv_sec - st->st_ctim.tv_sec > 10)
		return true;
	if (now.tv_sec < st->st_ctim.tv_sec)
		return false;
	return (now.tv_sec - st->st_ctim.tv_sec) * NS_PER_SECOND + now.tv_nsec -
		       st->st_ctim.tv_nsec >
	       window;
}

int image_cache_dir(char *buf, size_t buf_bytes)
{
	const char *base = getenv("XDG_CACHE_HOME");
	const char *below = "/kvick";
	int n;

	/* The XDG base directory specification: relative paths count as unset. */
	if (!base || base[0] != '/') {
		base = getenv("HOME");
		below = "/.cache/kvick";
	}
	if (!base || base[0] != '/')
		return -ENOENT;
	n = snprintf(buf, buf_bytes, "%s%s", base, below);
	return n < 0 || (size_t)n >= buf_bytes ? -ENAMETOOLONG : 0;
}

/* mkdir -p; the XDG base directory specification asks for 0700. */
static int dir_make(const char *path)
{
	char part[PATH_MAX];
	int r = *path ? 0 : -ENOENT;

	for (const char *slash = path; !r && slash;) {
		slash = strchr(slash + 1, '/');
		snprintf(part, sizeof(part), "%.*s",
			(int)(slash ? slash - path : (ptrdiff_t)strlen(path)), path);
		if (mkdir(part, 0700) && errno != EEXIST)
			r = -errno;
	}
	return r;
}

static int dir_check(int fd, const char *dir, struct kv_err *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return err_set(err, -errno, "cache directory %s: %s", dir, err_text(errno));
	/* Who may write there chooses what runs in the VM. */
	if (st.st_uid != geteuid())
		return err_set(err, -EPERM, "cache directory %s belongs to user %u, not to user %u",
			dir, st.st_uid, geteuid());
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return err_set(err, -EPERM,
			"cache directory %s may be written by others (mode %04o)", dir,
			st.st_mode & 07777);
	return 0;
}

int cache_open(struct cache *ret, const char *dir, struct kv_err *err)
{
	int fd, r;

	if (dir && snprintf(ret->dir, sizeof(ret->dir), "%s", dir) >= (int)sizeof(ret->dir))
		return err_set(err, -ENAMETOOLONG, "the cache directory's name is too long");
	r = dir ? 0 : image_cache_dir(ret->dir, sizeof(ret->dir));
	if (r < 0)
		return err_set(err, r,
			"there is no cache directory (neither XDG_CACHE_HOME nor HOME is "
			"an absolute path of usable length)");
	fd = open(ret->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		r = dir_make(ret->dir);
		if (r < 0)
			return err_set(err, r, "cannot make cache directory %s: %s", ret->dir,
				err_text(r));
		fd = open(ret->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return err_set(err, -errno, "cannot use cache directory %s: %s", ret->dir,
			err_text(errno));
	r = dir_check(fd, ret->dir, err);
	if (r < 0) {
		fd_close(&fd);
		return r;
	}
	ret->dir_fd = fd;
	ret->lock_wait_ms = LOCK_WAIT_MS;
	return 0;
}

void cache_close(struct cache *cache)
{
	fd_close(&cache->dir_fd);
}

static uint64_t record_crc(const struct record *rec)
{
	return lzma_crc64((const uint8_t *)rec, offsetof(struct record, crc64), 0);
}

static void index_name(char *name, const struct stat *source)
{
	snprintf(name, CACHE_NAME_BYTES, "%" PRIx64 "-%" PRIx64 ".idx", (uint64_t)source->st_dev,
		(uint64_t)source->st_ino);
}

int cache_find(const struct cache *cache, const struct stat *source, struct cache_entry *ret)
{
	struct ident want = ident_of(source), have;
	char name[CACHE_NAME_BYTES];
	struct cache_footer footer;
	struct record rec;
	int fd, r;

	index_name(name, source);
	fd = openat(cache->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -ENOENT;
	r = fd_pread_all(fd, &rec, sizeof(rec), 0);
	fd_close(&fd);
	if (r < 0 || memcmp(rec.magic, RECORD_MAGIC, sizeof(rec.magic)) ||
		rec.crc64 != record_crc(&rec) || memcmp(&rec.source, &want, sizeof(want)))
		return -ENOENT;

	if (cache_entry_open(cache, rec.digest, ret, &footer) < 0)
		return -ENOENT;
	have = ident_of(&ret->stat);
	if (memcmp(&rec.entry, &have, sizeof(have))) {
		fd_close(&ret->fd);
		return -ENOENT;
	}
	return 0;
}

void cache_note(const struct cache *cache, int fd, const struct stat *before,
	const struct cache_entry *entry)
{
	struct record rec = {
		.magic = RECORD_MAGIC,
		.source = ident_of(before),
		.entry = ident_of(&entry->stat),
	};
	char name[CACHE_NAME_BYTES];
	struct stat now;
	int index;

	if (!entry->settled || fstat(fd, &now) || !cache_stat_same(before, &now))
		return;
	memcpy(rec.digest, entry->digest, sizeof(rec.digest));
	rec.crc64 = record_crc(&rec);
	index_name(name, before);
	index = openat(cache->dir_fd, name,
		O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (index < 0)
		return;
	/* A write that is torn or stops short is found by the checksum and counts as no record. */
	if (pwrite(index, &rec, sizeof(rec), 0) != (ssize_t)sizeof(rec))
		unlinkat(cache->dir_fd, name, 0);
	fd_close(&index);
}
