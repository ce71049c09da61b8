/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM and what lies in it before the first instruction: kernel and initrd. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "machine/internal.h"
#include "x86/layout.h"

/*
 * Highest address of an initrd. Kernels since 2.6.x name 0x7fffffff in their setup header
 * (boot.rst, initrd_addr_max); an ELF has no such field and gets the same limit.
 */
#define INITRD_TOP 0x80000000ULL

/* boot.rst: initrd_addr_max at offset 0x22c of the file, protocol 2.03 and later. */
#define SETUP_START	 0x1f1
#define SETUP_INITRD_MAX 0x22c

static int kernel_place(struct machine *m, struct kv_err *err)
{
	const struct image_plan *plan = image_plan(m->p.image);
	char size[24], what[32];

	for (unsigned i = 0; i < plan->segment_count; i++) {
		const struct image_segment *seg = &plan->segments[i];
		int r;

		if (!gmem_at(m->gm, seg->gpa, seg->mem_bytes))
			return err_set(err, -EFAULT,
				"%s: its segment %u at 0x%" PRIx64 "-0x%" PRIx64
				" does not fit into --memory %s",
				image_path(m->p.image), i, seg->gpa, seg->gpa + seg->mem_bytes,
				size_format(gmem_total(m->gm), size, sizeof(size)));
		snprintf(what, sizeof(what), "kernel segment %u", i);
		r = gmem_overlay(m->gm, seg->gpa, seg->mem_bytes, image_fd(m->p.image), seg->offset,
			seg->file_bytes, m->p.config->image_map, what, &m->placed, err);
		if (r < 0)
			return err_prefix(err, r, "%s", image_path(m->p.image));
	}
	return 0;
}

/* The end of the range that may hold the initrd. */
static uint64_t initrd_top(const struct image_plan *plan, uint64_t memory_bytes)
{
	uint64_t low = memory_bytes < LAYOUT_HOLE ? memory_bytes : LAYOUT_HOLE;
	uint64_t top = low < INITRD_TOP ? low : INITRD_TOP;
	uint32_t limit;

	if (plan->setup_header_bytes >= SETUP_INITRD_MAX - SETUP_START + sizeof(limit)) {
		memcpy(&limit, plan->setup_header + SETUP_INITRD_MAX - SETUP_START, sizeof(limit));
		if (limit && (uint64_t)limit + 1 < top)
			top = (uint64_t)limit + 1;
	}
	return top;
}

int machine_initrd_at(const struct image_plan *plan, uint64_t memory_bytes, uint64_t initrd_bytes,
	gpa_t *ret, struct kv_err *err)
{
	uint64_t bytes = align_up(initrd_bytes, PAGE_BYTES);
	uint64_t top = align_down(initrd_top(plan, memory_bytes), PAGE_BYTES);
	/* Not below the kernel: the gaps under it are its own to use while it starts. */
	uint64_t floor = align_up(plan->high, PAGE_BYTES);

	if (floor > top || top - floor < bytes)
		return err_set(err, -E2BIG,
			"initrd: %" PRIu64
			" bytes do not fit between the kernel's end at 0x%" PRIx64 " and 0x%" PRIx64
			"; give the VM more --memory or a smaller initrd",
			initrd_bytes, plan->high, top);
	*ret = top - bytes;
	return 0;
}

static int initrd_place(struct machine *m, struct kv_err *err)
{
	const struct initrd *initrd = m->p.initrd;
	char what[32];
	int r;

	if (!initrd->count)
		return 0;
	r = machine_initrd_at(image_plan(m->p.image), m->p.config->memory_bytes, initrd->bytes,
		&m->initrd_gpa, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < initrd->count; i++) {
		const struct initrd_file *file = &initrd->files[i];

		snprintf(what, sizeof(what), "initrd %u", i);
		r = gmem_overlay(m->gm, m->initrd_gpa + file->offset,
			align_up(file->bytes, PAGE_BYTES), file->fd, 0, file->bytes,
			m->p.config->image_map, what, &m->placed, err);
		if (r < 0)
			return err_prefix(err, r, "%s", file->path);
	}
	return 0;
}

int machine_load(struct machine *m, struct kv_err *err)
{
	int r = gmem_create(&m->gm, m->p.log);

	if (r < 0)
		return err_set(err, r, "guest memory: out of memory");
	r = machine_ram_add(m, err);
	if (!r)
		r = kernel_place(m, err);
	if (!r)
		r = initrd_place(m, err);
	timeline_mark(m->p.tl, MARK_MEMORY);
	return r < 0 ? r : machine_populate(m, err);
}

static bool file_shorter(int fd, uint64_t bytes)
{
	struct stat st;

	return !fstat(fd, &st) && (uint64_t)st.st_size < bytes;
}

const char *machine_shrunk(const struct machine *m)
{
	const struct image_plan *plan = image_plan(m->p.image);
	uint64_t bytes = 0;

	for (unsigned i = 0; i < plan->segment_count; i++)
		if (plan->segments[i].offset + plan->segments[i].file_bytes > bytes)
			bytes = plan->segments[i].offset + plan->segments[i].file_bytes;
	if (file_shorter(image_fd(m->p.image), bytes))
		return image_data_path(m->p.image);
	for (unsigned i = 0; i < m->p.initrd->count; i++)
		if (file_shorter(m->p.initrd->files[i].fd, m->p.initrd->files[i].bytes))
			return m->p.initrd->files[i].path;
	return NULL;
}
