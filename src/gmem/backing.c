/* SPDX-License-Identifier: Apache-2.0 */
/* Mapping a region's memory, by the kind of its backing. */
#include "gmem/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "gmem/host.h"
#include "gmem/internal.h"

/* Linux uapi asm-generic/hugetlb_encode.h: log2 of the page size from bit 26. */
#define HUGE_FLAG_SHIFT 26

/* Space of a file is reserved in steps, so that it can be stopped. */
#define RESERVE_STEP (64 * MIB)

const char *gmem_backing_name(enum gmem_backing_kind kind)
{
	static const char *const names[GMEM_BACKING_KINDS] = {
		[GMEM_ANON] = "anon",
		[GMEM_MEMFD] = "memfd",
		[GMEM_HUGETLB_2M] = "hugetlb-2m",
		[GMEM_HUGETLB_1G] = "hugetlb-1g",
		[GMEM_FILE] = "file",
		[GMEM_POOL] = "pool",
	};

	return names[kind];
}

bool gmem_is_hugetlb(enum gmem_backing_kind kind)
{
	return kind == GMEM_HUGETLB_2M || kind == GMEM_HUGETLB_1G;
}

bool gmem_is_bound(const struct gmem_backing *backing)
{
	return backing->nodes && gmem_is_hugetlb(backing->kind);
}

/* The page size of hugetlbfs when @fd lies there, else a base page. */
static uint64_t fd_page_bytes(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0 || fs.f_type != HUGETLBFS_MAGIC)
		return PAGE_BYTES;
	return (uint64_t)fs.f_bsize;
}

uint64_t gmem_page_bytes(const struct gmem_backing *backing)
{
	switch (backing->kind) {
	case GMEM_HUGETLB_2M:
		return 2 * MIB;
	case GMEM_HUGETLB_1G:
		return GIB;
	case GMEM_POOL:
		return backing->chunk_count ? fd_page_bytes(backing->chunks[0].fd) : PAGE_BYTES;
	case GMEM_ANON:
	case GMEM_MEMFD:
	case GMEM_FILE:
		break;
	}
	return PAGE_BYTES;
}

int gmem_backing_valid(const struct gmem_backing *backing, uint64_t total_bytes, struct kv_err *err)
{
	const char *name = gmem_backing_name(backing->kind);
	uint64_t page = gmem_page_bytes(backing);
	char size[24];

	if (total_bytes % page)
		return err_set(err, -EINVAL,
			"memory: with backing=%s the size must be a multiple of %s", name,
			size_format(page, size, sizeof(size)));
	if (backing->thp == GMEM_ON && page > PAGE_BYTES)
		return err_set(err, -EINVAL,
			"memory: thp=on does not go with backing=%s, whose pages are huge anyway",
			name);
	if (backing->merge && (backing->kind != GMEM_ANON || backing->shared))
		return err_set(err, -EINVAL,
			"memory: merge=on needs private memory: backing=anon without shared=on");
	return 0;
}

/* Of @need huge pages, only @have are @what ("free"), or NULL: could be had. Returns -ENOMEM. */
static int huge_missing(const struct gmem_backing *backing, uint64_t need, uint64_t have,
	const char *what, struct kv_err *err)
{
	uint64_t page = gmem_page_bytes(backing), missing = need - have;
	const char *are = what ? have == 1 ? "is " : "are " : "could be had";
	char size[24], nodes[160], dir[GMEM_HUGE_DIR_MAX];
	int node = -1;

	/* A single node has a counter of its own. */
	if (backing->nodes && !(backing->nodes & (backing->nodes - 1)))
		node = __builtin_ctzll(backing->nodes);
	gmem_huge_text(page, backing->nodes, nodes, sizeof(nodes));
	return err_set(err, -ENOMEM,
		"memory: %" PRIu64 " huge page%s of %s %s needed, %" PRIu64 " %s%s%s%s%s: %" PRIu64
		" %s missing; reserve %s: cd %s && echo $((%" PRIu64
		" + $(cat nr_hugepages))) > nr_hugepages",
		need, need == 1 ? "" : "s", size_format(page, size, sizeof(size)),
		need == 1 ? "is" : "are", have, are, what ? what : "", nodes[0] ? " (" : "", nodes,
		nodes[0] ? ")" : "", missing, missing == 1 ? "is" : "are",
		missing == 1 ? "it" : "them", gmem_huge_dir(page, node, dir), missing);
}

static int huge_check(const struct gmem_backing *backing, uint64_t total_bytes, struct kv_err *err)
{
	uint64_t page = gmem_page_bytes(backing), need = total_bytes / page;
	uint64_t have = gmem_huge_free(page, backing->nodes);
	uint64_t there = gmem_huge_nodes(page, backing->nodes ? backing->nodes : ~0ULL);

	if (have >= need)
		return 0;
	return huge_missing(backing, need, have,
		there > have ? "free and not reserved by others" : "free", err);
}

/* Whether the huge page at @host is there. */
static bool huge_present(uint8_t *host)
{
	unsigned char present = 0;

	return !mincore(host, PAGE_BYTES, &present) && present & 1;
}

int gmem_huge_short(const struct gmem *gm, struct kv_err *err)
{
	const struct gmem_backing *backing = &gm->regions[0].backing;
	uint64_t need = 0, have;

	if (!gm->region_count || !gmem_is_bound(backing))
		return 0;
	have = gmem_huge_nodes(gmem_page_bytes(backing), backing->nodes);
	for (unsigned i = 0; i < gm->region_count; i++) {
		const struct gmem_region *rg = &gm->regions[i];

		for (uint64_t at = 0; at < rg->bytes; at += rg->page_bytes) {
			if (gmem_small_at(gm, rg->host + at))
				continue;
			need++;
			have += huge_present(rg->host + at);
		}
	}
	return have < need ? huge_missing(backing, need, have, NULL, err) : 0;
}

/* A file that exists must look like RAM of before: what is in it will be lost. */
static int file_check(const struct gmem_backing *backing, uint64_t total_bytes, struct kv_err *err)
{
	FD_SCOPED int fd = open(backing->path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, -errno, "memory: %s: %s", backing->path, err_text(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "memory: %s is not a regular file", backing->path);
	if (fd_page_bytes(fd) != PAGE_BYTES)
		return err_set(err, -EINVAL,
			"memory: %s lies on hugetlbfs; use backing=hugetlb-2m or hugetlb-1g",
			backing->path);
	if (st.st_size && (uint64_t)st.st_size != total_bytes)
		return err_set(err, -EEXIST,
			"memory: %s holds %" PRIu64 " bytes and would be overwritten as RAM; "
			"remove it, or name another file",
			backing->path, (uint64_t)st.st_size);
	return 0;
}

int gmem_backing_check(const struct gmem_backing *backing, uint64_t total_bytes, struct kv_err *err)
{
	int r = gmem_backing_valid(backing, total_bytes, err);

	if (!r && backing->nodes)
		r = gmem_nodes_check(backing->nodes, err);
	if (!r && gmem_is_hugetlb(backing->kind))
		r = huge_check(backing, total_bytes, err);
	if (!r && gmem_is_hugetlb(backing->kind))
		r = gmem_huge_limit(gmem_page_bytes(backing), total_bytes, err);
	if (!r && backing->kind == GMEM_FILE)
		r = file_check(backing, total_bytes, err);
	return r;
}

static int huge_flags(uint64_t page_bytes)
{
	return __builtin_ctzll(page_bytes) << HUGE_FLAG_SHIFT;
}

/* Map @bytes of @fd from @offset at @host, shared. */
static int shared_map(uint8_t *host, uint64_t bytes, int fd, uint64_t offset)
{
	return mmap(host, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		       (off_t)offset) == MAP_FAILED
		       ? -errno
		       : 0;
}

static int anon_map(struct gmem_region *rg, const struct gmem_backing *backing)
{
	/* Huge pages are reserved at once: a shortage shows here and not as a SIGBUS later. */
	int flags = gmem_is_hugetlb(backing->kind)
			    ? MAP_HUGETLB | huge_flags(gmem_page_bytes(backing))
			    : MAP_NORESERVE;

	return mmap(rg->host, rg->bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | flags, -1, 0) == MAP_FAILED
		       ? -errno
		       : 0;
}

/* A memfd of the region's size and page size. */
static int memfd_make(struct gmem_region *rg, enum gmem_backing_kind kind, uint64_t page_bytes)
{
	unsigned flags = MFD_CLOEXEC;

	if (gmem_is_hugetlb(kind))
		flags |= MFD_HUGETLB | (unsigned)huge_flags(page_bytes);
	rg->fd = memfd_create("kvick-ram", flags);
	return rg->fd < 0 || ftruncate(rg->fd, (off_t)rg->bytes) < 0 ? -errno : 0;
}

static int memfd_map(struct gmem_region *rg, const struct gmem_backing *backing)
{
	int r = memfd_make(rg, backing->kind, gmem_page_bytes(backing));

	return r < 0 ? r : shared_map(rg->host, rg->bytes, rg->fd, 0);
}

int gmem_huge_fd(struct gmem_region *rg)
{
	return memfd_make(rg, rg->backing.kind, rg->page_bytes);
}

int gmem_huge_map(const struct gmem_region *rg, uint8_t *host, uint64_t bytes)
{
	int flags =
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_HUGETLB | huge_flags(rg->page_bytes);

	if (rg->fd >= 0)
		return shared_map(host, bytes, rg->fd, (uint64_t)(host - rg->host));
	return mmap(host, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED ? -errno : 0;
}

static int nodes_bind(uint64_t nodes, uint8_t *host, uint64_t bytes)
{
	unsigned long mask[2] = {nodes, 0};

	return syscall(SYS_mbind, host, bytes, MPOL_BIND, mask, GMEM_NODES_MAX + 1, 0) < 0 ? -errno
											   : 0;
}

/* What all regions of @rg's backing have together. */
static uint64_t all_bytes(const struct gmem_region *rg)
{
	uint64_t end = rg->backing_offset + rg->bytes;

	return rg->backing.total_bytes > end ? rg->backing.total_bytes : end;
}

/* Space on tmpfs is memory, which the kernel kills for where it cannot be had. */
static int tmpfs_check(const struct gmem_region *rg, struct kv_err *err)
{
	return gmem_room_check(
		all_bytes(rg), rg->backing.nodes, "pages of tmpfs", "a file on a disk", err);
}

/*
 * Empty the file, which was @st, and give it its whole size at once: a start that is killed leaves
 * what the next one takes for RAM. It is locked, so no VM has any of it.
 */
static int file_empty(const struct gmem_region *rg, const struct stat *st)
{
	uint64_t bytes = all_bytes(rg), have = (uint64_t)st->st_size;
	int holes = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	/* Others who still map it see zeros then, and lose no pages. */
	if (have && fallocate(rg->fd, holes, 0, (off_t)bytes) < 0) {
		if (errno != EOPNOTSUPP || ftruncate(rg->fd, 0) < 0)
			return -errno;
		have = 0;
	}
	return have < bytes && ftruncate(rg->fd, (off_t)bytes) < 0 ? -errno : 0;
}

/* Whether the file system can hold all of the file, where that takes memory. */
static int file_room(struct gmem_region *rg)
{
	struct statfs fs;

	if (fstatfs(rg->fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return 0;
	rg->file_tmpfs = true;
	if (tmpfs_check(rg, NULL) < 0)
		return -ENOMEM;
	/* One without a limit has no blocks at all. */
	return fs.f_blocks && fs.f_bavail < all_bytes(rg) / (uint64_t)fs.f_bsize ? -ENOSPC : 0;
}

/*
 * Reserve the space of the region's part: a full file system is an error now and not a SIGBUS
 * later. File systems that cannot do that are taken as they are.
 */
static int file_reserve(const struct gmem_region *rg, const struct gmem_watch *watch)
{
	uint64_t at = rg->backing_offset, end = at + rg->bytes;

	for (uint64_t step; at < end; at += step) {
		step = end - at < RESERVE_STEP ? end - at : RESERVE_STEP;
		if (fallocate(rg->fd, 0, (off_t)at, (off_t)step) < 0)
			return errno == EOPNOTSUPP ? 0 : -errno;
		if (watch && watch->tick(watch->ctx, at + step, all_bytes(rg)))
			return -ECANCELED;
	}
	return 0;
}

/* Open the file for RAM, and make it if there is none: *@made. Returns the descriptor or -errno. */
static int file_open(const char *path, bool *made)
{
	int flags = O_RDWR | O_CLOEXEC | O_NONBLOCK;
	int fd = open(path, flags);

	*made = false;
	if (fd >= 0 || errno != ENOENT)
		return fd < 0 ? -errno : fd;
	fd = open(path, flags | O_CREAT | O_EXCL, 0600);
	*made = fd >= 0;
	/* Somebody was faster, or it is a link to where nothing is yet. */
	if (fd < 0 && errno == EEXIST)
		fd = open(path, flags | O_CREAT, 0600);
	return fd < 0 ? -errno : fd;
}

/* Keep all others off the file. Returns 0 or -errno; then *@st is what it was. */
static int file_lock(const struct gmem_region *rg, struct stat *st)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fstat(rg->fd, st) < 0)
		return -errno;
	if (!S_ISREG(st->st_mode))
		return -EINVAL;
	/* Of the open file: it ends with it, however the process ends. */
	if (fcntl(rg->fd, F_OFD_SETLK, &lock) < 0)
		return errno == EACCES || errno == EAGAIN ? -EBUSY : -errno;
	if (fstat(rg->fd, st) < 0)
		return -errno;
	/* Another start failed between our open and our lock, and took the file away. */
	return st->st_nlink ? 0 : -EBUSY;
}

/* Open the file, for all regions that will be in it. */
static int file_take(struct gmem_region *rg)
{
	struct stat st;
	bool made;
	int r;

	rg->fd = file_open(rg->file_path, &made);
	if (rg->fd < 0)
		return rg->fd;
	r = file_lock(rg, &st);
	if (r < 0)
		return r;
	/* From now on the file is ours to take back. */
	rg->file_new = !st.st_size;
	rg->file_made = made;
	r = file_empty(rg, &st);
	return r < 0 ? r : file_room(rg);
}

/* Another part of a file: whatever has its name by now, and under the same lock. */
static int file_join(struct gmem_region *rg)
{
	rg->fd = fcntl(rg->file_first->fd, F_DUPFD_CLOEXEC, 0);
	rg->file_tmpfs = rg->file_first->file_tmpfs;
	return rg->fd < 0 ? -errno : 0;
}

/* The region is the part from @rg->backing_offset of the file. */
static int file_map(struct gmem_region *rg, const struct gmem_backing *backing)
{
	int r;

	rg->file_path = strdup(backing->path);
	if (!rg->file_path)
		return -ENOMEM;
	r = rg->file_first ? file_join(rg) : file_take(rg);
	if (!r)
		r = shared_map(rg->host, rg->bytes, rg->fd, rg->backing_offset);
	/* Where reserving space allocates pages, they come from these nodes. */
	if (!r && backing->nodes)
		r = nodes_bind(backing->nodes, rg->host, rg->bytes);
	return r < 0 ? r : file_reserve(rg, backing->watch);
}

void gmem_file_undo(struct gmem_region *rg)
{
	if (rg->file_made && fd_is_at(rg->fd, AT_FDCWD, rg->file_path))
		unlink(rg->file_path);
	if (rg->file_new && ftruncate(rg->fd, 0) < 0)
		errno = 0;
	gmem_file_keep(rg);
}

void gmem_file_keep(struct gmem_region *rg)
{
	rg->file_made = false;
	rg->file_new = false;
}

/* The chunks lie one behind the other; the region takes those bytes from @rg->backing_offset. */
static int pool_map(struct gmem_region *rg, const struct gmem_backing *backing)
{
	uint64_t start = 0, want = rg->backing_offset, end = want + rg->bytes;

	for (unsigned i = 0; i < backing->chunk_count && want < end; i++) {
		const struct gmem_chunk *chunk = &backing->chunks[i];
		uint64_t skip, len;
		int r;

		if (want >= start + chunk->bytes) {
			start += chunk->bytes;
			continue;
		}
		skip = want - start;
		len = chunk->bytes - skip < end - want ? chunk->bytes - skip : end - want;
		r = shared_map(rg->host + (want - rg->backing_offset), len, chunk->fd, skip);
		if (r < 0)
			return r;
		want += len;
		start += chunk->bytes;
	}
	return want == end ? 0 : -ENOSPC;
}

/* Advice that the kernel may lack (built without THP or KSM) is no reason to fail. */
static int advise(uint8_t *host, uint64_t bytes, int advice)
{
	return !madvise(host, bytes, advice) || errno == EINVAL ? 0 : -errno;
}

int gmem_region_tune(const struct gmem_region *rg, uint8_t *host, uint64_t bytes, bool file)
{
	const struct gmem_backing *backing = &rg->backing;
	int r = 0;

	if (backing->nodes)
		r = nodes_bind(backing->nodes, host, bytes);
	if (!r && !file && backing->thp == GMEM_ON)
		r = advise(host, bytes, MADV_HUGEPAGE);
	if (!r && !file && backing->thp == GMEM_OFF)
		r = advise(host, bytes, MADV_NOHUGEPAGE);
	if (!r && backing->merge)
		r = advise(host, bytes, MADV_MERGEABLE);
	if (!r && !backing->dump)
		r = advise(host, bytes, MADV_DONTDUMP);
	if (!r && backing->mlock && mlock2(host, bytes, MLOCK_ONFAULT) < 0)
		r = -errno;
	return r;
}

/*
 * The first 2 MiB hold the boot structures and little else at first: where the kernel makes huge
 * pages unasked, one there would be cleared for nothing.
 */
static int low_tune(const struct gmem_region *rg)
{
	if (rg->gpa || rg->backing.kind != GMEM_ANON || rg->backing.thp != GMEM_AUTO)
		return 0;
	return advise(rg->host, rg->bytes < HUGE_BYTES ? rg->bytes : HUGE_BYTES, MADV_NOHUGEPAGE);
}

int gmem_region_back(struct gmem_region *rg, const struct gmem_backing *backing)
{
	int r = 0;

	switch (backing->kind) {
	case GMEM_ANON:
	case GMEM_HUGETLB_2M:
	case GMEM_HUGETLB_1G:
		r = backing->shared ? memfd_map(rg, backing) : anon_map(rg, backing);
		break;
	case GMEM_MEMFD:
		r = memfd_map(rg, backing);
		break;
	case GMEM_FILE:
		r = file_map(rg, backing);
		break;
	case GMEM_POOL:
		r = pool_map(rg, backing);
		break;
	}
	if (!r)
		r = gmem_region_tune(rg, rg->host, rg->bytes, false);
	return r < 0 ? r : low_tune(rg);
}

static int file_failed(const struct gmem_region *rg, const char *path, int code, struct kv_err *err)
{
	char size[24];

	size_format(all_bytes(rg), size, sizeof(size));
	switch (code) {
	case -EINVAL:
		return err_set(
			err, code, "memory: %s is not a regular file that can be mapped", path);
	case -EBUSY:
		return err_set(err, code, "memory: %s is the RAM of another VM that runs", path);
	case -ECANCELED:
		return err_set(err, code, "memory: %s: stopped while its space was reserved", path);
	case -ENOSPC:
		return err_set(err, code,
			"memory: %s: its file system has no room for %s of RAM; make room, or give "
			"the VM less memory",
			path, size);
	default:
		return err_set(err, code, "memory: %s: cannot back %s of RAM: %s", path, size,
			err_text(code));
	}
}

/* "; the limit is 1M", or nothing where there is none, in @buf. Returns @buf. */
static const char *limit_text(int resource, char *buf, size_t buf_bytes)
{
	struct rlimit limit;
	char size[24];

	buf[0] = '\0';
	if (!getrlimit(resource, &limit) && limit.rlim_cur != RLIM_INFINITY)
		snprintf(buf, buf_bytes, "; the limit is %s",
			size_format(limit.rlim_cur, size, sizeof(size)));
	return buf;
}

/* Whether the region's file is larger than this process may make one. */
static bool file_limited(const struct gmem_region *rg)
{
	struct rlimit limit;

	return !getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur < all_bytes(rg);
}

int gmem_region_failed(const struct gmem_region *rg, const struct gmem_backing *backing, int code,
	struct kv_err *err)
{
	char size[24], limit[64];

	size_format(all_bytes(rg), size, sizeof(size));
	if (backing->nodes && code == -EINVAL)
		return gmem_nodes_check(backing->nodes, err) < 0
			       ? code
			       : err_set(err, code,
					 "memory: numa=: memory cannot be bound to these nodes; "
					 "see cpuset.mems of the control group");
	if (code == -ENOMEM && rg->file_tmpfs && tmpfs_check(rg, err) < 0)
		return err_prefix(err, code, "memory: %s", backing->path);
	if (backing->mlock && (code == -ENOMEM || code == -EPERM || code == -EAGAIN))
		return err_set(err, code,
			"memory: mlock=on: %s cannot be locked (%s%s); raise the limit: ulimit -l, "
			"or LimitMEMLOCK= of the service",
			size, err_text(code), limit_text(RLIMIT_MEMLOCK, limit, sizeof(limit)));
	/* Shared memory is a file, too. File systems have limits of their own. */
	if (code == -EFBIG && file_limited(rg))
		return err_set(err, code,
			"memory: %s of backing=%s cannot be one file (%s%s); raise the limit: "
			"ulimit -f, or LimitFSIZE= of the service",
			size, gmem_backing_name(backing->kind), err_text(code),
			limit_text(RLIMIT_FSIZE, limit, sizeof(limit)));
	if (backing->kind == GMEM_FILE)
		return file_failed(rg, backing->path, code, err);
	if (backing->kind == GMEM_POOL && code == -ENOSPC)
		return err_set(err, code, "memory: the pool's lease is smaller than %s", size);
	if (gmem_is_hugetlb(backing->kind)) {
		/* Somebody was faster, or the system calls fail for another reason. */
		if (code == -ENOMEM && huge_check(backing, rg->bytes, err) < 0)
			return code;
		return err_set(err, code,
			"memory: %s of backing=%s are not to be had: %s (a limit of the hugetlb "
			"control group?)",
			size, gmem_backing_name(backing->kind), err_text(code));
	}
	return err_set(err, code,
		"guest memory: %s of address space is not to be had (%s); see ulimit -v and "
		"/proc/sys/vm/overcommit_memory",
		size, err_text(code));
}
