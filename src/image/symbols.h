/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_SYMBOLS_H
#define KV_IMAGE_SYMBOLS_H

#include <stdint.h>

#include "image/elf.h"

/* Inside image/: names and addresses, held in memory as they lie in their file. */
struct symbols;

/*
 * Read a System.map ("address type name" lines; /proc/kallsyms has the same form).
 * Returns 0; -EFBIG over IMAGE_SYMBOLS_MAX bytes; -EINVAL (not a regular file); -ENOMEM; -errno.
 * Owns: the caller destroys it.
 */
int symbols_open_map(struct symbols **ret, const char *path);

/*
 * Read the symbol table (SHT_SYMTAB and its strings) of @elf; its head is not needed.
 * Returns 0; -ENOENT (none); -ENOEXEC (malformed); -EFBIG; -ENOMEM; -errno of pread(2).
 * Owns: the caller destroys it.
 */
int symbols_open_elf(struct symbols **ret, const struct elf_file *elf);

/* Free @symbols; NULL is allowed. */
void symbols_destroy(struct symbols *symbols);

/*
 * Find the address of @name; of several, an ELF's first global one, a map's first.
 * Returns 0 and *@ret; -ENOENT.
 */
int symbols_find(const struct symbols *symbols, const char *name, uint64_t *ret);

#endif
