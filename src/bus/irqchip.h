/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BUS_IRQCHIP_H
#define KV_BUS_IRQCHIP_H

#include <stdint.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "kvm/kvm.h"

/*
 * Interrupt routing of a VM. With KVM_IRQCHIP_SPLIT this is an I/O APIC (82093AA) in user space
 * whose interrupts reach the local APICs in the kernel as messages; with KVM_IRQCHIP_FULL lines
 * are handed to the kernel's controllers.
 */
struct irqchip;

/*
 * Pins of the I/O APIC. The kernel's has 24, as on a PC, and so has ours unless more lines are
 * needed: operating systems set up each pin when they start, at some exits apiece.
 */
#define IRQCHIP_PINS	 24
#define IRQCHIP_PINS_MAX 64

/*
 * Make the routing for @vm, whose in-kernel part kvm_irqchip_create() made as @kind with @pins pins
 * (1..IRQCHIP_PINS_MAX), and put the I/O APIC's registers at @ioapic_base on @bus (split only).
 * Returns 0; -ENOMEM; bus_add_mmio()'s errors. Owns: destroyed after the vCPU threads ended.
 */
int irqchip_create(struct irqchip **ret, struct kvm_vm *vm, enum kvm_irqchip_kind kind,
	unsigned pins, struct bus *bus, gpa_t ioapic_base);
void irqchip_destroy(struct irqchip *chip);

/* The line of @gsi (below the number of pins), to be given to a device. */
struct irq_line irqchip_line(struct irqchip *chip, uint32_t gsi);

/*
 * A local APIC finished the level-triggered interrupt @vector (KVM_EXIT_IOAPIC_EOI): lines still
 * high are delivered again. Context: vCPU threads.
 */
void irqchip_eoi(struct irqchip *chip, uint8_t vector);

/* Interrupts that KVM failed to deliver so far. Context: any thread. */
uint64_t irqchip_errors(const struct irqchip *chip);

#endif
