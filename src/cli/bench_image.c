/* SPDX-License-Identifier: Apache-2.0 */
/* Images of a chosen size, for benchmarks. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench_util.h"

#define PAD_GPA	    (16 * MIB)
#define CHUNK_WORDS 16384

/* Fill @chunk with bytes that are not zero, going on from *@state. */
static void chunk_fill(uint32_t chunk[CHUNK_WORDS], uint32_t *state)
{
	uint32_t x = *state;

	for (size_t i = 0; i < CHUNK_WORDS; i++) {
		/* xorshift32 (Marsaglia 2003); the mask keeps every byte from being zero. */
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		chunk[i] = x | 0x01010101;
	}
	*state = x;
}

/* Append @bytes bytes, none of them zero and no page like another. */
static int fill_append(int fd, uint64_t bytes)
{
	uint32_t chunk[CHUNK_WORDS];
	uint32_t state = 0x9e3779b9;

	while (bytes > 0) {
		uint64_t n = bytes < sizeof(chunk) ? bytes : sizeof(chunk);
		int r;

		chunk_fill(chunk, &state);
		r = fd_write_all(fd, chunk, n);
		if (r < 0)
			return r;
		bytes -= n;
	}
	return 0;
}

/* Turn the spare header of the ELF in @elf into a segment of padding. */
static int header_claim(char *elf, size_t elf_bytes, uint64_t offset, uint64_t pad)
{
	Elf64_Ehdr *ehdr = (Elf64_Ehdr *)elf;
	Elf64_Phdr *phdr;

	if (elf_bytes < sizeof(*ehdr) || ehdr->e_phoff > elf_bytes ||
		ehdr->e_phnum > (elf_bytes - ehdr->e_phoff) / sizeof(*phdr))
		return -EINVAL;
	phdr = (Elf64_Phdr *)(elf + ehdr->e_phoff);
	for (unsigned i = 0; i < ehdr->e_phnum; i++) {
		if (phdr[i].p_type != PT_NULL)
			continue;
		phdr[i] = (Elf64_Phdr){
			.p_type = PT_LOAD,
			.p_flags = PF_R,
			.p_offset = offset,
			.p_vaddr = PAD_GPA,
			.p_paddr = PAD_GPA,
			.p_filesz = pad,
			.p_memsz = pad,
			.p_align = PAGE_BYTES,
		};
		return 0;
	}
	return -EINVAL;
}

int bench_kernel_make(const char *guest, const char *path, uint64_t bytes, struct kv_err *err)
{
	MEM_SCOPED char *elf = NULL;
	ssize_t len = file_read_all(guest, 1 * MIB, &elf);
	uint64_t offset;
	FD_SCOPED int fd = -1;
	int r;

	if (len < 0)
		return err_set(err, (int)len, "%s: %s", guest, err_text((int)len));
	offset = align_up((uint64_t)len, PAGE_BYTES);
	if (bytes > offset) {
		r = header_claim(elf, (size_t)len, offset, bytes - offset);
		if (r < 0)
			return err_set(err, r, "%s: is no flat guest with a spare header", guest);
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	r = fd < 0 ? -errno : fd_write_all(fd, elf, (size_t)len);
	if (!r && bytes > offset && lseek(fd, (off_t)offset, SEEK_SET) < 0)
		r = -errno;
	if (!r && bytes > offset)
		r = fill_append(fd, bytes - offset);
	return r < 0 ? err_set(err, r, "%s: %s", path, err_text(r)) : 0;
}

int bench_file_make(const char *path, uint64_t bytes, struct kv_err *err)
{
	FD_SCOPED int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : fill_append(fd, bytes);

	return r < 0 ? err_set(err, r, "%s: %s", path, err_text(r)) : 0;
}
