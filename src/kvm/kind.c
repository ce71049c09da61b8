/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/kvm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

/* A vendor module, loaded or built in, shows here; kvm_pvm registers in place of one. */
static const struct {
	const char *path;
	const char *name;
	enum kvm_kind kind;
} modules[] = {
	{"/sys/module/kvm_intel", "hardware (VT-x)", KVM_KIND_HARDWARE},
	{"/sys/module/kvm_amd", "hardware (AMD-V)", KVM_KIND_HARDWARE},
	{"/sys/module/kvm_pvm", "software (kvm_pvm)", KVM_KIND_SOFTWARE},
};

/* Which of the flags of the first CPU in /proc/cpuinfo tells of hardware virtualisation. */
static bool cpu_has_flag(const char *flag)
{
	MEM_SCOPED char *text = NULL;
	char *save = NULL;
	char *line, *end;

	if (file_read_all("/proc/cpuinfo", 4 * MIB, &text) < 0)
		return false;
	line = strstr(text, "\nflags");
	if (!line)
		return false;
	end = strchr(line + 1, '\n');
	if (end)
		*end = '\0';
	for (char *word = strtok_r(line, " \t:", &save); word; word = strtok_r(NULL, " \t:", &save))
		if (!strcmp(word, flag))
			return true;
	return false;
}

static int module_find(void)
{
	for (size_t i = 0; i < ARRAY_LEN(modules); i++) {
		/* A built-in kvm_intel shows although the CPU is another one's: ask the CPU too. */
		if (access(modules[i].path, F_OK))
			continue;
		if (modules[i].kind == KVM_KIND_SOFTWARE || cpu_has_flag(i == 0 ? "vmx" : "svm"))
			return (int)i;
	}
	return -1;
}

enum kvm_kind kvm_kind_probe(void)
{
	int found = module_find();

	if (found >= 0)
		return modules[found].kind;
	if (access("/dev/kvm", F_OK))
		return KVM_KIND_NONE;
	/* A device without a module that is known here: the CPU's flags decide. */
	if (cpu_has_flag("vmx") || cpu_has_flag("svm"))
		return KVM_KIND_HARDWARE;
	return KVM_KIND_SOFTWARE;
}

const char *kvm_kind_name(void)
{
	int found = module_find();

	if (found >= 0)
		return modules[found].name;
	switch (kvm_kind_probe()) {
	case KVM_KIND_HARDWARE:
		return cpu_has_flag("vmx") ? "hardware (VT-x)" : "hardware (AMD-V)";
	case KVM_KIND_SOFTWARE:
		return "software";
	case KVM_KIND_NONE:
		break;
	}
	return "none";
}
