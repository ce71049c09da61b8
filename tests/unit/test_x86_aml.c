/* SPDX-License-Identifier: Apache-2.0 */
/* x86/aml: bytes as ACPI 6.5 §20 and §6.4 have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/num.h"
#include "x86/aml.h"

static uint8_t buf[1 << 21];

/* The bytes written so far are @expect. */
#define ASSERT_AML(aml, ...)                                                                       \
	do {                                                                                       \
		const uint8_t expect[] = {__VA_ARGS__};                                            \
		assert_int_equal(aml_finish(aml), sizeof(expect));                                 \
		assert_memory_equal(buf, expect, sizeof(expect));                                  \
	} while (0)

static void test_objects(void **state)
{
	struct aml aml;

	aml_init(&aml, buf, sizeof(buf));
	aml_int(&aml, 0);
	aml_int(&aml, 1);
	aml_int(&aml, 2);
	aml_int(&aml, 255);
	aml_int(&aml, 256);
	aml_int(&aml, 0xffff);
	aml_int(&aml, 0x10000);
	aml_int(&aml, 0xffffffff);
	aml_int(&aml, 0x100000000);
	ASSERT_AML(&aml, 0x00, 0x01, 0x0a, 2, 0x0a, 255, 0x0b, 0, 1, 0x0b, 0xff, 0xff, 0x0c, 0, 0,
		1, 0, 0x0c, 0xff, 0xff, 0xff, 0xff, 0x0e, 0, 0, 0, 0, 1, 0, 0, 0);
	aml_init(&aml, buf, sizeof(buf));
	aml_name(&aml, "_HID");
	aml_eisaid(&aml, "PNP0501");
	aml_name(&aml, "AB12");
	aml_string(&aml, "ok");
	ASSERT_AML(&aml, 0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x05, 0x01, 0x08, 'A', 'B',
		'1', '2', 0x0d, 'o', 'k', 0);
}

static void test_blocks(void **state)
{
	struct aml aml;

	aml_init(&aml, buf, sizeof(buf));
	aml_scope(&aml, "_SB_");
	aml_device(&aml, "COM1");
	aml_name(&aml, "_UID");
	aml_int(&aml, 1);
	aml_end(&aml);
	aml_end(&aml);
	ASSERT_AML(&aml, 0x10, 0x12, '_', 'S', 'B', '_', 0x5b, 0x82, 0x0b, 'C', 'O', 'M', '1', 0x08,
		'_', 'U', 'I', 'D', 0x01);
	aml_init(&aml, buf, sizeof(buf));
	aml_package(&aml, 2);
	aml_int(&aml, 5);
	aml_int(&aml, 0);
	aml_end(&aml);
	ASSERT_AML(&aml, 0x12, 0x05, 2, 0x0a, 5, 0);
}

/* PkgLength counts itself; each form up to the last value that it holds. */
static void test_lengths(void **state)
{
	static const struct {
		size_t total;
		unsigned bytes;
	} cases[] = {{1 + 4, 1}, {62, 1}, {63, 1}, {65, 2}, {66, 2}, {4095, 2}, {4097, 3},
		{1048575, 3}, {1048577, 4}};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t content = cases[i].total - cases[i].bytes, total, used;
		struct aml aml;

		aml_init(&aml, buf, sizeof(buf));
		aml_scope(&aml, "_SB_");
		for (size_t n = 4; n < content; n++)
			aml_int(&aml, 0);
		aml_end(&aml);
		used = aml_finish(&aml);
		assert_int_equal(used, 1 + cases[i].total);
		assert_int_equal(buf[1] >> 6, cases[i].bytes - 1);
		total = cases[i].bytes == 1 ? buf[1] & 0x3f : buf[1] & 0xf;
		for (unsigned b = 1; b < cases[i].bytes; b++)
			total |= (size_t)buf[1 + b] << (4 + 8 * (b - 1));
		assert_int_equal(total, cases[i].total);
		assert_memory_equal(buf + 1 + cases[i].bytes, "_SB_", 4);
	}
}

static void test_resources(void **state)
{
	struct aml aml;

	aml_init(&aml, buf, sizeof(buf));
	aml_resources(&aml);
	aml_io(&aml, 0x3f8, 8);
	aml_interrupt(&aml, 0x104);
	aml_end(&aml);
	ASSERT_AML(&aml, 0x11, 0x16, 0x0a, 0x13, 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x89, 6, 0, 3, 1,
		4, 1, 0, 0, 0x79, 0);
	aml_init(&aml, buf, sizeof(buf));
	aml_memory(&aml, 0xd0001000, 0x1000);
	ASSERT_AML(&aml, 0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 0x10, 0, 0);
	aml_init(&aml, buf, sizeof(buf));
	aml_memory(&aml, 0x123456000, 0x2000);
	ASSERT_AML(&aml, 0x8a, 43, 0, 0, 0x0d, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x60, 0x45, 0x23, 1,
		0, 0, 0, 0xff, 0x7f, 0x45, 0x23, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x20, 0,
		0, 0, 0, 0, 0);
}

static void device_write(struct aml *aml)
{
	aml_scope(aml, "_SB_");
	aml_device(aml, "COM1");
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_io(aml, 0x3f8, 8);
	aml_end(aml);
	aml_end(aml);
	aml_end(aml);
}

/* In every buffer that is too small it fails without touching what lies behind. */
static void test_room(void **state)
{
	struct aml aml;
	size_t full;

	aml_init(&aml, buf, sizeof(buf));
	device_write(&aml);
	full = aml_finish(&aml);
	assert_true(full > 0);
	for (size_t size = 0; size < full; size++) {
		memset(buf, 0xee, full + 1);
		aml_init(&aml, buf, size);
		device_write(&aml);
		assert_int_equal(aml_finish(&aml), 0);
		for (size_t i = size; i <= full; i++)
			assert_int_equal(buf[i], 0xee);
	}
	aml_init(&aml, buf, full);
	device_write(&aml);
	assert_int_equal(aml_finish(&aml), full);
}

static void test_misuse(void **state)
{
	struct aml aml;

	aml_init(&aml, buf, sizeof(buf));
	aml_scope(&aml, "_SB_");
	assert_int_equal(aml_finish(&aml), 0); /* not closed */
	aml_end(&aml);
	assert_true(aml_finish(&aml) > 0);
	aml_end(&aml);
	assert_int_equal(aml_finish(&aml), 0); /* closed twice */
	aml_init(&aml, buf, sizeof(buf));
	for (unsigned i = 0; i <= AML_DEPTH_MAX; i++)
		aml_scope(&aml, "_SB_");
	for (unsigned i = 0; i <= AML_DEPTH_MAX; i++)
		aml_end(&aml);
	assert_int_equal(aml_finish(&aml), 0); /* too deep */
	aml_init(&aml, buf, sizeof(buf));
	aml_name(&aml, "LONGER");
	assert_int_equal(aml_finish(&aml), 0);
	aml_init(&aml, buf, sizeof(buf));
	aml_eisaid(&aml, "PNP05");
	assert_int_equal(aml_finish(&aml), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_objects),
		cmocka_unit_test(test_blocks),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_resources),
		cmocka_unit_test(test_room),
		cmocka_unit_test(test_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
