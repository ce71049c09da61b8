/* SPDX-License-Identifier: Apache-2.0 */
/* Reading configuration files: Firecracker's sections, and kvick's own. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "config/internal.h"

#define DEPTH_MAX 4 /* kvick.memory.numa[2] */

/* A position in the document: a member of an object, or an element of an array. */
struct step {
	json_t *in;
	const char *key; /* NULL: element @index */
	size_t index;
};

struct reader {
	struct vm_config *config;
	const char *source;
	const char *text;
	struct step path[DEPTH_MAX];
	unsigned depth;
	bool memory_mib; /* machine-config.mem_size_mib is given */
	bool huge_2m;	 /* machine-config.huge_pages is "2M" */
	json_t *memory;	 /* kvick.memory, or NULL */
	struct kv_err *err;
};

struct field {
	const char *name;
	/* NULL: only values that mean "off" are accepted. @value is not null. */
	int (*read)(struct reader *rd, const struct field *field, json_t *value);
	const char *option; /* the field's name for vm_config_set() */
	bool required;
};

struct section {
	const char *name;
	const struct field *fields; /* NULL: not offered by this version */
	unsigned field_count;
	int (*done)(struct reader *rd, json_t *section); /* after the fields, or NULL */
	int (*read)(struct reader *rd, json_t *section); /* instead of the fields, or NULL */
};

static size_t step_index(const struct step *step)
{
	const char *key;
	json_t *value;
	size_t index = 0;

	if (!step->key)
		return step->index;
	/* Members are kept in the order of the text. */
	json_object_foreach(step->in, key, value)
	{
		if (!strcmp(key, step->key))
			break;
		index++;
	}
	return index;
}

/* "SOURCE:LINE: a.b[2]: " in front of the sentence in rd->err. Returns @r. */
static int located(struct reader *rd, int r)
{
	size_t indexes[DEPTH_MAX];
	char path[256] = "";
	size_t used = 0;

	for (unsigned i = 0; i < rd->depth; i++) {
		const struct step *step = &rd->path[i];

		indexes[i] = step_index(step);
		if (used >= sizeof(path))
			continue;
		if (step->key)
			used += (size_t)snprintf(
				path + used, sizeof(path) - used, "%s%s", i ? "." : "", step->key);
		else
			used += (size_t)snprintf(
				path + used, sizeof(path) - used, "[%zu]", step->index);
	}
	return err_prefix(rd->err, r, "%s:%u%s%s", rd->source,
		config_json_line(rd->text, indexes, rd->depth), rd->depth ? ": " : "", path);
}

static int fail(struct reader *rd, int r, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct reader *rd, int r, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	err_set(rd->err, r, "%s", text);
	return located(rd, r);
}

static void step_into(struct reader *rd, json_t *in, const char *key, size_t index)
{
	rd->path[rd->depth++] = (struct step){in, key, index};
}

static void step_out(struct reader *rd)
{
	rd->depth--;
}

static const char *type_name(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "an integer";
	case JSON_REAL:
		return "a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		break;
	}
	return "null";
}

static int type_fail(struct reader *rd, const json_t *value, const char *wanted)
{
	return fail(rd, -EINVAL, "is %s; give %s", type_name(value), wanted);
}

/* located() with what comes from the command line's code, which has no sentence for -ENOMEM. */
static int told(struct reader *rd, int r)
{
	return r < 0 && r != -ENOMEM ? located(rd, r) : r;
}

/* A scalar as it would stand on the command line, in @buf or elsewhere; NULL: it is none. */
static const char *scalar_text(const json_t *value, char buf[24])
{
	if (json_is_boolean(value))
		return json_is_true(value) ? "on" : "off";
	if (!json_is_integer(value))
		return json_string_value(value);
	snprintf(buf, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return buf;
}

static int option_set(struct reader *rd, const struct field *field, const char *value)
{
	int r = config_field_set(rd->config, field->option, value, rd->err);

	return r < 0 ? located(rd, r) : 0;
}

static int text_read(struct reader *rd, const struct field *field, json_t *value)
{
	if (!json_is_string(value))
		return type_fail(rd, value, "a string");
	return option_set(rd, field, json_string_value(value));
}

static int texts_read(struct reader *rd, const struct field *field, json_t *value)
{
	int r = 0;

	if (!json_is_array(value))
		return type_fail(rd, value, "an array of strings");
	for (size_t i = 0; !r && i < json_array_size(value); i++) {
		step_into(rd, value, NULL, i);
		r = text_read(rd, field, json_array_get(value, i));
		step_out(rd);
	}
	return r;
}

static int flag_read(struct reader *rd, const struct field *field, json_t *value)
{
	if (!json_is_boolean(value))
		return type_fail(rd, value, "true or false");
	return option_set(rd, field, json_is_true(value) ? "on" : "off");
}

static int count_read(struct reader *rd, const struct field *field, json_t *value)
{
	char text[24];

	if (!json_is_integer(value))
		return type_fail(rd, value, "an integer");
	return option_set(rd, field, scalar_text(value, text));
}

static int mib_read(struct reader *rd, const struct field *field, json_t *value)
{
	uint64_t bytes;
	json_int_t mib;
	char shown[32];
	int r;

	if (!json_is_integer(value))
		return type_fail(rd, value, "an integer");
	mib = json_integer_value(value);
	snprintf(shown, sizeof(shown), "%" JSON_INTEGER_FORMAT " MiB", mib);
	if (mib < 0 || __builtin_mul_overflow((uint64_t)mib, MIB, &bytes))
		bytes = UINT64_MAX;
	r = config_memory_check(bytes, shown, rd->err);
	if (r < 0)
		return located(rd, r);
	rd->config->memory_bytes = bytes;
	rd->memory_mib = true;
	return 0;
}

/* Of Firecracker's fields, those that kvick can only take at their default. */
static int false_read(struct reader *rd, const struct field *field, json_t *value)
{
	if (!json_is_boolean(value))
		return type_fail(rd, value, "false");
	if (json_is_true(value))
		return fail(
			rd, -ENOTSUP, "true is not offered by this version of kvick; give false");
	return 0;
}

static int none_read(struct reader *rd, const struct field *field, json_t *value)
{
	if (!json_is_string(value))
		return type_fail(rd, value, "\"None\"");
	if (strcmp(json_string_value(value), "None"))
		return fail(rd, -ENOTSUP,
			"%s is not offered by this version of kvick; give \"None\"",
			config_show(json_string_value(value)).text);
	return 0;
}

/* Firecracker's only other size; kvick.memory may add to it. */
static int huge_read(struct reader *rd, const struct field *field, json_t *value)
{
	const char *text = json_string_value(value);

	if (!text)
		return type_fail(rd, value, "\"None\" or \"2M\"");
	rd->huge_2m = !strcmp(text, "2M");
	if (!rd->huge_2m && strcmp(text, "None"))
		return fail(rd, -EINVAL, "%s is not allowed; give \"None\" or \"2M\"",
			config_show(text).text);
	if (rd->huge_2m) {
		config_memory_reset(&rd->config->memory, "backing");
		rd->config->memory.backing = GMEM_HUGETLB_2M;
	}
	return 0;
}

/* A scalar of kvick.memory. */
static int memory_scalar(struct reader *rd, const char *key, json_t *value)
{
	char buf[24];
	const char *text = scalar_text(value, buf);
	int r;

	if (!text)
		return type_fail(rd, value, "a string, an integer, true or false");
	r = strcmp(key, "size") ? config_memory_key(&rd->config->memory, key, text, rd->err)
				: config_memory_size(rd->config, text, rd->err);
	if (r == -ENOENT)
		return fail(
			rd, -EINVAL, "there is no such key; memory has size, " CONFIG_MEMORY_KEYS);
	return r < 0 ? located(rd, r) : 0;
}

/* The members of kvick.memory, on top of what is there. */
static int memory_members(struct reader *rd, json_t *object)
{
	const char *key;
	json_t *value;
	int r = 0;

	json_object_foreach(object, key, value)
	{
		if (!json_is_null(value))
			config_memory_reset(&rd->config->memory, key);
	}
	json_object_foreach(object, key, value)
	{
		bool list = json_is_array(value) && !strcmp(key, "numa");

		if (json_is_null(value))
			continue;
		step_into(rd, object, key, 0);
		if (!list)
			r = memory_scalar(rd, key, value);
		for (size_t i = 0; list && !r && i < json_array_size(value); i++) {
			step_into(rd, value, NULL, i);
			r = memory_scalar(rd, key, json_array_get(value, i));
			step_out(rd);
		}
		step_out(rd);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Whether what the file says of memory goes together; @sized: it says a size, too. */
static int memory_check(struct reader *rd, bool sized)
{
	static const char option[] = "memory: ";
	char *text = rd->err ? rd->err->text : NULL;
	int r = config_memory_fits(
		&rd->config->memory, sized ? rd->config->memory_bytes : 0, rd->err);

	if (!r)
		return 0;
	/* The path says where, better than the option's name. */
	if (text && !strncmp(text, option, strlen(option)))
		memmove(text, text + strlen(option), strlen(text + strlen(option)) + 1);
	return located(rd, r);
}

/* Firecracker's field and kvick's finer one must not contradict each other. */
static int memory_read(struct reader *rd, const struct field *field, json_t *value)
{
	uint64_t before = rd->config->memory_bytes;
	const json_t *size = json_object_get(value, "size");
	bool sized = rd->memory_mib || json_is_string(value) || (size && !json_is_null(size));
	char mib[24], own[24];
	int r;

	if (json_is_object(value))
		r = memory_members(rd, value);
	else if (json_is_string(value))
		r = text_read(rd, field, value);
	else
		r = type_fail(rd, value, "a string or an object");
	if (!r && rd->huge_2m && rd->config->memory.backing != GMEM_HUGETLB_2M)
		return fail(rd, -EINVAL,
			"backing=%s contradicts machine-config.huge_pages, which says 2M",
			gmem_backing_name(rd->config->memory.backing));
	if (r < 0)
		return r;
	if (!rd->memory_mib || rd->config->memory_bytes == before)
		return memory_check(rd, sized);
	return fail(rd, -EINVAL, "%s contradicts machine-config.mem_size_mib, which says %s",
		size_format(rd->config->memory_bytes, own, sizeof(own)),
		size_format(before, mib, sizeof(mib)));
}

/* The section `entropy` says by being there that there is a device. */
static int entropy_done(struct reader *rd, json_t *section)
{
	rd->config->rng = true;
	return 0;
}

static int limit_read(struct reader *rd, struct limit_rates *rates, json_t *value)
{
	int r = config_limit_json(rates, value, rd->err);

	return r < 0 ? located(rd, r) : 0;
}

static int rng_limit_read(struct reader *rd, const struct field *field, json_t *value)
{
	return limit_read(rd, &rd->config->rng_limit, value);
}

static int boot_source_done(struct reader *rd, json_t *section)
{
	const json_t *args = json_object_get(section, "boot_args");
	struct kv_err *err = rd->err;

	if (args && !json_is_null(args))
		return 0;
	return config_field_set(rd->config, "append", CONFIG_BOOT_ARGS, err);
}

static int machine_done(struct reader *rd, json_t *section)
{
	int r;

	/* Read later, and checked then. */
	if (rd->memory)
		return 0;
	if (!rd->memory_mib)
		return fail(rd, -EINVAL, "the field mem_size_mib is missing");
	step_into(rd, section, "mem_size_mib", 0);
	r = memory_check(rd, true);
	step_out(rd);
	return r;
}

/* A disk's key, and what it is called in a configuration file. */
struct disk_key {
	const char *name;
	const char *key;	       /* for config_disk_key(); NULL: see below */
	const char *const words[2][2]; /* of the file, and what they mean; or none */
};

static const struct disk_key own_keys[] = {
	{"path", "path", {{0}}},
	{"id", "id", {{0}}},
	{"ro", "ro", {{0}}},
	{"root", "root", {{0}}},
	{"direct", "direct", {{0}}},
	{"serial", "serial", {{0}}},
	{"cache", "cache", {{0}}},
	{"queues", "queues", {{0}}},
	{"iothread", "iothread", {{0}}},
	{"partuuid", "partuuid", {{0}}},
};

static const struct disk_key drive_keys[] = {
	{"path_on_host", "path", {{0}}},
	{"drive_id", "id", {{0}}},
	{"is_read_only", "ro", {{0}}},
	{"is_root_device", "root", {{0}}},
	{"partuuid", "partuuid", {{0}}},
	{"cache_type", "cache", {{"Unsafe", "unsafe"}, {"Writeback", "writeback"}}},
	/* Both are offered: it is always the faster that the host allows. */
	{"io_engine", NULL, {{"Sync", ""}, {"Async", ""}}},
};

/* Each element of @value by @read: a device in kvick's @own form, or in Firecracker's. */
static int objects_read(struct reader *rd, json_t *value, bool own,
	int (*read)(struct reader *rd, bool own, json_t *object))
{
	int r = 0;

	if (!json_is_array(value))
		return type_fail(rd, value, "an array of objects");
	for (size_t i = 0; !r && i < json_array_size(value); i++) {
		step_into(rd, value, NULL, i);
		r = read(rd, own, json_array_get(value, i));
		step_out(rd);
	}
	return r;
}

/* Each member of @object that is not null into @device by @read. */
static int members_read(struct reader *rd, json_t *object, bool own, void *device,
	int (*read)(struct reader *rd, bool own, void *device, const char *name, json_t *value))
{
	const char *name;
	json_t *value;
	int r;

	if (!json_is_object(object))
		return type_fail(rd, object, "an object");
	json_object_foreach(object, name, value)
	{
		if (json_is_null(value))
			continue;
		step_into(rd, object, name, 0);
		r = read(rd, own, device, name, value);
		step_out(rd);
		if (r < 0)
			return r;
	}
	return 0;
}

static int unknown_fail(struct reader *rd, bool own)
{
	return fail(rd, own ? -EINVAL : -ENOTSUP,
		"unknown field, or one that this version of kvick does not offer");
}

/* Replace @text, if @key has words, by what it means. Returns 0 or -EINVAL with a sentence. */
static int word_read(struct reader *rd, const struct disk_key *key, const char **text)
{
	if (!key->words[0][0])
		return 0;
	for (unsigned i = 0; i < 2; i++)
		if (!strcmp(*text, key->words[i][0])) {
			*text = key->words[i][1];
			return 0;
		}
	return fail(rd, -EINVAL, "%s is not allowed; give \"%s\" or \"%s\"",
		config_show(*text).text, key->words[0][0], key->words[1][0]);
}

static int disk_member(struct reader *rd, bool own, void *device, const char *name, json_t *value)
{
	const struct disk_key *key = own ? own_keys : drive_keys;
	const struct disk_key *end = key + (own ? ARRAY_LEN(own_keys) : ARRAY_LEN(drive_keys));
	struct vm_disk *disk = device;
	const char *text;
	char buf[24];
	int r;

	if (!strcmp(name, "rate_limiter"))
		return limit_read(rd, &disk->limit, value);
	while (key < end && strcmp(key->name, name))
		key++;
	if (key == end)
		return unknown_fail(rd, own);
	text = scalar_text(value, buf);
	if (!text)
		return type_fail(rd, value, "a string, a boolean or an integer");
	r = word_read(rd, key, &text);
	if (r < 0 || !key->key)
		return r;
	return told(rd, config_disk_key(disk, key->key, text, rd->err));
}

static int disk_object(struct reader *rd, bool own, json_t *value)
{
	struct vm_disk disk = {0};
	int r;

	config_disk_free(&disk);
	/* Firecracker's default. */
	disk.writeback = own;
	r = members_read(rd, value, own, &disk, disk_member);
	if (!r && !disk.path)
		r = fail(rd, -EINVAL, "the field %s is missing", own ? "path" : "path_on_host");
	if (!r)
		r = told(rd, config_disk_take(rd->config, &disk, rd->err));
	config_disk_free(&disk);
	return r;
}

static int drives_read(struct reader *rd, json_t *value)
{
	return objects_read(rd, value, false, disk_object);
}

static int own_disks_read(struct reader *rd, const struct field *field, json_t *value)
{
	return objects_read(rd, value, true, disk_object);
}

/* A member of a memory device's object; names have '_' where the option's keys have '-'. */
static int mem_member(struct reader *rd, bool own, void *device, const char *name, json_t *value)
{
	char buf[24], key[32];
	const char *text = scalar_text(value, buf);
	int r;

	if (!text)
		return type_fail(rd, value, "a string, a boolean or an integer");
	snprintf(key, sizeof(key), "%s", name);
	for (char *c = key; *c; c++)
		*c = *c == '_' ? '-' : *c;
	r = config_mem_key(device, key, text, rd->err);
	return told(rd, r == -ENOENT ? -EINVAL : r);
}

static int mem_object(struct reader *rd, bool own, json_t *value)
{
	struct vm_mem_device mem = {0};
	int r;

	config_mem_free(&mem);
	r = members_read(rd, value, own, &mem, mem_member);
	if (!r)
		r = told(rd, config_mem_take(rd->config, &mem, rd->err));
	config_mem_free(&mem);
	return r;
}

static int mems_read(struct reader *rd, const struct field *field, json_t *value)
{
	return objects_read(rd, value, true, mem_object);
}

/* A size in MiB of Firecracker's memory-hotplug. */
static int hotplug_mib(
	struct reader *rd, json_t *section, const char *name, json_t *value, uint64_t *ret)
{
	int r = 0;

	if (json_is_null(value))
		return 0;
	step_into(rd, section, name, 0);
	if (!json_is_integer(value))
		r = type_fail(rd, value, "an integer");
	else if (json_integer_value(value) < 1 ||
		 (uint64_t)json_integer_value(value) > CONFIG_MEMORY_MAX_BYTES / MIB)
		r = fail(rd, -ERANGE, "it is out of range; give MiB, from 1 to 4095 TiB");
	else
		*ret = (uint64_t)json_integer_value(value) * MIB;
	step_out(rd);
	return r;
}

/* Firecracker's only memory device. Its memory slots are chosen as for any other. */
static int hotplug_read(struct reader *rd, json_t *section)
{
	static const char *const names[] = {"total_size_mib", "block_size_mib", "slot_size_mib"};
	struct vm_mem_device mem = {0};
	uint64_t values[ARRAY_LEN(names)] = {0};
	const char *name;
	json_t *member;
	int r = 0;

	if (!json_is_object(section))
		return type_fail(rd, section, "an object");
	json_object_foreach(section, name, member)
	{
		unsigned i = 0;

		while (i < ARRAY_LEN(names) && strcmp(names[i], name))
			i++;
		r = i < ARRAY_LEN(names)
			    ? hotplug_mib(rd, section, name, member, &values[i])
			    : fail(rd, -EINVAL,
				      "unknown field %s; memory-hotplug has total_size_mib, "
				      "block_size_mib, slot_size_mib",
				      config_show(name).text);
		if (r < 0)
			return r;
	}
	config_mem_free(&mem);
	r = config_mem_key(&mem, "id", "hotplug", rd->err);
	mem.max_bytes = values[0];
	mem.block_bytes = values[1];
	if (!r)
		r = values[0] ? told(rd, config_mem_take(rd->config, &mem, rd->err))
			      : fail(rd, -EINVAL, "the field total_size_mib is missing");
	config_mem_free(&mem);
	return r;
}

/* Returns 0; -ENOENT (no such key); another -errno, with a sentence unless it is -ENOMEM. */
static int net_value(struct reader *rd, struct vm_net *net, const char *key, json_t *value)
{
	char buf[24];
	const char *text = scalar_text(value, buf);
	int r;

	if (json_is_boolean(value) && strcmp(key, "user") && strcmp(key, "iothread"))
		return type_fail(rd, value, "a string or an integer");
	if (!text)
		return type_fail(rd, value, "a string, a boolean or an integer");
	r = config_net_key(net, key, text, rd->err);
	return r == -ENOENT ? r : told(rd, r);
}

/* One member of a network device's object; what Firecracker calls it, and config_net_key(). */
static int net_member(struct reader *rd, bool own, void *device, const char *name, json_t *value)
{
	static const char *const names[][2] = {
		{"iface_id", "id"}, {"host_dev_name", "tap"}, {"guest_mac", "mac"}, {"mtu", "mtu"}};
	struct vm_net *net = device;
	const char *key = own ? name : NULL;
	int r = 0;

	if (!strcmp(name, "rx_rate_limiter") || !strcmp(name, "tx_rate_limiter"))
		return limit_read(rd, *name == 'r' ? &net->rx : &net->tx, value);
	for (size_t i = 0; !own && i < ARRAY_LEN(names); i++)
		if (!strcmp(name, names[i][0]))
			key = names[i][1];
	if (!key)
		return unknown_fail(rd, own);
	if (!strcmp(key, "forward") && json_is_array(value)) {
		for (size_t i = 0; !r && i < json_array_size(value); i++)
			r = net_value(rd, net, key, json_array_get(value, i));
	} else {
		r = net_value(rd, net, key, value);
	}
	return r == -ENOENT ? unknown_fail(rd, own) : r;
}

static int net_object(struct reader *rd, bool own, json_t *value)
{
	struct vm_net net = {0};
	int r;

	config_net_free(&net);
	r = members_read(rd, value, own, &net, net_member);
	if (!r && !own && (!net.id || net.kind == VM_NET_NONE))
		r = fail(rd, -EINVAL, "the field %s is missing",
			net.id ? "host_dev_name" : "iface_id");
	if (!r)
		r = told(rd, config_net_take(rd->config, &net, rd->err));
	config_net_free(&net);
	return r;
}

static int interfaces_read(struct reader *rd, json_t *value)
{
	return objects_read(rd, value, false, net_object);
}

static int own_nets_read(struct reader *rd, const struct field *field, json_t *value)
{
	return objects_read(rd, value, true, net_object);
}

static const struct field boot_source_fields[] = {
	{"kernel_image_path", text_read, "kernel", true},
	{"initrd_path", text_read, "initrd", false},
	{"boot_args", text_read, "append", false},
};

static const struct field machine_fields[] = {
	{"vcpu_count", count_read, "cpus", true},
	{"mem_size_mib", mib_read, NULL, false},
	{"smt", false_read, NULL, false},
	{"cpu_template", none_read, NULL, false},
	{"track_dirty_pages", false_read, NULL, false},
	{"huge_pages", huge_read, NULL, false},
};

static const struct field entropy_fields[] = {
	{"rate_limiter", rng_limit_read, NULL, false},
};

static const struct field kvick_fields[] = {
	{"initrds", texts_read, "initrd", false},
	{"disks", own_disks_read, NULL, false},
	{"nets", own_nets_read, NULL, false},
	{"mem_devices", mems_read, NULL, false},
	{"image_map", text_read, "image-map", false},
	{"boot_protocol", text_read, "boot-protocol", false},
	{"symbols", text_read, "symbols", false},
	{"serial", text_read, "serial", false},
	{"legacy", text_read, "legacy", false},
	{"discovery", text_read, "discovery", false},
	{"boot_timer", flag_read, "boot-timer", false},
	{"id", text_read, "id", false},
	{"api_sock", text_read, "api-sock", false},
	{"no_api", flag_read, "no-api", false},
	{"memory", memory_read, "memory", false},
};

/* Read in this order, whatever the file's. */
static const struct section sections[] = {
	{"boot-source", boot_source_fields, ARRAY_LEN(boot_source_fields), boot_source_done},
	{"machine-config", machine_fields, ARRAY_LEN(machine_fields), machine_done},
	{"kvick", kvick_fields, ARRAY_LEN(kvick_fields), NULL},
	{"entropy", entropy_fields, ARRAY_LEN(entropy_fields), entropy_done},
	{"drives", NULL, 0, NULL, drives_read},
	{"network-interfaces", NULL, 0, NULL, interfaces_read},
	{"vsock", NULL, 0, NULL},
	{"balloon", NULL, 0, NULL},
	{"pmem", NULL, 0, NULL},
	{"memory-hotplug", NULL, 0, NULL, hotplug_read},
	{"mmds-config", NULL, 0, NULL},
	{"cpu-config", NULL, 0, NULL},
	{"logger", NULL, 0, NULL},
	{"metrics", NULL, 0, NULL},
};

/* Refuse members of @value that @section does not know. */
static int unknown_check(struct reader *rd, const struct section *section, json_t *value)
{
	char known[240] = "";
	size_t used = 0;
	const char *key;
	json_t *member;

	for (unsigned i = 0; i < section->field_count && used < sizeof(known); i++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "",
			section->fields[i].name);
	json_object_foreach(value, key, member)
	{
		unsigned i = 0;
		int r;

		while (i < section->field_count && strcmp(section->fields[i].name, key))
			i++;
		if (i < section->field_count)
			continue;
		step_into(rd, value, key, 0);
		r = fail(rd, -EINVAL, "unknown field; %s has %s", section->name, known);
		step_out(rd);
		return r;
	}
	return 0;
}

static int fields_read(struct reader *rd, const struct section *section, json_t *value)
{
	int r;

	if (!json_is_object(value))
		return type_fail(rd, value, "an object");
	r = unknown_check(rd, section, value);
	for (unsigned i = 0; !r && i < section->field_count; i++) {
		const struct field *field = &section->fields[i];
		json_t *member = json_object_get(value, field->name);

		if (!member || json_is_null(member)) {
			if (field->required)
				r = fail(rd, -EINVAL, "the field %s is missing", field->name);
			continue;
		}
		step_into(rd, value, field->name, 0);
		r = field->read(rd, field, member);
		step_out(rd);
	}
	if (!r && section->done)
		r = section->done(rd, value);
	return r;
}

/* A section of Firecracker's that has no counterpart here may only be empty. */
static int absent_check(struct reader *rd, const struct section *section, json_t *value)
{
	if (json_is_array(value) && !json_array_size(value))
		return 0;
	if (json_is_object(value) && !json_object_size(value))
		return 0;
	return fail(rd, -ENOTSUP,
		"this version of kvick does not offer '%s'; leave it out or empty", section->name);
}

static int document_read(struct reader *rd, json_t *root)
{
	int r = 0;

	if (!json_is_object(root))
		return type_fail(rd, root, "an object with boot-source, machine-config, ...");
	rd->memory = json_object_get(json_object_get(root, "kvick"), "memory");
	if (json_is_null(rd->memory))
		rd->memory = NULL;
	for (size_t i = 0; !r && i < ARRAY_LEN(sections); i++) {
		const struct section *section = &sections[i];
		json_t *value = json_object_get(root, section->name);

		if (!value || json_is_null(value))
			continue;
		step_into(rd, root, section->name, 0);
		if (section->read)
			r = section->read(rd, value);
		else if (section->fields)
			r = fields_read(rd, section, value);
		else
			r = absent_check(rd, section, value);
		step_out(rd);
	}
	return r;
}

/* Keys and values of the file stand in errors, which go to terminals. */
static void text_clean(struct kv_err *err)
{
	for (char *c = err ? err->text : NULL; c && *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
}

int config_json_parse(struct vm_config *config, const char *source, const char *text, size_t len,
	struct kv_err *err)
{
	struct reader rd = {.config = config, .source = source, .text = text, .err = err};
	json_error_t bad;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &bad);
	int r;

	if (!root && json_error_code(&bad) == json_error_out_of_memory)
		return err_set(err, -ENOMEM, "out of memory");
	if (root)
		r = document_read(&rd, root);
	else
		r = err_set(err, -EINVAL, "%s:%d:%d: %s", source, bad.line, bad.column, bad.text);
	if (r < 0)
		text_clean(err);
	json_decref(root);
	return r;
}

int vm_config_load(struct vm_config *config, const char *path, struct kv_err *err)
{
	MEM_SCOPED char *text = NULL;
	ssize_t len = file_read_all(path, CONFIG_FILE_MAX_BYTES, &text);

	if (len == -EFBIG)
		return err_set(err, -EFBIG,
			"%s is larger than 1 MiB, which no configuration file is allowed to be",
			config_show(path).text);
	if (len < 0)
		return err_set(err, (int)len, "the configuration file %s cannot be read: %s",
			config_show(path).text, err_text((int)len));
	return config_json_parse(config, path, text, (size_t)len, err);
}
