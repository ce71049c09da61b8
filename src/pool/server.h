/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_SERVER_H
#define KV_POOL_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/log.h"
#include "loop/loop.h"
#include "pool/store.h"
#include "pool/wire.h"

/* A pool of zeroed pages: docs/pool.md says what it guarantees and why that holds. */
struct pool_server;

struct pool_config {
	uint64_t size_bytes;  /* a multiple of chunk_bytes; 0: empty until it grows */
	uint64_t chunk_bytes; /* a multiple of page_bytes; 0: pool_chunk_size() */
	uint64_t page_bytes;  /* 4096, 2 MiB or 1 GiB */
	int node;	      /* NUMA node, or -1: any */
	unsigned threads;     /* that fill and clean: 1..64; 0: one a CPU, at most 8 */
	enum pool_verify verify;
	uint64_t user_bytes;  /* what one user may lease at a time; 0: everything */
	unsigned clients_max; /* connections; 0: 1,024. One user gets at most half */
	const uid_t *allow;   /* who may lease beside the own user and root, who always may */
	unsigned allow_count;
	/*
	 * Whose clients keep no references to pages on purpose and report truly what they wrote:
	 * their chunks are cleaned in place and stay with the same user.
	 */
	const uid_t *trust;
	unsigned trust_count;
};

/*
 * The default chunk: a sixteenth of @size_bytes as a power of two, 16 MiB..1 GiB, at least a page.
 * Few and large chunks make a lease quick; many and small ones waste less of the last one.
 */
uint64_t pool_chunk_size(uint64_t size_bytes, uint64_t page_bytes);

/*
 * Start a pool whose clients come from @listen_fd (-1: only by pool_server_adopt()) and are served
 * in @loop's thread; its chunks are filled in the background. The process must ignore SIGIO.
 * Returns 0; -EINVAL (a field of @config; huge pages of a size that the host lacks); -ENOMEM (the
 * host can never hold so much); -EMFILE (too few descriptors allowed); -errno.
 * Owns: the caller destroys it; @listen_fd is consumed on success. @loop and @log (may be NULL)
 * must outlive it; the arrays in @config are copied. Context: loop thread, or before it runs.
 */
int pool_server_create(struct pool_server **ret, const struct pool_config *config, int listen_fd,
	struct loop *loop, const struct kv_log *log, struct kv_err *err);

/* Stop: connections are closed, what is leased stays with those who mapped it. NULL is allowed.
 * Context: loop thread, or while it is not running. */
void pool_server_destroy(struct pool_server *server);

/*
 * Serve one more connected socket, as if it had come from the listening one.
 * Returns 0; -EACCES, -EBUSY, -errno. Owns: @fd is consumed on success. Context: loop thread, or
 * while it is not running.
 */
int pool_server_adopt(struct pool_server *server, int fd);

/* The answer to POOL_STATUS. Context: loop thread, or while it is not running. */
void pool_server_info(struct pool_server *server, struct pool_info *info);

#endif
