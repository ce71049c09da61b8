/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serial port under any sequence of port accesses and host input, held against a small model:
 * what was received comes out in order and once, what is sent arrives, the interrupt line agrees
 * with IIR, and the host side is asked for more whenever the guest could take it.
 *
 * Input: pairs of an operation and a value. Operation: bits 0-2 register, bit 3 read, 0x10 and up:
 * the host types the value's low five bits of bytes.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"
#include "legacy/legacy.h"

#define BASE 0x3f8
#define FIFO 16

enum { DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

/* Any failed check is a finding. */
#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

/* In the place of legacy/chardev.c. */
struct chardev {
	struct chardev_ops ops;
	unsigned accepts;
	uint64_t out_count;
	uint8_t out_last;
};

struct model {
	struct bus *bus;
	struct chardev host;
	bool line;
	uint8_t ier, lcr, mcr, scr;
	bool fifo_on;
	bool refused;
	unsigned accepts_seen;
	uint64_t sent;
	uint8_t typed; /* the next byte the host types */
	unsigned used;
	uint8_t queue[FIFO];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int chardev_attach(struct chardev *dev, const struct chardev_ops *ops)
{
	if (ops)
		dev->ops = *ops;
	return 0;
}

void chardev_write(struct chardev *dev, const uint8_t *bytes, size_t len)
{
	CHECK(len == 1);
	dev->out_count++;
	dev->out_last = bytes[0];
}

void chardev_accept(struct chardev *dev)
{
	dev->accepts++;
}

static void on_irq(void *ctx, uint32_t gsi, bool level)
{
	struct model *m = ctx;

	CHECK(level != m->line);
	m->line = level;
}

static unsigned room(const struct model *m)
{
	return (m->fifo_on ? FIFO : 1) - m->used;
}

static void push(struct model *m, uint8_t byte)
{
	m->queue[m->used++] = byte;
}

static void host_types(struct model *m, unsigned len)
{
	uint8_t bytes[32];
	size_t n;

	for (unsigned i = 0; i < len; i++)
		bytes[i] = (uint8_t)(m->typed + i);
	n = m->host.ops.rx(m->host.ops.ctx, bytes, len);
	CHECK(n <= len && n <= room(m));
	/* Nothing is taken while the receiver is cut off from its input. */
	CHECK(!n || !(m->mcr & 0x10));
	if (m->ier & 1 && (m->mcr & 0x18) == 0x08)
		CHECK(n == len || n == room(m));
	for (size_t i = 0; i < n; i++)
		push(m, m->typed++);
	m->refused = n < len;
	m->accepts_seen = m->host.accepts;
}

static void guest_writes(struct model *m, unsigned reg, uint8_t value)
{
	bool dlab = m->lcr & 0x80;

	bus_pio_write(m->bus, (uint16_t)(BASE + reg), &value, 1, 1);
	if (reg == DATA && !dlab && m->mcr & 0x10) {
		if (!room(m) && !m->fifo_on)
			m->used = 0;
		if (room(m))
			push(m, value);
	} else if (reg == DATA && !dlab) {
		m->sent++;
		CHECK(m->host.out_last == value);
	} else if (reg == IER && !dlab) {
		m->ier = value & 0x0f;
	} else if (reg == IIR_FCR) {
		if ((m->fifo_on && !(value & 1)) || (value & 3) == 3)
			m->used = 0;
		m->fifo_on = value & 1;
	} else if (reg == LCR) {
		m->lcr = value;
	} else if (reg == MCR) {
		m->mcr = value & 0x1f;
	} else if (reg == SCR) {
		m->scr = value;
	}
}

static void check_iir(const struct model *m, uint8_t value)
{
	CHECK((value & 0xf0) == (m->fifo_on ? 0xc0 : 0));
	switch (value & 0x0f) {
	case 0x01:
		CHECK(!m->line);
		CHECK(!(m->ier & 1) || !m->used);
		break;
	case 0x06:
		CHECK(m->ier & 4);
		break;
	case 0x0c:
		CHECK(m->fifo_on && m->used < 14);
		/* fall through */
	case 0x04:
		CHECK(m->ier & 1 && m->used);
		break;
	case 0x02:
		CHECK(m->ier & 2);
		break;
	case 0x00:
		CHECK(m->ier & 8);
		break;
	default:
		abort();
	}
}

static void guest_reads(struct model *m, unsigned reg)
{
	uint8_t value = 0xaa;
	bool dlab = m->lcr & 0x80;

	bus_pio_read(m->bus, (uint16_t)(BASE + reg), &value, 1, 1);
	if (reg == DATA && !dlab) {
		CHECK(value == (m->used ? m->queue[0] : 0));
		if (m->used)
			memmove(m->queue, m->queue + 1, --m->used);
	} else if (reg == IER && !dlab) {
		CHECK(value == m->ier);
	} else if (reg == IIR_FCR) {
		check_iir(m, value);
	} else if (reg == LCR) {
		CHECK(value == m->lcr);
	} else if (reg == MCR) {
		CHECK(value == m->mcr);
	} else if (reg == LSR) {
		CHECK((value & ~0x02) == (0x60 | (m->used ? 1 : 0)));
	} else if (reg == MSR && !(m->mcr & 0x10)) {
		CHECK((value & 0xf0) == 0xb0);
	} else if (reg == SCR) {
		CHECK(value == m->scr);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct model m = {0};
	struct irq_line irq = {on_irq, &m, 4};
	struct serial *serial = NULL;

	if (bus_create(&m.bus) < 0)
		return 0;
	CHECK(serial_create(&serial, m.bus, BASE, &irq, &m.host, NULL) == 0);
	for (size_t i = 0; i + 1 < size; i += 2) {
		if (data[i] >= 0x10)
			host_types(&m, data[i + 1] & 0x1f);
		else if (data[i] & 8)
			guest_reads(&m, data[i] & 7);
		else
			guest_writes(&m, data[i] & 7, data[i + 1]);
		CHECK(m.host.out_count == m.sent);
		CHECK(!m.line || ((m.mcr & 0x18) == 0x08 && m.ier));
		if ((m.mcr & 0x18) == 0x08 && m.ier & 1 && m.used)
			CHECK(m.line);
		/* Who was refused is called back once the guest can take more. */
		if (m.host.accepts != m.accepts_seen) {
			m.refused = false;
			m.accepts_seen = m.host.accepts;
		}
		if ((m.mcr & 0x18) == 0x08 && m.ier & 1 && !m.used)
			CHECK(!m.refused);
	}
	serial_destroy(serial);
	bus_destroy(m.bus);
	return 0;
}
