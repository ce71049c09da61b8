/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/limit.h"

#include "trace/timeline.h"

#define NS_PER_MS 1000000ULL
/* A timer of less would be work without anybody gaining by it. */
#define WAIT_MIN_NS NS_PER_MS

/* Products of tokens and nanoseconds need it. */
__extension__ typedef unsigned __int128 wide_t;

static uint64_t at_most(uint64_t n, uint64_t max)
{
	return n < max ? n : max;
}

void limit_fill(struct limit_bucket *bucket, const struct limit_rate *rate, uint64_t now_ns)
{
	*bucket = (struct limit_bucket){.at_ns = now_ns};
	if (!rate->size || !rate->refill_ms)
		return;
	bucket->size = at_most(rate->size, LIMIT_TOKENS_MAX);
	bucket->refill_ns = at_most(rate->refill_ms, LIMIT_REFILL_MAX_MS) * NS_PER_MS;
	bucket->burst = rate->burst;
	bucket->budget = (int64_t)bucket->size;
}

/* Nanoseconds in which @tokens come, rounded up. */
static wide_t time_of(const struct limit_bucket *bucket, uint64_t tokens)
{
	return ((wide_t)tokens * bucket->refill_ns + bucket->size - 1) / bucket->size;
}

static void refill(struct limit_bucket *bucket, uint64_t now_ns)
{
	uint64_t missing = bucket->size - (uint64_t)bucket->budget;
	uint64_t passed = now_ns > bucket->at_ns ? now_ns - bucket->at_ns : 0;
	wide_t tokens = (wide_t)passed * bucket->size / bucket->refill_ns;

	if (tokens >= missing) {
		bucket->budget = (int64_t)bucket->size;
		bucket->at_ns = now_ns;
		return;
	}
	/* The time of a token that has come in part only is not lost. */
	bucket->budget = (int64_t)((uint64_t)bucket->budget + (uint64_t)tokens);
	bucket->at_ns += (uint64_t)time_of(bucket, (uint64_t)tokens);
}

/* What is to be taken from the budget, the burst being taken first. */
static uint64_t behind_burst(const struct limit_bucket *bucket, uint64_t tokens)
{
	return tokens - at_most(tokens, bucket->burst);
}

uint64_t limit_wait(struct limit_bucket *bucket, uint64_t tokens, uint64_t now_ns)
{
	uint64_t rest, passed;
	int64_t wanted;
	wide_t left;

	if (!bucket->size)
		return 0;
	refill(bucket, now_ns);
	rest = behind_burst(bucket, tokens);
	/* No bucket ever holds what is larger than it: that passes once all debts are paid. */
	wanted = rest <= bucket->size ? (int64_t)rest : 0;
	if (bucket->budget >= wanted)
		return 0;
	left = time_of(bucket, (uint64_t)wanted - (uint64_t)bucket->budget);
	passed = now_ns > bucket->at_ns ? now_ns - bucket->at_ns : 0;
	if (left <= passed)
		return 1;
	left -= passed;
	return left < UINT64_MAX ? (uint64_t)left : UINT64_MAX;
}

void limit_spend(struct limit_bucket *bucket, uint64_t tokens)
{
	uint64_t rest;

	if (!bucket->size)
		return;
	rest = at_most(behind_burst(bucket, tokens), LIMIT_TOKENS_MAX);
	bucket->burst -= at_most(tokens, bucket->burst);
	bucket->budget -= (int64_t)rest;
}

/* Have the queues that wait looked at again, the one that began to wait first before the others. */
static void resume(void *ctx, uint32_t events)
{
	struct limit *limit = ctx;
	struct vdev *vd = limit->vd;
	unsigned first;
	uint64_t held;

	vdev_lock(vd);
	held = limit->held;
	first = limit->first;
	limit->held = 0;
	vdev_unlock(vd);
	for (unsigned n = 0; held && n < VDEV_QUEUES_MAX; n++) {
		unsigned i = (first + n) % VDEV_QUEUES_MAX;

		if (held >> i & 1)
			vdev_kick(vd, i);
	}
}

int limit_init(
	struct limit *limit, struct vdev *vd, struct loop *loop, const struct limit_rates *rates)
{
	*limit = (struct limit){.vd = vd};
	limit_set(limit, rates);
	return loop_add_timer(loop, resume, limit, &limit->timer);
}

void limit_free(struct limit *limit)
{
	loop_remove(limit->timer);
	limit->timer = NULL;
}

static bool rate_equal(const struct limit_rate *a, const struct limit_rate *b)
{
	return a->size == b->size && a->refill_ms == b->refill_ms && a->burst == b->burst;
}

void limit_set(struct limit *limit, const struct limit_rates *rates)
{
	uint64_t now = clock_ns();

	if (!rate_equal(&limit->rates.bytes, &rates->bytes))
		limit_fill(&limit->bytes, &rates->bytes, now);
	if (!rate_equal(&limit->rates.ops, &rates->ops))
		limit_fill(&limit->ops, &rates->ops, now);
	limit->rates = *rates;
	/* Who waits need not wait for what the old rates would have given. */
	if (limit->held)
		loop_set_timer(limit->timer, 1);
}

bool limit_take(struct limit *limit, unsigned index, uint64_t bytes)
{
	uint64_t now, ops_wait, wait;

	if (!limit->bytes.size && !limit->ops.size)
		return true;
	/* Nobody overtakes: small requests of one queue would keep a large one waiting for ever. */
	if (limit->held) {
		limit->held |= 1ULL << index;
		return false;
	}
	now = clock_ns();
	ops_wait = limit_wait(&limit->ops, 1, now);
	wait = limit_wait(&limit->bytes, bytes, now);
	if (wait < ops_wait)
		wait = ops_wait;
	if (!wait) {
		limit_spend(&limit->ops, 1);
		limit_spend(&limit->bytes, bytes);
		return true;
	}
	limit->first = index;
	limit->held = 1ULL << index;
	loop_set_timer(limit->timer, wait < WAIT_MIN_NS ? WAIT_MIN_NS : wait);
	return false;
}

bool limit_holds(const struct limit *limit, unsigned index)
{
	return limit->held >> index & 1;
}

void limit_reset(struct limit *limit)
{
	limit->held = 0;
}
