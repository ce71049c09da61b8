/* SPDX-License-Identifier: Apache-2.0 */
/* Probes of what the host offers as guest memory. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/num.h"
#include "cli/doctor.h"
#include "gmem/host.h"

#define NODES_MAX 64

static const struct page_size {
	const char *kib;   /* in the names of /sys */
	const char *name;  /* in names of values */
	const char *label; /* for people */
} page_sizes[] = {
	{"2048", "2m", "2 MiB"},
	{"1048576", "1g", "1 GiB"},
};

/* The pages of one size on one node; -1: no such node or size. */
static int64_t pages_read(
	const struct doctor *doctor, const struct page_size *size, unsigned node, const char *what)
{
	return doctor_number(doctor, "/sys/devices/system/node/node%u/hugepages/hugepages-%skB/%s",
		node, size->kib, what);
}

/*
 * Put one size over all nodes into @text and the values. Returns how many pages there are. Those
 * that processes have set aside, as VMs do at their start, are free on some node until they are
 * touched, but nobody else can have them.
 */
static int64_t pages_find(const struct doctor *doctor, const struct page_size *size,
	struct doctor_finding *finding, char *text, size_t text_bytes)
{
	char per_node[160] = "", value[32];
	int64_t total = 0, free = 0, taken;
	char aside[64] = "";
	unsigned nodes = 0;
	size_t used = 0;

	for (unsigned node = 0; node < NODES_MAX; node++) {
		int64_t n = pages_read(doctor, size, node, "nr_hugepages");
		int64_t f = pages_read(doctor, size, node, "free_hugepages");

		if (n < 0 || f < 0)
			continue;
		total += n;
		free += f;
		if (used < sizeof(per_node))
			used += (size_t)snprintf(per_node + used, sizeof(per_node) - used,
				"%snode %u: %" PRId64, nodes ? ", " : "", node, f);
		nodes++;
		snprintf(value, sizeof(value), "node%u_free_%s", node, size->name);
		doctor_value(finding, value, f);
	}
	taken = doctor_number(
		doctor, "/sys/kernel/mm/hugepages/hugepages-%skB/resv_hugepages", size->kib);
	taken = taken < 0 ? 0 : taken < free ? taken : free;
	free -= taken;
	if (taken)
		snprintf(aside, sizeof(aside), ", %" PRId64 " set aside by processes", taken);
	snprintf(value, sizeof(value), "reserved_%s", size->name);
	doctor_value(finding, value, taken);
	snprintf(value, sizeof(value), "free_%s", size->name);
	doctor_value(finding, value, free);
	snprintf(value, sizeof(value), "total_%s", size->name);
	doctor_value(finding, value, total);
	if (nodes > 1)
		snprintf(text, text_bytes, "%s: %" PRId64 " of %" PRId64 " free%s (%s%s)",
			size->label, free, total, aside, taken ? "with those " : "", per_node);
	else if (nodes)
		snprintf(text, text_bytes, "%s: %" PRId64 " of %" PRId64 " free%s", size->label,
			free, total, aside);
	else
		snprintf(text, text_bytes, "%s: not offered by this kernel", size->label);
	return total;
}

void doctor_huge_pages(struct doctor *doctor, struct doctor_finding *finding)
{
	char text[ARRAY_LEN(page_sizes)][240];
	int64_t total = 0;

	for (size_t i = 0; i < ARRAY_LEN(page_sizes); i++)
		total += pages_find(doctor, &page_sizes[i], finding, text[i], sizeof(text[i]));
	doctor_find(finding, total ? DOCTOR_OK : DOCTOR_WARN, "%s; %s", text[0], text[1]);
	if (!total)
		doctor_fix(finding, "echo 512 | sudo tee /sys/kernel/mm/hugepages/"
				    "hugepages-2048kB/nr_hugepages (reserves 1 GiB)");
}

/* The chosen word of a sysfs file like "always [madvise] never". Returns 0 or -errno. */
static int choice_read(const struct doctor *doctor, const char *path, char *word, size_t bytes)
{
	char text[128];
	char *open, *close;
	int r = doctor_read(doctor, text, sizeof(text), "%s", path);

	if (r < 0)
		return r;
	open = strchr(text, '[');
	close = open ? strchr(open, ']') : NULL;
	if (!close)
		return -EINVAL;
	*close = '\0';
	snprintf(word, bytes, "%s", open + 1);
	return 0;
}

void doctor_thp(struct doctor *doctor, struct doctor_finding *finding)
{
	char word[32];

	if (choice_read(doctor, "/sys/kernel/mm/transparent_hugepage/enabled", word, sizeof(word)) <
		0) {
		doctor_find(finding, DOCTOR_WARN, "this kernel has no transparent huge pages");
		doctor_fix(finding, "run a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
		return;
	}
	if (strcmp(word, "never")) {
		doctor_find(finding, DOCTOR_OK, "%s", word);
		return;
	}
	doctor_find(finding, DOCTOR_WARN,
		"never: guest memory is made of small pages, which takes longer");
	doctor_fix(finding, "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
}

void doctor_thp_shmem(struct doctor *doctor, struct doctor_finding *finding)
{
	static const char path[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	char word[32];

	if (choice_read(doctor, path, word, sizeof(word)) < 0) {
		doctor_find(finding, DOCTOR_WARN,
			"this kernel has no transparent huge pages for shared memory");
		doctor_fix(finding, "run a kernel with CONFIG_TRANSPARENT_HUGEPAGE");
		return;
	}
	/*
	 * Either choice costs something, so there is nothing to advise: pages that may become huge
	 * ones do not tell which of them were written (gmem/touched.c).
	 */
	if (!strcmp(word, "never") || !strcmp(word, "deny"))
		doctor_find(finding, DOCTOR_OK,
			"%s: memfds and shared guest memory are made of small pages; of what "
			"trusted users lease, pools clean what was written",
			word);
	else
		doctor_find(finding, DOCTOR_OK,
			"%s: memfds and shared guest memory %s; pools of small pages clean all "
			"that is leased, not what was written as with \"never\"",
			word,
			strcmp(word, "advise") ? "may have huge pages"
					       : "have huge pages with thp=on");
}

void doctor_ksm(struct doctor *doctor, struct doctor_finding *finding)
{
	int64_t run = doctor_number(doctor, GMEM_KSM_RUN);

	doctor_value(finding, "run", run);
	/*
	 * It takes time of a CPU and lets guests find out what others have, so there is nothing to
	 * advise to whoever does not ask for it.
	 */
	if (run < 0)
		doctor_find(finding, DOCTOR_OK,
			"this kernel has none: merge=on of guest memory merges nothing");
	else if (run == 1)
		doctor_find(finding, DOCTOR_OK, "on: guest memory with merge=on is merged");
	else
		doctor_find(finding, DOCTOR_OK,
			"off: merge=on of guest memory merges nothing until: echo 1 | sudo "
			"tee " GMEM_KSM_RUN);
}

void doctor_overcommit(struct doctor *doctor, struct doctor_finding *finding)
{
	int64_t mode = doctor_number(doctor, "/proc/sys/vm/overcommit_memory");

	doctor_value(finding, "mode", mode);
	if (mode != 2) {
		doctor_find(finding, DOCTOR_OK, "mode %" PRId64, mode);
		return;
	}
	doctor_find(finding, DOCTOR_WARN,
		"mode 2: all of a guest's memory counts against the host's limit, used or not");
	doctor_fix(finding, "sudo sysctl -w vm.overcommit_memory=0");
}

void doctor_memlock(struct doctor *doctor, struct doctor_finding *finding)
{
	char size[24];
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit)) {
		doctor_find(finding, DOCTOR_WARN, "getrlimit: %s", err_text(errno));
		return;
	}
	if (limit.rlim_cur == RLIM_INFINITY) {
		doctor_value(finding, "bytes", -1);
		doctor_find(finding, DOCTOR_OK, "unlimited");
		return;
	}
	doctor_value(finding, "bytes", (int64_t)limit.rlim_cur);
	size_format(limit.rlim_cur, size, sizeof(size));
	if (geteuid() == 0) {
		doctor_find(finding, DOCTOR_OK, "%s, which does not bind root", size);
		return;
	}
	doctor_find(finding, DOCTOR_WARN,
		"%s: larger guests cannot be given host devices (VFIO pins their memory)", size);
	doctor_fix(finding,
		"echo \"$USER - memlock unlimited\" | sudo tee /etc/security/limits.d/kvick.conf, "
		"then log in again");
}
