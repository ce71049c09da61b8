/* SPDX-License-Identifier: Apache-2.0 */
/* config/mem_device: memory devices from options and files. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "config/internal.h"

static struct vm_config fresh(void)
{
	struct vm_config config;

	assert_int_equal(vm_config_init(&config), 0);
	return config;
}

static void test_mem_devices(void **state)
{
	static const struct {
		const char *value;
		int r;
		const char *text;
	} bad[] = {
		{"", -EINVAL, "--mem-device: \"\" is not of the form KEY=VALUE"},
		{"id=a", -EINVAL, "--mem-device: max= is missing"},
		{"max=0", -EINVAL, "--mem-device: max= is missing"},
		{"max=lots", -EINVAL, "--mem-device: max: \"lots\" is not a size"},
		{"max=100M", -EINVAL, "--mem-device: max=100M is not a multiple of 128M"},
		{"max=5000T", -ERANGE, "--mem-device: max=5000T is out of range"},
		{"max=64T", -EINVAL, "--mem-device: max=64T has more than 16777216 blocks"},
		{"max=1G,size=4", -EINVAL, "--mem-device: there is no key \"size\""},
		{"max=1G,block=3M", -EINVAL, "--mem-device: block: \"3M\" is not the size"},
		{"max=1G,block=2G", -EINVAL, "--mem-device: block: \"2G\" is not the size"},
		{"max=1152M,block=1G", -EINVAL,
			"--mem-device: max=1152M is not a multiple of 1G, the size of a block"},
		{"max=1G,requested=3M", -EINVAL,
			"--mem-device: requested=3M is not a multiple of 2M"},
		{"max=1G,requested=2G", -EINVAL, "--mem-device: requested=2G is more than max=1G"},
		{"max=1G,slots=257", -ERANGE, "--mem-device: slots: \"257\" is not a number"},
		{"max=1G,dynamic-memslots=off,slots=2", -EINVAL,
			"--mem-device: slots=2 does not go with dynamic-memslots=off"},
		{"max=1G,backing=pool:", -EINVAL,
			"--mem-device: backing: \"pool:\" is not allowed"},
		{"max=1G,backing=file:x", -EINVAL,
			"--mem-device: backing: \"file:x\" is not allowed"},
		{"max=1G,backing=anon:x", -EINVAL,
			"--mem-device: backing: \"anon:x\" is not allowed"},
		{"max=1G,backing=hugetlb-2m,block=1M", -EINVAL,
			"--mem-device: block=1M is less than a page of backing=hugetlb-2m"},
		{"max=1G,populate=vcpu", -EINVAL, "--mem-device: populate: \"vcpu\" is not"},
		{"max=1G,node=256", -ERANGE, "--mem-device: node: \"256\" is not a NUMA node"},
		{"max=1G,id=a b", -EINVAL, "--mem-device: id: \"a b\" is not an id"},
	};
	struct vm_config config = fresh(), again = fresh();
	struct kv_err err = {0};
	char *text = NULL;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int r = vm_config_set(&config, "mem-device", bad[i].value, &err);

		if (r != bad[i].r || strncmp(err.text, bad[i].text, strlen(bad[i].text)))
			fail_msg("%s: %d %s", bad[i].value, r, err.text);
	}
	assert_int_equal(config.mem_count, 0);
	assert_int_equal(vm_config_set(&config, "kernel", "k", &err), 0);
	assert_int_equal(vm_config_set(&config, "mem-device", "max=1T", &err), 0);
	assert_int_equal(vm_config_set(&config, "mem-device",
				 "id=m,max=2G,requested=1G,backing=hugetlb-1g,slots=7,node=3,"
				 "populate=full",
				 &err),
		0);
	assert_string_equal(config.mems[0].id, "mem0");
	assert_int_equal(config.mems[0].block_bytes, 2 * MIB);
	assert_int_equal(config.mems[1].block_bytes, GIB);
	assert_int_equal(
		vm_config_set(&config, "mem-device", "max=1G,backing=pool:/run/p,id=p", &err), 0);
	assert_int_equal(vm_config_set(&config, "mem-device", "max=1G,backing=pool", &err), 0);
	assert_int_equal(vm_config_dump(&config, &text), 0);
	assert_int_equal(config_json_parse(&again, "c.json", text, strlen(text), &err), 0);
	assert_int_equal(again.mem_count, 4);
	assert_int_equal(again.mems[2].backing, GMEM_POOL);
	assert_string_equal(again.mems[2].path, "/run/p");
	assert_int_equal(again.mems[3].backing, GMEM_POOL);
	assert_null(again.mems[3].path);
	assert_true(again.mems[0].dynamic && again.mems[0].node == -1 && !again.mems[0].populate);
	assert_string_equal(again.mems[1].id, "m");
	assert_int_equal(again.mems[1].requested_bytes, GIB);
	assert_int_equal(again.mems[1].backing, GMEM_HUGETLB_1G);
	assert_true(again.mems[1].slots == 7 && again.mems[1].node == 3 && again.mems[1].populate);
	assert_int_equal(vm_config_set(&config, "mem-device", "id=m,max=1G", &err), 0);
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_string_equal(err.text, "mem-device: two devices have the id \"m\"");
	free(text);
	vm_config_free(&config);
	vm_config_free(&again);
}

/* An id that kvick gives is none that is taken. */
static void test_ids(void **state)
{
	static const char *const values[] = {
		"id=mem1,max=1G", "max=1G", "id=mem4,max=1G", "max=1G", "max=1G"};
	static const char *const ids[] = {"mem1", "mem2", "mem4", "mem3", "mem5"};
	struct vm_config config = fresh();
	struct kv_err err = {0};

	assert_int_equal(vm_config_set(&config, "kernel", "k", &err), 0);
	for (size_t i = 0; i < ARRAY_LEN(values); i++)
		assert_int_equal(vm_config_set(&config, "mem-device", values[i], &err), 0);
	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		assert_string_equal(config.mems[i].id, ids[i]);
	assert_int_equal(vm_config_check(&config, &err), 0);
	vm_config_free(&config);
}

static void test_hotplug(void **state)
{
	static const char good[] = "{\"memory-hotplug\": {\"total_size_mib\": 2048, "
				   "\"block_size_mib\": 4, \"slot_size_mib\": 128}}";
	static const char *const bad[][2] = {
		{"{\"memory-hotplug\": {}}",
			"c.json:1: memory-hotplug: the field total_size_mib is missing"},
		{"{\"memory-hotplug\": {\"total_size_mib\": -1}}",
			"c.json:1: memory-hotplug.total_size_mib: it is out of range"},
		{"{\"memory-hotplug\": {\"total_size_mib\": 100}}",
			"c.json:1: memory-hotplug: max=100M is not a multiple of 128M"},
		{"{\"memory-hotplug\": {\"size\": 128}}",
			"c.json:1: memory-hotplug: unknown field \"size\""},
		{"{\"kvick\": {\"mem_devices\": [{\"max\": \"1G\",\n\"slots\": 0}]}}",
			"c.json:2: kvick.mem_devices[0].slots: \"0\" is not a number"},
		{"{\"kvick\": {\"mem_devices\": [{\"id\": \"a\"}]}}",
			"c.json:1: kvick.mem_devices[0]: max= is missing"},
	};
	struct vm_config config = fresh();
	struct kv_err err = {0};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int r = config_json_parse(&config, "c.json", bad[i][0], strlen(bad[i][0]), &err);

		if (r >= 0 || strncmp(err.text, bad[i][1], strlen(bad[i][1])))
			fail_msg("%s: %d %s", bad[i][0], r, err.text);
	}
	assert_int_equal(config.mem_count, 0);
	assert_int_equal(config_json_parse(&config, "c.json", good, strlen(good), &err), 0);
	assert_int_equal(config.mem_count, 1);
	assert_string_equal(config.mems[0].id, "hotplug");
	assert_int_equal(config.mems[0].max_bytes, 2 * GIB);
	assert_int_equal(config.mems[0].block_bytes, 4 * MIB);
	vm_config_free(&config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mem_devices),
		cmocka_unit_test(test_ids),
		cmocka_unit_test(test_hotplug),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
