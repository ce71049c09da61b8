/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an application processor of smp.c runs: from real mode, at a page below 1 MiB that smp.c
 * copies this to, to 64-bit mode, where it counts itself and stops.
 */
#define CODE32	0x08
#define CODE64	0x10
#define DATA	0x18
#define LOCAL(label) ((label) - ap_start)

	.section .rodata.ap, "a"
	.globl ap_start, ap_end
	.type ap_start, @object
ap_start:
	.code16
	cli
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	LOCAL(ap_gdt_pointer)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$CODE32, $ap_protected
	.balign 4
ap_gdt_pointer:
	.word	4 * 8 - 1
	.long	gdt
ap_end:
	.size ap_start, . - ap_start

	.text
	.code32
	.type ap_protected, @function
ap_protected:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	%cr4, %eax
	orl	$0x20, %eax		/* PAE */
	movl	%eax, %cr4
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER */
	rdmsr
	orl	$0x100, %eax		/* LME */
	wrmsr
	movl	%cr0, %eax
	andl	$0x9fffffff, %eax	/* INIT leaves the caches off: CD, NW */
	orl	$0x80000000, %eax	/* PG */
	movl	%eax, %cr0
	ljmpl	$CODE64, $ap_long
	.size ap_protected, . - ap_protected

	.code64
	.type ap_long, @function
ap_long:
	/* No stack: the APIC ID by CPUID, a slot by an atomic add, and that is all. */
	xorl	%eax, %eax
	cpuid
	cmpl	$0xb, %eax
	jb	1f
	movl	$0xb, %eax
	xorl	%ecx, %ecx
	cpuid
	testl	%ebx, %ebx		/* no topology there: the old field */
	jnz	2f
1:	movl	$1, %eax
	cpuid
	shrl	$24, %ebx
	movl	%ebx, %edx
2:	movl	$1, %eax
	lock xaddl %eax, ap_claimed
	cmpl	$256, %eax
	jae	3f
	movl	%edx, ap_ids(, %rax, 4)
	lock incl ap_online
3:	cli
	hlt
	jmp	3b
	.size ap_long, . - ap_long

	.bss
	.balign 4
	.globl ap_claimed, ap_online, ap_ids
ap_claimed:
	.long	0
ap_online:
	.long	0
ap_ids:
	.skip	256 * 4
