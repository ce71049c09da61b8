/* SPDX-License-Identifier: Apache-2.0 */
/* Source: ACPI 6.5, 4.8.3.6 (reset register), 4.8.3.7 (sleep control and status registers). */
#include "legacy/legacy.h"

enum { REG_SLEEP_CONTROL, REG_SLEEP_STATUS, REG_RESET, REG_COUNT };

#define SLEEP_ENABLE	 (1U << 5)
#define SLEEP_TYPE(byte) ((byte) >> 2 & 7)

/*
 * Nothing can be read back: sleep type and enable are write-only to the guest's purposes, and the
 * wake bit is never set since no state but S5 is entered.
 */
static void regs_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		data[i] = 0;
}

static void regs_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	const struct acpi_regs *dev = ctx;

	for (unsigned i = 0; i < len; i++) {
		if (offset + i == REG_SLEEP_CONTROL && data[i] & SLEEP_ENABLE &&
			SLEEP_TYPE(data[i]) == ACPI_SLEEP_TYPE_S5)
			dev->end.fn(dev->end.ctx, GUEST_END_POWEROFF);
		if (offset + i == REG_RESET && data[i] == ACPI_RESET_VALUE)
			dev->end.fn(dev->end.ctx, GUEST_END_RESET);
	}
}

static const struct bus_ops regs_ops = {regs_read, regs_write};

int acpi_regs_add(struct acpi_regs *dev, struct bus *bus, uint16_t base, struct legacy_end end)
{
	*dev = (struct acpi_regs){.end = end};
	return bus_add_pio(bus, base, REG_COUNT, &regs_ops, dev);
}
