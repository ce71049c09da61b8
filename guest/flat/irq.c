/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes interrupts: the local APIC's timer (one shot, and TSC deadline where CPUID has it), an IPI
 * to itself, and the serial port's "transmitter empty" through the I/O APIC's pin 4. Waits for each
 * in sti; hlt, with the timer as watchdog. irq=N repeats all N times.
 */
#include "flat.h"

#define LAPIC	      0xfee00000
#define LAPIC_EOI     0xb0
#define LAPIC_SVR     0xf0
#define LAPIC_ICR_LOW 0x300
#define LAPIC_TIMER   0x320
#define LAPIC_COUNT   0x380
#define LAPIC_DIVIDE  0x3e0
#define IOAPIC	      0xfec00000
#define MSR_DEADLINE  0x6e0

#define TIMER_DEADLINE 0x40000
#define IPI_SELF       0x44000
#define IOAPIC_MASKED  0x10000
#define VEC_TIMER      0x30
#define VEC_IPI	       0x31
#define VEC_SERIAL     0x34
#define SERIAL_IRQ     4
#define WATCHDOG       2000000000 /* timer ticks: KVM counts nanoseconds */

#define SERIAL_IER (PORT_SERIAL + 1)
#define SERIAL_IIR (PORT_SERIAL + 2)
#define SERIAL_MCR (PORT_SERIAL + 4)

const uint32_t guest_ring = 0;

struct interrupt_frame;
static volatile uint32_t timers, ipis, serials;
static volatile uint8_t serial_iir;

static void apic_write(uint32_t reg, uint32_t val)
{
	*(volatile uint32_t *)(uintptr_t)(LAPIC + reg) = val;
}

static void ioapic_write(uint32_t reg, uint32_t val)
{
	*(volatile uint32_t *)IOAPIC = reg;
	*(volatile uint32_t *)(IOAPIC + 0x10) = val;
}

__attribute__((interrupt)) static void on_timer(struct interrupt_frame *frame)
{
	(void)frame;
	timers++;
	apic_write(LAPIC_EOI, 0);
}

__attribute__((interrupt)) static void on_ipi(struct interrupt_frame *frame)
{
	(void)frame;
	ipis++;
	apic_write(LAPIC_EOI, 0);
}

__attribute__((interrupt)) static void on_serial(struct interrupt_frame *frame)
{
	(void)frame;
	serial_iir = inb(SERIAL_IIR) & 0x0f; /* reading it takes "transmitter empty" back */
	serials++;
	apic_write(LAPIC_EOI, 0);
}

static int has_deadline(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;

	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	return ecx >> 24 & 1;
}

/* Halts until *COUNT moves or the watchdog ticks; interrupts are on only while halted. */
static void wait_for(const char *what, volatile uint32_t *count, uint32_t before)
{
	uint32_t ticks = timers;

	if (count != &timers) {
		apic_write(LAPIC_TIMER, VEC_TIMER);
		apic_write(LAPIC_COUNT, WATCHDOG);
	}
	while (*count == before && (count == &timers || timers == ticks))
		__asm__ volatile("sti\n\thlt\n\tcli" : : : "memory");
	if (count != &timers)
		apic_write(LAPIC_COUNT, 0);
	if (*count == before) {
		put_text("irq: none from ");
		put_text(what);
		put_text("\nirq failed\n");
		reset();
	}
}

static void take_all(void)
{
	uint32_t before = timers;

	apic_write(LAPIC_TIMER, VEC_TIMER);
	apic_write(LAPIC_COUNT, 100000);
	wait_for("the timer", &timers, before);
	if (has_deadline()) {
		before = timers;
		apic_write(LAPIC_TIMER, VEC_TIMER | TIMER_DEADLINE);
		__asm__ volatile("mfence" : : : "memory");
		wrmsr(MSR_DEADLINE, rdtsc() + 300000);
		wait_for("the TSC deadline", &timers, before);
		apic_write(LAPIC_TIMER, VEC_TIMER);
	}
	before = ipis;
	apic_write(LAPIC_ICR_LOW, IPI_SELF | VEC_IPI);
	wait_for("an IPI", &ipis, before);
	before = serials;
	outb(SERIAL_IER, 2);
	wait_for("the serial port", &serials, before);
	outb(SERIAL_IER, 0);
}

void guest_main(const struct boot *boot)
{
	const char *arg = find_arg(boot, "irq");
	uint64_t rounds = arg ? read_number(&arg) : 1;

	outb(0x21, 0xff); /* whatever an old interrupt controller would deliver */
	outb(0xa1, 0xff);
	set_gate(VEC_TIMER, (void *)on_timer);
	set_gate(VEC_IPI, (void *)on_ipi);
	set_gate(VEC_SERIAL, (void *)on_serial);
	apic_write(LAPIC_SVR, 0x1ff);
	apic_write(LAPIC_DIVIDE, 0x0b); /* by one */
	ioapic_write(0x10 + 2 * SERIAL_IRQ + 1, *(volatile uint32_t *)(LAPIC + 0x20) & 0xff000000);
	ioapic_write(0x10 + 2 * SERIAL_IRQ, VEC_SERIAL);
	outb(SERIAL_MCR, 0x0b); /* OUT2: a PC's gate for the interrupt line */
	for (uint64_t i = 0; i < rounds; i++)
		take_all();
	ioapic_write(0x10 + 2 * SERIAL_IRQ, IOAPIC_MASKED | VEC_SERIAL);
	put_text(has_deadline() ? "irq: with TSC deadline\n" : "irq: without TSC deadline\n");
	put_text("irq: timer ");
	put_dec(timers);
	put_text(" ipi ");
	put_dec(ipis);
	put_text(" serial ");
	put_dec(serials);
	put_text(" iir ");
	put_hex(serial_iir);
	put_text("\nirq ok\n");
}
