/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_LIMIT_H
#define KV_VIRTIO_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "loop/loop.h"
#include "virtio/vdev.h"

/*
 * Rate limits of a device's requests, as token buckets with the meaning of Firecracker's
 * rate_limiter: one bucket counts bytes, one operations. A bucket starts full, refills from empty
 * to `size` in `refill_ms`, and `burst` is taken first, once. A request larger than its bucket
 * passes, and what was taken too much is paid back in time before anything else passes.
 */

struct limit_rate {
	uint64_t size;	    /* tokens; 0: no limit */
	uint64_t refill_ms; /* from empty to full; 0: no limit */
	uint64_t burst;	    /* tokens beyond that, which never come back */
};

struct limit_rates {
	struct limit_rate bytes, ops;
};

#define LIMIT_TOKENS_MAX    INT64_MAX
#define LIMIT_REFILL_MAX_MS (1000ULL * 60 * 60 * 24 * 365)

/* One bucket; in the open for tests. Times are of one clock, in ns, and do not go backwards. */
struct limit_bucket {
	uint64_t size; /* 0: no limit */
	uint64_t refill_ns;
	uint64_t burst; /* left of it */
	int64_t budget; /* up to size; negative: to be paid back */
	uint64_t at_ns; /* up to here the budget has been refilled */
};

/* Fill @bucket; rates beyond the two maxima count as them. */
void limit_fill(struct limit_bucket *bucket, const struct limit_rate *rate, uint64_t now_ns);

/*
 * How long until @bucket has @tokens to take: 0 for now; at least 1 otherwise. Refills it up to
 * @now_ns.
 */
uint64_t limit_wait(struct limit_bucket *bucket, uint64_t tokens, uint64_t now_ns);

/* Take @tokens, for which limit_wait() said 0. */
void limit_spend(struct limit_bucket *bucket, uint64_t tokens);

/* The limits of one device, or of one direction of it. Under the device's lock. */
struct limit {
	struct limit_rates rates; /* that the buckets are filled by */
	struct limit_bucket bytes, ops;
	struct vdev *vd; /* [c] */
	struct loop_source *timer;
	uint64_t held;	/* queues that wait for tokens, a bit each */
	unsigned first; /* the one of them that began to */
};

/*
 * Returns 0 or -ENOMEM. Owns: limit_free(), before the device core @vd is destroyed; an all-zero
 * limit may be freed. Context: loop thread, or before it runs.
 */
int limit_init(
	struct limit *limit, struct vdev *vd, struct loop *loop, const struct limit_rates *rates);
void limit_free(struct limit *limit);

/*
 * Other rates from now on; a bucket whose rate changes is full. Context: any thread, with the
 * device's lock.
 */
void limit_set(struct limit *limit, const struct limit_rates *rates);

/*
 * Take the tokens of a request of @bytes (0: one that does not move data) on queue @index. Returns
 * false, with nothing taken, when it must wait: the caller gives the chain back (vq_unpop()) and
 * leaves the queue alone; it is kicked (vdev_kick()) when there is something to take. Context: loop
 * thread, with the device's lock.
 */
bool limit_take(struct limit *limit, unsigned index, uint64_t bytes);

/* Queue @index waits: there is no use in looking at it. Context: as limit_take(). */
bool limit_holds(const struct limit *limit, unsigned index);

/* For the device's reset: no queue waits any more. What was taken stays taken. */
void limit_reset(struct limit *limit);

#endif
