/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_UNPACK_H
#define KV_IMAGE_UNPACK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/image.h"

/* Inside image/: decompression, in pieces, into whatever takes them. */
struct unpack_sink {
	/* Takes the next @len (> 0) bytes. Returns 0, or -errno, which ends the unpacking. */
	int (*write)(void *ctx, const void *data, size_t len);
	void *ctx;
};

/* The sink is given at most so many bytes at once; of lz4 whole blocks (8 MiB), of plain all. */
#define UNPACK_CHUNK_BYTES (256 * KIB)

/* Memory that an xz or lzma stream may ask for (its dictionary; Linux uses up to 128 MiB). */
#define UNPACK_MEMORY_MAX (256 * MIB)

/*
 * Unpack the payload of a bzImage, @in_bytes at @in with the size word at its end, which must come
 * to exactly @out_bytes.
 * Returns 0; -ENOEXEC (corrupt, cut off, another size); -ENOMEM; the sink's error.
 * *@ret_sink (may be NULL) is set to the sink's error, or to 0.
 * Context: any thread.
 * Source: RFC 1952 (gzip), the formats' own documents for xz, lzma, zstd; LZ4 "legacy frame".
 */
int unpack_run(enum image_packing packing, const uint8_t *in, size_t in_bytes, uint64_t out_bytes,
	const struct unpack_sink *sink, int *ret_sink, struct kv_err *err);

#endif
