/* SPDX-License-Identifier: Apache-2.0 */
/* --mem-device: memory that is plugged while the VM runs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "config/internal.h"
#include "gmem/hot.h"

#define KEYS                                                                                       \
	"id=, max=, requested=, block=, slots=, dynamic-memslots=, populate=, backing= and node="

#define BLOCK_BYTES	(2 * MIB) /* unless the backing's page is larger */
#define BLOCK_MAX_BYTES GIB

/* The memory blocks that Linux adds and removes are multiples of this one. */
#define MAX_STEP (128 * MIB)

void config_mem_free(struct vm_mem_device *mem)
{
	free(mem->id);
	free(mem->path);
	*mem = (struct vm_mem_device){.dynamic = true, .node = -1};
}

static int id_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	return config_id_set(&mem->id, value, err);
}

static int bytes_set(uint64_t *field, const char *value, struct kv_err *err)
{
	int r = size_parse(value, field);

	if (r == -ERANGE)
		return err_set(err, r, "%s is too large", config_show(value).text);
	return r < 0 ? err_set(err, r, "%s is not a size; give a number with K, M, G or T",
			       config_show(value).text)
		     : 0;
}

static int max_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	return bytes_set(&mem->max_bytes, value, err);
}

static int requested_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	return bytes_set(&mem->requested_bytes, value, err);
}

static int block_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	int r = bytes_set(&mem->block_bytes, value, err);

	if (!r && (mem->block_bytes < PAGE_BYTES || mem->block_bytes > BLOCK_MAX_BYTES ||
			  mem->block_bytes & (mem->block_bytes - 1)))
		return err_set(err, -EINVAL,
			"%s is not the size of a block; give a power of two from 4K to 1G",
			config_show(value).text);
	return r;
}

static int slots_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	uint64_t n = 0;
	int r = strcmp(value, "auto") ? uint_parse(value, 1, GMEM_WINDOWS_MAX, &n) : 0;

	if (r < 0)
		return err_set(err, r, "%s is not a number of memory slots; give auto or 1 to %d",
			config_show(value).text, GMEM_WINDOWS_MAX);
	mem->slots = (unsigned)n;
	return 0;
}

static int dynamic_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	return config_switch_set(&mem->dynamic, value, err);
}

static int populate_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	static const char *const words[] = {"none", "full"};
	int i = config_word_find(words, ARRAY_LEN(words), value, err);

	mem->populate = i > 0;
	return i < 0 ? i : 0;
}

static int backing_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	/* A file is not had and given back piece by piece. */
	int r = config_backing_set(&mem->backing, &mem->path, value, false);

	if (r == -EINVAL)
		return err_set(err, r,
			"%s is not allowed; give anon, memfd, hugetlb-2m, hugetlb-1g, pool or "
			"pool:PATH",
			config_show(value).text);
	return r;
}

static int node_set(struct vm_mem_device *mem, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, 0, VM_MEM_NODE_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not a NUMA node of the guest; give 0 to %d",
			config_show(value).text, VM_MEM_NODE_MAX);
	mem->node = (int)n;
	return 0;
}

int config_mem_key(
	struct vm_mem_device *mem, const char *key, const char *value, struct kv_err *err)
{
	static const struct {
		const char *key;
		int (*set)(struct vm_mem_device *mem, const char *value, struct kv_err *err);
	} keys[] = {
		{"backing", backing_set},
		{"block", block_set},
		{"dynamic-memslots", dynamic_set},
		{"id", id_set},
		{"max", max_set},
		{"node", node_set},
		{"populate", populate_set},
		{"requested", requested_set},
		{"slots", slots_set},
	};

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!strcmp(keys[i].key, key))
			return keys[i].set(mem, value, err);
	return err_set(
		err, -ENOENT, "there is no key %s; the keys are " KEYS, config_show(key).text);
}

/* "KEY=VALUE". */
static int pair_set(struct vm_mem_device *mem, char *pair, struct kv_err *err)
{
	char *value = strchr(pair, '=');
	int r;

	if (!value)
		return err_set(
			err, -EINVAL, "%s is not of the form KEY=VALUE", config_show(pair).text);
	*value++ = 0;
	r = config_mem_key(mem, pair, value, err);
	if (r == -ENOENT)
		return -EINVAL;
	return r < 0 ? err_prefix(err, r, "%s", pair) : 0;
}

/* What the fields of one device must be together. */
static int device_check(const struct vm_mem_device *mem, struct kv_err *err)
{
	struct gmem_backing backing = {.kind = mem->backing};
	uint64_t page = gmem_page_bytes(&backing), block = mem->block_bytes;
	uint64_t step = block > MAX_STEP ? block : MAX_STEP;
	char a[24], b[24];

	if (!mem->max_bytes)
		return err_set(err, -EINVAL, "max= is missing: how much memory may be plugged");
	if (mem->max_bytes > CONFIG_MEMORY_MAX_BYTES)
		return err_set(err, -ERANGE, "max=%s is out of range; at most 4095T are allowed",
			size_format(mem->max_bytes, a, sizeof(a)));
	if (block < page)
		return err_set(err, -EINVAL,
			"block=%s is less than a page of backing=%s, which has %s",
			size_format(block, a, sizeof(a)), gmem_backing_name(mem->backing),
			size_format(page, b, sizeof(b)));
	if (mem->max_bytes % step)
		return err_set(err, -EINVAL, "max=%s is not a multiple of %s, %s",
			size_format(mem->max_bytes, a, sizeof(a)), size_format(step, b, sizeof(b)),
			step > MAX_STEP ? "the size of a block" : "as guests add memory");
	if (mem->max_bytes / block > GMEM_HOT_BLOCKS_MAX)
		return err_set(err, -EINVAL,
			"max=%s has more than %llu blocks; give a block larger than %s",
			size_format(mem->max_bytes, a, sizeof(a)), GMEM_HOT_BLOCKS_MAX,
			size_format(block, b, sizeof(b)));
	if (mem->requested_bytes > mem->max_bytes)
		return err_set(err, -EINVAL, "requested=%s is more than max=%s",
			size_format(mem->requested_bytes, a, sizeof(a)),
			size_format(mem->max_bytes, b, sizeof(b)));
	if (mem->requested_bytes % block)
		return err_set(err, -EINVAL,
			"requested=%s is not a multiple of %s, the size of a block",
			size_format(mem->requested_bytes, a, sizeof(a)),
			size_format(block, b, sizeof(b)));
	if (!mem->dynamic && mem->slots > 1)
		return err_set(err, -EINVAL,
			"slots=%u does not go with dynamic-memslots=off, which is one slot",
			mem->slots);
	return 0;
}

static bool id_taken(const struct vm_config *config, const char *id)
{
	for (unsigned i = 0; i < config->mem_count; i++)
		if (!strcmp(config->mems[i].id, id))
			return true;
	return false;
}

int config_mem_take(struct vm_config *config, struct vm_mem_device *mem, struct kv_err *err)
{
	struct gmem_backing backing = {.kind = mem->backing};
	uint64_t page = gmem_page_bytes(&backing);
	int r;

	if (config->mem_count == VM_MEM_DEVICES_MAX)
		return err_set(err, -ERANGE,
			"it is one memory device too many; at most %d are allowed",
			VM_MEM_DEVICES_MAX);
	if (!mem->block_bytes)
		mem->block_bytes = page > BLOCK_BYTES ? page : BLOCK_BYTES;
	r = device_check(mem, err);
	if (r < 0)
		return r;
	if (!mem->id)
		r = config_id_make(config, "mem", config->mem_count, id_taken, &mem->id);
	if (r < 0)
		return r;
	config->mems[config->mem_count++] = *mem;
	mem->id = NULL;
	mem->path = NULL;
	return 0;
}

int config_mem_add(struct vm_config *config, const char *value, struct kv_err *err)
{
	MEM_SCOPED char *text = strdup(value);
	struct vm_mem_device mem = {0};
	char *rest = text, *pair;
	int r = 0;

	if (!text)
		return -ENOMEM;
	config_mem_free(&mem);
	while (!r && (r = config_pair_next(&rest, NULL, &pair, err)) > 0)
		r = pair_set(&mem, pair, err);
	if (!r)
		r = config_mem_take(config, &mem, err);
	config_mem_free(&mem);
	return r;
}

int config_mems_fit(const struct vm_config *config, struct kv_err *err)
{
	for (unsigned i = 0; i < config->mem_count; i++) {
		int r = device_check(&config->mems[i], err);

		if (r < 0)
			return err_prefix(err, r, "mem-device %s", config->mems[i].id);
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(config->mems[i].id, config->mems[j].id))
				return err_set(err, -EINVAL,
					"mem-device: two devices have the id %s",
					config_show(config->mems[i].id).text);
	}
	if (config->mem_count && config->memory.mlock)
		return err_set(err, -EINVAL,
			"mem-device: it does not go with mlock=on of memory: what is unplugged "
			"could not be given back");
	return 0;
}
