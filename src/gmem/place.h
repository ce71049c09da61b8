/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_PLACE_H
#define KV_GMEM_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "gmem/gmem.h"

/*
 * The arithmetic of gmem_overlay(), apart from it so that reports can show a placement without
 * making it: [head copied][whole pages mapped][tail copied][rest zeroed].
 */
struct gmem_split {
	uint64_t head_bytes; /* copied, up to the first page boundary */
	uint64_t map_bytes;  /* whole pages mapped from the file */
	uint64_t tail_bytes; /* copied, behind the last page boundary */
	uint64_t zero_bytes; /* behind the file's data */
	bool aligned;	     /* file offset and guest address agree modulo the page size */
};

/*
 * Split an overlay of @file_bytes from file position @offset into @mem_bytes (>= @file_bytes) at
 * @gpa. Everything is head when @how is GMEM_IMAGE_COPY or the two disagree modulo the page size.
 * When the memory behind the data up to the page boundary is part of the overlay and the file is
 * known to end with the data (@ends_file), the last page is mapped too: the page cache holds
 * zeros behind the end of a file.
 */
void gmem_split_make(struct gmem_split *split, gpa_t gpa, uint64_t mem_bytes, uint64_t offset,
	uint64_t file_bytes, bool ends_file, enum gmem_image_map how);

#endif
