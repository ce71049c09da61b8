/* SPDX-License-Identifier: Apache-2.0 */
/* legacy/serial: the registers, with a host side made of two buffers. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/num.h"
#include "bus/bus.h"
#include "legacy/legacy.h"

#define BASE 0x3f8

/* The host side; its functions here take the place of legacy/chardev.c's. */
struct chardev {
	struct chardev_ops ops;
	bool attached;
	int attach_fails;
	_Atomic unsigned accepts;
	unsigned out_used;
	uint8_t out[1 << 16];
};

int chardev_attach(struct chardev *dev, const struct chardev_ops *ops)
{
	if (dev->attach_fails)
		return dev->attach_fails;
	dev->attached = ops != NULL;
	if (ops)
		dev->ops = *ops;
	return 0;
}

void chardev_write(struct chardev *dev, const uint8_t *bytes, size_t len)
{
	assert_true(dev->out_used + len <= sizeof(dev->out));
	memcpy(dev->out + dev->out_used, bytes, len);
	dev->out_used += (unsigned)len;
}

void chardev_accept(struct chardev *dev)
{
	dev->accepts++;
}

struct board {
	struct bus *bus;
	struct serial *serial;
	struct chardev host;
	struct timeline tl;
	bool line;
	unsigned rises, falls;
	unsigned quits;
};

static void on_irq(void *ctx, uint32_t gsi, bool level)
{
	struct board *board = ctx;

	assert_int_equal(gsi, 4);
	/* Only changes are told. */
	assert_int_not_equal(level, board->line);
	board->line = level;
	if (level)
		board->rises++;
	else
		board->falls++;
}

static int setup(void **state)
{
	struct board *board = calloc(1, sizeof(*board));
	struct irq_line irq = {on_irq, board, 4};

	timeline_init(&board->tl, 0);
	if (bus_create(&board->bus) < 0 ||
		serial_create(&board->serial, board->bus, BASE, &irq, &board->host, &board->tl) < 0)
		return -1;
	*state = board;
	return 0;
}

static int teardown(void **state)
{
	struct board *board = *state;

	serial_destroy(board->serial);
	assert_false(board->host.attached);
	bus_destroy(board->bus);
	free(board);
	return 0;
}

enum {
	RBR = 0,
	THR = 0,
	DLL = 0,
	IER = 1,
	DLM = 1,
	IIR = 2,
	FCR = 2,
	LCR = 3,
	MCR = 4,
	LSR = 5,
	MSR = 6,
	SCR = 7
};

static void out(struct board *board, unsigned reg, uint8_t value)
{
	bus_pio_write(board->bus, (uint16_t)(BASE + reg), &value, 1, 1);
}

static uint8_t in(struct board *board, unsigned reg)
{
	uint8_t value = 0x5a;

	bus_pio_read(board->bus, (uint16_t)(BASE + reg), &value, 1, 1);
	return value;
}

/* The host side offers text. Returns how many bytes were taken. */
static size_t type(struct board *board, const char *text)
{
	return board->host.ops.rx(board->host.ops.ctx, (const uint8_t *)text, strlen(text));
}

static void expect_out(struct board *board, const char *text)
{
	assert_int_equal(board->host.out_used, strlen(text));
	assert_memory_equal(board->host.out, text, strlen(text));
	board->host.out_used = 0;
}

/* A driver that has opened the port: FIFOs with @fcr, receive interrupts. */
static void driver_open(struct board *board, uint8_t fcr)
{
	out(board, LCR, 0x03);
	out(board, FCR, fcr);
	out(board, MCR, 0x0b);
	out(board, IER, 0x05);
}

static void test_reset_state(void **state)
{
	struct board *board = *state;

	assert_int_equal(in(board, IER), 0x00);
	assert_int_equal(in(board, IIR), 0x01);
	assert_int_equal(in(board, LCR), 0x00);
	assert_int_equal(in(board, MCR), 0x00);
	assert_int_equal(in(board, LSR), 0x60);
	assert_int_equal(in(board, MSR), 0xb0);
	out(board, LCR, 0x80);
	/* A divisor of 0 would be divided by. */
	assert_int_not_equal(in(board, DLL) | in(board, DLM) << 8, 0);
	assert_int_equal(board->rises, 0);
	assert_true(board->host.attached);
}

/* Which bits of each register can be written and read back. */
static void test_readback(void **state)
{
	static const struct {
		unsigned reg;
		uint8_t mask;
	} regs[] = {{IER, 0x0f}, {MCR, 0x1f}, {SCR, 0xff}, {LCR, 0xff}};
	struct board *board = *state;

	for (size_t i = 0; i < ARRAY_LEN(regs); i++)
		for (unsigned value = 0; value < 256; value++) {
			out(board, regs[i].reg, (uint8_t)value);
			assert_int_equal(in(board, regs[i].reg), value & regs[i].mask);
		}
	out(board, LCR, 0);
	out(board, MCR, 0);
	for (unsigned value = 0; value < 256; value++) {
		out(board, LSR, (uint8_t)value);
		assert_int_equal(in(board, LSR), 0x60);
		out(board, MSR, (uint8_t)value);
		assert_int_equal(in(board, MSR) & 0xf0, 0xb0);
	}
}

static void test_divisor(void **state)
{
	struct board *board = *state;

	out(board, IER, 0x0f);
	out(board, LCR, 0x83);
	out(board, DLL, 0x34);
	out(board, DLM, 0x12);
	assert_int_equal(in(board, DLL), 0x34);
	assert_int_equal(in(board, DLM), 0x12);
	/* Nothing was sent, and the interrupt enables are as before. */
	expect_out(board, "");
	assert_false(timeline_reached(&board->tl, MARK_SERIAL));
	out(board, LCR, 0x03);
	assert_int_equal(in(board, IER), 0x0f);
	assert_int_equal(in(board, RBR), 0x00);
	out(board, LCR, 0x83);
	assert_int_equal(in(board, DLL), 0x34);
}

static void test_output(void **state)
{
	struct board *board = *state;
	const char *text = "Linux version";

	assert_false(timeline_reached(&board->tl, MARK_SERIAL));
	for (const char *at = text; *at; at++) {
		/* The transmitter is empty at the first look: a console driver never waits. */
		assert_int_equal(in(board, LSR), 0x60);
		out(board, THR, (uint8_t)*at);
	}
	assert_true(timeline_reached(&board->tl, MARK_SERIAL));
	expect_out(board, text);
	assert_int_equal(board->rises, 0);
	bus_pio_write(board->bus, BASE, (const uint8_t *)"rep outsb", 1, 9);
	expect_out(board, "rep outsb");
}

static void test_wide_access(void **state)
{
	struct board *board = *state;
	uint8_t data[4] = {0};

	/* LCR, MCR, LSR, MSR in one access. */
	bus_pio_read(board->bus, BASE + LCR, data, 4, 1);
	assert_memory_equal(data, "\x00\x00\x60\xb0", 4);
	bus_pio_write(board->bus, BASE + LCR, (const uint8_t *)"\x03\x0b", 2, 1);
	assert_int_equal(in(board, LCR), 0x03);
	assert_int_equal(in(board, MCR), 0x0b);
	/* Beyond the last register is nothing of this device. */
	bus_pio_write(board->bus, BASE + SCR, (const uint8_t *)"\x11\x22", 2, 1);
	assert_int_equal(in(board, SCR), 0x00);
}

/* Input one byte at a time, without FIFO. */
static void test_input_character_mode(void **state)
{
	struct board *board = *state;

	driver_open(board, 0);
	assert_int_equal(type(board, "ab"), 1);
	assert_true(board->line);
	assert_int_equal(in(board, IIR), 0x04);
	assert_int_equal(in(board, LSR), 0x61);
	assert_int_equal(in(board, RBR), 'a');
	assert_false(board->line);
	assert_int_equal(in(board, LSR), 0x60);
	assert_int_equal(in(board, IIR), 0x01);
	/* An empty receiver reads as zero. */
	assert_int_equal(in(board, RBR), 0);
	assert_int_equal(board->host.accepts, 1);
	assert_int_equal(type(board, "b"), 1);
	assert_int_equal(in(board, RBR), 'b');
	assert_int_equal(board->host.accepts, 1);
	assert_int_equal(board->rises, 2);
}

static void test_input_fifo(void **state)
{
	struct board *board = *state;

	driver_open(board, 0x81); /* trigger level 8 */
	assert_int_equal(type(board, "0123456789abcdefgh"), 16);
	assert_true(board->line);
	for (unsigned left = 16; left > 0; left--) {
		/* At the trigger level "data available", below it the character time-out. */
		assert_int_equal(in(board, IIR), left >= 8 ? 0xc4 : 0xcc);
		assert_int_equal(in(board, LSR), 0x61);
		assert_true(board->line);
		assert_int_equal(board->host.accepts, 0);
		assert_int_equal(in(board, RBR), "0123456789abcdef"[16 - left]);
	}
	assert_int_equal(in(board, IIR), 0xc1);
	assert_false(board->line);
	assert_int_equal(board->rises, 1);
	assert_int_equal(board->host.accepts, 1);
	/* It wraps around, and stays in order when filled up in the middle. */
	assert_int_equal(type(board, "ghijk"), 5);
	assert_int_equal(in(board, RBR), 'g');
	assert_int_equal(type(board, "0123456789abcdef"), 12);
	for (const char *at = "hijk0123456789ab"; *at; at++)
		assert_int_equal(in(board, RBR), *at);
	assert_int_equal(in(board, LSR), 0x60);
}

static void test_trigger_levels(void **state)
{
	static const uint8_t levels[] = {1, 4, 8, 14};
	struct board *board = *state;

	for (unsigned code = 0; code < 4; code++) {
		driver_open(board, (uint8_t)(code << 6 | 0x03));
		for (unsigned used = 1; used <= 16; used++) {
			assert_int_equal(type(board, "x"), 1);
			assert_int_equal(in(board, IIR), used >= levels[code] ? 0xc4 : 0xcc);
		}
		assert_int_equal(type(board, "x"), 0);
	}
	/* Without the enable bit the others count for nothing. */
	driver_open(board, 0x01 | 0x80);
	out(board, FCR, 0xc0);
	assert_int_equal(in(board, IIR), 0x01);
	out(board, FCR, 0x41);
	assert_int_equal(type(board, "xxxx"), 4);
	assert_int_equal(in(board, IIR), 0xc4);
}

static void test_fifo_reset(void **state)
{
	struct board *board = *state;

	driver_open(board, 0x01);
	assert_int_equal(type(board, "lost"), 4);
	assert_true(board->line);
	out(board, FCR, 0x03);
	assert_int_equal(in(board, LSR), 0x60);
	assert_false(board->line);
	/* The reset of the transmitter alone keeps what was received. */
	assert_int_equal(type(board, "kept"), 4);
	out(board, FCR, 0x05);
	assert_int_equal(in(board, LSR), 0x61);
	/* Switching off loses it; switching on keeps the byte in the buffer register. */
	out(board, FCR, 0x00);
	assert_int_equal(in(board, LSR), 0x60);
	assert_int_equal(type(board, "b"), 1);
	out(board, FCR, 0x00);
	assert_int_equal(in(board, LSR), 0x61);
	out(board, FCR, 0x01);
	assert_int_equal(in(board, LSR), 0x61);
	assert_int_equal(in(board, RBR), 'b');
}

/* What comes before the guest's driver is ready must not go into a FIFO that it will reset. */
static void test_held_back(void **state)
{
	struct board *board = *state;

	assert_int_equal(type(board, "early"), 0);
	/* Linux's probe: the enables tested, the FIFO sized, all without OUT2. */
	out(board, IER, 0x0f);
	assert_int_equal(type(board, "early"), 0);
	out(board, IER, 0x00);
	out(board, FCR, 0x07);
	out(board, FCR, 0x00);
	assert_int_equal(board->host.accepts, 0);
	/* Its start of the port. */
	out(board, MCR, 0x08);
	out(board, IER, 0x02);
	out(board, IER, 0x00);
	assert_int_equal(type(board, "early"), 0);
	assert_int_equal(board->host.accepts, 0);
	out(board, IER, 0x05);
	assert_int_equal(board->host.accepts, 1);
	assert_int_equal(type(board, "early"), 1);
	out(board, FCR, 0x01);
	out(board, FCR, 0x81);
	out(board, MCR, 0x0b);
	assert_int_equal(type(board, "arly"), 4);
	for (const char *at = "early"; *at; at++)
		assert_int_equal(in(board, RBR), *at);
	/* It closes the port. */
	out(board, IER, 0x00);
	assert_int_equal(type(board, "late"), 0);
	assert_int_equal(in(board, LSR), 0x60);
}

/* A guest without interrupts waits for input by looking. */
static void test_polled_input(void **state)
{
	struct board *board = *state;

	assert_int_equal(type(board, "poll"), 0);
	/* Looking before each byte sent is not waiting for input. */
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(in(board, LSR), 0x60);
		out(board, THR, '.');
	}
	assert_int_equal(type(board, "poll"), 0);
	assert_int_equal(board->host.accepts, 0);
	/* Nor are a few looks, as Linux takes when it opens the port. */
	for (unsigned i = 0; i < 15; i++)
		in(board, LSR);
	in(board, SCR);
	for (unsigned i = 0; i < 15; i++)
		in(board, LSR);
	assert_int_equal(board->host.accepts, 0);
	assert_int_equal(type(board, "poll"), 0);
	in(board, LSR);
	assert_int_equal(board->host.accepts, 1);
	assert_int_equal(type(board, "poll"), 1);
	assert_int_equal(in(board, LSR), 0x61);
	assert_int_equal(in(board, RBR), 'p');
	assert_int_equal(board->host.accepts, 2);
	assert_int_equal(board->rises, 0);
	/* After a reset of the receiver it has to show again that it waits. */
	out(board, FCR, 0x03);
	assert_int_equal(type(board, "oll"), 0);
}

static void test_thre(void **state)
{
	struct board *board = *state;

	out(board, MCR, 0x08);
	/* Enabling tells at once of the empty transmitter, reading IIR takes it back. */
	out(board, IER, 0x02);
	assert_true(board->line);
	assert_int_equal(in(board, IIR), 0x02);
	assert_false(board->line);
	assert_int_equal(in(board, IIR), 0x01);
	/* Writing the same again is no enabling, but off and on is. */
	out(board, IER, 0x02);
	assert_int_equal(in(board, IIR), 0x01);
	out(board, IER, 0x00);
	out(board, IER, 0x02);
	assert_int_equal(in(board, IIR), 0x02);
	/* A byte sent makes it empty anew. */
	out(board, THR, 'x');
	assert_true(board->line);
	assert_int_equal(in(board, IIR), 0x02);
	assert_false(board->line);
	/* Disabled it does not show, and reading IIR does not take back what it did not tell. */
	out(board, THR, 'y');
	out(board, IER, 0x00);
	assert_false(board->line);
	assert_int_equal(in(board, IIR), 0x01);
	out(board, IER, 0x02);
	assert_int_equal(in(board, IIR), 0x02);
	/* Reading IIR for a cause of higher priority leaves it pending. */
	out(board, IER, 0x00);
	out(board, IER, 0x03);
	assert_int_equal(type(board, "r"), 1);
	assert_int_equal(in(board, IIR), 0x04);
	assert_int_equal(in(board, RBR), 'r');
	assert_true(board->line);
	assert_int_equal(in(board, IIR), 0x02);
	assert_false(board->line);
}

/* An edge for each burst of output, also for drivers that never look at IIR. */
static void test_thre_edges(void **state)
{
	struct board *board = *state;

	out(board, MCR, 0x08);
	out(board, FCR, 0x01);
	out(board, IER, 0x02);
	assert_int_equal(board->rises, 1);
	for (unsigned i = 0; i < 16; i++)
		out(board, THR, 'x');
	assert_int_equal(board->rises, 2);
	in(board, LSR);
	out(board, THR, 'x');
	assert_int_equal(board->rises, 3);
	/* Linux: IIR, LSR, MSR, then up to 16 bytes; ended by disabling. */
	for (unsigned round = 0; round < 4; round++) {
		assert_int_equal(in(board, IIR), 0xc2);
		assert_false(board->line);
		in(board, LSR);
		in(board, MSR);
		for (unsigned i = 0; i < 16; i++)
			out(board, THR, 'x');
		assert_true(board->line);
	}
	assert_int_equal(board->rises, 7);
	out(board, IER, 0x00);
	assert_false(board->line);
	assert_int_equal(in(board, IIR), 0xc1);
}

static void test_out2_gates(void **state)
{
	struct board *board = *state;

	out(board, IER, 0x02);
	assert_int_equal(board->rises, 0);
	out(board, MCR, 0x08);
	assert_true(board->line);
	out(board, MCR, 0x07);
	assert_false(board->line);
	out(board, MCR, 0x08);
	assert_true(board->line);
	/* In loop-back mode the outputs are inactive. */
	out(board, MCR, 0x18);
	assert_false(board->line);
	assert_int_equal(in(board, IIR), 0x02);
}

/* Linux's test for a port: the outputs come back as inputs. */
static void test_loop_modem(void **state)
{
	struct board *board = *state;

	for (unsigned mcr = 0; mcr < 16; mcr++) {
		uint8_t want = (uint8_t)((mcr & 2 ? 0x10 : 0) | (mcr & 1 ? 0x20 : 0) |
					 (mcr & 4 ? 0x40 : 0) | (mcr & 8 ? 0x80 : 0));

		out(board, MCR, (uint8_t)(0x10 | mcr));
		assert_int_equal(in(board, MSR) & 0xf0, want);
	}
	out(board, MCR, 0x1a);
	assert_int_equal(in(board, MSR) & 0xf0, 0x90);
	out(board, MCR, 0x00);
	assert_int_equal(in(board, MSR) & 0xf0, 0xb0);
}

static void test_modem_deltas(void **state)
{
	struct board *board = *state;

	out(board, MCR, 0x1b); /* CTS, DSR and DCD as they were outside */
	assert_int_equal(in(board, MSR), 0xb0);
	out(board, MCR, 0x19);
	assert_int_equal(in(board, MSR), 0xa1);
	assert_int_equal(in(board, MSR), 0xa0);
	out(board, MCR, 0x18);
	assert_int_equal(in(board, MSR), 0x82);
	out(board, MCR, 0x10);
	assert_int_equal(in(board, MSR), 0x08);
	/* The ring indicator counts only when it ends. */
	out(board, MCR, 0x14);
	assert_int_equal(in(board, MSR), 0x40);
	out(board, MCR, 0x10);
	assert_int_equal(in(board, MSR), 0x04);
	/* A change there and back stays noted. */
	out(board, MCR, 0x12);
	out(board, MCR, 0x10);
	assert_int_equal(in(board, MSR), 0x01);
	/* As an interrupt: the last in priority, ended by reading MSR. */
	out(board, IER, 0x08);
	assert_int_equal(in(board, IIR), 0x01);
	out(board, MCR, 0x08);
	assert_true(board->line);
	assert_int_equal(in(board, IIR), 0x00);
	out(board, IER, 0x0a);
	assert_int_equal(in(board, IIR), 0x02);
	assert_int_equal(in(board, IIR), 0x00);
	assert_true(board->line);
	assert_int_equal(in(board, MSR), 0xbb);
	assert_false(board->line);
}

/* Linux finds out the FIFO's size so. */
static void test_loop_fifo_size(void **state)
{
	struct board *board = *state;
	unsigned count = 0;

	out(board, FCR, 0x07);
	out(board, MCR, 0x10);
	for (unsigned i = 0; i < 256; i++)
		out(board, THR, (uint8_t)i);
	while (in(board, LSR) & 0x01 && count < 256)
		assert_int_equal(in(board, RBR), count++);
	assert_int_equal(count, 16);
	/* All of it stayed inside. */
	expect_out(board, "");
	assert_false(timeline_reached(&board->tl, MARK_SERIAL));
	assert_int_equal(type(board, "x"), 0);
}

/* In loop-back mode the receiver hears the transmitter alone. */
static void test_loop_holds_back(void **state)
{
	struct board *board = *state;

	driver_open(board, 0x01);
	out(board, MCR, 0x1b);
	assert_int_equal(type(board, "x"), 0);
	out(board, THR, 'l');
	assert_int_equal(in(board, RBR), 'l');
	assert_int_equal(board->host.accepts, 0);
	out(board, MCR, 0x0b);
	assert_int_equal(board->host.accepts, 1);
	assert_int_equal(type(board, "x"), 1);
}

static void test_overrun(void **state)
{
	struct board *board = *state;

	/* A full FIFO keeps what it has, the byte that came last is lost. */
	out(board, FCR, 0x01);
	out(board, IER, 0x05);
	out(board, MCR, 0x10);
	for (unsigned i = 0; i < 17; i++)
		out(board, THR, (uint8_t)i);
	assert_int_equal(in(board, IIR), 0xc6);
	assert_int_equal(in(board, LSR), 0x63);
	assert_int_equal(in(board, IIR), 0xc4);
	assert_int_equal(in(board, LSR), 0x61);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(board, RBR), i);
	assert_int_equal(in(board, IIR), 0xc1);
	/* Without FIFO the last one overwrites. */
	out(board, FCR, 0x00);
	out(board, THR, 'a');
	assert_int_equal(in(board, LSR), 0x61);
	out(board, THR, 'b');
	assert_int_equal(in(board, LSR), 0x63);
	assert_int_equal(in(board, RBR), 'b');
	assert_int_equal(in(board, LSR), 0x60);
}

/* Line status, receive, time-out, transmitter, modem: each shows when those above are served. */
static void test_priorities(void **state)
{
	struct board *board = *state;

	out(board, FCR, 0xc1);
	out(board, MCR, 0x10);
	out(board, IER, 0x0f);
	for (unsigned i = 0; i < 17; i++)
		out(board, THR, 0);
	assert_int_equal(in(board, IIR), 0xc6);
	in(board, LSR);
	for (unsigned left = 16; left > 0; left--) {
		assert_int_equal(in(board, IIR), left >= 14 ? 0xc4 : 0xcc);
		in(board, RBR);
	}
	assert_int_equal(in(board, IIR), 0xc2);
	assert_int_equal(in(board, IIR), 0xc0);
	in(board, MSR);
	assert_int_equal(in(board, IIR), 0xc1);
}

/* The tests of Linux's 8250 driver when it starts the port (UART_BUG_THRE, UART_BUG_TXEN). */
static void test_linux_startup(void **state)
{
	struct board *board = *state;
	uint8_t first, second;

	out(board, IER, 0x02);
	first = in(board, IIR);
	out(board, IER, 0x00);
	out(board, IER, 0x02);
	second = in(board, IIR);
	out(board, IER, 0x00);
	assert_int_equal(first & 0x01, 0);
	assert_int_equal(second & 0x01, 0);
	out(board, MCR, 0x08);
	out(board, IER, 0x02);
	assert_int_equal(in(board, LSR) & 0x40, 0x40);
	assert_int_equal(in(board, IIR) & 0x01, 0);
	out(board, IER, 0x00);
	assert_false(board->line);
}

static void on_quit(void *ctx)
{
	struct board *board = ctx;

	board->quits++;
}

static void test_quit(void **state)
{
	struct board *board = *state;

	board->host.ops.quit(board->host.ops.ctx);
	serial_on_quit(board->serial, on_quit, board);
	board->host.ops.quit(board->host.ops.ctx);
	assert_int_equal(board->quits, 1);
}

static void test_create_fails(void **state)
{
	struct board *board = *state;
	struct serial *serial = NULL;
	struct irq_line irq = {0};
	struct chardev *host = calloc(1, sizeof(*host));

	assert_int_equal(serial_create(&serial, board->bus, BASE, &irq, host, NULL), -EEXIST);
	assert_false(host->attached);
	host->attach_fails = -ENOMEM;
	assert_int_equal(serial_create(&serial, board->bus, 0x2f8, &irq, host, NULL), -ENOMEM);
	assert_null(serial);
	free(host);
	serial_destroy(NULL);
}

static void test_no_host(void **state)
{
	struct irq_line irq = {0};
	struct serial *serial = NULL;
	struct bus *bus = NULL;
	uint8_t byte = 'x';

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(serial_create(&serial, bus, BASE, &irq, NULL, NULL), 0);
	bus_pio_write(bus, BASE, &byte, 1, 1);
	byte = 0x0b;
	bus_pio_write(bus, BASE + MCR, &byte, 1, 1);
	byte = 0x0f;
	bus_pio_write(bus, BASE + IER, &byte, 1, 1);
	bus_pio_read(bus, BASE + LSR, &byte, 1, 1);
	assert_int_equal(byte, 0x60);
	serial_destroy(serial);
	bus_destroy(bus);
}

/* A vCPU that reads and writes while the host types: nothing lost, nothing twice. */
#define TYPED 20000

static void *typist(void *arg)
{
	struct board *board = arg;
	unsigned next = 0, seen = 0;

	while (next < TYPED) {
		uint8_t bytes[3] = {(uint8_t)next, (uint8_t)(next + 1), (uint8_t)(next + 2)};
		size_t len = TYPED - next < 3 ? TYPED - next : 3;
		size_t n = board->host.ops.rx(board->host.ops.ctx, bytes, len);

		next += (unsigned)n;
		/* Refused bytes are offered again when asked for, as chardev does. */
		while (n < len && board->host.accepts == seen)
			sched_yield();
		seen = n < len ? seen + 1 : seen;
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct board *board = *state;
	unsigned next = 0;
	pthread_t thread;

	driver_open(board, 0x81);
	assert_int_equal(pthread_create(&thread, NULL, typist, board), 0);
	while (next < TYPED) {
		while (in(board, LSR) & 0x01)
			assert_int_equal(in(board, RBR), (uint8_t)next++);
		sched_yield();
	}
	pthread_join(thread, NULL);
	assert_int_equal(next, TYPED);
	assert_false(board->line);
	assert_int_equal(board->rises, board->falls);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_reset_state),
		TEST(test_readback),
		TEST(test_divisor),
		TEST(test_output),
		TEST(test_wide_access),
		TEST(test_input_character_mode),
		TEST(test_input_fifo),
		TEST(test_trigger_levels),
		TEST(test_fifo_reset),
		TEST(test_held_back),
		TEST(test_polled_input),
		TEST(test_thre),
		TEST(test_thre_edges),
		TEST(test_out2_gates),
		TEST(test_loop_modem),
		TEST(test_modem_deltas),
		TEST(test_loop_fifo_size),
		TEST(test_loop_holds_back),
		TEST(test_overrun),
		TEST(test_priorities),
		TEST(test_linux_startup),
		TEST(test_quit),
		TEST(test_create_fails),
		TEST(test_no_host),
		TEST(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
