/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CONFIG_INTERNAL_H
#define KV_CONFIG_INTERNAL_H

#include <stddef.h>

#include "base/num.h"
#include "config/config.h"

/* Inside config/ only (and its tests). */

/* A text as it may stand in an error: quoted, control characters replaced, cut when long. */
struct config_shown {
	char text[80];
};
struct config_shown config_show(const char *value);

/* The words of the enumerations, by value. */
#define CONFIG_IMAGE_MAPS 2
#define CONFIG_PROTOCOLS  3
#define CONFIG_LEGACIES	  3
extern const char *const config_image_maps[CONFIG_IMAGE_MAPS];
extern const char *const config_protocols[CONFIG_PROTOCOLS];
#define CONFIG_DISCOVERIES 3
extern const char *const config_legacies[CONFIG_LEGACIES];
extern const char *const config_discoveries[CONFIG_DISCOVERIES];

/* vm_config_set() whose sentence starts at the value: the caller says where the value stood. */
int config_field_set(
	struct vm_config *config, const char *name, const char *value, struct kv_err *err);

/*
 * The index of @value among @count @words.
 * Returns it; -EINVAL with a sentence that lists them.
 */
int config_word_find(
	const char *const *words, unsigned count, const char *value, struct kv_err *err);

/*
 * memory.c: "SIZE[,KEY=VALUE...]" on top of what is there: config_memory_reset() for each key.
 * Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM. On failure only the size may be set.
 */
int config_memory_set(struct vm_config *config, const char *value, struct kv_err *err);

/* memory.c: the size alone. Returns as config_memory_set(). */
int config_memory_size(struct vm_config *config, const char *value, struct kv_err *err);

/* memory.c: the keys, for errors. */
#define CONFIG_MEMORY_KEYS "backing, thp, populate, threads, numa, mlock, merge, dump, shared, wait"

/*
 * memory.c: @key is to be set anew: what only makes sense with its old value goes. That is the path
 * and "wait" of "backing", "threads" of "populate", and all nodes of "numa".
 */
void config_memory_reset(struct vm_memory *memory, const char *key);

/*
 * memory.c: one key; "numa" adds to the nodes that are there.
 * Returns 0; -ENOENT (no such key), -EINVAL or -ERANGE with a sentence that starts at the value;
 * -ENOMEM.
 */
int config_memory_key(
	struct vm_memory *memory, const char *key, const char *value, struct kv_err *err);

/*
 * memory.c: a backing by its name, and the path behind "pool:" or, with @file, "file:".
 * Returns 0; -EINVAL without a sentence; -ENOMEM. Owns: *@path, which is NULL or on the heap, is
 * replaced by a copy or by NULL.
 */
int config_backing_set(enum gmem_backing_kind *backing, char **path, const char *value, bool file);

/*
 * memory.c: check the fields of @memory against each other and against its size; @bytes 0: that is
 * not known yet. Returns 0; -EINVAL with a sentence.
 */
int config_memory_fits(const struct vm_memory *memory, uint64_t bytes, struct kv_err *err);

/* memory.c: free what @memory points to and set all defaults. */
void config_memory_free(struct vm_memory *memory);

/* memory.c: check @bytes of memory. Returns 0; -EINVAL or -ERANGE with a sentence about @shown. */
int config_memory_check(uint64_t bytes, const char *shown, struct kv_err *err);

/* What an id may be; a sentence about @value when it is none. Returns 0 or -EINVAL. */
int config_id_check(const char *value, struct kv_err *err);

/* Replace the string *@field, or NULL, by a copy of @value. Returns 0 or -ENOMEM. */
int config_text_set(char **field, const char *value);

/* config_text_set() with what is an id. Returns 0; -EINVAL with a sentence; -ENOMEM. */
int config_id_set(char **field, const char *value, struct kv_err *err);

/*
 * Set *@ret, which is NULL, to @kind and the first number from @from on that make an id of which
 * @taken says no. Returns 0 or -ENOMEM.
 */
int config_id_make(const struct vm_config *config, const char *kind, unsigned from,
	bool (*taken)(const struct vm_config *config, const char *id), char **ret);

/*
 * Cut the next "KEY=VALUE" or "KEY" off the list at *@rest. A key may be in it once only, but
 * @many, or NULL, as often as one likes. Returns 1; 0 (there is none); -EINVAL with a sentence.
 */
int config_pair_next(char **rest, const char *many, char **pair, struct kv_err *err);

/* "on" or "off". Returns 0; -EINVAL with a sentence. */
int config_switch_set(bool *field, const char *value, struct kv_err *err);

/*
 * disk.c: add the disk "PATH[,ro][,direct][,KEY=VALUE...]". Its id is "disk" and a number unless it
 * has one.
 * Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_disk_add(struct vm_config *config, const char *value, struct kv_err *err);

/*
 * disk.c: set one key of @disk: "path", "id", "serial", "cache", "queues", "partuuid", "ro",
 * "direct", "root", "iothread" (these four "on" or "off"), and those of config_limit_key(). Returns
 * 0; -ENOENT (no such key), -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_disk_key(struct vm_disk *disk, const char *key, const char *value, struct kv_err *err);

/* disk.c: take @disk on, which is emptied. Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_disk_take(struct vm_config *config, struct vm_disk *disk, struct kv_err *err);

/* disk.c: check the disks against each other. Returns 0; -EINVAL with a sentence. */
int config_disks_fit(const struct vm_config *config, struct kv_err *err);

/* disk.c: free what @disk points to and set all defaults. */
void config_disk_free(struct vm_disk *disk);

/*
 * net.c: add the network device "tap=NAME[,KEY=VALUE...]", "fd=N..." or "user...". Its id is "net"
 * and a number unless it has one. Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_net_add(struct vm_config *config, const char *value, struct kv_err *err);

/*
 * net.c: set one key of @net: "tap", "fd", "user" ("on"), "forward" (adds one), "id", "mac", "mtu",
 * "queues", "vhost", "iothread" ("on" or "off"), and those of config_limit_key() behind "rx-" and
 * "tx-". Returns 0; -ENOENT (no such key), -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_net_key(struct vm_net *net, const char *key, const char *value, struct kv_err *err);

/* net.c: take @net on, which is emptied. Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM. */
int config_net_take(struct vm_config *config, struct vm_net *net, struct kv_err *err);

/* net.c: check the network devices against each other. Returns 0; -EINVAL with a sentence. */
int config_nets_fit(const struct vm_config *config, struct kv_err *err);

/* net.c: free what @net points to and set all defaults. */
void config_net_free(struct vm_net *net);

struct json_t;

/* net.c: all of them as kvick.nets has them; NULL when a name is not UTF-8. Owns: the caller's. */
struct json_t *config_nets_pack(const struct vm_config *config);

/*
 * limit.c: one key of a device's rate limits: "bw" and "ops" (NUMBER[/TIME]), "bw-burst" and
 * "ops-burst".
 * Returns 0; -ENOENT (no such key), -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_limit_key(
	struct limit_rates *rates, const char *key, const char *value, struct kv_err *err);

/* limit.c: check the keys against each other. Returns 0; -EINVAL with a sentence. */
int config_limit_fits(const struct limit_rates *rates, struct kv_err *err);

/* limit.c: the same the other way round; NULL when there are no limits. Owns: the caller's. */
struct json_t *config_limit_pack(const struct limit_rates *rates);

/*
 * mem_device.c: add the memory device "KEY=VALUE[,KEY=VALUE...]". Its id is "mem" and a number
 * unless it has one.
 * Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_mem_add(struct vm_config *config, const char *value, struct kv_err *err);

/*
 * mem_device.c: set one key of @mem, as it is called in --mem-device.
 * Returns 0; -ENOENT (no such key), -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_mem_key(
	struct vm_mem_device *mem, const char *key, const char *value, struct kv_err *err);

/*
 * mem_device.c: take @mem on, which is emptied.
 * Returns 0; -EINVAL or -ERANGE with a sentence; -ENOMEM.
 */
int config_mem_take(struct vm_config *config, struct vm_mem_device *mem, struct kv_err *err);

/* mem_device.c: check the memory devices. Returns 0; -EINVAL or -ERANGE with a sentence. */
int config_mems_fit(const struct vm_config *config, struct kv_err *err);

/* mem_device.c: free what @mem points to and set all defaults. */
void config_mem_free(struct vm_mem_device *mem);

/* Of a file; more is no configuration. */
#define CONFIG_FILE_MAX_BYTES MIB

/*
 * vm_config_load() from @len bytes of @text, which a NUL follows; @source names them in errors.
 * Returns 0; -EINVAL, -ERANGE, -ENOTSUP with a sentence; -ENOMEM.
 */
int config_json_parse(struct vm_config *config, const char *source, const char *text, size_t len,
	struct kv_err *err);

/*
 * The line (from 1) of a value in @text, which is well-formed JSON with a NUL behind it: the
 * @indexes lead to it, each the position among the members of an object or elements of an array.
 * Depth 0: the line of the outermost value.
 */
unsigned config_json_line(const char *text, const size_t *indexes, unsigned depth);

/* What boot_args is when boot-source does not have it, as in Firecracker. */
#define CONFIG_BOOT_ARGS                                                                           \
	"reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd "         \
	"swiotlb=noforce"

#endif
