/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BUS_IRQ_H
#define KV_BUS_IRQ_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The handle by which a device raises its interrupt, whatever controller stands behind it.
 * Embedded by value in the device; filled by irqchip_line() or, in tests, by hand.
 */
struct irq_line {
	/* [c] sets the level of @gsi; an edge-triggered line is pulsed by true, false */
	void (*set)(void *ctx, uint32_t gsi, bool level);
	void *ctx;    /* [c] */
	uint32_t gsi; /* [c] */
};

/* Set the line's level; a line without a controller is ignored. Context: any thread. */
static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->ctx, line->gsi, level);
}

#endif
