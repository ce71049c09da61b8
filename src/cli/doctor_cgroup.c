/* SPDX-License-Identifier: Apache-2.0 */
/* Probes of the control groups this process is in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/doctor.h"

/* A mounted cgroup hierarchy. */
struct hierarchy {
	char root[256], at[256]; /* what of it is mounted, and where */
	bool favor_dynmods;
};

/* Whether @word is among the comma-separated @list. */
static bool list_has(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += len)
		if ((at == list || at[-1] == ',') && (!at[len] || at[len] == ','))
			return true;
	return false;
}

/*
 * Find the mount of the unified hierarchy (@controller NULL), or of version 1's with @controller.
 * Source: proc(5), /proc/pid/mountinfo.
 */
static bool hierarchy_find(
	const struct doctor *doctor, const char *controller, struct hierarchy *found)
{
	MEM_SCOPED char *text = doctor_text(doctor, "/proc/self/mountinfo");
	char *save = NULL;

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
		line = strtok_r(NULL, "\n", &save)) {
		char *tail = strstr(line, " - ");
		char type[32], options[512];

		if (!tail || sscanf(tail, " - %31s %*s %511s", type, options) != 2 ||
			sscanf(line, "%*s %*s %*s %255s %255s", found->root, found->at) != 2)
			continue;
		if (controller ? strcmp(type, "cgroup") || !list_has(options, controller)
			       : strcmp(type, "cgroup2"))
			continue;
		found->favor_dynmods = list_has(options, "favordynmods");
		return true;
	}
	return false;
}

/* This process's group in the hierarchy as in hierarchy_find(). Source: cgroups(7). */
static bool group_find(
	const struct doctor *doctor, const char *controller, char *path, size_t bytes)
{
	MEM_SCOPED char *text = doctor_text(doctor, "/proc/self/cgroup");
	char *save = NULL;

	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
		line = strtok_r(NULL, "\n", &save)) {
		char *rest = line;
		const char *names;

		strsep(&rest, ":");
		names = strsep(&rest, ":");
		if (!names || !rest)
			continue;
		if (controller ? !list_has(names, controller) : *names != '\0')
			continue;
		snprintf(path, bytes, "%s", rest);
		return true;
	}
	return false;
}

/*
 * The tightest limit on the way from this process's group up to the mount, in bytes.
 * Returns false when there is no such hierarchy.
 */
static bool limit_find(const struct doctor *doctor, const char *controller, const char *file,
	uint64_t *limit, char *where, size_t where_bytes)
{
	struct hierarchy mount;
	char path[512];
	char *rest = path;

	if (!hierarchy_find(doctor, controller, &mount) ||
		!group_find(doctor, controller, path, sizeof(path)))
		return false;
	/* In a container the mount may start below the hierarchy's root. */
	if (strcmp(mount.root, "/") && !strncmp(path, mount.root, strlen(mount.root)))
		rest += strlen(mount.root);
	*limit = UINT64_MAX;
	for (;;) {
		int64_t n = doctor_number(doctor, "%s%s/%s", mount.at, rest, file);
		char *slash = strrchr(rest, '/');

		if (n >= 0 && (uint64_t)n < *limit) {
			*limit = (uint64_t)n;
			snprintf(where, where_bytes, "%s", mount.at);
			strncat(where, rest, where_bytes - strlen(where) - 1);
		}
		if (!slash)
			return true;
		*slash = '\0';
	}
}

void doctor_cgroup_memory(struct doctor *doctor, struct doctor_finding *finding)
{
	uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t limit = UINT64_MAX, limit_v1;
	char where[256] = "", where_v1[256] = "";
	bool v2 = limit_find(doctor, NULL, "memory.max", &limit, where, sizeof(where));
	bool v1 = limit_find(
		doctor, "memory", "memory.limit_in_bytes", &limit_v1, where_v1, sizeof(where_v1));

	if (v1 && limit_v1 < limit) {
		limit = limit_v1;
		memcpy(where, where_v1, sizeof(where));
	}
	/* Version 1 writes "no limit" as a number near 2^63. */
	if (limit >= ram) {
		doctor_value(finding, "bytes", -1);
		doctor_find(finding, DOCTOR_OK, v1 || v2 ? "no limit" : "no cgroups");
		return;
	}
	doctor_value(finding, "bytes", (int64_t)limit);
	doctor_find(finding, DOCTOR_WARN, "%llu MiB (%s): guests that use more are killed",
		limit / MIB, where);
	doctor_fix(finding, "start kvick in a group without limit: sudo systemd-run --scope -p "
			    "MemoryMax=infinity kvick run ...");
}

/*
 * Kernels from 6.0 let forks wait less and moves between cgroups wait longer (a grace period each);
 * KVM moved a thread with every VM until 6.13. Mounting with favordynmods turns it round.
 */
void doctor_cgroup_moves(struct doctor *doctor, struct doctor_finding *finding)
{
	struct hierarchy v2, v1;
	bool has_v2 = hierarchy_find(doctor, NULL, &v2);
	bool has_v1 = hierarchy_find(doctor, "memory", &v1) || hierarchy_find(doctor, "cpu", &v1);
	const char *kind = has_v1 ? (has_v2 ? "cgroup v1 and v2" : "cgroup v1")
				  : (has_v2 ? "cgroup v2" : "no cgroups");
	char text[64];
	unsigned major = 0, minor = 0;

	doctor_value(finding, "v1", has_v1);
	doctor_value(finding, "v2", has_v2);
	doctor_value(finding, "favordynmods", has_v2 && v2.favor_dynmods);
	if (doctor_read(doctor, text, sizeof(text), "/proc/sys/kernel/osrelease") < 0 ||
		sscanf(text, "%u.%u", &major, &minor) != 2 || major < 6 ||
		(major == 6 && minor >= 13) || major > 6) {
		doctor_find(finding, DOCTOR_OK,
			"%s; this kernel does not wait for threads that KVM moves", kind);
		return;
	}
	if ((has_v2 && v2.favor_dynmods) || (has_v1 && v1.favor_dynmods)) {
		doctor_find(finding, DOCTOR_OK, "%s, favordynmods", kind);
		return;
	}
	if (doctor_read(doctor, text, sizeof(text), "/sys/module/kvm/parameters/nx_huge_pages") ==
			0 &&
		!strcmp(text, "never")) {
		doctor_find(finding, DOCTOR_OK,
			"%s; with kvm.nx_huge_pages=never no thread is moved for a VM", kind);
		return;
	}
	if (!has_v1 && !has_v2) {
		doctor_find(finding, DOCTOR_OK, "%s", kind);
		return;
	}
	doctor_find(finding, DOCTOR_WARN,
		"%s without favordynmods: every KVM_CREATE_VM moves a thread and waits "
		"milliseconds for it",
		kind);
	if (has_v2)
		doctor_fix(finding, "sudo mount -o remount,favordynmods %s", v2.at);
	else
		doctor_fix(finding, "boot with systemd.unified_cgroup_hierarchy=1, then sudo mount "
				    "-o remount,favordynmods /sys/fs/cgroup");
}
