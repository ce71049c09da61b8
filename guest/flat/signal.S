/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boot-complete byte on every channel kvick listens to, then a reset: the shortest useful run.
 *
 * One code for both entries: each instruction has the same bytes and the same meaning in 32-bit
 * and in 64-bit mode (addresses are below 4 GiB, and a 32-bit immediate clears the upper half).
 */
#ifndef SIGNAL_ADDR
#define SIGNAL_ADDR 0xd0000000
#endif

	.section .text.entry, "ax"
	.code32
	.globl pvh_entry, linux_entry
	.type pvh_entry, @function
	.type linux_entry, @function
pvh_entry:
linux_entry:
	movl	$SIGNAL_ADDR, %ebx
	movb	$123, %al
	movb	%al, (%ebx)
	outb	%al, $0xf4
	movb	$0xfe, %al
	outb	%al, $0x64
1:	hlt
	jmp	1b
	.size pvh_entry, . - pvh_entry
	.size linux_entry, . - linux_entry

	.section .data.keep, "aw"
	.asciz	"kvick flat guest"
