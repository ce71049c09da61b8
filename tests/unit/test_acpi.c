/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x86/acpi: tables found and read as a kernel does, by the offsets of ACPI 6.5 §5.2; and
 * disassembled and compiled again by iasl (acpica-tools).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "x86/acpi.h"
#include "x86/layout.h"
#include "x86/mptable.h"

#define RAM_BYTES (16 * MIB)

struct tables {
	const uint8_t *rsdp, *xsdt, *fadt, *madt, *dsdt;
};

static uint64_t get(const uint8_t *at, unsigned bytes)
{
	uint64_t value = 0;

	memcpy(&value, at, bytes);
	return value;
}

static uint8_t sum(const uint8_t *at, size_t bytes)
{
	uint8_t total = 0;

	while (bytes--)
		total = (uint8_t)(total + *at++);
	return total;
}

static uint32_t table_bytes(const uint8_t *table)
{
	return (uint32_t)get(table + 4, 4);
}

static const uint8_t *table_at(const struct gmem *gm, gpa_t gpa, const char *signature)
{
	const uint8_t *table = gmem_at(gm, gpa, 36);

	assert_non_null(table);
	assert_memory_equal(table, signature, 4);
	assert_non_null(gmem_at(gm, gpa, table_bytes(table)));
	assert_int_equal(sum(table, table_bytes(table)), 0);
	assert_memory_equal(table + 10, "KVICK ", 6);
	/* In what the memory map says is not free, and not in anything else that lies there. */
	assert_true(gpa >= LAYOUT_MP_CONFIG);
	assert_true(gpa + table_bytes(table) <= LAYOUT_BIOS_END);
	return table;
}

static struct gmem *ram_make(void)
{
	struct gmem *gm = NULL;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, RAM_BYTES, NULL), 0);
	madvise(gmem_at(gm, 0, RAM_BYTES), RAM_BYTES, MADV_NOHUGEPAGE);
	return gm;
}

static struct gmem *tables_make(const struct acpi_config *config, struct tables *t)
{
	struct gmem *gm = ram_make();
	gpa_t rsdp = 0, found = 0;

	assert_int_equal(mptable_write(gm, config->cpus, config->irqs, NULL), 0);
	assert_int_equal(acpi_write(gm, config, &rsdp, NULL), 0);
	/* ACPI 6.5 §5.2.5.1: how it is found without a pointer. */
	for (gpa_t at = 0xe0000; at < 0x100000 && !found; at += 16)
		if (!memcmp(gmem_at(gm, at, 8), "RSD PTR ", 8))
			found = at;
	assert_int_equal(found, rsdp);
	t->rsdp = gmem_at(gm, rsdp, 36);
	assert_int_equal(t->rsdp[15], 2);
	assert_int_equal(get(t->rsdp + 20, 4), 36);
	assert_int_equal(sum(t->rsdp, 20), 0);
	assert_int_equal(sum(t->rsdp, 36), 0);
	t->xsdt = table_at(gm, get(t->rsdp + 24, 8), "XSDT");
	assert_int_equal(table_bytes(t->xsdt), 36 + (config->memory_count ? 3 : 2) * 8);
	t->fadt = table_at(gm, get(t->xsdt + 36, 8), "FACP");
	t->madt = table_at(gm, get(t->xsdt + 44, 8), "APIC");
	t->dsdt = table_at(gm, get(t->fadt + 140, 8), "DSDT");
	/* The MP table, written first, is still whole. */
	assert_memory_equal(gmem_at(gm, LAYOUT_MP_CONFIG, 4), "PCMP", 4);
	assert_int_equal(
		sum(gmem_at(gm, LAYOUT_MP_CONFIG, mptable_bytes(config->cpus, config->irqs)),
			mptable_bytes(config->cpus, config->irqs)),
		0);
	return gm;
}

/* Nodes of CPUs and memory, as Linux reads them (ACPI 6.5 §5.2.16). */
static void test_nodes(void **state)
{
	static const struct acpi_config config = {
		.cpus = 3,
		.irqs = 24,
		.memory_count = 2,
		.memory = {{0, 512 * MIB, 0, false}, {8 * GIB, TIB, 5, true}},
	};
	struct tables t;
	struct gmem *gm = tables_make(&config, &t);
	const uint8_t *srat = table_at(gm, get(t.xsdt + 52, 8), "SRAT"), *at = srat + 48;

	assert_int_equal(table_bytes(srat), 48 + 3 * 16 + 2 * 40);
	assert_int_equal(get(srat + 36, 4), 1);
	for (unsigned i = 0; i < 3; i++, at += 16) {
		assert_int_equal(get(at, 2), 0x1000);
		assert_int_equal(at[2], 0);
		assert_int_equal(at[3], i);
		assert_int_equal(get(at + 4, 4), 1);
	}
	for (unsigned i = 0; i < 2; i++, at += 40) {
		assert_int_equal(get(at, 2), 0x2801);
		assert_int_equal(get(at + 2, 4), config.memory[i].node);
		assert_int_equal(get(at + 8, 8), config.memory[i].gpa);
		assert_int_equal(get(at + 16, 8), config.memory[i].bytes);
		assert_int_equal(get(at + 28, 4), config.memory[i].hot ? 3 : 1);
	}
	gmem_destroy(gm);
}

static void check_madt(const struct tables *t, unsigned cpus, uint32_t flags)
{
	const uint8_t *at = t->madt + 44, *end = t->madt + table_bytes(t->madt);
	unsigned lapics = 0, ioapics = 0;

	assert_int_equal(get(t->madt + 36, 4), 0xfee00000);
	assert_int_equal(get(t->madt + 40, 4), flags);
	while (at < end) {
		assert_true(at[1] >= 2 && at + at[1] <= end);
		if (at[0] == 0) {
			assert_int_equal(at[1], 8);
			assert_int_equal(at[2], lapics);
			assert_int_equal(at[3], lapics);
			assert_int_equal(get(at + 4, 4), 1);
			lapics++;
		} else {
			assert_int_equal(at[0], 1);
			assert_int_equal(at[1], 12);
			assert_int_equal(get(at + 4, 4), 0xfec00000);
			assert_int_equal(get(at + 8, 4), 0);
			ioapics++;
		}
		at += at[1];
	}
	assert_ptr_equal(at, end);
	assert_int_equal(lapics, cpus);
	assert_int_equal(ioapics, 1);
}

static void check_port(const uint8_t *gas, uint16_t port, unsigned bits)
{
	assert_int_equal(gas[0], 1);
	assert_int_equal(gas[1], bits);
	assert_int_equal(gas[2], 0);
	assert_int_equal(get(gas + 4, 8), port);
}

static void check_zero(const uint8_t *from, const uint8_t *to)
{
	while (from < to)
		assert_int_equal(*from++, 0);
}

static void test_reduced(void **state)
{
	static const unsigned counts[] = {1, 2, 8, 254};

	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		struct acpi_config config = {
			.cpus = counts[i], .irqs = MPTABLE_IRQS, .serial = true};
		struct tables t;
		struct gmem *gm = tables_make(&config, &t);
		uint32_t flags = (uint32_t)get(t.fadt + 112, 4);

		check_madt(&t, counts[i], 0);
		assert_int_equal(table_bytes(t.fadt), 276);
		assert_int_equal(t.fadt[8], 6);
		assert_int_equal(t.fadt[131], 5);
		assert_true(flags & 1U << 20);				 /* hardware-reduced */
		assert_true(flags & 1U << 10);				 /* reset register */
		assert_int_equal(get(t.fadt + 109, 2), 1 << 2 | 1 << 5); /* no VGA, no RTC */
		check_port(t.fadt + 116, 0x602, 8);
		assert_int_equal(t.fadt[128], 1);
		check_port(t.fadt + 244, 0x600, 8);
		check_port(t.fadt + 256, 0x601, 8);
		/* None of the registers that a hardware-reduced machine does not have. */
		check_zero(t.fadt + 36, t.fadt + 40);
		check_zero(t.fadt + 45, t.fadt + 109);
		check_zero(t.fadt + 132, t.fadt + 140);
		check_zero(t.fadt + 148, t.fadt + 244);
		gmem_destroy(gm);
	}
}

static void test_legacy(void **state)
{
	struct acpi_config config = {.cpus = 3, .irqs = MPTABLE_IRQS, .legacy_irqchip = true};
	struct tables t;
	struct gmem *gm = tables_make(&config, &t);
	uint32_t flags = (uint32_t)get(t.fadt + 112, 4);
	gpa_t facs_gpa = get(t.fadt + 132, 8);
	const uint8_t *facs = gmem_at(gm, facs_gpa, 64);

	check_madt(&t, 3, 1);
	assert_false(flags & 1U << 20);
	assert_true(flags & 1U << 4); /* no fixed power button */
	assert_int_equal(get(t.fadt + 46, 2), 9);
	assert_int_equal(get(t.fadt + 56, 4), 0x604);
	assert_int_equal(get(t.fadt + 64, 4), 0x608);
	assert_int_equal(t.fadt[88], 4);
	assert_int_equal(t.fadt[89], 2);
	check_port(t.fadt + 148, 0x604, 32);
	check_port(t.fadt + 172, 0x608, 16);
	check_zero(t.fadt + 244, t.fadt + 268);
	assert_non_null(facs);
	assert_int_equal(facs_gpa % 64, 0);
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(get(facs + 4, 4), 64);
	gmem_destroy(gm);
}

/* The DSDT of the smallest machine, byte by byte (§20.2). */
static void test_dsdt_bytes(void **state)
{
	static const char expect[] = "\x08_S5_\x12\x06\x02\x0a\x05\x0a\x05" /* Name, Package */
				     "\x10\x21_SB_"			    /* Scope */
				     "\x5b\x82\x1a"
				     "C000" /* Device */
				     "\x08_HID\x0d"
				     "ACPI0007\0"
				     "\x08_UID"; /* ... and ZeroOp */
	struct acpi_config config = {.cpus = 1, .irqs = MPTABLE_IRQS};
	struct tables t;
	struct gmem *gm = tables_make(&config, &t);

	assert_int_equal(table_bytes(t.dsdt), 36 + sizeof(expect));
	assert_memory_equal(t.dsdt + 36, expect, sizeof(expect));
	gmem_destroy(gm);
}

static struct acpi_config virtio_config(unsigned cpus)
{
	struct acpi_config config = {
		.cpus = cpus, .irqs = 37, .serial = true, .virtio_count = ACPI_VIRTIO_MAX};

	for (unsigned i = 0; i < ACPI_VIRTIO_MAX; i++)
		config.virtio[i] = (struct acpi_virtio){0xd0001000 + i * 0x1000ULL, 0x1000, 5 + i};
	config.virtio[ACPI_VIRTIO_MAX - 1].gpa = 0x8000000000;
	return config;
}

static void test_errors(void **state)
{
	struct acpi_config config = {.cpus = 0, .irqs = MPTABLE_IRQS};
	struct gmem *gm = ram_make(), *tiny = NULL;
	struct kv_err err = {0};
	gpa_t rsdp = 77;

	assert_int_equal(acpi_write(gm, &config, &rsdp, &err), -E2BIG);
	config.cpus = 255;
	assert_int_equal(acpi_write(gm, &config, &rsdp, &err), -E2BIG);
	assert_non_null(strstr(err.text, "255"));
	config = (struct acpi_config){
		.cpus = 1, .irqs = MPTABLE_IRQS, .virtio_count = ACPI_VIRTIO_MAX + 1};
	assert_int_equal(acpi_write(gm, &config, &rsdp, &err), -E2BIG);
	config.virtio_count = 0;
	assert_int_equal(gmem_create(&tiny, NULL), 0);
	assert_int_equal(gmem_add_ram(tiny, 0, LAYOUT_BIOS, NULL), 0);
	assert_int_equal(acpi_write(tiny, &config, &rsdp, &err), -EFAULT);
	assert_int_equal(rsdp, 77);
	gmem_destroy(gm);
	gmem_destroy(tiny);
}

/* MP and ACPI tables of a small machine touch the MP pointer's page and one more. */
static void test_pages(void **state)
{
	static unsigned char map[RAM_BYTES / PAGE_BYTES];
	struct acpi_config config = {.cpus = 8, .irqs = MPTABLE_IRQS, .serial = true};
	struct gmem *gm = ram_make();
	unsigned pages = 0;
	gpa_t rsdp;

	assert_int_equal(mptable_write(gm, config.cpus, config.irqs, NULL), 0);
	assert_int_equal(acpi_write(gm, &config, &rsdp, NULL), 0);
	assert_int_equal(mincore(gmem_at(gm, 0, RAM_BYTES), RAM_BYTES, map), 0);
	for (size_t i = 0; i < sizeof(map); i++)
		pages += map[i] & 1;
	assert_int_equal(pages, 2);
	gmem_destroy(gm);
}

static void file_write(const char *dir, const char *name, const uint8_t *table)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.dat", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, table, table_bytes(table)), 0);
	close(fd);
}

/* Run a command; what it prints, standard error included, goes to @text. Returns its status. */
static int shell(char *text, size_t size, const char *dir, const char *command)
{
	char line[512];
	FILE *pipe;
	size_t used;

	snprintf(line, sizeof(line), "cd %s && { %s; } 2>&1", dir, command);
	pipe = popen(line, "r");
	assert_non_null(pipe);
	used = fread(text, 1, size - 1, pipe);
	text[used] = 0;
	while (fgetc(pipe) != EOF)
		;
	return pclose(pipe);
}

/* iasl says what it thinks in words: its status does not count warnings. */
static void assert_clean(char *text, int status)
{
	static const char *const words[] = {
		"Error", "Warning", "Remark", "rror:", "arning:", "nvalid", "xception"};
	char *summary = strstr(text, "0 Errors, 0 Warnings, 0 Remarks");

	if (summary)
		memset(summary, ' ', strlen("0 Errors, 0 Warnings, 0 Remarks"));
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strstr(text, words[i]))
			fail_msg("iasl: %s", text);
	if (status)
		fail_msg("iasl: status %d: %s", status, text);
}

static void iasl_check(const char *dir, const struct acpi_config *config)
{
	static char text[1 << 20];
	char command[64];
	struct tables t;
	struct gmem *gm = tables_make(config, &t);
	int status;

	file_write(dir, "fadt", t.fadt);
	file_write(dir, "madt", t.madt);
	file_write(dir, "xsdt", t.xsdt);
	file_write(dir, "dsdt", t.dsdt);
	status = shell(text, sizeof(text), dir, "iasl -d fadt.dat madt.dat xsdt.dat dsdt.dat");
	assert_clean(text, status);
	status = shell(text, sizeof(text), dir, "cat *.dsl");
	assert_int_equal(status, 0);
	assert_non_null(strstr(text, "Name (_S5, Package (0x02)"));
	assert_non_null(strstr(text, "Device (C000)"));
	assert_null(strstr(text, "!!!")); /* how iasl marks a field that it doubts */
	assert_int_equal(strstr(text, "EisaId (\"PNP0501\")") != NULL, config->serial);
	assert_int_equal(strstr(text, "\"LNRO0005\"") != NULL, config->virtio_count > 0);
	snprintf(command, sizeof(command), "grep -c ACPI0007 dsdt.dsl");
	shell(text, sizeof(text), dir, command);
	assert_int_equal(atoi(text), config->cpus);
	/* The disassembly compiles to the same bytes. */
	status = shell(text, sizeof(text), dir, "iasl -p again dsdt.dsl");
	assert_clean(text, status);
	status = shell(text, sizeof(text), dir,
		"tail -c +37 dsdt.dat >a; tail -c +37 again.aml >b; "
		"cmp a b && rm -f *");
	if (status)
		fail_msg("DSDT: %s", text);
	gmem_destroy(gm);
}

static void test_iasl(void **state)
{
	const struct acpi_config configs[] = {
		{.cpus = 1, .irqs = MPTABLE_IRQS},
		{.cpus = 1, .irqs = MPTABLE_IRQS, .serial = true},
		{.cpus = 2, .irqs = MPTABLE_IRQS, .serial = true, .legacy_irqchip = true},
		{.cpus = 254, .irqs = MPTABLE_IRQS, .serial = true},
		virtio_config(254),
	};
	char dir[] = "/tmp/kvick-acpi-XXXXXX";

	if (system("command -v iasl >/dev/null 2>&1")) {
		print_message("no iasl: install acpica-tools\n");
		skip();
	}
	assert_non_null(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_LEN(configs); i++)
		iasl_check(dir, &configs[i]);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_reduced),
		cmocka_unit_test(test_legacy),
		cmocka_unit_test(test_dsdt_bytes),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_pages),
		cmocka_unit_test(test_iasl),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
