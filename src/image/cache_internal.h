/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_CACHE_INTERNAL_H
#define KV_IMAGE_CACHE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "image/cache.h"

/* What is behind the ELF in an entry. kvick's own format, native byte order. */
struct cache_footer {
	char magic[8];
	uint8_t digest[CACHE_DIGEST_BYTES];
	uint64_t elf_bytes;
	uint64_t elf_crc64;
	uint32_t packing; /* enum image_packing */
	uint32_t reserved;
	uint64_t crc64; /* of the fields above */
};
_Static_assert(sizeof(struct cache_footer) == 72, "cache format");

#define CACHE_FOOTER_MAGIC "kvickEL1"

/*
 * Open an entry and check owner, size and footer, but not the ELF's checksum.
 * Returns 0, *@ret and *@ret_footer; -ENOENT (none); -EBADMSG (there is one, but not a good one).
 * Owns: the caller closes @ret->fd.
 */
int cache_entry_open(const struct cache *cache, const uint8_t *digest, struct cache_entry *ret,
	struct cache_footer *ret_footer);

/* True when the two describe the same, unchanged file. */
bool cache_stat_same(const struct stat *a, const struct stat *b);

#endif
