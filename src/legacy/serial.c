/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source: TI TL16C550C data sheet (SLLS177), section "Principles of operation"; the 16550A is the
 * part of it without automatic flow control. On a PC the output OUT2 connects the interrupt line.
 *
 * What is sent has left at once, so the transmitter is always empty. What is received comes in the
 * moment there is room and no faster, so the line never overruns and is idle whenever the FIFO is
 * below its trigger level: the character time-out needs no clock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "legacy/legacy.h"

/* Registers; the first two are the divisor while LCR_DLAB is set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REG_COUNT };

#define IER_RX	    0x01
#define IER_THRE    0x02
#define IER_LINE    0x04
#define IER_MODEM   0x08
#define IER_DEFINED 0x0f

/* Interrupt identification, the highest priority first. */
#define IIR_LINE    0x06
#define IIR_RX	    0x04
#define IIR_TIMEOUT 0x0c
#define IIR_THRE    0x02
#define IIR_MODEM   0x00
#define IIR_NONE    0x01
#define IIR_FIFO    0xc0

#define FCR_ENABLE     0x01
#define FCR_CLEAR_RX   0x02
#define FCR_TRIGGER(v) ((v) >> 6)

#define LCR_DLAB 0x80

#define MCR_DTR	    0x01
#define MCR_RTS	    0x02
#define MCR_OUT1    0x04
#define MCR_OUT2    0x08
#define MCR_LOOP    0x10
#define MCR_DEFINED 0x1f

#define LSR_READY   0x01
#define LSR_OVERRUN 0x02
#define LSR_EMPTY   0x60 /* holding register and shift register */

#define MSR_DELTA_CTS 0x01
#define MSR_DELTA_DSR 0x02
#define MSR_TRAIL_RI  0x04
#define MSR_DELTA_DCD 0x08
#define MSR_DELTAS    0x0f
#define MSR_CTS	      0x10
#define MSR_DSR	      0x20
#define MSR_RI	      0x40
#define MSR_DCD	      0x80

#define LAST_WRITE 0x80

/*
 * So many looks at LSR in a row, without input, are a wait for input. Who wants to send finds the
 * transmitter empty at the first; Linux takes two in a row when it opens the port.
 */
#define LOOKS_POLLING 16

#define FIFO_BYTES    16
#define DIVISOR_RESET 12 /* 9,600 baud; a reader divides by it */

struct serial {
	struct irq_line irq;  /* [c] */
	struct chardev *host; /* [c] or NULL */
	struct timeline *tl;  /* [c] or NULL */
	void (*quit)(void *); /* [c] once the loop runs */
	void *quit_ctx;	      /* [c] once the loop runs */
	pthread_mutex_t lock; /* guards all below; held while the interrupt controller's and the
			       * host side's are taken */
	bool line;	      /* level of the interrupt line */
	bool thre_pending;    /* the transmitter became empty and IIR did not tell yet */
	bool fifo_on;
	bool held_back;	   /* the host side has bytes that were not taken */
	bool polled;	   /* the guest was seen to wait for input by looking */
	uint8_t last;	   /* the last access: register, LAST_WRITE added for a write */
	uint8_t lsr_looks; /* reads of LSR in a row that found no input, up to LOOKS_POLLING */
	uint8_t ier, lcr, mcr, msr, scr;
	uint8_t overrun; /* 0 or LSR_OVERRUN */
	uint8_t trigger_bytes;
	uint16_t divisor;
	unsigned rx_start, rx_used;
	uint8_t rx[FIFO_BYTES];
};

/* All below are called with the lock unless they say otherwise. */

static unsigned rx_room(const struct serial *s)
{
	return (s->fifo_on ? FIFO_BYTES : 1) - s->rx_used;
}

static void rx_put(struct serial *s, uint8_t byte)
{
	s->rx[(s->rx_start + s->rx_used++) % FIFO_BYTES] = byte;
}

static uint8_t iir_pending(const struct serial *s)
{
	if (s->ier & IER_LINE && s->overrun)
		return IIR_LINE;
	if (s->ier & IER_RX && s->rx_used)
		return s->fifo_on && s->rx_used < s->trigger_bytes ? IIR_TIMEOUT : IIR_RX;
	if (s->ier & IER_THRE && s->thre_pending)
		return IIR_THRE;
	if (s->ier & IER_MODEM && s->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

/*
 * The line is high while an interrupt is pending, as the chip's pin is. To an edge-triggered
 * controller a second cause during that time is no event of its own; drivers know that and read IIR
 * until it shows none, at which point the line is low again.
 */
static void irq_update(struct serial *s)
{
	/* In loop-back mode the chip holds all modem outputs inactive, OUT2 with them. */
	bool connected = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	bool line = connected && iir_pending(s) != IIR_NONE;

	if (line == s->line)
		return;
	s->line = line;
	irq_set(&s->irq, line);
}

/*
 * Whether the guest is there to receive. Without this, what a person typed ahead or a script pipes
 * in would go into the FIFO early and be lost when the guest's driver resets it at its start: bytes
 * are held back on the host side until the guest can be told of them, or is seen polling.
 */
static bool rx_listening(const struct serial *s)
{
	bool interrupts = s->ier & IER_RX && s->mcr & MCR_OUT2;

	return (interrupts || s->polled) && !(s->mcr & MCR_LOOP);
}

/*
 * True when the host side is to be told that it may go on, which the caller does after it released
 * the lock. Waits for the FIFO to be empty: each time costs a wake-up.
 */
static bool rx_ask(struct serial *s)
{
	if (!s->held_back || s->rx_used || !rx_listening(s))
		return false;
	s->held_back = false;
	return true;
}

static void rx_clear(struct serial *s)
{
	s->rx_start = 0;
	s->rx_used = 0;
}

/* Set the modem inputs, noting what changed. */
static void modem_set(struct serial *s, uint8_t inputs)
{
	uint8_t changed = (s->msr ^ inputs) & (MSR_CTS | MSR_DSR | MSR_DCD);

	/* The three stand four bits above their deltas. */
	s->msr |= changed >> 4;
	if (s->msr & MSR_RI && !(inputs & MSR_RI))
		s->msr |= MSR_TRAIL_RI;
	s->msr = (s->msr & MSR_DELTAS) | inputs;
}

static void mcr_write(struct serial *s, uint8_t value)
{
	uint8_t inputs = MSR_CTS | MSR_DSR | MSR_DCD;

	s->mcr = value & MCR_DEFINED;
	if (s->mcr & MCR_LOOP)
		inputs = (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
			 (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
	modem_set(s, inputs);
}

static void fcr_write(struct serial *s, uint8_t value)
{
	static const uint8_t triggers[] = {1, 4, 8, 14};
	bool on = value & FCR_ENABLE;

	/* The other bits count only together with the first. */
	if (on) {
		s->trigger_bytes = triggers[FCR_TRIGGER(value)];
		if (value & FCR_CLEAR_RX) {
			rx_clear(s);
			s->polled = false;
		}
	} else if (s->fifo_on) {
		rx_clear(s);
	}
	/* Switching on keeps the one byte that waits in the receiver's buffer register. */
	s->fifo_on = on;
}

static void loop_back(struct serial *s, uint8_t byte)
{
	if (!rx_room(s)) {
		s->overrun = LSR_OVERRUN;
		/* A full FIFO keeps what it has; without it the new byte takes the old one's place.
		 */
		if (s->fifo_on)
			return;
		rx_clear(s);
	}
	rx_put(s, byte);
}

static void data_write(struct serial *s, uint8_t byte)
{
	if (s->mcr & MCR_LOOP) {
		loop_back(s, byte);
	} else {
		timeline_mark(s->tl, MARK_SERIAL);
		if (s->host)
			chardev_write(s->host, &byte, 1);
	}
	/*
	 * The transmitter was full for a moment: a driver that did not read IIR sees a new edge.
	 * One is enough for bytes written in a row.
	 */
	if (s->thre_pending && s->last != (REG_DATA | LAST_WRITE)) {
		s->thre_pending = false;
		irq_update(s);
	}
	s->thre_pending = true;
}

static uint8_t data_read(struct serial *s)
{
	uint8_t byte = s->rx[s->rx_start];

	if (!s->rx_used)
		return 0;
	s->rx_start = (s->rx_start + 1) % FIFO_BYTES;
	s->rx_used--;
	return byte;
}

static void ier_write(struct serial *s, uint8_t value)
{
	/* Enabling tells of an empty transmitter, again and again: drivers start output so. */
	if (value & ~s->ier & IER_THRE)
		s->thre_pending = true;
	s->ier = value & IER_DEFINED;
}

static uint8_t iir_read(struct serial *s)
{
	uint8_t pending = iir_pending(s);

	if (pending == IIR_THRE)
		s->thre_pending = false;
	return pending | (s->fifo_on ? IIR_FIFO : 0);
}

static uint8_t lsr_read(struct serial *s)
{
	uint8_t value = LSR_EMPTY | s->overrun | (s->rx_used ? LSR_READY : 0);

	s->overrun = 0;
	if (s->rx_used || s->last != REG_LSR)
		s->lsr_looks = 0;
	if (!s->rx_used && s->lsr_looks < LOOKS_POLLING && ++s->lsr_looks == LOOKS_POLLING)
		s->polled = true;
	return value;
}

static uint8_t reg_read(struct serial *s, unsigned reg)
{
	uint8_t value = 0;

	switch (reg) {
	case REG_DATA:
		value = s->lcr & LCR_DLAB ? (uint8_t)s->divisor : data_read(s);
		break;
	case REG_IER:
		value = s->lcr & LCR_DLAB ? s->divisor >> 8 : s->ier;
		break;
	case REG_IIR_FCR:
		value = iir_read(s);
		break;
	case REG_LCR:
		value = s->lcr;
		break;
	case REG_MCR:
		value = s->mcr;
		break;
	case REG_LSR:
		value = lsr_read(s);
		break;
	case REG_MSR:
		value = s->msr;
		s->msr &= ~MSR_DELTAS;
		break;
	case REG_SCR:
		value = s->scr;
		break;
	}
	s->last = (uint8_t)reg;
	return value;
}

static void reg_write(struct serial *s, unsigned reg, uint8_t value)
{
	switch (reg) {
	case REG_DATA:
		if (s->lcr & LCR_DLAB)
			s->divisor = (s->divisor & 0xff00) | value;
		else
			data_write(s, value);
		break;
	case REG_IER:
		if (s->lcr & LCR_DLAB)
			s->divisor = (s->divisor & 0x00ff) | (uint16_t)(value << 8);
		else
			ier_write(s, value);
		break;
	case REG_IIR_FCR:
		fcr_write(s, value);
		break;
	case REG_LCR:
		s->lcr = value;
		break;
	case REG_MCR:
		mcr_write(s, value);
		break;
	case REG_SCR:
		s->scr = value;
		break;
	default:
		/* LSR and MSR are for the chip's makers to write. */
		break;
	}
	s->last = (uint8_t)reg | LAST_WRITE;
}

/* An access wider than the chip's eight data lines reaches the registers one after the other. */

static void serial_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct serial *s = ctx;
	bool ask;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < len; i++)
		data[i] = reg_read(s, (unsigned)offset + i);
	irq_update(s);
	ask = rx_ask(s);
	pthread_mutex_unlock(&s->lock);
	if (ask)
		chardev_accept(s->host);
}

static void serial_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct serial *s = ctx;
	bool ask;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < len; i++)
		reg_write(s, (unsigned)offset + i, data[i]);
	irq_update(s);
	ask = rx_ask(s);
	pthread_mutex_unlock(&s->lock);
	if (ask)
		chardev_accept(s->host);
}

/* The host side's calls, in the loop thread without the lock. */

static size_t host_rx(void *ctx, const uint8_t *bytes, size_t len)
{
	struct serial *s = ctx;
	size_t taken = 0;

	pthread_mutex_lock(&s->lock);
	while (taken < len && rx_listening(s) && rx_room(s))
		rx_put(s, bytes[taken++]);
	s->held_back = taken < len;
	irq_update(s);
	pthread_mutex_unlock(&s->lock);
	return taken;
}

static void host_quit(void *ctx)
{
	struct serial *s = ctx;

	if (s->quit)
		s->quit(s->quit_ctx);
}

static const struct bus_ops serial_ops = {serial_read, serial_write};

int serial_create(struct serial **ret, struct bus *bus, uint16_t base, const struct irq_line *irq,
	struct chardev *host, struct timeline *tl)
{
	struct serial *s = calloc(1, sizeof(*s));
	struct chardev_ops ops = {.rx = host_rx, .quit = host_quit, .ctx = s};
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->irq = *irq;
	s->host = host;
	s->tl = tl;
	s->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	s->trigger_bytes = 1;
	s->divisor = DIVISOR_RESET;
	pthread_mutex_init(&s->lock, NULL);
	if (host)
		r = chardev_attach(host, &ops);
	if (r < 0)
		goto err_free;
	r = bus_add_pio(bus, base, REG_COUNT, &serial_ops, s);
	if (r < 0)
		goto err_detach;
	*ret = s;
	return 0;

err_detach:
	if (host)
		chardev_attach(host, NULL);
err_free:
	pthread_mutex_destroy(&s->lock);
	free(s);
	return r;
}

void serial_destroy(struct serial *serial)
{
	if (!serial)
		return;
	if (serial->host)
		chardev_attach(serial->host, NULL);
	pthread_mutex_destroy(&serial->lock);
	free(serial);
}

void serial_on_quit(struct serial *serial, void (*fn)(void *ctx), void *ctx)
{
	serial->quit = fn;
	serial->quit_ctx = ctx;
}
