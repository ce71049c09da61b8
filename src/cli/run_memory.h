/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_RUN_MEMORY_H
#define KV_CLI_RUN_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "gmem/backing.h"
#include "gmem/hot.h"
#include "machine/vm_config.h"
#include "pool/client.h"

struct run_loan;

/* What `kvick run` does about guest memory: leases of pools, and a progress line. */
struct run_memory {
	struct pool_lease *lease;  /* NULL without backing=pool */
	struct gmem_chunk *chunks; /* of the lease */
	unsigned chunk_count;
	struct gmem_lender *lenders; /* for the memory devices; NULL when none has a pool */
	struct run_loan *loans;	     /* what they have lent */
	unsigned loan_count;
	bool told;	     /* the pool knows all that was written */
	int signal_fd;	     /* borrowed: a signalfd that nobody else reads meanwhile; -1: none */
	int stopped_by;	     /* the signal that stopped the wait or the population, or 0 */
	uint64_t begun_ns;   /* when the work that ticks now began, 0: not yet */
	uint64_t done_bytes; /* of it, at the last tick */
	uint64_t shown_ns;   /* when the progress line was last written, 0: never */
};

/*
 * Ask for the lease that @config wants, if it does; the pool makes it ready meanwhile.
 * Returns 0; errors of pool_ask(). Owns: run_memory_free().
 */
int run_memory_ask(struct run_memory *memory, const struct vm_config *config, struct kv_err *err);

/*
 * Take the lease that was asked for, if one was. May wait, until a signal arrives that ends the
 * run. Returns 0; -ECANCELED (@memory->stopped_by is that signal); errors of pool_take().
 */
int run_memory_take(struct run_memory *memory, struct kv_err *err);

/*
 * Look for the pools that memory devices of @config have, and set @memory->lenders, each of which
 * leases the pool's chunks one by one.
 * Returns 0; errors of pool_status() with a sentence.
 */
int run_memory_lend(struct run_memory *memory, const struct vm_config *config, struct kv_err *err);

/*
 * For struct gmem_watch, with a struct run_memory: shows on a terminal how far the population is
 * once it takes over half a second, and returns true when a signal has arrived.
 */
bool run_memory_tick(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

/* Take the progress line away. */
void run_memory_hide(const struct run_memory *memory);

/*
 * Tell the pool what was written of the lease, so that it need not clean all of it; what cannot be
 * told is cleaned. Context: nobody uses @gm any more.
 */
void run_memory_tell(struct run_memory *memory, const struct gmem *gm);

/* End all leases, after the machine is gone. */
void run_memory_free(struct run_memory *memory);

#endif
