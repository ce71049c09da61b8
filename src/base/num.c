/* SPDX-License-Identifier: Apache-2.0 */
#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The digits at *@at in @base; *@at ends behind them. */
static int digits_parse(const char **at, unsigned base, uint64_t *ret)
{
	const char *c = *at;
	uint64_t n = 0;

	for (;; c++) {
		unsigned digit;

		if (*c >= '0' && *c <= '9')
			digit = (unsigned)(*c - '0');
		else if (base == 16 && (*c | 32) >= 'a' && (*c | 32) <= 'f')
			digit = (unsigned)((*c | 32) - 'a') + 10;
		else
			break;
		if (__builtin_mul_overflow(n, base, &n) || __builtin_add_overflow(n, digit, &n))
			return -ERANGE;
	}
	if (c == *at)
		return -EINVAL;
	*at = c;
	*ret = n;
	return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char suffixes[] = "KMGT";
	unsigned shift = 0;
	const char *suffix;
	uint64_t n;
	int r = digits_parse(&text, 10, &n);

	if (r < 0)
		return r;
	suffix = *text >= 'A' ? strchr(suffixes, *text & ~32) : NULL;
	if (suffix) {
		shift = 10 * (unsigned)(suffix - suffixes + 1);
		text++;
	}
	if (*text && strcasecmp(text, "B") && !(shift && !strcasecmp(text, "iB")))
		return -EINVAL;
	if (shift && n >> (64 - shift))
		return -ERANGE;
	*ret_bytes = n << shift;
	return 0;
}

const char *size_format(uint64_t bytes, char *buf, size_t buf_bytes)
{
	static const char suffixes[] = "\0KMGT";
	unsigned step = 0;

	while (step < 4 && bytes && bytes % 1024 == 0) {
		bytes /= 1024;
		step++;
	}
	snprintf(buf, buf_bytes, "%" PRIu64 "%.1s", bytes, suffixes + step);
	return buf;
}

int uint_parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	unsigned base = 10;
	uint64_t n;
	int r;

	if (text[0] == '0' && (text[1] | 32) == 'x') {
		base = 16;
		text += 2;
	}
	r = digits_parse(&text, base, &n);
	if (r < 0)
		return r;
	if (*text)
		return -EINVAL;
	if (n < min || n > max)
		return -ERANGE;
	*ret = n;
	return 0;
}
