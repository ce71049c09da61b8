/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TRACE_EXITS_INTERNAL_H
#define KV_TRACE_EXITS_INTERNAL_H

#include <stdatomic.h>

#include "trace/exits.h"

/* Shared by the files of trace/ alone. */

/* How often, how long the guest ran (or was halted) before, how long it was handled. */
struct exits_cost {
	_Atomic uint64_t count, guest_ns, handled_ns; /* [a] written by the vCPU's thread */
};

/* A port or an address that was accessed. */
struct exits_place {
	_Atomic unsigned access; /* [a] enum exit_access; EXIT_OTHER: entry unused */
	uint64_t address;	 /* [c] once @access is set */
	struct exits_cost cost;
};

struct exits_cpu {
	uint64_t entered_ns; /* [v] */
	struct exits_cost reasons[EXITS_REASONS_MAX];
	struct exits_place places[EXITS_PLACES_MAX + 1]; /* the last takes what found no room */
	struct exit_record *records;			 /* [c] NULL without details */
	uint32_t records_max;				 /* [c] */
	uint32_t record_count;				 /* [v] */
	uint64_t records_dropped;			 /* [v] */
};

struct exits {
	unsigned cpu_count;
	struct exits_cpu cpus[];
};

#endif
