/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: where it lies, what backs it, when it becomes present. */
#include <errno.h>

#include "gmem/populate.h"
#include "machine/internal.h"
#include "x86/layout.h"

int machine_ram_add(struct machine *m, struct kv_err *err)
{
	const struct vm_memory *memory = &m->p.config->memory;
	struct gmem_backing backing = {
		.kind = memory->backing,
		.path = memory->path,
		.thp = memory->thp,
		.shared = memory->shared,
		.mlock = memory->mlock,
		.merge = memory->merge,
		.dump = memory->dump,
		.nodes = memory->nodes,
		.chunks = m->p.chunks,
		.chunk_count = m->p.chunk_count,
		.watch = m->p.watch,
		.total_bytes = m->p.config->memory_bytes,
	};
	uint64_t bytes = m->p.config->memory_bytes;
	uint64_t low = bytes < LAYOUT_HOLE ? bytes : LAYOUT_HOLE;
	int r = gmem_backing_check(&backing, bytes, err);

	if (!r)
		r = gmem_add_backed(m->gm, 0, low, &backing, 0, err);
	if (!r && bytes > low)
		r = gmem_add_backed(m->gm, LAYOUT_HOLE_END, bytes - low, &backing, low, err);
	return r;
}

int machine_populate(struct machine *m, struct kv_err *err)
{
	const struct vm_memory *memory = &m->p.config->memory;
	const struct gmem_backing backing = {.kind = memory->backing, .nodes = memory->nodes};
	bool none = memory->populate == GMEM_POPULATE_NONE, bound = gmem_is_bound(&backing);
	struct gmem_fill_opts opts = {.threads = memory->threads, .huge_only = none};
	int r;

	if (none && !bound)
		return 0;
	/* Planned now, so that what cannot be is an error of the start. */
	r = gmem_fill_create(&m->fill, m->gm, &opts, err);
	if (r < 0)
		return r;
	m->populate = bound ? GMEM_POPULATE_FULL : memory->populate;
	m->filling = m->cpu_count;
	if (m->populate != GMEM_POPULATE_FULL)
		return 0;
	timeline_mark(m->p.tl, MARK_POPULATE_BEGIN);
	r = gmem_fill_run(m->fill, m->p.watch, err);
	if (r < 0)
		return r;
	timeline_fill(m->p.tl, gmem_fill_total(m->fill));
	gmem_fill_destroy(m->fill);
	m->fill = NULL;
	return 0;
}

static void background_done(void *ctx, int result)
{
	struct machine *m = ctx;

	if (!result)
		timeline_fill(m->p.tl, gmem_fill_total(m->fill));
	else
		log_msg(m->p.log, LOG_LEVEL_WARN,
			"memory: populate=background: only %llu MiB could be had (%s); the rest "
			"comes "
			"as the guest touches it, if it can",
			(unsigned long long)(gmem_fill_done(m->fill) / MIB), err_text(result));
}

int machine_fill_ready(struct machine *m, struct kv_err *err)
{
	return m->populate == GMEM_POPULATE_BACKGROUND ? gmem_fill_ready(m->fill, err) : 0;
}

void machine_fill_start(struct machine *m)
{
	int r;

	if (m->populate != GMEM_POPULATE_BACKGROUND)
		return;
	timeline_mark(m->p.tl, MARK_POPULATE_BEGIN);
	r = gmem_fill_start(m->fill, background_done, m);
	if (r < 0)
		log_msg(m->p.log, LOG_LEVEL_WARN,
			"memory: populate=background: no thread can be started (%s; see ulimit -u "
			"and pids.max of the control group); memory comes as the guest touches it",
			err_text(r));
}

bool machine_fill_vcpu(struct machine *m, unsigned index)
{
	struct kv_err err = {0};
	int r;

	if (m->populate != GMEM_POPULATE_VCPU)
		return true;
	timeline_mark(m->p.tl, MARK_POPULATE_BEGIN);
	r = gmem_fill_part(m->fill, index, m->cpu_count, &err);
	if (r < 0 && r != -ECANCELED)
		machine_finish(m, MACHINE_MEMORY_SHORT, err.text);
	if (!r && atomic_fetch_sub(&m->filling, 1) == 1)
		timeline_fill(m->p.tl, gmem_fill_total(m->fill));
	return !r;
}
