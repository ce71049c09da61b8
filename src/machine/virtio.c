/* SPDX-License-Identifier: Apache-2.0 */
/* virtio devices on the board: addresses, lines, and how the guest learns of them. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "machine/internal.h"
#include "virtio/blk.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"
#include "x86/layout.h"
#include "x86/mptable.h"

_Static_assert(ACPI_VIRTIO_MAX == VM_DEVICES_MAX, "all devices have a place in the DSDT");
_Static_assert(VMMIO_BYTES <= LAYOUT_VIRTIO_STRIDE, "each device has its own page");

static unsigned devices_wanted(const struct vm_config *config)
{
	return config->disk_count + (config->rng ? 1 : 0) + config->mem_count + config->net_count;
}

/* The line of device @index; with a PIC, the ACPI's own is left out. */
static uint32_t device_gsi(const struct machine *m, unsigned index)
{
	uint32_t gsi = LAYOUT_IRQ_VIRTIO + index;

	return m->irqchip_kind == KVM_IRQCHIP_FULL && gsi >= LAYOUT_IRQ_SCI ? gsi + 1 : gsi;
}

int machine_lines_plan(struct machine *m, struct kv_err *err)
{
	unsigned wanted = devices_wanted(m->p.config), most = ACPI_VIRTIO_MAX;
	bool full = m->irqchip_kind == KVM_IRQCHIP_FULL;

	while (full && device_gsi(m, most - 1) >= IRQCHIP_PINS)
		most--;
	if (wanted > most)
		return err_set(err, -ENOSPC, "%u virtio devices are too many; %s at most %u",
			wanted,
			full ? "beside a PIC (see --legacy) there is room for" : "there are", most);
	m->pins = IRQCHIP_PINS;
	if (wanted && device_gsi(m, wanted - 1) >= IRQCHIP_PINS)
		m->pins = IRQCHIP_PINS_MAX;
	return 0;
}

static void ioeventfd_add(void *ctx, gpa_t gpa, unsigned len, uint32_t index, int fd)
{
	struct machine *m = ctx;

	kvm_ioeventfd(m->vm, gpa, len, index, fd, true);
}

int machine_virtio_add(struct machine *m, struct vdev *vd, void *dev, void (*destroy)(void *dev))
{
	struct machine_virtio *slot = &m->virtio[m->virtio_count];
	struct vmmio_params params = {
		.bus = m->bus,
		.vd = vd,
		.base = LAYOUT_VIRTIO + m->virtio_count * LAYOUT_VIRTIO_STRIDE,
		.irq = irqchip_line(m->irqchip, device_gsi(m, m->virtio_count)),
		.ioeventfd = ioeventfd_add,
		.ctx = m,
	};
	int r = vmmio_create(&slot->mmio, &params);

	if (r < 0)
		return r;
	slot->vd = vd;
	slot->dev = dev;
	slot->destroy = destroy;
	slot->gpa = params.base;
	slot->gsi = params.irq.gsi;
	m->virtio_count++;
	return 0;
}

static void rng_free(void *dev)
{
	vrng_destroy(dev);
}

int machine_add_rng(struct machine *m, struct kv_err *err)
{
	struct vrng_params params = {
		.gm = m->gm,
		.loop = m->p.loop,
		.log = m->p.log,
		.limit = m->p.config->rng_limit,
	};
	struct vrng *rng = NULL;
	int r = vrng_create(&rng, &params);

	if (!r)
		r = machine_virtio_add(m, vrng_vdev(rng), rng, rng_free);
	if (!r)
		return 0;
	vrng_destroy(rng);
	return err_set(err, r, "--rng: %s", err_text(r));
}

static void disk_free(void *dev)
{
	vblk_destroy(dev);
}

int machine_add_disk(struct machine *m, const struct vm_disk *disk, struct kv_err *err)
{
	struct vblk_params params = {
		.gm = m->gm,
		.log = m->p.log,
		.serial = disk->serial,
		.writeback = disk->writeback,
		.queues = disk->queues,
		.limit = disk->limit,
	};
	struct vblk_file file;
	struct machine_virtio *slot;
	struct vblk *blk = NULL;
	int r = machine_loop_for(m, disk->iothread, disk->id, &params.loop, err);

	if (!r)
		r = vblk_file_open(&file, disk->path, disk->read_only, disk->direct, err);
	if (r < 0)
		return err_prefix(err, r, "disk %s", disk->id);
	r = vblk_create(&blk, &params, &file);
	if (r < 0) {
		vblk_file_close(&file);
		return err_set(err, r, "disk %s: %s", disk->id, err_text(r));
	}
	r = machine_virtio_add(m, vblk_vdev(blk), blk, disk_free);
	if (r < 0) {
		vblk_destroy(blk);
		return err_set(err, r, "disk %s: %s", disk->id, err_text(r));
	}
	slot = &m->virtio[m->virtio_count - 1];
	slot->disk = blk;
	slot->id = strdup(disk->id);
	return slot->id ? 0 : err_set(err, -ENOMEM, "disk %s: out of memory", disk->id);
}

static int disk_look(struct machine *m, const struct machine_virtio *slot, struct kv_err *err)
{
	uint64_t bytes = 0;
	char size[24];
	int r = vblk_resize(slot->disk, &bytes);

	size_format(bytes, size, sizeof(size));
	if (r == -ERANGE)
		return err_set(
			err, r, "disk %s shrank to %s; the guest's does not", slot->id, size);
	if (r < 0)
		return err_set(
			err, r, "the size of disk %s cannot be found: %s", slot->id, err_text(r));
	if (r > 0)
		log_msg(m->p.log, LOG_LEVEL_INFO, "disk %s has now %s", slot->id, size);
	return 0;
}

/* NULL with a sentence. */
static const struct machine_virtio *disk_find(
	const struct machine *m, const char *id, struct kv_err *err)
{
	for (unsigned i = 0; i < m->virtio_count; i++)
		if (m->virtio[i].disk && !strcmp(m->virtio[i].id, id))
			return &m->virtio[i];
	err_set(err, -ENOENT, "there is no disk %s", id);
	return NULL;
}

int machine_disk_look(struct machine *m, const char *id, struct kv_err *err)
{
	const struct machine_virtio *one = id ? disk_find(m, id, err) : NULL;
	int r = 0;

	if (id)
		return one ? disk_look(m, one, err) : -ENOENT;
	for (unsigned i = 0; i < m->virtio_count; i++) {
		int failed = m->virtio[i].disk ? disk_look(m, &m->virtio[i], err) : 0;

		if (failed < 0)
			r = failed;
	}
	return r;
}

int machine_disk_rates(
	struct machine *m, const char *id, struct limit_rates *ret, struct kv_err *err)
{
	const struct machine_virtio *slot = disk_find(m, id, err);

	if (!slot)
		return -ENOENT;
	*ret = vblk_rates(slot->disk);
	return 0;
}

int machine_disk_limit(
	struct machine *m, const char *id, const struct limit_rates *rates, struct kv_err *err)
{
	const struct machine_virtio *slot = disk_find(m, id, err);

	if (!slot)
		return -ENOENT;
	vblk_limit(slot->disk, rates);
	return 0;
}

bool machine_device_at(const struct machine *m, unsigned index, struct machine_device *ret)
{
	const struct machine_virtio *slot = &m->virtio[index];

	if (index >= m->virtio_count)
		return false;
	*ret = (struct machine_device){
		.name = vdev_ops(slot->vd)->name,
		.gpa = slot->gpa,
		.violations = vdev_violations(slot->vd),
	};
	return true;
}

void machine_virtio_free(struct machine *m)
{
	while (m->virtio_count) {
		struct machine_virtio *slot = &m->virtio[--m->virtio_count];

		vmmio_destroy(slot->mmio);
		slot->destroy(slot->dev);
		free(slot->id);
	}
	for (unsigned i = 0; i < m->mem_count; i++)
		free(m->mems[i].id);
	free(m->cmdline);
}

unsigned machine_irqs(const struct machine *m)
{
	unsigned last = m->virtio_count ? m->virtio[m->virtio_count - 1].gsi : 0;

	return last < MPTABLE_IRQS ? MPTABLE_IRQS : last + 1;
}

/*
 * The length of the kernel's own part of the command line: what follows the word "--" is init's
 * (admin-guide/kernel-parameters.rst). Double quotes keep blanks together.
 */
static size_t kernel_part(const char *cmdline)
{
	bool quoted = false, start = true;
	size_t i;

	for (i = 0; cmdline[i]; i++) {
		if (!quoted && start && !strncmp(cmdline + i, "--", 2) &&
			strchr(" ", cmdline[i + 2]))
			break;
		if (cmdline[i] == '"')
			quoted = !quoted;
		start = cmdline[i] == ' ';
	}
	return i;
}

/* The last "acpi=" of the kernel's own part says "off". */
static bool acpi_off(const char *cmdline)
{
	size_t len = kernel_part(cmdline);
	bool off = false;

	for (const char *at = cmdline; (at = strstr(at, "acpi=")) && at < cmdline + len; at += 5)
		if (at == cmdline || at[-1] == ' ')
			off = !strncmp(at + 5, "off", 3) && strchr(" ,", at[8]);
	return off;
}

/* A kernel that has symbols, but none of ACPI's. */
static bool kernel_lacks_acpi(struct image *image)
{
	uint64_t at;

	return !image_symbol(image, "start_kernel", &at) &&
	       image_symbol(image, "acpi_boot_table_init", &at) == -ENOENT;
}

static bool by_cmdline(const struct machine *m)
{
	switch (m->p.config->discovery) {
	case VM_DISCOVERY_ACPI:
		return false;
	case VM_DISCOVERY_CMDLINE:
		return true;
	case VM_DISCOVERY_AUTO:
		break;
	}
	return acpi_off(m->p.config->cmdline) || kernel_lacks_acpi(m->p.image);
}

/*
 * The command line with a word for each device (@devices; Linux drivers/virtio/virtio_mmio.c), and
 * with the root file system's disk, where one has it.
 */
static int cmdline_make(struct machine *m, bool devices)
{
	const struct vm_config *config = m->p.config;
	const char *given = config->cmdline;
	size_t own = kernel_part(given), bytes = 0;
	FILE *f = open_memstream(&m->cmdline, &bytes);

	if (!f)
		return -ENOMEM;
	fprintf(f, "%.*s", (int)own, given);
	if (config->disk_count && config->disks[0].root) {
		const struct vm_disk *disk = &config->disks[0];

		fprintf(f, " root=%s%s %s", disk->partuuid ? "PARTUUID=" : "/dev/vda",
			disk->partuuid ? disk->partuuid : "", disk->read_only ? "ro" : "rw");
	}
	for (unsigned i = 0; devices && i < m->virtio_count; i++)
		fprintf(f, " virtio_mmio.device=%d@0x%" PRIx64 ":%" PRIu32, VMMIO_BYTES,
			m->virtio[i].gpa, m->virtio[i].gsi);
	if (given[own])
		fprintf(f, " %s", given + own);
	return fclose(f) ? -ENOMEM : 0;
}

int machine_announce(struct machine *m, struct acpi_config *acpi, struct kv_err *err)
{
	bool devices;
	int r;

	acpi->irqs = machine_irqs(m);
	if (!m->virtio_count)
		return 0;
	devices = by_cmdline(m);
	if (devices || (m->p.config->disk_count && m->p.config->disks[0].root)) {
		r = cmdline_make(m, devices);
		if (r < 0)
			return err_set(err, r, "kernel command line: out of memory");
	}
	if (devices)
		return 0;
	acpi->virtio_count = m->virtio_count;
	for (unsigned i = 0; i < m->virtio_count; i++)
		acpi->virtio[i] = (struct acpi_virtio){
			.gpa = m->virtio[i].gpa,
			.bytes = VMMIO_BYTES,
			.gsi = m->virtio[i].gsi,
		};
	return 0;
}
