/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_STREAM_H
#define KV_CLI_BENCH_STREAM_H

#include <stdint.h>

#include "base/err.h"

/*
 * The host's end of a benchmark's TCP streams: a thread that takes connections, one after the
 * other. Each begins with two numbers of 8 bytes, as this machine has them: how much will come,
 * and how much is wanted. What comes is dropped, what is wanted is zeroes; then it hangs up.
 */
struct bench_stream;

/*
 * Listen at the IPv4 address of the interface @name, at a port of the kernel's choice.
 * Returns 0; -ENODEV (no such interface), -EADDRNOTAVAIL (it has no address), -errno, with a
 * sentence. Owns: bench_stream_stop() ends it, with the connection at work; NULL is allowed.
 */
int bench_stream_start(struct bench_stream **ret, const char *name, struct kv_err *err);
void bench_stream_stop(struct bench_stream *stream);

/* Where it listens: "10.0.0.1", valid until it stops, and the port. */
const char *bench_stream_host(const struct bench_stream *stream);
uint16_t bench_stream_port(const struct bench_stream *stream);

#endif
