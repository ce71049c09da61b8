/* SPDX-License-Identifier: Apache-2.0 */
/* x86/: CPUID and MSRs of a vCPU, from what KVM reports on two kinds of host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/num.h"
#include "x86/cpuid.h"

#define BIT(n)	 (1U << (n))
#define ENTRIES	 80
#define INDEXED	 KVM_CPUID_FLAG_SIGNIFCANT_INDEX
#define ALL_ONES 0xffffffff

/* struct kvm_cpuid2 with room. */
struct table {
	uint32_t nent, padding;
	struct kvm_cpuid_entry2 entries[ENTRIES];
};
_Static_assert(
	offsetof(struct table, entries) == offsetof(struct kvm_cpuid2, entries), "kvm_cpuid2");

static struct kvm_cpuid2 *kvm(struct table *table)
{
	return (struct kvm_cpuid2 *)table;
}

static void add(struct table *table, uint32_t function, uint32_t index, uint32_t flags,
	uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	assert_true(table->nent < ENTRIES - X86_CPUID_EXTRA);
	table->entries[table->nent++] =
		(struct kvm_cpuid_entry2){function, index, flags, eax, ebx, ecx, edx, {0}};
}

static const struct kvm_cpuid_entry2 *find(
	const struct table *table, uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *found = NULL;

	for (uint32_t i = 0; i < table->nent; i++)
		if (table->entries[i].function == function && table->entries[i].index == index) {
			assert_null(found); /* KVM would take the first of two */
			found = &table->entries[i];
		}
	return found;
}

/* What KVM would report if it offered everything that the host has: the hardest input. */
static struct table intel_base(void)
{
	struct table t = {0};

	add(&t, 0x0, 0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(&t, 0x1, 0, 0, 0xc06f2, 0xab401234, 0x7fffffff, 0xffffffff);
	add(&t, 0x2, 0, 0, 0xfeff01, 0xf0, 0, 0);
	add(&t, 0x4, 0, INDEXED, 0xfc004121, 0x02c0003f, 0x3f, 0);
	add(&t, 0x4, 1, INDEXED, 0xfc004122, 0x01c0003f, 0x3f, 0);
	add(&t, 0x4, 2, INDEXED, 0xfc004143, 0x03c0003f, 0x7ff, 0);
	add(&t, 0x4, 3, INDEXED, 0xfc1fc163, 0x04c0003f, 0x33fff, 4);
	add(&t, 0x4, 4, INDEXED, 0, 0, 0, 0);
	add(&t, 0x5, 0, 0, 0x40, 0x40, 3, 0x2020);
	add(&t, 0x6, 0, 0, ALL_ONES, ALL_ONES, ALL_ONES, ALL_ONES);
	add(&t, 0x7, 0, INDEXED, 2, ALL_ONES, ALL_ONES, ALL_ONES);
	add(&t, 0x7, 1, INDEXED, ALL_ONES, ALL_ONES, ALL_ONES, ALL_ONES);
	add(&t, 0x7, 2, INDEXED, 0, 0, 0, 0x3f);
	add(&t, 0xa, 0, 0, 0x7300805, 0, 0, 0x8604);
	add(&t, 0xb, 0, INDEXED, 1, 2, 0x100, 0x55);
	add(&t, 0xb, 1, INDEXED, 7, 112, 0x201, 0x55);
	add(&t, 0xd, 0, INDEXED, 0x602e7, 0xa80, 0x2b00, 0);
	add(&t, 0xd, 1, INDEXED, 0x1f, 0, 0, 0);
	add(&t, 0xd, 17, INDEXED, 0x40, 0xac0, 2, 0);
	add(&t, 0xd, 18, INDEXED, 0x2000, 0xb00, 6, 0);
	add(&t, 0x10, 0, INDEXED, 0, 0xe, 0, 0);
	add(&t, 0x12, 0, INDEXED, 0x63, 1, 0, 0x381f);
	add(&t, 0x14, 0, INDEXED, 1, 0x5f, 7, 0);
	add(&t, 0x15, 0, 0, 2, 184, 25000000, 0);
	add(&t, 0x16, 0, 0, 2300, 3800, 100, 0);
	add(&t, 0x1c, 0, 0, 0x4000000b, 7, 7, 0);
	add(&t, 0x1d, 0, INDEXED, 1, 0, 0, 0);
	add(&t, 0x1d, 1, INDEXED, 0x4002000, 0x80040, 0x10, 0);
	add(&t, 0x1e, 0, INDEXED, 0, 0x4010, 0, 0);
	add(&t, 0x1f, 0, INDEXED, 1, 2, 0x100, 0x55);
	add(&t, 0x1f, 1, INDEXED, 7, 112, 0x201, 0x55);
	add(&t, 0x20, 0, 0, 0, 1, 0, 0);
	add(&t, 0x80000000, 0, 0, 0x80000008, 0, 0, 0);
	add(&t, 0x80000001, 0, 0, 0, 0, 0x121, 0x2c100800);
	add(&t, 0x80000008, 0, 0, 0x3934, 0x200, 0, 0);
	add(&t, 0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(&t, 0x40000001, 0, 0, 0x01007efb, 0, 0, 0);
	return t;
}

static struct table amd_base(void)
{
	struct table t = {0};

	add(&t, 0x0, 0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	add(&t, 0x1, 0, 0, 0xa00f11, 0x0f100800, 0x7ffefbff, 0x178bfbff);
	add(&t, 0x6, 0, 0, 4, 0, 1, 0);
	add(&t, 0x7, 0, INDEXED, 0, 0x219c97a9, 0x40068c, 0x20000010);
	add(&t, 0xb, 0, INDEXED, 0, 0, 0, 0x2a);
	add(&t, 0xd, 0, INDEXED, 0x207, 0x988, 0x988, 0);
	add(&t, 0xd, 1, INDEXED, 0xf, 0x348, 0x1800, 0);
	add(&t, 0x80000000, 0, 0, 0x80000026, 0x68747541, 0x444d4163, 0x69746e65);
	add(&t, 0x80000001, 0, 0, 0xa00f11, 0x40000000, 0x75c237ff, 0x2fd3fbff);
	add(&t, 0x80000007, 0, 0, 0, 0, 0, 0x100);
	add(&t, 0x80000008, 0, 0, 0x00303030, 0x111ef657, 0x7077, 0x10007);
	add(&t, 0x8000000a, 0, 0, 1, 8, 0, 0x1b5cff);
	add(&t, 0x8000001b, 0, 0, 0x3ff, 0, 0, 0);
	add(&t, 0x8000001d, 0, INDEXED, 0x4121, 0x1c0003f, 0x3f, 0);
	add(&t, 0x8000001d, 1, INDEXED, 0x4122, 0x1c0003f, 0x3f, 0);
	add(&t, 0x8000001d, 2, INDEXED, 0x4143, 0x1c0003f, 0x3ff, 2);
	add(&t, 0x8000001d, 3, INDEXED, 0x3c163, 0x3c0003f, 0x7fff, 1);
	add(&t, 0x8000001d, 4, INDEXED, 0, 0, 0, 0);
	add(&t, 0x8000001e, 0, 0, 0x2a, 0x115, 0x200, 0);
	add(&t, 0x8000001f, 0, 0, 0x1780f, 0x173, 0x1fd, 1);
	add(&t, 0x80000021, 0, 0, 0x45, 0, 0, 0);
	add(&t, 0x80000022, 0, 0, 1, 6, 0, 0);
	add(&t, 0x80000026, 0, INDEXED, 1, 2, 0x100, 0x2a);
	add(&t, 0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(&t, 0x40000001, 0, 0, 0x01007efb, 0, 0, 0);
	return t;
}

static struct table make(struct table *base, unsigned index, unsigned count)
{
	const struct x86_cpu cpu = {index, count, 2300000, true, true};
	struct table out;

	memset(&out, 0xa5, sizeof(out));
	x86_cpuid_make(kvm(&out), kvm(base), &cpu);
	assert_in_range(out.nent, 1, base->nent + X86_CPUID_EXTRA);
	return out;
}

static const unsigned counts[] = {1, 2, 3, 8, 128, 129, 254};

static unsigned order(unsigned count)
{
	unsigned bits = 0;

	while (1U << bits < count)
		bits++;
	return bits;
}

/* Leaves 0xb and 0x1f, read as SDM 2A has it, give one package of @count single-threaded cores. */
static void check_extended(const struct table *t, uint32_t function, unsigned index, unsigned count)
{
	const struct kvm_cpuid_entry2 *thread = find(t, function, 0), *core = find(t, function, 1);
	const struct kvm_cpuid_entry2 *last = find(t, function, 2);

	assert_true(thread && core && last);
	assert_int_equal(thread->flags & INDEXED, INDEXED);
	assert_int_equal(thread->eax, 0);
	assert_int_equal(thread->ebx, 1);
	assert_int_equal(thread->ecx, 1 << 8);
	assert_int_equal(thread->edx, index);
	assert_int_equal(core->flags & INDEXED, INDEXED);
	assert_int_equal(core->eax, order(count));
	assert_int_equal(core->ebx, count);
	assert_int_equal(core->ecx, 2 << 8 | 1);
	assert_int_equal(core->edx, index);
	assert_int_equal(last->ebx, 0);
	assert_int_equal(last->ecx, 2);
	assert_int_equal(last->edx, index);
	assert_int_equal(index >> core->eax, 0); /* all in package 0 */
}

static void check_caches(const struct table *t, uint32_t function, unsigned count)
{
	for (uint32_t i = 0; i < 4; i++) {
		const struct kvm_cpuid_entry2 *e = find(t, function, i);
		unsigned sharing;

		assert_non_null(e);
		sharing = (e->eax >> 14 & 0xfff) + 1;
		assert_int_equal(sharing, (e->eax >> 5 & 7) == 3 ? 1U << order(count) : 1);
		if (function == 4) {
			unsigned cores = (e->eax >> 26) + 1;

			assert_int_equal(cores, 1U << order(count) > 64 ? 64 : 1U << order(count));
		} else {
			assert_int_equal(e->eax >> 26, 0);
		}
		assert_int_equal(e->eax & 0x1f, i == 0 ? 1 : i == 1 ? 2 : 3);
	}
	assert_null(find(t, function, 4));
}

static void check_leaf_1(const struct table *t, unsigned index, unsigned count, uint32_t low)
{
	const struct kvm_cpuid_entry2 *e = find(t, 1, 0);

	assert_int_equal(e->ebx >> 24, index);
	assert_int_equal(e->ebx >> 16 & 0xff, count);
	assert_int_equal(e->ebx & 0xffff, low);
	assert_int_equal(e->edx >> 28 & 1, count > 1);
	assert_true(e->ecx & BIT(31));
}

static void test_topology_intel(void **state)
{
	struct table base = intel_base();

	for (size_t c = 0; c < ARRAY_LEN(counts); c++)
		for (unsigned i = 0; i < counts[c]; i++) {
			struct table t = make(&base, i, counts[c]);

			check_leaf_1(&t, i, counts[c], 0x1234);
			check_caches(&t, 4, counts[c]);
			check_extended(&t, 0xb, i, counts[c]);
			check_extended(&t, 0x1f, i, counts[c]);
			assert_null(find(&t, 0x8000001e, 0));
			assert_int_equal(find(&t, 0x80000008, 0)->ecx, 0);
		}
}

static void test_topology_amd(void **state)
{
	struct table base = amd_base();

	for (size_t c = 0; c < ARRAY_LEN(counts); c++)
		for (unsigned i = 0; i < counts[c]; i++) {
			struct table t = make(&base, i, counts[c]);
			const struct kvm_cpuid_entry2 *e;

			check_leaf_1(&t, i, counts[c], 0x0800);
			check_caches(&t, 0x8000001d, counts[c]);
			check_extended(&t, 0xb, i, counts[c]);
			assert_null(find(&t, 0x1f, 0));
			assert_null(find(&t, 0x80000026, 0));
			e = find(&t, 0x80000008, 0);
			assert_int_equal(e->ecx & 0xff, counts[c] - 1);
			assert_int_equal(e->ecx >> 12 & 0xf, order(counts[c]));
			assert_int_equal(e->ecx >> 16, 0);
			e = find(&t, 0x8000001e, 0);
			assert_int_equal(e->eax, i);
			assert_int_equal(e->ebx, i); /* core i, one thread */
			assert_int_equal(e->ecx, 0); /* node 0 of 1 */
			assert_int_equal(find(&t, 0x80000001, 0)->ecx >> 1 & 1, counts[c] > 1);
		}
}

/* Leaves that a host too old for them does not list are not invented. */
static void test_old_host(void **state)
{
	struct table base = {0}, t;

	add(&base, 0x0, 0, 0, 0x7, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(&base, 0x1, 0, 0, 0x206a7, 0x800, 0, 0);
	t = make(&base, 1, 2);
	assert_int_equal(t.nent, 2);
	check_leaf_1(&t, 1, 2, 0x800);
	assert_int_equal(x86_phys_bits(kvm(&t)), 36);
}

static void check_pmu_hidden(const struct table *t)
{
	assert_null(find(t, 0xa, 0));
	assert_null(find(t, 0x23, 0));
	assert_null(find(t, 0x1c, 0));
	assert_null(find(t, 0x80000022, 0));
	assert_null(find(t, 0x8000001b, 0));
	assert_int_equal(find(t, 1, 0)->ecx & BIT(15), 0);
	assert_int_equal(find(t, 1, 0)->edx & BIT(21), 0);
}

static void test_filter_intel(void **state)
{
	struct table base = intel_base(), t = make(&base, 0, 4);
	const struct kvm_cpuid_entry2 *e;

	check_pmu_hidden(&t);
	e = find(&t, 1, 0);
	assert_int_equal(e->ecx, ALL_ONES & ~(BIT(2) | BIT(3) | BIT(4) | BIT(15) | BIT(27)));
	assert_int_equal(e->eax, 0xc06f2);
	assert_null(find(&t, 5, 0));
	e = find(&t, 6, 0);
	assert_int_equal(e->eax, 4);
	assert_int_equal(e->ebx | e->ecx, 0);
	e = find(&t, 7, 0);
	assert_int_equal(e->ebx, ALL_ONES & ~(BIT(2) | BIT(12) | BIT(15) | BIT(25)));
	assert_int_equal(e->ecx, ALL_ONES & ~(BIT(4) | BIT(30)));
	/* AMX stays: leaf 0xd says that this process may use it. So does ARCH_CAPABILITIES. */
	assert_int_equal(e->edx, ALL_ONES & ~(BIT(15) | BIT(18) | BIT(19)));
	assert_non_null(find(&t, 0x1d, 1));
	assert_non_null(find(&t, 0x1e, 0));
	assert_int_equal(find(&t, 0xd, 1)->eax, 0x1f);
	assert_int_equal(find(&t, 7, 1)->eax, ALL_ONES & ~BIT(8));
	assert_null(find(&t, 0x10, 0));
	assert_null(find(&t, 0x12, 0));
	assert_null(find(&t, 0x14, 0));
	assert_null(find(&t, 0x16, 0));
	assert_int_equal(find(&t, 0x20, 0)->ebx, 1);
}

/* Without permission to the AMX state nothing speaks of AMX. */
static void test_filter_amx(void **state)
{
	struct table base = intel_base(), t;
	const struct kvm_cpuid_entry2 *e;

	for (uint32_t i = 0; i < base.nent; i++)
		if (base.entries[i].function == 0xd && base.entries[i].index == 0)
			base.entries[i].eax = 0x2e7;
	t = make(&base, 0, 1);
	e = find(&t, 7, 0);
	assert_int_equal(e->edx & (BIT(22) | BIT(24) | BIT(25)), 0);
	assert_int_equal(e->edx & BIT(23), BIT(23)); /* AVX512-FP16 is none of it */
	assert_int_equal(find(&t, 7, 1)->eax & BIT(21), 0);
	assert_int_equal(find(&t, 7, 1)->edx & BIT(8), 0);
	assert_int_equal(find(&t, 0xd, 1)->eax, 0xf);
	assert_null(find(&t, 0x1d, 0));
	assert_null(find(&t, 0x1d, 1));
	assert_null(find(&t, 0x1e, 0));
}

static void test_filter_amd(void **state)
{
	struct table base = amd_base(), t = make(&base, 0, 4);
	const struct kvm_cpuid_entry2 *e;

	check_pmu_hidden(&t);
	e = find(&t, 0x80000001, 0);
	assert_int_equal(e->ecx & (BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(23) | BIT(24) |
					  BIT(28) | BIT(29)),
		0);
	assert_int_equal(e->ecx & BIT(22), BIT(22)); /* TOPOEXT: leaves 0x8000001d and e hold */
	assert_int_equal(e->edx, 0x2fd3fbff);
	assert_null(find(&t, 0x8000001f, 0));
	assert_int_equal(find(&t, 7, 0)->edx, 0x10); /* no ARCH_CAPABILITIES on AMD */
	assert_int_equal(find(&t, 6, 0)->eax, 4);
	assert_int_equal(find(&t, 6, 0)->ecx, 0);
	assert_int_equal(find(&t, 0x8000000a, 0)->ebx, 8);
	assert_int_equal(find(&t, 0x80000007, 0)->edx, 0x100);
	assert_int_equal(find(&t, 0x80000021, 0)->eax, 0x45);
}

static void test_switches(void **state)
{
	struct table base = intel_base(), t;
	struct x86_cpu cpu = {0, 1, 0, false, false};

	x86_cpuid_make(kvm(&t), kvm(&base), &cpu);
	assert_int_equal(find(&t, 1, 0)->ecx & (BIT(21) | BIT(24)), 0);
	assert_int_equal(find(&t, 0x40000000, 0)->eax, 0x40000001);
	assert_null(find(&t, 0x40000010, 0));
	assert_null(find(&t, 0x15, 0));
	cpu.apic_x2apic = true;
	x86_cpuid_make(kvm(&t), kvm(&base), &cpu);
	assert_int_equal(find(&t, 1, 0)->ecx & (BIT(21) | BIT(24)), BIT(21));
	cpu.tsc_deadline = true;
	x86_cpuid_make(kvm(&t), kvm(&base), &cpu);
	assert_int_equal(find(&t, 1, 0)->ecx & (BIT(21) | BIT(24)), BIT(21) | BIT(24));
}

static void test_hypervisor(void **state)
{
	struct table base = amd_base(), t = make(&base, 0, 1);
	const struct kvm_cpuid_entry2 *e = find(&t, 0x40000000, 0);

	assert_int_equal(e->eax, 0x40000010);
	assert_memory_equal(&e->ebx, "KVMKVMKVM\0\0\0", 12);
	assert_int_equal(find(&t, 0x40000001, 0)->eax, 0x01007efb);
	e = find(&t, 0x40000010, 0);
	assert_int_equal(e->eax, 2300000);
	assert_int_equal(e->ebx, 1000000);
	assert_int_equal(e->ecx | e->edx, 0);
}

/* Leaf 0x15 is there only when a reader with 32-bit arithmetic gets the TSC's frequency exactly. */
static void test_crystal(void **state)
{
	static const struct {
		uint32_t khz;
		bool there;
	} cases[] = {{2300000, true}, {2250000, true}, {2445000, true}, {3000000, true}, {1, true},
		{2999998, false}, {2299999, false}, {2595124, false}};
	struct table base = intel_base(), amd = amd_base(), t;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct x86_cpu cpu = {0, 1, cases[i].khz, true, true};
		const struct kvm_cpuid_entry2 *e;
		uint32_t crystal_khz;

		x86_cpuid_make(kvm(&t), kvm(&base), &cpu);
		e = find(&t, 0x15, 0);
		assert_int_equal(e != NULL, cases[i].there);
		if (!e)
			continue;
		/* KVM's local APIC timer counts at 1 GHz, and Linux takes the crystal for it. */
		assert_int_equal(e->ecx, 1000000000);
		crystal_khz = e->ecx / 1000;
		assert_int_equal(crystal_khz * e->ebx / e->eax, cases[i].khz);
	}
	t = make(&amd, 0, 1);
	assert_null(find(&t, 0x15, 0));
}

/* Entries cost time in KVM, so none is all zero; and no leaf is there twice (see find()). */
static void test_frugal(void **state)
{
	struct table bases[] = {intel_base(), amd_base()};

	for (size_t b = 0; b < ARRAY_LEN(bases); b++) {
		struct table t = make(&bases[b], 3, 8);

		for (uint32_t i = 0; i < t.nent; i++) {
			const struct kvm_cpuid_entry2 *e = &t.entries[i];

			assert_true(e->eax | e->ebx | e->ecx | e->edx);
			assert_ptr_equal(find(&t, e->function, e->index), e);
		}
	}
}

static void test_phys_bits(void **state)
{
	struct table t = intel_base();

	assert_int_equal(x86_phys_bits(kvm(&t)), 0x34);
	t = amd_base();
	assert_int_equal(x86_phys_bits(kvm(&t)), 0x30);
	t.nent = 0;
	assert_int_equal(x86_phys_bits(kvm(&t)), 36);
	add(&t, 0x80000008, 0, 0, 0x00303934, 0, 0, 0); /* KVM: 48 of 52 bits by nested paging */
	assert_int_equal(x86_phys_bits(kvm(&t)), 48);
}

static void test_msrs(void **state)
{
	const struct x86_cpu cpus[] = {{0, 2, 0, true, true}, {1, 2, 0, true, true}};

	for (size_t i = 0; i < ARRAY_LEN(cpus); i++) {
		struct kvm_msr_entry msrs[X86_MSRS_MAX + 1];
		unsigned count;

		memset(msrs, 0xa5, sizeof(msrs));
		count = x86_msrs_make(msrs, &cpus[i]);
		assert_int_equal(count, 2);
		assert_int_equal(msrs[0].index, 0x1a0);
		assert_int_equal(msrs[0].data, 0x1801);
		assert_int_equal(msrs[0].reserved, 0);
		assert_int_equal(msrs[1].index, 0x2ff);
		assert_int_equal(msrs[1].data, 0x806);
		assert_int_equal(msrs[2].index, 0xa5a5a5a5);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_topology_intel),
		cmocka_unit_test(test_topology_amd),
		cmocka_unit_test(test_old_host),
		cmocka_unit_test(test_filter_intel),
		cmocka_unit_test(test_filter_amx),
		cmocka_unit_test(test_filter_amd),
		cmocka_unit_test(test_switches),
		cmocka_unit_test(test_hypervisor),
		cmocka_unit_test(test_crystal),
		cmocka_unit_test(test_frugal),
		cmocka_unit_test(test_phys_bits),
		cmocka_unit_test(test_msrs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
