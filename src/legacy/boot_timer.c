/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <stddef.h>

#include "legacy/legacy.h"
#include "x86/layout.h"

#define BOOT_COMPLETE 123

static void timer_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct boot_timer *dev = ctx;

	if (offset != 0 || len != 1 || data[0] != BOOT_COMPLETE)
		return;
	if (atomic_exchange(&dev->fired, true))
		return;
	timeline_mark(dev->tl, MARK_BOOT);
	if (dev->done)
		dev->done(dev->ctx);
}

static void timer_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		data[i] = 0;
}

static const struct bus_ops timer_ops = {timer_read, timer_write};

int boot_timer_add(struct boot_timer *dev, struct bus *bus, struct timeline *tl,
	void (*done)(void *ctx), void *ctx)
{
	int r;

	*dev = (struct boot_timer){.tl = tl, .done = done, .ctx = ctx};
	r = bus_add_mmio(bus, LAYOUT_TIMER_NEW, PAGE_BYTES, &timer_ops, dev);
	if (r < 0)
		return r;
	return bus_add_mmio(bus, LAYOUT_TIMER_OLD, PAGE_BYTES, &timer_ops, dev);
}
