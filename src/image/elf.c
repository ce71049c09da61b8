/* SPDX-License-Identifier: Apache-2.0 */
#include "image/elf.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/fd.h"

/* No x86-64 CPU has more physical address bits (SDM volume 3, 4.1.4). */
#define PHYS_END (1ULL << 52)

/* Both boot protocols enter inside the 4 GiB that the monitor maps (or that 32 bits reach). */
#define ENTRY_END (4 * GIB)

int elf_read(const struct elf_file *elf, uint64_t offset, void *buf, size_t len)
{
	uint64_t end;

	if (!range_end(offset, len, &end) || end > elf->bytes)
		return -ENODATA;
	if (end <= elf->head_bytes) {
		memcpy(buf, elf->head + offset, len);
		return 0;
	}
	return fd_pread_all(elf->fd, buf, len, elf->base + offset);
}

static const char *machine_name(unsigned machine)
{
	switch (machine) {
	case EM_386:
		return "32-bit x86";
	case EM_ARM:
		return "32-bit Arm";
	case EM_AARCH64:
		return "AArch64";
	case EM_RISCV:
		return "RISC-V";
	case EM_PPC64:
		return "64-bit PowerPC";
	case EM_S390:
		return "s390";
	case EM_LOONGARCH:
		return "LoongArch";
	default:
		return "unknown to kvick";
	}
}

static int ident_check(const Elf64_Ehdr *eh, struct kv_err *err)
{
	if (memcmp(eh->e_ident, ELFMAG, SELFMAG))
		return err_set(err, -ENOEXEC, "it does not start with the ELF magic");
	if (eh->e_ident[EI_CLASS] == ELFCLASS32)
		return err_set(err, -ENOTSUP,
			"it is a 32-bit ELF file (class 1); a 64-bit one (class 2) is needed");
	if (eh->e_ident[EI_CLASS] != ELFCLASS64)
		return err_set(err, -ENOEXEC, "ELF class %u is neither 32-bit (1) nor 64-bit (2)",
			eh->e_ident[EI_CLASS]);
	if (eh->e_ident[EI_DATA] == ELFDATA2MSB)
		return err_set(err, -ENOTSUP,
			"it is a big-endian ELF file (data encoding 2); x86-64 is little-endian "
			"(1)");
	if (eh->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(err, -ENOEXEC, "ELF data encoding %u is not little-endian (1)",
			eh->e_ident[EI_DATA]);
	return 0;
}

static int header_check(const struct elf_file *elf, const Elf64_Ehdr *eh, struct kv_err *err)
{
	int r = ident_check(eh, err);
	uint64_t end;

	if (r < 0)
		return r;
	if (eh->e_machine != EM_X86_64)
		return err_set(err, -ENOTSUP,
			"it is made for ELF machine %u (%s), not for x86-64 (62)", eh->e_machine,
			machine_name(eh->e_machine));
	if (eh->e_type == ET_REL || eh->e_type == ET_CORE)
		return err_set(err, -ENOEXEC, "it is %s, not a linked kernel",
			eh->e_type == ET_REL ? "an object file or kernel module (ELF type 1)"
					     : "a core dump (ELF type 4)");
	if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
		return err_set(err, -ENOEXEC,
			"ELF type %u is neither executable (2) nor shared (3)", eh->e_type);
	if (eh->e_phnum == 0)
		return err_set(
			err, -ENOEXEC, "it has no program headers: nothing says what to load");
	if (eh->e_phnum > ELF_PHDRS_MAX)
		return err_set(err, -ENOEXEC, "it has %u program headers; at most %u are allowed",
			eh->e_phnum, ELF_PHDRS_MAX);
	if (eh->e_phentsize != sizeof(Elf64_Phdr))
		return err_set(err, -ENOEXEC,
			"its program headers have %u bytes each instead of %zu", eh->e_phentsize,
			sizeof(Elf64_Phdr));
	if (!range_end(eh->e_phoff, eh->e_phnum * sizeof(Elf64_Phdr), &end) || end > elf->bytes)
		return err_set(err, -ENOEXEC,
			"its %u program headers at 0x%" PRIx64 " lie beyond its end (%" PRIu64
			" bytes): the file is cut off",
			eh->e_phnum, eh->e_phoff, elf->bytes);
	return 0;
}

/* The bytes that @ph takes from the file. */
static int file_range_check(
	const struct elf_file *elf, unsigned index, const Elf64_Phdr *ph, struct kv_err *err)
{
	uint64_t end;

	/* A segment without file data may carry any offset, even one behind the end. */
	if (!ph->p_filesz)
		return 0;
	if (!range_end(ph->p_offset, ph->p_filesz, &end) || end > elf->bytes)
		return err_set(err, -ENOEXEC,
			"program header %u: its 0x%" PRIx64 " bytes at file offset 0x%" PRIx64
			" lie beyond the end (%" PRIu64 " bytes): the file is cut off",
			index, ph->p_filesz, ph->p_offset, elf->bytes);
	return 0;
}

static int segment_check(
	const struct elf_file *elf, unsigned index, const Elf64_Phdr *ph, struct kv_err *err)
{
	uint64_t end;

	if (ph->p_filesz > ph->p_memsz)
		return err_set(err, -ENOEXEC,
			"program header %u: file size 0x%" PRIx64
			" is larger than memory size 0x%" PRIx64,
			index, ph->p_filesz, ph->p_memsz);
	if (!range_end(ph->p_paddr, ph->p_memsz, &end) || end > PHYS_END)
		return err_set(err, -ENOEXEC,
			"program header %u: 0x%" PRIx64 " bytes at physical address 0x%" PRIx64
			" reach beyond the 52 bits of an address",
			index, ph->p_memsz, ph->p_paddr);
	if (ph->p_paddr < IMAGE_GPA_MIN)
		return err_set(err, -ENOEXEC,
			"program header %u: physical address 0x%" PRIx64
			" is below 0x%llx, where the boot structures lie",
			index, ph->p_paddr, IMAGE_GPA_MIN);
	return file_range_check(elf, index, ph, err);
}

/* Keep the segments ascending by address. */
static int segment_add(struct image_plan *plan, const struct elf_file *elf, const Elf64_Phdr *ph,
	struct kv_err *err)
{
	unsigned at = plan->segment_count;

	if (at == IMAGE_SEGMENTS_MAX)
		return err_set(
			err, -ENOEXEC, "it has more than %u segments to load", IMAGE_SEGMENTS_MAX);
	for (; at > 0 && plan->segments[at - 1].gpa > ph->p_paddr; at--)
		plan->segments[at] = plan->segments[at - 1];
	plan->segments[at] = (struct image_segment){
		.offset = ph->p_filesz ? elf->base + ph->p_offset : 0,
		.file_bytes = ph->p_filesz,
		.mem_bytes = ph->p_memsz,
		.gpa = ph->p_paddr,
	};
	plan->segment_count++;
	return 0;
}

static int segments_check(struct image_plan *plan, struct kv_err *err)
{
	const struct image_segment *last;

	if (!plan->segment_count)
		return err_set(err, -ENOEXEC, "it has no segment to load (PT_LOAD with a size)");
	for (unsigned i = 1; i < plan->segment_count; i++) {
		const struct image_segment *a = &plan->segments[i - 1];
		const struct image_segment *b = &plan->segments[i];

		if (b->gpa < a->gpa + a->mem_bytes)
			return err_set(err, -ENOEXEC,
				"the segments at physical addresses 0x%" PRIx64 " (0x%" PRIx64
				" bytes) and 0x%" PRIx64 " overlap",
				a->gpa, a->mem_bytes, b->gpa);
	}
	last = &plan->segments[plan->segment_count - 1];
	plan->low = plan->segments[0].gpa;
	plan->high = last->gpa + last->mem_bytes;
	return 0;
}

static bool entry_backed(const struct image_plan *plan, gpa_t entry)
{
	for (unsigned i = 0; i < plan->segment_count; i++)
		if (range_overlap(plan->segments[i].gpa, plan->segments[i].file_bytes, entry, 1))
			return true;
	return false;
}

/*
 * vmlinux says the physical address in e_entry; other linkers leave the virtual one there. What is
 * a physical address of loaded bytes is taken as such.
 */
static gpa_t entry_phys(const struct image_plan *plan, const Elf64_Ehdr *eh, const Elf64_Phdr *phs)
{
	if (entry_backed(plan, eh->e_entry))
		return eh->e_entry;
	for (unsigned i = 0; i < eh->e_phnum; i++)
		if (phs[i].p_type == PT_LOAD && eh->e_entry >= phs[i].p_vaddr &&
			eh->e_entry - phs[i].p_vaddr < phs[i].p_filesz)
			return eh->e_entry - phs[i].p_vaddr + phs[i].p_paddr;
	return eh->e_entry;
}

static int entry_choose(struct image_plan *plan, enum image_protocol asked, gpa_t linux_entry,
	gpa_t pvh_entry, struct kv_err *err)
{
	const char *which = "the entry point";

	if (asked == IMAGE_PVH && !plan->has_pvh)
		return err_set(err, -ENOTSUP,
			"it has no PVH entry (no Xen note of type 18, XEN_ELFNOTE_PHYS32_ENTRY): "
			"boot "
			"protocol pvh cannot be used, linux or auto can");
	plan->protocol = plan->has_pvh && asked != IMAGE_LINUX ? IMAGE_PVH : IMAGE_LINUX;
	plan->entry = linux_entry;
	if (plan->protocol == IMAGE_PVH) {
		plan->entry = pvh_entry;
		which = "the PVH entry point";
	}
	if (!entry_backed(plan, plan->entry))
		return err_set(err, -ENOEXEC,
			"%s 0x%" PRIx64 " lies outside the file data of every segment", which,
			plan->entry);
	if (plan->entry >= ENTRY_END)
		return err_set(
			err, -ENOTSUP, "%s 0x%" PRIx64 " lies above 4 GiB", which, plan->entry);
	return 0;
}

/* Look for the PVH entry; without one, a program for users is told from a kernel. */
static int notes_read(struct image_plan *plan, const struct elf_file *elf, const Elf64_Phdr *phs,
	unsigned count, uint64_t *ret_entry, struct kv_err *err)
{
	bool interp = false;

	for (unsigned i = 0; i < count; i++) {
		const Elf64_Phdr *ph = &phs[i];
		int r;

		interp |= ph->p_type == PT_INTERP;
		if (ph->p_type != PT_NOTE)
			continue;
		r = file_range_check(elf, i, ph, err);
		if (!r)
			r = elf_pvh_find(elf, i, ph->p_offset, ph->p_filesz, ph->p_align,
				&plan->has_pvh, ret_entry, err);
		if (r < 0)
			return r;
	}
	/* FreeBSD's kernel names an interpreter, too, but offers PVH. */
	if (interp && !plan->has_pvh)
		return err_set(err, -ENOEXEC,
			"it is a program that asks for a dynamic linker, not a kernel");
	return 0;
}

int elf_plan(struct image_plan *plan, const struct elf_file *elf, enum image_protocol asked,
	struct kv_err *err)
{
	Elf64_Phdr phs[ELF_PHDRS_MAX];
	uint64_t pvh_entry = 0;
	Elf64_Ehdr eh;
	int r;

	r = elf_read(elf, 0, &eh, sizeof(eh));
	if (r == -ENODATA)
		return err_set(err, -ENOEXEC, "its %" PRIu64 " bytes do not hold an ELF header",
			elf->bytes);
	if (r < 0)
		return err_set(err, r, "cannot read the ELF header: %s", err_text(r));
	r = header_check(elf, &eh, err);
	if (r < 0)
		return r;
	r = elf_read(elf, eh.e_phoff, phs, eh.e_phnum * sizeof(*phs));
	if (r < 0)
		return err_set(err, r, "cannot read the program headers: %s", err_text(r));

	r = notes_read(plan, elf, phs, eh.e_phnum, &pvh_entry, err);
	for (unsigned i = 0; !r && i < eh.e_phnum; i++) {
		/* Linkers leave empty ones for sections that came out empty. */
		if (phs[i].p_type != PT_LOAD || !(phs[i].p_memsz || phs[i].p_filesz))
			continue;
		r = segment_check(elf, i, &phs[i], err);
		if (!r)
			r = segment_add(plan, elf, &phs[i], err);
	}
	if (r < 0)
		return r;
	r = segments_check(plan, err);
	if (r < 0)
		return r;
	plan->cmdline_max = IMAGE_ELF_CMDLINE_MAX;
	return entry_choose(plan, asked, entry_phys(plan, &eh, phs), pvh_entry, err);
}
