/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run_memory.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/num.h"
#include "trace/timeline.h"

#define SHOW_AFTER_NS 500000000
#define SHOW_EVERY_NS 100000000

/*
 * Flags of leases that disks read into. A disk's requests may outlive this process when it is
 * killed: the kernel fills and keeps pages, without a descriptor or mapping, until the disk
 * answers. It does so with O_DIRECT, and some file systems (network ones above all) do without.
 */
static uint32_t disk_flags(const struct vm_config *config)
{
	return config->disk_count ? POOL_RENEW : 0;
}

int run_memory_ask(struct run_memory *memory, const struct vm_config *config, struct kv_err *err)
{
	const struct vm_memory *wanted = &config->memory;
	int r;

	if (wanted->backing != GMEM_POOL)
		return 0;
	r = pool_ask(&memory->lease, wanted->path, config->memory_bytes,
		(wanted->wait ? POOL_WAIT : 0) | disk_flags(config), err);
	return r < 0 ? err_prefix(err, r, "memory: backing=pool") : 0;
}

/* True when a signal has arrived that ends the run. */
static bool signal_look(struct run_memory *memory)
{
	struct signalfd_siginfo info;

	if (read(memory->signal_fd, &info, sizeof(info)) != sizeof(info))
		return false;
	/* Those two ask for something, and not for an end. */
	if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2)
		return false;
	memory->stopped_by = (int)info.ssi_signo;
	return true;
}

int run_memory_take(struct run_memory *memory, struct kv_err *err)
{
	const struct pool_chunk *chunks;
	unsigned count;
	int r;

	if (!memory->lease)
		return 0;
	do {
		r = pool_await(memory->lease, memory->signal_fd, err);
		if (r > 0 && signal_look(memory))
			return err_set(err, -ECANCELED, "a signal came");
		if (!r)
			r = pool_take(memory->lease, err);
	} while (r > 0);
	if (r == -EAGAIN)
		return err_set(err, r,
			"memory: backing=pool: the pool is short of free chunks at the moment; "
			"with wait=on they are waited for");
	if (r < 0)
		return err_prefix(err, r, "memory: backing=pool");
	chunks = pool_chunks(memory->lease, &count);
	memory->chunks = calloc(count, sizeof(*memory->chunks));
	if (!memory->chunks)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < count; i++)
		memory->chunks[i] = (struct gmem_chunk){chunks[i].fd, chunks[i].bytes};
	memory->chunk_count = count;
	return 0;
}

/* The chunks of a pool that a memory device has, each with a lease of its own. */
struct run_loan {
	const char *path; /* borrowed from the configuration; or NULL */
	uint64_t bytes;	  /* of a chunk */
	uint32_t flags;	  /* of the leases */
	struct pool_lease **leases;
};

static int chunk_lend(void *ctx, unsigned index)
{
	struct run_loan *loan = ctx;
	const struct pool_chunk *chunks;
	struct pool_lease *lease = NULL;
	unsigned count;
	int r = pool_lease_with(&lease, loan->path, loan->bytes, loan->flags, NULL);

	if (r < 0)
		return r;
	chunks = pool_chunks(lease, &count);
	/* Another server may have taken the place of the one that was there at the start. */
	if (count != 1 || chunks[0].bytes != loan->bytes) {
		pool_lease_end(lease);
		return -EPROTO;
	}
	loan->leases[index] = lease;
	return chunks[0].fd;
}

static void chunk_back(void *ctx, unsigned index)
{
	struct run_loan *loan = ctx;

	/* A driver may unplug what its disks still read into: not quiet, so renewed. */
	pool_lease_end(loan->leases[index]);
	loan->leases[index] = NULL;
}

static int loan_make(struct run_loan *loan, struct gmem_lender *lender,
	const struct vm_mem_device *mem, uint32_t flags, struct kv_err *err)
{
	struct pool_info info;
	int r = pool_status(mem->path, &info, err);

	if (r < 0)
		return r;
	loan->path = mem->path;
	loan->bytes = info.msg.chunk_bytes;
	loan->flags = flags;
	loan->leases = calloc(mem->max_bytes / loan->bytes + 1, sizeof(*loan->leases));
	if (!loan->leases)
		return err_set(err, -ENOMEM, "out of memory");
	*lender = (struct gmem_lender){
		.bytes = loan->bytes,
		.page_bytes = info.msg.page_bytes,
		.lend = chunk_lend,
		.back = chunk_back,
		.ctx = loan,
	};
	return 0;
}

int run_memory_lend(struct run_memory *memory, const struct vm_config *config, struct kv_err *err)
{
	for (unsigned i = 0; i < config->mem_count; i++) {
		const struct vm_mem_device *mem = &config->mems[i];
		int r;

		if (mem->backing != GMEM_POOL)
			continue;
		if (!memory->loans) {
			memory->loans = calloc(config->mem_count, sizeof(*memory->loans));
			memory->lenders = calloc(config->mem_count, sizeof(*memory->lenders));
			memory->loan_count = memory->loans ? config->mem_count : 0;
		}
		if (!memory->loans || !memory->lenders)
			return err_set(err, -ENOMEM, "out of memory");
		r = loan_make(&memory->loans[i], &memory->lenders[i], mem, disk_flags(config), err);
		if (r < 0)
			return err_prefix(err, r, "mem-device %s: backing=pool", mem->id);
	}
	return 0;
}

bool run_memory_tick(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
	struct run_memory *memory = ctx;
	uint64_t now = clock_ns(), ns;

	/* The space of a file is reserved before it is populated. */
	if (!memory->begun_ns || done_bytes < memory->done_bytes)
		memory->begun_ns = now;
	memory->done_bytes = done_bytes;
	ns = now - memory->begun_ns;
	if (ns > SHOW_AFTER_NS && now - memory->shown_ns > SHOW_EVERY_NS && isatty(STDERR_FILENO)) {
		memory->shown_ns = now;
		dprintf(STDERR_FILENO, "\rkvick: memory: %.1f of %.1f GiB, %.2f GB/s\033[K",
			(double)done_bytes / (double)GIB, (double)total_bytes / (double)GIB,
			(double)done_bytes / (double)ns);
	}
	return signal_look(memory);
}

void run_memory_hide(const struct run_memory *memory)
{
	if (memory->shown_ns)
		dprintf(STDERR_FILENO, "\r\033[K");
}

/* Ranges on their way to the pool, all of one chunk. */
struct report {
	struct run_memory *memory;
	unsigned index, count;
	struct pool_span spans[POOL_SPANS_MAX];
};

static int report_send(struct report *report)
{
	int r = report->count ? pool_wrote(report->memory->lease, report->index, report->spans,
					report->count)
			      : 0;

	report->count = 0;
	return r;
}

/* For gmem_touched(): part of the lease, cut at the ends of chunks. */
static int range_report(void *ctx, uint64_t offset, uint64_t bytes)
{
	struct report *report = ctx;
	uint64_t chunk = report->memory->chunks[0].bytes;
	int r = 0;

	for (uint64_t len; !r && bytes; offset += len, bytes -= len) {
		uint64_t at = offset % chunk;
		unsigned index = (unsigned)(offset / chunk);

		len = bytes < chunk - at ? bytes : chunk - at;
		if (index != report->index || report->count == POOL_SPANS_MAX)
			r = report_send(report);
		report->index = index;
		report->spans[report->count++] = (struct pool_span){
			(uint32_t)(at / PAGE_BYTES), (uint32_t)(len / PAGE_BYTES)};
	}
	return r;
}

void run_memory_tell(struct run_memory *memory, const struct gmem *gm)
{
	struct report report = {.memory = memory};

	memory->told =
		memory->chunks && !gmem_touched(gm, range_report, &report) && !report_send(&report);
}

void run_memory_free(struct run_memory *memory)
{
	/* The machine is gone, and its disks' requests have been waited for. */
	if (memory->chunks)
		pool_lease_quiet(memory->lease);
	if (memory->told)
		pool_lease_report(memory->lease);
	else
		pool_lease_end(memory->lease);
	free(memory->chunks);
	/* What was lent came back with the machine's memory. */
	for (unsigned i = 0; i < memory->loan_count; i++)
		free(memory->loans[i].leases);
	free(memory->loans);
	free(memory->lenders);
	memory->loans = NULL;
	memory->lenders = NULL;
	memory->loan_count = 0;
	memory->lease = NULL;
	memory->chunks = NULL;
}
