/* SPDX-License-Identifier: Apache-2.0 */
#include "gmem/gmem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "gmem/host.h"
#include "gmem/internal.h"

int gmem_create(struct gmem **ret, const struct kv_log *log)
{
	struct gmem *gm = malloc(sizeof(*gm));

	if (!gm)
		return -ENOMEM;
	memset(gm, 0, offsetof(struct gmem, regions));
	gm->log = log;
	*ret = gm;
	return 0;
}

void gmem_region_unmap(struct gmem_region *rg)
{
	munmap(rg->reserved, rg->reserved_bytes);
	gmem_file_undo(rg);
	fd_close(&rg->fd);
	free(rg->file_path);
	rg->file_path = NULL;
}

/* What is around the aligned part stays inaccessible and stops stray accesses on both sides. */
int gmem_region_map(struct gmem_region *rg, const struct gmem_backing *backing)
{
	uint64_t align = rg->page_bytes > HUGE_BYTES ? rg->page_bytes : HUGE_BYTES;
	uint64_t shift;
	int r;

	if (__builtin_add_overflow(rg->bytes, 2 * align, &rg->reserved_bytes))
		return -ENOMEM;
	rg->reserved = mmap(NULL, rg->reserved_bytes, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (rg->reserved == MAP_FAILED)
		return -errno;
	shift = (rg->gpa - (uintptr_t)rg->reserved) & (align - 1);
	rg->host = (uint8_t *)rg->reserved + shift;
	r = gmem_region_back(rg, backing);
	if (r < 0)
		gmem_region_unmap(rg);
	return r;
}

int gmem_announce(struct gmem *gm, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	for (unsigned i = 0; i < gm->listener_count; i++) {
		struct gmem_listener *l = &gm->listeners[i];
		int r = l->map(l->ctx, region, gpa, bytes, host);

		if (r < 0) {
			while (i-- > 0)
				gm->listeners[i].unmap(gm->listeners[i].ctx, region, gpa, bytes);
			return r;
		}
	}
	return 0;
}

void gmem_retract(struct gmem *gm, unsigned region, gpa_t gpa, uint64_t bytes)
{
	for (unsigned i = gm->listener_count; i-- > 0;)
		gm->listeners[i].unmap(gm->listeners[i].ctx, region, gpa, bytes);
}

void gmem_destroy(struct gmem *gm)
{
	if (!gm)
		return;
	for (unsigned i = gm->hot_count; i-- > 0;)
		gmem_hot_free(gm->hots[i]);
	for (unsigned i = gm->region_count; i-- > 0;) {
		struct gmem_region *rg = &gm->regions[i];

		gmem_retract(gm, i, rg->gpa, rg->bytes);
		gmem_region_unmap(rg);
	}
	free(gm);
}

void gmem_files_keep(struct gmem *gm)
{
	for (unsigned i = 0; i < gm->region_count; i++)
		gmem_file_keep(&gm->regions[i]);
}

/* The place of a new region among the others. */
static int region_check(const struct gmem *gm, gpa_t gpa, uint64_t bytes, struct kv_err *err)
{
	uint64_t end;

	if (gm->region_count == GMEM_REGIONS_MAX)
		return err_set(
			err, -ENOSPC, "guest memory: more than %d regions", GMEM_REGIONS_MAX);
	if (!bytes || (gpa | bytes) % PAGE_BYTES || !range_end(gpa, bytes, &end))
		return err_set(err, -EINVAL,
			"guest memory: region 0x%" PRIx64 "+0x%" PRIx64 " is not whole pages", gpa,
			bytes);
	for (unsigned i = 0; i < gm->region_count; i++)
		if (range_overlap(gpa, bytes, gm->regions[i].gpa, gm->regions[i].bytes))
			return err_set(err, -EINVAL,
				"guest memory: region 0x%" PRIx64 "+0x%" PRIx64 " overlaps another",
				gpa, bytes);
	return 0;
}

/* RAM whose pages may be merged runs as well without it, but is not what was asked for. */
static void merge_look(const struct gmem *gm)
{
	int state = gmem_ksm_state();

	if (state < 0)
		log_msg(gm->log, LOG_LEVEL_WARN,
			"memory: merge=on: this kernel has no KSM, and no page will be merged");
	else if (state != 1)
		log_msg(gm->log, LOG_LEVEL_WARN,
			"memory: merge=on: KSM is off, and no page will be merged until somebody "
			"does: echo 1 > " GMEM_KSM_RUN);
}

/* The region with the first part of the file that @backing names, when this is another part. */
static const struct gmem_region *file_begun(
	const struct gmem *gm, const struct gmem_backing *backing, uint64_t backing_offset)
{
	for (unsigned i = 0; backing->kind == GMEM_FILE && backing_offset && i < gm->region_count;
		i++)
		if (gm->regions[i].file_path && !strcmp(gm->regions[i].file_path, backing->path))
			return &gm->regions[i];
	return NULL;
}

int gmem_add_backed(struct gmem *gm, gpa_t gpa, uint64_t bytes, const struct gmem_backing *backing,
	uint64_t backing_offset, struct kv_err *err)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem_region *rg = &gm->regions[gm->region_count];
	uint64_t end;
	int r = region_check(gm, gpa, bytes, err);

	if (r < 0)
		return r;
	if (!backing)
		backing = &anon;
	*rg = (struct gmem_region){
		.gpa = gpa,
		.bytes = bytes,
		.backing = *backing,
		.backing_offset = backing_offset,
		.page_bytes = gmem_page_bytes(backing),
		.fd = -1,
		.file_first = file_begun(gm, backing, backing_offset),
	};
	rg->backing.path = NULL;
	rg->backing.chunks = NULL;
	rg->backing.watch = NULL;
	if ((gpa | bytes | backing_offset) % rg->page_bytes ||
		!range_end(backing_offset, bytes, &end))
		return err_set(err, -EINVAL,
			"guest memory: region 0x%" PRIx64 "+0x%" PRIx64
			" is not whole pages of backing=%s",
			gpa, bytes, gmem_backing_name(backing->kind));
	r = gmem_region_map(rg, backing);
	if (r < 0)
		return gmem_region_failed(rg, backing, r, err);
	r = gmem_announce(gm, gm->region_count, gpa, bytes, rg->host);
	if (r < 0) {
		gmem_region_unmap(rg);
		return err_set(err, r,
			"guest memory: region 0x%" PRIx64 "+0x%" PRIx64 " was refused: %s", gpa,
			bytes, err_text(r));
	}
	if (backing->merge && !gm->region_count)
		merge_look(gm);
	gm->region_count++;
	return 0;
}

int gmem_add_ram(struct gmem *gm, gpa_t gpa, uint64_t bytes, struct kv_err *err)
{
	return gmem_add_backed(gm, gpa, bytes, NULL, 0, err);
}

struct gmem_region *gmem_region_of(struct gmem *gm, const uint8_t *host, uint64_t bytes)
{
	for (unsigned i = 0; i < gm->region_count; i++) {
		struct gmem_region *rg = &gm->regions[i];

		/* Written so that neither side can wrap. */
		if (host >= rg->host && (uint64_t)(host - rg->host) < rg->bytes)
			return bytes <= rg->bytes - (uint64_t)(host - rg->host) ? rg : NULL;
	}
	return NULL;
}

/* Tell @listener that the first @regions regions and the first @hots areas go. */
static void listener_untell(
	struct gmem *gm, const struct gmem_listener *listener, unsigned regions, unsigned hots)
{
	while (hots-- > 0)
		gmem_hot_untell(gm->hots[hots], listener, GMEM_WINDOWS_MAX);
	while (regions-- > 0)
		listener->unmap(listener->ctx, regions, gm->regions[regions].gpa,
			gm->regions[regions].bytes);
}

int gmem_listen(struct gmem *gm, const struct gmem_listener *listener)
{
	if (gm->listener_count == GMEM_LISTENERS_MAX)
		return -ENOSPC;
	for (unsigned i = 0; i < gm->region_count; i++) {
		struct gmem_region *rg = &gm->regions[i];
		int r = listener->map(listener->ctx, i, rg->gpa, rg->bytes, rg->host);

		if (r < 0) {
			listener_untell(gm, listener, i, 0);
			return r;
		}
	}
	for (unsigned i = 0; i < gm->hot_count; i++) {
		int r = gmem_hot_tell(gm->hots[i], listener);

		if (r < 0) {
			listener_untell(gm, listener, gm->region_count, i);
			return r;
		}
	}
	gm->listeners[gm->listener_count++] = *listener;
	return 0;
}

void gmem_forget(struct gmem *gm, const void *ctx)
{
	for (unsigned i = 0; i < gm->listener_count; i++) {
		if (gm->listeners[i].ctx != ctx)
			continue;
		gm->listener_count--;
		memmove(&gm->listeners[i], &gm->listeners[i + 1],
			(gm->listener_count - i) * sizeof(gm->listeners[0]));
		return;
	}
}

void *gmem_at(const struct gmem *gm, gpa_t gpa, uint64_t len)
{
	if (!len)
		return NULL;
	for (unsigned i = 0; i < gm->region_count; i++) {
		const struct gmem_region *rg = &gm->regions[i];

		/* Written so that neither side can wrap. */
		if (gpa >= rg->gpa && gpa - rg->gpa < rg->bytes)
			return len <= rg->bytes - (gpa - rg->gpa) ? rg->host + (gpa - rg->gpa)
								  : NULL;
	}
	for (unsigned i = 0; i < gm->hot_count; i++) {
		const struct gmem_region *rg = gmem_hot_region(gm->hots[i]);

		if (gpa >= rg->gpa && gpa - rg->gpa < rg->bytes)
			return len <= rg->bytes - (gpa - rg->gpa) &&
					       gmem_hot_covers(gm->hots[i], gpa, len)
				       ? rg->host + (gpa - rg->gpa)
				       : NULL;
	}
	return NULL;
}

bool gmem_gone(const struct gmem *gm, const void *host, uint64_t len)
{
	for (unsigned i = 0; len && i < gm->hot_count; i++) {
		const struct gmem_region *rg = gmem_hot_region(gm->hots[i]);
		uint64_t offset = (uintptr_t)host - (uintptr_t)rg->host;

		if (offset < rg->bytes)
			return !gmem_at(gm, rg->gpa + offset, len);
	}
	/* What was added for good does not go. */
	return false;
}

int gmem_write(struct gmem *gm, gpa_t gpa, const void *from, uint64_t len)
{
	void *at = gmem_at(gm, gpa, len);

	if (!at)
		return len ? -EFAULT : 0;
	memcpy(at, from, len);
	return 0;
}

int gmem_read(const struct gmem *gm, gpa_t gpa, void *to, uint64_t len)
{
	const void *at = gmem_at(gm, gpa, len);

	if (!at)
		return len ? -EFAULT : 0;
	memcpy(to, at, len);
	return 0;
}

uint64_t gmem_total(const struct gmem *gm)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < gm->region_count; i++)
		total += gm->regions[i].bytes;
	return total;
}

const char *gmem_overlay_name(const struct gmem *gm, const void *host_address)
{
	for (unsigned i = 0; i < gm->mapped_count; i++) {
		uintptr_t start = (uintptr_t)gm->mapped[i].host;

		if ((uintptr_t)host_address - start < gm->mapped[i].bytes)
			return gm->mapped[i].what;
	}
	return NULL;
}

const char *gmem_file_name(const struct gmem *gm, const void *host_address)
{
	for (unsigned i = 0; i < gm->region_count; i++) {
		const struct gmem_region *rg = &gm->regions[i];

		if ((uintptr_t)host_address - (uintptr_t)rg->host < rg->bytes)
			return rg->file_path;
	}
	return NULL;
}

const char *gmem_file_short(const struct gmem *gm)
{
	for (unsigned i = 0; i < gm->region_count; i++) {
		const struct gmem_region *rg = &gm->regions[i];
		struct stat st;

		if (rg->file_path && !fstat(rg->fd, &st) &&
			(uint64_t)st.st_size < rg->backing_offset + rg->bytes)
			return rg->file_path;
	}
	return NULL;
}
