/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boot-complete byte, then nothing for ever: an idle VM to look at from outside.
 * One code for both entries; see signal.S.
 */
	.section .text.entry, "ax"
	.code32
	.globl pvh_entry, linux_entry
	.type pvh_entry, @function
	.type linux_entry, @function
pvh_entry:
linux_entry:
	movl	$0xd0000000, %ebx
	movb	$123, (%ebx)
1:	cli
	hlt
	jmp	1b
	.size pvh_entry, . - pvh_entry
	.size linux_entry, . - linux_entry

	.section .data.keep, "aw"
	.asciz	"kvick flat guest"
