/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_ACPI_H
#define KV_X86_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "gmem/gmem.h"

/*
 * ACPI 6.5 tables for the machine: RSDP, XSDT, FADT (hardware-reduced: sleep and reset registers in
 * port space, no PM timer, no SCI), MADT (local APICs, one I/O APIC), where nodes are told SRAT
 * (all CPUs in node 0), DSDT (\_S5, CPUs, serial port, virtio-mmio devices).
 *
 * A hardware-reduced FADT makes Linux use neither PIC nor PIT, whether they exist or not
 * (acpi_generic_reduced_hw_init). So with a legacy irqchip the FADT is a full one, with PM1
 * registers and a FACS.
 */

/* A virtio-mmio device in the DSDT (LNRO0005). */
struct acpi_virtio {
	gpa_t gpa;
	uint64_t bytes;
	uint32_t gsi;
};

#define ACPI_VIRTIO_MAX 32

/* Memory that belongs to a NUMA node of the guest's. */
struct acpi_memory {
	gpa_t gpa;
	uint64_t bytes;
	uint32_t node;
	bool hot; /* it comes and goes; else it is RAM from the start */
};

#define ACPI_MEMORY_MAX 10

struct acpi_config {
	unsigned cpus;	     /* 1..254 */
	unsigned irqs;	     /* listed in the MP table, which the tables follow */
	bool serial;	     /* COM1 at 0x3f8, IRQ 4 (PNP0501) */
	bool legacy_irqchip; /* PICs and PIT exist: MADT PCAT_COMPAT, FADT not hardware-reduced */
	unsigned virtio_count;
	struct acpi_virtio virtio[ACPI_VIRTIO_MAX];
	unsigned memory_count; /* 0: no NUMA nodes are told */
	struct acpi_memory memory[ACPI_MEMORY_MAX];
};

/*
 * Write the tables behind the MP configuration table for as many CPUs and interrupts
 * (LAYOUT_MP_CONFIG), RSDP first, on a 16-byte boundary. All pins of the I/O APIC are GSIs of the
 * same number, ISA IRQs included, so that no interrupt source override is needed. Returns 0 and
 * *@ret_rsdp; -E2BIG when they do not fit below 1 MiB; -EFAULT (RAM too small).
 */
int acpi_write(
	struct gmem *gm, const struct acpi_config *config, gpa_t *ret_rsdp, struct kv_err *err);

#endif
