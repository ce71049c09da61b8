/* SPDX-License-Identifier: Apache-2.0 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "image/elf.h"

/* Linux include/xen/interface/elfnote.h; "Xen" with its NUL is the note's name. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

struct note {
	const uint8_t *name, *desc;
	uint64_t name_bytes, desc_bytes;
	uint32_t type;
	uint64_t next; /* from the start of this note */
};

/*
 * Take the note at @at apart. Its lengths are the file's claims: what they describe must lie inside
 * @left bytes; only the padding behind the last one may be missing.
 */
static int note_parse(struct note *note, const uint8_t *at, uint64_t left, uint64_t align,
	const char *where, struct kv_err *err)
{
	Elf64_Nhdr nh;
	uint64_t desc;

	if (left < sizeof(nh))
		return err_set(err, -ENOEXEC,
			"%s: %" PRIu64 " bytes are left for its %zu-byte header", where, left,
			sizeof(nh));
	memcpy(&nh, at, sizeof(nh));
	/* Sums of two 32-bit numbers do not wrap in 64 bits. */
	if (sizeof(nh) + nh.n_namesz > left)
		return err_set(err, -ENOEXEC,
			"%s: its name of %u bytes does not fit in the %" PRIu64 " bytes left",
			where, nh.n_namesz, left - sizeof(nh));
	desc = align_up(sizeof(nh) + nh.n_namesz, align);
	if (nh.n_descsz && desc + nh.n_descsz > left)
		return err_set(err, -ENOEXEC,
			"%s: its content of %u bytes does not fit in the %" PRIu64 " bytes left",
			where, nh.n_descsz, desc < left ? left - desc : 0);
	*note = (struct note){
		.name = at + sizeof(nh),
		.name_bytes = nh.n_namesz,
		.desc = nh.n_descsz ? at + desc : NULL,
		.desc_bytes = nh.n_descsz,
		.type = nh.n_type,
		.next = align_up(desc + nh.n_descsz, align),
	};
	return 0;
}

static int pvh_entry(
	const struct note *note, const char *where, uint64_t *ret_entry, struct kv_err *err)
{
	uint64_t entry = 0;

	/* A "pointer" of the kernel: 4 or 8 bytes, little-endian. */
	if (note->desc_bytes != 4 && note->desc_bytes != 8)
		return err_set(err, -ENOEXEC,
			"%s: a PVH entry has 4 or 8 bytes, this one has %" PRIu64, where,
			note->desc_bytes);
	memcpy(&entry, note->desc, note->desc_bytes);
	*ret_entry = entry;
	return 0;
}

static bool all_zero(const uint8_t *at, uint64_t bytes)
{
	while (bytes && !*at) {
		at++;
		bytes--;
	}
	return !bytes;
}

static int notes_scan(const uint8_t *at, uint64_t left, uint64_t align, unsigned index,
	bool *ret_found, uint64_t *ret_entry, struct kv_err *err)
{
	for (unsigned n = 0; left; n++) {
		char where[64];
		struct note note = {0};
		int r;

		/* Fill up to a section's alignment. */
		if (left < sizeof(Elf64_Nhdr) && all_zero(at, left))
			break;
		snprintf(where, sizeof(where), "program header %u, note %u", index, n);
		r = note_parse(&note, at, left, align, where, err);
		if (r < 0)
			return r;
		if (note.type == XEN_ELFNOTE_PHYS32_ENTRY && note.name_bytes == sizeof("Xen") &&
			!memcmp(note.name, "Xen", sizeof("Xen")) && !*ret_found) {
			r = pvh_entry(&note, where, ret_entry, err);
			if (r < 0)
				return r;
			*ret_found = true;
		}
		if (note.next >= left)
			break;
		at += note.next;
		left -= note.next;
	}
	return 0;
}

int elf_pvh_find(const struct elf_file *elf, unsigned index, uint64_t offset, uint64_t bytes,
	uint64_t align, bool *ret_found, uint64_t *ret_entry, struct kv_err *err)
{
	MEM_SCOPED uint8_t *notes = NULL;
	int r;

	if (!bytes)
		return 0;
	if (bytes > ELF_NOTE_BYTES_MAX)
		return err_set(err, -ENOEXEC,
			"program header %u: %" PRIu64 " bytes of notes; at most %llu are allowed",
			index, bytes, ELF_NOTE_BYTES_MAX);
	notes = malloc(bytes);
	if (!notes)
		return err_set(err, -ENOMEM, "no memory for %" PRIu64 " bytes of notes", bytes);
	r = elf_read(elf, offset, notes, bytes);
	if (r < 0)
		return err_set(err, r, "cannot read the notes of program header %u: %s", index,
			err_text(r));
	/* Notes are made of 4-byte words unless the segment says 8 (GNU properties). */
	return notes_scan(notes, bytes, align == 8 ? 8 : 4, index, ret_found, ret_entry, err);
}
