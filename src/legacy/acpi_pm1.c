/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source: ACPI 6.5, 4.8.3.1 (PM1 event registers), 4.8.3.2 (PM1 control register). Everything is
 * done bytewise, so that an access of any width does what its bytes say.
 */
#include "legacy/legacy.h"

enum { REG_STATUS = 0, REG_ENABLE = 2, REG_CONTROL = 4, REG_COUNT = 6 };

/* Control register, low byte: ACPI, not firmware, owns the registers. */
#define SCI_ENABLED 0x01
/* Control register, high byte. */
#define SLEEP_ENABLE	 (1U << 5)
#define SLEEP_TYPE(byte) ((byte) >> 2 & 7)

static void regs_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct acpi_pm1 *dev = ctx;

	for (unsigned i = 0; i < len; i++) {
		uint64_t reg = offset + i;

		/* No event ever happens; drivers check that what they enabled is enabled. */
		data[i] = 0;
		if (reg == REG_ENABLE || reg == REG_ENABLE + 1)
			data[i] = dev->enable[reg - REG_ENABLE];
		else if (reg == REG_CONTROL)
			data[i] = SCI_ENABLED;
	}
}

static void regs_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct acpi_pm1 *dev = ctx;

	for (unsigned i = 0; i < len; i++) {
		uint64_t reg = offset + i;

		if (reg == REG_ENABLE || reg == REG_ENABLE + 1)
			dev->enable[reg - REG_ENABLE] = data[i];
		else if (reg == REG_CONTROL + 1 && data[i] & SLEEP_ENABLE &&
			 SLEEP_TYPE(data[i]) == ACPI_SLEEP_TYPE_S5)
			dev->end.fn(dev->end.ctx, GUEST_END_POWEROFF);
	}
}

static const struct bus_ops regs_ops = {regs_read, regs_write};

int acpi_pm1_add(struct acpi_pm1 *dev, struct bus *bus, uint16_t base, struct legacy_end end)
{
	dev->end = end;
	dev->enable[0] = dev->enable[1] = 0;
	return bus_add_pio(bus, base, REG_COUNT, &regs_ops, dev);
}
