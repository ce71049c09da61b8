/* SPDX-License-Identifier: Apache-2.0 */
/* legacy/: keyboard controller, ACPI registers, boot timer, trace ports. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/num.h"
#include "bus/bus.h"
#include "legacy/legacy.h"

#define ACPI_BASE 0x600

struct board {
	struct bus *bus;
	struct i8042 i8042;
	struct acpi_regs acpi;
	struct boot_timer boot_timer;
	struct trace_ports trace_ports;
	struct timeline tl;
	struct kv_log log;
	unsigned ends[2]; /* by enum guest_end */
	unsigned done;
	unsigned lines;
	char last[1024];
};

static void on_end(void *ctx, enum guest_end why)
{
	struct board *board = ctx;

	board->ends[why]++;
}

static void on_done(void *ctx)
{
	struct board *board = ctx;

	board->done++;
}

static void on_line(void *ctx, enum log_level level, const char *line)
{
	struct board *board = ctx;

	assert_int_equal(level, LOG_LEVEL_INFO);
	board->lines++;
	strcpy(board->last, line);
}

static int setup(void **state)
{
	struct board *board = calloc(1, sizeof(*board));
	struct legacy_end end = {on_end, board};

	timeline_init(&board->tl, 0);
	board->log = (struct kv_log){LOG_LEVEL_INFO, on_line, board};
	if (bus_create(&board->bus) < 0 || i8042_add(&board->i8042, board->bus, end) < 0 ||
		acpi_regs_add(&board->acpi, board->bus, ACPI_BASE, end) < 0 ||
		boot_timer_add(&board->boot_timer, board->bus, &board->tl, on_done, board) < 0 ||
		trace_ports_add(&board->trace_ports, board->bus, &board->tl, &board->log) < 0)
		return -1;
	*state = board;
	return 0;
}

static int teardown(void **state)
{
	struct board *board = *state;

	trace_ports_drop(&board->trace_ports);
	bus_destroy(board->bus);
	free(board);
	return 0;
}

static void out(struct board *board, uint16_t port, uint8_t byte)
{
	bus_pio_write(board->bus, port, &byte, 1, 1);
}

static uint8_t in(struct board *board, uint16_t port)
{
	uint8_t byte = 0;

	bus_pio_read(board->bus, port, &byte, 1, 1);
	return byte;
}

/* Send a command and take its one byte of answer, as a driver does. */
static uint8_t kbc_ask(struct board *board, uint8_t command)
{
	uint8_t byte;

	out(board, 0x64, command);
	assert_int_equal(in(board, 0x64) & 0x03, 0x01);
	byte = in(board, 0x60);
	assert_int_equal(in(board, 0x64) & 0x03, 0x00);
	return byte;
}

/* The questions Linux's driver asks, in its order; each unanswered one would cost it 500 ms. */
static void test_i8042_probe(void **state)
{
	struct board *board = *state;

	assert_int_equal(in(board, 0x64) & 0x23, 0);
	assert_int_equal(kbc_ask(board, 0xaa), 0x55);
	assert_int_equal(kbc_ask(board, 0x20), kbc_ask(board, 0x20));
	out(board, 0x64, 0x60);
	assert_int_equal(in(board, 0x64) & 0x02, 0);
	out(board, 0x60, 0x65);
	assert_int_equal(kbc_ask(board, 0x20), 0x65);
	/* A write without command is for the keyboard: the mode stays. */
	out(board, 0x60, 0xff);
	assert_int_equal(in(board, 0x64) & 0x01, 0);
	assert_int_equal(kbc_ask(board, 0x20), 0x65);
	/* The loop test of the auxiliary port answers without the mark of that port. */
	out(board, 0x64, 0xd3);
	out(board, 0x60, 0x5a);
	assert_int_equal(in(board, 0x64) & 0x21, 0x01);
	assert_int_equal(in(board, 0x60), 0x5a);
	assert_int_not_equal(kbc_ask(board, 0xa9), 0);
	assert_int_not_equal(kbc_ask(board, 0xab), 0);
	assert_int_equal(kbc_ask(board, 0xd0) & 0x01, 0x01);
	assert_int_equal(kbc_ask(board, 0xc0), 0x80);
	assert_int_equal(board->ends[GUEST_END_RESET], 0);
}

static void test_i8042_reset(void **state)
{
	struct board *board = *state;
	unsigned resets = 0;

	for (unsigned command = 0xf0; command <= 0xff; command++) {
		out(board, 0x64, (uint8_t)command);
		resets += !(command & 1);
		assert_int_equal(board->ends[GUEST_END_RESET], resets);
	}
	/* The output port's bit 0 is the CPU's reset line, active low. */
	out(board, 0x64, 0xd1);
	out(board, 0x60, 0xdf);
	assert_int_equal(board->ends[GUEST_END_RESET], resets);
	out(board, 0x64, 0xd1);
	out(board, 0x60, 0xde);
	assert_int_equal(board->ends[GUEST_END_RESET], resets + 1);
	/* The byte belonged to one command only. */
	out(board, 0x60, 0xfe);
	assert_int_equal(board->ends[GUEST_END_RESET], resets + 1);
	assert_int_equal(board->ends[GUEST_END_POWEROFF], 0);
}

static void test_acpi(void **state)
{
	struct board *board = *state;

	for (unsigned type = 0; type < 8; type++) {
		out(board, ACPI_BASE, (uint8_t)(type << 2));
		assert_int_equal(board->ends[GUEST_END_POWEROFF], type > ACPI_SLEEP_TYPE_S5);
		out(board, ACPI_BASE, (uint8_t)(type << 2 | 1 << 5));
		assert_int_equal(board->ends[GUEST_END_POWEROFF], type >= ACPI_SLEEP_TYPE_S5);
	}
	for (unsigned value = 0; value < 256; value++) {
		out(board, ACPI_BASE + 1, (uint8_t)value);
		if (value != ACPI_RESET_VALUE)
			out(board, ACPI_BASE + 2, (uint8_t)value);
	}
	assert_int_equal(board->ends[GUEST_END_RESET], 0);
	out(board, ACPI_BASE + 2, ACPI_RESET_VALUE);
	assert_int_equal(board->ends[GUEST_END_RESET], 1);
	assert_int_equal(board->ends[GUEST_END_POWEROFF], 1);
	for (uint16_t i = 0; i < 3; i++)
		assert_int_equal(in(board, ACPI_BASE + i), 0);
	assert_int_equal(in(board, ACPI_BASE + 3), 0xff);
}

/* PM1 registers as ACPICA uses them: in words, and what is enabled must read back. */
static void test_acpi_pm1(void **state)
{
	const uint16_t base = 0x604;
	struct board *board = *state;
	struct legacy_end end = {on_end, board};
	struct acpi_pm1 pm1;
	uint16_t word;

	assert_int_equal(acpi_pm1_add(&pm1, board->bus, base, end), 0);
	word = 0xffff;
	bus_pio_write(board->bus, base, (uint8_t *)&word, 2, 1);
	bus_pio_read(board->bus, base, (uint8_t *)&word, 2, 1);
	assert_int_equal(word, 0); /* no event is ever pending */
	word = 0x0120;
	bus_pio_write(board->bus, base + 2, (uint8_t *)&word, 2, 1);
	bus_pio_read(board->bus, base + 2, (uint8_t *)&word, 2, 1);
	assert_int_equal(word, 0x0120);
	bus_pio_read(board->bus, base + 4, (uint8_t *)&word, 2, 1);
	assert_int_equal(word, 1); /* SCI_EN */
	for (unsigned type = 0; type < 8; type++) {
		word = (uint16_t)(type << 10 | 1);
		bus_pio_write(board->bus, base + 4, (uint8_t *)&word, 2, 1);
		assert_int_equal(board->ends[GUEST_END_POWEROFF], type > ACPI_SLEEP_TYPE_S5);
		word |= 1 << 13;
		bus_pio_write(board->bus, base + 4, (uint8_t *)&word, 2, 1);
		assert_int_equal(board->ends[GUEST_END_POWEROFF], type >= ACPI_SLEEP_TYPE_S5);
	}
	assert_int_equal(board->ends[GUEST_END_RESET], 0);
}

static void test_boot_timer(void **state)
{
	static const gpa_t pages[] = {0xd0000000, 0xc0000000};
	struct board *board = *state;
	const uint8_t wrong = 122, wide[4] = {123, 0, 0, 0};
	const uint8_t right = 123;
	uint8_t back = 0xaa;

	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		bus_mmio_write(board->bus, pages[i], &wrong, 1);
		bus_mmio_write(board->bus, pages[i], wide, sizeof(wide));
		bus_mmio_write(board->bus, pages[i] + 1, &right, 1);
		bus_mmio_write(board->bus, pages[i] + 0x1000, &right, 1);
		assert_int_equal(board->done, 0);
		assert_false(timeline_reached(&board->tl, MARK_BOOT));
		bus_mmio_write(board->bus, pages[i], &right, 1);
		bus_mmio_write(board->bus, pages[i], &right, 1);
		assert_int_equal(board->done, 1);
		assert_true(timeline_reached(&board->tl, MARK_BOOT));
		bus_mmio_read(board->bus, pages[i], &back, 1);
		assert_int_equal(back, 0);
		/* For the other page everything starts anew. */
		teardown(state);
		setup(state);
		board = *state;
	}
}

static void test_trace_marks(void **state)
{
	static const struct {
		uint16_t port;
		uint8_t kernel, user;
	} ports[] = {{0x80, 0x40, 0x41}, {0xf4, 6, 7}};
	struct board *board = *state;

	for (size_t i = 0; i < ARRAY_LEN(ports); i++) {
		for (unsigned code = 0; code < 256; code++)
			if (code != ports[i].kernel && code != ports[i].user)
				out(board, ports[i].port, (uint8_t)code);
		assert_false(timeline_reached(&board->tl, MARK_START_KERNEL));
		assert_false(timeline_reached(&board->tl, MARK_USER));
		out(board, ports[i].port, ports[i].kernel);
		assert_true(timeline_reached(&board->tl, MARK_START_KERNEL));
		assert_false(timeline_reached(&board->tl, MARK_USER));
		out(board, ports[i].port, ports[i].user);
		assert_true(timeline_reached(&board->tl, MARK_USER));
		assert_int_equal(board->tl.event_count, 256);
		assert_int_equal(board->tl.events[255].port, ports[i].port);
		assert_int_equal(board->tl.events[255].code, ports[i].user);
		teardown(state);
		setup(state);
		board = *state;
	}
	for (unsigned code = 0; code < 256; code++)
		out(board, 0xf5, (uint8_t)code);
	assert_false(timeline_reached(&board->tl, MARK_START_KERNEL));
	assert_false(timeline_reached(&board->tl, MARK_USER));
	assert_int_equal(board->tl.events[17].port, 0xf5);
	assert_int_equal(board->tl.events[17].code, 17);
	assert_int_equal(in(board, 0x80), 0xff);
}

static void say(struct board *board, const char *text)
{
	bus_pio_write(board->bus, 0xe9, (const uint8_t *)text, 1, (uint32_t)strlen(text));
}

static void test_debug_console(void **state)
{
	struct board *board = *state;
	char longest[sizeof(board->trace_ports.line) + 2];

	assert_int_equal(in(board, 0xe9), 0xe9);
	say(board, "hel");
	assert_int_equal(board->lines, 0);
	say(board, "lo\r\nworld");
	assert_int_equal(board->lines, 1);
	assert_string_equal(board->last, "guest: hello");
	say(board, "\n");
	assert_string_equal(board->last, "guest: world");
	say(board, "\n");
	assert_string_equal(board->last, "guest: ");
	/* Nothing reaches the log's reader that would move a terminal's cursor. */
	say(board, "\033[2J\x9b\x7f\tx\n");
	assert_string_equal(board->last, "guest: ?[2J??\tx");
	assert_int_equal(board->lines, 4);
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	say(board, longest);
	assert_int_equal(board->lines, 5);
	assert_int_equal(strlen(board->last), strlen("guest: ") + sizeof(longest) - 2);
	/* The rest is not lost when the guest ends without a newline. */
	trace_ports_drop(&board->trace_ports);
	assert_int_equal(board->lines, 6);
	assert_string_equal(board->last, "guest: x");
	bus_destroy(board->bus);
	bus_create(&board->bus);
	trace_ports_add(&board->trace_ports, board->bus, &board->tl, &board->log);
}

/* No timeline, no log, nobody who listens. */
static void test_alone(void **state)
{
	struct board *board = *state;
	struct trace_ports ports;
	struct boot_timer timer;
	const uint8_t code = 123;
	struct bus *bus = NULL;

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(trace_ports_add(&ports, bus, NULL, NULL), 0);
	assert_int_equal(boot_timer_add(&timer, bus, NULL, NULL, NULL), 0);
	for (unsigned port = 0; port < 256; port++)
		bus_pio_write(bus, (uint16_t)port, &code, 1, 1);
	bus_mmio_write(bus, 0xd0000000, &code, 1);
	assert_true(timer.fired);
	trace_ports_drop(&ports);
	bus_destroy(bus);
	/* An address that is taken is an error, not a second device. */
	assert_int_equal(trace_ports_add(&ports, board->bus, NULL, NULL), -EEXIST);
	assert_int_equal(boot_timer_add(&timer, board->bus, NULL, NULL, NULL), -EEXIST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_i8042_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_i8042_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(test_acpi, setup, teardown),
		cmocka_unit_test_setup_teardown(test_acpi_pm1, setup, teardown),
		cmocka_unit_test_setup_teardown(test_boot_timer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_trace_marks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_debug_console, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
