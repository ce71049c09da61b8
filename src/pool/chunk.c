/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/chunk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "gmem/host.h"
#include "pool/clear.h"

#define SLICE_BYTES (64 * MIB) /* between two looks at the stop flag */

static unsigned memfd_flags(const struct chunk_form *form)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

	if (form->page_bytes == 2 * MIB)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	else if (form->page_bytes == 1 * GIB)
		flags |= MFD_HUGETLB | MFD_HUGE_1GB;
	return flags;
}

/* One more opening of the file behind @fd: a new entry in the kernel's count of openers. */
static int fd_open_again(int fd)
{
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	return again < 0 ? -errno : again;
}

/* An opened, sealed, empty file of the chunk's size, or -errno. */
static int file_make(const struct chunk_form *form)
{
	FD_SCOPED int fd = memfd_create("kvick-pool", memfd_flags(form));

	if (fd < 0)
		return -errno;
	/*
	 * No other user may open the file again by /proc, and no client may change its size: the
	 * server, and who maps it, could be killed by SIGBUS.
	 */
	if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)form->bytes) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return fd_open_again(fd);
}

static int node_bind(void *at, uint64_t bytes, int node)
{
	unsigned long mask[16] = {0};
	unsigned bits = 8 * sizeof(mask[0]);

	if (node < 0)
		return 0;
	mask[(unsigned)node / bits] = 1UL << ((unsigned)node % bits);
	/* The kernel leaves out the last of the bits that are named. */
	if (syscall(SYS_mbind, at, bytes, MPOL_BIND, mask, 8 * sizeof(mask) + 1, 0) < 0)
		return -errno;
	return 0;
}

int chunk_node_check(int node, struct kv_err *err)
{
	MEM_SCOPED char *nodes = NULL;
	void *page;
	int r;

	page = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return err_set(err, -errno, "a page: %s", err_text(errno));
	r = node_bind(page, PAGE_BYTES, node);
	munmap(page, PAGE_BYTES);
	if (!r)
		return 0;
	if (file_read_all("/sys/devices/system/node/has_memory", 4 * KIB, &nodes) <= 0)
		return err_set(
			err, r, "--node %d: memory cannot be bound to it: %s", node, err_text(r));
	nodes[strcspn(nodes, "\n")] = '\0';
	return err_set(err, r,
		"--node %d: memory cannot be bound to it: %s; this host has memory on node %s",
		node, err_text(r), nodes);
}

/* For kernels before 5.14: once the file has its pages, touching them cannot fail. */
static int slice_touch(
	const struct chunk_mem *mem, uint64_t offset, uint64_t bytes, uint64_t page_bytes)
{
	volatile char *at = (char *)mem->map + offset;

	if (fallocate(mem->fd, 0, (off_t)offset, (off_t)bytes) < 0)
		return -errno;
	for (uint64_t i = 0; i < bytes; i += page_bytes)
		at[i] = 0;
	return 0;
}

/* Never by plain stores: a page that cannot be had would be a SIGBUS. */
static int slice_populate(
	const struct chunk_mem *mem, uint64_t offset, uint64_t bytes, uint64_t page_bytes)
{
	int r = gmem_present((char *)mem->map + offset, bytes);

	return r == -EINVAL ? slice_touch(mem, offset, bytes, page_bytes) : r;
}

int chunk_populate(
	const struct chunk_mem *mem, const struct chunk_form *form, const atomic_bool *stop)
{
	uint64_t slice = SLICE_BYTES > form->page_bytes ? SLICE_BYTES : form->page_bytes;
	int r = 0;

	for (uint64_t at = 0; !r && at < form->bytes; at += slice) {
		if (atomic_load(stop))
			return -ECANCELED;
		r = slice_populate(mem, at, slice < form->bytes - at ? slice : form->bytes - at,
			form->page_bytes);
	}
	return r;
}

long long chunk_huge_count(const struct chunk_form *form)
{
	MEM_SCOPED char *text = NULL;
	char dir[GMEM_HUGE_DIR_MAX], path[GMEM_HUGE_DIR_MAX + 16];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/nr_hugepages",
		gmem_huge_dir(form->page_bytes, form->node, dir));
	n = file_read_all(path, 64, &text);
	return n < 0 ? n : atoll(text);
}

int chunk_huge_err(
	const struct chunk_form *form, uint64_t missing, uint64_t wanted, struct kv_err *err)
{
	char page[24], dir[GMEM_HUGE_DIR_MAX], node[32] = "";
	bool one = missing == 1;

	if (form->node >= 0)
		snprintf(node, sizeof(node), " on node %d", form->node);
	return err_set(err, -ENOMEM,
		"%" PRIu64 " huge page%s of %s %s missing%s; reserve %s: echo %" PRIu64
		" > %s/nr_hugepages",
		missing, one ? "" : "s", size_format(form->page_bytes, page, sizeof(page)),
		one ? "is" : "are", node, one ? "it" : "them", wanted,
		gmem_huge_dir(form->page_bytes, form->node, dir));
}

/* What is reserved on the host suffices for the pool, and others have it. */
static void huge_say(const struct chunk_form *form, struct kv_err *err)
{
	uint64_t nodes = form->node >= 0 && form->node < GMEM_NODES_MAX ? 1ULL << form->node : 0;
	uint64_t free = gmem_huge_free(form->page_bytes, nodes);
	uint64_t need = form->bytes / form->page_bytes;
	long long all = chunk_huge_count(form);
	char size[24];

	if (all < 0 || free >= need)
		return;
	chunk_huge_err(form, need - free, (uint64_t)all + need - free, err);
	err_prefix(err, -ENOMEM, "a chunk of %s", size_format(form->bytes, size, sizeof(size)));
}

int chunk_make(struct chunk_mem *mem, const struct chunk_form *form, const atomic_bool *stop,
	struct kv_err *err)
{
	struct chunk_mem new = CHUNK_MEM_NONE;
	char size[24], page[24];
	int r;

	new.fd = file_make(form);
	if (new.fd < 0)
		return err_set(err, new.fd, "a memfd of %s pages: %s",
			size_format(form->page_bytes, page, sizeof(page)), err_text(new.fd));
	new.map = mmap(NULL, form->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, new.fd, 0);
	if (new.map == MAP_FAILED) {
		r = -errno;
		goto err_fd;
	}
	/* Advice only: transparent huge pages where the host allows them for memfds. */
	madvise(new.map, form->bytes, MADV_HUGEPAGE);
	madvise(new.map, form->bytes, MADV_DONTDUMP);
	r = node_bind(new.map, form->bytes, form->node);
	if (r < 0) {
		err_set(err, r, "NUMA node %d: %s", form->node, err_text(r));
		goto err_map;
	}
	r = chunk_populate(&new, form, stop);
	if (!r)
		r = chunk_lend(&new);
	if (r < 0)
		goto err_map;
	*mem = new;
	return 0;

err_map:
	munmap(new.map, form->bytes);
err_fd:
	fd_close(&new.fd);
	if (err && !err->text[0] && form->page_bytes != PAGE_BYTES)
		huge_say(form, err);
	if (err && !err->text[0])
		err_set(err, r, "a chunk of %s in pages of %s: %s",
			size_format(form->bytes, size, sizeof(size)),
			size_format(form->page_bytes, page, sizeof(page)), err_text(r));
	return r;
}

void chunk_drop(struct chunk_mem *mem, const struct chunk_form *form, bool lent)
{
	if (mem->fd < 0)
		return;
	fd_close(&mem->lend_fd);
	/*
	 * Closing alone would leave the pages to whoever still holds the file, beyond the pool's
	 * size. It cannot fail for this file, and nothing depends on it: it is not used again.
	 */
	if (lent)
		fallocate(
			mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)form->bytes);
	munmap(mem->map, form->bytes);
	fd_close(&mem->fd);
	*mem = CHUNK_MEM_NONE;
}

bool chunk_alone(const struct chunk_mem *mem)
{
	if (fcntl(mem->fd, F_SETLEASE, F_WRLCK) < 0)
		return false;
	/* Only the answer counts. Kept, it would make later openers wait. */
	return !fcntl(mem->fd, F_SETLEASE, F_UNLCK);
}

int64_t chunk_holes(const struct chunk_mem *mem, const struct chunk_form *form)
{
	struct stat st;
	uint64_t there;

	if (fstat(mem->fd, &st) < 0)
		return -errno;
	there = (uint64_t)st.st_blocks * 512;
	return there < form->bytes ? (int64_t)(form->bytes - there) : 0;
}

int chunk_clean(const struct chunk_mem *mem, const struct chunk_form *form,
	const struct pool_span *spans, uint64_t count, uint64_t *done_bytes)
{
	struct pool_span all = {0, (uint32_t)(form->bytes / PAGE_BYTES)};
	int r = 0;

	if (!spans) {
		spans = &all;
		count = 1;
	}
	*done_bytes = 0;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = spans[i].page * PAGE_BYTES, bytes = spans[i].pages * PAGE_BYTES;

		if (at + bytes > form->bytes) {
			r = -ERANGE;
			break;
		}
		pool_clear((char *)mem->map + at, bytes);
		*done_bytes += bytes;
	}
	pool_clear_end();
	return r;
}

int chunk_lend(struct chunk_mem *mem)
{
	int fd = fd_open_again(mem->fd);

	if (fd < 0)
		return fd;
	mem->lend_fd = fd;
	return 0;
}
