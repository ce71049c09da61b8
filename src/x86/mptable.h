/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_MPTABLE_H
#define KV_X86_MPTABLE_H

#include <stdint.h>

#include "base/err.h"
#include "gmem/gmem.h"

/*
 * Intel MultiProcessor Specification 1.4 tables: floating pointer at LAYOUT_MP_POINTER,
 * configuration table (processors, ISA bus, I/O APIC, its pins as ISA interrupts of the same
 * number, local interrupts) at LAYOUT_MP_CONFIG. Only kernels without ACPI read the configuration;
 * Linux looks for the pointer in any case, and finding it ends a search that is much longer in
 * vain.
 */

/*
 * Interrupts listed for an I/O APIC that no device uses beyond the ISA's. More are listed where
 * devices use them: Linux sets up listed pins only.
 */
#define MPTABLE_IRQS 16

/* Bytes of the configuration table for @cpus CPUs and @irqs interrupts. The ACPI tables follow. */
uint64_t mptable_bytes(unsigned cpus, unsigned irqs);

/*
 * Write the tables for @cpus CPUs (1..254) and the first @irqs pins of the I/O APIC (1..255).
 * Returns 0; -E2BIG (too many CPUs); -EFAULT (RAM too small).
 */
int mptable_write(struct gmem *gm, unsigned cpus, unsigned irqs, struct kv_err *err);

#endif
