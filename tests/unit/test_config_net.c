/* SPDX-License-Identifier: Apache-2.0 */
/* config/: network devices. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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

static void set(struct vm_config *config, const char *name, const char *value)
{
	struct kv_err err = {0};

	if (vm_config_set(config, name, value, &err))
		fail_msg("%s %s: %s", name, value, err.text);
}

static int parse(struct vm_config *config, const char *text, struct kv_err *err)
{
	return config_json_parse(config, "vm.json", text, strlen(text), err);
}

/* Values that are none, and devices that do not go together. */
static void test_net_errors(void **state)
{
	static const struct {
		const char *value, *text;
	} bad[] = {
		{"", "the keys are"},
		{"tap=", "not the name of an interface"},
		{"tap=a-name-that-is-long", "1 to 15 bytes"},
		{"tap=a/b", "without '/'"},
		{"tap=a,mtu=1500,tap=b", "\"tap\" is given twice"},
		{"tap=a,fd=4", "there is a host side already"},
		{"mac=02:00:00:00:00:01", "the host's side is missing"},
		{"fd=2", "from 3"},
		{"tap=a,mac=02:00:00:00:00", "not a MAC address"},
		{"tap=a,mac=02:00:00:00:00:0g", "not a MAC address"},
		{"tap=a,mac=02-00-00-00-00-01", "not a MAC address"},
		{"tap=a,mac=03:00:00:00:00:01", "not the address of one interface"},
		{"tap=a,mac=00:00:00:00:00:00", "not the address of one interface"},
		{"tap=a,mtu=67", "68 to 65535"},
		{"tap=a,mtu=65536", "68 to 65535"},
		{"tap=a,queues=17", "1 to 16"},
		{"tap=a,queues=0", "1 to 16"},
		{"tap=a,id=a b", "not an id"},
		{"tap=a,rx-bw=x", "not a rate"},
		{"tap=a,rx-=1", "there is no key"},
		{"tap=a,speed=1", "there is no key"},
		{"tap=a,queues", "there is no key"},
		{"tap=a,iothread=1", "iothread: \"1\" is not allowed"},
		{"user,fd=4", "there is a host side already"},
		{"user=off", "it is there or not"},
		{"tap=a,vhost=yes", "give on, off or auto"},
		{"user,forward=80", "not a pair of ports"},
		{"user,forward=0:80", "not a pair of ports"},
		{"user,forward=80:65536", "not a pair of ports"},
		{"user,forward=sctp:1:2", "not a pair of ports"},
	};
	static const char *const unfit[][2] = {
		{"tap=a,id=n", "tap=b,id=n"},
		{"tap=a", "tap=a"},
		{"fd=5", "fd=5"},
		{"tap=a,mac=02:00:00:00:00:01", "tap=b,mac=02:00:00:00:00:01"},
		{"fd=5,queues=2", NULL},
		{"user,queues=2", NULL},
		{"user,vhost=on", NULL},
		{"tap=a,vhost=on,rx-ops=5", NULL},
		{"tap=a,forward=1:2", NULL},
		{"user,forward=1:2,forward=tcp:1:3", NULL},
		{"user,forward=1:2", "user,forward=1:2"},
		{"tap=a,tx-bw-burst=5", NULL},
	};
	struct vm_config config = fresh();
	struct kv_err err = {0};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_true(vm_config_set(&config, "net", bad[i].value, &err) < 0);
		assert_non_null(strstr(err.text, "net"));
		if (!strstr(err.text, bad[i].text))
			fail_msg("%s: %s", bad[i].value, err.text);
		assert_int_equal(config.net_count, 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(unfit); i++) {
		struct vm_config two = fresh();

		set(&two, "kernel", "k");
		for (unsigned j = 0; j < 2 && unfit[i][j]; j++)
			set(&two, "net", unfit[i][j]);
		assert_int_equal(vm_config_check(&two, &err), -EINVAL);
		assert_non_null(strstr(err.text, "net"));
		vm_config_free(&two);
	}
	vm_config_free(&config);
}

/* Network devices from options, written out and read again. */
static void test_nets(void **state)
{
	struct vm_config config = fresh(), again = fresh();
	struct kv_err err = {0};
	char *text = NULL;

	set(&config, "kernel", "k");
	set(&config, "net", "tap=kv0,mac=02:00:00:00:00:aB,mtu=9000,queues=4,rx-bw=1M/s,tx-ops=5");
	set(&config, "net", "fd=7,id=other,vhost=on,iothread");
	set(&config, "net", "user,forward=8080:80,forward=udp:8080:53");
	assert_string_equal(config.nets[0].id, "net0");
	assert_int_equal(config.nets[0].mac[5], 0xab);
	assert_int_equal(vm_config_dump(&config, &text), 0);
	assert_int_equal(parse(&again, text, &err), 0);
	assert_int_equal(again.net_count, 3);
	assert_string_equal(again.nets[0].tap, "kv0");
	assert_memory_equal(again.nets[0].mac, config.nets[0].mac, 6);
	assert_int_equal(again.nets[0].mtu, 9000);
	assert_int_equal(again.nets[0].queues, 4);
	assert_int_equal(again.nets[0].rx.bytes.size, 1 << 20);
	assert_int_equal(again.nets[0].tx.ops.size, 5);
	assert_string_equal(again.nets[1].id, "other");
	assert_int_equal(again.nets[1].fd, 7);
	assert_int_equal(again.nets[0].vhost, VM_NET_VHOST_AUTO);
	assert_int_equal(again.nets[1].vhost, VM_NET_VHOST_ON);
	assert_true(again.nets[1].iothread && !again.nets[0].iothread);
	assert_int_equal(again.nets[2].kind, VM_NET_USER);
	assert_int_equal(again.nets[2].forward_count, 2);
	assert_int_equal(again.nets[2].forwards[0].host, 8080);
	assert_int_equal(again.nets[2].forwards[1].guest, 53);
	assert_true(again.nets[2].forwards[1].udp);
	free(text);
	vm_config_free(&config);
	vm_config_free(&again);
}

static void test_json_interfaces(void **state)
{
	static const struct {
		const char *json, *text;
	} bad[] = {
		{"{}", "an array"},
		{"[1]", "network-interfaces[0]"},
		{"[{\"iface_id\": \"a\"}]", "host_dev_name is missing"},
		{"[{\"host_dev_name\": \"a\"}]", "iface_id is missing"},
		{"[{\"iface_id\": \"a\", \"host_dev_name\": true}]",
			"network-interfaces[0].host_dev_name"},
		{"[{\"iface_id\": \"a\", \"tap\": \"a\"}]", "unknown field"},
		{"[{\"guest_mac\": \"1:2\"}]", "guest_mac"},
		{"[{\"rx_rate_limiter\": {\"ops\": 1}}]", "rx_rate_limiter"},
	};
	struct vm_config config = fresh();
	struct kv_err err = {0};
	char text[400];

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		snprintf(text, sizeof(text), "{\"network-interfaces\": %s}", bad[i].json);
		assert_true(parse(&config, text, &err) < 0);
		if (!strstr(err.text, bad[i].text))
			fail_msg("%s: %s", bad[i].json, err.text);
	}
	assert_int_equal(config.net_count, 0);
	assert_int_equal(
		parse(&config,
			"{\"network-interfaces\": [{\"iface_id\": \"eth0\", \"guest_mac\": "
			"\"06:00:AC:10:00:02\", \"host_dev_name\": \"tap0\", \"mtu\": null, "
			"\"tx_rate_limiter\": {\"bandwidth\": {\"size\": 10, \"refill_time\": 100, "
			"\"one_time_burst\": 7}}}]}",
			&err),
		0);
	assert_string_equal(config.nets[0].id, "eth0");
	assert_int_equal(config.nets[0].kind, VM_NET_TAP);
	assert_true(config.nets[0].mac_set);
	assert_int_equal(config.nets[0].tx.bytes.burst, 7);
	vm_config_free(&config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_net_errors),
		cmocka_unit_test(test_nets),
		cmocka_unit_test(test_json_interfaces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
