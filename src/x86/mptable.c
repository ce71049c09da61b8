/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/mptable.h"

#include <errno.h>
#include <string.h>

#include "x86/layout.h"
#include "x86/sum.h"

#define CPUS_MAX 254

/* MP 1.4 §4.1: MP floating pointer structure. */
struct mp_pointer {
	char signature[4];
	uint32_t config_gpa;
	uint8_t length; /* in units of 16 bytes */
	uint8_t spec_rev;
	uint8_t checksum;
	uint8_t features[5];
} __attribute__((packed));
_Static_assert(sizeof(struct mp_pointer) == 16, "MP 1.4 table 4-1");

/* MP 1.4 §4.2: configuration table header. */
struct mp_header {
	char signature[4];
	uint16_t length;
	uint8_t spec_rev;
	uint8_t checksum;
	char oem_id[8];
	char product_id[12];
	uint32_t oem_table;
	uint16_t oem_table_bytes;
	uint16_t entry_count;
	uint32_t lapic_gpa;
	uint16_t extended_length;
	uint8_t extended_checksum;
	uint8_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct mp_header) == 44, "MP 1.4 table 4-2");

enum { MP_CPU, MP_BUS, MP_IOAPIC, MP_INTERRUPT, MP_LOCAL };

/* MP 1.4 §4.3.1. */
struct mp_cpu {
	uint8_t type;
	uint8_t apic_id;
	uint8_t apic_version;
	uint8_t flags; /* 1: usable, 2: boot CPU */
	uint32_t signature;
	uint32_t features;
	uint32_t reserved[2];
} __attribute__((packed));
_Static_assert(sizeof(struct mp_cpu) == 20, "MP 1.4 table 4-4");

/* MP 1.4 §4.3.2. */
struct mp_bus {
	uint8_t type;
	uint8_t id;
	char name[6];
} __attribute__((packed));
_Static_assert(sizeof(struct mp_bus) == 8, "MP 1.4 table 4-6");

/* MP 1.4 §4.3.3. */
struct mp_ioapic {
	uint8_t type;
	uint8_t id;
	uint8_t version;
	uint8_t flags; /* 1: usable */
	uint32_t gpa;
} __attribute__((packed));
_Static_assert(sizeof(struct mp_ioapic) == 8, "MP 1.4 table 4-8");

/* MP 1.4 §4.3.4 and §4.3.5. */
struct mp_interrupt {
	uint8_t type;
	uint8_t kind;
	uint16_t flags; /* 0: polarity and trigger mode as usual for the bus */
	uint8_t bus;
	uint8_t bus_irq;
	uint8_t apic_id;
	uint8_t apic_pin;
} __attribute__((packed));
_Static_assert(sizeof(struct mp_interrupt) == 8, "MP 1.4 tables 4-9 and 4-11");

enum { KIND_INT = 0, KIND_NMI = 1, KIND_EXTINT = 3 };

#define BUS_ISA	   0
#define IOAPIC_ID  0 /* what its ID register holds after reset */
#define ALL_LAPICS 0xff

/* The version registers of KVM's local APIC and of the I/O APIC. */
#define LAPIC_VERSION  0x14
#define IOAPIC_VERSION 0x11

#define LOCAL_IRQS 2

struct mp_tail {
	struct mp_bus isa;
	struct mp_ioapic ioapic;
	struct mp_interrupt irqs[]; /* and LOCAL_IRQS more */
};

uint64_t mptable_bytes(unsigned cpus, unsigned irqs)
{
	return sizeof(struct mp_header) + cpus * sizeof(struct mp_cpu) + sizeof(struct mp_tail) +
	       (irqs + LOCAL_IRQS) * sizeof(struct mp_interrupt);
}

static void tail_fill(struct mp_tail *tail, unsigned irqs)
{
	struct mp_interrupt *local = &tail->irqs[irqs];

	tail->isa = (struct mp_bus){.type = MP_BUS, .id = BUS_ISA};
	memcpy(tail->isa.name, "ISA   ", sizeof(tail->isa.name));
	tail->ioapic = (struct mp_ioapic){MP_IOAPIC, IOAPIC_ID, IOAPIC_VERSION, 1, LAYOUT_IOAPIC};
	/*
	 * IRQ 0 too is at its own pin and not, as on a PC, at pin 2: KVM's default routing of a
	 * full irqchip has it so.
	 */
	for (unsigned irq = 0; irq < irqs; irq++)
		tail->irqs[irq] = (struct mp_interrupt){
			MP_INTERRUPT, KIND_INT, 0, BUS_ISA, (uint8_t)irq, IOAPIC_ID, (uint8_t)irq};
	/* "Virtual wire" (§3.6.2.2): a PIC, where there is one, drives LINT0. */
	local[0] = (struct mp_interrupt){MP_LOCAL, KIND_EXTINT, 0, BUS_ISA, 0, ALL_LAPICS, 0};
	local[1] = (struct mp_interrupt){MP_LOCAL, KIND_NMI, 0, BUS_ISA, 0, ALL_LAPICS, 1};
}

int mptable_write(struct gmem *gm, unsigned cpus, unsigned irqs, struct kv_err *err)
{
	struct mp_pointer pointer = {
		.signature = {'_', 'M', 'P', '_'},
		.config_gpa = LAYOUT_MP_CONFIG,
		.length = 1,
		.spec_rev = 4,
	};
	uint64_t bytes = mptable_bytes(cpus, irqs);
	struct mp_header *header;
	struct mp_cpu *cpu;

	if (!cpus || cpus > CPUS_MAX)
		return err_set(
			err, -E2BIG, "MP table: %u CPUs; 1 to %d are allowed", cpus, CPUS_MAX);
	header = gmem_at(gm, LAYOUT_MP_CONFIG, bytes);
	if (!header || !gmem_at(gm, LAYOUT_MP_POINTER, sizeof(pointer)))
		return err_set(err, -EFAULT,
			"guest memory: the MP table needs the first %llu bytes to be RAM",
			LAYOUT_BIOS_END);
	cpu = (struct mp_cpu *)(header + 1);
	for (unsigned i = 0; i < cpus; i++)
		cpu[i] = (struct mp_cpu){
			.type = MP_CPU,
			.apic_id = (uint8_t)i,
			.apic_version = LAPIC_VERSION,
			.flags = i ? 1 : 3,
			/* §4.3.1: may be left to CPUID; bit 9 says that there is a local APIC. */
			.features = 1 << 9,
		};
	tail_fill((struct mp_tail *)(cpu + cpus), irqs);
	*header = (struct mp_header){
		.signature = {'P', 'C', 'M', 'P'},
		.length = (uint16_t)bytes,
		.spec_rev = 4,
		.entry_count = (uint16_t)(cpus + 2 + irqs + LOCAL_IRQS),
		.lapic_gpa = LAYOUT_LAPIC,
	};
	memcpy(header->oem_id, "KVICK   ", sizeof(header->oem_id));
	memcpy(header->product_id, "MICROVM     ", sizeof(header->product_id));
	header->checksum = table_checksum(header, bytes);
	pointer.checksum = table_checksum(&pointer, sizeof(pointer));
	return gmem_write(gm, LAYOUT_MP_POINTER, &pointer, sizeof(pointer));
}
