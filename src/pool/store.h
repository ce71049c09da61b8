/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_STORE_H
#define KV_POOL_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "loop/loop.h"
#include "pool/chunk.h"

/* The threads that fill, clean and give back chunks, and the queue of what they have to do. */
struct store;

enum chunk_state {
	CHUNK_MISSING, /* no memory: to be tried again */
	CHUNK_FREE,    /* zero, present, and nobody's */
	CHUNK_LEASED,
	CHUNK_WORK, /* a thread has it, or will */
};

enum chunk_job {
	JOB_FILL,  /* it has no memory yet */
	JOB_CLEAN, /* in place, once nobody else holds it; renewed when that cannot be had */
	JOB_RENEW, /* its memory goes back to the kernel, which gives other */
	JOB_DROP,  /* its memory goes back to the kernel */
};

/*
 * Where a chunk's memory has been is kept in two fields. A chunk is bound when its memory was in
 * the hands of @uid and has not been renewed since: no other user's client ever gets it.
 */
struct chunk {
	/* owned by the loop thread, except while state is CHUNK_WORK: then by the threads */
	struct chunk_mem mem;
	enum chunk_state state;
	bool bound;
	uid_t uid;
	enum chunk_job job;
	bool sent;	  /* its descriptor went to the client that leases it */
	bool lent;	  /* some client has had this memory's descriptor */
	bool owed;	  /* the loop's: @uid had it last, and it has not become free since */
	bool spans_known; /* @spans is all that was written; else everything may be */
	bool spans_lost;  /* too many to keep, or no memory for them */
	struct pool_span *spans;
	uint32_t span_count, span_room;
	uint64_t ended_ns; /* when the lease ended */
	int result;	   /* of the job: 0 or -errno */
	struct chunk *next;
};

/* What the threads have done; filled under the store's lock. */
struct store_counts {
	uint64_t cleaned_bytes, cleaned_ns;
	uint64_t renewed_bytes, renewed_ns;
	uint64_t held_chunks, verify_failed;
};

/* How much of a cleaned chunk is read again before it is offered. */
enum pool_verify { POOL_VERIFY_NONE, POOL_VERIFY_SAMPLE, POOL_VERIFY_ALL };

/*
 * Start @threads threads at nice 10. @done is called in @loop's thread when store_take() has
 * something. Returns 0; -ENOMEM; -EMFILE; -EAGAIN (no more threads).
 * Owns: the caller destroys it, and the chunks; @form must outlive it.
 */
int store_create(struct store **ret, struct loop *loop, const struct chunk_form *form,
	unsigned threads, enum pool_verify verify, void (*done)(void *ctx), void *ctx);

/* Stop the threads soon, in the middle of jobs too; the chunks stay as they are. NULL is allowed.
 * Context: loop thread, or while it is not running. */
void store_destroy(struct store *store);

/* Hand @chunks (linked by next; state CHUNK_WORK, job set) to the threads. Context: loop thread. */
void store_push(struct store *store, struct chunk *chunks);

/*
 * A chunk that the threads are done with, or NULL. chunk->result is 0 (a chunk that is zero,
 * present and lendable; JOB_DROP: without memory) or -errno (without memory). @err (may be NULL)
 * gets the sentence for the last failure. Context: loop thread.
 */
struct chunk *store_take(struct store *store, struct kv_err *err);

/* Copy the counters. Context: any thread. */
void store_counts(struct store *store, struct store_counts *counts);

#endif
