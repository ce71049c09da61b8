/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_HOST_H
#define KV_GMEM_HOST_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* What the host has to give. Of gmem/, its tests, and the pool. */

#define GMEM_NODES_MAX	  64
#define GMEM_HUGE_DIR_MAX 80

/* Source: Linux Documentation/admin-guide/mm/ksm.rst. */
#define GMEM_KSM_RUN "/sys/kernel/mm/ksm/run"

/*
 * The value of @name in @text, a table of one "NAME N" or "NAME: N" a line, such as the kernel's
 * /proc/vmstat; 0 when it is not there.
 */
uint64_t gmem_table_find(const char *text, const char *name);

/*
 * The kernel's folder with the counts of huge pages of @page_bytes (nr_hugepages and so on), of
 * NUMA @node or of the host (-1), into @buf (GMEM_HUGE_DIR_MAX bytes). Returns @buf.
 * Source: Linux Documentation/admin-guide/mm/hugetlbpage.rst.
 */
const char *gmem_huge_dir(uint64_t page_bytes, int node, char *buf);

/* Free huge pages of @page_bytes on @nodes (a bit each), those that mappings reserved included. */
uint64_t gmem_huge_nodes(uint64_t page_bytes, uint64_t nodes);

/*
 * Huge pages of @page_bytes that a new mapping may take: on @nodes (a bit each), or anywhere (0),
 * where surplus pages that the kernel may make count too. What others have reserved is not among
 * them.
 */
uint64_t gmem_huge_free(uint64_t page_bytes, uint64_t nodes);

/*
 * What is free on each node, e.g. "node 0: 3, node 1: 0", into @buf; empty where the kernel does
 * not say. Returns @buf.
 */
const char *gmem_huge_text(uint64_t page_bytes, uint64_t nodes, char *buf, size_t buf_bytes);

/*
 * The CPUs of the @index-th of @nodes (counted round) that this thread may use.
 * Returns their number; 0: unknown, or none of them.
 */
int gmem_node_cpus(uint64_t nodes, unsigned index, cpu_set_t *ret);

/*
 * The memory of NUMA @node: all, and what a mapping bound to it may take before the kernel kills
 * somebody, swap not counted: free pages and those of files, less the kernel's own reserve.
 * Returns false, and both 0, when the kernel does not say.
 * Source: Linux Documentation/admin-guide/sysctl/vm.rst, min_free_kbytes.
 */
bool gmem_node_memory(unsigned node, uint64_t *total_bytes, uint64_t *free_bytes);

/*
 * Check that all of @nodes (a bit each) have memory, and that this process's cpuset allows it: the
 * kernel ignores other nodes when it binds memory to several. Returns 0 (also where the kernel does
 * not say); -EINVAL with a sentence. Source: Linux Documentation/ABI/stable/sysfs-devices-node,
 * mbind(2), proc(5).
 */
int gmem_nodes_check(uint64_t nodes, struct kv_err *err);

/* Whether KSM merges pages. Returns 1 while it does; 0 or 2: not now; -1: this kernel has none. */
int gmem_ksm_state(void);

/* Whether this kernel makes transparent huge pages of anonymous memory when advised to. */
bool gmem_thp_offered(void);

/*
 * Make the pages of [@host, @host + @bytes), page-aligned, present and writable, without a change
 * to what is in them: what cannot be had is an error here, and would be a SIGBUS when it is
 * touched.
 * Returns 0; -ENOMEM; -EINVAL (Linux before 5.14 cannot do it); -errno. Context: any thread.
 */
int gmem_present(void *host, uint64_t bytes);

/* The number of CPUs this thread may use, at least 1. */
unsigned gmem_cpus(void);

/*
 * Check that @bytes of fresh memory can become present without anyone being killed for it: what
 * the host has available, and of it the @nodes (a bit each) that the memory is bound to, or 0: any;
 * and the memory limits of this process's control groups (both versions),
 * less what can be reclaimed of them. @what starts the sentence; @cure ends it: what helps beside
 * a VM with less memory.
 * Returns 0 (also where the host does not say); -ENOMEM with a sentence.
 * Source: Linux Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst.
 */
int gmem_room_check(
	uint64_t bytes, uint64_t nodes, const char *what, const char *cure, struct kv_err *err);

/*
 * The part of that about control groups. @cure ends the sentence: what helps beside raising the
 * limit.
 * Returns 0 (also where the host does not say); -ENOMEM with a sentence.
 */
int gmem_group_check(uint64_t bytes, const char *what, const char *cure, struct kv_err *err);

/*
 * Check that this process's control groups (both versions) let it have @bytes of huge pages of
 * @page_bytes: past their limit, a touch would be a SIGBUS.
 * Returns 0 (also where the host does not say); -ENOMEM with a sentence.
 * Source: Linux Documentation/admin-guide/cgroup-v2.rst, "HugeTLB"; cgroup-v1/hugetlb.rst.
 */
int gmem_huge_limit(uint64_t page_bytes, uint64_t bytes, struct kv_err *err);

#endif
