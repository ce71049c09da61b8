/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench memslots: what a memory device costs by its largest size and what is plugged of it,
 * in windows and in one big memory slot: KVM's own book-keeping, the time that plugging takes, how
 * long a running vCPU stands still meanwhile, and the time that a VM takes to start.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench.h"
#include "cli/bench_marks.h"
#include "cli/bench_out.h"
#include "cli/bench_proc.h"
#include "cli/bench_util.h"
#include "cli/cli.h"
#include "gmem/hot.h"
#include "kvm/kvm.h"
#include "trace/timeline.h"
#include "x86/cpuid.h"

#define SIZES	     5
#define PLUGS	     4
#define BLOCK_BYTES  (2 * MIB)
#define STEP_BYTES   (128 * MIB) /* what Linux plugs by one request */
#define AREA_GPA     (64 * GIB)	 /* a multiple of any window */
#define IDLE_NS	     50000000
#define LIMIT_NS     120000000000ULL
#define RMAP_DIVISOR 512 /* shadow paging: 8 bytes for each page of 4 KiB */

/* How the area is told to KVM. */
enum how { WINDOWS, ONE_SLOT, HOWS };
static const char *const how_names[HOWS] = {"windows", "one slot"};
static const char *const how_keys[HOWS] = {"on", "off"};

static const uint64_t plugs[PLUGS] = {0, GIB, 4 * GIB, 64 * GIB};

/* What is measured of one size, amount and way. */
struct cell {
	bool tried;
	struct bench_samples vmalloc_kib, slab_kib;
	struct bench_samples plug_ms, unplug_ms;	  /* for a GiB */
	struct bench_samples stall_us, idle_us, setup_us; /* longest, in one round */
	unsigned slots;					  /* of the area */
};

struct bench {
	unsigned rounds, starts;
	unsigned size_count;
	uint64_t sizes[SIZES];
	bool json, no_start;
	struct kvm *kvm;
	struct cell cells[SIZES][PLUGS][HOWS];
	struct bench_samples start_ms[SIZES][HOWS], start_ratio[SIZES][HOWS], none_ms;
	char dir[BENCH_DIR_MAX], self[BENCH_SELF_MAX], guest[4200], timeline[BENCH_FILE_MAX];
};

/* A VM with one vCPU that does nothing but leave the guest, again and again. */
struct vm {
	struct gmem *gm;
	struct gmem_hot *hot;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	bool running;
	_Atomic bool stop;
	_Atomic int failed;
	_Atomic uint64_t gap_ns; /* longest between two exits since it was set to 0 */
};

static int slot_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	return kvm_slot_set(ctx, region, gpa, bytes, host, 0);
}

static void slot_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	kvm_slot_set(ctx, region, gpa, 0, NULL, 0);
}

/*
 * Real mode: touch 16 pages in turn, and a port that nobody listens to. (Slots being changed, KVM
 * may have to find these pages again.)
 */
static const uint8_t guest_code[] = {
	0x88, 0x07,	  /* 1: mov %al, (%bx) */
	0x80, 0xc7, 0x10, /* add $0x10, %bh */
	0xe6, 0xed,	  /* out %al, $0xed */
	0xeb, 0xf7,	  /* jmp 1b */
};
#define GUEST_RIP 0x800

static void *vcpu_main(void *arg)
{
	struct vm *vm = arg;
	uint64_t last = clock_ns();

	while (!atomic_load(&vm->stop)) {
		int r = kvm_vcpu_enter(vm->vcpu);
		uint64_t now = clock_ns();

		if (r < 0 || kvm_vcpu_page(vm->vcpu)->exit_reason != KVM_EXIT_IO) {
			atomic_store(&vm->failed, r < 0 ? r : -EIO);
			break;
		}
		if (now - last > atomic_load(&vm->gap_ns))
			atomic_store(&vm->gap_ns, now - last);
		last = now;
	}
	return NULL;
}

static int vcpu_begin(struct vm *vm)
{
	struct kvm_regs regs = {.rip = GUEST_RIP, .rflags = 2};
	struct kvm_sregs sregs;
	int r = kvm_sregs_get(vm->vcpu, &sregs);

	if (r < 0)
		return r;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	r = kvm_sregs_set(vm->vcpu, &sregs);
	if (!r)
		r = kvm_regs_set(vm->vcpu, &regs);
	if (!r)
		r = -pthread_create(&vm->thread, NULL, vcpu_main, vm);
	vm->running = !r;
	return r;
}

static void vm_free(struct vm *vm)
{
	atomic_store(&vm->stop, true);
	if (vm->running)
		pthread_join(vm->thread, NULL);
	kvm_vcpu_destroy(vm->vcpu);
	if (vm->gm && vm->vm)
		gmem_forget(vm->gm, vm->vm);
	kvm_vm_destroy(vm->vm);
	gmem_destroy(vm->gm);
}

/* As the machine does it: memory, slots, interrupt controllers, vCPU. @bytes 0: no device. */
static int vm_make(struct vm *vm, struct kvm *kvm, uint64_t bytes, enum how how, struct kv_err *err)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem_hot_params params = {
		.gpa = AREA_GPA,
		.bytes = bytes,
		.block_bytes = BLOCK_BYTES,
		.window_bytes = gmem_hot_window(bytes, BLOCK_BYTES, GMEM_WINDOWS_MAX),
		.whole = how == ONE_SLOT,
		.backing = &anon,
	};
	struct gmem_listener slots = {.map = slot_map, .unmap = slot_unmap};
	int r = gmem_create(&vm->gm, NULL);

	if (!r)
		r = gmem_add_ram(vm->gm, 0, 16 * MIB, err);
	if (!r && bytes)
		r = gmem_hot_add(&vm->hot, vm->gm, &params, err);
	if (!r)
		r = kvm_vm_create(&vm->vm, kvm, err);
	if (r < 0)
		return r;
	slots.ctx = vm->vm;
	r = gmem_listen(vm->gm, &slots);
	if (r < 0)
		return err_set(err, r, "KVM refused the memory: %s", err_text(r));
	r = kvm_irqchip_create(vm->vm, KVM_IRQCHIP_SPLIT, 24, err);
	if (!r)
		r = kvm_vcpu_create(&vm->vcpu, vm->vm, 0, err);
	if (r < 0)
		return r;
	gmem_write(vm->gm, GUEST_RIP, guest_code, sizeof(guest_code));
	r = vcpu_begin(vm);
	return r < 0 ? err_set(err, r, "the guest cannot be started: %s", err_text(r)) : 0;
}

/* What KVM keeps is in it. A vCPU runs meanwhile, which must not stand still for an exact count. */
static struct kernel_memory books_read(void)
{
	struct kernel_memory books;

	proc_kernel(&books, false);
	return books;
}

/* Their difference, which may be negative, in KiB. */
static double kib_more(uint64_t after, uint64_t before)
{
	return ((double)after - (double)before) / KIB;
}

static void nap(uint64_t ns)
{
	struct timespec ts = {.tv_nsec = (long)ns};

	nanosleep(&ts, NULL);
}

/* Plug or unplug @bytes as Linux does, in steps. Returns the time it took in ms, or -errno. */
static double change(struct gmem_hot *hot, uint64_t bytes, bool plug)
{
	uint64_t begun = clock_ns();

	for (uint64_t at = 0; at < bytes; at += STEP_BYTES) {
		/* Linux plugs from below and unplugs from above. */
		gpa_t gpa = AREA_GPA + (plug ? at : bytes - STEP_BYTES - at);
		int r = plug ? gmem_hot_plug(hot, gpa, STEP_BYTES)
			     : gmem_hot_unplug(hot, gpa, STEP_BYTES);

		if (r < 0)
			return r;
	}
	return (double)(clock_ns() - begun) / 1e6;
}

static double stall_take(struct vm *vm)
{
	return (double)atomic_exchange(&vm->gap_ns, 0) / 1e3;
}

/* Let the vCPU run by itself, plug, read the books, unplug. */
static int vm_measure(struct vm *vm, struct cell *cell, uint64_t bytes,
	const struct kernel_memory *before, struct kv_err *err)
{
	double gib = (double)bytes / (double)GIB, plug, unplug, idle, stall;
	struct gmem_hot_info info;
	struct kernel_memory after;
	int r = 0;

	nap(IDLE_NS / 5);
	stall_take(vm);
	nap(IDLE_NS);
	idle = stall_take(vm);
	plug = change(vm->hot, bytes, true);
	after = books_read();
	gmem_hot_info(vm->hot, &info);
	cell->slots = info.windows_mapped;
	unplug = plug < 0 ? plug : change(vm->hot, bytes, false);
	/* A gap counts when it is over. */
	nap(IDLE_NS / 10);
	stall = stall_take(vm);
	if (plug < 0 || unplug < 0)
		return err_set(err, (int)(plug < 0 ? plug : unplug), "plugging: %s",
			err_text((int)(plug < 0 ? plug : unplug)));
	if (atomic_load(&vm->failed))
		return err_set(err, vm->failed, "the guest stopped: %s", err_text(vm->failed));
	gmem_hot_info(vm->hot, &info);
	r |= bench_add(&cell->vmalloc_kib, kib_more(after.vmalloc_bytes, before->vmalloc_bytes));
	r |= bench_add(&cell->slab_kib, kib_more(after.slab_bytes, before->slab_bytes));
	r |= bench_add(&cell->idle_us, idle);
	if (bytes) {
		r |= bench_add(&cell->plug_ms, plug / gib);
		r |= bench_add(&cell->unplug_ms, unplug / gib);
		r |= bench_add(&cell->stall_us, stall);
		r |= bench_add(&cell->setup_us, (double)info.stall_max_ns / 1e3);
	}
	return r ? err_set(err, -ENOMEM, "out of memory") : 0;
}

/*
 * What a VM without a device keeps is taken off: the readings before and after are of two VMs that
 * differ in nothing else.
 */
static int cell_round(struct bench *bench, unsigned s, unsigned p, enum how how, struct kv_err *err)
{
	struct cell *cell = &bench->cells[s][p][how];
	struct vm none = {0}, vm = {0};
	struct kernel_memory start, plain, before;
	int r;

	/* Where rmaps are made for all of it, half of what is free is enough to lose. */
	if (how == ONE_SLOT && bench->sizes[s] / RMAP_DIVISOR > books_read().available_bytes / 2)
		return 0;
	cell->tried = true;
	start = books_read();
	r = vm_make(&none, bench->kvm, 0, how, err);
	nap(IDLE_NS / 5);
	plain = books_read();
	vm_free(&none);
	if (r < 0)
		return r;
	before = books_read();
	before.vmalloc_bytes += plain.vmalloc_bytes - start.vmalloc_bytes;
	before.slab_bytes += plain.slab_bytes - start.slab_bytes;
	r = vm_make(&vm, bench->kvm, bench->sizes[s], how, err);
	if (!r)
		r = vm_measure(&vm, cell, plugs[p], &before, err);
	vm_free(&vm);
	return r;
}

/* One start of a VM with the device @keys, or without when it is NULL. 1: it cannot be here. */
static int start_run(struct bench *bench, const char *keys, double *ret_ms, struct kv_err *err)
{
	char *argv[] = {bench->self, "run", bench->guest, "--timeline", bench->timeline,
		keys ? "--mem-device" : NULL, (char *)keys, NULL};
	struct bench_run run;
	int r = bench_spawn(&run, argv, LIMIT_NS);

	if (r == -EINTR)
		return err_set(err, r, "interrupted");
	if (!r && run.status == CLI_EXIT_START && keys)
		return 1;
	if (!r && run.status)
		r = -EIO;
	if (!r)
		r = bench_boot_ms(bench->timeline, ret_ms);
	return r < 0 ? err_set(err, r, "kvick run %s: %s", keys ? keys : "", err_text(r)) : 0;
}

/* All VMs once, in another order each round: who follows a slow teardown pays for it. */
static int starts_round(struct bench *bench, unsigned round, struct kv_err *err)
{
	unsigned subjects = 1 + HOWS * bench->size_count;
	double ms[1 + HOWS * SIZES] = {0};
	int r = 0;

	for (unsigned i = 0; !r && i < subjects; i++) {
		unsigned subject = bench_turn(round, i, subjects), s = (subject - 1) / HOWS;
		char size[24], keys[96];

		if (subject && !bench->cells[s][0][(subject - 1) % HOWS].tried)
			continue;
		if (subject)
			snprintf(keys, sizeof(keys), "max=%s,dynamic-memslots=%s",
				size_format(bench->sizes[s], size, sizeof(size)),
				how_keys[(subject - 1) % HOWS]);
		r = start_run(bench, subject ? keys : NULL, &ms[subject], err);
		r = r > 0 ? 0 : r;
	}
	if (r < 0 || !round)
		return r;
	r = bench_add(&bench->none_ms, ms[0]);
	for (unsigned i = 1; !r && i < subjects; i++) {
		unsigned s = (i - 1) / HOWS, h = (i - 1) % HOWS;

		if (ms[i] <= 0)
			continue;
		r = bench_add(&bench->start_ms[s][h], ms[i]);
		if (!r)
			r = bench_add(&bench->start_ratio[s][h], ms[i] / ms[0]);
	}
	return r < 0 ? err_set(err, r, "out of memory") : 0;
}

static int rounds_run(struct bench *bench, struct kv_err *err)
{
	unsigned all = bench->rounds + (bench->no_start ? 0 : bench->starts + 1), done = 0;
	int r = 0;

	for (unsigned i = 0; !r && i < bench->rounds; i++) {
		bench_progress(done++, all);
		for (unsigned s = 0; s < bench->size_count; s++)
			for (unsigned p = 0; p < PLUGS && plugs[p] <= bench->sizes[s]; p++)
				for (unsigned h = 0; !r && h < HOWS; h++)
					r = bench_interrupted()
						    ? err_set(err, -EINTR, "interrupted")
						    : cell_round(bench, s, p, (enum how)h, err);
	}
	for (unsigned i = 0; !r && !bench->no_start && i <= bench->starts; i++) {
		bench_progress(done++, all);
		r = starts_round(bench, i, err);
	}
	bench_progress(0, 0);
	return r;
}

static void cell_print(const struct bench *bench, unsigned s, unsigned p, enum how how)
{
	struct cell *cell = (struct cell *)&bench->cells[s][p][how];
	char max[24], plugged[24];

	printf("%-6s %-8s %-9s", size_format(bench->sizes[s], max, sizeof(max)),
		size_format(plugs[p], plugged, sizeof(plugged)), how_names[how]);
	if (!cell->tried) {
		printf(" not tried: KVM's books of it could take half of what is free\n");
		return;
	}
	printf(" %5u %12.0f %9.0f", cell->slots, bench_rank(&cell->vmalloc_kib, 0.5),
		bench_rank(&cell->slab_kib, 0.5));
	if (plugs[p])
		printf(" %9.2f %9.2f %9.0f %9.0f", bench_rank(&cell->plug_ms, 0.5),
			bench_rank(&cell->unplug_ms, 0.5), bench_rank(&cell->setup_us, 1),
			bench_rank(&cell->stall_us, 1));
	else
		printf(" %9s %9s %9s %9s", "", "", "", "");
	printf(" %9.0f\n", bench_rank(&cell->idle_us, 1));
}

static void bench_print(struct bench *bench)
{
	char size[24];

	printf("KVM's books in KiB and ms for each GiB: median of %u rounds; us: worst of all\n"
	       "%-6s %-8s %-9s %5s %12s %9s %9s %9s %9s %9s %9s\n",
		bench->rounds, "max", "plugged", "told as", "slots", "VmallocUsed", "Slab",
		"plug/GiB", "unplug/G", "slots us", "stall us", "idle us");
	for (unsigned s = 0; s < bench->size_count; s++)
		for (unsigned p = 0; p < PLUGS && plugs[p] <= bench->sizes[s]; p++)
			for (unsigned h = 0; h < HOWS; h++)
				cell_print(bench, s, p, (enum how)h);
	if (bench->no_start)
		return;
	printf("\nVM start, exec to the guest's boot byte, ms: median (x no device, median)\n"
	       "%-8s %9.2f\n",
		"none", bench_rank(&bench->none_ms, 0.5));
	for (unsigned s = 0; s < bench->size_count; s++) {
		printf("%-8s", size_format(bench->sizes[s], size, sizeof(size)));
		for (unsigned h = 0; h < HOWS; h++)
			if (bench->start_ms[s][h].count)
				printf("  %s %9.2f (%6.3f)", how_names[h],
					bench_rank(&bench->start_ms[s][h], 0.5),
					bench_rank(&bench->start_ratio[s][h], 0.5));
			else
				printf("  %s %18s", how_names[h], "-");
		printf("\n");
	}
}

static json_t *result_json(struct bench *bench)
{
	json_t *rows = json_array(), *starts = json_array();

	for (unsigned s = 0; s < bench->size_count; s++)
		for (unsigned p = 0; p < PLUGS && plugs[p] <= bench->sizes[s]; p++)
			for (unsigned h = 0; h < HOWS; h++) {
				struct cell *cell = &bench->cells[s][p][h];

				if (!cell->tried)
					continue;
				json_array_append_new(rows,
					json_pack("{s:I, s:I, s:s, s:i, s:o, s:o, s:o, s:o, s:o, "
						  "s:o, s:o}",
						"max_bytes", (json_int_t)bench->sizes[s],
						"plugged_bytes", (json_int_t)plugs[p], "told_as",
						how_names[h], "slots", (int)cell->slots,
						"vmalloc_kib", bench_json(&cell->vmalloc_kib),
						"slab_kib", bench_json(&cell->slab_kib),
						"plug_ms_gib", bench_json(&cell->plug_ms),
						"unplug_ms_gib", bench_json(&cell->unplug_ms),
						"slots_us", bench_json(&cell->setup_us), "stall_us",
						bench_json(&cell->stall_us), "idle_us",
						bench_json(&cell->idle_us)));
			}
	for (unsigned s = 0; s < bench->size_count; s++)
		for (unsigned h = 0; h < HOWS; h++)
			if (bench->start_ms[s][h].count)
				json_array_append_new(starts,
					json_pack("{s:I, s:s, s:o, s:o}", "max_bytes",
						(json_int_t)bench->sizes[s], "told_as",
						how_names[h], "ms",
						bench_json(&bench->start_ms[s][h]), "x_none",
						bench_json(&bench->start_ratio[s][h])));
	return json_pack("{s:i, s:o, s:o, s:o}", "rounds", (int)bench->rounds, "books", rows,
		"start", starts, "start_none_ms", bench_json(&bench->none_ms));
}

static int count_set(
	unsigned *field, const struct cli_option *option, const char *value, struct kv_err *err)
{
	uint64_t n;

	if (uint_parse(value, 1, 1000, &n) < 0)
		return err_set(err, -EINVAL, "--%s: \"%.40s\" is not a number from 1 to 1000",
			option->name, value);
	*field = (unsigned)n;
	return 0;
}

static int rounds_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	return count_set(&((struct bench *)ctx)->rounds, option, value, err);
}

static int starts_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	return count_set(&((struct bench *)ctx)->starts, option, value, err);
}

static int max_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;
	uint64_t bytes;

	if (size_parse(value, &bytes) < 0 || bytes < GIB || bytes > 4 * TIB || bytes % GIB)
		return err_set(err, -EINVAL,
			"--max: \"%.40s\" is not a multiple of 1G from 1G to 4T", value);
	if (bench->size_count == SIZES)
		return err_set(err, -EINVAL, "--max: %d sizes are the most", SIZES);
	bench->sizes[bench->size_count++] = bytes;
	return 0;
}

static int no_start_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct bench *)ctx)->no_start = true;
	return 0;
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct bench *)ctx)->json = true;
	return 0;
}

static const struct cli_option options[] = {
	{"max", "SIZE", "largest size of the device (default: 1G, 16G, 256G, 1T and 4T)", max_set,
		CLI_OPT_REPEAT},
	{"rounds", "N", "rounds of plugging (default 3)", rounds_set, 0},
	{"starts", "N", "counted starts of VMs (default 9); one more goes first", starts_set, 0},
	{"no-start", NULL, "leave out the starts of VMs", no_start_set, 0},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench memslots",
	.synopsis = "[OPTION...]",
	.about = "Measure memory devices, in windows and as one big memory slot: what KVM "
		 "allocates\n"
		 "to keep book of their pages, how long plugging and unplugging take, how long a\n"
		 "running vCPU stands still at worst, and how long VMs take to start.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

/* Leave out sizes that this CPU does not address. */
static int sizes_fit(struct bench *bench, struct kv_err *err)
{
	const struct kvm_cpuid2 *cpuid = NULL;
	unsigned kept = 0, bits;
	int r = kvm_cpuid_supported(bench->kvm, &cpuid);

	if (r < 0)
		return err_set(err, r, "KVM_GET_SUPPORTED_CPUID failed: %s", err_text(r));
	bits = x86_phys_bits(cpuid);
	for (unsigned s = 0; s < bench->size_count; s++)
		if (bits >= 64 || AREA_GPA + bench->sizes[s] <= 1ULL << bits)
			bench->sizes[kept++] = bench->sizes[s];
	bench->size_count = kept;
	return kept ? 0
		    : err_set(err, -EINVAL,
			      "--max: this CPU's %u physical address bits reach none of the sizes",
			      bits);
}

static int bench_prepare(struct bench *bench, struct kv_err *err)
{
	static const uint64_t sizes[SIZES] = {GIB, 16 * GIB, 256 * GIB, TIB, 4 * TIB};
	int r = bench_self(bench->self, err);

	if (r < 0)
		return r;
	if (!bench->size_count) {
		memcpy(bench->sizes, sizes, sizeof(sizes));
		bench->size_count = SIZES;
	}
	r = kvm_open(&bench->kvm, "/dev/kvm", err);
	if (!r)
		r = sizes_fit(bench, err);
	if (r < 0 || bench->no_start)
		return r;
	r = bench_locate(bench->guest, sizeof(bench->guest), "guest/flat/signal.pvh.elf",
		"signal.pvh.elf", err);
	if (!r)
		r = bench_dir_make(bench->dir, err);
	if (!r)
		snprintf(bench->timeline, sizeof(bench->timeline), "%s/timeline.json", bench->dir);
	return r;
}

static void cell_clear(struct cell *cell)
{
	bench_free(&cell->vmalloc_kib);
	bench_free(&cell->slab_kib);
	bench_free(&cell->plug_ms);
	bench_free(&cell->unplug_ms);
	bench_free(&cell->stall_us);
	bench_free(&cell->idle_us);
	bench_free(&cell->setup_us);
}

static void bench_clear(struct bench *bench)
{
	for (unsigned s = 0; s < SIZES; s++)
		for (unsigned h = 0; h < HOWS; h++) {
			for (unsigned p = 0; p < PLUGS; p++)
				cell_clear(&bench->cells[s][p][h]);
			bench_free(&bench->start_ms[s][h]);
			bench_free(&bench->start_ratio[s][h]);
		}
	bench_free(&bench->none_ms);
	kvm_close(bench->kvm);
	if (bench->dir[0]) {
		unlink(bench->timeline);
		rmdir(bench->dir);
	}
	free(bench);
}

int bench_memslots(int argc, char **argv)
{
	struct bench *bench = calloc(1, sizeof(*bench));
	struct bench_noise noise;
	struct kv_err err = {0};
	int status, r;

	if (!bench) {
		cli_error("bench memslots", "out of memory");
		return CLI_EXIT_START;
	}
	bench->rounds = 3;
	bench->starts = 9;
	bench_catch_signals();
	status = cli_parse(&usage, argc, argv, bench);
	if (status == CLI_GO_ON) {
		bench_noise_start(&noise);
		r = bench_prepare(bench, &err);
		if (!r)
			r = rounds_run(bench, &err);
		if (!r && bench->json)
			r = bench_json_print("memslots", &noise, result_json(bench));
		if (!r && !bench->json) {
			bench_print(bench);
			bench_noise_print(&noise);
		}
		if (r < 0)
			cli_error("bench memslots", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(bench);
	return status;
}
