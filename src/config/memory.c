/* SPDX-License-Identifier: Apache-2.0 */
/* --memory SIZE[,KEY=VALUE...], and the same fields one by one. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "config/config.h"
#include "config/internal.h"

#define NODES_MAX 64

void config_memory_free(struct vm_memory *memory)
{
	free(memory->path);
	*memory = (struct vm_memory){0};
}

int config_memory_check(uint64_t bytes, const char *shown, struct kv_err *err)
{
	if (bytes < VM_MEMORY_MIN_BYTES || bytes > CONFIG_MEMORY_MAX_BYTES)
		return err_set(err, -ERANGE, "%s is out of range; give from 16M to 4095T", shown);
	if (bytes % PAGE_BYTES)
		return err_set(
			err, -EINVAL, "%s is not a multiple of 4K, the size of a page", shown);
	return 0;
}

int config_memory_size(struct vm_config *config, const char *value, struct kv_err *err)
{
	struct config_shown shown = config_show(value);
	uint64_t bytes;
	int r = size_parse(value, &bytes);

	if (r == -EINVAL)
		return err_set(err, r,
			"%s is not a size; give a number with K, M, G or T, from 16M to 4095T",
			shown.text);
	if (r < 0)
		bytes = UINT64_MAX;
	r = config_memory_check(bytes, shown.text, err);
	if (!r)
		config->memory_bytes = bytes;
	return r;
}

int config_backing_set(enum gmem_backing_kind *backing, char **path, const char *value, bool file)
{
	const char *colon = strchr(value, ':');
	size_t len = colon ? (size_t)(colon - value) : strlen(value);
	char *copy = NULL;

	for (int i = 0; i < GMEM_BACKING_KINDS; i++) {
		const char *name = gmem_backing_name((enum gmem_backing_kind)i);
		bool takes_path = i == GMEM_FILE || i == GMEM_POOL;

		if (strlen(name) != len || strncmp(name, value, len))
			continue;
		if (colon && (!takes_path || !colon[1]))
			break;
		if (i == GMEM_FILE && (!colon || !file))
			break;
		if (colon && !(copy = strdup(colon + 1)))
			return -ENOMEM;
		free(*path);
		*path = copy;
		*backing = (enum gmem_backing_kind)i;
		return 0;
	}
	return -EINVAL;
}

static int backing_set(struct vm_memory *memory, const char *value, struct kv_err *err)
{
	int r = config_backing_set(&memory->backing, &memory->path, value, true);

	if (r == -EINVAL)
		return err_set(err, r,
			"%s is not allowed; give anon, memfd, hugetlb-2m, hugetlb-1g, file:PATH, "
			"pool or pool:PATH",
			config_show(value).text);
	return r;
}

static int thp_set(struct vm_memory *memory, const char *value, struct kv_err *err)
{
	static const char *const words[] = {
		[GMEM_AUTO] = "auto", [GMEM_OFF] = "off", [GMEM_ON] = "on"};
	int i = config_word_find(words, ARRAY_LEN(words), value, err);

	if (i < 0)
		return i;
	memory->thp = (enum gmem_switch)i;
	return 0;
}

static int populate_set(struct vm_memory *memory, const char *value, struct kv_err *err)
{
	for (int i = 0; i < GMEM_POPULATES; i++) {
		if (strcmp(gmem_populate_name((enum gmem_populate)i), value))
			continue;
		memory->populate = (enum gmem_populate)i;
		return 0;
	}
	return err_set(err, -EINVAL, "%s is not allowed; give none, full, background or vcpu",
		config_show(value).text);
}

static int threads_set(struct vm_memory *memory, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, 1, GMEM_THREADS_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not a number of threads; give 1 to %d",
			config_show(value).text, GMEM_THREADS_MAX);
	memory->threads = (unsigned)n;
	return 0;
}

/* "N" or "N-M", which add to the nodes that are there, or "all". */
static int numa_add(struct vm_memory *memory, const char *value, struct kv_err *err)
{
	const char *dash = strchr(value, '-');
	char first[24];
	uint64_t from = 0, to;
	int r = -EINVAL;

	if (!strcmp(value, "all")) {
		memory->nodes = 0;
		return 0;
	}
	if (snprintf(first, sizeof(first), "%.*s", dash ? (int)(dash - value) : (int)strlen(value),
		    value) < (int)sizeof(first))
		r = uint_parse(first, 0, NODES_MAX - 1, &from);
	to = from;
	if (!r && dash)
		r = uint_parse(dash + 1, from, NODES_MAX - 1, &to);
	if (r < 0)
		return err_set(err, r,
			"%s is not a NUMA node; give 0 to %d, two with a dash, or all",
			config_show(value).text, NODES_MAX - 1);
	for (; from <= to; from++)
		memory->nodes |= 1ULL << from;
	return 0;
}

#define FLAG(name)                                                                                 \
	static int name##_set(struct vm_memory *memory, const char *value, struct kv_err *err)     \
	{                                                                                          \
		return config_switch_set(&memory->name, value, err);                               \
	}
FLAG(mlock)
FLAG(merge)
FLAG(dump)
FLAG(shared)
FLAG(wait)

static const struct {
	const char *name;
	int (*set)(struct vm_memory *memory, const char *value, struct kv_err *err);
} keys[] = {
	{"backing", backing_set},
	{"dump", dump_set},
	{"merge", merge_set},
	{"mlock", mlock_set},
	{"numa", numa_add},
	{"populate", populate_set},
	{"shared", shared_set},
	{"thp", thp_set},
	{"threads", threads_set},
	{"wait", wait_set},
};

int config_memory_key(
	struct vm_memory *memory, const char *key, const char *value, struct kv_err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!strcmp(keys[i].name, key)) {
			int r = keys[i].set(memory, value, err);

			return r == -ENOMEM ? err_set(err, r, "out of memory") : r;
		}
	return err_set(err, -ENOENT, "there is no such key; memory has " CONFIG_MEMORY_KEYS);
}

/* One "KEY=VALUE" of the list. */
static int pair_set(struct vm_memory *memory, char *pair, struct kv_err *err)
{
	char *value = strchr(pair, '=');
	int r;

	if (!value)
		return err_set(
			err, -EINVAL, "%s is not of the form KEY=VALUE", config_show(pair).text);
	*value++ = '\0';
	r = config_memory_key(memory, pair, value, err);
	if (r < 0)
		err_prefix(err, r, "%s", config_show(pair).text);
	return r == -ENOENT ? -EINVAL : r;
}

bool config_memory_has(const char *value, const char *key)
{
	char pair[24];

	/* A size stands before all keys. */
	snprintf(pair, sizeof(pair), ",%s=", key);
	return strstr(value, pair);
}

void config_memory_reset(struct vm_memory *memory, const char *key)
{
	if (!strcmp(key, "backing")) {
		free(memory->path);
		memory->path = NULL;
		memory->backing = GMEM_ANON;
		memory->wait = false;
	} else if (!strcmp(key, "populate")) {
		memory->populate = GMEM_POPULATE_NONE;
		memory->threads = 0;
	} else if (!strcmp(key, "numa")) {
		memory->nodes = 0;
	}
}

int config_memory_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	static const char *const whole[] = {"backing", "populate", "numa"};
	MEM_SCOPED char *text = strdup(value);
	struct vm_memory fresh = config->memory;
	char *rest = text, *pair;
	int r;

	fresh.path = fresh.path ? strdup(fresh.path) : NULL;
	if (!text || (config->memory.path && !fresh.path)) {
		free(fresh.path);
		return -ENOMEM;
	}
	for (size_t i = 0; i < ARRAY_LEN(whole); i++)
		if (config_memory_has(value, whole[i]))
			config_memory_reset(&fresh, whole[i]);
	r = config_memory_size(config, strsep(&rest, ","), err);
	while (!r && (r = config_pair_next(&rest, "numa", &pair, err)) > 0)
		r = pair_set(&fresh, pair, err);
	if (r < 0) {
		config_memory_free(&fresh);
		return r;
	}
	config_memory_free(&config->memory);
	config->memory = fresh;
	return 0;
}

int config_memory_fits(const struct vm_memory *memory, uint64_t bytes, struct kv_err *err)
{
	struct gmem_backing backing = {
		.kind = memory->backing,
		.thp = memory->thp,
		.merge = memory->merge,
		.shared = memory->shared,
	};

	if (memory->threads &&
		(memory->populate == GMEM_POPULATE_NONE || memory->populate == GMEM_POPULATE_VCPU))
		return err_set(err, -EINVAL,
			"memory: threads=%u goes with populate=full or populate=background only",
			memory->threads);
	if (memory->wait && memory->backing != GMEM_POOL)
		return err_set(err, -EINVAL, "memory: wait=on goes with backing=pool only");
	if (memory->backing == GMEM_POOL && memory->nodes)
		return err_set(err, -EINVAL,
			"memory: numa= does not go with backing=pool: the pool's node counts");
	return gmem_backing_valid(&backing, bytes, err);
}
