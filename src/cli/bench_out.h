/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_OUT_H
#define KV_CLI_BENCH_OUT_H

#include <jansson.h>
#include <stdint.h>

#include "cli/bench_util.h"

/* What the benchmarks say: progress, figures as JSON, and how quiet the machine was. */

/* Over this share of others, medians moved by more than a tenth in repeated runs. */
#define BENCH_NOISY 0.15

/* How busy the machine was with other things since bench_noise_start(). */
struct bench_noise {
	uint64_t busy_ns, all_ns, own_ns; /* of all CPUs, and of this process and its children */
	double load;			  /* 1-minute load average at the start */
};

/* Take the readings of the start. */
void bench_noise_start(struct bench_noise *noise);

/*
 * The share (0..1) of the machine's CPU time since the start that went neither to this process and
 * its ended children nor to idling. CPU time that a hypervisor gave to others counts as well.
 */
double bench_noise_share(const struct bench_noise *noise);

/* Print a line on how busy others kept the machine, with a warning when that spoils figures. */
void bench_noise_print(const struct bench_noise *noise);

/* Show on stderr, if that is a terminal, how far a benchmark is; @all 0 wipes the line. */
void bench_progress(unsigned done, unsigned all);

/*
 * Figures as an object: min, median, p99, mad (median distance from the median), count, values
 * (all, in the order in which they were measured).
 * Owns: the caller has the only reference.
 */
json_t *bench_json(const struct bench_samples *samples);

/*
 * Print a benchmark's figures to stdout as a document: kind, version, host, noise, @result.
 * Returns 0; -ENOMEM; -EIO when stdout does not take it. Owns: takes the reference to @result.
 */
int bench_json_print(const char *kind, const struct bench_noise *noise, json_t *result);

/* The command line @words (ended by NULL) as an array. Owns: the caller has the only reference. */
json_t *bench_words_json(char *const *words);

/* Facts on this machine: kernel, CPU, number of CPUs, memory, kind of KVM. */
json_t *bench_host_json(void);

#endif
