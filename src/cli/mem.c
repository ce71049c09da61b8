/* SPDX-License-Identifier: Apache-2.0 */
/* kvick mem: the memory devices of a running VM, and how much of them its guest shall have. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api/client.h"
#include "api/path.h"
#include "base/fd.h"
#include "base/num.h"
#include "cli/cli.h"
#include "trace/timeline.h"

#define POLL_NS	  200000000L
#define TIMEOUT_S 30 /* without anything having moved */

/* A guest that powers off takes its drivers away a moment before the VM ends. */
#define DRIVER_NS 2000000000ULL

/* The command line. */
struct mem {
	const char *id, *sock; /* one of the two */
	const char *device;    /* or NULL */
	const char *change;    /* "requested=SIZE", or NULL */
	uint64_t bytes;	       /* of it */
	uint64_t timeout_s;
	bool json, no_wait;
	char path[API_PATH_MAX]; /* of the control socket */
};

/* What there is to know of a device. */
struct device {
	char id[80];
	uint64_t max, block, requested, plugged, host, windows, mapped, refused, stall_ns;
	bool driver;
	bool counted; /* there is host */
};

static int id_set(void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct mem *)ctx)->id = value;
	return 0;
}

static int sock_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct mem *)ctx)->sock = value;
	return 0;
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct mem *)ctx)->json = true;
	return 0;
}

static int no_wait_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct mem *)ctx)->no_wait = true;
	return 0;
}

static int timeout_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct mem *mem = ctx;

	if (uint_parse(value, 1, 86400, &mem->timeout_s) < 0)
		return err_set(err, -EINVAL, "--timeout: \"%s\": give seconds, 1 to 86400", value);
	return 0;
}

static int operand_set(void *ctx, const char *value, struct kv_err *err)
{
	struct mem *mem = ctx;

	if (!mem->device) {
		mem->device = value;
		return 0;
	}
	mem->change = value;
	if (strncmp(value, "requested=", 10) || size_parse(value + 10, &mem->bytes) < 0)
		return err_set(
			err, -EINVAL, "\"%s\": give requested=SIZE, such as requested=8G", value);
	return 0;
}

static const struct cli_option options[] = {
	{"id", "ID", "the VM, by the --id that it was started with", id_set, 0},
	{"api-sock", "PATH", "the VM, by its control socket", sock_set, 0},
	{"json", NULL, "print JSON", json_set, 0},
	{"no-wait", NULL, "do not wait for the guest, nor follow what it does", no_wait_set, 0},
	{"timeout", "SECONDS", "give up when nothing moved for so long (default 30)", timeout_set,
		0},
};

static const struct cli_usage usage = {
	.verb = "mem",
	.synopsis = "--id ID [OPTION...] [DEVICE [requested=SIZE]]",
	.about = "Show the memory devices of a running virtual machine (see --mem-device of kvick\n"
		 "run), or ask its guest to have SIZE of one of them plugged, and wait for that.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.operand = "an operand",
	.operands_max = 2,
	.operand_set = operand_set,
};

/* What did not answer. */
static int absent_error(const struct mem *mem, struct kv_err *err)
{
	char list[400];

	if (mem->sock)
		return err_set(err, -ENOENT, "no VM answers at %s", mem->sock);
	api_running(list, sizeof(list));
	if (list[0])
		return err_set(err, -ENOENT, "there is no VM \"%s\" that answers; there are: %s",
			mem->id, list);
	return err_set(err, -ENOENT, "there is no VM \"%s\" that answers, nor any other", mem->id);
}

static int ask(const struct mem *mem, const char *verb, const char *target, const char *body,
	char **ret, struct kv_err *err)
{
	int r = api_call(mem->path, verb, target, body, ret, err);

	return r == -ENOENT || r == -ECONNREFUSED ? absent_error(mem, err) : r;
}

static uint64_t member(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

static void device_read(struct device *device, const json_t *object)
{
	const char *id = json_string_value(json_object_get(object, "id"));

	*device = (struct device){
		.max = member(object, "max_bytes"),
		.block = member(object, "block_bytes"),
		.requested = member(object, "requested_bytes"),
		.plugged = member(object, "plugged_bytes"),
		.host = member(object, "host_bytes"),
		.windows = member(object, "windows"),
		.mapped = member(object, "windows_mapped"),
		.refused = member(object, "refused"),
		.stall_ns = member(object, "stall_max_ns"),
		.driver = json_is_true(json_object_get(object, "driver")),
		.counted = json_object_get(object, "host_bytes"),
	};
	snprintf(device->id, sizeof(device->id), "%s", id ? id : "?");
}

/* All devices, as JSON. Returns 0; -errno with a sentence. */
static int list_get(const struct mem *mem, json_t **ret, struct kv_err *err)
{
	MEM_SCOPED char *text = NULL;
	int r = ask(mem, "GET", "/kvick/memory", NULL, &text, err);

	if (r < 0)
		return r;
	*ret = text ? json_loads(text, 0, NULL) : NULL;
	if (json_is_array(*ret))
		return 0;
	json_decref(*ret);
	return err_set(err, -EPROTO, "%s: the answer is none that a VM gives", mem->path);
}

/*
 * The device @id, as JSON too.
 * Returns 0; -ENODEV with a sentence that lists those that there are; -errno.
 */
static int device_get(const struct mem *mem, const char *id, struct device *device, json_t **ret,
	struct kv_err *err)
{
	json_t *list, *object;
	char names[400] = "";
	size_t i, used = 0;
	int r = list_get(mem, &list, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, object)
	{
		device_read(device, object);
		if (!strcmp(device->id, id)) {
			*ret = json_incref(object);
			json_decref(list);
			return 0;
		}
		if (used < sizeof(names))
			used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
				used ? ", " : "", device->id);
	}
	json_decref(list);
	if (!used)
		return err_set(err, -ENODEV,
			"the VM has no memory device; it was started without --mem-device");
	return err_set(err, -ENODEV, "the VM has no memory device \"%s\"; it has: %s", id, names);
}

static void device_print(const struct device *device)
{
	char a[24], b[24], c[24];

	printf("%s\n", device->id);
	printf("  plugged  %s of %s requested, at most %s, in blocks of ",
		size_format(device->plugged, a, sizeof(a)),
		size_format(device->requested, b, sizeof(b)),
		size_format(device->max, c, sizeof(c)));
	printf("%s\n", size_format(device->block, a, sizeof(a)));
	printf("  windows  %" PRIu64 " of %" PRIu64 " mapped; setting them took %.1f ms at most\n",
		device->mapped, device->windows, (double)device->stall_ns / 1e6);
	if (device->counted)
		printf("  host     %s of memory in use\n", size_format(device->host, a, sizeof(a)));
	printf("  guest    %s; %" PRIu64 " of its requests refused\n",
		device->driver ? "has a driver at work" : "has no driver at work", device->refused);
}

static void json_show(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
}

/* The VM is no more. */
static bool is_gone(int r)
{
	return r == -ENOENT || r == -ECONNRESET || r == -EPIPE;
}

/*
 * Ask for *@object again with the host's memory, which takes the VM a while to count: only what is
 * shown is asked for that. When the VM has ended since, it stays as it is.
 * Returns 0; -errno with a sentence.
 */
static int device_count(const struct mem *mem, json_t **object, struct kv_err *err)
{
	MEM_SCOPED char *text = NULL;
	struct device device;
	char target[120];
	json_t *counted;
	int r;

	device_read(&device, *object);
	snprintf(target, sizeof(target), "/hotplug/memory/%s", device.id);
	r = ask(mem, "GET", target, NULL, &text, err);
	if (r < 0)
		return is_gone(r) ? 0 : r;
	counted = text ? json_loads(text, 0, NULL) : NULL;
	if (!json_is_object(counted)) {
		json_decref(counted);
		return err_set(err, -EPROTO, "%s: the answer is none that a VM gives", mem->path);
	}
	json_decref(*object);
	*object = counted;
	return 0;
}

static int device_show(const struct mem *mem, json_t **object, struct kv_err *err)
{
	struct device device;
	int r = device_count(mem, object, err);

	if (r < 0)
		return r;
	device_read(&device, *object);
	if (mem->json)
		json_show(*object);
	else
		device_print(&device);
	return 0;
}

/* A change that is followed. */
struct watch {
	uint64_t begin_ns, begin_plugged;
	uint64_t moved_ns, plugged; /* when it moved last, and to where */
	uint64_t driver_ns;	    /* when the driver was last there */
	bool shown;		    /* there is a line on the terminal */
};

/* One line that is written over and over: how far it is, and how long it may take still. */
static void watch_show(struct watch *watch, const struct device *device, uint64_t now)
{
	double moved = (double)device->plugged - (double)watch->begin_plugged;
	double left = (double)device->requested - (double)device->plugged;
	double seconds = (double)(now - watch->begin_ns) / 1e9;
	char a[24], b[24], eta[40] = "";

	if (!isatty(STDERR_FILENO))
		return;
	if (moved != 0 && left / moved > 0)
		snprintf(eta, sizeof(eta), ", about %.0f s left", seconds * left / moved);
	fprintf(stderr, "\r\033[K%s: %s of %s plugged%s", device->id,
		size_format(device->plugged, a, sizeof(a)),
		size_format(device->requested, b, sizeof(b)), eta);
	watch->shown = true;
}

static void watch_end(struct watch *watch)
{
	if (watch->shown)
		fprintf(stderr, "\r\033[K");
	watch->shown = false;
}

/* Why a change that is not done goes on no more, as a sentence; 0: it does. */
static int watch_check(const struct mem *mem, const struct watch *watch,
	const struct device *device, const struct device *first, uint64_t now, struct kv_err *err)
{
	bool stuck = now - watch->moved_ns >= mem->timeout_s * 1000000000;
	char a[24], b[24];

	size_format(device->plugged, a, sizeof(a));
	size_format(device->requested, b, sizeof(b));
	if (device->requested != first->requested)
		return err_set(
			err, -ESTALE, "%s: something else asked for %s meanwhile", device->id, b);
	if (!device->driver && (stuck || now - watch->driver_ns > DRIVER_NS))
		return err_set(
			err, -EAGAIN, "%s: the guest has no driver for it at work", device->id);
	if (!stuck)
		return 0;
	if (device->refused > first->refused)
		return err_set(err, -ENOMEM,
			"%s: %s of %s plugged; the host refused %" PRIu64
			" requests of the guest's, and nothing moved for %" PRIu64 " s",
			device->id, a, b, device->refused - first->refused, mem->timeout_s);
	return err_set(err, -ETIMEDOUT,
		"%s: %s of %s plugged, and nothing moved for %" PRIu64
		" s; the guest may go on later",
		device->id, a, b, mem->timeout_s);
}

/* It answered before, and does so no more. */
static int ended_error(const struct watch *watch, const struct device *first, struct kv_err *err)
{
	char a[24], b[24];

	return err_set(err, -ENOENT, "%s: the VM ended; %s of %s were plugged", first->id,
		size_format(watch->plugged, a, sizeof(a)),
		size_format(first->requested, b, sizeof(b)));
}

/*
 * Wait until the guest has what is requested of @device, which is kept up to date with @object.
 * Returns 0; -errno with a sentence.
 */
static int device_wait(
	const struct mem *mem, struct device *device, json_t **object, struct kv_err *err)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	const struct device first = *device;
	struct watch watch = {.begin_ns = clock_ns(),
		.begin_plugged = first.plugged,
		.moved_ns = clock_ns(),
		.plugged = first.plugged,
		.driver_ns = clock_ns()};
	int r = 0;

	while (device->plugged != device->requested || device->requested != first.requested) {
		uint64_t now = clock_ns();

		if (device->plugged != watch.plugged)
			watch.moved_ns = now;
		watch.plugged = device->plugged;
		if (device->driver)
			watch.driver_ns = now;
		r = watch_check(mem, &watch, device, &first, now, err);
		if (r < 0)
			break;
		watch_show(&watch, device, now);
		nanosleep(&pause, NULL);
		json_decref(*object);
		*object = NULL;
		r = device_get(mem, first.id, device, object, err);
		if (r < 0)
			break;
	}
	watch_end(&watch);
	return is_gone(r) ? ended_error(&watch, &first, err) : r;
}

/* DEVICE requested=SIZE. */
static int change(const struct mem *mem, struct kv_err *err)
{
	char target[120], body[64];
	char *answer = NULL;
	struct device device;
	json_t *object = NULL;
	int r = device_get(mem, mem->device, &device, &object, err);

	if (!r) {
		snprintf(target, sizeof(target), "/hotplug/memory/%s", device.id);
		snprintf(body, sizeof(body), "{\"requested_bytes\": %" PRIu64 "}", mem->bytes);
		r = ask(mem, "PATCH", target, body, &answer, err);
		free(answer);
	}
	if (!r) {
		json_decref(object);
		object = NULL;
		r = device_get(mem, mem->device, &device, &object, err);
	}
	if (!r && !mem->no_wait)
		r = device_wait(mem, &device, &object, err);
	if (!r)
		r = device_show(mem, &object, err);
	json_decref(object);
	return r;
}

/* All of @list, as JSON. */
static int show_json(const struct mem *mem, json_t *list, struct kv_err *err)
{
	json_t *object;
	size_t i;
	int r = 0;

	for (i = 0; !r && i < json_array_size(list); i++) {
		object = json_incref(json_array_get(list, i));
		r = device_count(mem, &object, err);
		json_array_set_new(list, i, object);
	}
	if (!r)
		json_show(list);
	return r;
}

/* All devices; on a terminal, what is under way is followed to its end first. */
static int show_all(const struct mem *mem, struct kv_err *err)
{
	bool follow = !mem->no_wait && isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
	json_t *list, *each;
	int r = list_get(mem, &list, err);
	size_t i;

	if (r < 0)
		return r;
	if (mem->json)
		r = show_json(mem, list, err);
	else if (!json_array_size(list))
		puts("the VM has no memory device");
	for (i = 0; !r && !mem->json && (each = json_array_get(list, i)); i++) {
		json_t *object = json_incref(each);
		struct device device;

		r = device_show(mem, &object, err);
		device_read(&device, object);
		if (!r && follow && device.driver && device.plugged != device.requested) {
			r = device_wait(mem, &device, &object, err);
			if (!r)
				r = device_show(mem, &object, err);
		}
		json_decref(object);
	}
	json_decref(list);
	return r;
}

static int show_one(const struct mem *mem, struct kv_err *err)
{
	struct device device;
	json_t *object = NULL;
	int r = device_get(mem, mem->device, &device, &object, err);

	if (!r)
		r = device_show(mem, &object, err);
	json_decref(object);
	return r;
}

int cli_mem(int argc, char **argv)
{
	struct mem mem = {.timeout_s = TIMEOUT_S};
	struct kv_err err = {0};
	int status = cli_parse(&usage, argc, argv, &mem), r = 0;

	if (status != CLI_GO_ON)
		return status;
	if (!mem.id == !mem.sock)
		return cli_usage_error("mem", "name the VM: --id ID, or --api-sock PATH");
	if (!mem.sock)
		r = api_path(mem.path, mem.id, &err);
	else if (snprintf(mem.path, sizeof(mem.path), "%s", mem.sock) >= (int)sizeof(mem.path))
		r = err_set(&err, -ENAMETOOLONG,
			"--api-sock: a socket's path has at most %zu bytes", sizeof(mem.path) - 1);
	if (!r)
		r = mem.change	 ? change(&mem, &err)
		    : mem.device ? show_one(&mem, &err)
				 : show_all(&mem, &err);
	if (r < 0) {
		cli_error("mem", "%s", err.text);
		return CLI_EXIT_START;
	}
	return CLI_EXIT_OK;
}
