/* SPDX-License-Identifier: Apache-2.0 */
/* --disk, and Firecracker's drives. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "config/internal.h"

#define SERIAL_BYTES 20 /* virtio 1.3 §5.2.6 */
#define QUEUES_MAX   16
#define PARTUUID_MAX 36
#define KEYS                                                                                       \
	"ro, direct, root, iothread, partuuid=, serial=, cache=, queues=, bw=, bw-burst=, ops=, "  \
	"ops-burst= and id="

static const char *const cache_words[] = {"unsafe", "writeback"};

void config_disk_free(struct vm_disk *disk)
{
	free(disk->id);
	free(disk->path);
	free(disk->serial);
	free(disk->partuuid);
	*disk = (struct vm_disk){.writeback = true, .queues = 1};
}

static int path_set(struct vm_disk *disk, const char *value, struct kv_err *err)
{
	if (!*value)
		return err_set(err, -EINVAL, "the path is empty; name a file or a block device");
	if (strnlen(value, PATH_MAX) == PATH_MAX)
		return err_set(err, -ERANGE, "the path %s is longer than %d bytes",
			config_show(value).text, PATH_MAX - 1);
	return config_text_set(&disk->path, value);
}

static int id_set(struct vm_disk *disk, const char *value, struct kv_err *err)
{
	return config_id_set(&disk->id, value, err);
}

static int serial_set(struct vm_disk *disk, const char *value, struct kv_err *err)
{
	size_t len = strlen(value);

	if (!len || len > SERIAL_BYTES)
		return err_set(err, -EINVAL, "%s is not a serial number; give 1 to %d bytes",
			config_show(value).text, SERIAL_BYTES);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)value[i] <= ' ' || (unsigned char)value[i] > '~')
			return err_set(err, -EINVAL,
				"%s is not a serial number; give ASCII without blanks",
				config_show(value).text);
	return config_text_set(&disk->serial, value);
}

/* A GUID, or a disk's signature and a partition's number: XXXXXXXX-XX. */
static int partuuid_set(struct vm_disk *disk, const char *value, struct kv_err *err)
{
	size_t len = strlen(value);

	if (!len || len > PARTUUID_MAX || strspn(value, "0123456789abcdefABCDEF-") != len)
		return err_set(err, -EINVAL,
			"%s is not a partition's UUID; give hexadecimal digits and '-'",
			config_show(value).text);
	return config_text_set(&disk->partuuid, value);
}

static int cache_set(struct vm_disk *disk, const char *value, struct kv_err *err)
{
	int i = config_word_find(cache_words, ARRAY_LEN(cache_words), value, err);

	disk->writeback = i > 0;
	return i < 0 ? i : 0;
}

static int queues_set(struct vm_disk *disk, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, 1, QUEUES_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not a number of queues; give 1 to %d",
			config_show(value).text, QUEUES_MAX);
	disk->queues = (unsigned)n;
	return 0;
}

int config_disk_key(struct vm_disk *disk, const char *key, const char *value, struct kv_err *err)
{
	static const struct {
		const char *key;
		int (*set)(struct vm_disk *disk, const char *value, struct kv_err *err);
	} keys[] = {
		{"path", path_set},
		{"id", id_set},
		{"serial", serial_set},
		{"cache", cache_set},
		{"queues", queues_set},
		{"partuuid", partuuid_set},
	};

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (!strcmp(keys[i].key, key))
			return keys[i].set(disk, value, err);
	if (!strcmp(key, "ro"))
		return config_switch_set(&disk->read_only, value, err);
	if (!strcmp(key, "direct"))
		return config_switch_set(&disk->direct, value, err);
	if (!strcmp(key, "root"))
		return config_switch_set(&disk->root, value, err);
	if (!strcmp(key, "iothread"))
		return config_switch_set(&disk->iothread, value, err);
	return config_limit_key(&disk->limit, key, value, err);
}

static bool is_switch(const char *key)
{
	return !strcmp(key, "ro") || !strcmp(key, "direct") || !strcmp(key, "root") ||
	       !strcmp(key, "iothread");
}

/* "KEY=VALUE", or "KEY" for a switch that is on; what is no switch does not take an empty value. */
static int pair_set(struct vm_disk *disk, char *pair, struct kv_err *err)
{
	char *value = strchr(pair, '=');
	int r;

	if (value)
		*value++ = 0;
	else
		value = is_switch(pair) ? "on" : "";
	/* The path has its place in front. */
	r = strcmp(pair, "path") ? config_disk_key(disk, pair, value, err) : -ENOENT;
	if (r == -ENOENT)
		return err_set(err, -EINVAL, "there is no key %s; the keys are " KEYS,
			config_show(pair).text);
	return r < 0 ? err_prefix(err, r, "%s", pair) : 0;
}

static bool id_taken(const struct vm_config *config, const char *id)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (!strcmp(config->disks[i].id, id))
			return true;
	return false;
}

int config_disk_take(struct vm_config *config, struct vm_disk *disk, struct kv_err *err)
{
	unsigned at = config->disk_count;
	int r = 0;

	if (at == VM_DISKS_MAX)
		return err_set(err, -ERANGE, "%s is one disk too many; at most %d are allowed",
			config_show(disk->path).text, VM_DISKS_MAX);
	if (!disk->id)
		r = config_id_make(config, "disk", at, id_taken, &disk->id);
	if (r < 0)
		return r;
	/* The one with the root file system comes first, for it is /dev/vda to the guest. */
	if (disk->root) {
		memmove(&config->disks[1], &config->disks[0], at * sizeof(*disk));
		at = 0;
	}
	config->disks[at] = *disk;
	config->disk_count++;
	*disk = (struct vm_disk){0};
	return 0;
}

int config_disk_add(struct vm_config *config, const char *value, struct kv_err *err)
{
	MEM_SCOPED char *text = strdup(value);
	struct vm_disk disk = {0};
	char *rest = text, *pair;
	int r;

	if (!text)
		return -ENOMEM;
	config_disk_free(&disk);
	r = path_set(&disk, strsep(&rest, ","), err);
	while (!r && (r = config_pair_next(&rest, NULL, &pair, err)) > 0)
		r = pair_set(&disk, pair, err);
	if (!r)
		r = config_disk_take(config, &disk, err);
	config_disk_free(&disk);
	return r;
}

int config_disks_fit(const struct vm_config *config, struct kv_err *err)
{
	unsigned roots = 0;
	int r;

	for (unsigned i = 0; i < config->disk_count; i++) {
		r = config_limit_fits(&config->disks[i].limit, err);
		if (r < 0)
			return err_prefix(err, r, "disk %s", config->disks[i].id);
		roots += config->disks[i].root;
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(config->disks[i].id, config->disks[j].id))
				return err_set(err, -EINVAL, "disk: two disks have the id %s",
					config_show(config->disks[i].id).text);
	}
	if (roots > 1)
		return err_set(err, -EINVAL,
			"disk: %u disks want to have the root file system; one can", roots);
	return 0;
}
