/* SPDX-License-Identifier: Apache-2.0 */
/* The bare KVM calls of floor and floor-loop. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "floor.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define GDT_ADDR	0x500
#define START_INFO_ADDR 0x6000
#define MEMMAP_ADDR	0x6100
#define MODULE_ADDR	0x6300
#define ZERO_PAGE_ADDR	0x7000
#define STACK_ADDR	0x8ff0
#define TABLES_ADDR	0x9000
#define MAX_CPUID	256

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

void die(const char *what)
{
	const char *why = strerrordesc_np(errno);
	char line[256];
	size_t len = 0;

	for (const char *s = "floor: "; *s; s++)
		line[len++] = *s;
	for (; *what && len < 120; what++)
		line[len++] = *what;
	line[len++] = ':';
	line[len++] = ' ';
	for (; why && *why && len < 254; why++)
		line[len++] = *why;
	line[len++] = '\n';
	if (write(2, line, len) < 0)
		_exit(3);
	_exit(2);
}

void die_with(const char *what, int err)
{
	errno = err;
	die(what);
}

static int open_file(const char *path, uint64_t *ret_bytes)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		die(path);
	*ret_bytes = (uint64_t)st.st_size;
	return fd;
}

static void map_over(struct floor_vm *vm, int fd, uint64_t addr, uint64_t off, uint64_t bytes)
{
	if (mmap(vm->ram + addr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
		    (off_t)off) == MAP_FAILED)
		die("mmap of an image");
}

static void find_note(struct floor_images *images, const Elf64_Phdr *ph)
{
	char buf[1024];
	size_t len = ph->p_filesz < sizeof(buf) ? ph->p_filesz : sizeof(buf);
	size_t at = 0;

	if (pread(images->kernel_fd, buf, len, (off_t)ph->p_offset) != (ssize_t)len)
		die("notes");
	while (at + sizeof(Elf64_Nhdr) <= len) {
		Elf64_Nhdr nh;
		size_t desc;

		memcpy(&nh, buf + at, sizeof(nh));
		desc = at + sizeof(nh) + ((nh.n_namesz + 3U) & ~3U);
		/* 18: XEN_ELFNOTE_PHYS32_ENTRY */
		if (nh.n_type == 18 && nh.n_namesz == 4 && desc + 4 <= len &&
			!memcmp(buf + at + sizeof(nh), "Xen", 4)) {
			uint32_t entry;

			memcpy(&entry, buf + desc, sizeof(entry));
			images->entry = entry;
			images->pvh = 1;
		}
		at = desc + ((nh.n_descsz + 3U) & ~3U);
	}
}

static void kernel_read(struct floor_images *images, const char *path)
{
	union {
		Elf64_Ehdr eh;
		char bytes[FLOOR_PAGE];
	} head;
	uint64_t bytes;

	images->kernel_fd = open_file(path, &bytes);
	if (read(images->kernel_fd, &head, sizeof(head)) < (ssize_t)sizeof(head.eh))
		die("ELF header");
	if (memcmp(head.eh.e_ident, ELFMAG, SELFMAG) ||
		head.eh.e_phoff + head.eh.e_phnum * sizeof(Elf64_Phdr) > sizeof(head))
		die_with("ELF header", ENOEXEC);
	images->entry = head.eh.e_entry;
	for (int i = 0; i < head.eh.e_phnum; i++) {
		Elf64_Phdr ph;

		memcpy(&ph, head.bytes + head.eh.e_phoff + (size_t)i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_NOTE)
			find_note(images, &ph);
		if (ph.p_type != PT_LOAD || !ph.p_filesz)
			continue;
		if ((ph.p_paddr | ph.p_offset) % FLOOR_PAGE ||
			images->segment_count == FLOOR_SEGMENTS_MAX)
			die_with("segment", ENOEXEC);
		images->segments[images->segment_count++] =
			(struct floor_segment){ph.p_paddr, ph.p_offset, ph.p_filesz};
	}
}

void floor_images_open(struct floor_images *images, const char *kernel, const char *initrd)
{
	kernel_read(images, kernel);
	images->initrd_fd = initrd ? open_file(initrd, &images->initrd_bytes) : -1;
	if (initrd && !images->initrd_bytes)
		die_with(initrd, ENODATA);
}

static void kernel_place(struct floor_vm *vm)
{
	const struct floor_images *images = vm->images;

	for (int i = 0; i < images->segment_count; i++) {
		const struct floor_segment *seg = &images->segments[i];
		uint64_t whole = seg->bytes & ~(FLOOR_PAGE - 1);
		uint64_t tail = seg->bytes - whole;

		if (seg->gpa + seg->bytes > vm->low_bytes)
			die_with("segment", ENOEXEC);
		if (whole)
			map_over(vm, images->kernel_fd, seg->gpa, seg->offset, whole);
		if (pread(images->kernel_fd, vm->ram + seg->gpa + whole, tail,
			    (off_t)(seg->offset + whole)) != (ssize_t)tail)
			die("segment");
	}
}

static uint64_t initrd_addr(const struct floor_vm *vm)
{
	return vm->low_bytes - ((vm->images->initrd_bytes + FLOOR_PAGE - 1) & ~(FLOOR_PAGE - 1));
}

static void put32(struct floor_vm *vm, uint64_t addr, uint32_t val)
{
	memcpy(vm->ram + addr, &val, sizeof(val));
}

static void put64(struct floor_vm *vm, uint64_t addr, uint64_t val)
{
	memcpy(vm->ram + addr, &val, sizeof(val));
}

/* hvm_start_info version 1 with one module and the memory map. Source: Xen's
 * arch-x86/hvm/start_info.h */
static void write_start_info(struct floor_vm *vm)
{
	int entries = vm->ram_bytes > vm->low_bytes ? 2 : 1;

	put32(vm, START_INFO_ADDR, 0x336ec578);
	put32(vm, START_INFO_ADDR + 4, 1);
	put32(vm, START_INFO_ADDR + 12, vm->images->initrd_bytes ? 1 : 0);
	put64(vm, START_INFO_ADDR + 16, MODULE_ADDR);
	put64(vm, START_INFO_ADDR + 40, MEMMAP_ADDR);
	put32(vm, START_INFO_ADDR + 48, (uint32_t)entries);
	put64(vm, MODULE_ADDR, initrd_addr(vm));
	put64(vm, MODULE_ADDR + 8, vm->images->initrd_bytes);
	put64(vm, MEMMAP_ADDR + 8, vm->low_bytes);
	put32(vm, MEMMAP_ADDR + 16, 1);
	put64(vm, MEMMAP_ADDR + 24, FLOOR_HOLE_END);
	put64(vm, MEMMAP_ADDR + 32, vm->ram_bytes - vm->low_bytes);
	put32(vm, MEMMAP_ADDR + 40, 1);
}

/* struct boot_params, and identity page tables for 4 GiB. Source: arch/x86/boot.rst */
static void write_zero_page(struct floor_vm *vm)
{
	uint64_t zp = ZERO_PAGE_ADDR;

	vm->ram[zp + 0x1e8] = vm->ram_bytes > vm->low_bytes ? 2 : 1;
	vm->ram[zp + 0x210] = 0xff;
	put32(vm, zp + 0x1fe, 0xaa55);
	put32(vm, zp + 0x202, 0x53726448);
	put32(vm, zp + 0x218, (uint32_t)initrd_addr(vm));
	put32(vm, zp + 0x21c, (uint32_t)vm->images->initrd_bytes);
	put64(vm, zp + 0x2d0 + 8, vm->low_bytes);
	put32(vm, zp + 0x2d0 + 16, 1);
	put64(vm, zp + 0x2d0 + 20, FLOOR_HOLE_END);
	put64(vm, zp + 0x2d0 + 28, vm->ram_bytes - vm->low_bytes);
	put32(vm, zp + 0x2d0 + 36, 1);

	put64(vm, TABLES_ADDR, (TABLES_ADDR + FLOOR_PAGE) | 3);
	for (uint64_t i = 0; i < 4; i++)
		put64(vm, TABLES_ADDR + FLOOR_PAGE + i * 8,
			(TABLES_ADDR + (i + 2) * FLOOR_PAGE) | 3);
	for (uint64_t i = 0; i < 2048; i++)
		put64(vm, TABLES_ADDR + 2 * FLOOR_PAGE + i * 8, (i << 21) | 0x83);
	put64(vm, GDT_ADDR + 16, 0x00af9b000000ffff);
	put64(vm, GDT_ADDR + 24, 0x00cf93000000ffff);
}

void floor_registers(const struct floor_vm *vm)
{
	struct kvm_segment code = {.limit = 0xffffffff,
		.selector = 0x10,
		.type = 11,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
		.selector = 0x18,
		.type = 3,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1};
	struct kvm_regs regs = {.rip = vm->images->entry, .rflags = 2, .rsp = STACK_ADDR};
	struct kvm_sregs sregs;

	if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) < 0)
		die("KVM_GET_SREGS");
	sregs.cr0 = 0x11;
	if (vm->images->pvh) {
		regs.rbx = START_INFO_ADDR;
	} else {
		code.l = 1;
		code.db = 0;
		sregs.cr0 |= 0x80000000;
		sregs.cr3 = TABLES_ADDR;
		sregs.cr4 = 0x20;
		sregs.efer = 0x500;
		sregs.gdt.base = GDT_ADDR;
		sregs.gdt.limit = 31;
		regs.rsi = ZERO_PAGE_ADDR;
	}
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
	if (ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) < 0)
		die("KVM_SET_SREGS");
	if (ioctl(vm->vcpu, KVM_SET_REGS, &regs) < 0)
		die("KVM_SET_REGS");
}

void floor_kvm_open(struct floor_kvm *kvm)
{
	kvm->fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0)
		die("/dev/kvm");
}

void floor_kvm_size(struct floor_kvm *kvm)
{
	int bytes = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (bytes < 0)
		die("KVM_GET_VCPU_MMAP_SIZE");
	kvm->run_bytes = (size_t)bytes;
}

void floor_kvm_cpuid(struct floor_kvm *kvm)
{
	/* kvm_cpuid2 is 8 bytes and the entries follow it. */
	static uint64_t buf[1 + MAX_CPUID * sizeof(struct kvm_cpuid_entry2) / 8];

	kvm->cpuid = (struct kvm_cpuid2 *)buf;
	kvm->cpuid->nent = MAX_CPUID;
	if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid) < 0)
		die("KVM_GET_SUPPORTED_CPUID");
}

void floor_memory(struct floor_vm *vm)
{
	uint64_t bytes = vm->images->initrd_bytes;

	vm->low_bytes = vm->ram_bytes < FLOOR_HOLE_START ? vm->ram_bytes : FLOOR_HOLE_START;
	if (bytes + FLOOR_PAGE > vm->low_bytes)
		die_with("initrd", EFBIG);
	vm->ram = mmap(NULL, vm->ram_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm->ram == MAP_FAILED)
		die("mmap of guest RAM");
	kernel_place(vm);
	if (bytes)
		map_over(vm, vm->images->initrd_fd, initrd_addr(vm), 0, bytes);
	if (vm->images->pvh)
		write_start_info(vm);
	else
		write_zero_page(vm);
}

void floor_create(struct floor_vm *vm, const struct floor_kvm *kvm)
{
	vm->vm = ioctl(kvm->fd, KVM_CREATE_VM, 0);
	if (vm->vm < 0)
		die("KVM_CREATE_VM");
}

void floor_irqchip(const struct floor_vm *vm, const char *kind)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = 24};
	struct kvm_pit_config pit = {0};

	if (*kind == 's' && ioctl(vm->vm, KVM_ENABLE_CAP, &split) < 0)
		die("KVM_CAP_SPLIT_IRQCHIP");
	if (*kind == 'f' && ioctl(vm->vm, KVM_CREATE_IRQCHIP, 0) < 0)
		die("KVM_CREATE_IRQCHIP");
	if (*kind == 'f' && ioctl(vm->vm, KVM_CREATE_PIT2, &pit) < 0)
		die("KVM_CREATE_PIT2");
}

static void set_slot(
	const struct floor_vm *vm, uint32_t slot, uint64_t addr, uint64_t bytes, void *host)
{
	struct kvm_userspace_memory_region r = {.slot = slot,
		.guest_phys_addr = addr,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)host};

	if (ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0)
		die("KVM_SET_USER_MEMORY_REGION");
}

void floor_slots(const struct floor_vm *vm)
{
	set_slot(vm, 0, 0, vm->low_bytes, vm->ram);
	if (vm->ram_bytes > vm->low_bytes)
		set_slot(vm, 1, FLOOR_HOLE_END, vm->ram_bytes - vm->low_bytes,
			vm->ram + vm->low_bytes);
}

void floor_vcpu(struct floor_vm *vm, const struct floor_kvm *kvm)
{
	vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		die("KVM_CREATE_VCPU");
	vm->run = mmap(NULL, kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (vm->run == MAP_FAILED)
		die("mmap of kvm_run");
}

void floor_cpuid(const struct floor_vm *vm, const struct floor_kvm *kvm)
{
	if (ioctl(vm->vcpu, KVM_SET_CPUID2, kvm->cpuid) < 0)
		die("KVM_SET_CPUID2");
}

int floor_ended(const struct floor_vm *vm, int until_reset)
{
	struct kvm_run *run = vm->run;

	if (run->exit_reason == KVM_EXIT_MMIO) {
		if (!run->mmio.is_write)
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		else if (run->mmio.phys_addr == 0xd0000000 || run->mmio.phys_addr == 0xc0000000)
			return !until_reset && run->mmio.data[0] == 123;
	} else if (run->exit_reason == KVM_EXIT_IO) {
		uint8_t *data = (uint8_t *)run + run->io.data_offset;

		if (run->io.direction == KVM_EXIT_IO_IN)
			memset(data, 0xff, (size_t)run->io.size * run->io.count);
		else if (run->io.port == 0x64)
			return until_reset && data[0] == 0xfe;
	} else {
		die_with("KVM_RUN: unexpected exit", EPROTO);
	}
	return 0;
}
