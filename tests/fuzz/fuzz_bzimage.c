/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bzImages: setup header, packing, unpacking, and the ELF that comes out. The input is the file.
 * Nothing is kept on disk: the unpacked kernel goes to memory, at most UNPACKED_MAX bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/num.h"
#include "image/bzimage.h"
#include "image/elf.h"
#include "image/unpack.h"

#define UNPACKED_MAX (1 * MIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct out {
	uint8_t *data;
	uint64_t bytes, room;
};

static void must(bool truth, const char *what)
{
	if (truth)
		return;
	fprintf(stderr, "%s\n", what);
	abort();
}

static int out_write(void *ctx, const void *data, size_t len)
{
	struct out *out = ctx;

	must(len > 0 && len <= out->room - out->bytes, "more than announced is unpacked");
	memcpy(out->data + out->bytes, data, len);
	out->bytes += len;
	return 0;
}

static void kernel_check(const struct out *out)
{
	struct elf_file elf = {
		.fd = -1, .bytes = out->bytes, .head = out->data, .head_bytes = out->bytes};
	struct image_plan plan = {.protocol = IMAGE_AUTO};
	struct kv_err err = {""};

	if (elf_plan(&plan, &elf, IMAGE_AUTO, &err))
		must(err.text[0], "an error without a sentence");
}

static void payload_check(const struct bzimage *bz, const uint8_t *payload)
{
	struct out out = {.room = bz->payload_bytes};
	struct unpack_sink sink = {out_write, &out};
	enum image_packing packing;
	struct kv_err err = {""};
	int r, sink_error;

	if (bz_packing(&packing, payload, bz->payload_bytes, &err))
		return;
	if (packing != IMAGE_PLAIN && bz_unpacked(&out.room, bz, payload, &err))
		return;
	if (out.room > UNPACKED_MAX)
		out.room = UNPACKED_MAX;
	out.data = malloc(out.room);
	must(out.data, "no memory");
	r = unpack_run(packing, payload, bz->payload_bytes, out.room, &sink, &sink_error, &err);
	must(r || out.bytes == out.room, "success with a wrong size");
	must(!r || err.text[0], "an error without a sentence");
	must(!sink_error, "the sink did not fail");
	kernel_check(&out);
	free(out.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	size_t head_bytes = bytes < ELF_HEAD_BYTES ? bytes : ELF_HEAD_BYTES;
	struct kv_err err = {""};
	struct bzimage bz;

	if (!bz_detect(data, head_bytes))
		return 0;
	if (bz_parse(&bz, data, head_bytes, bytes, &err)) {
		must(err.text[0], "an error without a sentence");
		return 0;
	}
	must(bz.payload_bytes > 0 && bz.payload_offset <= bytes &&
			bz.payload_bytes <= bytes - bz.payload_offset,
		"the payload lies outside the file");
	must(bz.header_bytes <= sizeof(bz.header), "the header is too long");
	/* In a block of its own, so that reading over its end is seen. */
	uint8_t *payload = malloc(bz.payload_bytes);

	must(payload, "no memory");
	memcpy(payload, data + bz.payload_offset, bz.payload_bytes);
	payload_check(&bz, payload);
	free(payload);
	return 0;
}
