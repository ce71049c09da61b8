/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A keyboard controller with nothing plugged in. Every command that has an answer gets it at once:
 * an operating system's probe waits half a second for each one that is missing.
 * Source: IBM PS/2 Hardware Interface Technical Reference, Keyboard and Auxiliary Device
 * Controller.
 */
#include <stdatomic.h>

#include "legacy/legacy.h"
#include "x86/layout.h"

/* Status port (read 0x64). */
#define STATUS_OUT_FULL 0x01
#define STATUS_SYSTEM	0x04 /* the self-test passed */
#define STATUS_UNLOCKED 0x10

/* Commands (write 0x64). */
#define CMD_READ_MODE	0x20
#define CMD_WRITE_MODE	0x60
#define CMD_TEST_AUX	0xa9
#define CMD_SELF_TEST	0xaa
#define CMD_TEST_KBD	0xab
#define CMD_READ_IN	0xc0
#define CMD_READ_OUT	0xd0
#define CMD_WRITE_OUT	0xd1
#define CMD_LOOP_KBD	0xd2
#define CMD_LOOP_AUX	0xd3
#define CMD_PULSE_FIRST 0xf0 /* the low four bits name the output lines that are not pulsed */

#define OUT_NO_RESET	0x01 /* output port and pulse: low resets the CPU */
#define OUT_A20		0x02
#define SELF_TEST_OK	0x55
#define TEST_NO_DEVICE	0x01 /* clock line stuck low: nothing pulls it up */
#define IN_KBD_UNLOCKED 0x80

static void answer(struct i8042 *dev, uint8_t byte)
{
	atomic_store(&dev->out_byte, byte);
	atomic_store(&dev->out_full, 1);
}

static void reset(struct i8042 *dev)
{
	dev->end.fn(dev->end.ctx, GUEST_END_RESET);
}

static void data_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct i8042 *dev = ctx;

	data[0] = atomic_load(&dev->out_byte);
	atomic_store(&dev->out_full, 0);
}

static void data_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct i8042 *dev = ctx;

	switch (atomic_exchange(&dev->last_command, 0)) {
	case CMD_WRITE_MODE:
		atomic_store(&dev->mode, data[0]);
		break;
	case CMD_WRITE_OUT:
		if (!(data[0] & OUT_NO_RESET))
			reset(dev);
		break;
	case CMD_LOOP_KBD:
	case CMD_LOOP_AUX:
		/* Not marked as the auxiliary device's, which says that there is no such port. */
		answer(dev, data[0]);
		break;
	default:
		/* For the keyboard, which is not there. */
		break;
	}
}

static void status_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct i8042 *dev = ctx;

	data[0] = STATUS_SYSTEM | STATUS_UNLOCKED;
	if (atomic_load(&dev->out_full))
		data[0] |= STATUS_OUT_FULL;
}

static void command_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct i8042 *dev = ctx;
	uint8_t command = data[0];

	atomic_store(&dev->last_command, command);
	switch (command) {
	case CMD_READ_MODE:
		answer(dev, atomic_load(&dev->mode));
		break;
	case CMD_SELF_TEST:
		answer(dev, SELF_TEST_OK);
		break;
	case CMD_TEST_AUX:
	case CMD_TEST_KBD:
		answer(dev, TEST_NO_DEVICE);
		break;
	case CMD_READ_IN:
		answer(dev, IN_KBD_UNLOCKED);
		break;
	case CMD_READ_OUT:
		answer(dev, OUT_NO_RESET | OUT_A20);
		break;
	default:
		if (command >= CMD_PULSE_FIRST && !(command & OUT_NO_RESET))
			reset(dev);
		break;
	}
}

static const struct bus_ops data_ops = {data_read, data_write};
static const struct bus_ops command_ops = {status_read, command_write};

int i8042_add(struct i8042 *dev, struct bus *bus, struct legacy_end end)
{
	int r;

	*dev = (struct i8042){.end = end};
	r = bus_add_pio(bus, LAYOUT_PORT_I8042, 1, &data_ops, dev);
	if (r < 0)
		return r;
	return bus_add_pio(bus, LAYOUT_PORT_I8042 + 4, 1, &command_ops, dev);
}
