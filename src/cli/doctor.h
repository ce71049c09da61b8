/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_DOCTOR_H
#define KV_CLI_DOCTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"

/* The probes of `kvick doctor`: each looks at one thing and leaves one finding. */

enum doctor_level {
	DOCTOR_OK,   /* as it should be */
	DOCTOR_WARN, /* guests run, but slower than they could, or a feature is out of reach */
	DOCTOR_FAIL, /* Linux guests do not run */
};

#define DOCTOR_VALUES_MAX 144 /* two sizes of pages on 64 nodes, and room */

struct doctor_finding {
	enum doctor_level level;
	char text[320]; /* what was found */
	char fix[320];	/* what to do about it, best a command; empty: nothing to do */
	/* The same in numbers, for --json. */
	struct {
		char name[32];
		int64_t value;
	} values[DOCTOR_VALUES_MAX];
	unsigned value_count;
};

/* What probes share. */
struct doctor {
	const char *root; /* put in front of the paths looked at: "" but in tests */
	enum kvm_kind kind;
	const char *kind_name;
	struct kvm *kvm; /* open, or NULL: */
	int kvm_error;	 /* -errno of opening it */
	struct kv_err kvm_err;
	bool caps_missing; /* KVM lacks what kvick cannot do without */
};

/* One line of the report. @find is called with @finding zeroed: level DOCTOR_OK, no text. */
struct doctor_probe {
	const char *name; /* stable, for --json */
	void (*find)(struct doctor *doctor, struct doctor_finding *finding);
};

/* doctor_util.c: what probes do their work with. */

/* Set level and text (printf form). */
void doctor_find(struct doctor_finding *finding, enum doctor_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Set what to do (printf form). */
void doctor_fix(struct doctor_finding *finding, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Add a number for --json; over DOCTOR_VALUES_MAX it is dropped. */
void doctor_value(struct doctor_finding *finding, const char *name, int64_t value);

/*
 * Read the first line of the small file at doctor->root plus a path in printf form.
 * doctor_read: into @buf, without newline; returns 0 or -errno. doctor_number: returns the number
 * it holds, or -1.
 */
int doctor_read(const struct doctor *doctor, char *buf, size_t bytes, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int64_t doctor_number(const struct doctor *doctor, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The whole file at doctor->root plus @path, or NULL. Owns: the caller frees it. */
char *doctor_text(const struct doctor *doctor, const char *path);

/* Probes, by file. doctor_kvm.c: what answers behind /dev/kvm. */
void doctor_kind(struct doctor *doctor, struct doctor_finding *finding);
void doctor_device(struct doctor *doctor, struct doctor_finding *finding);
void doctor_caps(struct doctor *doctor, struct doctor_finding *finding);
void doctor_limits(struct doctor *doctor, struct doctor_finding *finding);

/* doctor_memory.c: what can become guest memory, and what limits it. */
void doctor_huge_pages(struct doctor *doctor, struct doctor_finding *finding);
void doctor_thp(struct doctor *doctor, struct doctor_finding *finding);
void doctor_thp_shmem(struct doctor *doctor, struct doctor_finding *finding);
void doctor_ksm(struct doctor *doctor, struct doctor_finding *finding);
void doctor_overcommit(struct doctor *doctor, struct doctor_finding *finding);
void doctor_memlock(struct doctor *doctor, struct doctor_finding *finding);

/* doctor_cgroup.c: the control groups. */
void doctor_cgroup_memory(struct doctor *doctor, struct doctor_finding *finding);
void doctor_cgroup_moves(struct doctor *doctor, struct doctor_finding *finding);

/* doctor_host.c: everything else. */
void doctor_nx_pages(struct doctor *doctor, struct doctor_finding *finding);
void doctor_iommu(struct doctor *doctor, struct doctor_finding *finding);
void doctor_vfio(struct doctor *doctor, struct doctor_finding *finding);
void doctor_tap(struct doctor *doctor, struct doctor_finding *finding);
void doctor_userfaultfd(struct doctor *doctor, struct doctor_finding *finding);

#endif
