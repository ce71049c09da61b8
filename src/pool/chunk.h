/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_CHUNK_H
#define KV_POOL_CHUNK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "pool/wire.h"

/* What all chunks of a pool have in common. */
struct chunk_form {
	uint64_t bytes;	     /* a multiple of page_bytes */
	uint64_t page_bytes; /* 4096, 2 MiB or 1 GiB */
	int node;	     /* NUMA node, or -1: any */
};

/*
 * One memfd and the server's mapping of it. The server itself keeps only descriptors that were
 * opened, not the one that memfd_create() made: the kernel counts openers for chunk_alone(), and
 * does not count that one.
 */
struct chunk_mem {
	int fd;	     /* the server's own */
	int lend_fd; /* another opening of the same file, for who leases it next or now; or -1 */
	void *map;
};

#define CHUNK_MEM_NONE ((struct chunk_mem){.fd = -1, .lend_fd = -1})

/*
 * Make a chunk: a sealed memfd, mapped and populated with zero pages by the kernel. Looks at *@stop
 * now and then.
 * Returns 0; -ENOMEM (@err says what is short); -ECANCELED; -errno.
 * Owns: the caller gives it back by chunk_drop(). Context: any thread, takes as long as it takes.
 */
int chunk_make(struct chunk_mem *mem, const struct chunk_form *form, const atomic_bool *stop,
	struct kv_err *err);

/*
 * Ask the kernel whether memory can be bound to NUMA @node at all (-1: always).
 * Returns 0; -EINVAL with a sentence that names the nodes there are; -errno.
 */
int chunk_node_check(int node, struct kv_err *err);

/* All huge pages of @form's size on its node, or on the host; -errno where there is no such size.
 */
long long chunk_huge_count(const struct chunk_form *form);

/*
 * Say that @missing huge pages are missing, and how to have @wanted of them in all.
 * Returns -ENOMEM.
 */
int chunk_huge_err(
	const struct chunk_form *form, uint64_t missing, uint64_t wanted, struct kv_err *err);

/*
 * Give a chunk back to the kernel. When it was @lent, its pages are taken out of the file first,
 * also from under whoever kept a descriptor or a mapping; @mem becomes CHUNK_MEM_NONE.
 */
void chunk_drop(struct chunk_mem *mem, const struct chunk_form *form, bool lent);

/*
 * True when it is certain that nobody but @mem holds a descriptor of the file, a mapping of it, or
 * such a descriptor in flight through a socket. (References to single pages, as a pipe may hold
 * them, do not count: docs/pool.md.) @mem->lend_fd must be -1. The process must ignore SIGIO.
 * Source: fcntl(2), F_SETLEASE: a write lease is only given when the file has no other opener.
 */
bool chunk_alone(const struct chunk_mem *mem);

/*
 * What the file lacks of its pages, in bytes: clients can punch holes. Storing into them could be a
 * SIGBUS. Only for a chunk_alone() chunk. Returns 0 and up; -errno of fstat(2).
 */
int64_t chunk_holes(const struct chunk_mem *mem, const struct chunk_form *form);

/*
 * Make all pages present, never by plain stores. Looks at *@stop now and then.
 * Returns 0; -ENOMEM; -ECANCELED; -errno.
 */
int chunk_populate(
	const struct chunk_mem *mem, const struct chunk_form *form, const atomic_bool *stop);

/*
 * Write zeros over the @count spans, or over everything when @spans is NULL; spans outside the
 * chunk are an error. Only for a chunk_alone() chunk that has all its pages. @done_bytes gets what
 * was written over. Returns 0; -ERANGE.
 */
int chunk_clean(const struct chunk_mem *mem, const struct chunk_form *form,
	const struct pool_span *spans, uint64_t count, uint64_t *done_bytes);

/*
 * Open the file once more for the next client (mem->lend_fd).
 * Returns 0 or -errno.
 */
int chunk_lend(struct chunk_mem *mem);

#endif
