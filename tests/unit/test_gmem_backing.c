/* SPDX-License-Identifier: Apache-2.0 */
/* gmem/: what backs regions, overlays over every backing, and the errors of each. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "child.h"
#include "gmem/backing.h"
#include "gmem/copy.h"
#include "gmem/gmem.h"
#include "gmem/host.h"
#include "gmem/internal.h"

#define RAM (8 * MIB)

/* A file whose bytes are not zero and differ from page to page. */
static int file_make(uint64_t bytes)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint8_t *data = malloc(bytes);

	assert_true(fd >= 0 && data);
	for (uint64_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)(1 + (i / 4096 + i) % 251);
	assert_int_equal(fd_write_all(fd, data, bytes), 0);
	free(data);
	return fd;
}

static void file_same(int fd, uint64_t offset, const uint8_t *at, uint64_t bytes)
{
	uint8_t *want = malloc(bytes);

	assert_non_null(want);
	assert_int_equal(fd_pread_all(fd, want, bytes, offset), 0);
	assert_int_equal(memcmp(at, want, bytes), 0);
	free(want);
}

static bool is_zero(const uint8_t *at, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes; i++)
		if (at[i])
			return false;
	return true;
}

static struct gmem *ram_of(const struct gmem_backing *backing, uint64_t bytes)
{
	struct kv_err err = {0};
	struct gmem *gm;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	if (gmem_backing_check(backing, bytes, &err) < 0 ||
		gmem_add_backed(gm, 0, bytes, backing, 0, &err) < 0)
		fail_msg("%s", err.text);
	gmem_files_keep(gm);
	return gm;
}

/* All RAM can be written and reads back; a mapped and a copied image lie in it as they should. */
static void ram_use(const struct gmem_backing *backing, uint64_t bytes)
{
	struct gmem *gm = ram_of(backing, bytes);
	struct gmem_placed placed = {0};
	struct kv_err err = {0};
	int fd = file_make(3 * MIB + 100);
	uint8_t *ram = gmem_at(gm, 0, bytes);
	bool shares = !backing->shared;

	assert_true(is_zero(ram, bytes));
	assert_int_equal(gmem_overlay(gm, MIB, 3 * MIB, fd, 0, 2 * MIB + 100, GMEM_IMAGE_SHARE,
				 "mapped", &placed, &err),
		0);
	assert_int_equal(placed.mapped_bytes, shares ? 2 * MIB : 0);
	assert_int_equal(placed.copied_bytes, shares ? 100 : 2 * MIB + 100);
	/* Its neighbour shares a huge page with it, where there are such. */
	assert_int_equal(gmem_overlay(gm, 4 * MIB + 16, MIB, fd, 16, MIB, GMEM_IMAGE_SHARE,
				 "neighbour", NULL, &err),
		0);
	assert_int_equal(gmem_overlay(gm, 5 * MIB + 8, 2 * MIB, fd, 3, 2 * MIB, GMEM_IMAGE_COPY,
				 "copied", NULL, &err),
		0);
	file_same(fd, 0, ram + MIB, 2 * MIB + 100);
	file_same(fd, 16, ram + 4 * MIB + 16, MIB - 16);
	file_same(fd, 3, ram + 5 * MIB + 8, 2 * MIB);
	assert_true(is_zero(ram, MIB));
	assert_true(is_zero(ram + 3 * MIB + 100, MIB - 100));
	assert_true(is_zero(ram + 7 * MIB + 8, bytes - 7 * MIB - 8));
	memset(ram, 0x5a, bytes);
	for (uint64_t i = 0; i < bytes; i += 4093)
		assert_int_equal(ram[i], 0x5a);
	/* The image did not change. */
	file_same(fd, 0, (const uint8_t *)"\1\2\3\4", 4);
	gmem_destroy(gm);
	fd_close(&fd);
}

static void test_plain(void **state)
{
	static const struct gmem_backing backings[] = {
		{.kind = GMEM_ANON},
		{.kind = GMEM_ANON, .dump = true},
		{.kind = GMEM_ANON, .shared = true},
		{.kind = GMEM_ANON, .thp = GMEM_ON},
		{.kind = GMEM_ANON, .thp = GMEM_OFF},
		{.kind = GMEM_ANON, .merge = true},
		{.kind = GMEM_ANON, .mlock = true},
		{.kind = GMEM_ANON, .nodes = 1},
		{.kind = GMEM_MEMFD},
		{.kind = GMEM_MEMFD, .shared = true, .mlock = true, .nodes = 1},
	};

	for (size_t i = 0; i < ARRAY_LEN(backings); i++)
		ram_use(&backings[i], RAM);
}

static void test_chunks(void **state)
{
	struct gmem_chunk chunks[3];
	struct gmem_backing backing = {.kind = GMEM_POOL, .chunks = chunks, .chunk_count = 3};
	static const uint64_t sizes[] = {2 * MIB, 5 * MIB, 4 * MIB};
	struct kv_err err = {0};
	struct gmem *gm;
	uint8_t byte;

	for (int i = 0; i < 3; i++) {
		chunks[i].fd = memfd_create("chunk", MFD_CLOEXEC);
		chunks[i].bytes = sizes[i];
		assert_int_equal(ftruncate(chunks[i].fd, (off_t)sizes[i]), 0);
	}
	/* Two regions, the second starting inside a chunk. */
	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, 4 * MIB, &backing, 0, &err), 0);
	assert_int_equal(gmem_add_backed(gm, 4 * GIB, 6 * MIB, &backing, 4 * MIB, &err), 0);
	memset(gmem_at(gm, 0, 4 * MIB), 1, 4 * MIB);
	memset(gmem_at(gm, 4 * GIB, 6 * MIB), 2, 6 * MIB);
	assert_int_equal(pread(chunks[0].fd, &byte, 1, 2 * MIB - 1), 1);
	assert_int_equal(byte, 1);
	assert_int_equal(pread(chunks[1].fd, &byte, 1, 2 * MIB - 1), 1);
	assert_int_equal(byte, 1);
	assert_int_equal(pread(chunks[1].fd, &byte, 1, 2 * MIB), 1);
	assert_int_equal(byte, 2);
	assert_int_equal(pread(chunks[2].fd, &byte, 1, 3 * MIB - 1), 1);
	assert_int_equal(byte, 2);
	assert_int_equal(pread(chunks[2].fd, &byte, 1, 3 * MIB), 1);
	assert_int_equal(byte, 0);
	gmem_destroy(gm);
	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, 12 * MIB, &backing, 0, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "smaller than 12M"));
	gmem_destroy(gm);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ftruncate(chunks[i].fd, 0), 0);
		assert_int_equal(ftruncate(chunks[i].fd, (off_t)sizes[i]), 0);
	}
	ram_use(&backing, RAM);
	for (int i = 0; i < 3; i++)
		fd_close(&chunks[i].fd);
}

static void file_refused(const char *path, uint64_t bytes, int code, const char *text)
{
	struct gmem_backing backing = {.kind = GMEM_FILE, .path = path};
	struct kv_err err = {0};

	assert_int_equal(gmem_backing_check(&backing, bytes, &err), code);
	if (!strstr(err.text, text))
		fail_msg("%s", err.text);
}

static void test_file(void **state)
{
	char dir[] = "/tmp/kvick-test-XXXXXX", path[64], other[64];
	struct gmem_backing backing = {.kind = GMEM_FILE, .path = path};
	struct kv_err err = {0};
	struct gmem *gm, *second;
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/ram", dir);
	snprintf(other, sizeof(other), "%s/precious", dir);
	/* Made, used, and used again: nothing of the first VM is left. */
	ram_use(&backing, RAM);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, RAM);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(st.st_blocks * 512, RAM);
	ram_use(&backing, RAM);
	gm = ram_of(&backing, RAM);
	assert_int_equal(gmem_create(&second, NULL), 0);
	assert_int_equal(gmem_add_backed(second, 0, RAM, &backing, 0, &err), -EBUSY);
	assert_non_null(strstr(err.text, "another VM"));
	gmem_destroy(second);
	gmem_destroy(gm);
	/* What somebody else keeps there is safe. */
	file_refused(path, RAM + 4096, -EEXIST, "would be overwritten");
	file_refused(dir, RAM, -EISDIR, "directory");
	file_refused("/dev/null", RAM, -EINVAL, "not a regular file");
	snprintf(other, sizeof(other), "%s/no/such", dir);
	backing.path = other;
	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, RAM, &backing, 0, &err), -ENOENT);
	assert_non_null(strstr(err.text, other));
	gmem_destroy(gm);
	unlink(path);
	rmdir(dir);
}

/* The size of the file @path; -1: there is none. */
static off_t file_bytes(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? -1 : st.st_size;
}

struct stop {
	int left, calls; /* the call by which none is left stops */
	const char *path;
	uint64_t total; /* the file's size from the first call on: it is never half a file */
};

static bool stop_soon(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
	struct stop *stop = ctx;

	stop->calls++;
	assert_int_equal(total_bytes, stop->total);
	assert_int_equal(file_bytes(stop->path), stop->total);
	return !stop->left--;
}

/* Add two regions of @bytes; the second is stopped when the first is not. Returns what was said. */
static int start_stopped(const char *path, int steps, uint64_t bytes)
{
	struct stop stop = {steps, 0, path, 2 * bytes};
	struct gmem_watch watch = {stop_soon, &stop};
	struct gmem_backing backing = {
		.kind = GMEM_FILE, .path = path, .watch = &watch, .total_bytes = 2 * bytes};
	struct kv_err err = {0};
	struct gmem *gm;
	int r;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	r = gmem_add_backed(gm, 0, bytes, &backing, 0, &err);
	if (!r)
		r = gmem_add_backed(gm, 4 * GIB, bytes, &backing, bytes, &err);
	assert_int_equal(stop.calls, r == -ECANCELED ? steps + 1 : stop.calls);
	gmem_destroy(gm);
	return r;
}

/* What a start that failed made is gone; what was there is there. */
static void test_file_stopped(void **state)
{
	static const char path[] = "/dev/shm/kvick-test-stop";
	struct gmem_backing backing = {.kind = GMEM_FILE, .path = path, .nodes = 1ULL << 63};
	struct kv_err err = {0};
	struct gmem *gm;
	int fd;

	unlink(path);
	for (int steps = 0; steps < 3; steps++) {
		/* In the first region, in the second, and after both of them. */
		assert_int_equal(start_stopped(path, steps, RAM), steps < 2 ? -ECANCELED : 0);
		assert_int_equal(file_bytes(path), -1);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
		assert_int_equal(start_stopped(path, steps, RAM), steps < 2 ? -ECANCELED : 0);
		assert_int_equal(file_bytes(path), 0);
		assert_int_equal(ftruncate(fd, 2 * RAM), 0);
		assert_int_equal(start_stopped(path, steps, RAM), steps < 2 ? -ECANCELED : 0);
		assert_int_equal(file_bytes(path), 2 * RAM);
		fd_close(&fd);
		unlink(path);
	}
	/* At the first step, not at the last. */
	assert_int_equal(start_stopped(path, 0, 256 * MIB), -ECANCELED);
	assert_int_equal(file_bytes(path), -1);
	/* What fails after the reservation. */
	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, RAM, &backing, 0, &err), -EINVAL);
	assert_int_equal(file_bytes(path), -1);
	gmem_destroy(gm);
}

/* RAM in a file that somebody cuts short: the file is named, and nothing else is. */
static void test_file_short(void **state)
{
	static const char path[] = "/dev/shm/kvick-test-short";
	struct gmem_backing backing = {.kind = GMEM_FILE, .path = path, .total_bytes = 2 * RAM};
	struct kv_err err = {0};
	struct gmem *gm;
	uint8_t *low, *high;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, RAM, &backing, 0, &err), 0);
	assert_int_equal(gmem_add_backed(gm, 4 * GIB, RAM, &backing, RAM, &err), 0);
	backing = (struct gmem_backing){.kind = GMEM_ANON};
	assert_int_equal(gmem_add_backed(gm, 8 * GIB, RAM, &backing, 0, &err), 0);
	low = gmem_at(gm, 0, RAM);
	high = gmem_at(gm, 4 * GIB, RAM);
	assert_string_equal(gmem_file_name(gm, low + RAM - 1), path);
	assert_string_equal(gmem_file_name(gm, high), path);
	assert_null(gmem_file_name(gm, gmem_at(gm, 8 * GIB, RAM)));
	assert_null(gmem_file_name(gm, &backing));
	assert_null(gmem_file_short(gm));
	assert_int_equal(truncate(path, 2 * RAM - 1), 0);
	assert_string_equal(gmem_file_short(gm), path);
	assert_int_equal(truncate(path, 0), 0);
	assert_string_equal(gmem_file_short(gm), path);
	gmem_destroy(gm);
	assert_int_equal(file_bytes(path), -1);
}

/* Another file of the same name is not ours to remove. */
static void test_file_replaced(void **state)
{
	static const char path[] = "/dev/shm/kvick-test-replaced";
	static const char other[] = "/dev/shm/kvick-test-replaced-by";
	struct gmem_backing backing = {.kind = GMEM_FILE, .path = path};
	struct kv_err err = {0};
	struct gmem *gm;
	uint8_t *bytes;
	char text[7];
	int fd;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, RAM, &backing, 0, &err), 0);
	fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(fd, "new", 3), 0);
	fd_close(&fd);
	assert_int_equal(rename(other, path), 0);
	gmem_destroy(gm);
	assert_int_equal(file_bytes(path), 3);
	unlink(path);
	/* Nor does a VM have a part of each. */
	backing.total_bytes = 2 * RAM;
	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, RAM, &backing, 0, &err), 0);
	fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fallocate(fd, 0, 0, 2 * RAM), 0);
	assert_int_equal(pwrite(fd, "theirs", 6, RAM), 6);
	assert_int_equal(rename(other, path), 0);
	assert_int_equal(gmem_add_backed(gm, 4 * GIB, RAM, &backing, RAM, &err), 0);
	bytes = gmem_at(gm, 4 * GIB, RAM);
	assert_int_equal(bytes[0], 0);
	memset(bytes, 0xff, RAM);
	gmem_destroy(gm);
	memset(text, 0, sizeof(text));
	assert_int_equal(pread(fd, text, sizeof(text), RAM), sizeof(text));
	assert_string_equal(text, "theirs");
	fd_close(&fd);
	unlink(path);
}

static void test_invalid(void **state)
{
	static const struct {
		struct gmem_backing backing;
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{{.kind = GMEM_HUGETLB_2M}, 3 * MIB, "multiple of 2M"},
		{{.kind = GMEM_HUGETLB_1G}, 512 * MIB, "multiple of 1G"},
		{{.kind = GMEM_HUGETLB_2M, .thp = GMEM_ON}, RAM, "thp=on"},
		{{.kind = GMEM_MEMFD, .merge = true}, RAM, "merge=on"},
		{{.kind = GMEM_ANON, .merge = true, .shared = true}, RAM, "merge=on"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct kv_err err = {0};

		assert_int_equal(
			gmem_backing_check(&cases[i].backing, cases[i].bytes, &err), -EINVAL);
		if (!strstr(err.text, cases[i].text))
			fail_msg("%s", err.text);
	}
}

static void test_short(void **state)
{
	struct gmem_backing backing = {.kind = GMEM_HUGETLB_2M, .nodes = 1};
	uint64_t free = gmem_huge_free(2 * MIB, 1);
	struct kv_err err = {0};
	char want[160];
	struct gmem *gm;

	if (access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK) < 0)
		skip();
	assert_int_equal(gmem_backing_check(&backing, (free + 7) * 2 * MIB, &err), -ENOMEM);
	snprintf(want, sizeof(want),
		"%llu huge pages of 2M are needed, %llu are free (node 0: %llu): 7 are missing",
		(unsigned long long)free + 7, (unsigned long long)free, (unsigned long long)free);
	if (!strstr(err.text, want) || !strstr(err.text, "node0/hugepages/hugepages-2048kB") ||
		!strstr(err.text, "echo $((7 + "))
		fail_msg("%s", err.text);
	assert_int_equal(gmem_backing_check(&backing, (free + 1) * 2 * MIB, &err), -ENOMEM);
	if (!strstr(err.text, ": 1 is missing; reserve it: cd "))
		fail_msg("%s", err.text);
	/* Without the check the mapping says it. */
	assert_int_equal(gmem_create(&gm, NULL), 0);
	backing.nodes = 0;
	assert_int_equal(
		gmem_add_backed(gm, 0, (free + 4096) * 2 * MIB, &backing, 0, &err), -ENOMEM);
	assert_non_null(strstr(err.text, "missing"));
	gmem_destroy(gm);
	backing = (struct gmem_backing){.kind = GMEM_ANON, .nodes = 1ULL << 63};
	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_backed(gm, 0, RAM, &backing, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "numa=63: memory cannot be bound to it; this host has "));
	gmem_destroy(gm);
	/* The kernel itself takes no notice of one that is missing beside one that is there. */
	backing.nodes |= 1;
	assert_int_equal(gmem_backing_check(&backing, RAM, &err), -EINVAL);
	assert_non_null(strstr(err.text, "numa=63: "));
}

/* Shared memory is a file, for which there is a limit. */
static int file_limit_child(void)
{
	struct gmem_backing backing = {.kind = GMEM_MEMFD, .total_bytes = 4 * RAM};
	struct rlimit limit = {MIB, MIB};
	struct kv_err err = {0};
	struct gmem *gm;

	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0 || gmem_create(&gm, NULL) < 0)
		return 1;
	if (gmem_add_backed(gm, 0, RAM, &backing, 0, &err) != -EFBIG ||
		!strstr(err.text, "memory: 32M of backing=memfd cannot be one file (File too "
				  "large; the limit is 1M); raise the limit: ulimit -f"))
		return 2;
	gmem_destroy(gm);
	return 0;
}

/* As a user who may lock 64 KiB. */
static int memlock_child(void)
{
	struct gmem_backing backing = {.kind = GMEM_ANON, .mlock = true};
	struct rlimit limit = {65536, 65536};
	struct kv_err err = {0};
	struct gmem *gm;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0 || (!geteuid() && setuid(65534) < 0) ||
		gmem_create(&gm, NULL) < 0)
		return 1;
	if (gmem_add_backed(gm, 0, RAM, &backing, 0, &err) != -ENOMEM ||
		!strstr(err.text, "; the limit is 64K); raise the limit: ulimit -l"))
		return 2;
	gmem_destroy(gm);
	return 0;
}

static void test_limits(void **state)
{
	static int (*const children[])(void) = {memlock_child, file_limit_child};

	children_run(children, ARRAY_LEN(children));
}

static uint64_t nr_hugepages(int64_t change)
{
	static const char path[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
	MEM_SCOPED char *text = NULL;
	uint64_t n = file_read_all(path, 64, &text) > 0 ? strtoull(text, NULL, 10) : 0;
	FILE *f = change ? fopen(path, "w") : NULL;

	if (f) {
		fprintf(f, "%llu\n", (unsigned long long)n + (unsigned long long)change);
		fclose(f);
	}
	return n;
}

/* Huge pages for a test; false: none are to be had. */
static bool huge_borrow(uint64_t pages, uint64_t *before)
{
	*before = nr_hugepages(0);
	if (gmem_huge_free(2 * MIB, 0) < pages)
		nr_hugepages((int64_t)pages);
	return gmem_huge_free(2 * MIB, 0) >= pages;
}

static void huge_return(uint64_t before)
{
	nr_hugepages((int64_t)(before - nr_hugepages(0)));
}

static void test_hugetlb(void **state)
{
	struct gmem_backing backing = {.kind = GMEM_HUGETLB_2M};
	uint64_t before, free;
	bool got = huge_borrow(16, &before);

	free = gmem_huge_free(2 * MIB, 0);
	if (got) {
		ram_use(&backing, RAM);
		ram_use(&backing, 3 * RAM);
		backing.shared = true;
		ram_use(&backing, RAM);
		backing = (struct gmem_backing){.kind = GMEM_HUGETLB_2M, .mlock = true, .nodes = 1};
		ram_use(&backing, RAM);
		assert_int_equal(gmem_huge_free(2 * MIB, 0), free);
	}
	huge_return(before);
	if (!got) {
		print_message("no 2 MiB pages can be reserved here\n");
		skip();
	}
}

/* A copied segment in a page that a later one makes small stays what it was. */
static void test_hugetlb_keep(void **state)
{
	struct gmem_backing backing = {.kind = GMEM_HUGETLB_2M};
	struct kv_err err = {0};
	uint64_t before;
	bool got = huge_borrow(4, &before);
	struct gmem *gm;
	uint8_t *ram;
	int fd;

	if (!got) {
		huge_return(before);
		skip();
	}
	gm = ram_of(&backing, RAM);
	ram = gmem_at(gm, 0, RAM);
	fd = file_make(MIB);
	assert_int_equal(gmem_overlay(gm, 2 * MIB + 100, 10000, fd, 0, 10000, GMEM_IMAGE_SHARE,
				 "copied", NULL, &err),
		0);
	assert_int_equal(gm->small_count, 0);
	assert_int_equal(
		gmem_overlay(gm, 3 * MIB, MIB, fd, 0, MIB, GMEM_IMAGE_SHARE, "mapped", NULL, &err),
		0);
	assert_int_equal(gm->small_count, 1);
	assert_int_equal(gm->small[0].bytes, 2 * MIB);
	file_same(fd, 0, ram + 2 * MIB + 100, 10000);
	file_same(fd, 0, ram + 3 * MIB, MIB);
	assert_true(is_zero(ram + 2 * MIB + 10100, MIB - 10100));
	/* The next huge pages, then one that touches what is small already. */
	assert_int_equal(gmem_overlay(gm, 5 * MIB + 4096, MIB - 4096, fd, 4096, MIB - 4096,
				 GMEM_IMAGE_SHARE, "behind", NULL, &err),
		0);
	assert_int_equal(gm->small_count, 1);
	assert_int_equal(gm->small[0].bytes, 4 * MIB);
	file_same(fd, 0, ram + 3 * MIB, MIB);
	file_same(fd, 4096, ram + 5 * MIB + 4096, MIB - 4096);
	gmem_destroy(gm);
	fd_close(&fd);
	huge_return(before);
}

static void test_copy(void **state)
{
	uint64_t bytes = 37 * MIB + 777;
	int fd = file_make(bytes);
	uint8_t *at = mmap(
		NULL, bytes + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(at != MAP_FAILED);
	/* Any alignment, several threads. */
	for (unsigned shift = 0; shift < 80; shift += 13) {
		uint64_t n = bytes - shift * 100;

		memset(at, 0, bytes + 8192);
		assert_int_equal(gmem_copy_file(at + 1000 + shift, n, fd, shift), 0);
		file_same(fd, shift, at + 1000 + shift, n);
		assert_true(is_zero(at, 1000 + shift));
		assert_true(is_zero(at + 1000 + shift + n, 4096));
	}
	assert_int_equal(gmem_copy_file(at, bytes, fd, 1), -ENODATA);
	assert_int_equal(gmem_copy_file(at, 4096, fd, bytes), -ENODATA);
	assert_int_equal(gmem_copy_file(at, 0, fd, 0), 0);
	gmem_stream_zero(at + 4096, 8192);
	assert_true(is_zero(at + 4096, 8192));
	munmap(at, bytes + 8192);
	fd_close(&fd);
}

static int range_mark(void *ctx, uint64_t offset, uint64_t bytes)
{
	uint8_t *pages = ctx;

	assert_int_equal(offset % PAGE_BYTES | bytes % PAGE_BYTES, 0);
	assert_true(offset + bytes <= RAM);
	memset(pages + offset / PAGE_BYTES, 1, bytes / PAGE_BYTES);
	return 0;
}

static int range_refuse(void *ctx, uint64_t offset, uint64_t bytes)
{
	return -EPIPE;
}

/* What was touched of a lease is told, and little else; other memory keeps no account. */
static void test_touched(void **state)
{
	struct gmem_chunk chunks[2] = {{-1, RAM / 2}, {-1, RAM / 2}};
	struct gmem_backing backing = {.kind = GMEM_POOL, .chunks = chunks, .chunk_count = 2};
	static const unsigned written[] = {0, 7, 300, 1023, 1024, 2047};
	uint8_t pages[RAM / PAGE_BYTES] = {0};
	struct gmem_placed placed = {0};
	struct kv_err err = {0};
	unsigned told = 0;
	struct gmem *gm;
	int fd = file_make(2 * PAGE_BYTES), r;

	for (unsigned i = 0; i < 2; i++) {
		chunks[i].fd = memfd_create("chunk", MFD_CLOEXEC);
		assert_int_equal(ftruncate(chunks[i].fd, RAM / 2), 0);
		assert_int_equal(fallocate(chunks[i].fd, 0, 0, RAM / 2), 0);
	}
	gm = ram_of(&backing, RAM);
	assert_int_equal(gmem_overlay(gm, 500 * PAGE_BYTES, 2 * PAGE_BYTES, fd, 0, 2 * PAGE_BYTES,
				 GMEM_IMAGE_SHARE, "image", &placed, &err),
		0);
	for (unsigned i = 0; i < ARRAY_LEN(written); i++)
		*(uint8_t *)gmem_at(gm, written[i] * PAGE_BYTES, 1) = 1;
	r = gmem_touched(gm, range_mark, pages);
	/* An old kernel, or a host that swaps. */
	if (r == -ENOTSUP)
		skip();
	assert_int_equal(r, 0);
	for (unsigned i = 0; i < ARRAY_LEN(written); i++)
		assert_int_equal(pages[written[i]], 1);
	/* The file's pages lie over the lease's: nobody knows what was there before. */
	assert_int_equal(pages[500] & pages[501], 1);
	for (unsigned i = 0; i < RAM / PAGE_BYTES; i++)
		told += pages[i];
	assert_int_equal(told, 8);
	assert_int_equal(gmem_touched(gm, range_refuse, NULL), -EPIPE);
	gmem_destroy(gm);
	for (unsigned i = 0; i < 2; i++)
		close(chunks[i].fd);
	close(fd);
	backing = (struct gmem_backing){.kind = GMEM_MEMFD};
	gm = ram_of(&backing, RAM);
	assert_int_equal(gmem_touched(gm, range_mark, pages), -ENOTSUP);
	gmem_destroy(gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_chunks),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_stopped),
		cmocka_unit_test(test_file_short),
		cmocka_unit_test(test_file_replaced),
		cmocka_unit_test(test_invalid),
		cmocka_unit_test(test_short),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_hugetlb),
		cmocka_unit_test(test_hugetlb_keep),
		cmocka_unit_test(test_touched),
		cmocka_unit_test(test_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
