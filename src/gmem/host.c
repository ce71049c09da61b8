/* SPDX-License-Identifier: Apache-2.0 */
#include "gmem/host.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/num.h"

#define NUMBER_MAX 64
#define TEXT_MAX   (64 * KIB)
#define GROUP_MAX  520 /* bytes of a control group's path, with its NUL */

/* The number in the file whose name is in printf form. Returns false when there is none. */
static bool number_read(uint64_t *ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static bool number_read(uint64_t *ret, const char *fmt, ...)
{
	MEM_SCOPED char *text = NULL;
	char path[512], *end;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	if (file_read_all(path, NUMBER_MAX, &text) <= 0)
		return false;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return end != text && !errno;
}

uint64_t gmem_table_find(const char *text, const char *name)
{
	size_t len = strlen(name);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, name, len) && strchr(" :\t", line[len]) && line[len])
			return strtoull(line + len + 1, NULL, 10);
	}
	return 0;
}

const char *gmem_huge_dir(uint64_t page_bytes, int node, char *buf)
{
	char at[48] = "/sys/kernel/mm";

	if (node >= 0)
		snprintf(at, sizeof(at), "/sys/devices/system/node/node%d", node);
	snprintf(buf, GMEM_HUGE_DIR_MAX, "%s/hugepages/hugepages-%" PRIu64 "kB", at,
		(uint64_t)(page_bytes / KIB));
	return buf;
}

/* The pages of @page_bytes that are free on @node. Returns false when there is no such node. */
static bool node_free_read(uint64_t *ret, uint64_t page_bytes, unsigned node)
{
	char dir[GMEM_HUGE_DIR_MAX];

	return number_read(ret, "%s/free_hugepages", gmem_huge_dir(page_bytes, (int)node, dir));
}

uint64_t gmem_huge_nodes(uint64_t page_bytes, uint64_t nodes)
{
	uint64_t sum = 0, free;

	for (unsigned node = 0; node < GMEM_NODES_MAX; node++)
		if (nodes & 1ULL << node && node_free_read(&free, page_bytes, node))
			sum += free;
	return sum;
}

uint64_t gmem_huge_free(uint64_t page_bytes, uint64_t nodes)
{
	uint64_t sum, free = 0, reserved = 0, surplus = 0, used = 0;
	char dir[GMEM_HUGE_DIR_MAX];

	gmem_huge_dir(page_bytes, -1, dir);
	number_read(&free, "%s/free_hugepages", dir);
	number_read(&reserved, "%s/resv_hugepages", dir);
	/* Pages beyond the reserved ones, which the kernel makes when they are asked for. */
	number_read(&surplus, "%s/nr_overcommit_hugepages", dir);
	number_read(&used, "%s/surplus_hugepages", dir);
	surplus = surplus > used ? surplus - used : 0;
	free = (free > reserved ? free - reserved : 0) + surplus;
	/* What others have reserved is reserved on no node in particular. */
	sum = nodes ? gmem_huge_nodes(page_bytes, nodes) : free;
	return sum < free ? sum : free;
}

const char *gmem_huge_text(uint64_t page_bytes, uint64_t nodes, char *buf, size_t buf_bytes)
{
	size_t used = 0;
	uint64_t free;

	buf[0] = '\0';
	for (unsigned node = 0; node < GMEM_NODES_MAX && used < buf_bytes; node++) {
		if (nodes && !(nodes & 1ULL << node))
			continue;
		if (node_free_read(&free, page_bytes, node))
			used += (size_t)snprintf(buf + used, buf_bytes - used,
				"%snode %u: %" PRIu64, used ? ", " : "", node, free);
	}
	return buf;
}

/* Add the numbers of a list like "0-3,8" to @set: of CPUs, or of nodes. */
static void list_parse(const char *list, cpu_set_t *set)
{
	const char *at = list;

	while (*at >= '0' && *at <= '9') {
		char *end;
		unsigned long first = strtoul(at, &end, 10), last = first;

		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		for (unsigned long n = first; n <= last && n < CPU_SETSIZE; n++)
			CPU_SET(n, set);
		at = *end == ',' ? end + 1 : end;
	}
}

int gmem_node_cpus(uint64_t nodes, unsigned index, cpu_set_t *ret)
{
	MEM_SCOPED char *text = NULL;
	cpu_set_t own, local;
	char path[80];

	if (!nodes)
		return 0;
	for (index %= (unsigned)__builtin_popcountll(nodes); index; index--)
		nodes &= nodes - 1;
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/cpulist",
		__builtin_ctzll(nodes));
	CPU_ZERO(&local);
	if (file_read_all(path, TEXT_MAX, &text) <= 0 ||
		sched_getaffinity(0, sizeof(own), &own) < 0)
		return 0;
	list_parse(text, &local);
	CPU_AND(ret, &own, &local);
	return CPU_COUNT(ret);
}

/* @nodes as such a list. Returns @buf. */
static const char *nodes_text(uint64_t nodes, char *buf, size_t buf_bytes)
{
	size_t used = 0;

	buf[0] = '\0';
	for (unsigned first = 0, last; first < GMEM_NODES_MAX && used < buf_bytes;
		first = last + 1) {
		last = first;
		if (!(nodes & 1ULL << first))
			continue;
		while (last + 1 < GMEM_NODES_MAX && nodes & 1ULL << (last + 1))
			last++;
		used += (size_t)snprintf(buf + used, buf_bytes - used,
			last > first ? "%s%u-%u" : "%s%u", used ? "," : "", first, last);
	}
	return buf;
}

/* The nodes in @list, which ends with its line. Returns a bit each. */
static uint64_t nodes_parse(char *list)
{
	uint64_t nodes = 0;
	cpu_set_t set;

	list[strcspn(list, "\n")] = '\0';
	CPU_ZERO(&set);
	list_parse(list, &set);
	for (unsigned node = 0; node < GMEM_NODES_MAX; node++)
		if (CPU_ISSET(node, &set))
			nodes |= 1ULL << node;
	return nodes;
}

/* All of @nodes are among those in @list, of which @where is said. */
static int nodes_find(uint64_t nodes, char *list, const char *where, struct kv_err *err)
{
	uint64_t missing = nodes & ~nodes_parse(list);
	char text[160];

	if (!missing)
		return 0;
	return err_set(err, -EINVAL, "memory: numa=%s: memory cannot be bound to %s; %s node %s",
		nodes_text(missing, text, sizeof(text)), missing & (missing - 1) ? "them" : "it",
		where, list);
}

int gmem_nodes_check(uint64_t nodes, struct kv_err *err)
{
	static const char name[] = "\nMems_allowed_list:";
	MEM_SCOPED char *host = NULL, *own = NULL;
	char *allowed = NULL;
	int r = 0;

	if (file_read_all("/sys/devices/system/node/has_memory", TEXT_MAX, &host) > 0)
		r = nodes_find(nodes, host, "this host has memory on", err);
	if (!r && file_read_all("/proc/self/status", TEXT_MAX, &own) > 0)
		allowed = strstr(own, name);
	if (allowed)
		r = nodes_find(nodes,
			allowed + strlen(name) + strspn(allowed + strlen(name), "\t "),
			"this process may have memory (cpuset.mems of its control group) of", err);
	return r;
}

bool gmem_node_memory(unsigned node, uint64_t *total_bytes, uint64_t *free_bytes)
{
	static const char *const frees[] = {"MemFree", "Active(file)", "Inactive(file)"};
	MEM_SCOPED char *text = NULL;
	char name[64];
	uint64_t reserve = 0;

	*total_bytes = *free_bytes = 0;
	snprintf(name, sizeof(name), "/sys/devices/system/node/node%u/meminfo", node);
	if (file_read_all(name, TEXT_MAX, &text) <= 0)
		return false;
	for (unsigned i = 0; i < ARRAY_LEN(frees); i++) {
		snprintf(name, sizeof(name), "Node %u %s", node, frees[i]);
		*free_bytes += gmem_table_find(text, name) * KIB;
	}
	/* The whole host's, as if all of it were kept on this node. */
	number_read(&reserve, "/proc/sys/vm/min_free_kbytes");
	reserve *= KIB;
	*free_bytes -= reserve < *free_bytes ? reserve : *free_bytes;
	snprintf(name, sizeof(name), "Node %u MemTotal", node);
	*total_bytes = gmem_table_find(text, name) * KIB;
	return *total_bytes > 0;
}

int gmem_ksm_state(void)
{
	uint64_t run;

	return number_read(&run, GMEM_KSM_RUN) ? (int)run : -1;
}

bool gmem_thp_offered(void)
{
	MEM_SCOPED char *text = NULL;

	if (file_read_all("/sys/kernel/mm/transparent_hugepage/enabled", NUMBER_MAX, &text) <= 0)
		return false;
	return !strstr(text, "[never]");
}

int gmem_present(void *host, uint64_t bytes)
{
	int r;

	do
		r = madvise(host, bytes, MADV_POPULATE_WRITE);
	while (r < 0 && (errno == EINTR || errno == EAGAIN));
	if (!r)
		return 0;
	/* So the kernel tells of what would be a SIGBUS: a huge page that is not there. */
	return errno == EFAULT ? -ENOMEM : -errno;
}

unsigned gmem_cpus(void)
{
	cpu_set_t own;

	if (sched_getaffinity(0, sizeof(own), &own) < 0 || !CPU_COUNT(&own))
		return 1;
	return (unsigned)CPU_COUNT(&own);
}

/*
 * @bytes of a sentence, rounded up: "64G" and not the KiB that are left of it beside an image.
 * Returns @buf.
 */
static const char *need_text(uint64_t bytes, char *buf, size_t buf_bytes)
{
	return size_format(bytes > UINT64_MAX - MIB ? bytes : align_up(bytes, MIB), buf, buf_bytes);
}

/* What a control group counts: its files in the two versions of the interface. */
struct account {
	const char *controller;
	char max[2][40], used[2][40]; /* [1]: version 1 */
	const char *service;	      /* what systemd calls it */
	const char *cure;	      /* beside raising the limit */
};

/* Whether the comma-separated @list has @word. */
static bool list_has(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = list; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, word, len) && (!at[len] || strchr(", :", at[len])))
			return true;
	}
	return false;
}

/*
 * The directory of this process's group: @v1's hierarchy of @controller or the unified one.
 * Returns its length up to the mount point, so that the caller can walk up; 0: not there.
 * Source: cgroups(7), proc(5).
 */
static size_t group_find(bool v1, const char *controller, char *path, size_t path_bytes)
{
	MEM_SCOPED char *mounts = NULL, *groups = NULL;
	char root[256] = "", at[256] = "", options[512], type[32];
	char *save = NULL;

	if (file_read_all("/proc/self/mountinfo", 16 * TEXT_MAX, &mounts) <= 0 ||
		file_read_all("/proc/self/cgroup", TEXT_MAX, &groups) <= 0)
		return 0;
	for (char *line = strtok_r(mounts, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *tail = strstr(line, " - ");

		if (!tail || sscanf(tail, " - %31s %*s %511s", type, options) != 2)
			continue;
		if (v1 ? !strcmp(type, "cgroup") && list_has(options, controller)
		       : !strcmp(type, "cgroup2"))
			if (sscanf(line, "%*s %*s %*s %255s %255s", root, at) == 2)
				break;
		at[0] = '\0';
	}
	if (!at[0])
		return 0;
	for (char *line = strtok_r(groups, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
		size_t len = strcmp(root, "/") ? strlen(root) : 0;

		if (!group)
			continue;
		*group++ = '\0';
		if (v1 ? !list_has(names + 1, controller) : names[1] != '\0')
			continue;
		/* Mounted is what lies below @root, which the group's name starts with. */
		if (strncmp(group, root, len))
			len = strlen(group);
		if ((size_t)snprintf(path, path_bytes, "%s%s", at, group + len) >= path_bytes)
			return 0;
		return strlen(at);
	}
	return 0;
}

/* What may still be charged to the group at @dir; UINT64_MAX: no limit. */
static uint64_t group_room(bool v1, const struct account *account, const char *dir, uint64_t *limit)
{
	MEM_SCOPED char *stat = NULL;
	uint64_t used, cache = 0;
	char path[600];

	/* "max" is no number. */
	if (!number_read(limit, "%s/%s", dir, account->max[v1]) ||
		!number_read(&used, "%s/%s", dir, account->used[v1]))
		return UINT64_MAX;
	/* Only memory can be taken back from others. */
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	if (!strcmp(account->controller, "memory") && file_read_all(path, TEXT_MAX, &stat) > 0)
		cache = gmem_table_find(stat, v1 ? "total_inactive_file" : "inactive_file") +
			gmem_table_find(stat, v1 ? "total_active_file" : "active_file");
	used -= cache < used ? cache : used;
	return *limit > used ? *limit - used : 0;
}

/* @account of the group at @path, which is cut, and of those above it up to the @top. */
static int group_check(bool v1, const struct account *account, char *path, size_t top,
	uint64_t bytes, const char *what, struct kv_err *err)
{
	char need[24];

	for (;;) {
		uint64_t limit, room = group_room(v1, account, path, &limit);
		char *slash;

		if (room < bytes)
			return err_set(err, -ENOMEM,
				"%s: %s are needed, but the control group %s has room for %" PRIu64
				" MiB below its limit of %" PRIu64 " MiB; raise its %s%s%s",
				what, need_text(bytes, need, sizeof(need)), path,
				(uint64_t)(room / MIB), (uint64_t)(limit / MIB), account->max[v1],
				account->service, account->cure);
		slash = strrchr(path, '/');
		if (!slash || (size_t)(slash - path) < top)
			return 0;
		*slash = '\0';
	}
}

/* All @accounts, which are one controller's, in both versions. */
static int groups_check(const struct account *accounts, unsigned count, uint64_t bytes,
	const char *what, struct kv_err *err)
{
	char group[GROUP_MAX], path[GROUP_MAX];
	int r = 0;

	for (unsigned v1 = 0; !r && v1 < 2; v1++) {
		size_t top = group_find(v1, accounts->controller, group, sizeof(group));

		for (unsigned i = 0; !r && top && i < count; i++) {
			strcpy(path, group);
			r = group_check(v1, &accounts[i], path, top, bytes, what, err);
		}
	}
	return r;
}

int gmem_huge_limit(uint64_t page_bytes, uint64_t bytes, struct kv_err *err)
{
	const char *size = page_bytes == GIB ? "1GB" : "2MB";
	/* Pages that are touched, and those that are reserved by mmap(2). */
	static const char *const kinds[] = {"", "rsvd."};
	struct account accounts[ARRAY_LEN(kinds)];

	for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
		struct account *to = &accounts[i];

		*to = (struct account){.controller = "hugetlb",
			.service = "",
			.cure = ", or give the VM less memory"};
		snprintf(to->max[0], sizeof(to->max[0]), "hugetlb.%s.%smax", size, kinds[i]);
		snprintf(to->used[0], sizeof(to->used[0]), "hugetlb.%s.%scurrent", size, kinds[i]);
		snprintf(to->max[1], sizeof(to->max[1]), "hugetlb.%s.%slimit_in_bytes", size,
			kinds[i]);
		snprintf(to->used[1], sizeof(to->used[1]), "hugetlb.%s.%susage_in_bytes", size,
			kinds[i]);
	}
	return groups_check(accounts, ARRAY_LEN(accounts), bytes, "memory", err);
}

int gmem_group_check(uint64_t bytes, const char *what, const char *cure, struct kv_err *err)
{
	const struct account account = {
		"memory",
		{"memory.max", "memory.limit_in_bytes"},
		{"memory.current", "memory.usage_in_bytes"},
		" (of a service: MemoryMax=)",
		cure,
	};

	return groups_check(&account, 1, bytes, what, err);
}

/* The @nodes have @bytes, with the host's @swap. */
static int nodes_check(uint64_t bytes, uint64_t nodes, uint64_t swap, const char *what,
	const char *cure, struct kv_err *err)
{
	uint64_t total, free, sum = swap;
	char need[24];

	for (unsigned node = 0; node < GMEM_NODES_MAX; node++) {
		if (!(nodes & 1ULL << node))
			continue;
		if (!gmem_node_memory(node, &total, &free))
			return 0;
		sum += free;
	}
	if (!nodes || sum >= bytes)
		return 0;
	return err_set(err, -ENOMEM,
		"%s: %s are needed, but the NUMA nodes of numa= have %" PRIu64
		" MiB available (swap included); give the VM less memory, other nodes, or %s",
		what, need_text(bytes, need, sizeof(need)), (uint64_t)(sum / MIB), cure);
}

int gmem_room_check(
	uint64_t bytes, uint64_t nodes, const char *what, const char *cure, struct kv_err *err)
{
	MEM_SCOPED char *text = NULL;
	char cures[80];
	int r;

	if (file_read_all("/proc/meminfo", TEXT_MAX, &text) > 0) {
		uint64_t free = (gmem_table_find(text, "MemAvailable") +
					gmem_table_find(text, "SwapFree")) *
				KIB;
		char need[24];

		if (gmem_table_find(text, "MemTotal") && free < bytes)
			return err_set(err, -ENOMEM,
				"%s: %s are needed, but the host has %" PRIu64
				" MiB available (swap included); give the VM less memory, or %s",
				what, need_text(bytes, need, sizeof(need)), (uint64_t)(free / MIB),
				cure);
		r = nodes_check(
			bytes, nodes, gmem_table_find(text, "SwapFree") * KIB, what, cure, err);
		if (r < 0)
			return r;
	}
	snprintf(cures, sizeof(cures), ", give the VM less memory, or %s", cure);
	return gmem_group_check(bytes, what, cures, err);
}
