/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_GMEM_H
#define KV_GMEM_GMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "base/num.h"

/*
 * Guest RAM: guest-physical ranges ("regions") backed by host memory, and the only place where a
 * guest address becomes a pointer. Knows nothing of KVM: who must know of memory (memory slots,
 * DMA maps) registers a listener.
 */
struct gmem;

/* Regions of one VM: below and above the 32-bit hole, and room for more. */
#define GMEM_REGIONS_MAX 16
/* KVM, and each network device with vhost. */
#define GMEM_LISTENERS_MAX 40

/* How overlays bring a file into guest RAM. */
enum gmem_image_map {
	GMEM_IMAGE_SHARE, /* private mapping of the page cache, shared until written */
	GMEM_IMAGE_COPY,  /* copied into the region's own pages */
};

/* What overlays of a file did, for reports; counters only grow. */
struct gmem_placed {
	uint64_t mapped_bytes; /* private file pages, shared with the page cache until written */
	uint64_t copied_bytes; /* read into the region's own pages */
	uint64_t zeroed_bytes; /* set to zero behind a segment's file data */
};

/*
 * Told of memory coming and going, in the order of registration (removal: reverse). @map returns
 * 0 or -errno; when one fails, those told before it get @unmap and the change does not happen.
 * Context: the thread that changes the memory.
 */
struct gmem_listener {
	int (*map)(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host);
	void (*unmap)(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes);
	void *ctx;
};

/*
 * Create empty guest RAM. @log (may be NULL) must outlive it.
 * Returns 0 or -ENOMEM. Owns: the caller destroys it, after all users of its pointers are gone.
 */
int gmem_create(struct gmem **ret, const struct kv_log *log);

/*
 * Tell listeners of the removal of every region, unmap everything. A file of GMEM_FILE is removed
 * when it was made for @gm and emptied when it was empty, unless gmem_files_keep() was called. NULL
 * is allowed.
 */
void gmem_destroy(struct gmem *gm);

/* The start went well: the files of regions added so far stay after gmem_destroy(), as they are. */
void gmem_files_keep(struct gmem *gm);

/*
 * Add @bytes of RAM at @gpa (both multiples of the backing's page, overlapping no other region),
 * backed by @backing (NULL: anonymous memory) from @backing_offset (bytes; counts for GMEM_FILE and
 * GMEM_POOL: where in the file or in the chunks this region starts). Nothing is populated.
 * Listeners are told. gmem_backing_check() beforehand gives better errors. The log says when
 * nothing will merge pages that shall be merged. Returns 0; -EINVAL (alignment, overlap, wrap, no
 * such NUMA node); -ENOSPC (too many regions, too small a pool lease, a full file system); -ENOMEM
 * when address space, the overcommit limit, huge pages or the limit of locked memory are exhausted;
 * -EBUSY (the file is another VM's RAM); -ECANCELED (by the watch); -errno of open(2) and others
 * for a file; a listener's error. A file that was made or was empty is then removed or empty again.
 */
struct gmem_backing;
int gmem_add_backed(struct gmem *gm, gpa_t gpa, uint64_t bytes, const struct gmem_backing *backing,
	uint64_t backing_offset, struct kv_err *err);

/* gmem_add_backed() of anonymous memory. */
int gmem_add_ram(struct gmem *gm, gpa_t gpa, uint64_t bytes, struct kv_err *err);

/*
 * Register @listener (copied); it is told of all present regions at once.
 * Returns 0; -ENOSPC; or the listener's error, after which it is not registered.
 */
int gmem_listen(struct gmem *gm, const struct gmem_listener *listener);

/*
 * Forget the listener registered with @ctx without telling it anything: what it kept informed is
 * gone as a whole, which is cheaper than taking it apart region by region.
 */
void gmem_forget(struct gmem *gm, const void *ctx);

/*
 * Make [@gpa, @gpa + @mem_bytes) hold @file_bytes bytes of @fd from @offset, and zeros behind them.
 * Whole pages are mapped MAP_PRIVATE over the region when @how is GMEM_IMAGE_SHARE and @gpa and
 * @offset agree modulo 4096; the ragged head and tail (and everything otherwise) is copied. Where
 * the file system cannot mmap, and into memory that is shared with other processes, it is copied
 * and the log says so once. In a region of huge pages those that the file touches become small
 * pages first. Copies of some size are made by several threads with streaming stores. Must come
 * before the vCPUs run. @fd is only borrowed. @what names the part in errors ("kernel segment 2").
 * @placed (may be NULL) is added to. Returns 0; -EINVAL (@mem_bytes < @file_bytes, wrap); -EFAULT
 * (not wholly inside one region); -ENODATA (file shorter than @offset + @file_bytes); -errno of
 * mmap(2)/pread(2).
 */
int gmem_overlay(struct gmem *gm, gpa_t gpa, uint64_t mem_bytes, int fd, uint64_t offset,
	uint64_t file_bytes, enum gmem_image_map how, const char *what, struct gmem_placed *placed,
	struct kv_err *err);

/*
 * The host address of [@gpa, @gpa + @len), or NULL when it is not wholly inside one region or
 * @len is 0. Valid until the region goes. Context: any thread.
 */
void *gmem_at(const struct gmem *gm, gpa_t gpa, uint64_t len);

/*
 * Whether some of the @len bytes at @host, which gmem_at() found, is no guest RAM any more.
 * Context: any thread.
 */
bool gmem_gone(const struct gmem *gm, const void *host, uint64_t len);

/* Copy into or out of guest RAM. Return 0, or -EFAULT with nothing copied (see gmem_at()). */
int gmem_write(struct gmem *gm, gpa_t gpa, const void *from, uint64_t len);
int gmem_read(const struct gmem *gm, gpa_t gpa, void *to, uint64_t len);

/* Told of [@offset, @offset + @bytes) of a backing, whole pages. Returns 0, or -errno to stop. */
typedef int gmem_touched_fn(void *ctx, uint64_t offset, uint64_t bytes);

/*
 * Tell @tell of all RAM that this process, its guest and its devices may have written since it was
 * added, and of some that they only read; offsets are those of the pool's lease. Ranges may
 * overlap. Only GMEM_POOL keeps such an account, in the page tables, and only where nothing takes
 * entries out of them: no shared=on, a host without swap and demotion (or mlock=on), no transparent
 * huge pages of any size for shared memory; hugetlb pages always do.
 * Returns 0 when that was all; -ENOTSUP (it cannot be told here, or by a kernel before 6.7); what
 * @tell returned; -errno. Context: nobody uses the RAM any more.
 * Source: Linux Documentation/admin-guide/mm/pagemap.rst, PAGEMAP_SCAN.
 */
int gmem_touched(const struct gmem *gm, gmem_touched_fn *tell, void *ctx);

/* Bytes of RAM over all regions. */
uint64_t gmem_total(const struct gmem *gm);

/*
 * When @host_address (a SIGBUS's si_addr) lies in an overlay, name it.
 * Returns @what of gmem_overlay() or NULL. Context: signal handler safe.
 */
const char *gmem_overlay_name(const struct gmem *gm, const void *host_address);

/*
 * When @host_address (a SIGBUS's si_addr) lies in RAM of GMEM_FILE, name the file.
 * Returns its path or NULL. Context: signal handler safe.
 */
const char *gmem_file_name(const struct gmem *gm, const void *host_address);

/*
 * The path of a file of GMEM_FILE that is shorter than the RAM in it, or NULL. Context: any thread,
 * signal handler safe.
 */
const char *gmem_file_short(const struct gmem *gm);

#endif
