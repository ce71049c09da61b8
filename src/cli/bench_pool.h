/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_POOL_H
#define KV_CLI_BENCH_POOL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/bench_util.h"
#include "pool/wire.h"

/* The half of `kvick bench pool` that starts virtual machines from the pool. */

/* VMs whose start is timed, in turns: what memory they have. */
enum bench_start {
	BENCH_START_SMALL, /* 128 MiB of anonymous memory, untouched */
	BENCH_START_ANON,  /* as much as is leased, anonymous, untouched */
	BENCH_START_LEASE, /* the whole pool */
	BENCH_START_HALF,  /* parts of it, leased */
	BENCH_START_QUARTER,
	BENCH_START_EIGHTH,
	BENCH_STARTS,
};

/* VMs that write to every page from user mode. */
enum bench_write {
	BENCH_WRITE_ANON,
	BENCH_WRITE_LEASE,
	BENCH_WRITE_MAPPED, /* the pool, with populate=full */
	BENCH_WRITES,
};

/* What ended VMs leave to be cleaned. */
enum bench_left { BENCH_LEFT_ALL, BENCH_LEFT_1PCT, BENCH_LEFT_PIECE, BENCH_LEFTS };

struct bench_vms {
	uint64_t bytes;
	uint64_t chunk_bytes;
	const char *socket; /* the pool's, of @bytes in all, which trusts this user */
	char dir[BENCH_DIR_MAX], timeline[BENCH_FILE_MAX];
	char self[BENCH_SELF_MAX], signal[4200], worker[4200];

	struct {
		struct bench_samples boot_ms; /* exec to boot byte */
		struct bench_samples less_ms; /* the same without KVM's own work for VM and slots */
		struct bench_samples wall_ms, cpu_ms; /* exec to exit */
		struct bench_samples boot_x, less_x;  /* divided by the first kind's, each round */
	} starts[BENCH_STARTS];
	unsigned round; /* of starts */
	/* Of writing the pages: what the same VM without it needs is taken off. */
	uint64_t pages;
	struct {
		struct bench_samples minor, major; /* page faults of the process */
		struct bench_samples allocated;	   /* pages, by the whole host */
		struct bench_samples us_page;	   /* system time, per page */
	} writes[BENCH_WRITES];
	/* From the VM's exit until all is free, and the processor time of cleaning. */
	struct bench_samples clean_ms[BENCH_LEFTS], clean_cpu_ms[BENCH_LEFTS];
};

/*
 * Find the guests and make a folder for timelines.
 * Returns 0; -ENOENT (no guests); -errno. Owns: bench_vms_free(), in any case.
 */
int bench_vms_prepare(struct bench_vms *vms, uint64_t bytes, struct kv_err *err);

/* Free the samples, remove the folder. */
void bench_vms_free(struct bench_vms *vms);

/* Start each kind of VM once. Returns 0; -EINTR; -errno with a sentence. */
int bench_vms_start(struct bench_vms *vms, bool counted, struct kv_err *err);

/* Have each kind of VM write all of its memory, and measure the cleaning. Returns as above. */
int bench_vms_write(struct bench_vms *vms, struct kv_err *err);

/* Print the figures that there are. */
void bench_vms_print(struct bench_vms *vms);

/* The figures that there are, as an object. Owns: the caller has the only reference. */
json_t *bench_vms_json(struct bench_vms *vms);

/*
 * Wait until all @bytes of the pool at @socket are free, by leasing them without fetching any, and
 * see what it has done until then. *@when (may be NULL) is when that was.
 * Returns 0; errors of pool_lease().
 */
int bench_pool_settle(const char *socket, uint64_t bytes, struct pool_info *info, uint64_t *when,
	struct kv_err *err);

#endif
