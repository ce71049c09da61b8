/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/clear.h"

#include <immintrin.h>
#include <sys/platform/x86.h>

/*
 * A whole line in each store: up to a ninth faster than four parts of it, where another CPU's cache
 * still has the line.
 */
__attribute__((target("avx512f"))) static void lines_clear(void *at, uint64_t bytes)
{
	const __m512i zero = _mm512_setzero_si512();

	for (__m512i *to = at, *end = to + bytes / sizeof(*to); to < end; to++)
		_mm512_stream_si512(to, zero);
}

static void parts_clear(void *at, uint64_t bytes)
{
	const __m128i zero = _mm_setzero_si128();

	for (__m128i *to = at, *end = to + bytes / sizeof(*to); to < end; to += 4) {
		_mm_stream_si128(to, zero);
		_mm_stream_si128(to + 1, zero);
		_mm_stream_si128(to + 2, zero);
		_mm_stream_si128(to + 3, zero);
	}
}

void pool_clear(void *at, uint64_t bytes)
{
	/* The C library knows; the compiler's own check asks the CPU when the program starts. */
	if (CPU_FEATURE_ACTIVE(AVX512F))
		lines_clear(at, bytes);
	else
		parts_clear(at, bytes);
}

void pool_clear_end(void)
{
	_mm_sfence();
}

bool pool_is_zero(const void *at, uint64_t bytes)
{
	const __m128i *from = at, *end = from + bytes / sizeof(*from);

	while (from < end) {
		__m128i any = _mm_setzero_si128();

		/* A page's worth at a time, so that most of the work is free of branches. */
		for (unsigned i = 0; i < 64 && from < end; i++, from += 4)
			any = _mm_or_si128(any, _mm_or_si128(_mm_or_si128(from[0], from[1]),
							_mm_or_si128(from[2], from[3])));
		if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xffff)
			return false;
	}
	return true;
}
