/* SPDX-License-Identifier: Apache-2.0 */
#include "image/unpack.h"

#include <errno.h>
#include <inttypes.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "image/bzimage.h"

/* lz4 -l: blocks of 8 MiB, each behind its packed size; every frame starts with the magic. */
#define LZ4_MAGIC	0x184c2102U
#define LZ4_BLOCK_BYTES (8 * MIB)

struct unpack {
	const char *name;
	const uint8_t *in; /* what is left */
	size_t in_bytes;
	uint64_t done_bytes; /* given to the sink */
	uint64_t out_bytes;  /* announced */
	const struct unpack_sink *sink;
	int sink_error;
	struct kv_err *err;
};

static int out_put(struct unpack *u, const void *data, size_t len)
{
	int r;

	if (!len)
		return 0;
	if (len > u->out_bytes - u->done_bytes)
		return err_set(u->err, -ENOEXEC,
			"its %s payload unpacks to more than the %" PRIu64
			" bytes that it announces",
			u->name, u->out_bytes);
	r = u->sink->write(u->sink->ctx, data, len);
	if (r < 0) {
		u->sink_error = r;
		return err_set(u->err, r, "cannot write the unpacked kernel: %s", err_text(r));
	}
	u->done_bytes += len;
	return 0;
}

static int in_corrupt(struct unpack *u, const char *why)
{
	return err_set(u->err, -ENOEXEC,
		"its %s payload is corrupt behind %" PRIu64 " unpacked bytes: %s", u->name,
		u->done_bytes, why);
}

static int in_cut(struct unpack *u)
{
	return in_corrupt(u, "it ends too early");
}

static int no_memory(struct unpack *u)
{
	return err_set(u->err, -ENOMEM, "no memory to unpack a %s payload", u->name);
}

static int gzip_run(struct unpack *u, uint8_t *chunk)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)u->in, .avail_in = (uInt)u->in_bytes};
	int zr, r = 0;

	/* 16: a gzip header and checksum, nothing else. */
	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return no_memory(u);
	do {
		z.next_out = chunk;
		z.avail_out = UNPACK_CHUNK_BYTES;
		zr = inflate(&z, Z_NO_FLUSH);
		if (zr == Z_MEM_ERROR)
			r = no_memory(u);
		else if (zr == Z_BUF_ERROR)
			r = in_cut(u);
		else if (zr != Z_OK && zr != Z_STREAM_END)
			r = in_corrupt(u, z.msg ? z.msg : "bad data");
		else
			r = out_put(u, chunk, UNPACK_CHUNK_BYTES - z.avail_out);
	} while (!r && zr != Z_STREAM_END);
	inflateEnd(&z);
	return r;
}

static int lzma_error(struct unpack *u, lzma_ret lr)
{
	switch (lr) {
	case LZMA_OK:
	case LZMA_STREAM_END:
		return 0;
	case LZMA_MEM_ERROR:
		return no_memory(u);
	case LZMA_MEMLIMIT_ERROR:
		return in_corrupt(u, "its dictionary is too large");
	case LZMA_BUF_ERROR:
		return in_cut(u);
	case LZMA_OPTIONS_ERROR:
		return in_corrupt(u, "it uses options that liblzma does not know");
	case LZMA_FORMAT_ERROR:
		return in_corrupt(u, "bad header");
	default:
		return in_corrupt(u, "bad data or checksum");
	}
}

/* xz and lzma. */
static int lzma_run(struct unpack *u, uint8_t *chunk, lzma_ret init, lzma_stream *s)
{
	lzma_ret lr = init;
	int r = lzma_error(u, lr);

	s->next_in = u->in;
	s->avail_in = u->in_bytes;
	while (!r && lr != LZMA_STREAM_END) {
		s->next_out = chunk;
		s->avail_out = UNPACK_CHUNK_BYTES;
		lr = lzma_code(s, LZMA_FINISH);
		r = lzma_error(u, lr);
		if (!r)
			r = out_put(u, chunk, UNPACK_CHUNK_BYTES - s->avail_out);
	}
	lzma_end(s);
	return r;
}

static int zstd_run(struct unpack *u, uint8_t *chunk)
{
	ZSTD_inBuffer in = {.src = u->in, .size = u->in_bytes};
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	size_t left = 1;
	int r = 0;

	if (!ctx)
		return no_memory(u);
	/* 0: the frame has ended and all of it was given out. */
	while (!r && left) {
		ZSTD_outBuffer out = {.dst = chunk, .size = UNPACK_CHUNK_BYTES};
		size_t before = in.pos;

		left = ZSTD_decompressStream(ctx, &out, &in);
		if (ZSTD_isError(left))
			r = ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation
				    ? no_memory(u)
				    : in_corrupt(u, ZSTD_getErrorName(left));
		else if (left && !out.pos && in.pos == before)
			r = in_cut(u);
		else
			r = out_put(u, chunk, out.pos);
	}
	ZSTD_freeDCtx(ctx);
	return r;
}

static bool lz4_word(struct unpack *u, uint32_t *ret)
{
	if (u->in_bytes < sizeof(*ret))
		return false;
	memcpy(ret, u->in, sizeof(*ret));
	u->in += sizeof(*ret);
	u->in_bytes -= sizeof(*ret);
	return true;
}

static int lz4_blocks(struct unpack *u, char *block)
{
	uint32_t word;
	int r = 0;

	if (!lz4_word(u, &word) || word != LZ4_MAGIC)
		return in_corrupt(u, "bad header");
	while (!r && u->in_bytes) {
		int n;

		if (!lz4_word(u, &word))
			return in_cut(u);
		if (word == LZ4_MAGIC) /* another frame was appended */
			continue;
		if (word > (uint32_t)LZ4_COMPRESSBOUND(LZ4_BLOCK_BYTES))
			return in_corrupt(u, "a block is larger than 8 MiB");
		if (word > u->in_bytes)
			return in_cut(u);
		n = LZ4_decompress_safe((const char *)u->in, block, (int)word, LZ4_BLOCK_BYTES);
		if (n < 0)
			return in_corrupt(u, "bad block");
		u->in += word;
		u->in_bytes -= word;
		r = out_put(u, block, (size_t)n);
	}
	return r;
}

static int lz4_run(struct unpack *u)
{
	char *block = malloc(LZ4_BLOCK_BYTES);
	int r = block ? lz4_blocks(u, block) : no_memory(u);

	free(block);
	return r;
}

static int packing_run(struct unpack *u, enum image_packing packing, uint8_t *chunk)
{
	lzma_stream s = LZMA_STREAM_INIT;

	switch (packing) {
	case IMAGE_GZIP:
		return gzip_run(u, chunk);
	case IMAGE_XZ:
		return lzma_run(u, chunk, lzma_stream_decoder(&s, UNPACK_MEMORY_MAX, 0), &s);
	case IMAGE_LZMA:
		return lzma_run(u, chunk, lzma_alone_decoder(&s, UNPACK_MEMORY_MAX), &s);
	case IMAGE_LZ4:
		return lz4_run(u);
	case IMAGE_ZSTD:
		return zstd_run(u, chunk);
	case IMAGE_PLAIN:
		break;
	}
	return out_put(u, u->in, u->in_bytes);
}

int unpack_run(enum image_packing packing, const uint8_t *in, size_t in_bytes, uint64_t out_bytes,
	const struct unpack_sink *sink, int *ret_sink, struct kv_err *err)
{
	struct unpack u = {
		.name = image_packing_name(packing),
		.in = in,
		.in_bytes = in_bytes,
		.out_bytes = out_bytes,
		.sink = sink,
		.err = err,
	};
	uint8_t *chunk;
	int r;

	/* gzip's own trailer ends with the size; behind the others the kernel's build put it. */
	if (packing != IMAGE_PLAIN && packing != IMAGE_GZIP)
		u.in_bytes -= in_bytes < BZ_SIZE_WORD ? in_bytes : BZ_SIZE_WORD;
	chunk = malloc(UNPACK_CHUNK_BYTES);
	r = chunk ? packing_run(&u, packing, chunk) : no_memory(&u);
	free(chunk);
	if (!r && u.done_bytes != out_bytes)
		r = err_set(err, -ENOEXEC,
			"its %s payload unpacks to %" PRIu64 " bytes, but announces %" PRIu64,
			u.name, u.done_bytes, out_bytes);
	if (ret_sink)
		*ret_sink = u.sink_error;
	return r;
}
