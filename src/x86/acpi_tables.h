/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_ACPI_TABLES_H
#define KV_X86_ACPI_TABLES_H

#include <stdint.h>

/* ACPI tables as they lie in guest memory: ACPI 6.5 §5.2. Little-endian, packed. */

/* §5.2.3.2 Generic Address Structure. */
struct acpi_gas {
	uint8_t space;
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access; /* 1: byte, 2: word, ... */
	uint64_t address;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_gas) == 12, "ACPI 6.5 table 5.1");

#define ACPI_SPACE_IO 1

/* §5.2.5.3 Root System Description Pointer. */
struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI 6.5 table 5.3");

/* §5.2.6 System description table header. */
struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_header) == 36, "ACPI 6.5 table 5.4");

/* §5.2.8 Extended System Description Table. */
struct acpi_xsdt {
	struct acpi_header header;
	uint64_t tables[3]; /* FADT, MADT, and SRAT if there is one */
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_xsdt) == 60, "ACPI 6.5 table 5.8");

/* §5.2.9 Fixed ACPI Description Table. */
struct acpi_fadt {
	struct acpi_header header;
	uint32_t facs;
	uint32_t dsdt;
	uint8_t reserved1;
	uint8_t profile;
	uint16_t sci_irq;
	uint32_t smi_cmd;
	uint8_t acpi_enable;
	uint8_t acpi_disable;
	uint8_t s4bios_req;
	uint8_t pstate_cnt;
	uint32_t pm1a_event;
	uint32_t pm1b_event;
	uint32_t pm1a_control;
	uint32_t pm1b_control;
	uint32_t pm2_control;
	uint32_t pm_timer;
	uint32_t gpe0;
	uint32_t gpe1;
	uint8_t pm1_event_bytes;
	uint8_t pm1_control_bytes;
	uint8_t pm2_control_bytes;
	uint8_t pm_timer_bytes;
	uint8_t gpe0_bytes;
	uint8_t gpe1_bytes;
	uint8_t gpe1_base;
	uint8_t cst_cnt;
	uint16_t c2_latency;
	uint16_t c3_latency;
	uint16_t flush_size;
	uint16_t flush_stride;
	uint8_t duty_offset;
	uint8_t duty_width;
	uint8_t day_alarm;
	uint8_t month_alarm;
	uint8_t century;
	uint16_t boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct acpi_gas reset;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs;
	uint64_t x_dsdt;
	struct acpi_gas x_pm1a_event;
	struct acpi_gas x_pm1b_event;
	struct acpi_gas x_pm1a_control;
	struct acpi_gas x_pm1b_control;
	struct acpi_gas x_pm2_control;
	struct acpi_gas x_pm_timer;
	struct acpi_gas x_gpe0;
	struct acpi_gas x_gpe1;
	struct acpi_gas sleep_control;
	struct acpi_gas sleep_status;
	char hypervisor[8];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_fadt) == 276, "ACPI 6.5 table 5.9");

/* FADT fixed feature flags, table 5.10. */
#define FADT_WBINVD	(1U << 0)
#define FADT_PROC_C1	(1U << 2)
#define FADT_PWR_BUTTON (1U << 4) /* no fixed power button */
#define FADT_SLP_BUTTON (1U << 5) /* no fixed sleep button */
#define FADT_RESET_REG	(1U << 10)
#define FADT_HEADLESS	(1U << 12)
#define FADT_HW_REDUCED (1U << 20)

/* IA-PC boot architecture flags, table 5.11. */
#define BOOT_ARCH_8042	 (1U << 1)
#define BOOT_ARCH_NO_VGA (1U << 2)
#define BOOT_ARCH_NO_RTC (1U << 5)

/* §5.2.10 Firmware ACPI Control Structure; has no header and no checksum. */
struct acpi_facs {
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved[3];
	uint32_t ospm_flags;
	uint8_t reserved2[24];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_facs) == 64, "ACPI 6.5 table 5.12");
#define FACS_ALIGN 64

/* §5.2.12 Multiple APIC Description Table; interrupt controllers follow. */
struct acpi_madt {
	struct acpi_header header;
	uint32_t lapic_gpa;
	uint32_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_madt) == 44, "ACPI 6.5 table 5.19");
#define MADT_PCAT_COMPAT (1U << 0)

/* §5.2.12.2 Processor local APIC. */
struct acpi_madt_lapic {
	uint8_t type;
	uint8_t length;
	uint8_t uid;
	uint8_t apic_id;
	uint32_t flags; /* 1: enabled */
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_madt_lapic) == 8, "ACPI 6.5 table 5.21");

/* §5.2.12.3 I/O APIC. */
struct acpi_madt_ioapic {
	uint8_t type;
	uint8_t length;
	uint8_t id;
	uint8_t reserved;
	uint32_t gpa;
	uint32_t gsi_base;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_madt_ioapic) == 12, "ACPI 6.5 table 5.23");

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1 };

/* §5.2.16 System Resource Affinity Table; affinity structures follow. */
struct acpi_srat {
	struct acpi_header header;
	uint32_t one;
	uint64_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_srat) == 48, "ACPI 6.5 table 5.60");

/* §5.2.16.1 Processor local APIC affinity. */
struct acpi_srat_lapic {
	uint8_t type;
	uint8_t length;
	uint8_t node_low;
	uint8_t apic_id;
	uint32_t flags; /* 1: enabled */
	uint8_t sapic_eid;
	uint8_t node_high[3];
	uint32_t clock;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_srat_lapic) == 16, "ACPI 6.5 table 5.61");

/* §5.2.16.2 Memory affinity. */
struct acpi_srat_memory {
	uint8_t type;
	uint8_t length;
	uint32_t node;
	uint16_t reserved;
	uint64_t gpa;
	uint64_t bytes;
	uint32_t reserved2;
	uint32_t flags;
	uint64_t reserved3;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_srat_memory) == 40, "ACPI 6.5 table 5.62");
#define SRAT_ENABLED	   (1U << 0)
#define SRAT_HOT_PLUGGABLE (1U << 1)

enum { SRAT_LAPIC = 0, SRAT_MEMORY = 1 };

#endif
