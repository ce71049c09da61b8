/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From either entry to flat_main() in 64-bit mode, in the ring the guest asked for (guest_ring),
 * with own page tables (4 GiB one to one, ring 3 allowed), descriptors and stack.
 *
 * The tables are data, not code: where KVM interprets a guest's kernel mode, filling 2,048 entries
 * would cost more than all the rest.
 */
#define CODE32	0x08
#define CODE64	0x10
#define DATA	0x18
#define UDATA	0x23
#define UCODE	0x2b
#define TSS	0x30

/* The TSS with a bit for each port, all zero: ring 3 may use every port. (A raised IOPL would do
 * on a processor, but kvm_pvm does not honour it.) One byte of ones must follow the map. */
#define TSS_IOMAP	0x68
#define TSS_BYTES	(TSS_IOMAP + 8192 + 1)

	.section .text.entry, "ax"
	.globl pvh_entry, linux_entry
	.type pvh_entry, @function
	.type linux_entry, @function

	/* PVH: 32-bit protected mode, paging off, hvm_start_info in ebx. */
	.code32
pvh_entry:
	movl	%ebx, boot_info_addr
	movb	$1, boot_is_pvh
	lgdtl	gdt_pointer
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
	orl	$0x80000000, %eax	/* PG */
	movl	%eax, %cr0
	ljmpl	$CODE64, $long_mode
	.size pvh_entry, . - pvh_entry

	/* Linux: 64-bit mode on the monitor's page tables, boot_params in rsi. */
	.code64
linux_entry:
	movl	%esi, boot_info_addr
	lgdt	gdt_pointer
	movl	$pml4, %eax
	movq	%rax, %cr3
	movl	$stack_top, %esp
	pushq	$CODE64
	pushq	$long_mode
	lretq
	.size linux_entry, . - linux_entry

	.text
	.type long_mode, @function
long_mode:
	movl	$DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	movl	$stack_top, %esp
	movl	$tss, %eax		/* a descriptor's base is in pieces no relocation fits */
	movw	%ax, gdt + TSS + 2
	shrl	$16, %eax
	movb	%al, gdt + TSS + 4
	movb	%ah, gdt + TSS + 7
	movl	$stack_top, tss + 4	/* rsp0, for faults in ring 3 */
	movw	$TSS_IOMAP, tss + 0x66
	movb	$0xff, tss + TSS_BYTES - 1
	movl	$TSS, %eax
	ltr	%ax
	call	idt_load
	cmpl	$3, guest_ring
	jne	1f
	pushq	$UDATA
	pushq	$user_stack_top
	pushq	$2
	pushq	$UCODE
	pushq	$1f
	iretq
1:	xorl	%ebp, %ebp
	call	flat_main
	ud2
	.size long_mode, . - long_mode

	/* One entry of 16 bytes for each exception; those without an error code push a 0. */
	.globl fault_stubs
	.type fault_stubs, @function
	.balign 16
fault_stubs:
	.set	vector, 0
	.rept	32
	.balign 16
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || \
		  vector == 29 || vector == 30)
	pushq	$0
	.endif
	pushq	$vector
	jmp	fault_entry
	.set	vector, vector + 1
	.endr
	.size fault_stubs, . - fault_stubs

fault_entry:
	popq	%rdi			/* vector */
	popq	%rsi			/* error code */
	movq	(%rsp), %rdx		/* rip */
	movq	%cr2, %rcx
	call	fault_report
	ud2

	.data
	.balign 16
	.globl gdt
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* CODE32 */
	.quad	0x00af9b000000ffff	/* CODE64 */
	.quad	0x00cf93000000ffff	/* DATA */
	.quad	0x00cff3000000ffff	/* UDATA */
	.quad	0x00affb000000ffff	/* UCODE */
	.quad	0x0000890000000000 | (TSS_BYTES - 1), 0	/* TSS; long_mode fills in the base */
gdt_end:
	/* With room for the 64-bit base; the 32-bit form reads only its lower half. */
gdt_pointer:
	.word	gdt_end - gdt - 1
	.quad	gdt

	.balign 4096
	.globl pml4, pdpt
pml4:
	.quad	pdpt + 7
	.skip	4096 - 8
pdpt:
	.set	i, 0
	.rept	4
	.quad	page_dirs + i * 4096 + 7
	.set	i, i + 1
	.endr
	.skip	4096 - 4 * 8
page_dirs:
	.set	i, 0
	.rept	2048
	.quad	(i << 21) | 0x87
	.set	i, i + 1
	.endr

	.globl boot_info_addr, boot_is_pvh
boot_info_addr:
	.long	0
boot_is_pvh:
	.long	0

	.bss
	.balign 16
tss:
	.skip	TSS_BYTES
	.balign 16
	.skip	8192
stack_top:
	.skip	8192
user_stack_top:
