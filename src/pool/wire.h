/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_WIRE_H
#define KV_POOL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The pool's protocol (docs/pool.md, "Protocol"): packets on a SOCK_SEQPACKET socket between two
 * processes of one machine, so numbers are in its own byte order.
 */
#define POOL_MAGIC	0x6b76706fu /* "kvpo" */
#define POOL_VERSION	1
#define POOL_SPANS_MAX	500 /* in one POOL_WROTE */
#define POOL_FDS_MAX	253 /* the kernel's limit for one packet (SCM_MAX_FD) */
#define POOL_CHUNKS_MAX 16384

enum pool_type {
	/* requests */
	POOL_LEASE = 1, /* bytes, flags */
	POOL_FETCH,	/* index: a lazy lease's chunk, sent when it is first needed */
	POOL_WROTE,	/* index, count, spans: what was written in a chunk */
	POOL_END,	/* the lease is over, and POOL_WROTE named everything that was written */
	POOL_STATUS,
	POOL_GROW,   /* bytes */
	POOL_SHRINK, /* bytes */
	POOL_DRAIN,
	POOL_QUIET, /* nothing writes to the chunks any more: POOL_RENEW no longer counts */
	/* answers */
	POOL_GRANT = 64, /* index, count of this packet's descriptors; bytes: of all chunks */
	POOL_INFO,	 /* struct pool_info */
	POOL_DONE,
	POOL_ERROR, /* error: a positive errno */
};

/* Flags of POOL_LEASE. */
enum {
	POOL_WAIT = 1,	/* until there are enough chunks; else the answer comes at once */
	POOL_LAZY = 2,	/* chunks are sent by POOL_FETCH, one by one */
	POOL_RENEW = 4, /* not to be cleaned in place before POOL_QUIET: devices may write to it */
};

struct pool_msg {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t flags;
	uint32_t index;
	uint32_t count;
	uint32_t error;
	uint64_t bytes;
	uint64_t chunk_bytes;
	uint64_t page_bytes;
};
_Static_assert(sizeof(struct pool_msg) == 48, "docs/pool.md, Protocol");

/* Pages of 4096 bytes from the chunk's start, whatever the chunk's own page size. */
struct pool_span {
	uint32_t page;
	uint32_t pages;
};
_Static_assert(sizeof(struct pool_span) == 8, "docs/pool.md, Protocol");

/* POOL_WROTE; only the first msg.count spans are sent. */
struct pool_wrote {
	struct pool_msg msg;
	struct pool_span spans[POOL_SPANS_MAX];
};
_Static_assert(sizeof(struct pool_wrote) == 4048, "docs/pool.md, Protocol");

/* The answer to POOL_STATUS: msg.chunk_bytes and msg.page_bytes say how large things are. */
struct pool_info {
	struct pool_msg msg;
	uint64_t target_chunks; /* what the pool shall have */
	uint64_t free_chunks;
	uint64_t leased_chunks;
	uint64_t cleaning_chunks; /* being cleaned, renewed or given back */
	uint64_t filling_chunks;  /* being filled for the first time */
	uint64_t missing_chunks;  /* wanting memory of the host */
	uint64_t clients;
	uint64_t leases;
	uint64_t waiting;
	uint64_t threads;
	uint64_t pid;
	/* since the start */
	uint64_t granted;	   /* leases */
	uint64_t short_of;	   /* leases refused for want of chunks */
	uint64_t refused_user;	   /* connections of users who are not allowed */
	uint64_t refused_limit;	   /* connections and leases over a limit */
	uint64_t refused_message;  /* malformed, out of place, too late, with descriptors */
	uint64_t cleaned_bytes;	   /* streamed over in place */
	uint64_t cleaned_ns;	   /* processor time for it */
	uint64_t renewed_bytes;	   /* given back to the kernel and replaced by fresh memory */
	uint64_t renewed_ns;	   /* processor time for it */
	uint64_t untouched_chunks; /* of leases that never fetched them */
	uint64_t held_chunks;	   /* renewed because somebody still held them */
	uint64_t verify_failed;	   /* found not zero after cleaning: renewed */
};
_Static_assert(sizeof(struct pool_info) == 48 + 23 * 8, "docs/pool.md, Protocol");

/*
 * Check that the @len bytes at @packet are a request, well-formed and with nothing set that it does
 * not use. The packet comes from a hostile process and must not change meanwhile.
 * Returns 0 (then @packet may be read as struct pool_msg, or struct pool_wrote for POOL_WROTE);
 * -EBADMSG. Context: any thread.
 */
int pool_check(const void *packet, size_t len);

/*
 * Send @len bytes of @packet with @fd_count descriptors, without blocking or SIGPIPE.
 * Returns 0; -EAGAIN when the peer does not read; -EMSGSIZE (too many descriptors); -errno.
 */
int pool_send(int fd, const void *packet, size_t len, const int *fds, unsigned fd_count);

#endif
