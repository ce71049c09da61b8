/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_SUM_H
#define KV_X86_SUM_H

#include <stddef.h>
#include <stdint.h>

/*
 * The byte that makes the sum of all bytes of a firmware table zero (modulo 256); the table's
 * checksum field must be zero when this is called.
 */
static inline uint8_t table_checksum(const void *table, size_t bytes)
{
	const uint8_t *at = table;
	uint8_t sum = 0;

	while (bytes--)
		sum = (uint8_t)(sum + *at++);
	return (uint8_t)-sum;
}

#endif
