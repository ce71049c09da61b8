/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token bucket with any rates, asked at any times: it never gives more than its burst, its size
 * and what comes in the time that passed, and who waits as long as told to gets what was asked for.
 *
 * Input: the rate, then requests of 8 bytes of tokens and 8 of time that passes, both shifted.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/limit.h"

__extension__ typedef unsigned __int128 wide_t;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

/* Small numbers as often as large ones: the low bits say how far to shift the others. */
static uint64_t number(const uint8_t *data)
{
	uint64_t n;

	memcpy(&n, data, sizeof(n));
	return n >> (n & 63);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct limit_bucket bucket;
	struct limit_rate rate;
	uint64_t now = 0, wait, tokens;
	wide_t taken = 0, most, last = 0;

	if (size < 24)
		return 0;
	rate = (struct limit_rate){number(data), number(data + 8), number(data + 16)};
	limit_fill(&bucket, &rate, now);
	for (size_t at = 24; at + 16 <= size; at += 16) {
		tokens = number(data + at);
		if (__builtin_add_overflow(now, number(data + at + 8), &now))
			return 0;
		wait = limit_wait(&bucket, tokens, now);
		check(bucket.budget <= (int64_t)bucket.size);
		if (!bucket.size) {
			check(!wait);
			continue;
		}
		if (wait && !__builtin_add_overflow(now, wait, &now))
			check(wait == UINT64_MAX || !limit_wait(&bucket, tokens, now));
		else if (wait)
			return 0;
		if (limit_wait(&bucket, tokens, now))
			continue;
		limit_spend(&bucket, tokens);
		/* The last one may be more than there was, and a huge one is cut short. */
		taken += last;
		last = tokens;
		most = (wide_t)now * bucket.size / bucket.refill_ns + bucket.size + rate.burst;
		check(taken <= most || tokens > LIMIT_TOKENS_MAX || taken > LIMIT_TOKENS_MAX);
	}
	return 0;
}
