/* SPDX-License-Identifier: Apache-2.0 */
/* Prints its command line and a greeting. */
#include "flat.h"

const uint32_t guest_ring = 0;

void guest_main(const struct boot *boot)
{
	put_text("cmdline: ");
	put_text(boot->cmdline);
	put_text("\nhello from the flat guest\n");
}
