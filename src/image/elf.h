/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_ELF_H
#define KV_IMAGE_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/image.h"

/* Inside image/: an ELF file, or one that lies inside another file. */
struct elf_file {
	int fd;
	uint64_t base;	     /* where the ELF starts in @fd, bytes */
	uint64_t bytes;	     /* its size; base + bytes does not wrap */
	const uint8_t *head; /* its first bytes, read already */
	size_t head_bytes;   /* at most @bytes */
};

/* One page is read of every kernel file: for most it holds all headers. */
#define ELF_HEAD_BYTES 4096

/* Program headers and note bytes beyond these are refused; a kernel has 5 and some 100. */
#define ELF_PHDRS_MAX	   64
#define ELF_NOTE_BYTES_MAX (64 * KIB)

/*
 * Read @len bytes at @offset of the ELF, from its head where it reaches so far.
 * Returns 0; -ENODATA when the ELF ends first; -errno of pread(2).
 */
int elf_read(const struct elf_file *elf, uint64_t offset, void *buf, size_t len);

/*
 * Check the headers of @elf and fill the plan: protocol (as @asked), entry, segments (offsets
 * from the start of @elf->fd), cmdline_max. Nothing but headers and notes is read. *@plan must be
 * zeroed and is unusable after an error.
 * Returns 0; -ENOEXEC (malformed); -ENOTSUP (32-bit, other machine, protocol not offered); -errno
 * of pread(2); -ENOMEM. The sentence does not name the file.
 * Context: any thread.
 * Source: System V ABI, ELF; Linux include/xen/interface/elfnote.h for the PVH note.
 */
int elf_plan(struct image_plan *plan, const struct elf_file *elf, enum image_protocol asked,
	struct kv_err *err);

/*
 * Look for the PVH entry in a note segment of @bytes at @offset, called "program header @index" in
 * errors. *@ret_found and *@ret_entry are set when there is one, else left alone.
 * Returns as elf_plan().
 */
int elf_pvh_find(const struct elf_file *elf, unsigned index, uint64_t offset, uint64_t bytes,
	uint64_t align, bool *ret_found, uint64_t *ret_entry, struct kv_err *err);

#endif
