/* SPDX-License-Identifier: Apache-2.0 */
/* gmem/: regions, address checks, overlays, listeners with roll-back. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "gmem/gmem.h"
#include "gmem/place.h"

static void test_split(void **state)
{
	static const struct {
		gpa_t gpa;
		uint64_t mem, offset, file;
		bool ends_file;
		enum gmem_image_map how;
		struct gmem_split want;
	} cases[] = {
		/* aligned, whole pages */
		{0x100000, 0x3000, 0x1000, 0x3000, false, GMEM_IMAGE_SHARE,
			{0, 0x3000, 0, 0, true}},
		/* ragged head and tail */
		{0x100010, 0x3000, 0x1010, 0x2ff0, false, GMEM_IMAGE_SHARE,
			{0xff0, 0x2000, 0, 0x10, true}},
		{0x100010, 0x3000, 0x1010, 0x2800, false, GMEM_IMAGE_SHARE,
			{0xff0, 0x1000, 0x810, 0x800, true}},
		/* offsets disagree modulo the page size */
		{0x100000, 0x3000, 0x1010, 0x3000, false, GMEM_IMAGE_SHARE,
			{0x3000, 0, 0, 0, false}},
		/* asked for copies */
		{0x100000, 0x3000, 0x1000, 0x2000, false, GMEM_IMAGE_COPY,
			{0x2000, 0, 0, 0x1000, true}},
		/* smaller than a page, across a boundary */
		{0x100ff0, 0x20, 0xff0, 0x20, false, GMEM_IMAGE_SHARE, {0x20, 0, 0, 0, true}},
		/* the last page of a file may be mapped whole when the memory behind is ours */
		{0x100000, 0x2000, 0, 0x1001, true, GMEM_IMAGE_SHARE, {0, 0x2000, 0, 0, true}},
		{0x100000, 0x1001, 0, 0x1001, true, GMEM_IMAGE_SHARE, {0, 0x1000, 1, 0, true}},
		/* nothing but zeros */
		{0x100000, 0x5000, 0, 0, false, GMEM_IMAGE_SHARE, {0, 0, 0, 0x5000, true}},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct gmem_split got;

		gmem_split_make(&got, cases[i].gpa, cases[i].mem, cases[i].offset, cases[i].file,
			cases[i].ends_file, cases[i].how);
		assert_int_equal(got.head_bytes, cases[i].want.head_bytes);
		assert_int_equal(got.map_bytes, cases[i].want.map_bytes);
		assert_int_equal(got.tail_bytes, cases[i].want.tail_bytes);
		assert_int_equal(got.zero_bytes, cases[i].want.zero_bytes);
		assert_int_equal(got.aligned, cases[i].want.aligned);
	}
}

static void test_regions(void **state)
{
	struct kv_err err = {0};
	struct gmem *gm;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, 64 * KIB, &err), 0);
	assert_int_equal(gmem_add_ram(gm, 4 * GIB, 1 * MIB, &err), 0);
	assert_int_equal(gmem_add_ram(gm, 60 * KIB, 64 * KIB, &err), -EINVAL);
	assert_non_null(strstr(err.text, "overlaps"));
	assert_int_equal(gmem_add_ram(gm, 100, 4096, &err), -EINVAL);
	assert_int_equal(gmem_add_ram(gm, 8 * GIB, 0, &err), -EINVAL);
	assert_int_equal(gmem_add_ram(gm, UINT64_MAX - 4095, 8192, &err), -EINVAL);
	assert_int_equal(gmem_add_ram(gm, 8 * GIB, 1ULL << 60, &err), -ENOMEM);
	assert_int_equal(gmem_total(gm), 64 * KIB + MIB);

	assert_non_null(gmem_at(gm, 0, 64 * KIB));
	assert_null(gmem_at(gm, 0, 64 * KIB + 1));
	assert_null(gmem_at(gm, 64 * KIB - 1, 2));
	assert_null(gmem_at(gm, 64 * KIB, 1));
	assert_null(gmem_at(gm, 0, 0));
	assert_null(gmem_at(gm, 1, UINT64_MAX));
	assert_null(gmem_at(gm, UINT64_MAX, 1));
	assert_non_null(gmem_at(gm, 4 * GIB + MIB - 1, 1));
	assert_null(gmem_at(gm, 4 * GIB - 1, 2));
	/* Congruent modulo 2 MiB, so that huge pages fit on both sides. */
	assert_int_equal((uintptr_t)gmem_at(gm, 0, 1) % (2 * MIB), 0);

	assert_int_equal(gmem_write(gm, 4 * GIB, "kvick", 5), 0);
	assert_int_equal(memcmp(gmem_at(gm, 4 * GIB, 5), "kvick", 5), 0);
	assert_int_equal(gmem_write(gm, 2 * GIB, "kvick", 5), -EFAULT);
	assert_int_equal(gmem_read(gm, 2 * GIB, &err, 1), -EFAULT);
	gmem_destroy(gm);
	gmem_destroy(NULL);
}

/* A file with a different byte in each page, and a ragged end. */
static int file_make(uint64_t bytes)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint8_t *data = malloc(bytes);

	assert_true(fd >= 0 && data);
	for (uint64_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)(1 + i / 4096 + i % 251);
	assert_int_equal(fd_write_all(fd, data, bytes), 0);
	free(data);
	return fd;
}

static void overlay_check(enum gmem_image_map how, gpa_t gpa, uint64_t mem, uint64_t offset,
	uint64_t bytes, uint64_t mapped, int fd)
{
	struct gmem_placed placed = {0};
	struct kv_err err = {0};
	uint8_t *want = malloc(bytes);
	struct gmem *gm;
	uint8_t *at;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, 16 * MIB, &err), 0);
	assert_int_equal(
		gmem_overlay(gm, gpa, mem, fd, offset, bytes, how, "segment 0", &placed, &err), 0);
	assert_int_equal(placed.mapped_bytes, mapped);
	assert_int_equal(fd_pread_all(fd, want, bytes, offset), 0);
	at = gmem_at(gm, gpa, mem);
	assert_int_equal(memcmp(at, want, bytes), 0);
	for (uint64_t i = bytes; i < mem; i++)
		assert_int_equal(at[i], 0);
	/* Around it RAM is as it was. */
	assert_int_equal(*(uint8_t *)gmem_at(gm, gpa - 1, 1), 0);
	assert_int_equal(*(uint8_t *)gmem_at(gm, gpa + mem, 1), 0);
	/* Writes stay private. */
	memset(at, 0xaa, mem);
	assert_int_equal(fd_pread_all(fd, want, bytes, offset), 0);
	assert_int_not_equal(want[0], 0xaa);
	if (mapped) {
		assert_string_equal(gmem_overlay_name(gm, at + bytes / 2), "segment 0");
		assert_null(gmem_overlay_name(gm, at - 4096));
	}
	gmem_destroy(gm);
	free(want);
}

static void test_overlay(void **state)
{
	uint64_t bytes = 5 * 4096 + 100;
	int fd = file_make(bytes);

	overlay_check(GMEM_IMAGE_SHARE, 0x200000, 0x8000, 0, bytes, 6 * 4096, fd);
	overlay_check(GMEM_IMAGE_SHARE, 0x200000, bytes, 0, bytes, 5 * 4096, fd);
	overlay_check(GMEM_IMAGE_SHARE, 0x200800, 0x6000, 0x800, 4 * 4096, 3 * 4096, fd);
	overlay_check(GMEM_IMAGE_SHARE, 0x200000, 0x6000, 0x800, 4 * 4096, 0, fd);
	overlay_check(GMEM_IMAGE_COPY, 0x200000, 0x8000, 0, bytes, 0, fd);
	fd_close(&fd);
}

static void test_overlay_errors(void **state)
{
	struct kv_err err = {0};
	int fd = file_make(8192);
	struct gmem *gm;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, 1 * MIB, &err), 0);
	assert_int_equal(
		gmem_overlay(gm, 0, 4096, fd, 0, 8192, GMEM_IMAGE_SHARE, "k", NULL, &err), -EINVAL);
	assert_int_equal(
		gmem_overlay(gm, MIB - 4096, 8192, fd, 0, 8192, GMEM_IMAGE_SHARE, "k", NULL, &err),
		-EFAULT);
	assert_int_equal(
		gmem_overlay(gm, 0, 8192, fd, 4096, 8192, GMEM_IMAGE_SHARE, "k", NULL, &err),
		-ENODATA);
	assert_non_null(strstr(err.text, "ends at byte 8192"));
	assert_int_equal(gmem_overlay(gm, 0, 8192, fd, UINT64_MAX - 100, 8192, GMEM_IMAGE_SHARE,
				 "k", NULL, &err),
		-EINVAL);
	gmem_destroy(gm);
	fd_close(&fd);
}

struct fake {
	int maps, unmaps;
	int fail_at; /* the map call that fails, from 1; 0: none */
};

static int fake_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct fake *fake = ctx;

	return ++fake->maps == fake->fail_at ? -ENOMEM : 0;
}

static void fake_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	((struct fake *)ctx)->unmaps++;
}

static void test_listeners(void **state)
{
	struct kv_err err = {0};

	for (int fail = 0; fail <= 3; fail++) {
		struct fake fakes[3] = {{0}};
		struct gmem *gm;

		assert_int_equal(gmem_create(&gm, NULL), 0);
		for (int i = 0; i < 3; i++) {
			struct gmem_listener l = {fake_map, fake_unmap, &fakes[i]};

			fakes[i].fail_at = i + 1 == fail ? 1 : 0;
			assert_int_equal(gmem_listen(gm, &l), 0);
		}
		assert_int_equal(gmem_add_ram(gm, 0, MIB, &err), fail ? -ENOMEM : 0);
		assert_int_equal(gmem_total(gm), fail ? 0 : MIB);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(fakes[i].maps, !fail || i < fail);
			assert_int_equal(fakes[i].unmaps, fail && i + 1 < fail);
		}
		gmem_forget(gm, &fakes[1]);
		gmem_destroy(gm);
		for (int i = 0; i < 3 && !fail; i++)
			assert_int_equal(fakes[i].unmaps, i != 1);
	}
}

static void test_listen_late(void **state)
{
	struct fake fake = {.fail_at = 2};
	struct gmem_listener l = {fake_map, fake_unmap, &fake};
	struct kv_err err = {0};
	struct gmem *gm;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, MIB, &err), 0);
	assert_int_equal(gmem_add_ram(gm, 4 * GIB, MIB, &err), 0);
	assert_int_equal(gmem_listen(gm, &l), -ENOMEM);
	assert_int_equal(fake.unmaps, 1);
	gmem_destroy(gm);
	assert_int_equal(fake.unmaps, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_regions),
		cmocka_unit_test(test_overlay),
		cmocka_unit_test(test_overlay_errors),
		cmocka_unit_test(test_listeners),
		cmocka_unit_test(test_listen_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
