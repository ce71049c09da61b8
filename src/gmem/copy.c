/* SPDX-License-Identifier: Apache-2.0 */
#include "gmem/copy.h"

#include <emmintrin.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "gmem/host.h"
#include "gmem/internal.h"

#define LINE_BYTES 64

/* Below it one pread(2) is as fast. */
#define STREAM_MIN MIB
/* Below two of them another thread costs more than it brings. */
#define SLICE_MIN (8 * MIB)
#define SLICES	  8
/* Half of a small L2 cache. */
#define BUFFER_BYTES (256 * KIB)
/* What is made present at once, a multiple of BUFFER_BYTES. */
#define PRESENT_BYTES (2 * MIB)

void gmem_stream(void *to, const void *from, uint64_t bytes)
{
	uint8_t *out = to;
	const uint8_t *in = from;
	uint64_t head = -(uintptr_t)out % LINE_BYTES;

	if (head > bytes)
		head = bytes;
	memcpy(out, in, head);
	out += head;
	in += head;
	bytes -= head;
	for (; bytes >= LINE_BYTES; bytes -= LINE_BYTES) {
		__m128i a = _mm_loadu_si128((const __m128i *)in);
		__m128i b = _mm_loadu_si128((const __m128i *)in + 1);
		__m128i c = _mm_loadu_si128((const __m128i *)in + 2);
		__m128i d = _mm_loadu_si128((const __m128i *)in + 3);

		_mm_stream_si128((__m128i *)out, a);
		_mm_stream_si128((__m128i *)out + 1, b);
		_mm_stream_si128((__m128i *)out + 2, c);
		_mm_stream_si128((__m128i *)out + 3, d);
		in += LINE_BYTES;
		out += LINE_BYTES;
	}
	memcpy(out, in, bytes);
	/* Streaming stores are weakly ordered: what comes after must not overtake them. */
	_mm_sfence();
}

void gmem_stream_zero(void *to, uint64_t bytes)
{
	__m128i zero = _mm_setzero_si128();
	uint8_t *end = (uint8_t *)to + bytes;

	for (uint8_t *at = to; at < end; at += LINE_BYTES) {
		_mm_stream_si128((__m128i *)at, zero);
		_mm_stream_si128((__m128i *)at + 1, zero);
		_mm_stream_si128((__m128i *)at + 2, zero);
		_mm_stream_si128((__m128i *)at + 3, zero);
	}
	_mm_sfence();
}

struct slice {
	uint8_t *to;
	uint64_t bytes;
	int fd;
	uint64_t offset;
	int result;
	pthread_t thread;
};

/* Make pages present in one go; what does not work that way is left to page faults. */
static void pages_present(uint8_t *at, uint64_t bytes)
{
	uintptr_t start = align_down((uintptr_t)at, PAGE_BYTES);
	uintptr_t end = align_up((uintptr_t)at + bytes, PAGE_BYTES);

	madvise((void *)start, end - start, MADV_POPULATE_WRITE);
}

static void *slice_copy(void *arg)
{
	struct slice *slice = arg;
	MEM_SCOPED uint8_t *buffer = malloc(BUFFER_BYTES);

	slice->result = buffer ? 0 : -ENOMEM;
	for (uint64_t done = 0, n; !slice->result && done < slice->bytes; done += n) {
		uint64_t left = slice->bytes - done;

		if (done % PRESENT_BYTES == 0)
			pages_present(
				slice->to + done, left < PRESENT_BYTES ? left : PRESENT_BYTES);
		n = left < BUFFER_BYTES ? left : BUFFER_BYTES;
		slice->result = fd_pread_all(slice->fd, buffer, n, slice->offset + done);
		if (!slice->result)
			gmem_stream(slice->to + done, buffer, n);
	}
	return NULL;
}

int gmem_copy_file(uint8_t *to, uint64_t bytes, int fd, uint64_t offset)
{
	struct slice slices[SLICES];
	unsigned count = bytes >= 2 * SLICE_MIN ? gmem_cpus() : 1, started = 1;
	uint64_t done = 0;
	int r = 0;

	if (bytes < STREAM_MIN)
		return fd_pread_all(fd, to, bytes, offset);
	if (count > bytes / SLICE_MIN)
		count = (unsigned)(bytes / SLICE_MIN);
	if (count > SLICES)
		count = SLICES;
	if (!count)
		count = 1;
	for (unsigned i = 0; i < count; i++) {
		/* Slices meet at huge pages, so that no two threads want the same. */
		uintptr_t end = align_down((uintptr_t)to + bytes / count * (i + 1), HUGE_BYTES);
		uint64_t upto = i + 1 == count ? bytes : end - (uintptr_t)to;

		slices[i] = (struct slice){to + done, upto - done, fd, offset + done, 0, 0};
		done = upto;
	}
	while (started < count &&
		!pthread_create(&slices[started].thread, NULL, slice_copy, &slices[started]))
		started++;
	slice_copy(&slices[0]);
	/* Those that got no thread are done here. */
	for (unsigned i = started; i < count; i++)
		slice_copy(&slices[i]);
	for (unsigned i = 0; i < count; i++) {
		if (i > 0 && i < started)
			pthread_join(slices[i].thread, NULL);
		if (!r)
			r = slices[i].result;
	}
	return r;
}
