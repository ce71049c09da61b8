/* SPDX-License-Identifier: Apache-2.0 */
/* config/: guest memory, on the command line and in configuration files. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config/config.h"
#include "config/internal.h"

static struct vm_config fresh(void)
{
	struct vm_config config;

	assert_int_equal(vm_config_init(&config), 0);
	return config;
}

static int parse(struct vm_config *config, const char *text, struct kv_err *err)
{
	return config_json_parse(config, "c.json", text, strlen(text), err);
}

static void test_json_huge_pages(void **state)
{
	static const char *const more[] = {"", ", \"kvick\": {\"memory\": \"128M\"}",
		", \"kvick\": {\"memory\": {\"populate\": \"full\"}}",
		", \"kvick\": {\"memory\": \"128M,backing=hugetlb-2m\"}"};

	for (unsigned i = 0; i < ARRAY_LEN(more); i++) {
		struct vm_config config = fresh();
		struct kv_err err = {0};
		char text[256];

		snprintf(text, sizeof(text),
			"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128, "
			"\"huge_pages\": \"2M\"}%s}",
			more[i]);
		assert_int_equal(parse(&config, text, &err), 0);
		assert_int_equal(config.memory.backing, GMEM_HUGETLB_2M);
		assert_int_equal(
			config.memory.populate, i == 2 ? GMEM_POPULATE_FULL : GMEM_POPULATE_NONE);
		vm_config_free(&config);
	}
}

static void test_memory(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};

	assert_int_equal(
		vm_config_set(&config, "memory",
			"2G,backing=file:/dev/shm/a b,thp=off,populate=background,threads=3,"
			"numa=1,numa=4-6,mlock=on,dump=on,shared=on",
			&err),
		0);
	assert_true(config.memory_bytes == 2 * GIB);
	assert_int_equal(config.memory.backing, GMEM_FILE);
	assert_string_equal(config.memory.path, "/dev/shm/a b");
	assert_int_equal(config.memory.thp, GMEM_OFF);
	assert_int_equal(config.memory.populate, GMEM_POPULATE_BACKGROUND);
	assert_int_equal(config.memory.threads, 3);
	assert_true(config.memory.nodes == 0x72);
	assert_true(config.memory.mlock && config.memory.dump && config.memory.shared);
	assert_false(config.memory.merge);
	/* A refused value leaves the rest as it was. */
	assert_int_equal(vm_config_set(&config, "memory", "2G,thp=off,merge=x", &err), -EINVAL);
	assert_int_equal(config.memory.backing, GMEM_FILE);
	assert_true(config.memory.nodes == 0x72);
	vm_config_free(&config);
}

static void memory_set(struct vm_config *config, const char *value)
{
	struct kv_err err = {0};

	if (vm_config_set(config, "memory", value, &err) < 0)
		fail_msg("%s: %s", value, err.text);
}

/* What is not named stays; what belongs to a key goes with its value. */
static void test_memory_over(void **state)
{
	struct vm_config config = fresh();
	const struct vm_memory *memory = &config.memory;

	memory_set(&config, "2G,backing=file:/a,thp=off,populate=full,threads=3,numa=1,mlock=on");
	memory_set(&config, "1G");
	assert_true(config.memory_bytes == GIB);
	assert_int_equal(memory->backing, GMEM_FILE);
	assert_string_equal(memory->path, "/a");
	assert_int_equal(memory->thp, GMEM_OFF);
	assert_int_equal(memory->populate, GMEM_POPULATE_FULL);
	assert_int_equal(memory->threads, 3);
	assert_true(memory->nodes == 2 && memory->mlock);
	memory_set(&config, "1G,populate=vcpu,numa=3,numa=5,mlock=off");
	assert_int_equal(memory->populate, GMEM_POPULATE_VCPU);
	assert_int_equal(memory->threads, 0);
	assert_true(memory->nodes == 0x28 && !memory->mlock);
	assert_string_equal(memory->path, "/a");
	memory_set(&config, "1G,threads=2,populate=full");
	assert_int_equal(memory->threads, 2);
	memory_set(&config, "1G,wait=on,backing=pool:/run/p");
	assert_int_equal(memory->backing, GMEM_POOL);
	assert_string_equal(memory->path, "/run/p");
	assert_true(memory->wait);
	memory_set(&config, "1G,dump=on");
	assert_string_equal(memory->path, "/run/p");
	assert_true(memory->wait);
	memory_set(&config, "1G,backing=pool");
	assert_null(memory->path);
	assert_false(memory->wait);
	memory_set(&config, "1G,backing=anon");
	assert_int_equal(memory->backing, GMEM_ANON);
	assert_true(memory->dump && memory->thp == GMEM_OFF);
	assert_true(memory->nodes == 0x28);
	memory_set(&config, "1G,backing=pool,numa=all");
	assert_true(memory->nodes == 0);
	vm_config_free(&config);
}

static void test_memory_bad(void **state)
{
	static const char *const bad[][2] = {
		{"1G,", "is not of the form KEY=VALUE"},
		{"1G,thp", "--memory: \"thp\" is not of the form KEY=VALUE"},
		{"backing=anon", "is not a size"},
		{"1G,nosuch=1",
			"--memory: \"nosuch\": there is no such key; memory has backing, thp"},
		{"1G,backing=ram",
			"--memory: \"backing\": \"ram\" is not allowed; give anon, memfd"},
		{"1G,backing=file", "file:PATH"},
		{"1G,backing=file:", "file:PATH"},
		{"1G,backing=anon:x", "is not allowed"},
		{"1G,populate=yes", "give none, full, background or vcpu"},
		{"1G,thp=always", "give auto, off or on"},
		{"1G,threads=0", "give 1 to 512"},
		{"1G,threads=513", "give 1 to 512"},
		{"1G,numa=64", "give 0 to 63"},
		{"1G,numa=3-1", "give 0 to 63"},
		{"1G,numa=", "give 0 to 63"},
		{"1G,mlock=1", "give off or on"},
		{"1G,wait=maybe", "give off or on"},
		{"1G,thp=on,numa=0,numa=1,thp=off", "\"thp\" is given twice"},
	};
	static const char *const unfit[][2] = {
		{"1G,threads=2", "memory: threads=2 goes with populate=full or"},
		{"1G,populate=vcpu,threads=2", "memory: threads=2 goes with"},
		{"1G,wait=on", "memory: wait=on goes with backing=pool only"},
		{"1G,backing=pool,numa=0", "the pool's node counts"},
		{"17M,backing=hugetlb-2m", "must be a multiple of 2M"},
		{"1025M,backing=hugetlb-1g", "must be a multiple of 1G"},
		{"1G,backing=hugetlb-1g,thp=on", "thp=on does not go with"},
		{"1G,backing=memfd,merge=on", "merge=on needs private memory"},
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct vm_config config = fresh();
		struct kv_err err = {0};

		if (vm_config_set(&config, "memory", bad[i][0], &err) >= 0 ||
			!strstr(err.text, bad[i][1]))
			fail_msg("%s: %s", bad[i][0], err.text);
		vm_config_free(&config);
	}
	for (size_t i = 0; i < ARRAY_LEN(unfit); i++) {
		struct vm_config config = fresh();
		struct kv_err err = {0};

		assert_int_equal(vm_config_set(&config, "kernel", "k", &err), 0);
		assert_int_equal(vm_config_set(&config, "memory", unfit[i][0], &err), 0);
		if (vm_config_check(&config, &err) != -EINVAL || !strstr(err.text, unfit[i][1]))
			fail_msg("%s: %s", unfit[i][0], err.text);
		vm_config_free(&config);
	}
}

static void test_memory_json(void **state)
{
	static const char text[] =
		"{\"kvick\": {\"memory\": {\"size\": \"3G\", \"backing\": \"file:/a,b\",\n"
		" \"thp\": \"on\", \"populate\": \"full\", \"threads\": 2, \"numa\": [0, 2],\n"
		" \"mlock\": true, \"dump\": null}}}";
	static const struct {
		const char *text, *want;
	} bad[] = {
		{"{\"kvick\": {\"memory\": {\"numa\": [0,\n 77]}}}",
			"c.json:2: kvick.memory.numa[1]: \"77\" is not a NUMA node"},
		{"{\"kvick\": {\"memory\": {\"x\": 1}}}",
			"c.json:1: kvick.memory.x: there is no such key; memory has size, backing"},
		{"{\"kvick\": {\"memory\": []}}",
			"c.json:1: kvick.memory: is an array; give a string or an object"},
		{"{\"kvick\": {\n\"memory\": {\"wait\": true}}}",
			"c.json:2: kvick.memory: wait=on goes with backing=pool only"},
		{"{\"kvick\":\n {\"memory\": {\"thp\": \"on\", \"backing\": \"hugetlb-1g\"}}}",
			"c.json:2: kvick.memory: thp=on does not go with backing=hugetlb-1g"},
		{"{\"kvick\": {\"memory\": \"1G,backing=memfd,merge=on\"}}",
			"c.json:1: kvick.memory: merge=on needs private memory"},
		{"{\"kvick\": {\"memory\": {\"size\": \"65M\", \"backing\": \"hugetlb-2m\"}}}",
			"c.json:1: kvick.memory: with backing=hugetlb-2m the size must be"},
		{"{\"machine-config\": {\"vcpu_count\": 1, \"huge_pages\": \"2M\",\n"
		 "\"mem_size_mib\": 65}}",
			"c.json:2: machine-config.mem_size_mib: with backing=hugetlb-2m the size"},
		{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128,\n"
		 "\"huge_pages\": \"2M\"}, \"kvick\":\n {\"memory\": \"128M,thp=on\"}}",
			"c.json:3: kvick.memory: thp=on does not go with backing=hugetlb-2m"},
		{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128,\n"
		 "\"huge_pages\": \"2M\"}, \"kvick\":\n {\"memory\": \"128M,backing=anon\"}}",
			"c.json:3: kvick.memory: backing=anon contradicts machine-config"},
		{"{\"kvick\": {\"memory\": {\"mlock\": []}}}",
			"c.json:1: kvick.memory.mlock: is an array; give"},
		{"{\"kvick\": {\"memory\": {\"size\": \"1G,thp=on\"}}}",
			"c.json:1: kvick.memory.size: \"1G,thp=on\" is not a size"},
		{"{\"kvick\": {\"memory\": 5}}", "c.json:1: kvick.memory: is an integer"},
		{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128},\n"
		 "\"kvick\": {\"memory\": {\"size\": \"1G\"}}}",
			"c.json:2: kvick.memory: 1G contradicts machine-config.mem_size_mib"},
	};
	struct vm_config config = fresh();
	struct kv_err err = {0};

	if (config_json_parse(&config, "c.json", text, strlen(text), &err) < 0)
		fail_msg("%s", err.text);
	assert_true(config.memory_bytes == 3 * GIB);
	assert_string_equal(config.memory.path, "/a,b");
	assert_int_equal(config.memory.thp, GMEM_ON);
	assert_int_equal(config.memory.populate, GMEM_POPULATE_FULL);
	assert_int_equal(config.memory.threads, 2);
	assert_true(config.memory.nodes == 5);
	assert_true(config.memory.mlock && !config.memory.dump);
	vm_config_free(&config);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		config = fresh();
		if (config_json_parse(&config, "c.json", bad[i].text, strlen(bad[i].text), &err) >=
				0 ||
			!strstr(err.text, bad[i].want))
			fail_msg("%s: %s", bad[i].text, err.text);
		vm_config_free(&config);
	}
}

/* A size that the file leaves to the command line is not held against its other fields. */
static void test_json_no_size(void **state)
{
	static const char *const texts[] = {
		"{\"kvick\": {\"memory\": {\"backing\": \"hugetlb-1g\"}}}",
		"{\"kvick\": {\"memory\": {\"size\": null, \"wait\": true, \"backing\": "
		"\"pool\"}}}"};
	struct kv_err err = {0};

	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		struct vm_config config = fresh();

		if (parse(&config, texts[i], &err) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(config.memory.backing, i ? GMEM_POOL : GMEM_HUGETLB_1G);
		assert_true(config.memory.wait == i);
		memory_set(&config, "2G");
		assert_int_equal(vm_config_set(&config, "kernel", "k", &err), 0);
		assert_int_equal(vm_config_check(&config, &err), 0);
		vm_config_free(&config);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_memory_over),
		cmocka_unit_test(test_memory_bad),
		cmocka_unit_test(test_memory_json),
		cmocka_unit_test(test_json_huge_pages),
		cmocka_unit_test(test_json_no_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
