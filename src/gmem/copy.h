/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_COPY_H
#define KV_GMEM_COPY_H

#include <stdint.h>

/* Copying files into guest RAM. Inside gmem/ (and for the program's benchmarks). */

/*
 * Copy @bytes with streaming stores, which do not read the old contents of @to and leave the caches
 * to others. All stores are visible to every thread on return. Any alignment; no overlap.
 * Context: any thread. Source: Intel SDM vol. 1 §10.4.6.2.
 */
void gmem_stream(void *to, const void *from, uint64_t bytes);

/* Write zeros over @bytes (a multiple of 64) at @to (64-byte aligned) in the same way. */
void gmem_stream_zero(void *to, uint64_t bytes);

/*
 * Read @bytes of @fd from @offset to @to, which need not be present. Small pieces go through
 * pread(2); larger ones are cut into slices for several threads, each reading into a buffer that
 * stays in its cache and streaming it out. A file that is cut short meanwhile is an error and no
 * signal, which is why it is not read through a mapping.
 * Returns 0; -ENODATA when the file ends first; -ENOMEM; -errno of pread(2).
 */
int gmem_copy_file(uint8_t *to, uint64_t bytes, int fd, uint64_t offset);

#endif
