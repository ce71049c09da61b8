/* SPDX-License-Identifier: Apache-2.0 */
/* Probes of the host around KVM: devices, taps, parameters. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/doctor.h"

/* Entries of a directory that are not hidden; -1 when it cannot be read. */
static int64_t entries_count(const struct doctor *doctor, const char *path)
{
	char full[1024];
	int64_t count = 0;
	DIR *dir;

	snprintf(full, sizeof(full), "%s%s", doctor->root, path);
	dir = opendir(full);
	if (!dir)
		return -1;
	for (const struct dirent *entry; (entry = readdir(dir));)
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

void doctor_nx_pages(struct doctor *doctor, struct doctor_finding *finding)
{
	static const char path[] = "/sys/module/kvm/parameters/nx_huge_pages";
	char mode[32], bug[64] = "";
	bool affected;

	if (doctor_read(doctor, mode, sizeof(mode), "%s", path) < 0) {
		doctor_find(finding, DOCTOR_OK, "this KVM has no such parameter");
		return;
	}
	if (!strcmp(mode, "never")) {
		doctor_find(finding, DOCTOR_OK, "never");
		return;
	}
	affected = doctor_read(doctor, bug, sizeof(bug),
			   "/sys/devices/system/cpu/vulnerabilities/itlb_multihit") == 0 &&
		   strcmp(bug, "Not affected");
	if (affected && !strcmp(mode, "Y")) {
		doctor_find(finding, DOCTOR_OK, "Y, which this CPU needs (itlb_multihit: %s)", bug);
		return;
	}
	doctor_find(finding, DOCTOR_WARN,
		"%s: KVM starts a recovery thread for every VM, although it has nothing to do",
		mode);
	doctor_fix(finding,
		"echo never | sudo tee %s while no VM runs (to keep it: kvm.nx_huge_pages=never on "
		"the kernel's command line)",
		path);
}

void doctor_iommu(struct doctor *doctor, struct doctor_finding *finding)
{
	int64_t groups = entries_count(doctor, "/sys/kernel/iommu_groups");

	doctor_value(finding, "groups", groups < 0 ? 0 : groups);
	if (groups > 0) {
		doctor_find(finding, DOCTOR_OK, "%" PRId64 " groups", groups);
		return;
	}
	doctor_find(finding, DOCTOR_WARN, "no groups: host devices cannot be given to guests");
	doctor_fix(finding, "switch on the IOMMU (VT-d, AMD-Vi) in the firmware and boot with "
			    "intel_iommu=on (AMD: nothing) iommu=pt");
}

void doctor_vfio(struct doctor *doctor, struct doctor_finding *finding)
{
	char path[1024];

	snprintf(path, sizeof(path), "%s/dev/vfio/vfio", doctor->root);
	if (access(path, F_OK)) {
		doctor_find(finding, DOCTOR_WARN,
			"/dev/vfio/vfio: %s: host devices cannot be given to guests",
			err_text(errno));
		doctor_fix(finding, "sudo modprobe vfio-pci");
		return;
	}
	if (access(path, R_OK | W_OK)) {
		doctor_find(finding, DOCTOR_WARN, "/dev/vfio/vfio: %s", err_text(errno));
		doctor_fix(finding, "sudo chown \"$USER\" /dev/vfio/N, N being the device's group");
		return;
	}
	doctor_find(finding, DOCTOR_OK, "/dev/vfio/vfio can be opened");
}

void doctor_tap(struct doctor *doctor, struct doctor_finding *finding)
{
	char path[1024];
	FD_SCOPED int fd = -1;

	snprintf(path, sizeof(path), "%s/dev/net/tun", doctor->root);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		doctor_find(finding, DOCTOR_OK, "/dev/net/tun can be opened");
		return;
	}
	doctor_find(finding, DOCTOR_WARN, "/dev/net/tun: %s: guests cannot have network interfaces",
		err_text(errno));
	if (errno == EACCES || errno == EPERM)
		doctor_fix(finding, "sudo chmod 666 /dev/net/tun");
	else
		doctor_fix(finding, "sudo modprobe tun");
}

void doctor_userfaultfd(struct doctor *doctor, struct doctor_finding *finding)
{
	FD_SCOPED int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	doctor_value(finding, "unprivileged",
		doctor_number(doctor, "/proc/sys/vm/unprivileged_userfaultfd"));
	if (fd >= 0) {
		doctor_find(finding, DOCTOR_OK, "available to this user");
		return;
	}
	if (errno == ENOSYS) {
		doctor_find(finding, DOCTOR_WARN,
			"this kernel has none: guest memory cannot be filled on demand");
		doctor_fix(finding, "run a kernel with CONFIG_USERFAULTFD");
		return;
	}
	doctor_find(finding, DOCTOR_WARN,
		"%s: guest memory cannot be filled on demand by this user", err_text(errno));
	doctor_fix(finding, "sudo sysctl -w vm.unprivileged_userfaultfd=1");
}
