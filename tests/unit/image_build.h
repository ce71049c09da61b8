/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TESTS_IMAGE_BUILD_H
#define KV_TESTS_IMAGE_BUILD_H

/*
 * Kernel files made in memory for the tests of image/, and a directory to put them in. Everything
 * is static: each test program is one file. Include behind <cmocka.h>.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <lz4.h>
#include <lzma.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/num.h"
#include "image/image.h"

#define UNUSED __attribute__((unused))

struct blob {
	uint8_t *data;
	size_t bytes;
};

/* The good ELF: two segments, PVH note, a symbol table. */
#define GOOD_BYTES	0x5000
#define GOOD_TEXT_GPA	0x200000
#define GOOD_TEXT_AT	0x1000
#define GOOD_TEXT_BYTES 0x1800
#define GOOD_DATA_GPA	0x300000
#define GOOD_DATA_AT	0x3000
#define GOOD_DATA_BYTES 0x200
#define GOOD_DATA_MEM	0x4000
#define GOOD_NOTES_AT	0x400
#define GOOD_ENTRY	0x200010
#define GOOD_PVH	0x200020
#define GOOD_VIRT	0xffffffff80000000
#define GOOD_SYMS_AT	0x3800
#define GOOD_STRS_AT	0x3a00
#define GOOD_SECTS_AT	0x3c00

#define EH(elf)	    ((Elf64_Ehdr *)(void *)(elf))
#define PH(elf, n)  ((Elf64_Phdr *)(void *)((elf) + EH(elf)->e_phoff) + (n))
#define SH(elf, n)  ((Elf64_Shdr *)(void *)((elf) + EH(elf)->e_shoff) + (n))
#define SYM(elf, n) ((Elf64_Sym *)(void *)((elf) + GOOD_SYMS_AT) + (n))

/* Append a note to @at (4-byte padding). Returns its size. */
UNUSED static size_t note_put(
	uint8_t *at, const char *name, uint32_t type, const void *desc, uint32_t desc_bytes)
{
	Elf64_Nhdr nh = {
		.n_namesz = (uint32_t)strlen(name) + 1, .n_descsz = desc_bytes, .n_type = type};
	size_t name_room = align_up(nh.n_namesz, 4);

	memcpy(at, &nh, sizeof(nh));
	memcpy(at + sizeof(nh), name, nh.n_namesz);
	memcpy(at + sizeof(nh) + name_room, desc, desc_bytes);
	return sizeof(nh) + name_room + align_up(desc_bytes, 4);
}

UNUSED static void good_symbols(uint8_t *elf)
{
	static const char names[] = "\0start_kernel\0local_one\0nowhere";
	Elf64_Shdr *sh = SH(elf, 0);

	memcpy(elf + GOOD_STRS_AT, names, sizeof(names));
	*SYM(elf, 1) = (Elf64_Sym){.st_name = 1,
		.st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC),
		.st_shndx = 1,
		.st_value = 0x111};
	*SYM(elf, 2) = (Elf64_Sym){.st_name = 14,
		.st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC),
		.st_shndx = 1,
		.st_value = 0x222};
	*SYM(elf, 3) = (Elf64_Sym){.st_name = 24,
		.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		.st_shndx = SHN_UNDEF,
		.st_value = 0x333};
	*SYM(elf, 4) = (Elf64_Sym){.st_name = 1,
		.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
		.st_shndx = 1,
		.st_value = GOOD_VIRT + 0x444};
	sh[1] = (Elf64_Shdr){
		.sh_type = SHT_PROGBITS, .sh_offset = GOOD_TEXT_AT, .sh_size = GOOD_TEXT_BYTES};
	sh[2] = (Elf64_Shdr){.sh_type = SHT_SYMTAB,
		.sh_offset = GOOD_SYMS_AT,
		.sh_size = 5 * sizeof(Elf64_Sym),
		.sh_entsize = sizeof(Elf64_Sym),
		.sh_link = 3,
		.sh_info = 3};
	sh[3] = (Elf64_Shdr){
		.sh_type = SHT_STRTAB, .sh_offset = GOOD_STRS_AT, .sh_size = sizeof(names)};
}

/* Fill @elf (GOOD_BYTES) with the good ELF. */
UNUSED static void good_elf(uint8_t *elf)
{
	static const uint8_t ident[] = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1};
	uint64_t pvh = GOOD_PVH;
	size_t notes;

	memset(elf, 0, GOOD_BYTES);
	memcpy(elf, ident, sizeof(ident));
	EH(elf)->e_type = ET_EXEC;
	EH(elf)->e_machine = EM_X86_64;
	EH(elf)->e_version = 1;
	EH(elf)->e_entry = GOOD_ENTRY;
	EH(elf)->e_phoff = sizeof(Elf64_Ehdr);
	EH(elf)->e_ehsize = sizeof(Elf64_Ehdr);
	EH(elf)->e_phentsize = sizeof(Elf64_Phdr);
	EH(elf)->e_phnum = 3;
	EH(elf)->e_shoff = GOOD_SECTS_AT;
	EH(elf)->e_shentsize = sizeof(Elf64_Shdr);
	EH(elf)->e_shnum = 4;
	for (unsigned i = 0; i < GOOD_TEXT_BYTES; i++)
		elf[GOOD_TEXT_AT + i] = (uint8_t)(i * 7 + i / 256);
	memset(elf + GOOD_DATA_AT, 0x5a, GOOD_DATA_BYTES);
	notes = note_put(elf + GOOD_NOTES_AT, "GNU", 3, "0123456789abcdefghij", 20);
	notes += note_put(elf + GOOD_NOTES_AT + notes, "Linux", 0, "x", 1);
	notes += note_put(elf + GOOD_NOTES_AT + notes, "Xen", 18, &pvh, sizeof(pvh));
	*PH(elf, 0) = (Elf64_Phdr){.p_type = PT_LOAD,
		.p_offset = GOOD_TEXT_AT,
		.p_vaddr = GOOD_VIRT + GOOD_TEXT_GPA,
		.p_paddr = GOOD_TEXT_GPA,
		.p_filesz = GOOD_TEXT_BYTES,
		.p_memsz = GOOD_TEXT_BYTES,
		.p_align = 0x1000};
	*PH(elf, 1) = (Elf64_Phdr){.p_type = PT_LOAD,
		.p_offset = GOOD_DATA_AT,
		.p_vaddr = GOOD_VIRT + GOOD_DATA_GPA,
		.p_paddr = GOOD_DATA_GPA,
		.p_filesz = GOOD_DATA_BYTES,
		.p_memsz = GOOD_DATA_MEM,
		.p_align = 0x1000};
	*PH(elf, 2) = (Elf64_Phdr){.p_type = PT_NOTE,
		.p_offset = GOOD_NOTES_AT,
		.p_filesz = notes,
		.p_memsz = notes,
		.p_align = 4};
	good_symbols(elf);
}

/* --- packing, as the kernel's build does it ------------------------------------------------- */

static void size_word(struct blob *b, uint32_t bytes)
{
	b->data = realloc(b->data, b->bytes + 4);
	memcpy(b->data + b->bytes, &bytes, 4);
	b->bytes += 4;
}

static void pack_gzip(struct blob *b, const uint8_t *in, size_t bytes)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
		.avail_in = (uInt)bytes,
		.next_out = b->data,
		.avail_out = (uInt)b->bytes};

	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	b->bytes = z.total_out;
	deflateEnd(&z);
}

static void pack_lzma(struct blob *b, const uint8_t *in, size_t bytes, bool alone)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_options_lzma options;
	lzma_ret r;

	lzma_lzma_preset(&options, 1);
	r = alone ? lzma_alone_encoder(&s, &options) : lzma_easy_encoder(&s, 1, LZMA_CHECK_CRC32);
	assert_int_equal(r, LZMA_OK);
	s.next_in = in;
	s.avail_in = bytes;
	s.next_out = b->data;
	s.avail_out = b->bytes;
	assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
	b->bytes = s.total_out;
	lzma_end(&s);
}

static void pack_lz4(struct blob *b, const uint8_t *in, size_t bytes)
{
	static const uint8_t magic[] = {0x02, 0x21, 0x4c, 0x18};
	size_t room = b->bytes;
	size_t at = sizeof(magic);

	memcpy(b->data, magic, sizeof(magic));
	for (size_t done = 0; done < bytes;) {
		size_t n = bytes - done < 8 * MIB ? bytes - done : 8 * MIB;
		int packed = LZ4_compress_default((const char *)in + done, (char *)b->data + at + 4,
			(int)n, (int)(room - at - 4));
		uint32_t word = (uint32_t)packed;

		assert_true(packed > 0);
		memcpy(b->data + at, &word, 4);
		at += 4 + word;
		done += n;
	}
	b->bytes = at;
}

/* Pack @bytes at @in into a payload with its size word; the caller frees its data. */
UNUSED static struct blob pack(enum image_packing packing, const uint8_t *in, size_t bytes)
{
	struct blob b = {.bytes = bytes + bytes / 8 + 65536};

	b.data = malloc(b.bytes);
	assert_non_null(b.data);
	switch (packing) {
	case IMAGE_PLAIN:
		memcpy(b.data, in, bytes);
		b.bytes = bytes;
		return b;
	case IMAGE_GZIP: /* its trailer is the size word */
		pack_gzip(&b, in, bytes);
		return b;
	case IMAGE_XZ:
		pack_lzma(&b, in, bytes, false);
		break;
	case IMAGE_LZMA:
		pack_lzma(&b, in, bytes, true);
		break;
	case IMAGE_LZ4:
		pack_lz4(&b, in, bytes);
		break;
	case IMAGE_ZSTD:
		b.bytes = ZSTD_compress(b.data, b.bytes, in, bytes, 3);
		assert_false(ZSTD_isError(b.bytes));
		break;
	}
	size_word(&b, (uint32_t)bytes);
	return b;
}

/* --- bzImage -------------------------------------------------------------------------------- */

#define BZ_SETUP_SECTS		    3
#define BZ_PM_AT		    ((BZ_SETUP_SECTS + 1) * 512) /* where the protected-mode code starts */
#define BZ_STUB_BYTES		    0x100			 /* payload_offset */
#define BZ_PAYLOAD_AT		    (BZ_PM_AT + BZ_STUB_BYTES)
#define BZ_PUT(b, off, type, value) (*(type *)(void *)((b).data + (off)) = (type)(value))

/* A bzImage (boot protocol 2.15) with @payload, @stub bytes into the protected-mode code. */
UNUSED static struct blob good_bz_at(const struct blob *payload, uint32_t stub)
{
	struct blob b = {.bytes = BZ_PM_AT + stub + payload->bytes + 64};

	b.data = calloc(1, b.bytes);
	assert_non_null(b.data);
	BZ_PUT(b, 0x1f1, uint8_t, BZ_SETUP_SECTS);
	BZ_PUT(b, 0x1f4, uint32_t, (b.bytes - BZ_PM_AT) / 16);
	BZ_PUT(b, 0x1fe, uint16_t, 0xaa55);
	BZ_PUT(b, 0x200, uint16_t, 0x6aeb); /* jmp to 0x26c */
	memcpy(b.data + 0x202, "HdrS", 4);
	BZ_PUT(b, 0x206, uint16_t, 0x020f);
	BZ_PUT(b, 0x211, uint8_t, 1); /* LOADED_HIGH */
	BZ_PUT(b, 0x22c, uint32_t, 0x7fffffff);
	BZ_PUT(b, 0x236, uint16_t, 0x7f); /* xloadflags */
	BZ_PUT(b, 0x238, uint32_t, 1023); /* cmdline_size */
	BZ_PUT(b, 0x248, uint32_t, stub);
	BZ_PUT(b, 0x24c, uint32_t, payload->bytes);
	BZ_PUT(b, 0x258, uint64_t, 0x1000000);
	BZ_PUT(b, 0x260, uint32_t, 64 * MIB);
	memcpy(b.data + BZ_PM_AT + stub, payload->data, payload->bytes);
	return b;
}

UNUSED static struct blob good_bz(const struct blob *payload)
{
	return good_bz_at(payload, BZ_STUB_BYTES);
}

/* --- a directory for one test --------------------------------------------------------------- */

struct dir {
	char path[64];
	char file[96];	/* a file in it */
	char cache[96]; /* a cache directory in it, not made yet */
	char log[4096]; /* what was logged */
	struct kv_log klog;
	struct image_opts opts;
};

static void dir_log(void *ctx, enum log_level level, const char *line)
{
	struct dir *dir = ctx;
	size_t used = strlen(dir->log);

	snprintf(dir->log + used, sizeof(dir->log) - used, "%s\n", line);
}

UNUSED static int dir_setup(void **state)
{
	struct dir *dir = calloc(1, sizeof(*dir));

	assert_non_null(dir);
	snprintf(dir->path, sizeof(dir->path), "/tmp/kvick-test-XXXXXX");
	assert_non_null(mkdtemp(dir->path));
	snprintf(dir->file, sizeof(dir->file), "%s/kernel", dir->path);
	snprintf(dir->cache, sizeof(dir->cache), "%s/cache/kvick", dir->path);
	dir->klog = (struct kv_log){.level = LOG_LEVEL_WARN, .sink = dir_log, .ctx = dir};
	dir->opts = (struct image_opts){.cache_dir = dir->cache, .log = &dir->klog};
	*state = dir;
	return 0;
}

static int dir_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

UNUSED static int dir_teardown(void **state)
{
	struct dir *dir = *state;

	nftw(dir->path, dir_remove, 16, FTW_DEPTH | FTW_PHYS);
	free(dir);
	return 0;
}

UNUSED static void file_put(const char *path, const void *data, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, bytes), bytes);
	close(fd);
}

UNUSED static unsigned fd_count(void)
{
	DIR *fds = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(fds);
	while (readdir(fds))
		n++;
	closedir(fds);
	return n;
}

/* Bytes this thread has read from files so far. */
UNUSED static uint64_t bytes_read(void)
{
	FILE *io = fopen("/proc/thread-self/io", "re");
	unsigned long long n = 0;

	assert_non_null(io);
	assert_int_equal(fscanf(io, "rchar: %llu", &n), 1);
	fclose(io);
	return n;
}

/* Opening must fail with @code and a sentence that has @part and the file's name; nothing leaks. */
UNUSED static void open_fails(const struct dir *dir, const char *path, int code, const char *part)
{
	struct image *const untouched = (struct image *)(uintptr_t)0x5a5a;
	struct image *img = untouched;
	unsigned before = fd_count();
	struct kv_err err = {""};
	int r = image_open(&img, path, &dir->opts, &err);

	if (r != code || !strstr(err.text, part))
		fail_msg("got %d \"%s\", expected %d and \"%s\"", r, err.text, code, part);
	assert_non_null(strstr(err.text, path));
	assert_ptr_equal(img, untouched);
	assert_int_equal(fd_count(), before);
}

UNUSED static struct image *open_works(const struct dir *dir, const char *path)
{
	struct image *img = NULL;
	struct kv_err err = {""};
	int r = image_open(&img, path, &dir->opts, &err);

	if (r)
		fail_msg("%d \"%s\"", r, err.text);
	return img;
}

#endif
