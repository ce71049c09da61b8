/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a flat guest written in C may use. There is one CPU, interrupts are off, and memory is
 * mapped one to one: the first 4 GiB by start.S, more by map_range(). A guest defines guest_ring
 * and guest_main(); when that returns, the guest resets the machine.
 *
 * Everything here also runs where KVM interprets a guest's kernel mode (kvm_pvm): general
 * registers only, no vector instructions.
 */
#ifndef FLAT_H
#define FLAT_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES  4096
#define MAX_RANGES  128
#define MAX_MODULES 16

#define PORT_POST	0x80
#define PORT_DEBUGCON	0xe9
#define PORT_TRACE	0xf4
#define PORT_TRACE_FW	0xf5
#define PORT_RESET	0x64
#define PORT_SERIAL	0x3f8
#define PORT_SERIAL_LSR 0x3fd
#define LSR_DATA_READY	0x01
#define LSR_THR_EMPTY	0x20

struct range {
	uint64_t addr;
	uint64_t bytes;
	uint32_t type; /* E820 numbers: 1 is RAM; 0 for a module */
};

/* What the monitor told the guest, the same for both boot protocols. */
struct boot {
	const char *protocol; /* "pvh" or "linux" */
	const char *cmdline;  /* never NULL */
	uint64_t info_addr;   /* hvm_start_info or boot_params */
	uint64_t rsdp_addr;   /* 0: not given */
	int nr_ranges;
	int nr_modules;
	struct range ranges[MAX_RANGES];
	struct range modules[MAX_MODULES]; /* the initrd, for the Linux protocol */
};

/* Each guest's own: 0 to stay in kernel mode, 3 for user mode with I/O privilege. */
extern const uint32_t guest_ring;
/* Each guest's own: its work; called once by start.S through flat_main(). */
void guest_main(const struct boot *boot);

/* Writes TEXT or one byte to the serial port, waiting for room. A newline becomes CR LF. */
void put_char(char c);
void put_text(const char *text);
/* Writes VALUE to the serial port in hexadecimal with 0x, or in decimal. */
void put_hex(uint64_t value);
void put_dec(uint64_t value);
/* Sends VECTOR (below 64) to HANDLER; start.S has sent the first 32 to a report and reset. */
void set_gate(uint32_t vector, void *handler);
/* Ends the run by the reset port. Does not return. */
_Noreturn void reset(void);
/* The text behind "NAME=" on the command line, or NULL. A word equal to NAME gives "". */
const char *find_arg(const struct boot *boot, const char *name);
/*
 * Reads a number (decimal or 0x...; K, M or G behind it) and one comma behind it, and moves *text
 * past both. Returns the number; 0 when there is none.
 */
uint64_t read_number(const char **text);
/* Maps [addr, addr + bytes) one to one where it is not yet. Returns 0, or -1 when out of tables. */
int map_range(uint64_t addr, uint64_t bytes);
/* Whether [addr, addr + bytes) touches the guest's own image or the first MiB. */
int hits_image(uint64_t addr, uint64_t bytes);
/* The address of the ACPI table SIGNATURE (4 letters), its checksum verified; 0 if there is none.
 */
uint64_t acpi_find(const struct boot *boot, const char *signature);

/* start.S: page tables and the linker script's marks. */
extern uint64_t pml4[512], pdpt[512];
extern uint8_t image_start[], image_end[], bss_start[], bss_end[];

static inline void outb(uint16_t port, uint8_t val)
{
	__asm__ volatile("outb %0, %1" : : "a"(val), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t val)
{
	__asm__ volatile("outw %0, %1" : : "a"(val), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t val)
{
	__asm__ volatile("outl %0, %1" : : "a"(val), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t val;

	__asm__ volatile("inb %1, %0" : "=a"(val) : "Nd"(port));
	return val;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t val;

	__asm__ volatile("inw %1, %0" : "=a"(val) : "Nd"(port));
	return val;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t val;

	__asm__ volatile("inl %1, %0" : "=a"(val) : "Nd"(port));
	return val;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t val)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((uint32_t)val), "d"((uint32_t)(val >> 32))
			 : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

#endif
