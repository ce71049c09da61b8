/* SPDX-License-Identifier: Apache-2.0 */
/* Probes of what answers behind /dev/kvm. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fd.h"
#include "base/num.h"
#include "cli/doctor.h"

void doctor_kind(struct doctor *doctor, struct doctor_finding *finding)
{
	doctor_value(finding, "hardware", doctor->kind == KVM_KIND_HARDWARE);
	switch (doctor->kind) {
	case KVM_KIND_HARDWARE:
		doctor_find(finding, DOCTOR_OK, "%s", doctor->kind_name);
		return;
	case KVM_KIND_SOFTWARE:
		doctor_find(finding, DOCTOR_FAIL,
			"%s: it emulates the guest's kernel mode and lacks instructions that Linux "
			"needs; flat test guests run, Linux does not",
			doctor->kind_name);
		doctor_fix(finding, "testbed/run -- kvick run ... (from kvick's source tree)");
		return;
	case KVM_KIND_NONE:
		doctor_find(finding, DOCTOR_FAIL, "this kernel offers no KVM");
		doctor_fix(finding,
			"modprobe kvm_intel || modprobe kvm_amd; if neither loads, switch on "
			"virtualisation in the firmware (in a VM: nested virtualisation on its "
			"host), or use the testbed: testbed/run -- kvick run ... (from kvick's "
			"source tree)");
		return;
	}
}

/*
 * The name of group @gid, from /etc/group: getgrgid(3) loads libraries at run time, which a static
 * program must not. Returns false when it is not there.
 */
static bool group_name(const struct doctor *doctor, gid_t gid, char *name, size_t name_bytes)
{
	MEM_SCOPED char *text = doctor_text(doctor, "/etc/group");
	char *save = NULL;

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
		line = strtok_r(NULL, "\n", &save)) {
		char *rest = line;
		const char *group = strsep(&rest, ":");
		const char *id;
		uint64_t n;

		strsep(&rest, ":");
		id = strsep(&rest, ":");
		if (!id || uint_parse(id, 0, UINT32_MAX, &n) < 0 || n != gid)
			continue;
		snprintf(name, name_bytes, "%s", group);
		return true;
	}
	return false;
}

/* The command that lets this user open the device. */
static void access_fix(
	const struct doctor *doctor, const struct stat *st, struct doctor_finding *finding)
{
	char name[64];

	if (st->st_gid != 0 && (st->st_mode & 060) == 060 &&
		group_name(doctor, st->st_gid, name, sizeof(name)))
		doctor_fix(finding, "sudo usermod -aG %s \"$USER\", then log in again", name);
	else
		doctor_fix(finding,
			"sudo groupadd -f kvm && sudo chgrp kvm /dev/kvm && sudo chmod 660 "
			"/dev/kvm && sudo usermod -aG kvm \"$USER\", then log in again");
}

void doctor_device(struct doctor *doctor, struct doctor_finding *finding)
{
	char path[1024];
	struct stat st;

	if (doctor->kvm) {
		doctor_find(finding, DOCTOR_OK, "/dev/kvm can be opened; API version %d",
			KVM_API_VERSION);
		doctor_value(finding, "api_version", KVM_API_VERSION);
		return;
	}
	doctor_value(finding, "errno", -doctor->kvm_error);
	snprintf(path, sizeof(path), "%s/dev/kvm", doctor->root);
	if (stat(path, &st)) {
		doctor_find(finding, DOCTOR_FAIL, "/dev/kvm: %s", err_text(errno));
		if (doctor->kind != KVM_KIND_NONE)
			doctor_fix(finding, "sudo mknod -m 660 /dev/kvm c 10 232 (in a container: "
					    "start it with --device /dev/kvm)");
		return;
	}
	if (doctor->kvm_error == -EACCES || doctor->kvm_error == -EPERM) {
		doctor_find(finding, DOCTOR_FAIL,
			"/dev/kvm (mode %03o, owner %u, group %u) may not be opened by user %u: %s",
			st.st_mode & 0777, st.st_uid, st.st_gid, getuid(),
			err_text(doctor->kvm_error));
		access_fix(doctor, &st, finding);
		return;
	}
	doctor_find(finding, DOCTOR_FAIL, "%s", doctor->kvm_err.text);
}

/* What kvick asks of KVM. */
static const struct {
	int cap;
	const char *name;
	bool required; /* nothing runs without it */
} caps[] = {
	{KVM_CAP_USER_MEMORY, "user_memory", true},
	{KVM_CAP_IRQCHIP, "irqchip", true},
	{KVM_CAP_SPLIT_IRQCHIP, "split_irqchip", true},
	{KVM_CAP_SIGNAL_MSI, "signal_msi", true},
	{KVM_CAP_IRQ_ROUTING, "irq_routing", true},
	{KVM_CAP_EXT_CPUID, "ext_cpuid", true},
	{KVM_CAP_IMMEDIATE_EXIT, "immediate_exit", false},
	{KVM_CAP_IOEVENTFD, "ioeventfd", false},
	{KVM_CAP_TSC_DEADLINE_TIMER, "tsc_deadline_timer", false},
	{KVM_CAP_X2APIC_API, "x2apic_api", false},
	{KVM_CAP_SET_GUEST_DEBUG, "set_guest_debug", false},
};

/* Append the caps that are missing, comma-separated. Returns their number. */
static unsigned caps_missing(
	const struct doctor *doctor, bool required, char *list, size_t list_bytes)
{
	unsigned missing = 0;
	size_t used = 0;

	list[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
		if (caps[i].required != required || kvm_cap(doctor->kvm, caps[i].cap))
			continue;
		if (used < list_bytes)
			used += (size_t)snprintf(list + used, list_bytes - used, "%s%s",
				missing ? ", " : "", caps[i].name);
		missing++;
	}
	return missing;
}

void doctor_caps(struct doctor *doctor, struct doctor_finding *finding)
{
	char list[200];

	if (!doctor->kvm) {
		doctor_find(finding, DOCTOR_FAIL, "unknown: /dev/kvm is not open");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(caps); i++)
		doctor_value(finding, caps[i].name, kvm_cap(doctor->kvm, caps[i].cap));
	if (caps_missing(doctor, true, list, sizeof(list))) {
		doctor->caps_missing = true;
		doctor_find(finding, DOCTOR_FAIL, "missing: %s", list);
		doctor_fix(finding, "run a kernel of 4.5 or later with KVM for x86");
		return;
	}
	if (caps_missing(doctor, false, list, sizeof(list))) {
		doctor_find(finding, DOCTOR_WARN, "missing, so guests lack a feature: %s", list);
		doctor_fix(finding, "run a newer kernel");
		return;
	}
	doctor_find(finding, DOCTOR_OK, "all %zu that kvick uses", ARRAY_LEN(caps));
}

void doctor_limits(struct doctor *doctor, struct doctor_finding *finding)
{
	int vcpus, slots;

	if (!doctor->kvm) {
		doctor_find(finding, DOCTOR_FAIL, "unknown: /dev/kvm is not open");
		return;
	}
	vcpus = kvm_cap(doctor->kvm, KVM_CAP_MAX_VCPUS);
	slots = kvm_cap(doctor->kvm, KVM_CAP_NR_MEMSLOTS);
	doctor_value(finding, "max_vcpus", vcpus);
	doctor_value(finding, "recommended_vcpus", kvm_cap(doctor->kvm, KVM_CAP_NR_VCPUS));
	doctor_value(finding, "memory_slots", slots);
	doctor_find(finding, DOCTOR_OK, "%d vCPUs a VM, %d memory slots", vcpus, slots);
}
