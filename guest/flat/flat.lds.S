/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layout of a flat guest, preprocessed twice: with PVH_NOTE for NAME.pvh.elf, without it for
 * NAME.elf64. Addresses are physical and virtual at once.
 *
 * The spare PT_NULL header is for tools that make images of a chosen size: turned into a PT_LOAD,
 * it can cover padding appended to the file without moving anything else.
 */
OUTPUT_FORMAT(elf64-x86-64)
OUTPUT_ARCH(i386:x86-64)
ENTRY(linux_entry)

PHDRS
{
	text PT_LOAD FLAGS(5);
	data PT_LOAD FLAGS(6);
#ifdef PVH_NOTE
	note PT_NOTE FLAGS(4);
#endif
	spare PT_NULL FLAGS(0);
}

SECTIONS
{
	. = 0x200000;
	image_start = .;
	.text : {
		KEEP(*(.text.entry))
		*(.text .text.*)
	} :text
	.rodata : { *(.rodata .rodata.*) } :text
#ifdef PVH_NOTE
	.note.pvh : ALIGN(4) {
		/* Source: Xen, public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY */
		LONG(4)
		LONG(4)
		LONG(18)
		LONG(0x006e6558)
		LONG(ABSOLUTE(pvh_entry))
	} :text :note
#endif

	. = ALIGN(0x1000);
	.data : { KEEP(*(.data.keep)) *(.data .data.*) . = ALIGN(16); } :data
	.bss : {
		. = ALIGN(16);
		bss_start = .;
		*(.bss.first)
		*(.bss .bss.* COMMON)
		. = ALIGN(16);
		bss_end = .;
	} :data
	image_end = .;

	/DISCARD/ : { *(.note.* .comment .eh_frame*) }
}
