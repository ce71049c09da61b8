/* SPDX-License-Identifier: Apache-2.0 */
#include "bus/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct bus_range {
	uint64_t base;
	uint64_t len;
	const struct bus_ops *ops;
	void *ctx;
};

/* [c] once the vCPUs run: sorted by base, found by bisection. */
struct bus_space {
	unsigned count;
	struct bus_range ranges[BUS_RANGES_MAX];
};

struct bus {
	struct bus_space pio;
	struct bus_space mmio;
};

int bus_create(struct bus **ret)
{
	/* Ranges are valid up to their count; clearing all would cost page faults. */
	struct bus *bus = malloc(sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	bus->pio.count = 0;
	bus->mmio.count = 0;
	*ret = bus;
	return 0;
}

void bus_destroy(struct bus *bus)
{
	free(bus);
}

static int space_add(struct bus_space *space, uint64_t base, uint64_t len, uint64_t limit,
	const struct bus_ops *ops, void *ctx)
{
	unsigned at = 0;
	uint64_t end;

	if (!len || !range_end(base, len, &end) || end > limit)
		return -EINVAL;
	if (space->count == BUS_RANGES_MAX)
		return -ENOSPC;
	while (at < space->count && space->ranges[at].base < base)
		at++;
	if (at > 0 && base - space->ranges[at - 1].base < space->ranges[at - 1].len)
		return -EEXIST;
	if (at < space->count && space->ranges[at].base < end)
		return -EEXIST;
	memmove(&space->ranges[at + 1], &space->ranges[at],
		(space->count - at) * sizeof(space->ranges[0]));
	space->ranges[at] = (struct bus_range){base, len, ops, ctx};
	space->count++;
	return 0;
}

int bus_add_pio(struct bus *bus, uint16_t base, uint32_t len, const struct bus_ops *ops, void *ctx)
{
	return space_add(&bus->pio, base, len, 0x10000, ops, ctx);
}

int bus_add_mmio(struct bus *bus, gpa_t base, uint64_t len, const struct bus_ops *ops, void *ctx)
{
	return space_add(&bus->mmio, base, len, UINT64_MAX, ops, ctx);
}

/* The range that takes all of [@addr, @addr + @len), or NULL. */
static const struct bus_range *space_find(
	const struct bus_space *space, uint64_t addr, unsigned len)
{
	unsigned low = 0, high = space->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		const struct bus_range *range = &space->ranges[mid];

		if (addr < range->base)
			high = mid;
		else if (addr - range->base >= range->len)
			low = mid + 1;
		else
			return len <= range->len - (addr - range->base) ? range : NULL;
	}
	return NULL;
}

static void space_read(const struct bus_space *space, uint64_t addr, uint8_t *data, unsigned len)
{
	const struct bus_range *range = space_find(space, addr, len);

	/* A handler that leaves bytes alone, or none at all: the bus floats high. */
	memset(data, 0xff, len);
	if (range && range->ops->read)
		range->ops->read(range->ctx, addr - range->base, data, len);
}

static void space_write(
	const struct bus_space *space, uint64_t addr, const uint8_t *data, unsigned len)
{
	const struct bus_range *range = space_find(space, addr, len);

	if (range && range->ops->write)
		range->ops->write(range->ctx, addr - range->base, data, len);
}

void bus_pio_read(struct bus *bus, uint16_t port, uint8_t *data, unsigned size, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++, data += size)
		space_read(&bus->pio, port, data, size);
}

void bus_pio_write(
	struct bus *bus, uint16_t port, const uint8_t *data, unsigned size, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++, data += size)
		space_write(&bus->pio, port, data, size);
}

void bus_mmio_read(struct bus *bus, gpa_t gpa, uint8_t *data, unsigned len)
{
	space_read(&bus->mmio, gpa, data, len);
}

void bus_mmio_write(struct bus *bus, gpa_t gpa, const uint8_t *data, unsigned len)
{
	space_write(&bus->mmio, gpa, data, len);
}
