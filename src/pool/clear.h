/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_CLEAR_H
#define KV_POOL_CLEAR_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Write zeros over @bytes (a multiple of 64) at @at (64-byte aligned) with streaming stores, which
 * do not read the old contents and leave the caches to others. They are weakly ordered: nobody may
 * be offered the memory, and it may not go back to the kernel, before pool_clear_end(). The memory
 * must be present or able to become so: a fault is a fault.
 * Context: any thread. Source: Intel SDM vol. 1 §10.4.6.2.
 */
void pool_clear(void *at, uint64_t bytes);

/*
 * What this thread has cleared is zero for every other one on return. It waits for the memory, some
 * 200 ns: once for many small pieces.
 */
void pool_clear_end(void);

/* True when all of @bytes (a multiple of 64) at @at (64-byte aligned) are zero. */
bool pool_is_zero(const void *at, uint64_t bytes);

#endif
