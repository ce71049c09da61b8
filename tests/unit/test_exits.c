/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "trace/exits.h"
#include "trace/timeline.h"

static const char *name(unsigned reason)
{
	return reason == 2 ? "io" : reason == 6 ? "mmio" : NULL;
}

static json_t *json_of(struct exits *exits)
{
	char *text = NULL;
	json_t *root;

	assert_int_equal(exits_json(exits, name, &text), 0);
	root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(root);
	free(text);
	return root;
}

static json_int_t number(json_t *object, const char *key)
{
	assert_true(json_is_integer(json_object_get(object, key)));
	return json_integer_value(json_object_get(object, key));
}

static void test_counts(void **state)
{
	struct exits *exits = NULL;
	struct exits_cpu *cpu;
	json_t *root, *vcpu, *place;
	char *text = NULL;

	assert_null(exits_cpu(NULL, 3));
	assert_int_equal(exits_create(&exits, 2, 0), 0);
	cpu = exits_cpu(exits, 1);
	exits_begin(cpu);
	for (int i = 0; i < 3; i++)
		exits_add(cpu, clock_ns(), 2, EXIT_PORT_OUT, 0x3f8);
	exits_add(cpu, clock_ns(), 2, EXIT_PORT_IN, 0x3f8);
	exits_add(cpu, clock_ns(), 6, EXIT_MMIO_READ, 0xd0000000);
	exits_add(cpu, clock_ns(), 6, EXIT_MMIO_WRITE, 0);
	exits_add(cpu, clock_ns(), 1000, EXIT_OTHER, 0);
	root = json_of(exits);
	assert_int_equal(json_array_size(json_object_get(root, "vcpus")), 2);
	vcpu = json_array_get(json_object_get(root, "vcpus"), 0);
	assert_int_equal(number(vcpu, "exits"), 0);
	assert_int_equal(json_array_size(json_object_get(vcpu, "reasons")), 0);
	vcpu = json_array_get(json_object_get(root, "vcpus"), 1);
	assert_int_equal(number(vcpu, "vcpu"), 1);
	assert_int_equal(number(vcpu, "exits"), 7);
	assert_int_equal(json_array_size(json_object_get(vcpu, "reasons")), 3);
	assert_int_equal(json_array_size(json_object_get(vcpu, "places")), 4);
	/* Ports stand before memory. */
	for (int i = 0; i < 2; i++) {
		place = json_array_get(json_object_get(vcpu, "places"), (size_t)i);
		assert_int_equal(number(place, "port"), 0x3f8);
		assert_int_equal(number(place, "count"),
			json_is_true(json_object_get(place, "write")) ? 3 : 1);
	}
	json_decref(root);
	assert_int_equal(exits_text(exits, name, &text), 0);
	assert_non_null(strstr(text, "vCPU 1: 7 exits"));
	assert_non_null(strstr(text, "port 0x3f8 out"));
	assert_non_null(strstr(text, "mmio 0xd0000000 read"));
	assert_non_null(strstr(text, "reason 0 "));
	free(text);
	exits_destroy(exits);
}

/* A guest that touches everything uses no more memory, and nothing of it is lost. */
static void test_many_places(void **state)
{
	struct exits *exits = NULL;
	json_t *root, *places, *last;
	json_int_t sum = 0;

	assert_int_equal(exits_create(&exits, 1, 0), 0);
	exits_begin(exits_cpu(exits, 0));
	for (uint64_t i = 0; i < 10 * EXITS_PLACES_MAX; i++)
		exits_add(exits_cpu(exits, 0), clock_ns(), 6, EXIT_MMIO_READ, i * 0x1000);
	root = json_of(exits);
	places = json_object_get(json_array_get(json_object_get(root, "vcpus"), 0), "places");
	assert_int_equal(json_array_size(places), EXITS_PLACES_MAX + 1);
	last = json_array_get(places, EXITS_PLACES_MAX);
	assert_null(json_object_get(last, "gpa"));
	assert_int_equal(number(last, "count"), 9 * EXITS_PLACES_MAX);
	for (size_t i = 0; i <= EXITS_PLACES_MAX; i++)
		sum += number(json_array_get(places, i), "count");
	assert_int_equal(sum, 10 * EXITS_PLACES_MAX);
	json_decref(root);
	exits_destroy(exits);
}

static void test_records(void **state)
{
	const struct exit_record *records;
	struct exits *exits = NULL;
	uint64_t dropped;

	assert_int_equal(exits_create(&exits, 1, 4), 0);
	exits_begin(exits_cpu(exits, 0));
	for (uint64_t i = 0; i < 6; i++)
		exits_add(exits_cpu(exits, 0), clock_ns(), 2, EXIT_PORT_OUT, i);
	assert_int_equal(exits_records(exits, 0, &records, &dropped), 4);
	assert_int_equal(dropped, 2);
	for (uint64_t i = 0; i < 4; i++) {
		assert_int_equal(records[i].address, i);
		assert_int_equal(records[i].access, EXIT_PORT_OUT);
		assert_int_equal(records[i].reason, 2);
		if (i)
			assert_true(records[i].left_ns >=
				    records[i - 1].left_ns + records[i - 1].handled_ns);
	}
	exits_destroy(exits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_many_places),
		cmocka_unit_test(test_records),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
