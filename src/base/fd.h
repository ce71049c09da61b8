/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BASE_FD_H
#define KV_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Close *@fd unless it is negative, set it to -1, and leave errno as it was.
 * Context: any thread.
 */
void fd_close(int *fd);

/* For descriptors that live in one scope: `FD_SCOPED int fd = open(...);`. */
#define FD_SCOPED __attribute__((cleanup(fd_close)))

/* Take a descriptor out of *@fd, which is -1 then, to keep it beyond an FD_SCOPED. */
static inline int fd_take(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* free() for `__attribute__((cleanup))`: takes the address of the pointer. */
void mem_free(void *pointer_address);

/* For heap buffers that live in one scope: `MEM_SCOPED char *buf = malloc(...);`. */
#define MEM_SCOPED __attribute__((cleanup(mem_free)))

/*
 * Whether @name in the folder @dir_fd (AT_FDCWD: the current one), which is not followed when it is
 * a link, is the file that @fd has open. No other file gets its number while it is open.
 * Context: any thread; async-signal-safe.
 */
bool fd_is_at(int fd, int dir_fd, const char *name);

/*
 * Read exactly @len bytes at @offset, going on after short reads and EINTR.
 * Returns 0; -ENODATA when the file ends first; -errno of pread(2).
 */
int fd_pread_all(int fd, void *buf, size_t len, uint64_t offset);

/*
 * Write exactly @len bytes, going on after short writes and EINTR.
 * Returns 0; -errno of write(2).
 */
int fd_write_all(int fd, const void *buf, size_t len);

/*
 * Read a whole small file (sysfs, procfs, a configuration) of at most @max_bytes into a fresh
 * NUL-terminated buffer.
 * Returns its length in bytes (without the NUL); -EFBIG when it is larger; -ENOMEM; -errno.
 * Owns: the caller frees *@ret.
 */
ssize_t file_read_all(const char *path, size_t max_bytes, char **ret);

#endif
