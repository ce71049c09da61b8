/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_OUT_FILE_H
#define KV_CLI_OUT_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Files that are never seen half-written: written beside and renamed. */

/*
 * Find out early whether out_file_write() could write @path: its folder is there and may be written
 * to, or something that is not a regular file is there already and may be written itself. With
 * @in_place a regular file that is there will be written itself, too, not replaced.
 * Returns 0; -EISDIR; -errno, with a sentence that names the path.
 */
int out_file_check(const char *path, bool in_place, struct kv_err *err);

/*
 * Put @len bytes at @data into the file @path, which others see as it was or with all of them;
 * devices and FIFOs are written to. Links stay: what they lead to is written. Those below /proc, as
 * /dev/stdout is one, stand for what the process has open: a regular file there is appended to.
 * Returns 0; -errno with a sentence that names the path; then a file is as it was, unless it was
 * appended to.
 */
int out_file_write(const char *path, const void *data, size_t len, struct kv_err *err);

/*
 * As out_file_write(), but a device or FIFO is given up when it takes nothing for @wait_ms
 * milliseconds; a FIFO without a reader at once.
 * Returns as that; -ENXIO or -ETIMEDOUT when nobody reads.
 */
int out_file_offer(const char *path, const void *data, size_t len, int wait_ms, struct kv_err *err);

#endif
