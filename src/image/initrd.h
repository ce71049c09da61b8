/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_INITRD_H
#define KV_IMAGE_INITRD_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/num.h"

/*
 * Initrd files, opened once per process. Several are concatenated in order: each starts on a
 * page, the gap behind it is zero (which the kernel's cpio reader skips between archives).
 */
#define INITRD_FILES_MAX 16

struct initrd_file {
	int fd;
	uint64_t bytes;	 /* of the file, > 0 */
	uint64_t offset; /* inside the initrd, a multiple of 4096 */
	char *path;
};

struct initrd {
	unsigned count;
	uint64_t bytes; /* from the first byte of the first file to the last of the last */
	struct initrd_file files[INITRD_FILES_MAX];
};

/*
 * Open @count files (0..INITRD_FILES_MAX) and lay them out.
 * Returns 0; -E2BIG (too many files); -EINVAL (an empty file, not a regular file); -errno.
 * Owns: the caller destroys it.
 */
int initrd_open(struct initrd **ret, const char *const *paths, unsigned count, struct kv_err *err);
void initrd_destroy(struct initrd *initrd);

#endif
