/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_CACHE_H
#define KV_IMAGE_CACHE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/log.h"
#include "image/image.h"
#include "image/unpack.h"

/*
 * Inside image/: the directory of unpacked kernels.
 *
 * <sha256 of the packed payload>.elf   an entry: the kernel, and behind it a footer with its
 *                                      size and checksum. Read-only, never changed in place.
 * <sha256 of the packed payload>.part  an entry being written; its writer holds its flock(2), so
 *                                      one that nobody holds was left by a crash.
 * <device>-<inode>.idx                 which entry belongs to a bzImage file, by the file's
 *                                      identity (size, mtime, ctime), and the identity that the
 *                                      entry had when it was last verified whole.
 *
 * The index only saves reading: with it, a bzImage costs a few system calls; without, or when an
 * identity differs, the payload is hashed and the entry's checksum verified. Any file may be
 * deleted at any time.
 */
#define CACHE_DIGEST_BYTES 32

/* "<64 digits>.part" and its NUL; index names are shorter. */
#define CACHE_NAME_BYTES 80

struct cache {
	int dir_fd;
	unsigned lock_wait_ms; /* for another process that makes the same entry */
	char dir[PATH_MAX];
};

/* An entry that was found good. */
struct cache_entry {
	int fd; /* read-only */
	uint64_t elf_bytes;
	enum image_packing packing;
	uint8_t digest[CACHE_DIGEST_BYTES];
	struct stat stat; /* of @fd, from before its content was last looked at */
	bool settled;	  /* a later change of the content would show in @stat */
};

/* What an entry is made from. */
struct cache_source {
	const uint8_t *payload;
	size_t payload_bytes;
	enum image_packing packing;
	uint64_t elf_bytes; /* announced */
};

/*
 * Open the cache in @dir (NULL: image_cache_dir()), which is created with its parents if need be.
 * A directory that others may write to, or that is another user's, is not used.
 * Returns 0; -ENOENT (no place known); -EPERM (not ours alone); -errno of mkdir(2) and open(2).
 * Owns: the caller closes it.
 */
int cache_open(struct cache *ret, const char *dir, struct kv_err *err);
void cache_close(struct cache *cache);

/*
 * Find the entry of the bzImage with @source's identity, without reading either.
 * Returns 0 and fills *@ret; -ENOENT when the index does not know or no longer fits.
 * Owns: the caller closes @ret->fd.
 */
int cache_find(const struct cache *cache, const struct stat *source, struct cache_entry *ret);

/*
 * The entry of @source: found and verified whole, or made now, whichever process is first. One
 * that is corrupt is replaced.
 * Returns 0 and fills *@ret; -ENOEXEC and the like of unpack_run() when @source is at fault;
 * -errno (ENOSPC, EROFS, ETIMEDOUT: another process is at it for too long, ...) when the cache is,
 * and then *@ret_unusable is set. Nothing half-made is left.
 * Owns: the caller closes @ret->fd.
 */
int cache_fetch(const struct cache *cache, const struct cache_source *source,
	struct cache_entry *ret, bool *ret_unusable, const struct kv_log *log, struct kv_err *err);

/* The entry's path into @buf; cut when @bytes do not hold it. */
void cache_path(
	const struct cache *cache, const struct cache_entry *entry, char *buf, size_t bytes);

/*
 * True when a change of a file from now on would show in its time stamps, which advance in steps
 * (a clock tick; on some file systems 2 s): the last change, in @st, is longer ago than one.
 */
bool cache_quiet(const struct stat *st);

/*
 * Note in the index that the bzImage open as @fd belongs to @entry. @before is its identity, quiet
 * then, from before its payload was read. Does nothing when the file has changed since or the index
 * cannot be written.
 */
void cache_note(const struct cache *cache, int fd, const struct stat *before,
	const struct cache_entry *entry);

#endif
