/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_CLIENT_H
#define KV_POOL_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "pool/wire.h"

/* The side of who needs memory: a lease of chunks, which lasts as long as its connection. */
struct pool_lease;

/* One memfd; all of it is the lease's, and zero. Its size cannot change. */
struct pool_chunk {
	int fd; /* borrowed; -1: not fetched yet (POOL_LAZY) */
	uint64_t bytes;
};

/*
 * Lease @bytes (rounded up to whole chunks) from the pool at @path (NULL: pool_path()). With @wait
 * it may take until others give chunks back; else the answer is there at once, or within 5 s.
 * Returns 0; -EAGAIN (short at the moment; only without @wait); -ENOSPC (more than the pool has);
 * -EDQUOT (more than one user may have); -EACCES (user not allowed); -EBUSY (too many
 * connections); -ENOENT, -ECONNREFUSED (no server); -ETIMEDOUT; -EINTR (a signal came while
 * waiting); -EPROTO (it is no pool); -errno.
 * Owns: the caller ends the lease. Context: any thread.
 */
int pool_lease(
	struct pool_lease **ret, const char *path, uint64_t bytes, bool wait, struct kv_err *err);

/*
 * As pool_lease(), with @flags (POOL_WAIT is its @wait):
 * POOL_LAZY: the chunks stay with the server until pool_fetch() asks for each. What is never
 * fetched needs no cleaning, whatever becomes of this process. POOL_RENEW: the chunks are not
 * cleaned in place, though the server trusts this user, unless pool_lease_quiet() was called.
 * Whoever lets a device write into them needs it (VFIO, reads with O_DIRECT by io_uring): when this
 * process is killed, the device may go on for a moment after the lease has ended.
 */
int pool_lease_with(struct pool_lease **ret, const char *path, uint64_t bytes, uint32_t flags,
	struct kv_err *err);

/*
 * The two halves of pool_lease_with(), for who has other things to do while the server answers:
 * pool_ask() sends the request, pool_take() waits for one packet of chunks, which are not there
 * before the last one. Both return as pool_lease() does, and pool_take() 1 when more are to come.
 * Owns: after pool_ask() the caller ends the lease, also when pool_take() fails. Context: one
 * thread at a time for one lease.
 */
int pool_ask(struct pool_lease **ret, const char *path, uint64_t bytes, uint32_t flags,
	struct kv_err *err);
int pool_take(struct pool_lease *lease, struct kv_err *err);

/*
 * Wait until pool_take() has an answer to take, or @stop_fd can be read.
 * Returns 0: there is one, or the connection has ended; 1: @stop_fd can be read; -ETIMEDOUT; -errno
 * of poll(2). Context: as pool_take().
 */
int pool_await(const struct pool_lease *lease, int stop_fd, struct kv_err *err);

/*
 * Get chunk @index of a lazy lease; a chunk that is there already is not asked for again.
 * Returns 0; -EINVAL (no such chunk); -ETIMEDOUT; -EPROTO; -errno (the connection is of no use).
 * Context: one thread at a time for one lease.
 */
int pool_fetch(struct pool_lease *lease, unsigned index, struct kv_err *err);

/* The chunks, in the order of their use. Valid until the lease ends. */
const struct pool_chunk *pool_chunks(const struct pool_lease *lease, unsigned *count);

/* The size of the pages that the chunks are made of: 4096, 2 MiB or 1 GiB. */
uint64_t pool_page_bytes(const struct pool_lease *lease);

/*
 * Tell that pages of chunk @index were written. Only who tells all of it (and calls
 * pool_lease_report()) may begin: a server that trusts this user then cleans nothing else. At most
 * POOL_SPANS_MAX spans a call, inside the chunk. A server that does not read is waited for 0.2 s.
 * Returns 0; -EINVAL; -EAGAIN (it did not); -errno. Context: as pool_fetch().
 */
int pool_wrote(
	struct pool_lease *lease, unsigned index, const struct pool_span *spans, unsigned count);

/*
 * Tell that no device and no request under way writes to the chunks of a POOL_RENEW lease any more
 * (nor reads them), so that they may be cleaned in place after all. For the end of the lease: none
 * may begin after it. A server that does not read, or does not know this, renews them. Of other
 * leases there is nothing to tell. Context: as pool_fetch().
 */
void pool_lease_quiet(struct pool_lease *lease);

/*
 * End the lease, as pool_lease_end(), after pool_wrote() has named everything that this process,
 * its children, its virtual machines and devices have written. All mappings of the chunks must be
 * gone.
 */
void pool_lease_report(struct pool_lease *lease);

/*
 * End the lease: descriptors and connection are closed. The chunks' mappings should be gone; what
 * is still mapped loses its contents. NULL is allowed.
 */
void pool_lease_end(struct pool_lease *lease);

/*
 * Ask the pool at @path (NULL: pool_path()) how it is; the sizes of chunks and pages can be relied
 * on. Returns 0; errors as pool_lease().
 */
int pool_status(const char *path, struct pool_info *info, struct kv_err *err);

/*
 * Change the pool's size: @type is POOL_GROW or POOL_SHRINK (by @bytes), or POOL_DRAIN (@bytes is
 * 0). Returns 0 when it is noted; -EPERM (only the server's user and root may); -ENOSPC (too many
 * chunks); -ENOMEM (the host can never hold so much); -EMFILE; else errors as pool_lease().
 */
int pool_resize(const char *path, enum pool_type type, uint64_t bytes, struct kv_err *err);

#endif
