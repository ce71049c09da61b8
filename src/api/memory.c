/* SPDX-License-Identifier: Apache-2.0 */
/* /hotplug/memory, Firecracker's and for further devices; and /kvick/memory, all of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/internal.h"
#include "base/num.h"

#define FIRST "hotplug" /* the id of what a configuration file's memory-hotplug makes */

static json_int_t mib(uint64_t bytes)
{
	return (json_int_t)(bytes / MIB);
}

/* Firecracker's members; its slots are what a window is here. */
static json_t *status_pack(const struct machine_mem_info *info)
{
	/* The only window may be shorter than others would be. */
	uint64_t slot = info->windows > 1 ? info->window_bytes : info->max_bytes;

	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "total_size_mib", mib(info->max_bytes),
		"block_size_mib", mib(info->block_bytes), "slot_size_mib", mib(slot),
		"plugged_size_mib", mib(info->plugged_bytes), "requested_size_mib",
		mib(info->requested_bytes));
}

/* All that is known of a device without counting. */
static json_t *device_pack(const struct machine_mem_info *info)
{
	json_t *device = status_pack(info);
	json_t *more = json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:b, s:I, s:I}", "id",
		info->id, "max_bytes", (json_int_t)info->max_bytes, "block_bytes",
		(json_int_t)info->block_bytes, "requested_bytes", (json_int_t)info->requested_bytes,
		"plugged_bytes", (json_int_t)info->plugged_bytes, "windows", (int)info->windows,
		"windows_mapped", (int)info->windows_mapped, "driver", info->driver, "refused",
		(json_int_t)info->refused, "stall_max_ns", (json_int_t)info->stall_max_ns);

	json_object_update(device, more);
	json_decref(more);
	return device;
}

/* The id behind "/hotplug/memory/", which is the path's last part; empty: none. */
static void path_id(const struct http_request *req, char id[80])
{
	static const char path[] = "/hotplug/memory/";
	size_t len = req->path_len < sizeof(path) - 1 ? 0 : req->path_len - (sizeof(path) - 1);

	/* One that is longer than any is cut, and then not found. */
	snprintf(id, 80, "%.*s", (int)(len < 79 ? len : 79), req->path + req->path_len - len);
}

/*
 * Find the device that the request is about, by its path; without an id it is the one that
 * Firecracker would have, or else the first. Returns false when @reply says that there is none.
 */
static bool device_find(struct api *api, const struct http_request *req,
	struct machine_mem_info *info, struct http_reply *reply)
{
	unsigned count = machine_mem_count(api->p.machine);
	char id[80];

	path_id(req, id);
	for (unsigned i = 0; i < count; i++)
		if (!machine_mem_get(api->p.machine, i, info) &&
			!strcmp(info->id, id[0] ? id : FIRST))
			return true;
	if (!count)
		http_fault(reply, 400,
			"this VM has no memory device; it was started without --mem-device");
	else if (id[0])
		http_fault(reply, 400, "there is no memory device \"%s\"", id);
	return count && !id[0] && !machine_mem_get(api->p.machine, 0, info);
}

void api_mem_get(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	struct http_work *work = &reply->work;
	struct machine_mem_info info;
	json_t *device;
	char id[80];

	if (!device_find(api, req, &info, reply))
		return;
	path_id(req, id);
	if (!id[0]) {
		api_json(reply, status_pack(&info));
		return;
	}
	/* That takes most of a second for a TiB, in which the VM's devices want to be served. */
	work->more = machine_mem_present(api->p.machine, info.id, &work->at, &work->sum);
	if (work->more)
		return;
	device = device_pack(&info);
	json_object_set_new(device, "host_bytes", json_integer((json_int_t)work->sum));
	api_json(reply, device);
}

void api_mem_list(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	unsigned count = machine_mem_count(api->p.machine);
	json_t *list = json_array();

	for (unsigned i = 0; i < count; i++) {
		struct machine_mem_info info;

		if (!machine_mem_get(api->p.machine, i, &info))
			json_array_append_new(list, device_pack(&info));
	}
	api_json(reply, list);
}

/* What the body asks for: MiB as Firecracker has it, or bytes. */
static bool bytes_read(json_t *root, uint64_t *bytes, struct http_reply *reply)
{
	json_t *in_mib = json_object_get(root, "requested_size_mib");
	json_t *exact = json_object_get(root, "requested_bytes");
	json_t *value = in_mib ? in_mib : exact;

	if (!in_mib == !exact) {
		http_fault(reply, 400, "give one of requested_size_mib and requested_bytes");
		return false;
	}
	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
		__builtin_mul_overflow(
			(uint64_t)json_integer_value(value), in_mib ? MIB : 1, bytes)) {
		http_fault(reply, 400, "%s is not a size",
			in_mib ? "requested_size_mib" : "requested_bytes");
		return false;
	}
	return true;
}

void api_mem_patch(struct api *api, const struct http_request *req, struct http_reply *reply)
{
	static const char *const names[] = {"requested_size_mib", "requested_bytes", NULL};
	json_t *root = api_object(req, names, reply);
	struct machine_mem_info info;
	struct kv_err err = {0};
	uint64_t bytes;

	if (root && bytes_read(root, &bytes, reply) && device_find(api, req, &info, reply) &&
		machine_mem_request(api->p.machine, info.id, bytes, &err) < 0)
		http_fault(reply, 400, "%s", err.text);
	json_decref(root);
}
