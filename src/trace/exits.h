/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TRACE_EXITS_H
#define KV_TRACE_EXITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Counts why the vCPUs of one VM leave the guest, what they access then and how long it takes, and
 * on request keeps each exit with its time. Written by the vCPU threads, each its own part, by
 * plain stores; may be read at any time by one that accepts figures of slightly different moments.
 */
struct exits;
struct exits_cpu; /* the part of one vCPU */

/* What an exit was about. */
enum exit_access {
	EXIT_OTHER,
	EXIT_PORT_IN,
	EXIT_PORT_OUT,
	EXIT_MMIO_READ,
	EXIT_MMIO_WRITE,
};

/* Exit reasons are numbers below this; others are counted under 0. */
#define EXITS_REASONS_MAX 64

/* Addresses kept apart per vCPU; further ones are counted together. */
#define EXITS_PLACES_MAX 128

/* One exit, kept when details are asked for. */
struct exit_record {
	uint64_t left_ns;    /* CLOCK_MONOTONIC when KVM_RUN came back */
	uint64_t address;    /* port or guest-physical address; 0 for EXIT_OTHER */
	uint32_t handled_ns; /* then until the guest could be entered again, saturated */
	uint8_t access;	     /* enum exit_access */
	uint8_t reason;
};

/*
 * Make counters for @cpus vCPUs (1 or more). @details: how many exits of each vCPU are kept one by
 * one, the first ones; 0: none.
 * Returns 0 or -ENOMEM. Owns: the caller destroys it after the vCPU threads ended.
 */
int exits_create(struct exits **ret, unsigned cpus, uint32_t details);
void exits_destroy(struct exits *exits);

/* The part of vCPU @index (below the number given to exits_create()); NULL when @exits is. */
struct exits_cpu *exits_cpu(struct exits *exits, unsigned index);

/* The vCPU is about to enter the guest for the first time. Context: its thread. */
void exits_begin(struct exits_cpu *cpu);

/*
 * An exit was handled: KVM_RUN came back at @left_ns (clock_ns()) for @reason and accessed
 * @address. Takes the time itself. Context: the vCPU's thread.
 */
void exits_add(struct exits_cpu *cpu, uint64_t left_ns, unsigned reason, enum exit_access access,
	uint64_t address);

/* The name of a reason, stable; NULL: it has none. */
typedef const char *(*exits_name_fn)(unsigned reason);

/*
 * The counters as a table for people, or as JSON (docs/bench.md has the schema).
 * Returns 0 with a NUL-terminated text in *@ret; -ENOMEM.
 * Owns: the caller frees *@ret. Context: any thread.
 */
int exits_text(struct exits *exits, exits_name_fn name, char **ret);
int exits_json(struct exits *exits, exits_name_fn name, char **ret);

/*
 * The exits kept of vCPU @index, oldest first.
 * Returns how many, and *@ret to the first; *@dropped counts those that came after.
 * Context: after the vCPU threads ended.
 */
uint32_t exits_records(
	struct exits *exits, unsigned index, const struct exit_record **ret, uint64_t *dropped);

#endif
