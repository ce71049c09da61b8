/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lzma.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/bzimage.h"
#include "image/cache.h"
#include "image/cache_internal.h"

/* How often to look whether another process is done. */
#define LOCK_STEP_MS 2

/* How often the file may be gone when its lock is had: each time another process was done. */
#define LOCK_TRIES_MAX 1000

/* How long to wait for the clock to tick, at most. */
#define SETTLE_WAIT_MS 25

#define VERIFY_CHUNK_BYTES (64 * KIB)

/* Temporary files this old that nobody holds are leftovers of a crash. */
#define SWEEP_AGE_S 3600

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static uint64_t footer_crc(const struct cache_footer *footer)
{
	return lzma_crc64((const uint8_t *)footer, offsetof(struct cache_footer, crc64), 0);
}

static void entry_name(char *name, const uint8_t *digest, const char *suffix)
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned i = 0; i < CACHE_DIGEST_BYTES; i++) {
		*name++ = digits[digest[i] >> 4];
		*name++ = digits[digest[i] & 15];
	}
	strcpy(name, suffix);
}

void cache_path(const struct cache *cache, const struct cache_entry *entry, char *buf, size_t bytes)
{
	char name[CACHE_NAME_BYTES];

	entry_name(name, entry->digest, ".elf");
	snprintf(buf, bytes, "%s/%s", cache->dir, name);
}

static int footer_check(
	const struct cache_footer *footer, const uint8_t *digest, const struct stat *st)
{
	if (memcmp(footer->magic, CACHE_FOOTER_MAGIC, sizeof(footer->magic)) ||
		footer->crc64 != footer_crc(footer) ||
		memcmp(footer->digest, digest, CACHE_DIGEST_BYTES) ||
		footer->elf_bytes > BZ_UNPACKED_MAX || footer->packing > IMAGE_ZSTD ||
		footer->elf_bytes + sizeof(*footer) != (uint64_t)st->st_size)
		return -EBADMSG;
	return 0;
}

int cache_entry_open(const struct cache *cache, const uint8_t *digest, struct cache_entry *ret,
	struct cache_footer *ret_footer)
{
	char name[CACHE_NAME_BYTES];
	struct stat st;
	int r = -EBADMSG;
	int fd;

	entry_name(name, digest, ".elf");
	fd = openat(cache->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENOENT : -EBADMSG;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
		st.st_size >= (off_t)sizeof(*ret_footer) &&
		!fd_pread_all(fd, ret_footer, sizeof(*ret_footer),
			(uint64_t)st.st_size - sizeof(*ret_footer)))
		r = footer_check(ret_footer, digest, &st);
	if (r < 0) {
		fd_close(&fd);
		return r;
	}
	*ret = (struct cache_entry){
		.fd = fd,
		.elf_bytes = ret_footer->elf_bytes,
		.packing = (enum image_packing)ret_footer->packing,
		.stat = st,
	};
	memcpy(ret->digest, digest, CACHE_DIGEST_BYTES);
	return 0;
}

/* Wait until a change of the file from now on shows in its time stamps. */
static bool settle(const struct stat *st)
{
	for (unsigned ms = 0; ms < SETTLE_WAIT_MS; ms++) {
		struct timespec now;

		/* The clock that time stamps are taken from. */
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		if (now.tv_sec > st->st_ctim.tv_sec ||
			(now.tv_sec == st->st_ctim.tv_sec && now.tv_nsec > st->st_ctim.tv_nsec))
			return true;
		sleep_ms(1);
	}
	return false;
}

/* Open an entry and verify the ELF's checksum. Returns as cache_entry_open(). */
static int entry_verify(const struct cache *cache, const uint8_t *digest, struct cache_entry *ret)
{
	uint8_t chunk[VERIFY_CHUNK_BYTES];
	struct cache_footer footer;
	struct cache_entry entry;
	struct stat after;
	uint64_t crc = 0;
	int r;

	r = cache_entry_open(cache, digest, &entry, &footer);
	if (r < 0)
		return r;
	entry.settled = settle(&entry.stat);
	for (uint64_t at = 0; !r && at < entry.elf_bytes;) {
		uint64_t left = entry.elf_bytes - at;
		size_t n = left < sizeof(chunk) ? left : sizeof(chunk);

		r = fd_pread_all(entry.fd, chunk, n, at);
		crc = r ? crc : lzma_crc64(chunk, n, crc);
		at += n;
	}
	if (r < 0 || crc != footer.elf_crc64 || fstat(entry.fd, &after) ||
		!cache_stat_same(&entry.stat, &after)) {
		fd_close(&entry.fd);
		return -EBADMSG;
	}
	*ret = entry;
	return 0;
}

/*
 * Open and lock the temporary file @name. Whoever has the lock and the name makes the entry; a file
 * that a crash left is taken over.
 * Returns 0; -ETIMEDOUT; -ESTALE (a file system that does not keep inode numbers); -errno.
 */
static int part_lock(const struct cache *cache, const char *name, int *ret)
{
	unsigned waited = 0;

	for (unsigned tries = 0; tries < LOCK_TRIES_MAX; tries++) {
		int fd = openat(
			cache->dir_fd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		int r = 0;

		if (fd < 0)
			return -errno;
		while (!r && flock(fd, LOCK_EX | LOCK_NB)) {
			if (errno == EWOULDBLOCK && waited >= cache->lock_wait_ms)
				r = -ETIMEDOUT;
			else if (errno == EWOULDBLOCK)
				sleep_ms(LOCK_STEP_MS);
			else if (errno != EINTR)
				r = -errno;
			waited += LOCK_STEP_MS;
		}
		if (r < 0) {
			fd_close(&fd);
			return r;
		}
		if (fd_is_at(fd, cache->dir_fd, name)) {
			*ret = fd;
			return 0;
		}
		/* Its last holder renamed or removed it while this one waited. */
		fd_close(&fd);
	}
	return -ESTALE;
}

struct part_sink {
	int fd;
	uint64_t crc64;
};

static int part_write(void *ctx, const void *data, size_t len)
{
	struct part_sink *part = ctx;

	part->crc64 = lzma_crc64(data, len, part->crc64);
	return fd_write_all(part->fd, data, len);
}

/* Fill the locked, empty @fd with the entry. *@ret_unusable as for cache_fetch(). */
static int part_fill(int fd, const struct cache_source *source, const uint8_t *digest,
	bool *ret_unusable, struct kv_err *err)
{
	struct part_sink part = {.fd = fd};
	struct unpack_sink sink = {.write = part_write, .ctx = &part};
	struct cache_footer footer = {
		.magic = CACHE_FOOTER_MAGIC,
		.elf_bytes = source->elf_bytes,
		.packing = source->packing,
	};
	int sink_error, r;

	r = unpack_run(source->packing, source->payload, source->payload_bytes, source->elf_bytes,
		&sink, &sink_error, err);
	*ret_unusable = sink_error < 0;
	if (r < 0)
		return r;
	memcpy(footer.digest, digest, sizeof(footer.digest));
	footer.elf_crc64 = part.crc64;
	footer.crc64 = footer_crc(&footer);
	r = fd_write_all(fd, &footer, sizeof(footer));
	*ret_unusable = r < 0;
	return r;
}

/* Remove what crashes left, now that a file was just written and time does not matter. */
static void sweep(const struct cache *cache)
{
	int fd = openat(cache->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!dir) {
		fd_close(&fd);
		return;
	}
	while ((de = readdir(dir))) {
		const char *dot = strrchr(de->d_name, '.');
		struct stat st;
		int part;

		if (!dot || strcmp(dot, ".part") ||
			fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode) ||
			st.st_mtim.tv_sec + SWEEP_AGE_S > time(NULL))
			continue;
		part = openat(fd, de->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (part >= 0 && !flock(part, LOCK_EX | LOCK_NB) &&
			fd_is_at(part, cache->dir_fd, de->d_name))
			unlinkat(fd, de->d_name, 0);
		fd_close(&part);
	}
	closedir(dir);
}

/* Make the entry in the locked file @part, which is consumed. */
static int entry_make(const struct cache *cache, int part, const struct cache_source *source,
	const uint8_t *digest, bool *ret_unusable, struct cache_entry *ret, struct kv_err *err)
{
	char name[CACHE_NAME_BYTES], part_name[CACHE_NAME_BYTES];
	struct cache_footer footer;
	int r;

	entry_name(name, digest, ".elf");
	entry_name(part_name, digest, ".part");
	if (ftruncate(part, 0)) {
		r = -errno;
		*ret_unusable = true;
	} else {
		r = part_fill(part, source, digest, ret_unusable, err);
	}
	if (!r && renameat(cache->dir_fd, part_name, cache->dir_fd, name)) {
		r = -errno;
		*ret_unusable = true;
	}
	if (r < 0) {
		unlinkat(cache->dir_fd, part_name, 0);
		fd_close(&part);
		return r;
	}
	/* Only now: a temporary file must stay writable for who takes it over after a crash. */
	fchmod(part, 0400);
	r = cache_entry_open(cache, digest, ret, &footer);
	*ret_unusable = r < 0;
	if (!r)
		ret->settled = settle(&ret->stat);
	fd_close(&part);
	return r;
}

int cache_fetch(const struct cache *cache, const struct cache_source *source,
	struct cache_entry *ret, bool *ret_unusable, const struct kv_log *log, struct kv_err *err)
{
	uint8_t digest[CACHE_DIGEST_BYTES];
	char part_name[CACHE_NAME_BYTES];
	int part = -1, r;
	SHA2_CTX sha;

	SHA256Init(&sha);
	SHA256Update(&sha, source->payload, source->payload_bytes);
	SHA256Final(digest, &sha);

	*ret_unusable = false;
	r = entry_verify(cache, digest, ret);
	if (!r)
		return 0;
	entry_name(part_name, digest, ".part");
	r = part_lock(cache, part_name, &part);
	if (r < 0) {
		*ret_unusable = true;
		return err_set(err, r, "cache directory %s: cannot write %s: %s", cache->dir,
			part_name,
			r == -ETIMEDOUT ? "another process has held it for too long" : err_text(r));
	}
	/* Another process may have been faster. */
	r = entry_verify(cache, digest, ret);
	if (!r) {
		unlinkat(cache->dir_fd, part_name, 0);
		fd_close(&part);
		return 0;
	}
	if (r == -EBADMSG)
		log_msg(log, LOG_LEVEL_WARN,
			"cache directory %s: entry %.16s... is corrupt and is made anew",
			cache->dir, part_name);
	r = entry_make(cache, part, source, digest, ret_unusable, ret, err);
	if (r < 0 && *ret_unusable)
		return err_set(err, r,
			"cache directory %s: cannot store a kernel of %" PRIu64 " bytes: %s",
			cache->dir, source->elf_bytes, err_text(r));
	if (!r)
		sweep(cache);
	return r;
}
