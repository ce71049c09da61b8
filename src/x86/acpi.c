/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/acpi.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "x86/acpi_tables.h"
#include "x86/aml.h"
#include "x86/layout.h"
#include "x86/mptable.h"
#include "x86/sum.h"

#define CPUS_MAX   254
#define RSDP_ALIGN 16

/* Values that legacy/acpi_regs.c understands. */
#define SLEEP_TYPE_S5 5
#define RESET_VALUE   1

#define OEM_ID	     "KVICK "
#define OEM_TABLE_ID "KVICKVM "

/* The tables' area in guest memory, filled from the front. */
struct area {
	uint8_t *host;
	gpa_t gpa;
	uint64_t bytes, used;
};

/*
 * The next @bytes on a multiple of @align, zeroed, and their address. All but the DSDT have a
 * size known beforehand, and acpi_write() saw that there is room for them.
 */
static void *area_take(struct area *area, uint64_t bytes, uint64_t align, gpa_t *ret_gpa)
{
	uint64_t at = align_up(area->gpa + area->used, align) - area->gpa;

	area->used = at + bytes;
	*ret_gpa = area->gpa + at;
	return memset(area->host + at, 0, bytes);
}

/* Fill the header of a table whose other @bytes are in place. */
static void header_fill(
	struct acpi_header *header, const char *signature, uint8_t revision, uint64_t bytes)
{
	*header = (struct acpi_header){
		.length = (uint32_t)bytes,
		.revision = revision,
		.oem_revision = 1,
		.creator_id = {'K', 'V', 'C', 'K'},
		.creator_revision = 1,
	};
	memcpy(header->signature, signature, sizeof(header->signature));
	memcpy(header->oem_id, OEM_ID, sizeof(header->oem_id));
	memcpy(header->oem_table_id, OEM_TABLE_ID, sizeof(header->oem_table_id));
	header->checksum = table_checksum(header, bytes);
}

static void rsdp_fill(struct acpi_rsdp *rsdp, gpa_t xsdt)
{
	*rsdp = (struct acpi_rsdp){
		.signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
		.revision = 2,
		.length = sizeof(*rsdp),
		.xsdt = xsdt,
	};
	memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
	rsdp->checksum = table_checksum(rsdp, 20);
	rsdp->extended_checksum = table_checksum(rsdp, sizeof(*rsdp));
}

static struct acpi_gas port(uint16_t address, uint8_t bytes)
{
	return (struct acpi_gas){
		.space = ACPI_SPACE_IO,
		.bit_width = (uint8_t)(bytes * 8),
		.access = bytes == 1 ? 1 : 2,
		.address = address,
	};
}

/* What makes the FADT a full one: PM1 registers that never raise their interrupt. */
static void fadt_fill_full(struct acpi_fadt *fadt, gpa_t facs)
{
	fadt->sci_irq = LAYOUT_IRQ_SCI;
	fadt->pm1a_event = LAYOUT_PORT_PM1_EVENT;
	fadt->pm1_event_bytes = 4;
	fadt->pm1a_control = LAYOUT_PORT_PM1_CONTROL;
	fadt->pm1_control_bytes = 2;
	fadt->x_pm1a_event = port(LAYOUT_PORT_PM1_EVENT, 4);
	fadt->x_pm1a_control = port(LAYOUT_PORT_PM1_CONTROL, 2);
	/* §5.2.9: latencies above 100 and 1000 us say that there is no C2 and no C3. */
	fadt->c2_latency = 101;
	fadt->c3_latency = 1001;
	fadt->x_facs = facs;
}

static void fadt_fill(struct acpi_fadt *fadt, gpa_t dsdt, gpa_t facs)
{
	fadt->x_dsdt = dsdt;
	/*
	 * There is a port that resets like a keyboard controller's, but no keyboard: without
	 * BOOT_ARCH_8042 Linux does not wait for one. Nor is there a CMOS clock to be read.
	 */
	fadt->boot_arch = BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_RTC;
	fadt->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON |
		      FADT_RESET_REG | FADT_HEADLESS;
	fadt->reset = port(LAYOUT_PORT_ACPI + 2, 1);
	fadt->reset_value = RESET_VALUE;
	if (facs) {
		fadt_fill_full(fadt, facs);
	} else {
		fadt->flags |= FADT_HW_REDUCED;
		fadt->sleep_control = port(LAYOUT_PORT_ACPI, 1);
		fadt->sleep_status = port(LAYOUT_PORT_ACPI + 1, 1);
	}
	fadt->minor = 5;
	memcpy(fadt->hypervisor, "KVICK   ", sizeof(fadt->hypervisor));
	header_fill(&fadt->header, "FACP", 6, sizeof(*fadt));
}

static uint64_t madt_bytes(unsigned cpus)
{
	return sizeof(struct acpi_madt) + cpus * sizeof(struct acpi_madt_lapic) +
	       sizeof(struct acpi_madt_ioapic);
}

static void madt_fill(struct acpi_madt *madt, const struct acpi_config *config)
{
	struct acpi_madt_lapic *lapic = (struct acpi_madt_lapic *)(madt + 1);
	struct acpi_madt_ioapic *ioapic;

	madt->lapic_gpa = LAYOUT_LAPIC;
	madt->flags = config->legacy_irqchip ? MADT_PCAT_COMPAT : 0;
	for (unsigned i = 0; i < config->cpus; i++, lapic++)
		*lapic = (struct acpi_madt_lapic){
			.type = MADT_LAPIC,
			.length = sizeof(*lapic),
			.uid = (uint8_t)i,
			.apic_id = (uint8_t)i,
			.flags = 1,
		};
	ioapic = (struct acpi_madt_ioapic *)lapic;
	*ioapic = (struct acpi_madt_ioapic){
		.type = MADT_IOAPIC,
		.length = sizeof(*ioapic),
		.gpa = LAYOUT_IOAPIC,
	};
	header_fill(&madt->header, "APIC", 5, madt_bytes(config->cpus));
}

static uint64_t srat_bytes(const struct acpi_config *config)
{
	return sizeof(struct acpi_srat) + config->cpus * sizeof(struct acpi_srat_lapic) +
	       config->memory_count * sizeof(struct acpi_srat_memory);
}

static void srat_fill(struct acpi_srat *srat, const struct acpi_config *config)
{
	struct acpi_srat_lapic *lapic = (struct acpi_srat_lapic *)(srat + 1);
	struct acpi_srat_memory *memory;

	srat->one = 1;
	for (unsigned i = 0; i < config->cpus; i++, lapic++)
		*lapic = (struct acpi_srat_lapic){
			.type = SRAT_LAPIC,
			.length = sizeof(*lapic),
			.apic_id = (uint8_t)i,
			.flags = 1,
		};
	memory = (struct acpi_srat_memory *)lapic;
	for (unsigned i = 0; i < config->memory_count; i++)
		memory[i] = (struct acpi_srat_memory){
			.type = SRAT_MEMORY,
			.length = sizeof(*memory),
			.node = config->memory[i].node,
			.gpa = config->memory[i].gpa,
			.bytes = config->memory[i].bytes,
			.flags = SRAT_ENABLED | (config->memory[i].hot ? SRAT_HOT_PLUGGABLE : 0),
		};
	header_fill(&srat->header, "SRAT", 3, srat_bytes(config));
}

/* §8.4: each CPU of the MADT is also an object of the namespace, with the same _UID. */
static void dsdt_cpus(struct aml *aml, unsigned cpus)
{
	for (unsigned i = 0; i < cpus; i++) {
		char name[8];

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		aml_device(aml, name);
		aml_name(aml, "_HID");
		aml_string(aml, "ACPI0007");
		aml_name(aml, "_UID");
		aml_int(aml, i);
		aml_end(aml);
	}
}

static void dsdt_serial(struct aml *aml)
{
	aml_device(aml, "COM1");
	aml_name(aml, "_HID");
	aml_eisaid(aml, "PNP0501");
	aml_name(aml, "_UID");
	aml_int(aml, 1);
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_io(aml, LAYOUT_PORT_SERIAL, 8);
	aml_interrupt(aml, LAYOUT_IRQ_SERIAL);
	aml_end(aml);
	aml_end(aml);
}

static void dsdt_virtio(struct aml *aml, const struct acpi_virtio *virtio, unsigned index)
{
	char name[8];

	snprintf(name, sizeof(name), "V%03X", index & 0xfff);
	aml_device(aml, name);
	aml_name(aml, "_HID");
	aml_string(aml, "LNRO0005");
	aml_name(aml, "_UID");
	aml_int(aml, index);
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_memory(aml, virtio->gpa, virtio->bytes);
	aml_interrupt(aml, virtio->gsi);
	aml_end(aml);
	aml_end(aml);
}

/* Write the DSDT at the area's end. Returns its address, or 0 when there is no room. */
static gpa_t dsdt_add(struct area *area, const struct acpi_config *config)
{
	struct acpi_header *header = (struct acpi_header *)(area->host + area->used);
	gpa_t gpa = area->gpa + area->used;
	struct aml aml;
	size_t bytes;

	aml_init(&aml, header + 1, area->bytes - area->used - sizeof(*header));
	aml_name(&aml, "_S5_");
	aml_package(&aml, 2);
	aml_int(&aml, SLEEP_TYPE_S5);
	aml_int(&aml, SLEEP_TYPE_S5);
	aml_end(&aml);
	aml_scope(&aml, "_SB_");
	dsdt_cpus(&aml, config->cpus);
	if (config->serial)
		dsdt_serial(&aml);
	for (unsigned i = 0; i < config->virtio_count; i++)
		dsdt_virtio(&aml, &config->virtio[i], i);
	aml_end(&aml);
	bytes = aml_finish(&aml);
	if (!bytes)
		return 0;
	header_fill(header, "DSDT", 2, sizeof(*header) + bytes);
	area->used += sizeof(*header) + bytes;
	return gpa;
}

int acpi_write(
	struct gmem *gm, const struct acpi_config *config, gpa_t *ret_rsdp, struct kv_err *err)
{
	struct area area = {
		.gpa = align_up(
			LAYOUT_MP_CONFIG + mptable_bytes(config->cpus, config->irqs), RSDP_ALIGN)};
	gpa_t rsdp_gpa, xsdt_gpa, fadt_gpa, madt_gpa, dsdt_gpa, srat_gpa = 0, facs_gpa = 0;
	uint64_t xsdt_bytes;
	struct acpi_facs *facs;
	struct acpi_rsdp *rsdp;
	struct acpi_xsdt *xsdt;
	struct acpi_fadt *fadt;
	struct acpi_madt *madt;
	struct acpi_srat *srat = NULL;

	if (!config->cpus || config->cpus > CPUS_MAX || config->virtio_count > ACPI_VIRTIO_MAX ||
		config->memory_count > ACPI_MEMORY_MAX)
		return err_set(err, -E2BIG,
			"ACPI: %u CPUs and %u virtio devices; 1 to %d and at "
			"most %d are allowed",
			config->cpus, config->virtio_count, CPUS_MAX, ACPI_VIRTIO_MAX);
	area.bytes = LAYOUT_BIOS_END - area.gpa;
	area.host = gmem_at(gm, area.gpa, area.bytes);
	if (!area.host)
		return err_set(err, -EFAULT,
			"guest memory: the ACPI tables need the first %llu bytes to be RAM",
			LAYOUT_BIOS_END);
	rsdp = area_take(&area, sizeof(*rsdp), RSDP_ALIGN, &rsdp_gpa);
	xsdt_bytes = sizeof(*xsdt) - (config->memory_count ? 0 : sizeof(xsdt->tables[2]));
	xsdt = area_take(&area, xsdt_bytes, 4, &xsdt_gpa);
	fadt = area_take(&area, sizeof(*fadt), 4, &fadt_gpa);
	madt = area_take(&area, madt_bytes(config->cpus), 4, &madt_gpa);
	if (config->memory_count)
		srat = area_take(&area, srat_bytes(config), 4, &srat_gpa);
	if (config->legacy_irqchip) {
		facs = area_take(&area, sizeof(*facs), FACS_ALIGN, &facs_gpa);
		memcpy(facs->signature, "FACS", sizeof(facs->signature));
		facs->length = sizeof(*facs);
		facs->version = 2;
	}
	dsdt_gpa = dsdt_add(&area, config);
	if (!dsdt_gpa)
		return err_set(err, -E2BIG, "ACPI: the tables do not fit below 1 MiB");
	fadt_fill(fadt, dsdt_gpa, facs_gpa);
	madt_fill(madt, config);
	xsdt->tables[0] = fadt_gpa;
	xsdt->tables[1] = madt_gpa;
	if (srat) {
		srat_fill(srat, config);
		xsdt->tables[2] = srat_gpa;
	}
	header_fill(&xsdt->header, "XSDT", 1, xsdt_bytes);
	rsdp_fill(rsdp, xsdt_gpa);
	*ret_rsdp = rsdp_gpa;
	return 0;
}
