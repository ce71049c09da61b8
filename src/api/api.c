/* SPDX-License-Identifier: Apache-2.0 */
/* What is answered at which path. */
#include "api/api.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/fd.h"
#include "config/config.h"

struct route {
	enum http_method method;
	const char *path;
	bool tail; /* or this with "/ID" behind it */
	void (*answer)(struct api *api, const struct http_request *req, struct http_reply *reply);
};

void api_json(struct http_reply *reply, json_t *body)
{
	reply->status = 200;
	reply->body = json_dumps(body, JSON_COMPACT);
	json_decref(body);
	if (!reply->body)
		http_fault(reply, 500, "out of memory");
}

json_t *api_object(
	const struct http_request *req, const char *const *names, struct http_reply *reply)
{
	json_error_t bad;
	json_t *root = json_loadb(req->body, req->body_len, JSON_REJECT_DUPLICATES, &bad);
	const char *key;
	json_t *value;

	if (!root) {
		http_fault(reply, 400, "the body is not JSON: %s (line %d, column %d)", bad.text,
			bad.line, bad.column);
		return NULL;
	}
	if (!json_is_object(root)) {
		http_fault(reply, 400, "the body is no JSON object");
		json_decref(root);
		return NULL;
	}
	json_object_foreach(root, key, value)
	{
		unsigned i = 0;

		while (names[i] && strcmp(names[i], key))
			i++;
		if (names[i])
			continue;
		http_fault(
			reply, 400, "unknown field \"%.64s\"; this request has %s", key, names[0]);
		json_decref(root);
		return NULL;
	}
	return root;
}

/* The string in the body's one member, or NULL when @reply says what is wrong. *@root is freed by
 * the caller. */
static const char *only_text(
	const struct http_request *req, const char *name, json_t **root, struct http_reply *reply)
{
	const char *const names[] = {name, NULL};
	const char *text;

	*root = api_object(req, names, reply);
	text = json_string_value(json_object_get(*root, name));
	if (*root && !text)
		http_fault(reply, 400, "the field %s is missing, or is no string", name);
	return text;
}

static void instance_get(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	api_json(reply, json_pack("{s:s, s:s, s:s, s:s}", "id", api->p.config->id, "state",
				machine_paused(api->p.machine) ? "Paused" : "Running",
				"vmm_version", KVICK_VERSION, "app_name", "kvick"));
}

static void version_get(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	api_json(reply, json_pack("{s:s, s:s}", "firecracker_version", API_FIRECRACKER,
				"kvick_version", KVICK_VERSION));
}

static json_t *machine_pack(const struct vm_config *config)
{
	const char *huge = config->memory.backing == GMEM_HUGETLB_2M ? "2M"
			   : config->memory.thp == GMEM_ON	     ? "Transparent"
								     : "None";

	return json_pack("{s:i, s:I, s:b, s:b, s:s}", "vcpu_count", (int)config->cpus,
		"mem_size_mib", (json_int_t)(config->memory_bytes / MIB), "smt", 0,
		"track_dirty_pages", 0, "huge_pages", huge);
}

static void machine_get(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	api_json(reply, machine_pack(api->p.config));
}

/* @disks as kvick has them in Firecracker's terms, as far as it has some. */
static json_t *drives_pack(json_t *disks)
{
	static const struct {
		const char *own, *name;
	} keys[] = {
		{"id", "drive_id"},
		{"path", "path_on_host"},
		{"root", "is_root_device"},
		{"ro", "is_read_only"},
		{"partuuid", "partuuid"},
		{"rate_limiter", "rate_limiter"},
	};
	json_t *list = json_array(), *disk;
	size_t i;

	json_array_foreach(disks, i, disk)
	{
		const char *cache = json_string_value(json_object_get(disk, "cache"));
		bool unsafe = cache && !strcmp(cache, "unsafe");
		json_t *drive = json_pack("{s:s}", "cache_type", unsafe ? "Unsafe" : "Writeback");

		for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
			json_t *value = json_object_get(disk, keys[k].own);

			if (value)
				json_object_set(drive, keys[k].name, value);
		}
		json_array_append_new(list, drive);
	}
	return list;
}

static void config_get(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	MEM_SCOPED char *text = NULL;
	int r = vm_config_dump(api->p.config, &text);
	json_t *root = r < 0 ? NULL : json_loads(text, 0, NULL);

	if (!root) {
		http_fault(reply, 500, "the configuration cannot be shown: %s",
			r == -EILSEQ ? "a path in it is not UTF-8" : "out of memory");
		return;
	}
	json_object_set_new(root, "machine-config", machine_pack(api->p.config));
	json_object_set_new(root, "drives",
		drives_pack(json_object_get(json_object_get(root, "kvick"), "disks")));
	api_json(reply, root);
}

static void vm_patch(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	struct kv_err err = {0};
	json_t *root;
	const char *state = only_text(req, "state", &root, reply);

	if (!state)
		goto out;
	if (!strcmp(state, "Resumed"))
		machine_resume(api->p.machine);
	else if (strcmp(state, "Paused"))
		http_fault(reply, 400,
			"state \"%.64s\" is not allowed; give \"Paused\" or \"Resumed\"", state);
	else if (machine_pause(api->p.machine, &err) < 0)
		http_fault(reply, 400, "%s", err.text);
out:
	json_decref(root);
}

/* What a changed drive says, once it is known to be one. */
static int drive_change(struct api *api, const char *id, json_t *root, struct kv_err *err)
{
	json_t *path = json_object_get(root, "path_on_host");
	json_t *limiter = json_object_get(root, "rate_limiter");
	struct limit_rates rates;
	const struct vm_disk *disk = NULL;
	int r = machine_disk_rates(api->p.machine, id, &rates, err);

	for (unsigned i = 0; i < api->p.config->disk_count; i++)
		if (!strcmp(api->p.config->disks[i].id, id))
			disk = &api->p.config->disks[i];
	if (r < 0 || !disk)
		return r;
	if (path && !json_is_null(path) &&
		(!json_is_string(path) || strcmp(json_string_value(path), disk->path)))
		return err_set(err, -EINVAL,
			"path_on_host: another file is not offered; give \"%s\", whose size is "
			"looked at again",
			disk->path);
	if (limiter && json_is_null(limiter))
		limiter = NULL;
	if (limiter)
		r = config_limit_json(&rates, limiter, err);
	if (r < 0)
		return err_prefix(err, r, "rate_limiter");
	/* A request that is refused has changed nothing: what may fail comes first. */
	if (path && !json_is_null(path))
		r = machine_disk_look(api->p.machine, id, err);
	return r < 0 || !limiter ? r : machine_disk_limit(api->p.machine, id, &rates, err);
}

static void drives_patch(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	static const char *const names[] = {"drive_id", "path_on_host", "rate_limiter", NULL};
	size_t head = strlen("/drives/");
	json_t *root = api_object(req, names, reply);
	const char *id = json_string_value(json_object_get(root, "drive_id"));
	struct kv_err err = {0};

	if (!root)
		return;
	if (!id || req->path_len <= head || strlen(id) != req->path_len - head ||
		memcmp(id, req->path + head, req->path_len - head))
		http_fault(reply, 400,
			"the field drive_id is missing, or is another one than the path's");
	else if (drive_change(api, id, root, &err) < 0)
		http_fault(reply, 400, "%s", err.text);
	json_decref(root);
}

static void metrics_flush(struct api *api, struct http_reply *reply)
{
	int r = api->p.flush ? api->p.flush(api->p.ctx) : -ENOTSUP;

	if (r == -ENOTSUP)
		http_fault(reply, 400,
			"there is nothing to flush: this VM was started without --stats");
	else if (r < 0)
		http_fault(reply, 400, "--stats: %s", err_text(r));
}

#define AFTER_START "The requested operation is not supported after starting the microVM."

static void actions_put(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	json_t *root;
	const char *action = only_text(req, "action_type", &root, reply);

	if (!action)
		goto out;
	if (!strcmp(action, "FlushMetrics"))
		metrics_flush(api, reply);
	else if (!strcmp(action, "InstanceStart"))
		http_fault(reply, 400, AFTER_START);
	else if (!strcmp(action, "SendCtrlAltDel"))
		http_fault(reply, 400,
			"SendCtrlAltDel: this machine has no keyboard to press keys on; ask the "
			"guest itself to shut down");
	else
		http_fault(reply, 400,
			"action_type \"%.64s\" is not allowed; give FlushMetrics, InstanceStart or "
			"SendCtrlAltDel",
			action);
out:
	json_decref(root);
}

/* What only a VM that has not started yet would take, and a VM of kvick has always started. */
static void start_put(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	http_fault(reply, 400, AFTER_START);
}

static void absent(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	http_fault(reply, 400, "%.*s %.*s: this version of kvick does not offer that",
		(int)req->verb_len, req->verb, (int)(req->path_len < 64 ? req->path_len : 64),
		req->path);
}

static const struct route routes[] = {
	{HTTP_GET, "/", false, instance_get},
	{HTTP_GET, "/version", false, version_get},
	{HTTP_GET, "/vm/config", false, config_get},
	{HTTP_GET, "/machine-config", false, machine_get},
	{HTTP_GET, "/hotplug/memory", true, api_mem_get},
	{HTTP_GET, "/kvick/memory", false, api_mem_list},
	{HTTP_PATCH, "/hotplug/memory", true, api_mem_patch},
	{HTTP_PATCH, "/vm", false, vm_patch},
	{HTTP_PUT, "/actions", false, actions_put},
	{HTTP_PUT, "/boot-source", false, start_put},
	{HTTP_PUT, "/cpu-config", false, start_put},
	{HTTP_PUT, "/drives", true, start_put},
	{HTTP_PUT, "/entropy", false, start_put},
	{HTTP_PUT, "/hotplug/memory", false, start_put},
	{HTTP_PUT, "/logger", false, start_put},
	{HTTP_PUT, "/machine-config", false, start_put},
	{HTTP_PATCH, "/machine-config", false, start_put},
	{HTTP_PUT, "/metrics", false, start_put},
	{HTTP_PUT, "/mmds/config", false, start_put},
	{HTTP_PUT, "/network-interfaces", true, start_put},
	{HTTP_PUT, "/pmem", true, start_put},
	{HTTP_PUT, "/serial", false, start_put},
	{HTTP_PUT, "/snapshot/load", false, start_put},
	{HTTP_PUT, "/vsock", false, start_put},
	{HTTP_GET, "/balloon", true, absent},
	{HTTP_PUT, "/balloon", false, start_put},
	{HTTP_PATCH, "/balloon", true, absent},
	{HTTP_PATCH, "/drives", true, drives_patch},
	{HTTP_GET, "/mmds", false, absent},
	{HTTP_PUT, "/mmds", false, absent},
	{HTTP_PATCH, "/mmds", false, absent},
	{HTTP_PATCH, "/network-interfaces", true, absent},
	{HTTP_PATCH, "/pmem", true, absent},
	{HTTP_PUT, "/snapshot/create", false, absent},
};

static bool route_fits(const struct route *route, const struct http_request *req)
{
	size_t len = strlen(route->path);

	if (req->method != route->method || req->path_len < len ||
		memcmp(req->path, route->path, len))
		return false;
	return req->path_len == len || (route->tail && req->path[len] == '/');
}

void api_answer(void *ctx, const struct http_request *req, struct http_reply *reply)
{
	struct http_request clean = *req;

	/* "/vm/" is "/vm", as Firecracker has it. */
	while (clean.path_len > 1 && clean.path[clean.path_len - 1] == '/')
		clean.path_len--;
	if (clean.method == HTTP_GET && clean.body_len) {
		http_fault(reply, 400, "GET request cannot have a body.");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		if (!route_fits(&routes[i], &clean))
			continue;
		if (clean.method != HTTP_GET && !clean.body_len)
			http_fault(
				reply, 400, "Empty %.*s request.", (int)clean.verb_len, clean.verb);
		else
			routes[i].answer(ctx, &clean, reply);
		return;
	}
	http_fault(reply, 400, "Invalid request method and/or path: %.*s %.*s.",
		(int)(req->verb_len < 32 ? req->verb_len : 32), req->verb,
		(int)(req->path_len < 256 ? req->path_len : 256), req->path);
}

int api_start(struct api **ret, const struct api_params *params, struct kv_err *err)
{
	struct api *api = calloc(1, sizeof(*api));
	struct http_server_params server = {
		.loop = params->loop,
		.listen_fd = params->listen_fd,
		.handle = api_answer,
		.ctx = api,
	};
	int r = -ENOMEM;

	if (api) {
		api->p = *params;
		r = http_server_make(&api->server, &server);
	}
	if (r < 0) {
		free(api);
		return err_set(err, r, "control socket: %s", err_text(r));
	}
	*ret = api;
	return 0;
}

void api_stop(struct api *api)
{
	if (!api)
		return;
	http_server_free(api->server);
	free(api);
}
