/* SPDX-License-Identifier: Apache-2.0 */
#include "gmem/gmem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "gmem/copy.h"
#include "gmem/host.h"
#include "gmem/internal.h"
#include "gmem/place.h"

const struct gmem_small *gmem_small_at(const struct gmem *gm, const uint8_t *host)
{
	for (unsigned i = 0; i < gm->small_count; i++)
		if ((uintptr_t)host - (uintptr_t)gm->small[i].host < gm->small[i].bytes)
			return &gm->small[i];
	return NULL;
}

/* Put @bytes on the list of small pages. */
static int small_note(struct gmem *gm, uint8_t *host, uint64_t bytes)
{
	struct gmem_small *last = gm->small_count ? &gm->small[gm->small_count - 1] : NULL;

	if (last && last->host + last->bytes == host) {
		last->bytes += bytes;
		return 0;
	}
	if (gm->small_count == OVERLAYS_MAX)
		return -ENOSPC;
	gm->small[gm->small_count++] = (struct gmem_small){host, bytes};
	return 0;
}

static bool page_is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, PAGE_BYTES - 1);
}

/* Whether the huge page at @host was touched before. */
static bool page_present(uint8_t *host)
{
	unsigned char present = 1;

	return mincore(host, PAGE_BYTES, &present) < 0 || present & 1;
}

/*
 * Small pages in place of the huge ones at @host, tuned as the region is, and wanted huge where
 * they can be. With @keep what the huge pages hold moves along.
 */
static int pages_shrink(
	struct gmem *gm, struct gmem_region *rg, uint8_t *host, uint64_t bytes, bool keep)
{
	uint8_t *fresh;
	int r = small_note(gm, host, bytes);

	if (r < 0)
		return r;
	fresh = mmap(keep ? NULL : host, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (keep ? 0 : MAP_FIXED), -1, 0);
	if (fresh == MAP_FAILED)
		return -errno;
	for (uint64_t at = 0; keep && at < bytes; at += PAGE_BYTES)
		if (!page_is_zero(host + at))
			memcpy(fresh + at, host + at, PAGE_BYTES);
	if (keep &&
		mremap(fresh, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, host) == MAP_FAILED) {
		r = -errno;
		munmap(fresh, bytes);
		return r;
	}
	/* Advice that a kernel without transparent huge pages refuses. */
	if (rg->backing.thp != GMEM_OFF)
		madvise(host, bytes, MADV_HUGEPAGE);
	return gmem_region_tune(rg, host, bytes, false);
}

int gmem_region_shrink(struct gmem *gm, struct gmem_region *rg, uint8_t *host, uint64_t bytes)
{
	uint64_t page = rg->page_bytes;
	uint8_t *at = rg->host + align_down((uint64_t)(host - rg->host), page);
	uint8_t *end = rg->host + align_up((uint64_t)(host - rg->host) + bytes, page);

	while (at < end) {
		uint8_t *stop = at;
		int r = 0;

		/* Several segments share a huge page: what an earlier one laid there stays. */
		while (stop < end && !gmem_small_at(gm, stop) && !page_present(stop))
			stop += page;
		if (stop > at)
			r = pages_shrink(gm, rg, at, (uint64_t)(stop - at), false);
		/* A segment that was copied, or its edge, may be in a page that is still huge. */
		if (!r && stop < end && !gmem_small_at(gm, stop))
			r = pages_shrink(gm, rg, stop, page, true);
		if (r < 0)
			return r;
		at = stop < end ? stop + page : end;
	}
	return 0;
}

/* 0 when @fd can be mapped as an overlay will be, else -errno. */
static int file_maps(int fd)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	if (page == MAP_FAILED)
		return -errno;
	munmap(page, PAGE_BYTES);
	return 0;
}

/* Whether @error of mmap(2) means that the file is to be copied; says so once. */
static bool copies(struct gmem *gm, int error, const char *what)
{
	if (error != -ENODEV && error != -EACCES && error != -EPERM)
		return false;
	if (!gm->told_no_mmap)
		log_msg(gm->log, LOG_LEVEL_WARN,
			"%s: its file system cannot map files (%s): copied, not shared", what,
			err_text(error));
	gm->told_no_mmap = true;
	return true;
}

/*
 * Map @bytes of @fd from @offset privately over @host. A file system that cannot mmap is no error:
 * -ENODEV then, and the region's memory is as it was.
 */
static int pages_map(struct gmem *gm, struct gmem_region *rg, uint8_t *host, uint64_t bytes, int fd,
	uint64_t offset, const char *what)
{
	struct gmem_mapped *slot = &gm->mapped[gm->mapped_count];
	int r = 0;

	if (gm->mapped_count == OVERLAYS_MAX)
		return -ENOSPC;
	/* A failed mmap(2) takes away what was there; only anonymous memory is easily put back. */
	if (rg->backing.kind != GMEM_ANON)
		r = file_maps(fd);
	if (!r && rg->page_bytes > PAGE_BYTES)
		r = gmem_region_shrink(gm, rg, host, bytes);
	if (r < 0)
		return copies(gm, r, what) ? -ENODEV : r;
	if (mmap(host, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
		    (off_t)offset) == MAP_FAILED) {
		r = -errno;
		if (rg->backing.kind != GMEM_ANON)
			return r;
		if (mmap(host, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
			    0) == MAP_FAILED)
			return -errno;
		if (!copies(gm, r, what))
			return r;
		r = gmem_region_tune(rg, host, bytes, false);
		return r < 0 ? r : -ENODEV;
	}
	*slot = (struct gmem_mapped){.host = host, .bytes = bytes};
	snprintf(slot->what, sizeof(slot->what), "%s", what);
	gm->mapped_count++;
	return gmem_region_tune(rg, host, bytes, true);
}

/* What another process maps cannot have private pages in it. */
static enum gmem_image_map image_map_of(
	struct gmem *gm, const struct gmem_region *rg, enum gmem_image_map how)
{
	if (!rg->backing.shared || how == GMEM_IMAGE_COPY)
		return how;
	if (!gm->told_shared)
		log_msg(gm->log, LOG_LEVEL_INFO,
			"memory: shared=on: kernel and initrd are copied into it, not mapped");
	gm->told_shared = true;
	return GMEM_IMAGE_COPY;
}

/*
 * A large copy fills its pages anyway, and huge ones are several times as fast to fill. Advice: it
 * may fail.
 */
static void copy_advise(const struct gmem_region *rg, uint8_t *host, uint64_t bytes)
{
	uintptr_t start = align_up((uintptr_t)host, HUGE_BYTES);
	uintptr_t end = align_down((uintptr_t)host + bytes, HUGE_BYTES);

	if (rg->backing.kind == GMEM_ANON && rg->backing.thp == GMEM_AUTO && start < end)
		madvise((void *)start, end - start, MADV_HUGEPAGE);
}

/* Bound pages may be short: that must be an error here, and not a SIGBUS of the copy. */
static int copy_reserve(const struct gmem_region *rg, uint8_t *host, uint64_t bytes)
{
	uintptr_t start = align_down((uintptr_t)host, PAGE_BYTES);
	uintptr_t end = align_up((uintptr_t)host + bytes, PAGE_BYTES);
	int r;

	if (!bytes || !gmem_is_bound(&rg->backing))
		return 0;
	r = gmem_present((void *)start, end - start);
	return r == -EINVAL ? 0 : r;
}

/* Copy the parts of a file that are not mapped: its first and last bytes, or all. */
static int parts_copy(const struct gmem_region *rg, uint8_t *host, const struct gmem_split *split,
	int fd, uint64_t offset, uint64_t file_bytes)
{
	uint64_t tail = file_bytes - split->tail_bytes;
	int r = copy_reserve(rg, host, split->head_bytes);

	if (!r)
		r = copy_reserve(rg, host + tail, split->tail_bytes);
	if (r < 0)
		return r;
	copy_advise(rg, host, split->head_bytes);
	r = gmem_copy_file(host, split->head_bytes, fd, offset);
	return r < 0 ? r : gmem_copy_file(host + tail, split->tail_bytes, fd, offset + tail);
}

int gmem_overlay(struct gmem *gm, gpa_t gpa, uint64_t mem_bytes, int fd, uint64_t offset,
	uint64_t file_bytes, enum gmem_image_map how, const char *what, struct gmem_placed *placed,
	struct kv_err *err)
{
	struct gmem_placed ignored = {0};
	struct gmem_region *rg;
	struct gmem_split split;
	uint64_t file_end;
	struct stat st;
	uint8_t *host;
	int r;

	if (!placed)
		placed = &ignored;
	if (mem_bytes < file_bytes || !range_end(offset, file_bytes, &file_end))
		return err_set(err, -EINVAL, "%s: more file data than memory", what);
	host = gmem_at(gm, gpa, mem_bytes);
	if (!host)
		return err_set(err, -EFAULT,
			"%s: guest memory 0x%" PRIx64 "-0x%" PRIx64
			" is not in RAM; give the VM more "
			"memory",
			what, gpa, gpa + mem_bytes);
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", what, err_text(errno));
	if ((uint64_t)st.st_size < file_end)
		return err_set(err, -ENODATA,
			"%s: the file ends at byte %" PRIu64 ", but the image needs %" PRIu64, what,
			(uint64_t)st.st_size, file_end);

	rg = gmem_region_of(gm, host, mem_bytes);
	how = image_map_of(gm, rg, how);
	gmem_split_make(
		&split, gpa, mem_bytes, offset, file_bytes, (uint64_t)st.st_size == file_end, how);
	if (split.map_bytes) {
		r = pages_map(gm, rg, host + split.head_bytes, split.map_bytes, fd,
			offset + split.head_bytes, what);
		if (r == -ENODEV)
			gmem_split_make(
				&split, gpa, mem_bytes, offset, file_bytes, false, GMEM_IMAGE_COPY);
		else if (r < 0)
			return err_set(err, r, "%s: cannot be mapped: %s", what, err_text(r));
	}
	r = parts_copy(rg, host, &split, fd, offset, file_bytes);
	if (r == -ENOMEM && gmem_huge_short(gm, err) < 0)
		return r;
	if (r < 0)
		return err_set(err, r, "%s: cannot be read: %s", what, err_text(r));
	placed->mapped_bytes += split.map_bytes;
	placed->copied_bytes += split.head_bytes + split.tail_bytes;
	/*
	 * RAM is zero until somebody writes it, so there is nothing to clear: segments of one image
	 * never overlap and each overlay finds its range untouched.
	 */
	placed->zeroed_bytes += split.zero_bytes;
	return 0;
}
