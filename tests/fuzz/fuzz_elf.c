/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ELF kernels: headers, notes, segments, symbols. The input's first byte chooses the boot protocol,
 * the rest is the file. What a plan promises is checked here, because everything above relies on
 * it.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/num.h"
#include "image/elf.h"
#include "image/symbols.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void must(bool truth, const char *what)
{
	if (truth)
		return;
	fprintf(stderr, "a plan is wrong: %s\n", what);
	abort();
}

static void plan_check(const struct image_plan *plan, const struct elf_file *elf)
{
	bool entered = false;
	gpa_t end = IMAGE_GPA_MIN;

	must(plan->protocol == IMAGE_PVH || plan->protocol == IMAGE_LINUX, "protocol");
	must(plan->protocol == IMAGE_LINUX || plan->has_pvh, "PVH without note");
	must(plan->segment_count > 0 && plan->segment_count <= IMAGE_SEGMENTS_MAX, "count");
	must(plan->low == plan->segments[0].gpa, "low");
	for (unsigned i = 0; i < plan->segment_count; i++) {
		const struct image_segment *seg = &plan->segments[i];

		must(seg->gpa >= end, "order, or overlap, or too low");
		must(seg->mem_bytes > 0 && seg->file_bytes <= seg->mem_bytes, "sizes");
		must(range_end(seg->gpa, seg->mem_bytes, &end) && end <= 1ULL << 52, "wrap");
		must(!seg->file_bytes ||
				(seg->offset >= elf->base &&
					seg->offset - elf->base <= elf->bytes &&
					seg->file_bytes <= elf->bytes - (seg->offset - elf->base)),
			"file range");
		entered |= range_overlap(seg->gpa, seg->file_bytes, plan->entry, 1);
	}
	must(plan->high == end, "high");
	must(entered && plan->entry < 4 * GIB, "entry");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const char *const names[] = {"start_kernel", "", "_text"};
	struct image_plan plan = {.protocol = IMAGE_AUTO};
	enum image_protocol asked;
	struct symbols *symbols;
	struct elf_file elf;
	struct kv_err err = {""};
	uint64_t value;
	int fd;

	if (!bytes)
		return 0;
	asked = data[0] % 3;
	/* At a base other than 0, as inside a bzImage. */
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes)
		abort();
	elf = (struct elf_file){
		.fd = fd,
		.base = 1,
		.bytes = bytes - 1,
		.head = data + 1,
		/* Some is in the head, some has to be read. */
		.head_bytes = data[0] & 0x80 ? bytes / 2 : bytes - 1,
	};
	if (!elf_plan(&plan, &elf, asked, &err))
		plan_check(&plan, &elf);
	else
		must(err.text[0], "an error without a sentence");

	elf.head_bytes = 0;
	if (!symbols_open_elf(&symbols, &elf)) {
		for (size_t i = 0; i < ARRAY_LEN(names); i++)
			symbols_find(symbols, names[i], &value);
		symbols_destroy(symbols);
	}
	close(fd);
	return 0;
}
