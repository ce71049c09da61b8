/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_LEGACY_LEGACY_H
#define KV_LEGACY_LEGACY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "legacy/chardev.h"
#include "trace/timeline.h"

/* Why a guest asked for the end of the run. */
enum guest_end {
	GUEST_END_RESET,    /* i8042 or ACPI reset */
	GUEST_END_POWEROFF, /* ACPI S5 */
};

/* Told once or more, from vCPU threads. */
struct legacy_end {
	void (*fn)(void *ctx, enum guest_end why);
	void *ctx;
};

/*
 * 16550A UART at @base with FIFOs, interrupts and modem lines (TL16C550C data sheet). @irq is
 * edge-triggered like ISA's; @host (borrowed) may be NULL: output is dropped. @tl (may be NULL)
 * gets MARK_SERIAL. Returns 0; -ENOMEM; bus_add_pio()'s errors. Owns: the caller destroys it after
 * the vCPU threads ended and before @host.
 */
struct serial;
int serial_create(struct serial **ret, struct bus *bus, uint16_t base, const struct irq_line *irq,
	struct chardev *host, struct timeline *tl);
void serial_destroy(struct serial *serial);

/*
 * Name who is told when the person at the console typed the escape that ends the run (chardev.h).
 * Context: before the loop runs; @fn is called in the loop thread.
 */
void serial_on_quit(struct serial *serial, void (*fn)(void *ctx), void *ctx);

/*
 * The small fixed devices; each is a structure that the caller embeds, registers on the bus and
 * keeps until the vCPU threads ended. Return 0 or bus_add_*()'s errors.
 */

/* i8042 at 0x60/0x64: enough for "reset by keyboard controller" (command 0xfe) and Linux's probe.
 */
struct i8042 {
	struct legacy_end end;					/* [c] */
	_Atomic uint8_t out_full, out_byte, last_command, mode; /* [a] each by itself */
};
int i8042_add(struct i8042 *dev, struct bus *bus, struct legacy_end end);

/* ACPI hardware-reduced sleep control/status (S5 = type 5) and reset register at LAYOUT_PORT_ACPI's
 * three ports. */
struct acpi_regs {
	struct legacy_end end; /* [c] */
};
#define ACPI_SLEEP_TYPE_S5 5
#define ACPI_RESET_VALUE   0x01
int acpi_regs_add(struct acpi_regs *dev, struct bus *bus, uint16_t base, struct legacy_end end);

/*
 * ACPI PM1 event and control registers, six ports from @base: what a FADT that is not
 * hardware-reduced must have. Used beside a PIC only (x86/acpi.h); never raises an interrupt.
 */
struct acpi_pm1 {
	struct legacy_end end;	   /* [c] */
	_Atomic uint8_t enable[2]; /* [a] */
};
int acpi_pm1_add(struct acpi_pm1 *dev, struct bus *bus, uint16_t base, struct legacy_end end);

/*
 * Boot timer: byte 123 written to a page at 0xd0000000 (Firecracker up to 1.12) or 0xc0000000
 * (since 1.13) means "boot complete": marks MARK_BOOT once and calls @done(@ctx) (may be NULL)
 * then, in the vCPU thread.
 */
struct boot_timer {
	struct timeline *tl;	 /* [c] may be NULL */
	void (*done)(void *ctx); /* [c] */
	void *ctx;		 /* [c] */
	_Atomic bool fired;
};
int boot_timer_add(struct boot_timer *dev, struct bus *bus, struct timeline *tl,
	void (*done)(void *ctx), void *ctx);

/*
 * Trace ports: 0x80 (POST codes, Cloud Hypervisor's meanings), 0xf4 (qemu-boot-time, Linux), 0xf5
 * (firmware) become timeline events (and the marks they stand for: 0x80 0x40 and 0xf4 6
 * MARK_START_KERNEL, 0x80 0x41 and 0xf4 7 MARK_USER); 0xe9 is a debug console: its text goes line
 * by line to @log. Reading 0xe9 gives 0xe9.
 */
struct trace_ports {
	struct timeline *tl;	  /* [c] may be NULL */
	const struct kv_log *log; /* [c] may be NULL */
	pthread_mutex_t lock;	  /* guards line, used; held while @log's sink is called */
	char line[256];
	unsigned used;
};
int trace_ports_add(
	struct trace_ports *dev, struct bus *bus, struct timeline *tl, const struct kv_log *log);
void trace_ports_drop(struct trace_ports *dev); /* log a last line without newline, free the lock */

#endif
