/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/clear.h"

#include <emmintrin.h>

void pool_clear(void *at, uint64_t bytes)
{
	const __m128i zero = _mm_setzero_si128();

	for (__m128i *to = at, *end = to + bytes / sizeof(*to); to < end; to += 4) {
		_mm_stream_si128(to, zero);
		_mm_stream_si128(to + 1, zero);
		_mm_stream_si128(to + 2, zero);
		_mm_stream_si128(to + 3, zero);
	}
	/* Streaming stores are weakly ordered: nobody may be offered the memory before them. */
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
