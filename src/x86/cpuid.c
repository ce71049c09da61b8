/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's CPUID: what KVM can back, less what describes the host's topology or needs set-up that
 * kvick does not do, plus the VM's own topology and clocks. Leaf and bit numbers: SDM 2A CPUID,
 * APM 3 appendix E.
 */
#include "x86/cpuid.h"

#include <stddef.h>
#include <string.h>

#include "base/num.h"

#define BIT(n) (1U << (n))

/* Frequency of the local APIC's timer in KVM (arch/x86/kvm/lapic.h, APIC_BUS_CYCLE_NS). */
#define APIC_BUS_KHZ 1000000U

#define HYPERVISOR_LEAF	 0x40000000U
#define HYPERVISOR_CLOCK 0x40000010U /* VMware's, also read by others: clocks in kHz */

/* Leaf 0xd, XCR0: the two state components of AMX. */
#define XCR0_XTILE (BIT(17) | BIT(18))

enum cpuid_reg { REG_EAX, REG_EBX, REG_ECX, REG_EDX };

struct cpuid_mask {
	uint32_t function;
	uint32_t index;
	enum cpuid_reg reg;
	uint32_t clear;
};

/* Features that KVM may report but that this monitor does not back. */
static const struct cpuid_mask never[] = {
	/* DTES64, MONITOR, DS-CPL, PDCM; OSXSAVE mirrors the guest's CR4 and is KVM's to set. */
	{0x1, 0, REG_ECX, BIT(2) | BIT(3) | BIT(4) | BIT(15) | BIT(27)},
	{0x1, 0, REG_EDX, BIT(21)}, /* DS */
	/* Only ARAT is left: the rest is the host's power management; ECX 0 is APERF/MPERF. */
	{0x6, 0, REG_EAX, ~BIT(2)},
	{0x6, 0, REG_EBX, ~0U},
	{0x6, 0, REG_ECX, ~0U},
	/* SGX, cache monitoring, cache allocation, processor trace. */
	{0x7, 0, REG_EBX, BIT(2) | BIT(12) | BIT(15) | BIT(25)},
	/* OSPKE is KVM's to set; SGX launch configuration. */
	{0x7, 0, REG_ECX, BIT(4) | BIT(30)},
	/* Hybrid parts, PCONFIG, architectural LBR. */
	{0x7, 0, REG_EDX, BIT(15) | BIT(18) | BIT(19)},
	{0x7, 1, REG_EAX, BIT(8)}, /* extended performance monitoring */
	/* IBS, SKINIT, WDT, LWP, performance counters (core, NB, L2I), MONITORX. */
	{0x80000001, 0, REG_ECX,
		BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(23) | BIT(24) | BIT(28) | BIT(29)},
};

/* What goes when the process was not given the AMX state (arch_prctl(2), ARCH_REQ_XCOMP_*). */
static const struct cpuid_mask without_amx[] = {
	{0x7, 0, REG_EDX, BIT(22) | BIT(24) | BIT(25)}, /* AMX-BF16, -TILE, -INT8 */
	{0x7, 1, REG_EAX, BIT(21)},			/* AMX-FP16 */
	{0x7, 1, REG_EDX, BIT(8)},			/* AMX-COMPLEX */
	{0xd, 1, REG_EAX, BIT(4)},			/* XFD */
};

/*
 * Leaves that are left out (a leaf that is absent reads as zero) because they describe the host or
 * belong to a feature in the list above, and those that are made anew.
 */
static const uint32_t dropped[] = {
	0x5,		  /* MONITOR/MWAIT */
	0xa,		  /* performance counters */
	0xb,		  /* topology, made anew */
	0xf,		  /* cache monitoring */
	0x10,		  /* cache allocation */
	0x12,		  /* SGX */
	0x14,		  /* processor trace */
	0x15,		  /* TSC and crystal, made anew */
	0x16,		  /* the host's clocks */
	0x1b,		  /* PCONFIG */
	0x1c,		  /* branch records */
	0x1f,		  /* topology, made anew */
	0x23,		  /* performance counters */
	0x8000001b,	  /* IBS */
	0x8000001c,	  /* LWP */
	0x8000001e,	  /* topology of AMD, made anew */
	0x8000001f,	  /* memory encryption */
	0x80000022,	  /* performance counters */
	0x80000026,	  /* topology of AMD */
	HYPERVISOR_CLOCK, /* made anew */
};

static const uint32_t amx_leaves[] = {0x1d, 0x1e};

static bool leaf_in(const uint32_t *list, size_t count, uint32_t function)
{
	for (size_t i = 0; i < count; i++)
		if (list[i] == function)
			return true;
	return false;
}

static uint32_t *entry_reg(struct kvm_cpuid_entry2 *entry, enum cpuid_reg reg)
{
	switch (reg) {
	case REG_EAX:
		return &entry->eax;
	case REG_EBX:
		return &entry->ebx;
	case REG_ECX:
		return &entry->ecx;
	case REG_EDX:
		break;
	}
	return &entry->edx;
}

static void entry_mask(struct kvm_cpuid_entry2 *entry, const struct cpuid_mask *masks, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (masks[i].function == entry->function && masks[i].index == entry->index)
			*entry_reg(entry, masks[i].reg) &= ~masks[i].clear;
}

static const struct kvm_cpuid_entry2 *leaf_find(const struct kvm_cpuid2 *cpuid, uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function && cpuid->entries[i].index == 0)
			return &cpuid->entries[i];
	return NULL;
}

/* Bits that hold the numbers 0..@count-1. */
static unsigned bits_for(unsigned count)
{
	return count > 1 ? 32U - (unsigned)__builtin_clz(count - 1) : 0;
}

static bool vendor_amd(const struct kvm_cpuid2 *cpuid)
{
	const struct kvm_cpuid_entry2 *id = leaf_find(cpuid, 0);

	/* EBX of "AuthenticAMD" and "HygonGenuine". */
	return id && (id->ebx == 0x68747541 || id->ebx == 0x6f677948);
}

static bool vendor_intel(const struct kvm_cpuid2 *cpuid)
{
	const struct kvm_cpuid_entry2 *id = leaf_find(cpuid, 0);

	return id && id->ebx == 0x756e6547; /* "GenuineIntel" */
}

static void leaf_1(struct kvm_cpuid_entry2 *entry, const struct x86_cpu *cpu)
{
	const uint32_t x2apic = BIT(21), deadline = BIT(24), hypervisor = BIT(31), htt = BIT(28);

	entry->ebx = (entry->ebx & 0xffff) | cpu->count << 16 | cpu->index << 24;
	entry->ecx &= ~(x2apic | deadline);
	entry->ecx |= hypervisor;
	if (cpu->apic_x2apic)
		entry->ecx |= x2apic;
	if (cpu->tsc_deadline)
		entry->ecx |= deadline;
	entry->edx &= ~htt;
	if (cpu->count > 1)
		entry->edx |= htt;
}

/* Leaf 4 and AMD's 0x8000001d: levels 1 and 2 belong to one CPU, the others to all. */
static void leaf_cache(struct kvm_cpuid_entry2 *entry, const struct x86_cpu *cpu)
{
	uint32_t level = entry->eax >> 5 & 7, last_id = BIT(bits_for(cpu->count)) - 1;
	uint32_t cores = last_id < 63 ? last_id : 63;

	if (!(entry->eax & 0x1f))
		return;
	entry->eax &= 0x3fff;
	if (level > 2)
		entry->eax |= last_id << 14;
	if (entry->function == 0x4)
		entry->eax |= cores << 26;
}

static void leaf_amd_features(struct kvm_cpuid_entry2 *entry, const struct x86_cpu *cpu)
{
	const uint32_t cmp_legacy = BIT(1);

	entry->ecx &= ~cmp_legacy;
	if (cpu->count > 1)
		entry->ecx |= cmp_legacy;
}

/* Fit one of KVM's entries to the VM. */
static void entry_fit(struct kvm_cpuid_entry2 *entry, const struct x86_cpu *cpu, bool amd)
{
	const uint32_t arch_capabilities = BIT(29);

	switch (entry->function) {
	case 0x1:
		leaf_1(entry, cpu);
		break;
	case 0x4:
	case 0x8000001d:
		leaf_cache(entry, cpu);
		break;
	case 0x7:
		/* KVM emulates this Intel MSR everywhere; no AMD CPU has it. */
		if (amd && entry->index == 0)
			entry->edx &= ~arch_capabilities;
		break;
	case HYPERVISOR_LEAF:
		if (cpu->tsc_khz && entry->eax < HYPERVISOR_CLOCK)
			entry->eax = HYPERVISOR_CLOCK;
		break;
	case 0x80000001:
		if (amd)
			leaf_amd_features(entry, cpu);
		break;
	case 0x80000008:
		/* ApicIdSize and NC, the number of cores less one; no performance TSC. */
		if (amd)
			entry->ecx = bits_for(cpu->count) << 12 | (cpu->count - 1);
		break;
	default:
		break;
	}
}

static struct kvm_cpuid_entry2 *entry_add(
	struct kvm_cpuid2 *out, uint32_t function, uint32_t index, uint32_t flags)
{
	struct kvm_cpuid_entry2 *entry = &out->entries[out->nent++];

	*entry = (struct kvm_cpuid_entry2){.function = function, .index = index, .flags = flags};
	return entry;
}

/* Leaves 0xb and 0x1f: level 0 is one thread, level 1 the package with all cores. */
static void topology_add(struct kvm_cpuid2 *out, uint32_t function, const struct x86_cpu *cpu)
{
	for (uint32_t level = 0; level < 3; level++) {
		struct kvm_cpuid_entry2 *entry =
			entry_add(out, function, level, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

		entry->ecx = level;
		entry->edx = cpu->index;
		if (level == 0) {
			entry->ebx = 1;
			entry->ecx |= 1 << 8; /* SMT */
		} else if (level == 1) {
			entry->eax = bits_for(cpu->count);
			entry->ebx = cpu->count;
			entry->ecx |= 2 << 8; /* core */
		}
	}
}

/*
 * Leaf 0x15: TSC = crystal * EBX / EAX. Linux takes the crystal for the local APIC timer's clock
 * too, so it must be KVM's; and it computes kHz in 32 bits (native_calibrate_tsc), so a frequency
 * whose fraction is too long is left out rather than read wrong.
 */
static void crystal_add(struct kvm_cpuid2 *out, uint32_t tsc_khz)
{
	uint32_t a = tsc_khz, b = APIC_BUS_KHZ;
	struct kvm_cpuid_entry2 *entry;

	while (b) {
		uint32_t rest = a % b;

		a = b;
		b = rest;
	}
	if (tsc_khz / a > UINT32_MAX / APIC_BUS_KHZ)
		return;
	entry = entry_add(out, 0x15, 0, 0);
	entry->eax = APIC_BUS_KHZ / a;
	entry->ebx = tsc_khz / a;
	entry->ecx = APIC_BUS_KHZ * 1000;
}

static void leaves_add(
	struct kvm_cpuid2 *out, const struct kvm_cpuid2 *base, const struct x86_cpu *cpu)
{
	const struct kvm_cpuid_entry2 *basic = leaf_find(base, 0);
	const struct kvm_cpuid_entry2 *extended = leaf_find(base, 0x80000000);
	uint32_t max = basic ? basic->eax : 0, max_extended = extended ? extended->eax : 0;
	struct kvm_cpuid_entry2 *entry;

	if (max >= 0xb)
		topology_add(out, 0xb, cpu);
	if (max >= 0x1f)
		topology_add(out, 0x1f, cpu);
	if (vendor_amd(base) && max_extended >= 0x8000001e) {
		entry = entry_add(out, 0x8000001e, 0, 0);
		entry->eax = cpu->index;
		entry->ebx = cpu->index; /* core id; one thread a core */
	}
	if (!cpu->tsc_khz)
		return;
	if (vendor_intel(base) && max >= 0x15)
		crystal_add(out, cpu->tsc_khz);
	if (leaf_find(base, HYPERVISOR_LEAF)) {
		entry = entry_add(out, HYPERVISOR_CLOCK, 0, 0);
		entry->eax = cpu->tsc_khz;
		entry->ebx = APIC_BUS_KHZ;
	}
}

void x86_cpuid_make(
	struct kvm_cpuid2 *out, const struct kvm_cpuid2 *base, const struct x86_cpu *cpu)
{
	const struct kvm_cpuid_entry2 *xsave = leaf_find(base, 0xd);
	bool amx = xsave && (xsave->eax & XCR0_XTILE) == XCR0_XTILE;
	bool amd = vendor_amd(base);

	out->nent = 0;
	out->padding = 0;
	for (uint32_t i = 0; i < base->nent; i++) {
		struct kvm_cpuid_entry2 entry = base->entries[i];

		if (leaf_in(dropped, ARRAY_LEN(dropped), entry.function))
			continue;
		if (!amx && leaf_in(amx_leaves, ARRAY_LEN(amx_leaves), entry.function))
			continue;
		entry_mask(&entry, never, ARRAY_LEN(never));
		if (!amx)
			entry_mask(&entry, without_amx, ARRAY_LEN(without_amx));
		entry_fit(&entry, cpu, amd);
		/* An absent leaf reads as zero, and each entry makes every look-up in KVM longer.
		 */
		if (!(entry.eax | entry.ebx | entry.ecx | entry.edx))
			continue;
		out->entries[out->nent++] = entry;
	}
	leaves_add(out, base, cpu);
}

unsigned x86_phys_bits(const struct kvm_cpuid2 *cpuid)
{
	const struct kvm_cpuid_entry2 *entry = leaf_find(cpuid, 0x80000008);
	unsigned bits = entry ? entry->eax & 0xff : 36;
	unsigned guest_bits = entry ? entry->eax >> 16 & 0xff : 0;

	/* KVM reports there what its second-level page tables reach when that is less. */
	return guest_bits && guest_bits < bits ? guest_bits : bits;
}
