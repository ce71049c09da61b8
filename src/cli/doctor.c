/* SPDX-License-Identifier: Apache-2.0 */
/* kvick doctor: will Linux guests run here, and what would make them start faster. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/num.h"
#include "cli/cli.h"
#include "cli/doctor.h"

/* The report, top to bottom. */
static const struct doctor_probe probes[] = {
	{"kvm", doctor_kind},
	{"kvm-device", doctor_device},
	{"kvm-caps", doctor_caps},
	{"kvm-limits", doctor_limits},
	{"nx-huge-pages", doctor_nx_pages},
	{"cgroup-moves", doctor_cgroup_moves},
	{"cgroup-memory", doctor_cgroup_memory},
	{"overcommit", doctor_overcommit},
	{"memlock", doctor_memlock},
	{"huge-pages", doctor_huge_pages},
	{"thp", doctor_thp},
	{"thp-shmem", doctor_thp_shmem},
	{"ksm", doctor_ksm},
	{"iommu", doctor_iommu},
	{"vfio", doctor_vfio},
	{"tap", doctor_tap},
	{"userfaultfd", doctor_userfaultfd},
};

static const char *const level_names[] = {
	[DOCTOR_OK] = "ok", [DOCTOR_WARN] = "warn", [DOCTOR_FAIL] = "fail"};

static void doctor_open(struct doctor *doctor)
{
	doctor->root = "";
	doctor->kind = kvm_kind_probe();
	doctor->kind_name = kvm_kind_name();
	doctor->kvm_error = kvm_open(&doctor->kvm, "/dev/kvm", &doctor->kvm_err);
}

/* What of the guests runs: everything, flat test guests only, nothing. */
static bool guests_run(const struct doctor *doctor)
{
	return doctor->kvm && !doctor->caps_missing;
}

static bool linux_runs(const struct doctor *doctor)
{
	return guests_run(doctor) && doctor->kind == KVM_KIND_HARDWARE;
}

static void finding_print(const struct doctor_probe *probe, const struct doctor_finding *finding)
{
	printf("%-4s  %s: %s\n", level_names[finding->level], probe->name, finding->text);
	if (finding->fix[0])
		printf("      fix: %s\n", finding->fix);
}

static int text_print(struct doctor *doctor)
{
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		struct doctor_finding finding = {0};

		probes[i].find(doctor, &finding);
		finding_print(&probes[i], &finding);
	}
	if (linux_runs(doctor))
		puts("Linux guests run here.");
	else if (guests_run(doctor))
		puts("Linux guests do not run here; flat test guests do. For Linux use the "
		     "testbed\n"
		     "of kvick's source tree: testbed/run -- kvick run ...");
	else
		puts("No guests run here.");
	return fflush(stdout) || ferror(stdout) ? -EIO : 0;
}

/* Add one finding to @list. Returns 0 or -ENOMEM. */
static int finding_add(
	json_t *list, const struct doctor_probe *probe, const struct doctor_finding *finding)
{
	json_t *values = json_object();
	int bad = 0;

	for (unsigned i = 0; i < finding->value_count; i++)
		bad |= json_object_set_new(
			values, finding->values[i].name, json_integer(finding->values[i].value));
	/* Takes over @values, also when it fails. */
	bad |= json_array_append_new(
		list, json_pack("{s:s, s:s, s:s, s:s?, s:o}", "name", probe->name, "level",
			      level_names[finding->level], "text", finding->text, "fix",
			      finding->fix[0] ? finding->fix : NULL, "values", values));
	return bad ? -ENOMEM : 0;
}

static int json_print(struct doctor *doctor)
{
	json_t *list = json_array();
	json_t *report;
	int r = list ? 0 : -ENOMEM;

	for (size_t i = 0; !r && i < ARRAY_LEN(probes); i++) {
		struct doctor_finding finding = {0};

		probes[i].find(doctor, &finding);
		r = finding_add(list, &probes[i], &finding);
	}
	/* Takes over @list, also when it fails. */
	report = json_pack("{s:s, s:s, s:b, s:b, s:o}", "kvick", KVICK_VERSION, "kvm",
		doctor->kind_name, "linux_guests", linux_runs(doctor), "flat_guests",
		guests_run(doctor), "findings", list);
	if (!r && !report)
		r = -ENOMEM;
	if (!r && (json_dumpf(report, stdout, JSON_INDENT(2)) || puts("") == EOF || fflush(stdout)))
		r = -EIO;
	json_decref(report);
	return r;
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	*(bool *)ctx = true;
	return 0;
}

static const struct cli_option options[] = {
	{"json", NULL, "print the report as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "doctor",
	.synopsis = "[OPTION...]",
	.about = "Check whether Linux guests run on this host and what would make them start "
		 "faster.\n"
		 "Every line tells what was found and, where something can be done, how.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.more = "exit status:\n"
		"  0  Linux guests run\n"
		"  1  they do not\n"
		"  2  wrong command line\n",
};

int cli_doctor(int argc, char **argv)
{
	struct doctor doctor = {0};
	bool json = false;
	int status = cli_parse(&usage, argc, argv, &json);
	int r;

	if (status != CLI_GO_ON)
		return status;
	doctor_open(&doctor);
	r = json ? json_print(&doctor) : text_print(&doctor);
	if (r < 0)
		cli_error("doctor", "the report could not be written: %s", err_text(r));
	status = !r && linux_runs(&doctor) ? CLI_EXIT_OK : CLI_EXIT_START;
	kvm_close(doctor.kvm);
	return status;
}
