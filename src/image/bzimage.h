/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_BZIMAGE_H
#define KV_IMAGE_BZIMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "image/image.h"

/* Inside image/: what a bzImage says about itself. */
struct bzimage {
	uint64_t payload_offset; /* in the file, bytes */
	uint64_t payload_bytes;	 /* > 0; inside the file */
	uint64_t init_bytes;	 /* memory the kernel wants before it runs, 0: does not say */
	uint32_t cmdline_max;	 /* without NUL */
	unsigned header_bytes;	 /* of @header */
	uint8_t header[256];	 /* the setup header, from file offset 0x1f1 */
};

/* A payload is read into memory whole, and unpacks to at most so much. */
#define BZ_PAYLOAD_MAX	(512 * MIB)
#define BZ_UNPACKED_MAX (1 * GIB)

/* A packed payload ends with its unpacked size in 4 bytes, little-endian. */
#define BZ_SIZE_WORD 4

/* True when the @bytes at @head start like a bzImage (boot flag and "HdrS"). */
bool bz_detect(const uint8_t *head, size_t bytes);

/*
 * Check the setup header in the first @head_bytes of a file of @file_bytes and fill @bz.
 * Returns 0; -ENOEXEC (malformed, cut off); -ENOTSUP (protocol before 2.08, zImage, 32-bit). The
 * sentence does not name the file.
 * Source: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
 */
int bz_parse(struct bzimage *bz, const uint8_t *head, size_t head_bytes, uint64_t file_bytes,
	struct kv_err *err);

/*
 * Tell a payload's packing from its first @bytes at @magic.
 * Returns 0 and *@ret; -ENOTSUP for bzip2 and LZO; -ENOEXEC for anything else.
 */
int bz_packing(enum image_packing *ret, const uint8_t *magic, size_t bytes, struct kv_err *err);

/*
 * The unpacked size that the packed @payload announces, checked against BZ_UNPACKED_MAX and
 * @bz->init_bytes.
 * Returns 0 and *@ret_bytes; -ENOEXEC.
 */
int bz_unpacked(
	uint64_t *ret_bytes, const struct bzimage *bz, const uint8_t *payload, struct kv_err *err);

#endif
