/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of a lease this process, and what ran in its address space, may have written. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "gmem/host.h"
#include "gmem/internal.h"

/* Linux uapi linux/fs.h, for headers from before 6.7. */
#ifndef PAGEMAP_SCAN
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)

struct page_region {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

struct pm_scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#endif
_Static_assert(sizeof(struct pm_scan_arg) == 96, "linux/fs.h");

#define RANGES_MAX 256

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

/* Whether @path, a table of /proc, was read and has 0 for these, or knows nothing of them. */
static bool table_is_0(const char *path, const char *a, const char *b)
{
	MEM_SCOPED char *text = NULL;

	return file_read_all(path, 64 * KIB, &text) >= 0 && !gmem_table_find(text, a) &&
	       !gmem_table_find(text, b);
}

/* Whether the setting in @path is one of those words, which the kernel puts in brackets. */
static bool setting_is(const char *path, const char *a, const char *b)
{
	MEM_SCOPED char *text = NULL;
	ssize_t n = file_read_all(path, 256, &text);

	/* A kernel that does not have the setting has no such pages. */
	return n < 0 ? n == -ENOENT : strstr(text, a) || strstr(text, b);
}

/*
 * Reclaim takes a shared page out of page tables before it tries to swap it out, and leaves no
 * trace in them; when it then cannot, nothing counts that. So it must not look at such pages at
 * all: it does where there is or was swap, and where pages are moved to slower memory, whose
 * failures it treats as the rest. It leaves locked pages alone.
 */
static bool host_reclaims(void)
{
	return !table_is_0("/proc/meminfo", "SwapTotal", "SwapCached") ||
	       !table_is_0("/proc/vmstat", "pswpout", "zswpout") ||
	       !setting_is("/sys/kernel/mm/numa/demotion_enabled", "false", "false");
}

/*
 * Shared pages that become huge later, and large ones of any size that are split, leave page tables
 * as well, locked or not.
 */
static bool host_collapses(void)
{
	bool never = setting_is(THP_DIR "shmem_enabled", "[never]", "[deny]");
	glob_t sizes = {0};
	int r = glob(THP_DIR "hugepages-*/shmem_enabled", GLOB_NOSORT, NULL, &sizes);

	for (size_t i = 0; !r && never && i < sizes.gl_pathc; i++)
		never = setting_is(sizes.gl_pathv[i], "[never]", "[inherit]");
	globfree(&sizes);
	return !never || (r && r != GLOB_NOMATCH);
}

/* True when a page table entry that was once made for @rg is still there. */
static bool region_traced(const struct gmem_region *rg)
{
	if (rg->backing.shared)
		return false;
	if (rg->page_bytes > PAGE_BYTES)
		return true;
	return (rg->backing.mlock || !host_reclaims()) && !host_collapses();
}

static int region_scan(const struct gmem_region *rg, int fd, gmem_touched_fn *tell, void *ctx)
{
	struct page_region ranges[RANGES_MAX];
	uint64_t base = (uintptr_t)rg->host;
	struct pm_scan_arg scan = {
		.size = sizeof(scan),
		.start = base,
		.end = base + rg->bytes,
		.vec = (uintptr_t)ranges,
		.vec_len = RANGES_MAX,
		/* Swapped: also pages that are on their way to another NUMA node. */
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT,
	};

	while (scan.start < scan.end) {
		int count = ioctl(fd, PAGEMAP_SCAN, &scan);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return errno == ENOTTY ? -ENOTSUP : -errno;
		for (int i = 0; i < count; i++) {
			int r = tell(ctx, rg->backing_offset + (ranges[i].start - base),
				ranges[i].end - ranges[i].start);

			if (r < 0)
				return r;
		}
		if (scan.walk_end <= scan.start)
			return -EIO;
		scan.start = scan.walk_end;
	}
	return 0;
}

/* Whole pages of @rg around [@host, @host + @bytes), if that lies in it. */
static int range_tell(const struct gmem_region *rg, const uint8_t *host, uint64_t bytes,
	gmem_touched_fn *tell, void *ctx)
{
	uint64_t at = (uintptr_t)host - (uintptr_t)rg->host, end;

	if (at >= rg->bytes)
		return 0;
	end = align_up(at + bytes, rg->page_bytes);
	at = align_down(at, rg->page_bytes);
	return tell(ctx, rg->backing_offset + at, end - at);
}

static int region_touched(const struct gmem *gm, const struct gmem_region *rg, int fd,
	gmem_touched_fn *tell, void *ctx)
{
	int r = region_scan(rg, fd, tell, ctx);

	/* What was mapped over the region's own pages hides whether they were touched before. */
	for (unsigned i = 0; !r && i < gm->mapped_count; i++)
		r = range_tell(rg, gm->mapped[i].host, gm->mapped[i].bytes, tell, ctx);
	for (unsigned i = 0; !r && i < gm->small_count; i++)
		r = range_tell(rg, gm->small[i].host, gm->small[i].bytes, tell, ctx);
	return r;
}

int gmem_touched(const struct gmem *gm, gmem_touched_fn *tell, void *ctx)
{
	FD_SCOPED int fd = -1;
	unsigned leased = 0;
	int r = 0;

	for (unsigned i = 0; i < gm->region_count; i++) {
		if (gm->regions[i].backing.kind != GMEM_POOL)
			continue;
		if (!region_traced(&gm->regions[i]))
			return -ENOTSUP;
		leased++;
	}
	if (!leased)
		return -ENOTSUP;
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (unsigned i = 0; !r && i < gm->region_count; i++)
		if (gm->regions[i].backing.kind == GMEM_POOL)
			r = region_touched(gm, &gm->regions[i], fd, tell, ctx);
	return r;
}
