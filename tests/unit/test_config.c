/* SPDX-License-Identifier: Apache-2.0 */
/* config/: setters, checks, configuration files read and written. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "config/config.h"
#include "config/internal.h"
#include "x86/layout.h"

static struct vm_config fresh(void)
{
	struct vm_config config;

	assert_int_equal(vm_config_init(&config), 0);
	return config;
}

/* A string of @len times @c, on the heap. */
static char *repeat(char c, size_t len)
{
	char *text = test_malloc(len + 1);

	memset(text, c, len);
	text[len] = '\0';
	return text;
}

static void test_defaults(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};

	assert_string_equal(config.id, "anonymous-instance");
	assert_string_equal(config.cmdline, "");
	assert_true(config.memory_bytes == 128 * MIB);
	assert_int_equal(config.cpus, 1);
	assert_int_equal(config.serial, VM_SERIAL_STDIO);
	assert_int_equal(config.image_map, GMEM_IMAGE_SHARE);
	assert_int_equal(config.protocol, IMAGE_AUTO);
	assert_int_equal(config.legacy, VM_LEGACY_AUTO);
	assert_false(config.boot_timer);
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no kernel is given"));
	vm_config_free(&config);
	vm_config_free(&config);
}

/* Every value that a setter must take. */
static void test_set_good(void **state)
{
	struct vm_config config = fresh();
	static const char *const good[][2] = {
		{"memory", "16M"},
		{"memory", "16384k"},
		{"memory", "4095T"},
		{"memory", "16781312"},
		{"cpus", "1"},
		{"cpus", "254"},
		{"cpus", "0x10"},
		{"append", ""},
		{"append", "console=ttyS0 quiet"},
		{"image-map", "copy"},
		{"image-map", "share"},
		{"boot-protocol", "pvh"},
		{"boot-protocol", "linux"},
		{"boot-protocol", "auto"},
		{"legacy", "on"},
		{"legacy", "off"},
		{"legacy", "auto"},
		{"serial", "none"},
		{"serial", "pty"},
		{"serial", "file:/tmp/x"},
		{"serial", "unix:/tmp/y"},
		{"serial", "stdio"},
		{"id", "a"},
		{"id", "A-Z_09"},
		{"api-sock", "/run/a.sock"},
		{"no-api", "on"},
		{"boot-timer", "off"},
		{"boot-timer", "on"},
		{"symbols", "System.map"},
		{"kernel", "vmlinux"},
	};
	struct kv_err err = {0};

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		if (vm_config_set(&config, good[i][0], good[i][1], &err))
			fail_msg("%s", err.text);
		if (!strcmp(good[i][1], "unix:/tmp/y")) {
			assert_int_equal(config.serial, VM_SERIAL_UNIX);
			assert_string_equal(config.serial_path, "/tmp/y");
		}
	}
	assert_true(config.memory_bytes == 16781312);
	assert_int_equal(config.cpus, 16);
	assert_string_equal(config.cmdline, "console=ttyS0 quiet");
	assert_int_equal(config.image_map, GMEM_IMAGE_SHARE);
	assert_int_equal(config.protocol, IMAGE_AUTO);
	assert_int_equal(config.serial, VM_SERIAL_STDIO);
	assert_null(config.serial_path);
	assert_true(config.boot_timer);
	assert_int_equal(vm_config_check(&config, &err), 0);
	vm_config_free(&config);
}

static void test_set_bad(void **state)
{
	static const struct {
		const char *name, *value;
		int r;
		const char *text; /* all of it, or its start when it ends in '*' */
	} bad[] = {
		{"memory", "12Q", -EINVAL,
			"--memory: \"12Q\" is not a size; give a number with K, M, G or T, from "
			"16M to "
			"4095T"},
		{"memory", "", -EINVAL, "--memory: \"\" is not a size*"},
		{"memory", "-1", -EINVAL, "--memory: \"-1\" is not a size*"},
		{"memory", "16383K", -ERANGE,
			"--memory: \"16383K\" is out of range; give from 16M to 4095T"},
		{"memory", "4096T", -ERANGE, "--memory: \"4096T\" is out of range*"},
		{"memory", "99999999999999999999T", -ERANGE, "--memory: \"9*"},
		{"memory", "16777217", -EINVAL,
			"--memory: \"16777217\" is not a multiple of 4K, the size of a page"},
		{"cpus", "0", -ERANGE, "--cpus: \"0\" is not a number of CPUs; give 1 to 254"},
		{"cpus", "255", -ERANGE, "--cpus: \"255\"*"},
		{"cpus", "two", -EINVAL, "--cpus: \"two\"*"},
		{"cpus", "99999999999999999999", -ERANGE, "--cpus: \"9*"},
		{"image-map", "mmap", -EINVAL,
			"--image-map: \"mmap\" is not allowed; give share or copy"},
		{"boot-protocol", "efi", -EINVAL,
			"--boot-protocol: \"efi\" is not allowed; give auto, pvh or linux"},
		{"legacy", "", -EINVAL, "--legacy: \"\" is not allowed; give auto, off or on"},
		{"boot-timer", "1", -EINVAL, "--boot-timer: \"1\" is not allowed; give off or on"},
		{"serial", "tty", -EINVAL,
			"--serial: \"tty\" is not allowed; give stdio, none, file:PATH, pty or "
			"unix:PATH"},
		{"serial", "file:", -EINVAL, "--serial: file: the path is empty; name a file"},
		{"serial", "unix:", -EINVAL, "--serial: unix: the path is empty; name a file"},
		{"id", "", -EINVAL,
			"--id: \"\" is not an id; give 1 to 64 letters, digits, '-' or '_'"},
		{"id", "a/b", -EINVAL, "--id: \"a/b\"*"},
		{"api-sock", "", -EINVAL, "--api-sock: the path is empty; name a file"},
		{"no-api", "maybe", -EINVAL, "--no-api: \"maybe\" is not allowed; give off or on"},
		{"id", "\x1b[2J", -EINVAL, "--id: \"?[2J\"*"},
		{"kernel", "", -EINVAL, "kernel: the path is empty; name a file"},
		{"initrd", "", -EINVAL, "--initrd: the path is empty; name a file"},
		{"symbols", "", -EINVAL, "--symbols: the path is empty; name a file"},
		{"colour", "red", -ENOENT, "--colour: there is no such field"},
	};
	struct vm_config config = fresh();

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct kv_err err = {0};
		size_t len = strlen(bad[i].text);
		int r = vm_config_set(&config, bad[i].name, bad[i].value, &err);

		if (r != bad[i].r)
			fail_msg("%s %s: %d", bad[i].name, bad[i].value, r);
		if (bad[i].text[len - 1] == '*')
			err.text[len - 1] = '*', err.text[len] = '\0';
		assert_string_equal(err.text, bad[i].text);
	}
	/* Nothing of it left a trace. */
	assert_true(config.memory_bytes == 128 * MIB);
	assert_int_equal(config.cpus, 1);
	assert_int_equal(config.serial, VM_SERIAL_STDIO);
	assert_string_equal(config.id, "anonymous-instance");
	vm_config_free(&config);
}

static void test_lengths(void **state)
{
	static const struct {
		const char *name, *head;
		size_t longest; /* without head */
	} cases[] = {
		{"append", "", LAYOUT_CMDLINE_MAX - 1},
		{"id", "", 64},
		{"kernel", "", 4095},
		{"initrd", "", 4095},
		{"symbols", "", 4095},
		{"serial", "file:", 4095},
		{"serial", "unix:", 107},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t head = strlen(cases[i].head);
		char *text = repeat('x', head + cases[i].longest + 1);
		struct vm_config config = fresh();
		struct kv_err err = {0};

		memcpy(text, cases[i].head, head);
		assert_int_not_equal(vm_config_set(&config, cases[i].name, text, &err), 0);
		assert_in_range(strlen(err.text), 30, 200);
		text[head + cases[i].longest] = '\0';
		assert_int_equal(vm_config_set(&config, cases[i].name, text, &err), 0);
		vm_config_free(&config);
		test_free(text);
	}
}

/* Values in errors: whole when short, else cut between characters. */
static void test_show(void **state)
{
	char *text = repeat('x', 200);
	char expected[80];

	assert_string_equal(config_show("a\nb\x7f").text, "\"a?b?\"");
	snprintf(expected, sizeof(expected), "\"%.74s...\"", text);
	assert_string_equal(config_show(text).text, expected);
	memcpy(text + 72, "\xe2\x82\xac", 3);
	snprintf(expected, sizeof(expected), "\"%.72s...\"", text);
	assert_string_equal(config_show(text).text, expected);
	memcpy(text + 71, "\xe2\x82\xacx", 4);
	snprintf(expected, sizeof(expected), "\"%.74s...\"", text);
	assert_string_equal(config_show(text).text, expected);
	text[74] = '\0';
	snprintf(expected, sizeof(expected), "\"%s\"", text);
	assert_string_equal(config_show(text).text, expected);
	test_free(text);
}

static void test_initrds(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};

	for (int i = 0; i < INITRD_FILES_MAX; i++)
		assert_int_equal(vm_config_set(&config, "initrd", i ? "b" : "a", &err), 0);
	assert_int_equal(config.initrd_count, INITRD_FILES_MAX);
	assert_string_equal(config.initrds[0], "a");
	assert_string_equal(config.initrds[INITRD_FILES_MAX - 1], "b");
	assert_int_equal(vm_config_set(&config, "initrd", "c", &err), -ERANGE);
	assert_string_equal(
		err.text, "--initrd: \"c\" is one file too many; at most 16 are allowed");
	vm_config_free(&config);
}

/* A structure that was filled past the setters is checked as well. */
static void test_check(void **state)
{
	struct vm_config good = fresh();
	struct vm_config config;
	struct kv_err err = {0};

	assert_int_equal(vm_config_set(&good, "kernel", "vmlinux", &err), 0);
	assert_int_equal(vm_config_check(&good, &err), 0);
	config = good;
	config.memory_bytes = 16 * MIB - 4096;
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_string_equal(err.text, "memory: 16380K is out of range; give from 16M to 4095T");
	config = good;
	config.cpus = 0;
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	config.cpus = 255;
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	config = good;
	config.serial = VM_SERIAL_FILE;
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_string_equal(err.text, "serial: file: the path is empty; name a file");
	config = good;
	config.id = (char[]){"no good"};
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	vm_config_free(&good);
}

static int parse(struct vm_config *config, const char *text, struct kv_err *err)
{
	return config_json_parse(config, "c.json", text, strlen(text), err);
}

static void test_json_firecracker(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};

	assert_int_equal(parse(&config,
				 "{\"boot-source\": {\"kernel_image_path\": \"vmlinux\",\n"
				 "  \"initrd_path\": null},\n"
				 " \"drives\": [], \"network-interfaces\": null, \"vsock\": {},\n"
				 " \"some-day\": {\"x\": 1},\n"
				 " \"machine-config\": {\"vcpu_count\": 2, \"mem_size_mib\": 512,\n"
				 "  \"smt\": false, \"cpu_template\": \"None\",\n"
				 "  \"track_dirty_pages\": false, \"huge_pages\": \"None\"}}",
				 &err),
		0);
	assert_string_equal(config.kernel, "vmlinux");
	assert_int_equal(config.initrd_count, 0);
	assert_string_equal(config.cmdline, CONFIG_BOOT_ARGS);
	assert_int_equal(config.cpus, 2);
	assert_true(config.memory_bytes == 512 * MIB);
	vm_config_free(&config);
}

static void test_json_own(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};

	assert_int_equal(
		parse(&config,
			"{\"kvick\": {\"initrds\": [\"b\", \"c\"], \"image_map\": \"copy\",\n"
			"  \"boot_protocol\": \"linux\", \"symbols\": \"S\", \"id\": \"x\",\n"
			"  \"serial\": \"file:o\", \"legacy\": \"on\", \"boot_timer\": true,\n"
			"  \"memory\": \"4G\"},\n"
			" \"machine-config\": {\"vcpu_count\": 3},\n"
			" \"boot-source\": {\"kernel_image_path\": \"k\", \"initrd_path\": "
			"\"a\",\n  \"boot_args\": \"\"}}",
			&err),
		0);
	/* Firecracker's initrd is the first, whatever the order in the file. */
	assert_int_equal(config.initrd_count, 3);
	assert_string_equal(config.initrds[0], "a");
	assert_string_equal(config.initrds[2], "c");
	assert_string_equal(config.cmdline, "");
	assert_true(config.memory_bytes == 4 * GIB);
	assert_int_equal(config.cpus, 3);
	assert_int_equal(config.image_map, GMEM_IMAGE_COPY);
	assert_int_equal(config.protocol, IMAGE_LINUX);
	assert_int_equal(config.serial, VM_SERIAL_FILE);
	assert_string_equal(config.serial_path, "o");
	assert_int_equal(config.legacy, VM_LEGACY_ON);
	assert_true(config.boot_timer);
	assert_string_equal(config.id, "x");
	assert_string_equal(config.symbols, "S");
	vm_config_free(&config);
}

static const struct {
	const char *json;
	int r;
	const char *text;
} json_bad[] = {
	{"", -EINVAL, "c.json:1:0: '[' or '{' expected near end of file"},
	{"{\n\"a\": 1,\n}", -EINVAL, "c.json:3:1: string or '}' expected near '}'"},
	{"{}x", -EINVAL, "c.json:1:3: end of file expected near 'x'"},
	{"{\"a\": 1,\n \"a\": 2}", -EINVAL, "c.json:2:4: duplicate object key near '\"a\"'"},
	{"[]", -EINVAL,
		"c.json:1: is an array; give an object with boot-source, machine-config, ..."},
	{"{\"boot-source\": {}}", -EINVAL,
		"c.json:1: boot-source: the field kernel_image_path is missing"},
	{"{\n \"boot-source\": []}", -EINVAL, "c.json:2: boot-source: is an array; give an object"},
	{"{\"a\": [\"}\", {\"\\\"\": 2}],\n\"boot-source\": {\"kernel_image_path\": \"k\",\n\n"
	 "\"kernel\": 1}}",
		-EINVAL,
		"c.json:4: boot-source.kernel: unknown field; boot-source has kernel_image_path, "
		"initrd_path, boot_args"},
	{"{\"boot-source\": {\n\"kernel_image_path\": null}}", -EINVAL,
		"c.json:1: boot-source: the field kernel_image_path is missing"},
	{"{\"boot-source\": {\n\"kernel_image_path\": 7}}", -EINVAL,
		"c.json:2: boot-source.kernel_image_path: is an integer; give a string"},
	{"{\"boot-source\": {\n\"kernel_image_path\": \"\"}}", -EINVAL,
		"c.json:2: boot-source.kernel_image_path: the path is empty; name a file"},
	{"{\"machine-config\": {\"mem_size_mib\": 128}}", -EINVAL,
		"c.json:1: machine-config: the field vcpu_count is missing"},
	{"{\"machine-config\":\n{\"vcpu_count\": 1}}", -EINVAL,
		"c.json:1: machine-config: the field mem_size_mib is missing"},
	{"{\"machine-config\": {\"vcpu_count\": 1,\n\"mem_size_mib\": 128.0}}", -EINVAL,
		"c.json:2: machine-config.mem_size_mib: is a fraction; give an integer"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 15}}", -ERANGE,
		"c.json:1: machine-config.mem_size_mib: 15 MiB is out of range; give from 16M to "
		"4095T"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": -1}}", -ERANGE,
		"c.json:1: machine-config.mem_size_mib: -1 MiB is out of range; give from 16M to "
		"4095T"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 9223372036854775807}}",
		-ERANGE,
		"c.json:1: machine-config.mem_size_mib: 9223372036854775807 MiB is out of range; "
		"give from 16M to 4095T"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 9223372036854775808}}",
		-EINVAL, "c.json:1:72: too big integer near '9223372036854775808'"},
	{"{\"machine-config\": {\"vcpu_count\": 255, \"mem_size_mib\": 128}}", -ERANGE,
		"c.json:1: machine-config.vcpu_count: \"255\" is not a number of CPUs; give 1 to "
		"254"},
	{"{\"machine-config\": {\"vcpu_count\": true, \"mem_size_mib\": 128}}", -EINVAL,
		"c.json:1: machine-config.vcpu_count: is a boolean; give an integer"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128,\n \"smt\": true}}",
		-ENOTSUP,
		"c.json:2: machine-config.smt: true is not offered by this version of kvick; give "
		"false"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128, \"smt\": 0}}", -EINVAL,
		"c.json:1: machine-config.smt: is an integer; give false"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128, \"cpu_template\": "
	 "\"T2\"}}",
		-ENOTSUP,
		"c.json:1: machine-config.cpu_template: \"T2\" is not offered by this version of "
		"kvick; give \"None\""},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128, \"huge_pages\": \"1G\"}}",
		-EINVAL,
		"c.json:1: machine-config.huge_pages: \"1G\" is not allowed; give \"None\" or "
		"\"2M\""},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128, \"huge_pages\": 2}}",
		-EINVAL,
		"c.json:1: machine-config.huge_pages: is an integer; give \"None\" or \"2M\""},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128, \"huge_pages\": "
	 "\"2M\"},\n"
	 "\"kvick\": {\"memory\": {\"size\": \"128M\", \"backing\": \"memfd\"}}}",
		-EINVAL,
		"c.json:2: kvick.memory: backing=memfd contradicts machine-config.huge_pages, "
		"which says 2M"},
	{"{\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128,\n"
	 "\"track_dirty_pages\": true}}",
		-ENOTSUP,
		"c.json:2: machine-config.track_dirty_pages: true is not offered by this version "
		"of "
		"kvick; give false"},
	{"{\n\n\"drives\": [{\"drive_id\": \"root\"}]}", -EINVAL,
		"c.json:3: drives[0]: the field path_on_host is missing"},
	{"{\"drives\": [{\"path_on_host\": \"d\", \"io_engine\": true}]}", -EINVAL,
		"c.json:1: drives[0].io_engine: \"on\" is not allowed; give \"Sync\" or \"Async\""},
	{"{\"drives\": [{\"path_on_host\": \"d\", \"cache_type\": \"Lazy\"}]}", -EINVAL,
		"c.json:1: drives[0].cache_type: \"Lazy\" is not allowed; give \"Unsafe\" or "
		"\"Writeback\""},
	{"{\"drives\": [{\"path_on_host\": \"d\",\n\"socket\": \"s\"}]}", -ENOTSUP,
		"c.json:2: drives[0].socket: unknown field, or one that this version of kvick does "
		"not offer"},
	{"{\"drives\": {}}", -EINVAL, "c.json:1: drives: is an object; give an array of objects"},
	{"{\"kvick\": {\"disks\": [{\"path\": \"d\"}, {\"path\": \"e\",\n\"queues\": 17}]}}",
		-ERANGE,
		"c.json:2: kvick.disks[1].queues: \"17\" is not a number of queues; give 1 to 16"},
	{"{\"kvick\": {\"disks\": [{\"path\": \"d\", \"serial\": \"123456789012345678901\"}]}}",
		-EINVAL,
		"c.json:1: kvick.disks[0].serial: \"123456789012345678901\" is not a serial "
		"number; give 1 to 20 bytes"},
	{"{\"logger\": {\"level\": \"Info\"}}", -ENOTSUP,
		"c.json:1: logger: this version of kvick does not offer 'logger'; leave it out or "
		"empty"},
	{"{\"kvick\": {\"initrds\": [\"a\",\n\n3]}}", -EINVAL,
		"c.json:3: kvick.initrds[1]: is an integer; give a string"},
	{"{\"kvick\": {\"initrds\": \"a\"}}", -EINVAL,
		"c.json:1: kvick.initrds: is a string; give an array of strings"},
	{"{\"kvick\": {\"boot_timer\": \"on\"}}", -EINVAL,
		"c.json:1: kvick.boot_timer: is a string; give true or false"},
	{"{\"kvick\": {\"memory\": \"4Q\"}}", -EINVAL,
		"c.json:1: kvick.memory: \"4Q\" is not a size; give a number with K, M, G or T, "
		"from "
		"16M to 4095T"},
	{"{\"kvick\": {\"memory\": \"4G\"},\n"
	 "\"machine-config\": {\"vcpu_count\": 1, \"mem_size_mib\": 128}}",
		-EINVAL,
		"c.json:1: kvick.memory: 4G contradicts machine-config.mem_size_mib, which says "
		"128M"},
	{"{\"kvick\": {\"\\u001b[2J\": 1}}", -EINVAL,
		"c.json:1: kvick.?[2J: unknown field; kvick has initrds, disks, nets, mem_devices, "
		"image_map, boot_protocol, "
		"symbols, serial, legacy, discovery, boot_timer, id, api_sock, no_api, "
		"memory"},
	{"{\"entropy\": []}", -EINVAL, "c.json:1: entropy: is an array; give an object"},
	{"{\"entropy\": {\"rate\": 1}}", -EINVAL,
		"c.json:1: entropy.rate: unknown field; entropy has rate_limiter"},
	{"{\"kvick\": {\"id\": \"a\\u0000b\"}}", -EINVAL,
		"c.json:1:27: \\u0000 is not allowed without JSON_ALLOW_NUL near '\"a\\u0000b\"'"},
};

static void test_json_bad(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(json_bad); i++) {
		struct vm_config config = fresh();
		struct kv_err err = {0};
		int r = parse(&config, json_bad[i].json, &err);

		if (r != json_bad[i].r)
			fail_msg("%s: %d %s", json_bad[i].json, r, err.text);
		assert_string_equal(err.text, json_bad[i].text);
		vm_config_free(&config);
	}
}

/* Each of Firecracker's other sections is refused unless it is empty. */
static void test_json_sections(void **state)
{
	static const char *const names[] = {
		"vsock", "balloon", "pmem", "mmds-config", "cpu-config", "logger", "metrics"};
	static const struct {
		const char *value;
		int r;
	} values[] = {{"null", 0}, {"[]", 0}, {"{}", 0}, {"[1]", -ENOTSUP}, {"{\"a\":1}", -ENOTSUP},
		{"\"x\"", -ENOTSUP}, {"false", -ENOTSUP}};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		for (size_t j = 0; j < ARRAY_LEN(values); j++) {
			struct vm_config config = fresh();
			struct kv_err err = {0};
			char text[80];

			snprintf(text, sizeof(text), "{\"%s\": %s}", names[i], values[j].value);
			assert_int_equal(parse(&config, text, &err), values[j].r);
			if (values[j].r)
				assert_non_null(strstr(err.text, names[i]));
			vm_config_free(&config);
		}
}

/* Firecracker's entropy device is there when its section is. */
static void test_entropy(void **state)
{
	static const struct {
		const char *json;
		bool rng;
	} cases[] = {{"{}", false}, {"{\"entropy\": null}", false}, {"{\"entropy\": {}}", true},
		{"{\"entropy\": {\"rate_limiter\": null}}", true},
		{"{\"entropy\": {\"rate_limiter\": {}}}", true}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct vm_config config = fresh();
		struct kv_err err = {0};

		assert_int_equal(parse(&config, cases[i].json, &err), 0);
		assert_int_equal(config.rng, cases[i].rng);
		vm_config_free(&config);
	}
}

static void test_disks(void **state)
{
	static const struct {
		const char *value;
		int r;
		const char *text;
	} bad[] = {
		{"", -EINVAL, "--disk: the path is empty; name a file or a block device"},
		{"d,size=4", -EINVAL, "--disk: there is no key \"size\""},
		{"d,path=e", -EINVAL, "--disk: there is no key \"path\""},
		{"d,ro=maybe", -EINVAL, "--disk: ro: \"maybe\" is not allowed"},
		{"d,iothread=2", -EINVAL, "--disk: iothread: \"2\" is not allowed"},
		{"d,queues=0", -ERANGE, "--disk: queues: \"0\" is not a number of queues"},
		{"d,id=a b", -EINVAL, "--disk: id: \"a b\" is not an id"},
		{"d,serial=", -EINVAL, "--disk: serial: \"\" is not a serial number"},
		{"d,serial", -EINVAL, "--disk: serial: \"\" is not a serial number"},
		{"d,id", -EINVAL, "--disk: id: \"\" is not an id"},
		{"d,cache=off", -EINVAL, "--disk: cache: \"off\" is not allowed"},
	};
	struct vm_config config = fresh();
	struct kv_err err = {0};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int r = vm_config_set(&config, "disk", bad[i].value, &err);

		if (r != bad[i].r || strncmp(err.text, bad[i].text, strlen(bad[i].text)))
			fail_msg("%s: %d %s", bad[i].value, r, err.text);
	}
	assert_int_equal(config.disk_count, 0);
	assert_int_equal(vm_config_set(&config, "kernel", "k", &err), 0);
	assert_int_equal(vm_config_set(&config, "disk", "a", &err), 0);
	assert_int_equal(
		vm_config_set(&config, "disk", "b,ro,direct,cache=unsafe,queues=4,iothread", &err),
		0);
	assert_int_equal(vm_config_set(&config, "disk", "c,root,serial=X-1,id=sys", &err), 0);
	assert_int_equal(config.disk_count, 3);
	/* The root file system's disk is the guest's first. */
	assert_string_equal(config.disks[0].path, "c");
	assert_string_equal(config.disks[0].serial, "X-1");
	assert_string_equal(config.disks[1].id, "disk0");
	assert_true(config.disks[1].writeback && !config.disks[1].read_only);
	assert_true(config.disks[2].read_only && config.disks[2].direct);
	assert_false(config.disks[2].writeback);
	assert_int_equal(config.disks[2].queues, 4);
	assert_true(config.disks[2].iothread && !config.disks[1].iothread);
	assert_int_equal(vm_config_check(&config, &err), 0);
	assert_int_equal(vm_config_set(&config, "disk", "d,id=disk1", &err), 0);
	assert_int_equal(vm_config_check(&config, &err), -EINVAL);
	assert_non_null(strstr(err.text, "two disks have the id \"disk1\""));
	vm_config_free(&config);
}

static void test_drives(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};

	if (parse(&config,
		    "{\"drives\": [{\"drive_id\": \"data\", \"path_on_host\": \"a,b\", "
		    "\"is_root_device\": false, \"is_read_only\": true, \"io_engine\": \"Async\", "
		    "\"rate_limiter\": null, \"partuuid\": null},"
		    "{\"drive_id\": \"rootfs\", \"path_on_host\": \"r\", \"is_root_device\": true, "
		    "\"cache_type\": \"Writeback\"}]}",
		    &err))
		fail_msg("%s", err.text);
	assert_int_equal(config.disk_count, 2);
	assert_string_equal(config.disks[0].id, "rootfs");
	assert_true(config.disks[0].root && config.disks[0].writeback);
	assert_string_equal(config.disks[1].path, "a,b");
	assert_true(config.disks[1].read_only);
	assert_false(config.disks[1].writeback);
	vm_config_free(&config);
}

static void test_load_file(void **state)
{
	char path[] = "/tmp/kvick-test-XXXXXX";
	FD_SCOPED int fd = mkstemp(path);
	struct vm_config config = fresh();
	struct kv_err err = {0};

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, "{\"kvick\": {\"id\": \"f\"}}", 22), 0);
	assert_int_equal(vm_config_load(&config, path, &err), 0);
	assert_string_equal(config.id, "f");
	/* Only 1 MiB is read, however large the file claims to be. */
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(vm_config_load(&config, path, &err), -EINVAL);
	assert_int_equal(ftruncate(fd, (1 << 20) + 1), 0);
	assert_int_equal(vm_config_load(&config, path, &err), -EFBIG);
	unlink(path);
	assert_int_equal(vm_config_load(&config, path, &err), -ENOENT);
	assert_non_null(strstr(err.text, "cannot be read: No such file or directory"));
	assert_int_equal(vm_config_load(&config, "/", &err), -EISDIR);
	vm_config_free(&config);
}

static void assert_same(const struct vm_config *a, const struct vm_config *b)
{
	assert_string_equal(a->id, b->id);
	assert_string_equal(a->kernel, b->kernel);
	assert_string_equal(a->cmdline, b->cmdline);
	assert_int_equal(a->initrd_count, b->initrd_count);
	for (unsigned i = 0; i < a->initrd_count; i++)
		assert_string_equal(a->initrds[i], b->initrds[i]);
	assert_string_equal(a->symbols ? a->symbols : "(none)", b->symbols ? b->symbols : "(none)");
	assert_string_equal(a->serial_path ? a->serial_path : "(none)",
		b->serial_path ? b->serial_path : "(none)");
	assert_int_equal(a->protocol, b->protocol);
	assert_int_equal(a->image_map, b->image_map);
	assert_true(a->memory_bytes == b->memory_bytes);
	assert_int_equal(a->memory.backing, b->memory.backing);
	assert_string_equal(a->memory.path ? a->memory.path : "(none)",
		b->memory.path ? b->memory.path : "(none)");
	assert_int_equal(a->memory.thp, b->memory.thp);
	assert_int_equal(a->memory.populate, b->memory.populate);
	assert_int_equal(a->memory.threads, b->memory.threads);
	assert_true(a->memory.nodes == b->memory.nodes);
	assert_int_equal(a->memory.mlock, b->memory.mlock);
	assert_int_equal(a->memory.merge, b->memory.merge);
	assert_int_equal(a->memory.dump, b->memory.dump);
	assert_int_equal(a->memory.shared, b->memory.shared);
	assert_int_equal(a->memory.wait, b->memory.wait);
	assert_int_equal(a->cpus, b->cpus);
	assert_int_equal(a->boot_timer, b->boot_timer);
	assert_int_equal(a->rng, b->rng);
	assert_int_equal(a->disk_count, b->disk_count);
	for (unsigned i = 0; i < a->disk_count; i++) {
		const struct vm_disk *x = &a->disks[i], *y = &b->disks[i];

		assert_string_equal(x->path, y->path);
		assert_string_equal(x->id, y->id);
		assert_string_equal(
			x->serial ? x->serial : "(none)", y->serial ? y->serial : "(none)");
		assert_int_equal(x->read_only, y->read_only);
		assert_int_equal(x->writeback, y->writeback);
		assert_int_equal(x->direct, y->direct);
		assert_int_equal(x->root, y->root);
		assert_int_equal(x->queues, y->queues);
		assert_int_equal(x->iothread, y->iothread);
	}
	assert_int_equal(a->discovery, b->discovery);
	assert_int_equal(a->legacy, b->legacy);
	assert_int_equal(a->serial, b->serial);
}

static void test_round_trip(void **state)
{
	/* NULL ends a configuration. */
	static const char *const lines[][2] = {
		{"kernel", "k"},
		{NULL},
		{"kernel", "/boot/k \"x\"\t"},
		{"initrd", "a"},
		{"memory", "4095T,backing=pool:/run/x,populate=full,threads=7,wait=on,shared=on"},
		{"serial", "pty"},
		{"append", "console=ttyS0 caf\xc3\xa9"},
		{NULL},
		{"kernel", "k"},
		{"initrd", "a"},
		{"initrd", "b"},
		{"initrd", "c"},
		{"memory", "16388K,thp=on,populate=vcpu,numa=0,numa=63,mlock=on,merge=on,dump=on"},
		{"cpus", "254"},
		{"image-map", "copy"},
		{"boot-protocol", "linux"},
		{"symbols", "System.map"},
		{"serial", "unix:/run/x"},
		{"legacy", "off"},
		{"boot-timer", "on"},
		{"rng", "on"},
		{"discovery", "cmdline"},
		{"disk", "/d \"e\",ro,root,id=x,serial=S"},
		{"disk", "f,direct,cache=unsafe,queues=16,iothread=on"},
		{"id", "vm-7"},
		{"api-sock", "/run/vm-7.sock"},
		{"no-api", "on"},
		{NULL},
		{"kernel", "k"},
		{"serial", "none"},
		{"legacy", "on"},
		{"boot-protocol", "pvh"},
		{"rng", "off"},
		{"discovery", "acpi"},
		{NULL},
	};
	struct vm_config config = fresh(), again = fresh();

	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		struct kv_err err = {0};
		char *text;

		if (lines[i][0]) {
			assert_int_equal(vm_config_set(&config, lines[i][0], lines[i][1], &err), 0);
			continue;
		}
		assert_int_equal(vm_config_dump(&config, &text), 0);
		if (parse(&again, text, &err))
			fail_msg("%s", err.text);
		assert_same(&config, &again);
		free(text);
		vm_config_free(&config);
		vm_config_free(&again);
		config = fresh();
		again = fresh();
	}
	vm_config_free(&config);
	vm_config_free(&again);
}

static void test_dump_bad(void **state)
{
	struct vm_config config = fresh();
	struct kv_err err = {0};
	char *text = NULL;

	assert_int_equal(vm_config_dump(&config, &text), -EINVAL);
	assert_int_equal(vm_config_set(&config, "kernel", "\xff", &err), 0);
	assert_int_equal(vm_config_dump(&config, &text), -EILSEQ);
	assert_int_equal(vm_config_set(&config, "kernel", "k", &err), 0);
	assert_int_equal(vm_config_set(&config, "initrd", "a", &err), 0);
	assert_int_equal(vm_config_set(&config, "initrd", "\xff", &err), 0);
	assert_int_equal(vm_config_dump(&config, &text), -EILSEQ);
	assert_null(text);
	vm_config_free(&config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_set_good),
		cmocka_unit_test(test_set_bad),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_show),
		cmocka_unit_test(test_initrds),
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_json_firecracker),
		cmocka_unit_test(test_json_own),
		cmocka_unit_test(test_json_bad),
		cmocka_unit_test(test_json_sections),
		cmocka_unit_test(test_entropy),
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_drives),
		cmocka_unit_test(test_load_file),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_dump_bad),
	};

	return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
