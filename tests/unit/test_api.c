/* SPDX-License-Identifier: Apache-2.0 */
/* api/: what is answered at which path, with a machine that does not run. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "api/api.h"
#include "api/internal.h"
#include "config/config.h"

bool __wrap_machine_paused(const struct machine *m);
int __wrap_machine_pause(struct machine *m, struct kv_err *err);
void __wrap_machine_resume(struct machine *m);
int __wrap_machine_disk_look(struct machine *m, const char *id, struct kv_err *err);
int __wrap_machine_disk_rates(
	struct machine *m, const char *id, struct limit_rates *ret, struct kv_err *err);
int __wrap_machine_disk_limit(
	struct machine *m, const char *id, const struct limit_rates *rates, struct kv_err *err);
unsigned __wrap_machine_mem_count(const struct machine *m);
int __wrap_machine_mem_get(struct machine *m, unsigned i, struct machine_mem_info *ret);
bool __wrap_machine_mem_present(struct machine *m, const char *id, uint64_t *at, uint64_t *bytes);
int __wrap_machine_mem_request(
	struct machine *m, const char *id, uint64_t bytes, struct kv_err *err);

static bool paused, stuck;

bool __wrap_machine_paused(const struct machine *m)
{
	return paused;
}

int __wrap_machine_pause(struct machine *m, struct kv_err *err)
{
	if (stuck)
		return err_set(err, -EBUSY, "it is stuck");
	paused = true;
	return 0;
}

void __wrap_machine_resume(struct machine *m)
{
	paused = false;
}

static struct limit_rates disk_rates;
static unsigned disk_looks;
static bool disk_shrank;

int __wrap_machine_disk_look(struct machine *m, const char *id, struct kv_err *err)
{
	disk_looks++;
	return disk_shrank ? err_set(err, -ERANGE, "it shrank") : 0;
}

int __wrap_machine_disk_rates(
	struct machine *m, const char *id, struct limit_rates *ret, struct kv_err *err)
{
	*ret = disk_rates;
	return 0;
}

int __wrap_machine_disk_limit(
	struct machine *m, const char *id, const struct limit_rates *rates, struct kv_err *err)
{
	disk_rates = *rates;
	return 0;
}

static struct machine_mem_info mems[] = {
	{.id = "m0",
		.max_bytes = 3 * GIB,
		.block_bytes = 2 * MIB,
		.window_bytes = 2 * GIB,
		.windows = 2},
	{.id = "hotplug",
		.max_bytes = 512 * MIB,
		.block_bytes = 4 * KIB,
		.window_bytes = 1 * GIB,
		.windows = 1},
};
static unsigned mem_count;
static unsigned looked; /* parts of a device that were counted */

unsigned __wrap_machine_mem_count(const struct machine *m)
{
	return mem_count;
}

int __wrap_machine_mem_get(struct machine *m, unsigned i, struct machine_mem_info *ret)
{
	*ret = mems[i];
	return 0;
}

bool __wrap_machine_mem_present(struct machine *m, const char *id, uint64_t *at, uint64_t *bytes)
{
	looked++;
	*bytes += strcmp(id, "hotplug") ? 1 * MIB : 2 * MIB;
	return ++*at < 3;
}

int __wrap_machine_mem_request(
	struct machine *m, const char *id, uint64_t bytes, struct kv_err *err)
{
	for (unsigned i = 0; i < mem_count; i++)
		if (!strcmp(mems[i].id, id)) {
			if (bytes % mems[i].block_bytes)
				return err_set(err, -EINVAL, "not a multiple");
			mems[i].requested_bytes = bytes;
			return 0;
		}
	return err_set(err, -ENODEV, "which should not have been asked");
}

static int flushed = -ENOTSUP;

static int flush(void *ctx)
{
	return flushed;
}

static struct vm_config config;

/* The status of the answer, whose body is *@body (NULL: none), the caller's. */
static int ask(const char *verb, const char *path, const char *text, json_t **body)
{
	struct api api = {.p = {.config = &config, .flush = flush}};
	struct http_request req = {
		.method = !strcmp(verb, "GET")	   ? HTTP_GET
			  : !strcmp(verb, "PUT")   ? HTTP_PUT
			  : !strcmp(verb, "PATCH") ? HTTP_PATCH
						   : HTTP_OTHER,
		.verb = verb,
		.verb_len = strlen(verb),
		.path = path,
		.path_len = strlen(path),
		.body = text,
		.body_len = strlen(text),
	};
	struct http_reply reply = {.status = 204};

	do {
		assert_null(reply.body);
		reply.work.more = false;
		api_answer(&api, &req, &reply);
	} while (reply.work.more);
	*body = reply.body ? json_loads(reply.body, 0, NULL) : NULL;
	free(reply.body);
	return reply.status;
}

static void expect(
	const char *verb, const char *path, const char *text, int status, const char *fault)
{
	json_t *body;
	const char *said;

	assert_int_equal(ask(verb, path, text, &body), status);
	said = json_string_value(json_object_get(body, "fault_message"));
	if (!fault)
		assert_null(said);
	else if (!said || !strstr(said, fault))
		fail_msg("%s %s: \"%s\" is not in \"%s\"", verb, path, fault, said);
	json_decref(body);
}

static void test_vm(void **state)
{
	json_t *body;

	assert_int_equal(ask("GET", "/", "", &body), 200);
	assert_string_equal(json_string_value(json_object_get(body, "state")), "Running");
	assert_string_equal(json_string_value(json_object_get(body, "id")), "vm-1");
	json_decref(body);
	expect("PATCH", "/vm", "{\"state\":\"Paused\"}", 204, NULL);
	assert_true(paused);
	assert_int_equal(ask("GET", "/", "", &body), 200);
	assert_string_equal(json_string_value(json_object_get(body, "state")), "Paused");
	json_decref(body);
	expect("PATCH", "/vm/", "{\"state\":\"Resumed\"}", 204, NULL);
	assert_false(paused);
	stuck = true;
	expect("PATCH", "/vm", "{\"state\":\"Paused\"}", 400, "it is stuck");
	stuck = false;
	expect("PATCH", "/vm", "{\"state\":\"Halted\"}", 400, "\"Halted\" is not allowed");
	expect("PATCH", "/vm", "{\"state\":1}", 400, "is no string");
	expect("PATCH", "/vm", "{\"mood\":\"Paused\"}", 400, "unknown field \"mood\"");
	expect("PATCH", "/vm", "{\"state\":\"Paused\",\"state\":\"Resumed\"}", 400, "not JSON");
	expect("PATCH", "/vm", "[]", 400, "no JSON object");
	expect("PATCH", "/vm", "{", 400, "not JSON");
	expect("PATCH", "/vm", "", 400, "Empty PATCH request.");
	assert_false(paused);
}

static void test_actions(void **state)
{
	expect("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}", 400, "--stats");
	flushed = 0;
	expect("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}", 204, NULL);
	flushed = -ENOSPC;
	expect("PUT", "/actions", "{\"action_type\":\"FlushMetrics\"}", 400, "No space");
	flushed = -ENOTSUP;
	expect("PUT", "/actions", "{\"action_type\":\"InstanceStart\"}", 400, "after starting");
	expect("PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}", 400, "no keyboard");
	expect("PUT", "/actions", "{\"action_type\":\"Dance\"}", 400, "\"Dance\" is not allowed");
	expect("PUT", "/actions", "{}", 400, "action_type is missing");
}

static void test_paths(void **state)
{
	expect("GET", "/nowhere", "", 400, "Invalid request method and/or path: GET /nowhere.");
	expect("POST", "/vm", "{}", 400, "Invalid request method and/or path: POST /vm.");
	expect("GET", "/vmx", "", 400, "Invalid request");
	expect("GET", "/vm/config/x", "", 400, "Invalid request");
	expect("GET", "/", "{}", 400, "cannot have a body");
	expect("PUT", "/boot-source", "{}", 400, "after starting the microVM");
	expect("PUT", "/drives/rootfs", "{}", 400, "after starting the microVM");
	expect("PUT", "/drivesx", "{}", 400, "Invalid request");
	expect("PATCH", "/drives/rootfs", "{}", 400, "drive_id is missing");
	expect("PATCH", "/drives", "{\"drive_id\": \"a\"}", 400, "another one than the path's");
	expect("PATCH", "/drives/a", "{\"drive_id\": \"ab\"}", 400, "another one");
	expect("PATCH", "/drives/a", "{\"id\": \"a\"}", 400, "unknown field");
	expect("PUT", "/snapshot/create", "{}", 400, "does not offer");
	expect("GET", "/version", "", 200, NULL);
}

static void test_config(void **state)
{
	json_t *body, *drive;

	assert_int_equal(ask("GET", "/machine-config", "", &body), 200);
	assert_int_equal(json_integer_value(json_object_get(body, "mem_size_mib")), 256);
	json_decref(body);
	assert_int_equal(ask("GET", "/vm/config", "", &body), 200);
	assert_int_equal(json_integer_value(json_object_get(
				 json_object_get(body, "machine-config"), "vcpu_count")),
		1);
	drive = json_array_get(json_object_get(body, "drives"), 0);
	assert_string_equal(
		json_string_value(json_object_get(drive, "path_on_host")), "/var/disk.img");
	assert_true(json_is_true(json_object_get(drive, "is_read_only")));
	assert_string_equal(json_string_value(json_object_get(drive, "cache_type")), "Unsafe");
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(body, "kvick"), "id")), "vm-1");
	json_decref(body);
	assert_int_equal(vm_config_set(&config, "append", "\xff", NULL), 0);
	expect("GET", "/vm/config", "", 500, "not UTF-8");
}

/* A drive changes as a whole, or not at all. */
static void test_drive(void **state)
{
	static const char both[] =
		"{\"drive_id\": \"disk0\", \"path_on_host\": \"/var/disk.img\","
		" \"rate_limiter\": {\"ops\": {\"size\": 5, \"refill_time\": 10}}}";

	disk_shrank = true;
	expect("PATCH", "/drives/disk0", both, 400, "it shrank");
	assert_int_equal(disk_looks, 1);
	assert_int_equal(disk_rates.ops.size, 0);
	disk_shrank = false;
	expect("PATCH", "/drives/disk0", both, 204, NULL);
	assert_int_equal(disk_rates.ops.size, 5);
	expect("PATCH", "/drives/disk0",
		"{\"drive_id\": \"disk0\", \"path_on_host\": null, \"rate_limiter\": {\"ops\": 4}}",
		400, "rate_limiter: ops");
	assert_int_equal(disk_looks, 2);
	assert_int_equal(disk_rates.ops.size, 5);
}

static json_int_t number(const char *path, const char *name)
{
	json_t *body;
	json_int_t n;

	assert_int_equal(ask("GET", path, "", &body), 200);
	n = json_integer_value(json_object_get(body, name));
	json_decref(body);
	return n;
}

static void test_memory(void **state)
{
	static const char one[] = "{\"requested_size_mib\": 512}";
	json_t *body;

	mem_count = 0;
	expect("GET", "/hotplug/memory", "", 400, "without --mem-device");
	expect("PATCH", "/hotplug/memory", one, 400, "without --mem-device");
	/* Without a name it is the first one, or Firecracker's. */
	mem_count = 1;
	expect("PATCH", "/hotplug/memory", one, 204, NULL);
	assert_int_equal(mems[0].requested_bytes, 512 * MIB);
	assert_int_equal(number("/hotplug/memory", "total_size_mib"), 3072);
	assert_int_equal(number("/hotplug/memory", "slot_size_mib"), 2048);
	mem_count = 2;
	assert_int_equal(number("/hotplug/memory", "requested_size_mib"), 0);
	assert_int_equal(number("/hotplug/memory", "total_size_mib"), 512);
	assert_int_equal(number("/hotplug/memory", "slot_size_mib"), 512);
	assert_int_equal(number("/hotplug/memory", "max_bytes"), 0);
	/* That takes long, and is done for nobody who does not ask. */
	assert_int_equal(looked, 0);
	assert_int_equal(number("/hotplug/memory/hotplug", "host_bytes"), 3 * 2 * MIB);
	assert_int_equal(looked, 3);
	assert_int_equal(number("/hotplug/memory/m0", "requested_bytes"), 512 * MIB);
	expect("PATCH", "/hotplug/memory/m0", "{\"requested_bytes\": 2097152}", 204, NULL);
	assert_int_equal(number("/hotplug/memory/m0", "requested_size_mib"), 2);
	expect("PATCH", "/hotplug/memory/hotplug/", "{\"requested_bytes\": 4096}", 204, NULL);
	assert_int_equal(mems[1].requested_bytes, 4096);
	expect("PATCH", "/hotplug/memory/m0", "{\"requested_bytes\": 1}", 400, "not a multiple");
	expect("PATCH", "/hotplug/memory/m1", one, 400, "there is no memory device \"m1\"");
	expect("GET", "/hotplug/memory/m", "", 400, "there is no memory device \"m\"");
	expect("PATCH", "/hotplug/memory", "{\"requested_size_mib\": -1}", 400, "not a size");
	expect("PATCH", "/hotplug/memory", "{\"requested_size_mib\": 1.5}", 400, "not a size");
	expect("PATCH", "/hotplug/memory", "{\"requested_size_mib\": 9223372036854775807}", 400,
		"not a size");
	expect("PATCH", "/hotplug/memory", "{\"requested_size_mib\":1,\"requested_bytes\":1}", 400,
		"give one of");
	expect("PATCH", "/hotplug/memory", "{}", 400, "give one of");
	expect("PUT", "/hotplug/memory", "{\"total_size_mib\": 1024}", 400, "after starting");
	looked = 0;
	assert_int_equal(ask("GET", "/kvick/memory", "", &body), 200);
	assert_int_equal(json_array_size(body), 2);
	assert_int_equal(looked, 0);
	json_decref(body);
}

static int setup(void **state)
{
	if (vm_config_init(&config) || vm_config_set(&config, "id", "vm-1", NULL) ||
		vm_config_set(&config, "kernel", "/boot/vmlinux", NULL) ||
		vm_config_set(&config, "memory", "256M", NULL) ||
		vm_config_set(&config, "disk", "/var/disk.img,ro,cache=unsafe", NULL))
		return -1;
	return 0;
}

static int teardown(void **state)
{
	vm_config_free(&config);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vm),
		cmocka_unit_test(test_actions),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_drive),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_memory),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
