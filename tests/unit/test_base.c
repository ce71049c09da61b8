/* SPDX-License-Identifier: Apache-2.0 */
/* base/: sizes, numbers, errors, files. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/num.h"

static void test_size_parse(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
		int r;
	} cases[] = {
		{"0", 0, 0},
		{"512", 512, 0},
		{"512B", 512, 0},
		{"1K", 1024, 0},
		{"128M", 128 * MIB, 0},
		{"4g", 4 * GIB, 0},
		{"4GiB", 4 * GIB, 0},
		{"16383P", 0, -EINVAL},
		{"16777215T", 16777215 * TIB, 0},
		{"16777216T", 0, -ERANGE},
		{"18446744073709551615", UINT64_MAX, 0},
		{"18446744073709551616", 0, -ERANGE},
		{"", 0, -EINVAL},
		{"M", 0, -EINVAL},
		{"-1", 0, -EINVAL},
		{"+1", 0, -EINVAL},
		{" 1", 0, -EINVAL},
		{"1 ", 0, -EINVAL},
		{"1.5G", 0, -EINVAL},
		{"0x10", 0, -EINVAL},
		{"1KK", 0, -EINVAL},
		{"1iB", 0, -EINVAL},
		{"1\xff", 0, -EINVAL},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint64_t bytes = 77;

		assert_int_equal(size_parse(cases[i].text, &bytes), cases[i].r);
		assert_true(bytes == (cases[i].r ? 77 : cases[i].bytes));
	}
}

static void test_size_format(void **state)
{
	char buf[24];

	assert_string_equal(size_format(0, buf, sizeof(buf)), "0");
	assert_string_equal(size_format(17, buf, sizeof(buf)), "17");
	assert_string_equal(size_format(1536 * KIB, buf, sizeof(buf)), "1536K");
	assert_string_equal(size_format(256 * MIB, buf, sizeof(buf)), "256M");
	assert_string_equal(size_format(2048 * TIB, buf, sizeof(buf)), "2048T");
	assert_string_equal(size_format(UINT64_MAX, buf, sizeof(buf)), "18446744073709551615");
}

static void test_uint_parse(void **state)
{
	uint64_t n = 0;

	assert_int_equal(uint_parse("254", 1, 254, &n), 0);
	assert_int_equal(n, 254);
	assert_int_equal(uint_parse("0xd0000000", 0, UINT64_MAX, &n), 0);
	assert_true(n == 0xd0000000);
	assert_int_equal(uint_parse("255", 1, 254, &n), -ERANGE);
	assert_int_equal(uint_parse("0", 1, 254, &n), -ERANGE);
	assert_int_equal(uint_parse("0x", 0, 9, &n), -EINVAL);
	assert_int_equal(uint_parse("1x", 0, 9, &n), -EINVAL);
	assert_int_equal(uint_parse("", 0, 9, &n), -EINVAL);
	assert_int_equal(uint_parse("99999999999999999999", 0, UINT64_MAX, &n), -ERANGE);
}

static void test_err(void **state)
{
	struct kv_err err = {0};

	assert_int_equal(err_set(NULL, -EINVAL, "nobody reads %d", 1), -EINVAL);
	assert_int_equal(err_prefix(&err, -EINVAL, "dropped"), -EINVAL);
	assert_string_equal(err.text, "");
	assert_int_equal(err_set(&err, -ERANGE, "cpus: %d", 300), -ERANGE);
	assert_string_equal(err.text, "cpus: 300");
	assert_int_equal(err_prefix(&err, -EINVAL, "vm.json line %d", 2), -EINVAL);
	assert_string_equal(err.text, "vm.json line 2: cpus: 300");
	assert_string_equal(err_text(-ENOENT), "No such file or directory");
}

static void test_file_read_all(void **state)
{
	char path[] = "/tmp/kvick-test-XXXXXX";
	char data[10000];
	char *text = NULL;
	int fd = mkstemp(path);

	memset(data, 'x', sizeof(data));
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, data, sizeof(data)), 0);
	assert_int_equal(file_read_all(path, sizeof(data) - 1, &text), -EFBIG);
	assert_null(text);
	assert_int_equal(file_read_all(path, sizeof(data), &text), sizeof(data));
	assert_int_equal(strlen(text), sizeof(data));
	free(text);
	assert_int_equal(fd_pread_all(fd, data, 10, sizeof(data) - 9), -ENODATA);
	assert_int_equal(fd_pread_all(fd, data, 9, sizeof(data) - 9), 0);
	fd_close(&fd);
	assert_int_equal(fd, -1);
	unlink(path);
	assert_int_equal(file_read_all(path, 10, &text), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_size_parse),
		cmocka_unit_test(test_size_format),
		cmocka_unit_test(test_uint_parse),
		cmocka_unit_test(test_err),
		cmocka_unit_test(test_file_read_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
