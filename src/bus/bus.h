/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BUS_BUS_H
#define KV_BUS_BUS_H

#include <stdint.h>

#include "base/num.h"

/*
 * The two address spaces that trap to the monitor. A device registers ranges before the vCPUs
 * start; afterwards the tables are constant and are read without locks by all vCPU threads.
 * An access that no range takes reads as all ones and ignores writes, as on a PC.
 */
struct bus;

#define BUS_RANGES_MAX 96 /* per address space */

/*
 * An access of @len bytes (1, 2, 4 or 8; ports 1, 2 or 4) at @offset from the range's start, wholly
 * inside the range. @data is little-endian, as in struct kvm_run; a read handler fills it.
 * Context: vCPU threads, several at once; the device does its own locking.
 */
struct bus_ops {
	void (*read)(void *ctx, uint64_t offset, uint8_t *data, unsigned len);
	void (*write)(void *ctx, uint64_t offset, const uint8_t *data, unsigned len);
};

/* Returns 0 or -ENOMEM. Owns: the caller destroys it after the vCPU threads ended. */
int bus_create(struct bus **ret);
void bus_destroy(struct bus *bus);

/*
 * Give [@base, @base + @len) to @ops (borrowed, constant; either handler may be NULL: reads as all
 * ones, writes ignored) with @ctx.
 * Returns 0; -EINVAL (empty, beyond the address space); -EEXIST (overlap); -ENOSPC.
 * Context: before the vCPUs start.
 */
int bus_add_pio(struct bus *bus, uint16_t base, uint32_t len, const struct bus_ops *ops, void *ctx);
int bus_add_mmio(struct bus *bus, gpa_t base, uint64_t len, const struct bus_ops *ops, void *ctx);

/*
 * Dispatch one exit: @count port accesses of @size bytes to @port (string instructions), or one
 * MMIO access. Context: vCPU threads.
 */
void bus_pio_read(struct bus *bus, uint16_t port, uint8_t *data, unsigned size, uint32_t count);
void bus_pio_write(
	struct bus *bus, uint16_t port, const uint8_t *data, unsigned size, uint32_t count);
void bus_mmio_read(struct bus *bus, gpa_t gpa, uint8_t *data, unsigned len);
void bus_mmio_write(struct bus *bus, gpa_t gpa, const uint8_t *data, unsigned len);

#endif
