/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_INTERNAL_H
#define KV_POOL_INTERNAL_H

#include "pool/server.h"

/* Shared by server.c (connections, messages) and lease.c (chunks, leases). All of it belongs to the
 * loop thread. */

struct client {
	struct pool_server *server; /* [c] */
	struct client *prev, *next;
	int fd;			    /* [c] */
	uid_t uid;		    /* [c] when it connected (SO_PEERCRED) */
	bool trusted;		    /* [c] its lease may be cleaned in place */
	struct loop_source *source; /* [c] */
	struct loop_source *timer;  /* [c] ends a connection that asks for nothing, or failed */
	int fail;		    /* what the timer tells the client; 0: that it took too long */

	/* The lease, once there is one or it waits for one. */
	bool waiting, lazy;
	bool renew;    /* not in place: POOL_RENEW, and no POOL_QUIET yet */
	bool reported; /* it named what it wrote */
	struct client *wait_next;
	uint64_t since_ns; /* when it began to wait */
	unsigned want;	   /* chunks */
	struct chunk **held;
	unsigned held_count;
};

struct pool_server {
	struct loop *loop;
	const struct kv_log *log;
	struct chunk_form form; /* [c] */
	struct store *store;
	int listen_fd;
	struct loop_source *listen_source;
	struct loop_source *accept_timer; /* listening goes on when descriptors may be free again */
	struct loop_source *retry_timer;  /* for chunks that found no memory */
	bool short_said;		  /* the log knows already */

	uid_t *allow, *trust;
	unsigned allow_count, trust_count;
	uint64_t user_bytes;
	unsigned clients_max, threads;

	struct client *clients;
	unsigned client_count;
	struct client *wait_first;

	struct chunk **chunks;
	unsigned chunk_count, chunk_room;
	unsigned target;
	struct pool_info total; /* counters since the start */
};

/* Take @client's request for a lease: granted, or queued when POOL_WAIT is set.
 * Returns 0; -EAGAIN, -ENOSPC, -EDQUOT, -EBUSY (has one already), -EPIPE and others of pool_send().
 */
int lease_ask(struct client *client, uint64_t bytes, uint32_t flags);

/* Send one chunk of a lazy lease. Returns 0; -EPROTO when there is none; -errno of pool_send(). */
int lease_fetch(struct client *client, uint32_t index);

/* Note what a client says it wrote. Returns 0; -EPROTO. */
int lease_wrote(struct client *client, const struct pool_wrote *wrote);

/* Note that nothing writes to a client's chunks any more. Returns 0; -EPROTO without a lease. */
int lease_quiet(struct client *client);

/* The client is gone: its chunks go to the threads, or back when it never got them. */
void lease_end(struct client *client);

/* Serve those who wait, first come, first served, but for those whose user must return chunks. */
void leases_serve(struct pool_server *server);

/* Make the pool want @target chunks, and begin to have them. Returns 0; -ENOMEM, -EMFILE, -ENOSPC.
 */
int chunks_resize(struct pool_server *server, uint64_t target);

/* Take what the threads have finished. */
void chunks_done(void *server);

/* Try again to get memory for missing chunks: for some, and for more as these find it. */
void chunks_retry(void *server, uint32_t events);

/* Free all chunks, without touching what is leased. */
void chunks_free(struct pool_server *server);

#endif
