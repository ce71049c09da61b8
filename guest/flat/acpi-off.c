/* SPDX-License-Identifier: Apache-2.0 */
/* Powers off through the ACPI sleep control register of a hardware-reduced machine. */
#include "flat.h"

#define SLEEP_CONTROL 0x600
#define SLEEP_TYPE_S5 (5 << 2)
#define SLEEP_ENABLE  (1 << 5)

const uint32_t guest_ring = 0;

void guest_main(const struct boot *boot)
{
	(void)boot;
	outb(SLEEP_CONTROL, SLEEP_TYPE_S5 | SLEEP_ENABLE);
	put_text("acpi-off: still running\n");
}
