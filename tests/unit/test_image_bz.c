/* SPDX-License-Identifier: Apache-2.0 */
/* image/: bzImages and their packings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/fd.h"
#include "image/bzimage.h"
#include "image/unpack.h"
#include "image_build.h"

static const enum image_packing packings[] = {
	IMAGE_PLAIN, IMAGE_GZIP, IMAGE_XZ, IMAGE_LZMA, IMAGE_LZ4, IMAGE_ZSTD};

/* The good ELF, packed, in a bzImage; the caller frees its data. */
static struct blob bz_of(enum image_packing packing)
{
	uint8_t elf[GOOD_BYTES];
	struct blob payload, bz;

	good_elf(elf);
	payload = pack(packing, elf, sizeof(elf));
	bz = good_bz(&payload);
	free(payload.data);
	return bz;
}

static void content_check(const struct image *img)
{
	const struct image_plan *plan = image_plan(img);
	uint8_t elf[GOOD_BYTES], got[GOOD_TEXT_BYTES];

	good_elf(elf);
	assert_int_equal(plan->segment_count, 2);
	assert_int_equal(plan->segments[0].gpa, GOOD_TEXT_GPA);
	assert_int_equal(plan->segments[0].file_bytes, GOOD_TEXT_BYTES);
	assert_int_equal(
		fd_pread_all(image_fd(img), got, GOOD_TEXT_BYTES, plan->segments[0].offset), 0);
	assert_memory_equal(got, elf + GOOD_TEXT_AT, GOOD_TEXT_BYTES);
	assert_int_equal(
		fd_pread_all(image_fd(img), got, GOOD_DATA_BYTES, plan->segments[1].offset), 0);
	assert_memory_equal(got, elf + GOOD_DATA_AT, GOOD_DATA_BYTES);
}

static void test_packings(void **state)
{
	struct dir *dir = *state;

	for (size_t i = 0; i < ARRAY_LEN(packings); i++) {
		struct blob bz = bz_of(packings[i]);
		const struct image_plan *plan;
		struct image *img;
		uint64_t value;

		file_put(dir->file, bz.data, bz.bytes);
		img = open_works(dir, dir->file);
		plan = image_plan(img);
		assert_int_equal(plan->format, IMAGE_BZIMAGE);
		assert_int_equal(plan->packing, packings[i]);
		assert_int_equal(plan->protocol, IMAGE_PVH);
		assert_int_equal(plan->entry, GOOD_PVH);
		assert_int_equal(plan->cmdline_max, 1023);
		assert_int_equal(plan->setup_header_bytes, 0x26c - 0x1f1);
		assert_memory_equal(plan->setup_header, bz.data + 0x1f1, 0x26c - 0x1f1);
		assert_string_equal(image_path(img), dir->file);
		assert_true(!strncmp(image_data_path(img), dir->cache, strlen(dir->cache)));
		content_check(img);
		assert_int_equal(image_symbol(img, "start_kernel", &value), 0);
		assert_int_equal(value, GOOD_VIRT + 0x444);
		image_destroy(img);
		free(bz.data);
		assert_string_equal(dir->log, "");
	}
}

static void test_protocol_linux(void **state)
{
	struct dir *dir = *state;
	struct blob bz = bz_of(IMAGE_GZIP);
	struct image *img;

	dir->opts.protocol = IMAGE_LINUX;
	file_put(dir->file, bz.data, bz.bytes);
	img = open_works(dir, dir->file);
	assert_int_equal(image_plan(img)->protocol, IMAGE_LINUX);
	assert_int_equal(image_plan(img)->entry, GOOD_ENTRY);
	image_destroy(img);
	free(bz.data);
}

/* An ELF on a page boundary of the bzImage is used where it is. */
static void test_in_place(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	struct blob payload = {elf, sizeof(elf)};
	struct blob bz = good_bz_at(&payload, 3 * 4096 - BZ_PM_AT);
	const struct image_plan *plan;
	struct image *img;
	uint64_t value;

	good_elf(elf);
	memcpy(bz.data + 3 * 4096, elf, sizeof(elf));
	file_put(dir->file, bz.data, bz.bytes);
	img = open_works(dir, dir->file);
	plan = image_plan(img);
	assert_int_equal(plan->format, IMAGE_BZIMAGE);
	assert_int_equal(plan->packing, IMAGE_PLAIN);
	assert_string_equal(image_data_path(img), dir->file);
	assert_int_equal(plan->segments[0].offset, 3 * 4096 + GOOD_TEXT_AT);
	assert_true(plan->setup_header_bytes > 0);
	content_check(img);
	assert_int_equal(image_symbol(img, "local_one", &value), 0);
	image_destroy(img);
	assert_int_equal(access(dir->cache, F_OK), -1);

	/* What lies behind the payload is not part of it. */
	BZ_PUT(bz, 0x24c, uint32_t, GOOD_DATA_AT + GOOD_DATA_BYTES - 1);
	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOEXEC, "the kernel packed in it: program header 1");
	free(bz.data);
}

static const struct {
	unsigned offset;
	unsigned bytes;
	uint64_t value;
	int code;
	const char *says;
} bad[] = {
	{0x1fe, 2, 0x55aa, -ENOEXEC, "neither an ELF file nor a bzImage"},
	{0x202, 4, 0, -ENOEXEC, "neither an ELF file nor a bzImage"},
	{0x206, 2, 0x0207, -ENOTSUP, "2.07 is older than 2.08"},
	{0x206, 2, 0, -ENOTSUP, "0.00 is older"},
	{0x211, 1, 0, -ENOTSUP, "zImage"},
	{0x236, 2, 0x7e, -ENOTSUP, "32-bit kernel"},
	{0x201, 1, 0, -ENOEXEC, "header ends at 0x202"},
	{0x201, 1, 0x4d, -ENOEXEC, "header ends at 0x24f"},
	{0x24c, 4, 0, -ENOEXEC, "payload_length is 0"},
	{0x24c, 4, UINT32_MAX, -ENOEXEC, "cut off"},
	{0x248, 4, UINT32_MAX, -ENOEXEC, "cut off"},
	{0x1f1, 1, 0xff, -ENOEXEC, "cut off"},
	{0x1f1, 1, 0, -ENOEXEC, "cut off"},
	{0x248, 4, BZ_STUB_BYTES + 1, -ENOEXEC, "starts with 8b 08 00 00, which is no packing"},
	{0x24c, 4, 3, -ENOEXEC, "holds no kernel"},
	{0x24c, 4, 18, -ENOEXEC, "payload"},
	{0x260, 4, GOOD_BYTES - 1, -ENOEXEC, "more than the init_size of 20479"},
};

static void test_header_bad(void **state)
{
	struct dir *dir = *state;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct blob bz = bz_of(IMAGE_GZIP);

		memcpy(bz.data + bad[i].offset, &bad[i].value, bad[i].bytes);
		file_put(dir->file, bz.data, bz.bytes);
		open_fails(dir, dir->file, bad[i].code, bad[i].says);
		free(bz.data);
	}
}

static void test_header_odd(void **state)
{
	struct dir *dir = *state;
	struct blob payload, bz = bz_of(IMAGE_GZIP);
	uint8_t elf[GOOD_BYTES];
	struct image *img;

	good_elf(elf);
	/* Protocol 2.08 has neither init_size nor xloadflags: what lies there is not looked at. */
	BZ_PUT(bz, 0x206, uint16_t, 0x0208);
	BZ_PUT(bz, 0x236, uint16_t, 0);
	BZ_PUT(bz, 0x260, uint32_t, 1);
	BZ_PUT(bz, 0x238, uint32_t, 0);
	/* A header that goes on where struct boot_params has other fields is cut there. */
	BZ_PUT(bz, 0x201, uint8_t, 0xff);
	file_put(dir->file, bz.data, bz.bytes);
	img = open_works(dir, dir->file);
	assert_int_equal(image_plan(img)->setup_header_bytes, 0x290 - 0x1f1);
	assert_int_equal(image_plan(img)->cmdline_max, 255);
	image_destroy(img);

	/* setup_sects 0 means 4. */
	payload = pack(IMAGE_GZIP, elf, sizeof(elf));
	free(bz.data);
	bz = good_bz_at(&payload, BZ_STUB_BYTES + 512);
	BZ_PUT(bz, 0x1f1, uint8_t, 0);
	BZ_PUT(bz, 0x248, uint32_t, BZ_STUB_BYTES + (BZ_SETUP_SECTS - 4) * 512 + 512);
	file_put(dir->file, bz.data, bz.bytes);
	img = open_works(dir, dir->file);
	content_check(img);
	image_destroy(img);
	free(payload.data);
	free(bz.data);
}

static void test_truncated(void **state)
{
	struct dir *dir = *state;
	struct blob bz = bz_of(IMAGE_XZ);

	for (size_t cut = 1; cut < bz.bytes - 64; cut += 97) {
		file_put(dir->file, bz.data, cut);
		open_fails(dir, dir->file, -ENOEXEC, cut < 0x26c ? "neither" : "cut off");
	}
	free(bz.data);
}

static void test_unknown_packings(void **state)
{
	struct dir *dir = *state;
	uint8_t bzip2[64] = "BZh91AY&SY", lzo[64] = "\x89LZO\0\r\n", none[64] = "\x04\x22\x4d\x18";
	struct blob payload = {bzip2, sizeof(bzip2)};
	struct blob bz = good_bz(&payload);

	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOTSUP, "packed with bzip2; kvick unpacks gzip");
	memcpy(bz.data + BZ_PAYLOAD_AT, lzo, sizeof(lzo));
	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOTSUP, "packed with LZO");
	/* The LZ4 frame format is another one than the kernel's. */
	memcpy(bz.data + BZ_PAYLOAD_AT, none, sizeof(none));
	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOEXEC, "04 22 4d 18, which is no packing");
	free(bz.data);
}

/* The payload is sound, but what comes out of it is no kernel. */
static void test_unpacked_bad(void **state)
{
	struct dir *dir = *state;
	static uint8_t text[5000];
	struct blob payload = pack(IMAGE_ZSTD, text, sizeof(text));
	struct blob bz = good_bz(&payload);
	uint8_t elf[GOOD_BYTES];

	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOEXEC, "the kernel packed in it: it does not start with");
	free(payload.data);
	free(bz.data);

	good_elf(elf);
	elf[EI_CLASS] = ELFCLASS32;
	payload = pack(IMAGE_LZ4, elf, sizeof(elf));
	bz = good_bz(&payload);
	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOTSUP, "the kernel packed in it: it is a 32-bit ELF");
	free(payload.data);
	free(bz.data);
}

/* --- unpack_run() --------------------------------------------------------------------------- */

struct collect {
	struct blob got;
	size_t room;
	int fail_at; /* the so-many-th write fails, from 1; 0: none */
	int writes;
};

static int collect_write(void *ctx, const void *data, size_t len)
{
	struct collect *c = ctx;

	assert_true(len > 0);
	assert_true(len <= c->room - c->got.bytes);
	if (++c->writes == c->fail_at)
		return -EDQUOT;
	memcpy(c->got.data + c->got.bytes, data, len);
	c->got.bytes += len;
	return 0;
}

static int collect_run(struct collect *c, enum image_packing packing, const struct blob *payload,
	size_t room, struct kv_err *err)
{
	struct unpack_sink sink = {collect_write, c};
	int sink_error = 1;
	int r;

	c->got.data = malloc(room);
	c->got.bytes = 0;
	c->room = room;
	c->writes = 0;
	r = unpack_run(packing, payload->data, payload->bytes, room, &sink, &sink_error, err);
	assert_int_equal(sink_error, r == -EDQUOT ? -EDQUOT : 0);
	return r;
}

/* 9 MiB of all kinds of content: several chunks, several lz4 blocks, the last one ragged. */
static struct blob large(void)
{
	struct blob b = {.bytes = 9 * MIB + 12345};
	uint32_t random = 1;

	b.data = malloc(b.bytes);
	assert_non_null(b.data);
	for (size_t i = 0; i < b.bytes; i++) {
		random = random * 1664525 + 1013904223;
		b.data[i] = i & 0x1c0000 ? 0 : (uint8_t)(random >> (i & 0x20000 ? 30 : 24));
	}
	return b;
}

static void test_unpack_large(void **state)
{
	struct blob in = large();

	for (size_t i = 0; i < ARRAY_LEN(packings); i++) {
		struct blob payload = pack(packings[i], in.data, in.bytes);
		struct kv_err err = {""};
		struct collect c = {0};
		int r = collect_run(&c, packings[i], &payload, in.bytes, &err);

		if (r)
			fail_msg("%s: %d %s", image_packing_name(packings[i]), r, err.text);
		assert_int_equal(c.got.bytes, in.bytes);
		assert_memory_equal(c.got.data, in.data, in.bytes);
		free(c.got.data);

		/* More or less than announced. */
		if (packings[i] != IMAGE_PLAIN) {
			r = collect_run(&c, packings[i], &payload, in.bytes - 1, &err);
			assert_int_equal(r, -ENOEXEC);
			assert_non_null(strstr(err.text, "more than the"));
			free(c.got.data);
			r = collect_run(&c, packings[i], &payload, in.bytes + 1, &err);
			assert_int_equal(r, -ENOEXEC);
			assert_non_null(strstr(err.text, "but announces"));
			free(c.got.data);
		}
		c.fail_at = packings[i] == IMAGE_PLAIN ? 1 : 2;
		r = collect_run(&c, packings[i], &payload, in.bytes, &err);
		assert_int_equal(r, -EDQUOT);
		free(c.got.data);
		free(payload.data);
	}
	free(in.data);
}

/* Cut payloads and payloads with flipped bits: never more than announced, always an end. */
static void test_unpack_damaged(void **state)
{
	uint8_t elf[GOOD_BYTES];

	good_elf(elf);
	for (size_t i = 1; i < ARRAY_LEN(packings); i++) {
		struct blob payload = pack(packings[i], elf, sizeof(elf));
		struct collect c = {0};
		struct kv_err err;

		for (size_t cut = 0; cut < payload.bytes; cut++) {
			struct blob less = {payload.data, cut};
			uint8_t *copy = malloc(cut ? cut : 1);

			/* In a block of its own: reading behind its end is seen by sanitizers. */
			memcpy(copy, payload.data, cut);
			less.data = copy;
			/* A cut inside the size word leaves the stream whole. */
			if (payload.bytes - cut > 4 || packings[i] == IMAGE_GZIP)
				assert_int_equal(
					collect_run(&c, packings[i], &less, sizeof(elf), &err),
					-ENOEXEC);
			else
				collect_run(&c, packings[i], &less, sizeof(elf), &err);
			free(copy);
			free(c.got.data);
		}
		for (size_t bit = 0; bit < payload.bytes * 8; bit += 3) {
			payload.data[bit / 8] ^= 1 << bit % 8;
			collect_run(&c, packings[i], &payload, sizeof(elf), &err);
			payload.data[bit / 8] ^= 1 << bit % 8;
			free(c.got.data);
		}
		free(payload.data);
	}
}

/* lz4 -l output that was appended to another, and blocks that lie about their size. */
static void test_lz4_frames(void **state)
{
	static const uint32_t bad_sizes[] = {
		5, 0x7fffffff, 0x80000000, 0xffffffff, 9 * 1024 * 1024};
	uint8_t elf[GOOD_BYTES];
	struct blob one, two;
	struct collect c = {0};
	struct kv_err err;

	good_elf(elf);
	one = pack(IMAGE_LZ4, elf, 0x3000);
	two = pack(IMAGE_LZ4, elf + 0x3000, GOOD_BYTES - 0x3000);
	one.data = realloc(one.data, one.bytes + two.bytes);
	memcpy(one.data + one.bytes - 4, two.data, two.bytes);
	one.bytes += two.bytes - 4;
	assert_int_equal(collect_run(&c, IMAGE_LZ4, &one, GOOD_BYTES, &err), 0);
	assert_memory_equal(c.got.data, elf, GOOD_BYTES);
	free(c.got.data);

	for (size_t i = 0; i < ARRAY_LEN(bad_sizes); i++) {
		memcpy(two.data + 4, &bad_sizes[i], 4);
		assert_int_equal(
			collect_run(&c, IMAGE_LZ4, &two, GOOD_BYTES - 0x3000, &err), -ENOEXEC);
		assert_non_null(strstr(err.text, "lz4 payload is corrupt"));
		free(c.got.data);
	}
	free(one.data);
	free(two.data);
}

/* A small payload that unpacks to gigabytes ends at what it announced. */
static void test_bomb(void **state)
{
	struct dir *dir = *state;
	size_t bytes = 64 * MIB;
	uint8_t *zeros = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const uint32_t sizes[] = {1000, 0, 0x40000001, 0xffffffff};
	struct blob payload, bz;

	assert_true(zeros != MAP_FAILED);
	payload = pack(IMAGE_ZSTD, zeros, bytes);
	assert_true(payload.bytes < 100000);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		memcpy(payload.data + payload.bytes - 4, &sizes[i], 4);
		bz = good_bz(&payload);
		file_put(dir->file, bz.data, bz.bytes);
		open_fails(dir, dir->file, -ENOEXEC,
			i ? "1 to 1073741824 are allowed" : "more than the 1000 bytes");
		free(bz.data);
	}
	free(payload.data);
	munmap(zeros, bytes);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, dir_setup, dir_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_DIR(test_packings),
		IN_DIR(test_protocol_linux),
		IN_DIR(test_in_place),
		IN_DIR(test_header_bad),
		IN_DIR(test_header_odd),
		IN_DIR(test_truncated),
		IN_DIR(test_unknown_packings),
		IN_DIR(test_unpacked_bad),
		cmocka_unit_test(test_unpack_large),
		cmocka_unit_test(test_unpack_damaged),
		cmocka_unit_test(test_lz4_frames),
		IN_DIR(test_bomb),
	};

	return cmocka_run_group_tests_name("image_bz", tests, NULL, NULL);
}
