/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits: keys of --disk and --rng, and Firecracker's rate_limiter. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "config/internal.h"

#define RATE_FORM "give a number, or NUMBER/TIME with a TIME such as s, 100ms or 1m"

/* "s", "100ms", "2m", "1h". Returns 0; -EINVAL; -ERANGE for 0 or more than a year. */
static int time_parse(const char *text, uint64_t *ret_ms)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	uint64_t count = 1, ms;
	char *end;

	if (isdigit((unsigned char)*text)) {
		errno = 0;
		count = strtoull(text, &end, 10);
		if (errno)
			return -ERANGE;
		text = end;
	}
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (strcmp(text, units[i].unit))
			continue;
		if (__builtin_mul_overflow(count, units[i].ms, &ms) || !ms ||
			ms > LIMIT_REFILL_MAX_MS)
			return -ERANGE;
		*ret_ms = ms;
		return 0;
	}
	return -EINVAL;
}

/* @sizes: K, M, G and T may follow. */
static int tokens_parse(const char *text, bool sizes, uint64_t *ret)
{
	uint64_t tokens;
	int r = sizes ? size_parse(text, &tokens) : uint_parse(text, 0, UINT64_MAX, &tokens);

	if (!r && (!tokens || tokens > LIMIT_TOKENS_MAX))
		r = -ERANGE;
	if (!r)
		*ret = tokens;
	return r;
}

static int rate_set(struct limit_rate *rate, bool sizes, const char *value, struct kv_err *err)
{
	MEM_SCOPED char *text = strdup(value);
	uint64_t ms = 1000;
	char *time;
	int r = 0;

	if (!text)
		return -ENOMEM;
	time = strchr(text, '/');
	if (time) {
		*time++ = 0;
		r = time_parse(time, &ms);
	}
	if (!r)
		r = tokens_parse(text, sizes, &rate->size);
	if (r == -ERANGE)
		return err_set(err, r,
			"%s is out of range; the number is from 1, the time up to a year",
			config_show(value).text);
	if (r < 0)
		return err_set(err, r, "%s is not a rate; " RATE_FORM, config_show(value).text);
	rate->refill_ms = ms;
	return 0;
}

static int burst_set(struct limit_rate *rate, bool sizes, const char *value, struct kv_err *err)
{
	int r = tokens_parse(value, sizes, &rate->burst);

	if (r < 0)
		return err_set(err, r, "%s is not a burst; give a number%s from 1",
			config_show(value).text, sizes ? " of bytes" : "");
	return 0;
}

int config_limit_key(
	struct limit_rates *rates, const char *key, const char *value, struct kv_err *err)
{
	if (!strcmp(key, "bw"))
		return rate_set(&rates->bytes, true, value, err);
	if (!strcmp(key, "bw-burst"))
		return burst_set(&rates->bytes, true, value, err);
	if (!strcmp(key, "ops"))
		return rate_set(&rates->ops, false, value, err);
	if (!strcmp(key, "ops-burst"))
		return burst_set(&rates->ops, false, value, err);
	return -ENOENT;
}

int config_limit_fits(const struct limit_rates *rates, struct kv_err *err)
{
	if (rates->bytes.burst && !rates->bytes.size)
		return err_set(err, -EINVAL, "bw-burst says nothing without bw");
	if (rates->ops.burst && !rates->ops.size)
		return err_set(err, -EINVAL, "ops-burst says nothing without ops");
	return 0;
}

/* A member of @bucket: from 0 to @max. */
static int number_read(json_t *bucket, const char *name, bool required, uint64_t max, uint64_t *ret,
	struct kv_err *err)
{
	json_t *value = json_object_get(bucket, name);

	*ret = 0;
	if (!value || json_is_null(value))
		return required ? err_set(err, -EINVAL, "the field %s is missing", name) : 0;
	if (!json_is_integer(value))
		return err_set(err, -EINVAL, "%s is no integer", name);
	if (json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > max)
		return err_set(err, -ERANGE, "%s is out of range; give 0 to %" PRIu64, name, max);
	*ret = (uint64_t)json_integer_value(value);
	return 0;
}

/* As in Firecracker, a bucket of size or refill time 0 limits nothing. */
static int bucket_read(struct limit_rate *rate, json_t *bucket, struct kv_err *err)
{
	struct limit_rate read = {0};
	const char *name;
	json_t *member;
	int r;

	if (!json_is_object(bucket))
		return err_set(err, -EINVAL,
			"give an object with size, refill_time and perhaps one_time_burst");
	json_object_foreach(bucket, name, member)
	{
		if (strcmp(name, "size") && strcmp(name, "refill_time") &&
			strcmp(name, "one_time_burst"))
			return err_set(err, -EINVAL,
				"unknown field %s; there are size, refill_time and one_time_burst",
				config_show(name).text);
	}
	r = number_read(bucket, "size", true, LIMIT_TOKENS_MAX, &read.size, err);
	if (!r)
		r = number_read(
			bucket, "refill_time", true, LIMIT_REFILL_MAX_MS, &read.refill_ms, err);
	if (!r)
		r = number_read(
			bucket, "one_time_burst", false, LIMIT_TOKENS_MAX, &read.burst, err);
	if (r < 0)
		return r;
	*rate = read.size && read.refill_ms ? read : (struct limit_rate){0};
	return 0;
}

int config_limit_json(struct limit_rates *rates, json_t *object, struct kv_err *err)
{
	const char *name;
	json_t *member;
	int r = 0;

	if (!json_is_object(object))
		return err_set(err, -EINVAL, "give an object with bandwidth and ops");
	json_object_foreach(object, name, member)
	{
		bool bytes = !strcmp(name, "bandwidth");

		if (!bytes && strcmp(name, "ops"))
			return err_set(err, -EINVAL,
				"unknown field %s; there are bandwidth and ops",
				config_show(name).text);
		if (json_is_null(member))
			continue;
		r = bucket_read(bytes ? &rates->bytes : &rates->ops, member, err);
		if (r < 0)
			return err_prefix(err, r, "%s", name);
	}
	return 0;
}

/* NULL for a rate that limits nothing. */
static json_t *rate_pack(const struct limit_rate *rate)
{
	if (!rate->size)
		return NULL;
	return json_pack("{s:I, s:I, s:o*}", "size", (json_int_t)rate->size, "refill_time",
		(json_int_t)rate->refill_ms, "one_time_burst",
		rate->burst ? json_integer((json_int_t)rate->burst) : NULL);
}

json_t *config_limit_pack(const struct limit_rates *rates)
{
	if (!rates->bytes.size && !rates->ops.size)
		return NULL;
	return json_pack("{s:o*, s:o*}", "bandwidth", rate_pack(&rates->bytes), "ops",
		rate_pack(&rates->ops));
}
