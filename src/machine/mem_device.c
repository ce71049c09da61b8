/* SPDX-License-Identifier: Apache-2.0 */
/* Memory devices on the board: where they lie, in how many memory slots, and asking for sizes. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "machine/internal.h"
#include "virtio/mem.h"
#include "virtio/net.h"
#include "x86/cpuid.h"
#include "x86/layout.h"

/* Linux's largest memory blocks: what it adds starts on a multiple of its own. */
#define PLACE_ALIGN (2 * GIB)

/* Memory slots that all memory devices together may have. */
static unsigned slots_offered(const struct machine *m)
{
	int slots = kvm_cap(m->p.kvm, KVM_CAP_NR_MEMSLOTS);

	/* A KVM that does not say has the 32 of the first ones (api.rst 4.4). */
	slots = (slots ? slots : 32) - GMEM_REGIONS_MAX;
	if (slots < 0)
		return 0;
	return slots < GMEM_WINDOWS_MAX ? (unsigned)slots : GMEM_WINDOWS_MAX;
}

static uint64_t windows_of(uint64_t bytes, uint64_t window)
{
	return (bytes + window - 1) / window;
}

/*
 * Share out the memory slots: to those that name a number at most so many, to the others windows
 * of one size. Returns false when there are too few.
 */
static bool windows_plan(
	const struct vm_config *config, unsigned slots, uint64_t windows[VM_MEM_DEVICES_MAX])
{
	uint64_t shared = GIB, sum;

	for (;;) {
		sum = 0;
		for (unsigned i = 0; i < config->mem_count; i++) {
			const struct vm_mem_device *mem = &config->mems[i];

			if (!mem->dynamic)
				windows[i] = mem->max_bytes;
			else if (mem->slots)
				windows[i] = gmem_hot_window(
					mem->max_bytes, mem->block_bytes, mem->slots);
			else
				windows[i] = shared > mem->block_bytes ? shared : mem->block_bytes;
			sum += windows_of(mem->max_bytes, windows[i]);
		}
		if (sum <= slots)
			return true;
		if (shared > 1ULL << 60)
			return false;
		shared *= 2;
	}
}

/*
 * The first address behind all RAM that does not touch it. Areas of memory keep apart: a guest that
 * finds two side by side makes one buffer of the end of one and the beginning of the other, and a
 * device looks for a buffer in one area.
 */
static gpa_t ram_end(const struct machine *m)
{
	uint64_t bytes = m->p.config->memory_bytes;

	return bytes <= LAYOUT_HOLE ? LAYOUT_HOLE_END : bytes - LAYOUT_HOLE + LAYOUT_HOLE_END + 1;
}

/* Add the area of @mem at or behind *@at, which goes on to what does not touch it. */
static int area_add(struct machine *m, const struct vm_mem_device *mem, uint64_t window,
	unsigned bits, gpa_t *at, struct kv_err *err)
{
	const struct vm_memory *memory = &m->p.config->memory;
	struct gmem_backing backing = {
		.kind = mem->backing,
		.thp = gmem_is_hugetlb(mem->backing) || mem->backing == GMEM_POOL ? GMEM_AUTO
										  : memory->thp,
		.shared = memory->shared,
		.merge = memory->merge && mem->backing == GMEM_ANON,
		.dump = memory->dump,
		/* The pool's node counts. */
		.nodes = mem->backing == GMEM_POOL ? 0 : memory->nodes,
	};
	uint64_t align = mem->dynamic && window > PLACE_ALIGN ? window : PLACE_ALIGN;
	struct gmem_hot_params params = {
		.gpa = align_up(*at, align),
		.bytes = mem->max_bytes,
		.block_bytes = mem->block_bytes,
		.window_bytes = window,
		.whole = !mem->dynamic,
		.populate = mem->populate,
		.backing = &backing,
	};
	uint64_t end;
	char size[24], page[24];

	if (mem->backing == GMEM_POOL) {
		if (!m->p.lenders)
			return err_set(err, -EINVAL, "backing=pool is not offered here");
		params.lender = &m->p.lenders[m->mem_count];
		if (params.lender->page_bytes > mem->block_bytes)
			return err_set(err, -EINVAL,
				"block=%s is less than a page of the pool, which has %s",
				size_format(mem->block_bytes, size, sizeof(size)),
				size_format(params.lender->page_bytes, page, sizeof(page)));
	}
	if (!mem->dynamic && mem->max_bytes > KVM_SLOT_BYTES_MAX)
		return err_set(err, -EINVAL,
			"max=%s is more than the 8T less 4K that KVM takes with "
			"dynamic-memslots=off",
			size_format(mem->max_bytes, size, sizeof(size)));
	if (!range_end(params.gpa, params.bytes, &end) || (bits < 64 && end > 1ULL << bits))
		return err_set(err, -EINVAL,
			"max=%s at 0x%" PRIx64 " is more than this CPU's %u physical address bits "
			"reach",
			size_format(mem->max_bytes, size, sizeof(size)), params.gpa, bits);
	*at = end + 1;
	return gmem_hot_add(&m->mems[m->mem_count].hot, m->gm, &params, err);
}

/* windows_plan() with what KVM has, or vhost if that is less and wanted. */
static int windows_fit(struct machine *m, uint64_t windows[VM_MEM_DEVICES_MAX], struct kv_err *err)
{
	const struct vm_config *config = m->p.config;
	unsigned slots = slots_offered(m), pieces = vnet_vhost_pieces();
	bool must;

	pieces = pieces > GMEM_REGIONS_MAX ? pieces - GMEM_REGIONS_MAX : 0;
	if (pieces < slots && machine_vhost_wanted(m, &must)) {
		if (windows_plan(config, pieces, windows))
			return 0;
		if (must)
			return err_set(err, -ENOSPC,
				"mem-device: the devices want more than the %u pieces that this "
				"host's vhost takes; give fewer slots=, leave it out, or give "
				"vhost=off",
				pieces);
		m->vhost_barred = true;
	}
	if (!windows_plan(config, slots, windows))
		return err_set(err, -ENOSPC,
			"mem-device: the devices want more than the %u memory slots that this "
			"host's KVM has for them; give fewer slots= or leave it out",
			slots);
	return 0;
}

int machine_mems_plan(struct machine *m, struct kv_err *err)
{
	const struct vm_config *config = m->p.config;
	uint64_t windows[VM_MEM_DEVICES_MAX];
	const struct kvm_cpuid2 *cpuid = NULL;
	gpa_t at = ram_end(m);
	int r;

	if (!config->mem_count)
		return 0;
	r = kvm_cpuid_supported(m->p.kvm, &cpuid);
	if (r < 0)
		return err_set(err, r, "KVM_GET_SUPPORTED_CPUID failed: %s", err_text(r));
	r = windows_fit(m, windows, err);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < config->mem_count; i++) {
		r = area_add(m, &config->mems[i], windows[i], x86_phys_bits(cpuid), &at, err);
		if (r < 0)
			return err_prefix(err, r, "mem-device %s", config->mems[i].id);
		m->mem_count++;
	}
	return 0;
}

/* Memory went: rings that lay in it are no rings any more. */
static void memory_shrunk(void *ctx)
{
	struct machine *m = ctx;

	for (unsigned i = 0; i < m->virtio_count; i++)
		vdev_memory_changed(m->virtio[i].vd);
}

static void device_free(void *dev)
{
	vmem_destroy(dev);
}

int machine_add_mem(struct machine *m, unsigned index, struct kv_err *err)
{
	const struct vm_mem_device *config = &m->p.config->mems[index];
	struct machine_mem *mem = &m->mems[index];
	struct vmem_params params = {
		.hot = mem->hot,
		.gm = m->gm,
		.loop = m->p.loop,
		.log = m->p.log,
		.requested_bytes = config->requested_bytes,
		.node = config->node,
		.shrunk = memory_shrunk,
		.ctx = m,
	};
	struct vmem *dev = NULL;
	int r;

	mem->id = strdup(config->id);
	r = mem->id ? vmem_create(&dev, &params) : -ENOMEM;
	if (!r)
		r = machine_virtio_add(m, vmem_vdev(dev), dev, device_free);
	if (r < 0) {
		vmem_destroy(dev);
		return err_set(err, r, "mem-device %s: %s", config->id, err_text(r));
	}
	mem->dev = dev;
	return 0;
}

static void memory_tell(struct acpi_config *acpi, gpa_t gpa, uint64_t bytes, int node, bool hot)
{
	acpi->memory[acpi->memory_count++] = (struct acpi_memory){gpa, bytes, (uint32_t)node, hot};
}

_Static_assert(VM_MEM_DEVICES_MAX + 2 <= ACPI_MEMORY_MAX, "RAM has two parts at most");

void machine_mems_tell(struct machine *m, struct acpi_config *acpi)
{
	const struct vm_config *config = m->p.config;
	uint64_t bytes = config->memory_bytes;
	struct gmem_hot_info info;
	bool told = false;

	for (unsigned i = 0; i < config->mem_count; i++)
		told |= config->mems[i].node >= 0;
	if (!told)
		return;
	memory_tell(acpi, 0, bytes < LAYOUT_HOLE ? bytes : LAYOUT_HOLE, 0, false);
	if (bytes > LAYOUT_HOLE)
		memory_tell(acpi, LAYOUT_HOLE_END, bytes - LAYOUT_HOLE, 0, false);
	for (unsigned i = 0; i < m->mem_count; i++) {
		gmem_hot_info(m->mems[i].hot, &info);
		if (config->mems[i].node >= 0)
			memory_tell(acpi, info.gpa, info.bytes, config->mems[i].node, true);
	}
}

unsigned machine_mem_count(const struct machine *m)
{
	return m->mem_count;
}

int machine_mem_get(struct machine *m, unsigned i, struct machine_mem_info *ret)
{
	struct vmem_info info;

	if (i >= m->mem_count)
		return -ENODEV;
	vmem_info(m->mems[i].dev, &info);
	*ret = (struct machine_mem_info){
		.id = m->mems[i].id,
		.max_bytes = info.hot.bytes,
		.block_bytes = info.hot.block_bytes,
		.window_bytes = info.hot.window_bytes,
		.requested_bytes = info.requested_bytes,
		.plugged_bytes = info.hot.plugged_bytes,
		.windows = info.hot.windows,
		.windows_mapped = info.hot.windows_mapped,
		.driver = info.driver,
		.refused = info.refused,
		.stall_max_ns = info.hot.stall_max_ns,
	};
	return 0;
}

static struct vmem *device_find(struct machine *m, const char *id)
{
	for (unsigned i = 0; i < m->mem_count; i++)
		if (!strcmp(m->mems[i].id, id))
			return m->mems[i].dev;
	return NULL;
}

bool machine_mem_present(struct machine *m, const char *id, uint64_t *at, uint64_t *bytes)
{
	struct vmem *dev = device_find(m, id);

	return dev && vmem_resident(dev, at, bytes);
}

int machine_mem_request(struct machine *m, const char *id, uint64_t bytes, struct kv_err *err)
{
	struct vmem *dev = device_find(m, id);
	struct vmem_info info;
	char a[24], b[24];
	int r;

	if (!dev)
		return err_set(err, -ENODEV, "there is no memory device %.64s", id);
	r = vmem_request(dev, bytes);
	if (r == -EAGAIN)
		return err_set(err, r,
			"memory device %s: the guest has no driver for it at work (virtio-mem)",
			id);
	if (!r)
		return 0;
	vmem_info(dev, &info);
	size_format(bytes, a, sizeof(a));
	if (bytes > info.hot.bytes)
		return err_set(err, r, "memory device %s: requested=%s is more than max=%s", id, a,
			size_format(info.hot.bytes, b, sizeof(b)));
	return err_set(err, r,
		"memory device %s: requested=%s is not a multiple of %s, the size of a block", id,
		a, size_format(info.hot.block_bytes, b, sizeof(b)));
}
