/* SPDX-License-Identifier: Apache-2.0 */
/* Writing configuration files. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "config/internal.h"

/* The --serial form of the serial port, on the heap; NULL: out of memory. */
static char *serial_text(const struct vm_config *config)
{
	static const char *const forms[] = {
		[VM_SERIAL_NONE] = "none",
		[VM_SERIAL_STDIO] = "stdio",
		[VM_SERIAL_FILE] = "file:",
		[VM_SERIAL_PTY] = "pty",
		[VM_SERIAL_UNIX] = "unix:",
	};
	bool has_path = config->serial == VM_SERIAL_FILE || config->serial == VM_SERIAL_UNIX;
	char *text;

	if (asprintf(&text, "%s%s", forms[config->serial], has_path ? config->serial_path : "") < 0)
		return NULL;
	return text;
}

/* Initrds behind the first, which has its own field. Returns NULL when one is not UTF-8. */
static json_t *initrds_pack(const struct vm_config *config)
{
	json_t *list = json_array();

	for (unsigned i = 1; i < config->initrd_count; i++) {
		if (!json_array_append_new(list, json_string(config->initrds[i])))
			continue;
		json_decref(list);
		return NULL;
	}
	return list;
}

/* A backing as config_backing_set() takes it; NULL when its path is not UTF-8. */
static json_t *backing_pack(enum gmem_backing_kind backing, const char *path)
{
	return json_sprintf(
		"%s%s%s", gmem_backing_name(backing), path ? ":" : "", path ? path : "");
}

/*
 * kvick.memory: what differs from the defaults, or NULL when nothing does.
 * Returns 0; -EILSEQ when the path is not UTF-8.
 */
static int memory_pack(const struct vm_config *config, bool size_told, json_t **ret)
{
	static const char *const thp[] = {
		[GMEM_AUTO] = "auto", [GMEM_OFF] = "off", [GMEM_ON] = "on"};
	const struct vm_memory *memory = &config->memory;
	const struct {
		const char *name;
		bool on;
	} flags[] = {
		{"mlock", memory->mlock},
		{"merge", memory->merge},
		{"dump", memory->dump},
		{"shared", memory->shared},
		{"wait", memory->wait},
	};
	json_t *object = json_object(), *nodes = json_array();
	char size[24];
	int r = 0;

	if (!size_told)
		json_object_set_new(object, "size",
			json_string(size_format(config->memory_bytes, size, sizeof(size))));
	if (memory->backing != GMEM_ANON &&
		json_object_set_new(
			object, "backing", backing_pack(memory->backing, memory->path)) < 0)
		r = -EILSEQ;
	if (memory->thp != GMEM_AUTO)
		json_object_set_new(object, "thp", json_string(thp[memory->thp]));
	if (memory->populate != GMEM_POPULATE_NONE)
		json_object_set_new(
			object, "populate", json_string(gmem_populate_name(memory->populate)));
	if (memory->threads)
		json_object_set_new(object, "threads", json_integer(memory->threads));
	for (int node = 0; node < 64; node++)
		if (memory->nodes & 1ULL << node)
			json_array_append_new(nodes, json_integer(node));
	if (memory->nodes)
		json_object_set(object, "numa", nodes);
	json_decref(nodes);
	for (size_t i = 0; i < ARRAY_LEN(flags); i++)
		if (flags[i].on)
			json_object_set_new(object, flags[i].name, json_true());
	if (!r && json_object_size(object))
		*ret = json_incref(object);
	json_decref(object);
	return r;
}

/* All disks as kvick.disks has them. Returns NULL when a path is not UTF-8. */
static json_t *disks_pack(const struct vm_config *config)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < config->disk_count; i++) {
		const struct vm_disk *disk = &config->disks[i];
		json_t *one =
			json_pack("{s:s, s:s, s:b, s:b, s:b, s:b, s:s*, s:s*, s:s, s:i, s:o*}",
				"path", disk->path, "id", disk->id, "ro", disk->read_only, "root",
				disk->root, "direct", disk->direct, "iothread", disk->iothread,
				"serial", disk->serial, "partuuid", disk->partuuid, "cache",
				disk->writeback ? "writeback" : "unsafe", "queues",
				(int)disk->queues, "rate_limiter", config_limit_pack(&disk->limit));

		if (one && !json_array_append_new(list, one))
			continue;
		json_decref(list);
		return NULL;
	}
	return list;
}

static json_t *entropy_pack(const struct vm_config *config)
{
	return json_pack("{s:o*}", "rate_limiter", config_limit_pack(&config->rng_limit));
}

/* The memory devices as kvick.mem_devices has them; NULL when a path is not UTF-8. */
static json_t *mems_pack(const struct vm_config *config)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < config->mem_count; i++) {
		const struct vm_mem_device *mem = &config->mems[i];
		char max[24], requested[24], block[24];
		json_t *one = json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:o}", "id", mem->id, "max",
			size_format(mem->max_bytes, max, sizeof(max)), "requested",
			size_format(mem->requested_bytes, requested, sizeof(requested)), "block",
			size_format(mem->block_bytes, block, sizeof(block)), "dynamic_memslots",
			mem->dynamic, "populate", mem->populate ? "full" : "none", "backing",
			backing_pack(mem->backing, mem->path));

		if (one && mem->slots)
			json_object_set_new(one, "slots", json_integer(mem->slots));
		if (one && mem->node >= 0)
			json_object_set_new(one, "node", json_integer(mem->node));
		if (one && !json_array_append_new(list, one))
			continue;
		json_decref(list);
		return NULL;
	}
	return list;
}

/* The reason why json_pack_ex() made nothing. */
static int pack_error(const json_error_t *bad)
{
	return json_error_code(bad) == json_error_invalid_utf8 ? -EILSEQ : -ENOMEM;
}

int vm_config_dump(const struct vm_config *config, char **ret)
{
	bool whole_mib = config->memory_bytes % MIB == 0;
	MEM_SCOPED char *serial = NULL;
	json_t *own = NULL, *root = NULL, *memory = NULL, *disks, *initrds, *mems;
	json_error_t bad;
	int r;

	r = vm_config_check(config, NULL);
	if (r < 0)
		return r;
	serial = serial_text(config);
	if (!serial)
		return -ENOMEM;
	r = memory_pack(config, whole_mib, &memory);
	initrds = r < 0 ? NULL : initrds_pack(config);
	disks = initrds ? disks_pack(config) : NULL;
	mems = disks ? mems_pack(config) : NULL;
	if (!mems) {
		json_decref(disks);
		json_decref(initrds);
		json_decref(memory);
		return -EILSEQ;
	}
	/* json_pack_ex() takes over what is packed by "o", also when it fails. */
	own = json_pack_ex(&bad, 0,
		"{s:o, s:o, s:s, s:s, s:s*, s:s, s:s, s:s, s:b, s:s*, s:s*, s:b, s:o, s:o*}",
		"initrds", initrds, "disks", disks, "image_map",
		config_image_maps[config->image_map], "boot_protocol",
		config_protocols[config->protocol], "symbols", config->symbols, "serial", serial,
		"legacy", config_legacies[config->legacy], "discovery",
		config_discoveries[config->discovery], "boot_timer", config->boot_timer, "id",
		config->named ? config->id : NULL, "api_sock", config->api_sock, "no_api",
		config->no_api, "mem_devices", mems, "memory", memory);
	if (!own)
		return pack_error(&bad);
	if (config->net_count && json_object_set_new(own, "nets", config_nets_pack(config)) < 0) {
		json_decref(own);
		return -EILSEQ;
	}
	root = json_pack_ex(&bad, 0, "{s:{s:s, s:s*, s:s}, s:[], s:{s:i, s:o*}, s:o*, s:o}",
		"boot-source", "kernel_image_path", config->kernel, "initrd_path",
		config->initrd_count ? config->initrds[0] : NULL, "boot_args", config->cmdline,
		"drives", "machine-config", "vcpu_count", (int)config->cpus, "mem_size_mib",
		whole_mib ? json_integer((json_int_t)(config->memory_bytes / MIB)) : NULL,
		"entropy", config->rng ? entropy_pack(config) : NULL, "kvick", own);
	if (!root)
		return pack_error(&bad);
	*ret = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	return *ret ? 0 : -ENOMEM;
}
