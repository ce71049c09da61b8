/* SPDX-License-Identifier: Apache-2.0 */
#include "config/config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/fd.h"
#include "config/internal.h"
#include "x86/layout.h"

#define ID_MAX	     64
#define UNIX_MAX     (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)
#define CMDLINE_MAX  (LAYOUT_CMDLINE_MAX - 1)
#define SERIAL_FORMS "stdio, none, file:PATH, pty or unix:PATH"

int vm_config_init(struct vm_config *config)
{
	*config = (struct vm_config){
		.id = strdup("anonymous-instance"),
		.cmdline = strdup(""),
		.protocol = IMAGE_AUTO,
		.image_map = GMEM_IMAGE_SHARE,
		.memory_bytes = 128 * MIB,
		.cpus = 1,
		.legacy = VM_LEGACY_AUTO,
		.serial = VM_SERIAL_STDIO,
	};
	if (config->id && config->cmdline)
		return 0;
	vm_config_free(config);
	return -ENOMEM;
}

void vm_config_free(struct vm_config *config)
{
	free(config->id);
	free(config->api_sock);
	free(config->kernel);
	for (unsigned i = 0; i < config->initrd_count; i++)
		free(config->initrds[i]);
	free(config->cmdline);
	free(config->symbols);
	free(config->serial_path);
	config_memory_free(&config->memory);
	for (unsigned i = 0; i < config->disk_count; i++)
		config_disk_free(&config->disks[i]);
	for (unsigned i = 0; i < config->mem_count; i++)
		config_mem_free(&config->mems[i]);
	for (unsigned i = 0; i < config->net_count; i++)
		config_net_free(&config->nets[i]);
	*config = (struct vm_config){0};
}

struct config_shown config_show(const char *value)
{
	struct config_shown shown = {.text = "\""};
	size_t room = sizeof(shown.text) - sizeof("\"...\"");
	size_t len = strnlen(value, room + 1);
	char *at = shown.text + 1;

	/* Not inside a character of UTF-8. */
	while (len > room && room > 0 && ((unsigned char)value[room] & 0xc0) == 0x80)
		room--;
	for (size_t i = 0; i < len && i < room; i++) {
		unsigned char c = (unsigned char)value[i];

		*at++ = c < 0x20 || c == 0x7f ? '?' : (char)c;
	}
	strcpy(at, len > room ? "...\"" : "\"");
	return shown;
}

int config_text_set(char **field, const char *value)
{
	char *copy = strdup(value);

	if (!copy)
		return -ENOMEM;
	free(*field);
	*field = copy;
	return 0;
}

static int path_check(const char *value, struct kv_err *err)
{
	if (!*value)
		return err_set(err, -EINVAL, "the path is empty; name a file");
	if (strnlen(value, PATH_MAX) == PATH_MAX)
		return err_set(err, -ERANGE, "the path %s is longer than %d bytes",
			config_show(value).text, PATH_MAX - 1);
	return 0;
}

static int path_set(char **field, const char *value, struct kv_err *err)
{
	int r = path_check(value, err);

	return r < 0 ? r : config_text_set(field, value);
}

static int kernel_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	return path_set(&config->kernel, value, err);
}

static int symbols_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	return path_set(&config->symbols, value, err);
}

static int initrd_add(struct vm_config *config, const char *value, struct kv_err *err)
{
	int r = path_check(value, err);

	if (r < 0)
		return r;
	if (config->initrd_count == INITRD_FILES_MAX)
		return err_set(err, -ERANGE, "%s is one file too many; at most %d are allowed",
			config_show(value).text, INITRD_FILES_MAX);
	r = config_text_set(&config->initrds[config->initrd_count], value);
	if (!r)
		config->initrd_count++;
	return r;
}

static int cmdline_check(const char *value, struct kv_err *err)
{
	size_t len = strlen(value);

	if (len > CMDLINE_MAX)
		return err_set(err, -ERANGE,
			"a kernel command line of %zu bytes is too long; at most %llu are allowed",
			len, CMDLINE_MAX);
	return 0;
}

static int append_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int r = cmdline_check(value, err);

	return r < 0 ? r : config_text_set(&config->cmdline, value);
}

int config_id_check(const char *value, struct kv_err *err)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789_-";
	size_t len = strlen(value);

	if (len >= 1 && len <= ID_MAX && strspn(value, allowed) == len)
		return 0;
	return err_set(err, -EINVAL, "%s is not an id; give 1 to %d letters, digits, '-' or '_'",
		config_show(value).text, ID_MAX);
}

int config_id_set(char **field, const char *value, struct kv_err *err)
{
	int r = config_id_check(value, err);

	return r < 0 ? r : config_text_set(field, value);
}

int config_id_make(const struct vm_config *config, const char *kind, unsigned from,
	bool (*taken)(const struct vm_config *config, const char *id), char **ret)
{
	char id[ID_MAX + 1];

	do
		snprintf(id, sizeof(id), "%s%u", kind, from++);
	while (taken(config, id));
	return config_text_set(ret, id);
}

static int id_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int r = config_id_set(&config->id, value, err);

	if (!r)
		config->named = true;
	return r;
}

static int sock_check(const char *path, struct kv_err *err)
{
	int r = path_check(path, err);

	if (!r && strlen(path) > UNIX_MAX)
		return err_set(err, -ERANGE,
			"%s is too long for a Unix socket's path; at most %zu bytes are allowed",
			config_show(path).text, UNIX_MAX);
	return r;
}

static int api_sock_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int r = sock_check(value, err);

	return r < 0 ? r : config_text_set(&config->api_sock, value);
}

static int cpus_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	uint64_t n;
	int r = uint_parse(value, 1, VM_CPUS_MAX, &n);

	if (r < 0)
		return err_set(err, r, "%s is not a number of CPUs; give 1 to %d",
			config_show(value).text, VM_CPUS_MAX);
	config->cpus = (unsigned)n;
	return 0;
}

int config_word_find(
	const char *const *words, unsigned count, const char *value, struct kv_err *err)
{
	char list[80] = "";
	size_t used = 0;

	for (unsigned i = 0; i < count; i++)
		if (!strcmp(words[i], value))
			return (int)i;
	for (unsigned i = 0; i < count && used < sizeof(list); i++)
		used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
			i == 0		? ""
			: i + 1 < count ? ", "
					: " or ",
			words[i]);
	return err_set(err, -EINVAL, "%s is not allowed; give %s", config_show(value).text, list);
}

const char *const config_image_maps[CONFIG_IMAGE_MAPS] = {
	[GMEM_IMAGE_SHARE] = "share", [GMEM_IMAGE_COPY] = "copy"};
const char *const config_protocols[CONFIG_PROTOCOLS] = {
	[IMAGE_AUTO] = "auto", [IMAGE_PVH] = "pvh", [IMAGE_LINUX] = "linux"};
const char *const config_legacies[CONFIG_LEGACIES] = {
	[VM_LEGACY_AUTO] = "auto", [VM_LEGACY_OFF] = "off", [VM_LEGACY_ON] = "on"};
const char *const config_discoveries[CONFIG_DISCOVERIES] = {[VM_DISCOVERY_AUTO] = "auto",
	[VM_DISCOVERY_ACPI] = "acpi",
	[VM_DISCOVERY_CMDLINE] = "cmdline"};

/* The key of a pair ends at its value, or where the next pair begins. */
static size_t key_len(const char *pair)
{
	return strcspn(pair, "=,");
}

int config_pair_next(char **rest, const char *many, char **pair, struct kv_err *err)
{
	size_t len;

	*pair = strsep(rest, ",");
	if (!*pair)
		return 0;
	len = key_len(*pair);
	if (!len || (many && len == strlen(many) && !strncmp(*pair, many, len)))
		return 1;
	for (const char *other = *rest; other;) {
		if (key_len(other) == len && !strncmp(other, *pair, len)) {
			(*pair)[len] = 0;
			return err_set(err, -EINVAL, "%s is given twice", config_show(*pair).text);
		}
		other = strchr(other, ',');
		other = other ? other + 1 : NULL;
	}
	return 1;
}

int config_switch_set(bool *field, const char *value, struct kv_err *err)
{
	static const char *const words[] = {"off", "on"};
	int i = config_word_find(words, ARRAY_LEN(words), value, err);

	if (i < 0)
		return i;
	*field = i;
	return 0;
}

static int image_map_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int i = config_word_find(config_image_maps, CONFIG_IMAGE_MAPS, value, err);

	if (i < 0)
		return i;
	config->image_map = (enum gmem_image_map)i;
	return 0;
}

static int protocol_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int i = config_word_find(config_protocols, CONFIG_PROTOCOLS, value, err);

	if (i < 0)
		return i;
	config->protocol = (enum image_protocol)i;
	return 0;
}

static int legacy_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int i = config_word_find(config_legacies, CONFIG_LEGACIES, value, err);

	if (i < 0)
		return i;
	config->legacy = (enum vm_legacy)i;
	return 0;
}

static int discovery_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	int i = config_word_find(config_discoveries, CONFIG_DISCOVERIES, value, err);

	if (i < 0)
		return i;
	config->discovery = (enum vm_discovery)i;
	return 0;
}

/* "off", "on", or "KEY=VALUE[,KEY=VALUE...]". */
static int rng_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	MEM_SCOPED char *text = strdup(value);
	struct limit_rates rates = {0};
	char *rest = text, *pair;
	bool on = strcmp(value, "off");
	int r = 0;

	if (!text)
		return -ENOMEM;
	while (on && strcmp(value, "on") && !r && (pair = strsep(&rest, ","))) {
		char *number = strchr(pair, '=');

		if (number)
			*number++ = 0;
		r = number ? config_limit_key(&rates, pair, number, err) : -ENOENT;
		if (r == -ENOENT)
			return err_set(err, -EINVAL,
				"%s is not allowed; give bw=, bw-burst=, ops= and ops-burst=, or "
				"on "
				"or off",
				config_show(pair).text);
		if (r < 0)
			return r == -ENOMEM ? r : err_prefix(err, r, "%s", pair);
	}
	config->rng = on;
	config->rng_limit = rates;
	return 0;
}

static int no_api_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	return config_switch_set(&config->no_api, value, err);
}

static int boot_timer_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	return config_switch_set(&config->boot_timer, value, err);
}

static int serial_path_check(enum vm_serial_kind kind, const char *path, struct kv_err *err)
{
	int r = path_check(path, err);

	if (r < 0)
		return err_prefix(err, r, "%s", kind == VM_SERIAL_FILE ? "file" : "unix");
	return kind == VM_SERIAL_UNIX ? sock_check(path, err) : 0;
}

static int serial_set(struct vm_config *config, const char *value, struct kv_err *err)
{
	static const struct {
		const char *word;
		enum vm_serial_kind kind;
	} plain[] = {
		{"none", VM_SERIAL_NONE},
		{"stdio", VM_SERIAL_STDIO},
		{"pty", VM_SERIAL_PTY},
	};
	enum vm_serial_kind kind;
	int r;

	for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
		if (strcmp(value, plain[i].word))
			continue;
		config->serial = plain[i].kind;
		free(config->serial_path);
		config->serial_path = NULL;
		return 0;
	}
	if (!strncmp(value, "file:", 5))
		kind = VM_SERIAL_FILE;
	else if (!strncmp(value, "unix:", 5))
		kind = VM_SERIAL_UNIX;
	else
		return err_set(err, -EINVAL, "%s is not allowed; give " SERIAL_FORMS,
			config_show(value).text);
	r = serial_path_check(kind, value + 5, err);
	if (!r)
		r = config_text_set(&config->serial_path, value + 5);
	if (!r)
		config->serial = kind;
	return r;
}

/* All settable fields under the names of the options of `kvick run`. */
static const struct {
	const char *name;
	int (*set)(struct vm_config *config, const char *value, struct kv_err *err);
} fields[] = {
	{"api-sock", api_sock_set},
	{"append", append_set},
	{"boot-protocol", protocol_set},
	{"boot-timer", boot_timer_set},
	{"cpus", cpus_set},
	{"discovery", discovery_set},
	{"disk", config_disk_add},
	{"id", id_set},
	{"image-map", image_map_set},
	{"initrd", initrd_add},
	{"kernel", kernel_set},
	{"legacy", legacy_set},
	{"mem-device", config_mem_add},
	{"memory", config_memory_set},
	{"net", config_net_add},
	{"no-api", no_api_set},
	{"rng", rng_set},
	{"serial", serial_set},
	{"symbols", symbols_set},
};

int config_field_set(
	struct vm_config *config, const char *name, const char *value, struct kv_err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (!strcmp(fields[i].name, name)) {
			int r = fields[i].set(config, value, err);

			return r == -ENOMEM ? err_set(err, r, "out of memory") : r;
		}
	return err_set(err, -ENOENT, "there is no such field");
}

int vm_config_set(struct vm_config *config, const char *name, const char *value, struct kv_err *err)
{
	int r = config_field_set(config, name, value, err);

	if (r < 0)
		err_prefix(err, r, strcmp(name, "kernel") ? "--%s" : "%s", name);
	return r;
}

/* @r from a check of the field @name, its sentence completed by the name. */
static int named(int r, const char *name, struct kv_err *err)
{
	return r < 0 ? err_prefix(err, r, "%s", name) : 0;
}

int vm_config_check(const struct vm_config *config, struct kv_err *err)
{
	bool needs_path = config->serial == VM_SERIAL_FILE || config->serial == VM_SERIAL_UNIX;
	char size[24];
	int r;

	if (!config->kernel)
		return err_set(err, -EINVAL,
			"no kernel is given; name one as KERNEL or as "
			"boot-source.kernel_image_path");
	r = named(path_check(config->kernel, err), "kernel", err);
	for (unsigned i = 0; !r && i < config->initrd_count; i++)
		r = named(path_check(config->initrds[i], err), "initrd", err);
	if (!r && config->symbols)
		r = named(path_check(config->symbols, err), "symbols", err);
	if (!r)
		r = named(cmdline_check(config->cmdline, err), "append", err);
	if (!r)
		r = named(config_id_check(config->id, err), "id", err);
	if (!r && config->api_sock)
		r = named(sock_check(config->api_sock, err), "api-sock", err);
	if (!r)
		r = named(config_memory_check(config->memory_bytes,
				  size_format(config->memory_bytes, size, sizeof(size)), err),
			"memory", err);
	if (!r && (config->cpus < 1 || config->cpus > VM_CPUS_MAX))
		r = err_set(err, -EINVAL, "cpus: %u is not allowed; give 1 to %d", config->cpus,
			VM_CPUS_MAX);
	if (!r && needs_path)
		r = named(serial_path_check(config->serial,
				  config->serial_path ? config->serial_path : "", err),
			"serial", err);
	if (!r)
		r = config_memory_fits(&config->memory, config->memory_bytes, err);
	if (!r)
		r = config_disks_fit(config, err);
	if (!r)
		r = config_nets_fit(config, err);
	if (!r)
		r = named(config_limit_fits(&config->rng_limit, err), "rng", err);
	if (!r)
		r = config_mems_fit(config, err);
	return r == -ERANGE ? -EINVAL : r;
}
