/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BASE_THREAD_H
#define KV_BASE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/*
 * Start a thread with a stack of @stack_bytes (PTHREAD_STACK_MIN and up). All signals but @signal
 * (0: none), SIGBUS and SIGSEGV are blocked in it and so go to the other threads.
 * Returns 0 or -errno of pthread_create(3). Owns: the caller joins *@ret.
 */
int thread_start(pthread_t *ret, size_t stack_bytes, int signal, void *(*fn)(void *ctx), void *ctx);

#endif
