/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TRACE_TIMELINE_H
#define KV_TRACE_TIMELINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trace/exits.h"

/* The steps of a run, in the order in which a run without surprises reaches them. */
enum mark {
	MARK_EXEC,	     /* execve of the program, see timeline_init() */
	MARK_MAIN,	     /* main() entered */
	MARK_CONFIG,	     /* options and configuration read and checked */
	MARK_IMAGE,	     /* kernel and initrd opened, plan made */
	MARK_MEMORY,	     /* guest RAM mapped, images laid over it */
	MARK_POPULATE_BEGIN, /* guest RAM: the first thread begins to make it present */
	MARK_POPULATE_END,   /* all of it is present, see timeline_fill() */
	MARK_VM,	     /* KVM VM with its memory slots and interrupt controllers */
	MARK_DEVICES,	     /* buses, devices and tables in place */
	MARK_VCPU,	     /* vCPUs created, registers set */
	MARK_READY,	     /* monitor ready: everything set up, vCPUs about to run */
	MARK_FIRST_ENTRY,    /* just before the first KVM_RUN */
	MARK_FIRST_EXIT,     /* the first KVM_RUN came back */
	MARK_SERIAL,	     /* first byte on the serial port */
	MARK_START_KERNEL,   /* the kernel's start_kernel() reached */
	MARK_INIT,	     /* the kernel is initialised and starts its first program */
	MARK_USER,	     /* first instruction in user space */
	MARK_BOOT,	     /* the guest wrote the boot-complete byte */
	MARK_SHUTDOWN,	     /* the guest asked for reset or power-off, or the run was stopped */
	MARK_DOWN,	     /* everything torn down */
	MARK_COUNT,
};

/* A value the guest wrote to one of the trace ports. */
struct trace_event {
	uint64_t ns;	 /* CLOCK_MONOTONIC */
	uint64_t cpu_ns; /* CPU time of the process */
	uint16_t port;	 /* 0x80, 0xf4 or 0xf5 */
	uint8_t code;
};

#define TRACE_EVENTS_MAX 256

/*
 * Marks are kept by plain stores and cost two clock readings each; only the first time a mark is
 * reached counts. Marks may be set by any thread, events by any vCPU thread; readers wait until
 * the run is over or accept a half-filled table.
 */
struct timeline {
	_Atomic uint64_t ns[MARK_COUNT];     /* [a] CLOCK_MONOTONIC, 0: not reached */
	_Atomic uint64_t cpu_ns[MARK_COUNT]; /* [a] CPU time of the process then */
	_Atomic uint64_t populated_bytes;    /* [a] until MARK_POPULATE_END */
	bool exec_measured;	      /* [c] MARK_EXEC came from the starter, else it is derived */
	_Atomic uint32_t event_count; /* [a] may exceed TRACE_EVENTS_MAX: the rest was dropped */
	struct trace_event events[TRACE_EVENTS_MAX]; /* [a] slot owned by who raised event_count */
};

/*
 * Start a timeline, all of which must be zero: sets MARK_EXEC and MARK_MAIN.
 * @exec_ns: CLOCK_MONOTONIC ns read by the starter right before execve, or 0 when unknown; then
 * MARK_EXEC is taken as now less the CPU time this process has used.
 * Context: one thread, before any other use.
 */
void timeline_init(struct timeline *tl, uint64_t exec_ns);

/* Set @mark to now unless it is set already. @tl may be NULL. Context: any thread. */
void timeline_mark(struct timeline *tl, enum mark mark);

/*
 * Set MARK_POPULATE_END, with the @bytes made present since MARK_POPULATE_BEGIN, for the exports'
 * rate. @tl may be NULL. Context: any thread.
 */
void timeline_fill(struct timeline *tl, uint64_t bytes);

/* True when @mark has been reached. Context: any thread. */
bool timeline_reached(const struct timeline *tl, enum mark mark);

/* Keep a trace-port write; over TRACE_EVENTS_MAX it is only counted. Context: any thread. */
void timeline_event(struct timeline *tl, uint16_t port, uint8_t code);

/* The stable name of a mark in files and tables: "exec", "start_kernel", ... */
const char *mark_name(enum mark mark);

/* CLOCK_MONOTONIC in ns. */
uint64_t clock_ns(void);

/* What else goes into a timeline's JSON, each on a track of its own. */
struct timeline_detail {
	struct exits *exits; /* of the vCPUs, with details */
	unsigned cpus;
	exits_name_fn name;
	/* Of a "vCPU" for each of @loops: the handlers that it ran, by descriptor. */
	struct exits *work;
	unsigned loops;
};

/*
 * Write the timeline in one of the export formats to @fd.
 * timeline_text: a table for people; timeline_json: Chrome trace-event JSON (ts in us since exec)
 * that Perfetto opens, with @detail (may be NULL); timeline_svg: a chart, light or dark as the
 * viewer prefers.
 * Returns 0 or -errno of write(2), -ENOMEM.
 * Context: any thread, best after the run.
 */
int timeline_text(const struct timeline *tl, int fd);
int timeline_json(const struct timeline *tl, const struct timeline_detail *detail, int fd);
int timeline_svg(const struct timeline *tl, int fd);

#endif
