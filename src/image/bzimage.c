/* SPDX-License-Identifier: Apache-2.0 */
#include "image/bzimage.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Offsets in the file, as boot.rst counts them. */
#define HEADER_AT     0x1f1
#define HEADER_MAGIC  0x202
#define HEADER_JUMP   0x201 /* the header ends so many bytes behind HEADER_MAGIC */
#define HEADER_LIMIT  0x290 /* behind it struct boot_params has other fields */
#define SECTOR_BYTES  512
#define BOOT_FLAG     0xaa55
#define MAGIC_HDRS    0x53726448 /* "HdrS" */
#define VERSION_MIN   0x0208	 /* payload_offset and payload_length came with 2.08 */
#define VERSION_INIT  0x020a	 /* init_size */
#define VERSION_XLOAD 0x020c	 /* xloadflags */

_Static_assert(HEADER_AT + offsetof(struct setup_header, header) == HEADER_MAGIC, "boot.rst");
_Static_assert(HEADER_AT + offsetof(struct setup_header, payload_offset) == 0x248, "boot.rst");
_Static_assert(HEADER_AT + offsetof(struct setup_header, init_size) == 0x260, "boot.rst");

/* The header up to what protocol 2.08 has. */
#define HEADER_MIN_END (HEADER_AT + offsetof(struct setup_header, setup_data))

static const struct {
	uint8_t bytes[6];
	uint8_t count;
	bool known;
	enum image_packing packing;
	const char *name;
} magics[] = {
	{{0x7f, 'E', 'L', 'F'}, 4, true, IMAGE_PLAIN, ""},
	{{0x1f, 0x8b}, 2, true, IMAGE_GZIP, ""},
	{{0xfd, '7', 'z', 'X', 'Z', 0}, 6, true, IMAGE_XZ, ""},
	{{0x5d, 0, 0}, 3, true, IMAGE_LZMA, ""},
	{{0x02, 0x21, 0x4c, 0x18}, 4, true, IMAGE_LZ4, ""},
	{{0x28, 0xb5, 0x2f, 0xfd}, 4, true, IMAGE_ZSTD, ""},
	{{'B', 'Z', 'h'}, 3, false, IMAGE_PLAIN, "bzip2"},
	{{0x89, 'L', 'Z', 'O'}, 4, false, IMAGE_PLAIN, "LZO"},
};

bool bz_detect(const uint8_t *head, size_t bytes)
{
	struct setup_header h;

	if (bytes < HEADER_AT + sizeof(h))
		return false;
	memcpy(&h, head + HEADER_AT, sizeof(h));
	return h.boot_flag == BOOT_FLAG && h.header == MAGIC_HDRS;
}

static int header_check(const struct setup_header *h, struct kv_err *err)
{
	if (h->version < VERSION_MIN)
		return err_set(err, -ENOTSUP,
			"bzImage boot protocol %u.%02u is older than 2.08 and does not say where "
			"the "
			"kernel lies",
			h->version >> 8, h->version & 0xff);
	if (!(h->loadflags & LOADED_HIGH))
		return err_set(err, -ENOTSUP, "it is a zImage (loaded low), not a bzImage");
	if (h->version >= VERSION_XLOAD && !(h->xloadflags & XLF_KERNEL_64))
		return err_set(
			err, -ENOTSUP, "it is a 32-bit kernel (no XLF_KERNEL_64 in xloadflags)");
	if (!h->payload_length)
		return err_set(
			err, -ENOEXEC, "bzImage payload_length is 0: there is no kernel in it");
	return 0;
}

int bz_parse(struct bzimage *bz, const uint8_t *head, size_t head_bytes, uint64_t file_bytes,
	struct kv_err *err)
{
	unsigned sectors, end;
	struct setup_header h;
	uint64_t payload;
	int r;

	if (!bz_detect(head, head_bytes))
		return err_set(err, -ENOEXEC, "it has no bzImage setup header");
	memcpy(&h, head + HEADER_AT, sizeof(h));
	end = HEADER_MAGIC + head[HEADER_JUMP];
	if (end < HEADER_MIN_END || end > head_bytes)
		return err_set(err, -ENOEXEC,
			"bzImage setup header ends at 0x%x; 0x%zx to 0x%zx are allowed", end,
			HEADER_MIN_END, head_bytes);
	if (end > HEADER_LIMIT)
		end = HEADER_LIMIT;
	r = header_check(&h, err);
	if (r < 0)
		return r;

	/* 0 is what kernels before setup_sects was used had: 4. */
	sectors = h.setup_sects ? h.setup_sects : 4;
	payload = (uint64_t)(sectors + 1) * SECTOR_BYTES + h.payload_offset;
	if (payload + h.payload_length > file_bytes)
		return err_set(err, -ENOEXEC,
			"bzImage payload of %u bytes at file offset %" PRIu64
			" lies beyond the end (%" PRIu64 " bytes): the file is cut off",
			h.payload_length, payload, file_bytes);
	if (h.payload_length > BZ_PAYLOAD_MAX)
		return err_set(err, -ENOEXEC,
			"bzImage payload has %u bytes; at most %llu are allowed", h.payload_length,
			BZ_PAYLOAD_MAX);

	*bz = (struct bzimage){
		.payload_offset = payload,
		.payload_bytes = h.payload_length,
		.init_bytes = h.version >= VERSION_INIT ? h.init_size : 0,
		/* Protocol 2.06 brought the field; before, 255 bytes were the limit. */
		.cmdline_max = h.cmdline_size ? h.cmdline_size : 255,
		.header_bytes = end - HEADER_AT,
	};
	memcpy(bz->header, head + HEADER_AT, bz->header_bytes);
	return 0;
}

int bz_packing(enum image_packing *ret, const uint8_t *magic, size_t bytes, struct kv_err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(magics); i++) {
		if (bytes < magics[i].count || memcmp(magic, magics[i].bytes, magics[i].count))
			continue;
		if (!magics[i].known)
			return err_set(err, -ENOTSUP,
				"its kernel is packed with %s; kvick unpacks gzip, xz, lzma, lz4 "
				"and "
				"zstd",
				magics[i].name);
		*ret = magics[i].packing;
		return 0;
	}
	return err_set(err, -ENOEXEC,
		"its payload starts with %02x %02x %02x %02x, which is no packing (gzip, xz, lzma, "
		"lz4, zstd) and no ELF file",
		bytes > 0 ? magic[0] : 0, bytes > 1 ? magic[1] : 0, bytes > 2 ? magic[2] : 0,
		bytes > 3 ? magic[3] : 0);
}

int bz_unpacked(
	uint64_t *ret_bytes, const struct bzimage *bz, const uint8_t *payload, struct kv_err *err)
{
	uint32_t bytes;

	if (bz->payload_bytes < BZ_SIZE_WORD)
		return err_set(err, -ENOEXEC, "its payload of %" PRIu64 " bytes holds no kernel",
			bz->payload_bytes);
	memcpy(&bytes, payload + bz->payload_bytes - BZ_SIZE_WORD, sizeof(bytes));
	if (!bytes || bytes > BZ_UNPACKED_MAX)
		return err_set(err, -ENOEXEC,
			"its payload says that it unpacks to %u bytes; 1 to %llu are allowed",
			bytes, BZ_UNPACKED_MAX);
	if (bz->init_bytes && bytes > bz->init_bytes)
		return err_set(err, -ENOEXEC,
			"its payload unpacks to %u bytes, more than the init_size of %" PRIu64
			" in its setup header",
			bytes, bz->init_bytes);
	*ret_bytes = bytes;
	return 0;
}
