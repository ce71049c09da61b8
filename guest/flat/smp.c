/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts every processor the MADT lists (or APIC IDs 1 to N-1 with smp=N, for machines without
 * ACPI) by INIT and startup IPIs, and reports which came up. With "x2apic" on the command line the
 * local APIC is switched to x2APIC mode first.
 */
#include "flat.h"

#define MAX_CPUS       256
#define TRAMPOLINE     0x10000
#define LAPIC	       0xfee00000
#define LAPIC_ID       0x20
#define LAPIC_SVR      0xf0
#define LAPIC_ICR_LOW  0x300
#define LAPIC_ICR_HIGH 0x310
#define MSR_APIC_BASE  0x1b
#define MSR_X2APIC     0x800
#define APIC_EXTD      (1 << 10)
#define ICR_INIT       0x4500
#define ICR_STARTUP    0x4600
#define WAIT_CYCLES    10000000000 /* a few seconds of any processor's time stamp counter */

const uint32_t guest_ring = 0;

extern const uint8_t ap_start[], ap_end[];
extern volatile uint32_t ap_online;
extern volatile uint32_t ap_ids[];

static uint32_t ids[MAX_CPUS];
static int nr_ids;
static int x2apic;

static uint32_t apic_read(uint32_t reg)
{
	if (x2apic)
		return (uint32_t)rdmsr(MSR_X2APIC + reg / 16);
	return *(volatile uint32_t *)(uintptr_t)(LAPIC + reg);
}

static void apic_write(uint32_t reg, uint32_t val)
{
	if (x2apic)
		wrmsr(MSR_X2APIC + reg / 16, val);
	else
		*(volatile uint32_t *)(uintptr_t)(LAPIC + reg) = val;
}

static void send_ipi(uint32_t id, uint32_t command)
{
	if (x2apic) {
		wrmsr(MSR_X2APIC + LAPIC_ICR_LOW / 16, (uint64_t)id << 32 | command);
		return;
	}
	apic_write(LAPIC_ICR_HIGH, id << 24);
	apic_write(LAPIC_ICR_LOW, command);
}

static void add_id(uint32_t id)
{
	if (nr_ids < MAX_CPUS)
		ids[nr_ids++] = id;
}

/* Source: ACPI 6.5, 5.2.12.2 (local APIC), 5.2.12.12 (local x2APIC) */
static void read_madt(uint64_t madt)
{
	uint64_t end = madt + *(uint32_t *)(madt + 4);

	for (uint64_t at = madt + 44; at + 2 <= end; at += *(uint8_t *)(at + 1)) {
		const uint8_t *entry = (void *)at;

		if (entry[1] < 2)
			break;
		if (entry[0] == 0 && entry[4] & 1)
			add_id(entry[3]);
		if (entry[0] == 9 && entry[8] & 1)
			add_id(*(uint32_t *)(at + 4));
	}
}

static void find_cpus(const struct boot *boot)
{
	const char *arg = find_arg(boot, "smp");
	uint64_t madt = acpi_find(boot, "APIC");

	if (arg) {
		uint64_t n = read_number(&arg);

		for (uint32_t id = 0; id < n; id++)
			add_id(id);
		put_text("smp: asked for ");
	} else if (madt) {
		read_madt(madt);
		put_text("smp: madt lists ");
	} else {
		add_id(0);
		put_text("smp: no madt, assumed ");
	}
	put_dec((uint64_t)nr_ids);
	put_text("\n");
}

static void start_cpus(uint32_t own_id)
{
	uint8_t *to = (void *)TRAMPOLINE;

	for (const uint8_t *from = ap_start; from < ap_end; from++)
		*to++ = *from;
	for (int i = 0; i < nr_ids; i++)
		if (ids[i] != own_id)
			send_ipi(ids[i], ICR_INIT);
	for (int i = 0; i < nr_ids; i++)
		if (ids[i] != own_id)
			send_ipi(ids[i], ICR_STARTUP | TRAMPOLINE >> 12);
}

void guest_main(const struct boot *boot)
{
	uint64_t deadline;
	uint32_t own_id;

	if (find_arg(boot, "x2apic"))
		wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_EXTD);
	x2apic = !!(rdmsr(MSR_APIC_BASE) & APIC_EXTD);
	put_text(x2apic ? "smp: x2apic\n" : "smp: xapic\n");
	find_cpus(boot);
	apic_write(LAPIC_SVR, 0x1ff);
	own_id = apic_read(LAPIC_ID) >> (x2apic ? 0 : 24);
	start_cpus(own_id);
	deadline = rdtsc() + WAIT_CYCLES;
	while (ap_online < (uint32_t)nr_ids - 1 && rdtsc() < deadline)
		__asm__ volatile("pause");
	for (uint32_t i = 0; i < ap_online; i++) {
		put_text("smp: started apic ");
		put_dec(ap_ids[i]);
		put_text("\n");
	}
	put_text("smp online ");
	put_dec(ap_online + 1);
	put_text("\n");
}
