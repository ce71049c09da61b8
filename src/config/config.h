/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CONFIG_CONFIG_H
#define KV_CONFIG_CONFIG_H

#include <stdbool.h>

#include "base/err.h"
#include "machine/vm_config.h"

/* Filling and checking struct vm_config. Each setter checks one value as a person wrote it. */

/* More would not fit a guest-physical address space of 52 bits beside the 32-bit hole. */
#define CONFIG_MEMORY_MAX_BYTES (4095 * TIB)

/*
 * Set all defaults: 1 CPU, 128 MiB, serial on stdio, image map share, protocol auto, empty command
 * line. Returns 0 or -ENOMEM. Owns: vm_config_free() frees what the structure points to.
 */
int vm_config_init(struct vm_config *config);
void vm_config_free(struct vm_config *config);

/*
 * Set the field @name ("memory", "cpus", "initrd", "append", "serial", "image-map",
 * "boot-protocol", "legacy", "symbols", "id", "api-sock", "no-api", "kernel", "boot-timer", "rng",
 * "discovery", "disk", "mem-device", "net") from @value; "initrd", "disk", "mem-device" and "net"
 * add to their lists, the others replace. The names are those of the options of `kvick run`.
 * Returns 0; -EINVAL or -ERANGE with a sentence that names field, value and what is allowed;
 * -ENOENT for an unknown name; -ENOMEM.
 */
int vm_config_set(
	struct vm_config *config, const char *name, const char *value, struct kv_err *err);

/* Whether @value, which is given for "memory", sets @key ("backing"), of at most 20 letters. */
bool config_memory_has(const char *value, const char *key);

/*
 * Read a JSON configuration file (Firecracker's format, docs/config.md) of at most 1 MiB into
 * @config, on top of what is there: what the file does not name stays, initrds are added.
 * Returns 0; -errno of open(2) and read(2); -EFBIG; -EINVAL or -ERANGE with line and JSON path of
 * the offending field; -ENOTSUP likewise for what this version does not offer; -ENOMEM. After a
 * failure @config may have been filled in part.
 */
int vm_config_load(struct vm_config *config, const char *path, struct kv_err *err);

/*
 * Write @config, which vm_config_check() accepts, in the format that vm_config_load() reads.
 * Returns 0; -EINVAL when vm_config_check() refuses it; -EILSEQ when a string is not UTF-8, which
 * JSON cannot hold; -ENOMEM.
 * Owns: the caller frees *@ret.
 */
int vm_config_dump(const struct vm_config *config, char **ret);

struct json_t;

/*
 * Read Firecracker's rate_limiter. A bucket that @object does not have stays as it is; one that
 * limits nothing is cleared. Returns 0; -EINVAL or -ERANGE with a sentence.
 */
int config_limit_json(struct limit_rates *rates, struct json_t *object, struct kv_err *err);

/*
 * Check the fields against each other (kernel set, memory size, ...).
 * Returns 0; -EINVAL with a sentence.
 */
int vm_config_check(const struct vm_config *config, struct kv_err *err);

#endif
