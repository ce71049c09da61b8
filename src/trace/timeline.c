/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/timeline.h"

#include <string.h>
#include <time.h>

static uint64_t clock_read(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t clock_ns(void)
{
	return clock_read(CLOCK_MONOTONIC);
}

void timeline_init(struct timeline *tl, uint64_t exec_ns)
{
	uint64_t now = clock_ns();
	uint64_t cpu = clock_read(CLOCK_PROCESS_CPUTIME_ID);

	tl->exec_measured = exec_ns && exec_ns <= now;
	tl->ns[MARK_EXEC] = tl->exec_measured ? exec_ns : now - cpu;
	tl->ns[MARK_MAIN] = now;
	tl->cpu_ns[MARK_MAIN] = cpu;
}

void timeline_mark(struct timeline *tl, enum mark mark)
{
	uint64_t unset = 0;

	if (!tl || tl->ns[mark])
		return;
	/* Two threads may arrive together: the first one's time stands. */
	if (atomic_compare_exchange_strong(&tl->ns[mark], &unset, clock_ns()))
		tl->cpu_ns[mark] = clock_read(CLOCK_PROCESS_CPUTIME_ID);
}

void timeline_fill(struct timeline *tl, uint64_t bytes)
{
	if (!tl)
		return;
	tl->populated_bytes = bytes;
	timeline_mark(tl, MARK_POPULATE_END);
}

bool timeline_reached(const struct timeline *tl, enum mark mark)
{
	return tl->ns[mark] != 0;
}

void timeline_event(struct timeline *tl, uint16_t port, uint8_t code)
{
	uint32_t slot;

	if (!tl)
		return;
	/* A guest may write for ever: the counter must not wrap round to used slots. */
	if (tl->event_count >= TRACE_EVENTS_MAX + 1)
		return;
	slot = tl->event_count++;
	if (slot >= TRACE_EVENTS_MAX)
		return;
	tl->events[slot] = (struct trace_event){
		.ns = clock_ns(),
		.cpu_ns = clock_read(CLOCK_PROCESS_CPUTIME_ID),
		.port = port,
		.code = code,
	};
}

const char *mark_name(enum mark mark)
{
	static const char *const names[MARK_COUNT] = {
		[MARK_EXEC] = "exec",
		[MARK_MAIN] = "main",
		[MARK_CONFIG] = "config",
		[MARK_IMAGE] = "image",
		[MARK_MEMORY] = "memory",
		[MARK_POPULATE_BEGIN] = "populate_begin",
		[MARK_POPULATE_END] = "populate_end",
		[MARK_VM] = "vm",
		[MARK_DEVICES] = "devices",
		[MARK_VCPU] = "vcpu",
		[MARK_READY] = "ready",
		[MARK_FIRST_ENTRY] = "first_entry",
		[MARK_FIRST_EXIT] = "first_exit",
		[MARK_SERIAL] = "first_serial",
		[MARK_START_KERNEL] = "start_kernel",
		[MARK_INIT] = "run_init",
		[MARK_USER] = "user_space",
		[MARK_BOOT] = "boot_complete",
		[MARK_SHUTDOWN] = "shutdown",
		[MARK_DOWN] = "torn_down",
	};

	return names[mark];
}
