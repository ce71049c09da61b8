/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BASE_NUM_H
#define KV_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A guest-physical address, in bytes. */
typedef uint64_t gpa_t;

#define KIB 1024ULL
#define MIB (1024ULL * KIB)
#define GIB (1024ULL * MIB)
#define TIB (1024ULL * GIB)

/* The x86 base page; every mapping of guest memory is a multiple of it. */
#define PAGE_BYTES 4096ULL

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* The struct of @type whose @member @ptr points to. */
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* @n rounded down to a multiple of @align, which must be a power of two. */
static inline uint64_t align_down(uint64_t n, uint64_t align)
{
	return n & ~(align - 1);
}

/* @n rounded up to a multiple of @align (a power of two); the caller rules out overflow. */
static inline uint64_t align_up(uint64_t n, uint64_t align)
{
	return (n + align - 1) & ~(align - 1);
}

/* True when [@start, @start + @len) does not wrap; *@end (never NULL) gets start + len. */
static inline bool range_end(uint64_t start, uint64_t len, uint64_t *end)
{
	return !__builtin_add_overflow(start, len, end);
}

/* True when [@a, @a + @alen) and [@b, @b + @blen) share a byte; neither may wrap. */
static inline bool range_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return alen && blen && a < b + blen && b < a + alen;
}

/*
 * Parse a size as people write it: digits and an optional suffix K, M, G or T (either case, powers
 * of 1024; "iB" or "B" may follow), no sign and no blanks: "128M", "4GiB", "512".
 * Returns 0 and sets *@ret_bytes; -EINVAL when it has another form; -ERANGE over 2^64 - 1.
 */
int size_parse(const char *text, uint64_t *ret_bytes);

/*
 * Write @bytes in the shortest exact form with a suffix ("256M", "1536K", "17") into @buf.
 * Returns @buf. 24 bytes are enough.
 */
const char *size_format(uint64_t bytes, char *buf, size_t buf_bytes);

/*
 * Parse an unsigned number: decimal, or hexadecimal behind 0x; no sign, blanks or rest.
 * Returns 0 and sets *@ret; -EINVAL for another form; -ERANGE when it is outside [@min, @max].
 */
int uint_parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

#endif
