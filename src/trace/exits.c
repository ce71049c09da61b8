/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/exits.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/num.h"
#include "trace/exits_internal.h"
#include "trace/timeline.h"

int exits_create(struct exits **ret, unsigned cpus, uint32_t details)
{
	struct exits *exits = calloc(1, sizeof(*exits) + cpus * sizeof(exits->cpus[0]));

	if (!exits)
		return -ENOMEM;
	exits->cpu_count = cpus;
	for (unsigned i = 0; details && i < cpus; i++) {
		/* Zero pages until used: what is not reached costs nothing. */
		exits->cpus[i].records = calloc(details, sizeof(struct exit_record));
		if (!exits->cpus[i].records) {
			exits_destroy(exits);
			return -ENOMEM;
		}
		exits->cpus[i].records_max = details;
	}
	*ret = exits;
	return 0;
}

void exits_destroy(struct exits *exits)
{
	if (!exits)
		return;
	for (unsigned i = 0; i < exits->cpu_count; i++)
		free(exits->cpus[i].records);
	free(exits);
}

struct exits_cpu *exits_cpu(struct exits *exits, unsigned index)
{
	return exits ? &exits->cpus[index] : NULL;
}

void exits_begin(struct exits_cpu *cpu)
{
	cpu->entered_ns = clock_ns();
}

/* Only one thread writes: no locked instruction is needed. */
static void raise(_Atomic uint64_t *counter, uint64_t by)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
		memory_order_relaxed);
}

static void cost_add(struct exits_cost *cost, uint64_t guest_ns, uint64_t handled_ns)
{
	raise(&cost->count, 1);
	raise(&cost->guest_ns, guest_ns);
	raise(&cost->handled_ns, handled_ns);
}

/* The place's entry, made if need be; the last one takes what finds no room. */
static struct exits_place *place_at(
	struct exits_cpu *cpu, enum exit_access access, uint64_t address)
{
	/* Fibonacci hashing: the top bits of the product are well mixed. */
	unsigned at = (unsigned)((address * 0x9e3779b97f4a7c15ULL) >> 57) % EXITS_PLACES_MAX;

	for (unsigned i = 0; i < EXITS_PLACES_MAX; i++, at = (at + 1) % EXITS_PLACES_MAX) {
		struct exits_place *place = &cpu->places[at];

		if (place->access == (unsigned)access && place->address == address)
			return place;
		if (place->access != EXIT_OTHER)
			continue;
		place->address = address;
		/* Readers take an entry with an access for complete. */
		atomic_store_explicit(&place->access, (unsigned)access, memory_order_release);
		return place;
	}
	return &cpu->places[EXITS_PLACES_MAX];
}

void exits_add(struct exits_cpu *cpu, uint64_t left_ns, unsigned reason, enum exit_access access,
	uint64_t address)
{
	uint64_t now = clock_ns();
	uint64_t guest_ns = left_ns - cpu->entered_ns, handled_ns = now - left_ns;

	cost_add(&cpu->reasons[reason < EXITS_REASONS_MAX ? reason : 0], guest_ns, handled_ns);
	if (access != EXIT_OTHER)
		cost_add(&place_at(cpu, access, address)->cost, guest_ns, handled_ns);
	if (cpu->record_count < cpu->records_max)
		cpu->records[cpu->record_count++] = (struct exit_record){
			.left_ns = left_ns,
			.address = address,
			.handled_ns = handled_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)handled_ns,
			.access = (uint8_t)access,
			.reason = (uint8_t)(reason < EXITS_REASONS_MAX ? reason : 0),
		};
	else
		cpu->records_dropped++;
	cpu->entered_ns = now;
}

uint32_t exits_records(
	struct exits *exits, unsigned index, const struct exit_record **ret, uint64_t *dropped)
{
	*ret = exits->cpus[index].records;
	*dropped = exits->cpus[index].records_dropped;
	return exits->cpus[index].record_count;
}
