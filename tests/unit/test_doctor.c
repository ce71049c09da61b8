/* SPDX-License-Identifier: Apache-2.0 */
/* The probes of `kvick doctor`, on hosts made of a few files below a temporary directory. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/doctor.h"

#define NX	   "/sys/module/kvm/parameters/nx_huge_pages"
#define MULTIHIT   "/sys/devices/system/cpu/vulnerabilities/itlb_multihit"
#define THP	   "/sys/kernel/mm/transparent_hugepage/enabled"
#define THP_SHMEM  "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define HUGE_2M	   "/sys/kernel/mm/hugepages/hugepages-2048kB"
#define KSM	   "/sys/kernel/mm/ksm/run"
#define OVERCOMMIT "/proc/sys/vm/overcommit_memory"
#define MOUNTS	   "/proc/self/mountinfo"
#define GROUPS	   "/proc/self/cgroup"
#define RELEASE	   "/proc/sys/kernel/osrelease"
#define NODE	   "/sys/devices/system/node/node"

#define V2_MOUNT "31 30 0:29 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"

/* A host with nothing in it. */
static int host_setup(void **state)
{
	static char root[] = "/tmp/kvick-test-XXXXXX";
	struct doctor *doctor = calloc(1, sizeof(*doctor));

	strcpy(root + strlen(root) - 6, "XXXXXX");
	if (!doctor || !mkdtemp(root))
		return -1;
	doctor->root = root;
	*state = doctor;
	return 0;
}

static int entry_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static int host_teardown(void **state)
{
	struct doctor *doctor = *state;
	int r = nftw(doctor->root, entry_remove, 8, FTW_DEPTH | FTW_PHYS);

	free(doctor);
	return r;
}

/* Write @text to the file @path of the host, with the directories above it. */
static void put(const struct doctor *doctor, const char *path, const char *text)
{
	char full[512];
	FD_SCOPED int fd = -1;

	snprintf(full, sizeof(full), "%s%s", doctor->root, path);
	for (char *c = full + strlen(doctor->root) + 1; (c = strchr(c, '/')); *c++ = '/') {
		*c = '\0';
		if (mkdir(full, 0755) && errno != EEXIST)
			fail_msg("%s: %s", full, err_text(errno));
	}
	fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

/* Run a probe and compare: level, words of the text, words of the fix (NULL: there is none). */
static void expect(struct doctor *doctor, void (*find)(struct doctor *, struct doctor_finding *),
	enum doctor_level level, const char *text, const char *fix)
{
	struct doctor_finding finding = {0};

	find(doctor, &finding);
	if (finding.level != level || !strstr(finding.text, text))
		fail_msg("level %d, %s", finding.level, finding.text);
	if (fix ? !strstr(finding.fix, fix) : finding.fix[0])
		fail_msg("fix: %s", finding.fix);
}

static int64_t value(struct doctor *doctor, void (*find)(struct doctor *, struct doctor_finding *),
	const char *name)
{
	struct doctor_finding finding = {0};

	find(doctor, &finding);
	for (unsigned i = 0; i < finding.value_count; i++)
		if (!strcmp(finding.values[i].name, name))
			return finding.values[i].value;
	fail_msg("no value %s", name);
	return 0;
}

static void test_read(void **state)
{
	struct doctor *doctor = *state;
	char text[8];

	put(doctor, "/a", "12\nrest");
	put(doctor, "/b", "max\n");
	put(doctor, "/c", "0123456789\n");
	assert_int_equal(doctor_read(doctor, text, sizeof(text), "/%c", 'a'), 0);
	assert_string_equal(text, "12");
	assert_int_equal(doctor_read(doctor, text, sizeof(text), "/c"), 0);
	assert_string_equal(text, "0123456");
	assert_int_equal(doctor_read(doctor, text, sizeof(text), "/none"), -ENOENT);
	assert_int_equal(doctor_number(doctor, "/a"), 12);
	assert_int_equal(doctor_number(doctor, "/b"), -1);
	assert_int_equal(doctor_number(doctor, "/none"), -1);
}

static void test_kind(void **state)
{
	struct doctor *doctor = *state;

	doctor->kind = KVM_KIND_HARDWARE;
	doctor->kind_name = "hardware (VT-x)";
	expect(doctor, doctor_kind, DOCTOR_OK, "VT-x", NULL);
	doctor->kind = KVM_KIND_SOFTWARE;
	doctor->kind_name = "software (kvm_pvm)";
	expect(doctor, doctor_kind, DOCTOR_FAIL, "Linux does not", "testbed/run");
	doctor->kind = KVM_KIND_NONE;
	expect(doctor, doctor_kind, DOCTOR_FAIL, "no KVM", "modprobe kvm_intel");
}

static void test_device(void **state)
{
	struct doctor *doctor = *state;
	char path[256];

	doctor->kind = KVM_KIND_HARDWARE;
	doctor->kvm_error = -ENOENT;
	expect(doctor, doctor_device, DOCTOR_FAIL, "No such file", "mknod");
	doctor->kind = KVM_KIND_NONE;
	expect(doctor, doctor_device, DOCTOR_FAIL, "No such file", NULL);
	put(doctor, "/dev/kvm", "");
	doctor->kvm_error = -EACCES;
	snprintf(path, sizeof(path), "%s/dev/kvm", doctor->root);
	assert_int_equal(chmod(path, 0600), 0);
	expect(doctor, doctor_device, DOCTOR_FAIL, "mode 600", "groupadd");
	doctor->kvm_error = -EBUSY;
	snprintf(doctor->kvm_err.text, sizeof(doctor->kvm_err.text), "something else");
	expect(doctor, doctor_device, DOCTOR_FAIL, "something else", NULL);
}

/* The group that owns the device is the one to join. */
static void test_device_group(void **state)
{
	struct doctor *doctor = *state;
	char path[256];

	if (geteuid())
		skip();
	put(doctor, "/dev/kvm", "");
	put(doctor, "/etc/group", "root:x:0:\nkvm2:x:1041:\nvirt:x:104:user\n");
	snprintf(path, sizeof(path), "%s/dev/kvm", doctor->root);
	assert_int_equal(chown(path, 0, 104), 0);
	assert_int_equal(chmod(path, 0660), 0);
	doctor->kvm_error = -EACCES;
	expect(doctor, doctor_device, DOCTOR_FAIL, "group 104", "usermod -aG virt ");
	assert_int_equal(chown(path, 0, 105), 0);
	expect(doctor, doctor_device, DOCTOR_FAIL, "group 105", "groupadd");
}

static void test_without_kvm(void **state)
{
	expect(*state, doctor_caps, DOCTOR_FAIL, "not open", NULL);
	expect(*state, doctor_limits, DOCTOR_FAIL, "not open", NULL);
}

static void test_nx_pages(void **state)
{
	struct doctor *doctor = *state;

	expect(doctor, doctor_nx_pages, DOCTOR_OK, "no such parameter", NULL);
	put(doctor, NX, "never\n");
	expect(doctor, doctor_nx_pages, DOCTOR_OK, "never", NULL);
	put(doctor, NX, "N\n");
	expect(doctor, doctor_nx_pages, DOCTOR_WARN, "recovery thread", "echo never");
	put(doctor, MULTIHIT, "Not affected\n");
	expect(doctor, doctor_nx_pages, DOCTOR_WARN, "recovery thread", "echo never");
	put(doctor, MULTIHIT, "KVM: Mitigation: Split huge pages\n");
	put(doctor, NX, "Y\n");
	expect(doctor, doctor_nx_pages, DOCTOR_OK, "Split huge pages", NULL);
	put(doctor, MULTIHIT, "Not affected\n");
	expect(doctor, doctor_nx_pages, DOCTOR_WARN, "Y:", "echo never");
}

static void test_thp(void **state)
{
	struct doctor *doctor = *state;

	expect(doctor, doctor_thp, DOCTOR_WARN, "no transparent", "CONFIG_");
	expect(doctor, doctor_thp_shmem, DOCTOR_WARN, "no transparent", "CONFIG_");
	put(doctor, THP, "always madvise [never]\n");
	expect(doctor, doctor_thp, DOCTOR_WARN, "never", "echo madvise");
	put(doctor, THP, "always [madvise] never\n");
	expect(doctor, doctor_thp, DOCTOR_OK, "madvise", NULL);
	put(doctor, THP, "[always] madvise never\n");
	expect(doctor, doctor_thp, DOCTOR_OK, "always", NULL);
	put(doctor, THP_SHMEM, "always within_size advise [never] deny force\n");
	expect(doctor, doctor_thp_shmem, DOCTOR_OK, "never: memfds", NULL);
	expect(doctor, doctor_thp_shmem, DOCTOR_OK, "pools clean what was written", NULL);
	put(doctor, THP_SHMEM, "always within_size advise never [deny] force\n");
	expect(doctor, doctor_thp_shmem, DOCTOR_OK, "deny: memfds", NULL);
	put(doctor, THP_SHMEM, "always within_size [advise] never deny force\n");
	expect(doctor, doctor_thp_shmem, DOCTOR_OK, "advise: memfds", NULL);
	expect(doctor, doctor_thp_shmem, DOCTOR_OK, "with thp=on; pools of small pages clean all",
		NULL);
	put(doctor, THP_SHMEM, "[always] within_size advise never deny force\n");
	expect(doctor, doctor_thp_shmem, DOCTOR_OK, "may have huge pages; pools", NULL);
}

static void test_huge_pages(void **state)
{
	struct doctor *doctor = *state;

	expect(doctor, doctor_huge_pages, DOCTOR_WARN, "2 MiB: not offered", "nr_hugepages");
	put(doctor, NODE "0/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
	put(doctor, NODE "0/hugepages/hugepages-2048kB/free_hugepages", "0\n");
	expect(doctor, doctor_huge_pages, DOCTOR_WARN, "2 MiB: 0 of 0 free; 1 GiB: not offered",
		"nr_hugepages");
	put(doctor, NODE "0/hugepages/hugepages-2048kB/nr_hugepages", "20\n");
	put(doctor, NODE "0/hugepages/hugepages-2048kB/free_hugepages", "12\n");
	put(doctor, NODE "0/hugepages/hugepages-1048576kB/nr_hugepages", "1\n");
	put(doctor, NODE "0/hugepages/hugepages-1048576kB/free_hugepages", "1\n");
	expect(doctor, doctor_huge_pages, DOCTOR_OK, "2 MiB: 12 of 20 free; 1 GiB: 1 of 1 free",
		NULL);
	put(doctor, NODE "3/hugepages/hugepages-2048kB/nr_hugepages", "5\n");
	put(doctor, NODE "3/hugepages/hugepages-2048kB/free_hugepages", "4\n");
	expect(doctor, doctor_huge_pages, DOCTOR_OK,
		"2 MiB: 16 of 25 free (node 0: 12, node 3: 4); 1 GiB: 1 of 1 free", NULL);
	assert_int_equal(value(doctor, doctor_huge_pages, "total_2m"), 25);
	assert_int_equal(value(doctor, doctor_huge_pages, "node3_free_2m"), 4);
	assert_int_equal(value(doctor, doctor_huge_pages, "free_1g"), 1);
	/* What VMs have set aside is free on a node, and not to be had. */
	put(doctor, HUGE_2M "/resv_hugepages", "10\n");
	expect(doctor, doctor_huge_pages, DOCTOR_OK,
		"2 MiB: 6 of 25 free, 10 set aside by processes (with those node 0: 12, node 3: "
		"4); 1 GiB: 1 of 1 free",
		NULL);
	assert_int_equal(value(doctor, doctor_huge_pages, "free_2m"), 6);
	assert_int_equal(value(doctor, doctor_huge_pages, "reserved_2m"), 10);
	assert_int_equal(value(doctor, doctor_huge_pages, "node3_free_2m"), 4);
}

static void test_ksm(void **state)
{
	struct doctor *doctor = *state;

	expect(doctor, doctor_ksm, DOCTOR_OK, "this kernel has none", NULL);
	put(doctor, KSM, "0\n");
	expect(doctor, doctor_ksm, DOCTOR_OK, "off: ", NULL);
	expect(doctor, doctor_ksm, DOCTOR_OK, "tee /sys/kernel/mm/ksm/run", NULL);
	put(doctor, KSM, "2\n");
	expect(doctor, doctor_ksm, DOCTOR_OK, "off: ", NULL);
	put(doctor, KSM, "1\n");
	expect(doctor, doctor_ksm, DOCTOR_OK, "on: ", NULL);
}

static void test_overcommit(void **state)
{
	struct doctor *doctor = *state;

	put(doctor, OVERCOMMIT, "1\n");
	expect(doctor, doctor_overcommit, DOCTOR_OK, "mode 1", NULL);
	put(doctor, OVERCOMMIT, "2\n");
	expect(doctor, doctor_overcommit, DOCTOR_WARN, "mode 2", "vm.overcommit_memory=0");
}

static void test_cgroup_memory_v2(void **state)
{
	struct doctor *doctor = *state;

	expect(doctor, doctor_cgroup_memory, DOCTOR_OK, "no cgroups", NULL);
	put(doctor, MOUNTS, "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" V2_MOUNT "\n");
	put(doctor, GROUPS, "0::/user.slice/session-1.scope\n");
	put(doctor, "/sys/fs/cgroup/user.slice/session-1.scope/memory.max", "max\n");
	expect(doctor, doctor_cgroup_memory, DOCTOR_OK, "no limit", NULL);
	/* A limit above counts as well, and the tightest one is told. */
	put(doctor, "/sys/fs/cgroup/user.slice/memory.max", "67108864\n");
	expect(doctor, doctor_cgroup_memory, DOCTOR_WARN, "64 MiB (/sys/fs/cgroup/user.slice)",
		"systemd-run");
	put(doctor, "/sys/fs/cgroup/user.slice/session-1.scope/memory.max", "33554432\n");
	expect(doctor, doctor_cgroup_memory, DOCTOR_WARN, "32 MiB (", "systemd-run");
	put(doctor, "/sys/fs/cgroup/user.slice/session-1.scope/memory.max", "134217728\n");
	assert_int_equal(value(doctor, doctor_cgroup_memory, "bytes"), 64 * MIB);
	put(doctor, "/sys/fs/cgroup/memory.max", "16777216\n");
	expect(doctor, doctor_cgroup_memory, DOCTOR_WARN, "16 MiB (/sys/fs/cgroup)", "systemd-run");
}

static void test_cgroup_memory_v1(void **state)
{
	struct doctor *doctor = *state;

	/* As in a container: the mount starts at the container's own group. */
	put(doctor, MOUNTS,
		"35 31 0:32 /c/1 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
		"36 31 0:33 /c/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
	put(doctor, GROUPS, "3:cpu,cpuacct:/c/1\n4:memory:/c/1/job\n0::/\n");
	put(doctor, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	expect(doctor, doctor_cgroup_memory, DOCTOR_OK, "no limit", NULL);
	put(doctor, "/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "67108864\n");
	expect(doctor, doctor_cgroup_memory, DOCTOR_WARN, "64 MiB (/sys/fs/cgroup/memory/job)",
		"systemd-run");
}

static void test_cgroup_moves(void **state)
{
	struct doctor *doctor = *state;

	put(doctor, MOUNTS, V2_MOUNT "\n");
	put(doctor, RELEASE, "6.12.30-amd64\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_WARN, "cgroup v2 without",
		"remount,favordynmods /sys/fs/cgroup");
	put(doctor, RELEASE, "6.0.1\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_WARN, "cgroup v2 without", "remount");
	put(doctor, NX, "never\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_OK, "nx_huge_pages=never", NULL);
	put(doctor, NX, "N\n");
	put(doctor, MOUNTS, V2_MOUNT ",favordynmods\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_OK, "favordynmods", NULL);
	put(doctor, MOUNTS, "32 31 0:29 / /cg/memory rw - cgroup cgroup rw,memory\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_WARN, "cgroup v1 without", "unified");
	put(doctor, RELEASE, "6.13.0\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_OK, "does not wait", NULL);
	put(doctor, RELEASE, "5.10.0-30-amd64\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_OK, "does not wait", NULL);
	put(doctor, RELEASE, "7.1.0\n");
	expect(doctor, doctor_cgroup_moves, DOCTOR_OK, "does not wait", NULL);
}

static void test_devices(void **state)
{
	struct doctor *doctor = *state;

	expect(doctor, doctor_iommu, DOCTOR_WARN, "no groups", "firmware");
	put(doctor, "/sys/kernel/iommu_groups/0/x", "");
	put(doctor, "/sys/kernel/iommu_groups/11/x", "");
	expect(doctor, doctor_iommu, DOCTOR_OK, "2 groups", NULL);
	expect(doctor, doctor_vfio, DOCTOR_WARN, "No such file", "modprobe vfio-pci");
	put(doctor, "/dev/vfio/vfio", "");
	expect(doctor, doctor_vfio, DOCTOR_OK, "can be opened", NULL);
	expect(doctor, doctor_tap, DOCTOR_WARN, "No such file", "modprobe tun");
	put(doctor, "/dev/net/tun", "");
	expect(doctor, doctor_tap, DOCTOR_OK, "can be opened", NULL);
}

#define HOST_TEST(test) cmocka_unit_test_setup_teardown(test, host_setup, host_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		HOST_TEST(test_read),
		HOST_TEST(test_kind),
		HOST_TEST(test_device),
		HOST_TEST(test_device_group),
		HOST_TEST(test_without_kvm),
		HOST_TEST(test_nx_pages),
		HOST_TEST(test_thp),
		HOST_TEST(test_huge_pages),
		HOST_TEST(test_ksm),
		HOST_TEST(test_overcommit),
		HOST_TEST(test_cgroup_memory_v2),
		HOST_TEST(test_cgroup_memory_v1),
		HOST_TEST(test_cgroup_moves),
		HOST_TEST(test_devices),
	};

	return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
