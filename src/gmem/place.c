/* SPDX-License-Identifier: Apache-2.0 */
#include "gmem/place.h"

void gmem_split_make(struct gmem_split *split, gpa_t gpa, uint64_t mem_bytes, uint64_t offset,
	uint64_t file_bytes, bool ends_file, enum gmem_image_map how)
{
	uint64_t first = align_up(gpa, PAGE_BYTES);
	uint64_t last = align_down(gpa + file_bytes, PAGE_BYTES);

	*split = (struct gmem_split){
		.zero_bytes = mem_bytes - file_bytes,
		.aligned = gpa % PAGE_BYTES == offset % PAGE_BYTES,
	};
	if (how == GMEM_IMAGE_COPY || !split->aligned) {
		split->head_bytes = file_bytes;
		return;
	}
	if (ends_file &&
		mem_bytes - file_bytes >= align_up(gpa + file_bytes, PAGE_BYTES) - gpa - file_bytes)
		last = align_up(gpa + file_bytes, PAGE_BYTES);
	if (last <= first) {
		split->head_bytes = file_bytes;
		return;
	}
	split->head_bytes = first - gpa;
	split->map_bytes = last - first;
	if (last < gpa + file_bytes) {
		split->tail_bytes = gpa + file_bytes - last;
		return;
	}
	/* The mapped last page brings its own zeros. */
	split->zero_bytes -= last - (gpa + file_bytes);
}
