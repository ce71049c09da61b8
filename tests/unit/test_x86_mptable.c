/* SPDX-License-Identifier: Apache-2.0 */
/* x86/mptable: found and read as a kernel does, by the offsets of MP 1.4 chapter 4. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "x86/layout.h"
#include "x86/mptable.h"

static struct gmem *ram_make(uint64_t bytes)
{
	struct gmem *gm = NULL;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, bytes, NULL), 0);
	return gm;
}

static uint32_t get(const uint8_t *at, unsigned bytes)
{
	uint32_t value = 0;

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

/* Linux scans the first KiB, the last KiB of 640, and the BIOS area, in steps of 16. */
static const uint8_t *pointer_find(const struct gmem *gm)
{
	static const struct {
		gpa_t gpa;
		uint64_t bytes;
	} places[] = {{0, 0x400}, {639 * KIB, 0x400}, {0xf0000, 0x10000}};

	for (size_t i = 0; i < ARRAY_LEN(places); i++)
		for (uint64_t at = 0; at < places[i].bytes; at += 16) {
			const uint8_t *p = gmem_at(gm, places[i].gpa + at, 16);

			if (!memcmp(p, "_MP_", 4) && p[8] == 1 && !sum(p, 16))
				return p;
		}
	return NULL;
}

static void check(unsigned cpus, unsigned irqs)
{
	struct gmem *gm = ram_make(16 * MIB);
	unsigned seen[5] = {0}, length, entries;
	const uint8_t *p, *config;

	assert_int_equal(mptable_write(gm, cpus, irqs, NULL), 0);
	p = pointer_find(gm);
	assert_non_null(p);
	assert_int_equal(p[9], 4);
	assert_int_equal(p[11], 0); /* a configuration table, no default configuration */
	assert_int_equal(p[12], 0); /* no IMCR: virtual wire */
	config = gmem_at(gm, get(p + 4, 4), 44);
	assert_memory_equal(config, "PCMP", 4);
	length = get(config + 4, 2);
	assert_int_equal(length, mptable_bytes(cpus, irqs));
	assert_non_null(gmem_at(gm, get(p + 4, 4), length));
	assert_int_equal(sum(config, length), 0);
	assert_int_equal(config[6], 4);
	assert_int_equal(get(config + 36, 4), 0xfee00000);
	entries = get(config + 34, 2);
	p = config + 44;
	for (unsigned i = 0; i < entries; i++) {
		assert_in_range(p[0], 0, 4);
		switch (p[0]) {
		case 0:
			assert_int_equal(p[1], seen[0]);
			assert_int_equal(p[3], seen[0] ? 1 : 3);
			break;
		case 1:
			assert_memory_equal(p + 2, "ISA   ", 6);
			break;
		case 2:
			assert_int_equal(p[3], 1);
			assert_int_equal(get(p + 4, 4), 0xfec00000);
			break;
		case 3:
			assert_int_equal(p[1], 0);
			assert_int_equal(get(p + 2, 2), 0);
			assert_int_equal(p[5], seen[3]); /* ISA IRQ ... */
			assert_int_equal(p[7], seen[3]); /* ... at the pin of its number */
			break;
		default:
			assert_int_equal(p[1], seen[4] ? 1 : 3); /* ExtINT, then NMI */
			assert_int_equal(p[6], 0xff);
			assert_int_equal(p[7], seen[4]);
			break;
		}
		seen[p[0]]++;
		p += p[0] == 0 ? 20 : 8;
	}
	assert_ptr_equal(p, config + length);
	assert_int_equal(seen[0], cpus);
	assert_int_equal(seen[1], 1);
	assert_int_equal(seen[2], 1);
	assert_int_equal(seen[3], irqs);
	assert_int_equal(seen[4], 2);
	gmem_destroy(gm);
}

static void test_cpus(void **state)
{
	static const unsigned counts[] = {1, 2, 8, 40, 41, 254};

	for (size_t i = 0; i < ARRAY_LEN(counts); i++)
		check(counts[i], MPTABLE_IRQS);
	/* With devices on lines beyond those of the ISA. */
	check(2, 37);
}

static void test_errors(void **state)
{
	struct gmem *gm = ram_make(16 * MIB);
	struct gmem *tiny = ram_make(LAYOUT_BIOS);
	struct kv_err err = {0};

	assert_int_equal(mptable_write(gm, 0, MPTABLE_IRQS, &err), -E2BIG);
	assert_int_equal(mptable_write(gm, 255, MPTABLE_IRQS, &err), -E2BIG);
	assert_non_null(strstr(err.text, "255"));
	assert_int_equal(mptable_write(tiny, 1, MPTABLE_IRQS, &err), -EFAULT);
	assert_non_null(strstr(err.text, "guest memory"));
	gmem_destroy(gm);
	gmem_destroy(tiny);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpus),
		cmocka_unit_test(test_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
