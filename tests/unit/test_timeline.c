/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/fd.h"
#include "trace/timeline.h"

#define START 1000000000ULL

/* What was written to @fd, which is closed. */
static char *text_of(int fd)
{
	off_t len = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)len + 1);

	assert_non_null(text);
	assert_int_equal(pread(fd, text, (size_t)len, 0), len);
	close(fd);
	return text;
}

static struct timeline *timeline_make(void)
{
	struct timeline *tl = calloc(1, sizeof(*tl));

	assert_non_null(tl);
	tl->exec_measured = true;
	tl->ns[MARK_EXEC] = START;
	/* Rounded down, up, and up into the next digits. */
	tl->ns[MARK_MAIN] = START + 1499;
	tl->ns[MARK_READY] = START + 1500;
	tl->cpu_ns[MARK_READY] = 7;
	tl->ns[MARK_BOOT] = START + 12345678900ULL;
	tl->cpu_ns[MARK_BOOT] = 999999500;
	return tl;
}

static void test_text(void **state)
{
	static const char expected[] = "          ms          +ms       CPU ms  reached\n"
				       "       0.000        0.000        0.000  exec\n"
				       "       0.001        0.001        0.000  main() entered\n"
				       "       0.002        0.000        0.000  VMM ready\n"
				       "   12345.679    12345.677     1000.000  boot complete\n";
	struct timeline *tl = timeline_make();
	int fd = memfd_create("text", MFD_CLOEXEC);
	char *text;

	assert_int_equal(timeline_text(tl, fd), 0);
	text = text_of(fd);
	assert_string_equal(text, expected);
	free(text);
	free(tl);
}

/* As many events as are kept, and more: the export has to grow. */
static void test_json(void **state)
{
	struct timeline *tl = timeline_make();
	int fd = memfd_create("json", MFD_CLOEXEC);
	json_t *root, *events, *event, *mark;
	char *text, name[32];

	for (unsigned i = 0; i < TRACE_EVENTS_MAX; i++)
		tl->events[i] =
			(struct trace_event){START + 20000000000ULL + i, i, 0xf4, (uint8_t)i};
	tl->event_count = TRACE_EVENTS_MAX + 1;
	assert_int_equal(timeline_json(tl, NULL, fd), 0);
	text = text_of(fd);
	root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(root);
	events = json_object_get(root, "traceEvents");
	assert_int_equal(json_array_size(events), 4 + TRACE_EVENTS_MAX);
	assert_non_null(strstr(text, "\"ts\":1.500,\"args\":{\"cpu_us\":0.007}}"));
	assert_non_null(strstr(text, "\"ts\":12345678.900,\"args\":{\"cpu_us\":999999.500}}"));
	for (unsigned i = 0; i < TRACE_EVENTS_MAX; i++) {
		event = json_array_get(events, 4 + i);
		snprintf(name, sizeof(name), "port 0xf4: %u", i & 0xff);
		assert_string_equal(json_string_value(json_object_get(event, "name")), name);
	}
	mark = json_object_get(json_object_get(root, "marks"), "boot_complete");
	assert_int_equal(json_integer_value(json_object_get(mark, "ns")), 12345678900);
	assert_int_equal(json_integer_value(json_object_get(mark, "cpu_ns")), 999999500);
	json_decref(root);
	free(text);
	free(tl);
}

static void test_no_room(void **state)
{
	struct timeline *tl = timeline_make();
	FD_SCOPED int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

	assert_int_equal(timeline_text(tl, fd), -ENOSPC);
	assert_int_equal(timeline_json(tl, NULL, fd), -ENOSPC);
	assert_int_equal(timeline_svg(tl, fd), -ENOSPC);
	free(tl);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_no_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
