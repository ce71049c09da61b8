/* SPDX-License-Identifier: Apache-2.0 */
/* Echoes serial input until a q or Ctrl-D. */
#include "flat.h"

const uint32_t guest_ring = 0;

void guest_main(const struct boot *boot)
{
	(void)boot;
	put_text("echo ready\n");
	for (;;) {
		uint8_t c;

		if (!(inb(PORT_SERIAL_LSR) & LSR_DATA_READY))
			continue;
		c = inb(PORT_SERIAL);
		if (c == 'q' || c == 4)
			break;
		put_char((char)c);
	}
	put_text("\necho done\n");
}
