/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench halt: VMs one after the other in this process, each created, run until its guest has
 * said that it runs and halts, and destroyed; beside floor-loop, which does the same with the bare
 * KVM calls. Both make batches in turns, first with one thread, then with several at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_out.h"
#include "cli/bench_util.h"
#include "cli/cli.h"
#include "cli/floor_loop.h"
#include "config/config.h"
#include "machine/machine.h"

#define THREADS_MAX 16
#define BATCH	    25 /* VMs of each side and thread in a row */
#define WARM_UP	    2  /* batches of each side that are dropped */

/* The steps that are compared, and the parts of the first that only kvick has names for. */
enum step { STEP_CREATE, STEP_RUN, STEP_DESTROY, STEP_TOTAL, STEP_COUNT };
enum part { PART_MEMORY, PART_VM, PART_DEVICES, PART_VCPU, PART_COUNT };

static const char *const step_names[STEP_COUNT] = {
	"create", "run to boot byte", "destroy", "total"};
static const char *const part_names[PART_COUNT] = {
	"memory, images", "KVM VM, slots", "devices", "tables, vCPU"};

/*
 * Where the kernel let the new thread run: on the CPU of the one that started it, or elsewhere,
 * which takes longer when that CPU slept. It is the kernel's choice, and not the same for all.
 */
enum place { PLACE_SAME, PLACE_OTHER, PLACE_COUNT };

static const char *const place_names[PLACE_COUNT] = {"same CPU", "another CPU"};

enum side { SIDE_FLOOR, SIDE_KVICK, SIDE_COUNT };

static const char *const side_names[SIDE_COUNT] = {"floor", "kvick"};

/* What one side reached with one number of threads. */
struct result {
	struct bench_samples steps_us[STEP_COUNT];
	struct bench_samples run_us[PLACE_COUNT]; /* of STEP_RUN, by where it ran */
	struct bench_samples cpu_us;		  /* of a VM, by batch */
	struct bench_samples parts_us[PART_COUNT];
};

struct halt_bench {
	unsigned vms; /* of each side and thread that count */
	unsigned threads;
	bool json;
	cpu_set_t allowed;
	uint64_t memory_bytes, kernel_bytes, initrd_bytes;
	char dir[BENCH_DIR_MAX], kernel[BENCH_FILE_MAX], initrd[BENCH_FILE_MAX];
	char guest[4200], floor[4200];
	struct vm_config config;
	struct kvm *kvm;
	struct image *image;
	struct initrd *files;
	struct result results[2][SIDE_COUNT]; /* [0]: one thread, [1]: all */
};

/* floor-loop at the other end of two pipes. */
struct floor_loop {
	pid_t pid;
	int to, from;
};

/* One of the threads that make VMs here. */
struct maker {
	struct halt_bench *bench;
	pthread_t thread;
	bool timed;	/* with a timeline, for the parts */
	unsigned place; /* of its CPU */
	struct loop *loop;
	sem_t booted;
	uint64_t boot_ns;
	int boot_cpu;
	int failed;
	struct kv_err err;
	double steps_us[BATCH][STEP_COUNT];
	double parts_us[BATCH][PART_COUNT];
	enum place places[BATCH];
};

static int count_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct halt_bench *bench = ctx;
	bool threads = option->name[0] == 't';
	uint64_t max = threads ? THREADS_MAX : 1000000, n;

	if (uint_parse(value, 1, max, &n) < 0)
		return err_set(err, -EINVAL, "--%s: \"%s\" is not a number from 1 to %" PRIu64,
			option->name, value, max);
	if (threads)
		bench->threads = (unsigned)n;
	else
		bench->vms = (unsigned)n;
	return 0;
}

static int size_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct halt_bench *bench = ctx;
	uint64_t *bytes = option->name[0] == 'm'   ? &bench->memory_bytes
			  : option->name[0] == 'k' ? &bench->kernel_bytes
						   : &bench->initrd_bytes;

	if (bytes == &bench->memory_bytes)
		return bench_memory_set(bytes, value, err);
	return cli_size(option->name, value, "19M", bytes, err);
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct halt_bench *)ctx)->json = true;
	return 0;
}

static const struct cli_option options[] = {
	{"vms", "N", "counted VMs of each side and thread (default 1000)", count_set, 0},
	{"threads", "N", "threads of the second round (default 2; 1: no second round)", count_set,
		0},
	{"kernel-size", "SIZE", "pad the kernel file to this size (default 19M)", size_set, 0},
	{"initrd-size", "SIZE", "size of the initrd; 0 is none (default 3M)", size_set, 0},
	{"memory", "SIZE", "guest memory, whole MiB (default 128M)", size_set, 0},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench halt",
	.synopsis = "[OPTION...]",
	.about = "Create a VM, run it until its guest has signalled and halts, and destroy it, "
		 "over\n"
		 "and over in one process, in turns with the floor: the same by the bare KVM\n"
		 "calls. Times are wall-clock us of one step.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

static void vm_booted(void *ctx)
{
	struct maker *maker = ctx;

	maker->boot_ns = clock_ns();
	maker->boot_cpu = sched_getcpu();
	sem_post(&maker->booted);
}

/* It is waited for with sem_timedwait(): a guest that crashes never signals. */
static int boot_wait(struct maker *maker)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 10;
	while (sem_timedwait(&maker->booted, &limit) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static double us(uint64_t from, uint64_t to)
{
	return (double)(to - from) / 1e3;
}

/* The life of one VM; its times go to row @i. */
static int vm_live(struct maker *maker, unsigned i)
{
	struct halt_bench *bench = maker->bench;
	struct timeline tl = {0};
	struct machine_params params = {
		.config = &bench->config,
		.kvm = bench->kvm,
		.image = bench->image,
		.initrd = bench->files,
		.loop = maker->loop,
		.booted = vm_booted,
		.ctx = maker,
	};
	double *steps = maker->steps_us[i], *parts = maker->parts_us[i];
	uint64_t start, created, stop, end;
	struct machine *m = NULL;
	int cpu, r;

	if (maker->timed) {
		timeline_init(&tl, 0);
		params.tl = &tl;
	}
	start = clock_ns();
	r = machine_create(&m, &params, &maker->err);
	cpu = sched_getcpu();
	created = clock_ns();
	if (!r)
		r = machine_start(m, &maker->err);
	if (!r && boot_wait(maker) < 0)
		r = err_set(&maker->err, -ETIMEDOUT, "the guest did not signal within 10 s: %s",
			machine_end(m)->text);
	stop = clock_ns();
	machine_destroy(m);
	end = clock_ns();
	if (r < 0)
		return r;
	maker->places[i] = maker->boot_cpu == cpu ? PLACE_SAME : PLACE_OTHER;
	steps[STEP_CREATE] = us(start, created);
	steps[STEP_RUN] = us(created, maker->boot_ns);
	steps[STEP_DESTROY] = us(stop, end);
	steps[STEP_TOTAL] = steps[STEP_CREATE] + steps[STEP_RUN] + steps[STEP_DESTROY];
	if (maker->timed) {
		parts[PART_MEMORY] = us(start, tl.ns[MARK_MEMORY]);
		parts[PART_VM] = us(tl.ns[MARK_MEMORY], tl.ns[MARK_VM]);
		parts[PART_DEVICES] = us(tl.ns[MARK_VM], tl.ns[MARK_DEVICES]);
		parts[PART_VCPU] = us(tl.ns[MARK_DEVICES], tl.ns[MARK_READY]);
	}
	return 0;
}

static void *maker_main(void *arg)
{
	struct maker *maker = arg;

	for (unsigned i = 0; i < BATCH && !maker->failed; i++) {
		bench_place(&maker->bench->allowed, maker->place);
		maker->failed = vm_live(maker, i);
	}
	return NULL;
}

static int maker_init(struct maker *maker, struct halt_bench *bench, bool timed)
{
	maker->bench = bench;
	maker->timed = timed;
	maker->failed = 0;
	sem_init(&maker->booted, 0, 0);
	return loop_create(&maker->loop);
}

static void maker_clear(struct maker *maker)
{
	loop_destroy(maker->loop);
	sem_destroy(&maker->booted);
}

/* Keep what a thread measured. */
static int maker_keep(const struct maker *maker, struct result *result)
{
	int r = 0;

	for (unsigned i = 0; i < BATCH; i++) {
		for (int s = 0; !r && s < STEP_COUNT && !maker->timed; s++)
			r = bench_add(&result->steps_us[s], maker->steps_us[i][s]);
		if (!r && !maker->timed)
			r = bench_add(
				&result->run_us[maker->places[i]], maker->steps_us[i][STEP_RUN]);
		for (int p = 0; !r && p < PART_COUNT && maker->timed; p++)
			r = bench_add(&result->parts_us[p], maker->parts_us[i][p]);
	}
	return r;
}

/* A batch of kvick's VMs by @threads threads at once. @result NULL: warm-up. */
static int kvick_batch(struct halt_bench *bench, unsigned threads, unsigned place, bool timed,
	struct result *result, struct kv_err *err)
{
	MEM_SCOPED struct maker *makers = calloc(threads, sizeof(*makers));
	uint64_t cpu = bench_cpu_ns();
	unsigned started;
	int r = 0;

	if (!makers)
		return err_set(err, -ENOMEM, "out of memory");
	for (started = 0; !r && started < threads; started++) {
		r = maker_init(&makers[started], bench, timed);
		makers[started].place = place + started;
		if (!r && started)
			r = -pthread_create(
				&makers[started].thread, NULL, maker_main, &makers[started]);
		if (r < 0) {
			maker_clear(&makers[started]);
			err_set(err, r, "thread: %s", err_text(r));
			break;
		}
	}
	if (started)
		maker_main(&makers[0]);
	for (unsigned i = 0; i < started; i++) {
		if (i)
			pthread_join(makers[i].thread, NULL);
		if (!r && makers[i].failed)
			r = err_set(err, makers[i].failed, "%s", makers[i].err.text);
		if (!r && result && maker_keep(&makers[i], result) < 0)
			r = err_set(err, -ENOMEM, "out of memory");
		maker_clear(&makers[i]);
	}
	if (!r && result && !timed)
		r = bench_add(
			&result->cpu_us, (double)(bench_cpu_ns() - cpu) / 1e3 / (BATCH * threads));
	return r;
}

static int floor_start(struct floor_loop *floor, const struct halt_bench *bench, unsigned threads,
	struct kv_err *err)
{
	char memory[24], count[8];
	const char *argv[] = {bench->floor, bench->kernel, "--memory", memory, "--threads", count,
		bench->initrd_bytes ? "--initrd" : NULL, bench->initrd, NULL};
	posix_spawn_file_actions_t actions;
	int to[2], from[2], r;

	snprintf(memory, sizeof(memory), "%" PRIu64, (uint64_t)(bench->memory_bytes / MIB));
	snprintf(count, sizeof(count), "%u", threads);
	if (pipe2(to, O_CLOEXEC) < 0)
		return err_set(err, -errno, "pipe: %s", err_text(errno));
	if (pipe2(from, O_CLOEXEC) < 0) {
		r = err_set(err, -errno, "pipe: %s", err_text(errno));
		goto err_to;
	}
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, to[0], 0);
	posix_spawn_file_actions_adddup2(&actions, from[1], 1);
	r = -posix_spawn(&floor->pid, bench->floor, &actions, NULL, (char **)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r < 0)
		err_set(err, r, "%s cannot be started: %s", bench->floor, err_text(r));
	close(from[1]);
	if (r < 0)
		close(from[0]);
err_to:
	close(to[0]);
	if (r < 0)
		close(to[1]);
	floor->to = to[1];
	floor->from = from[0];
	return r;
}

static void floor_end(struct floor_loop *floor)
{
	close(floor->to);
	close(floor->from);
	waitpid(floor->pid, NULL, 0);
}

static int record_read(int fd, struct floor_record *record)
{
	size_t have = 0;

	while (have < sizeof(*record)) {
		ssize_t n = read(fd, (char *)record + have, sizeof(*record) - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		have += (size_t)n;
	}
	return 0;
}

static int record_keep(const struct floor_record *record, struct result *result)
{
	uint64_t create = record->memory_ns + record->vm_ns + record->vcpu_ns;
	uint64_t destroy = record->stop_ns + record->close_ns;
	const uint64_t ns[STEP_COUNT] = {
		create, record->run_ns, destroy, create + record->run_ns + destroy};
	/* The floor has no devices. */
	const uint64_t parts[PART_COUNT] = {record->memory_ns, record->vm_ns, 0, record->vcpu_ns};
	int r = 0;

	for (int s = 0; !r && s < STEP_COUNT; s++)
		r = bench_add(&result->steps_us[s], (double)ns[s] / 1e3);
	if (!r)
		r = bench_add(&result->run_us[record->moved ? PLACE_OTHER : PLACE_SAME],
			(double)record->run_ns / 1e3);
	for (int p = 0; !r && p < PART_COUNT; p++)
		r = bench_add(&result->parts_us[p], (double)parts[p] / 1e3);
	return r;
}

static int floor_batch(struct floor_loop *floor, unsigned threads, unsigned place,
	struct result *result, struct kv_err *err)
{
	struct floor_record record;
	char line[16];
	int r;

	snprintf(line, sizeof(line), "%u %u\n", BATCH, place);
	r = fd_write_all(floor->to, line, strlen(line));
	for (unsigned i = 0; !r && i < BATCH * threads; i++) {
		r = record_read(floor->from, &record);
		if (!r && result)
			r = record_keep(&record, result);
	}
	if (!r)
		r = record_read(floor->from, &record);
	if (!r && result)
		r = bench_add(&result->cpu_us, (double)record.memory_ns / 1e3 / (BATCH * threads));
	return r < 0 ? err_set(err, r, "floor-loop: %s", err_text(r)) : 0;
}

/* Everything takes turns, so that a slow second of the machine falls on both alike. */
static int round_run(struct halt_bench *bench, unsigned threads, struct result results[SIDE_COUNT],
	struct kv_err *err)
{
	unsigned batches = (bench->vms + BATCH - 1) / BATCH;
	struct floor_loop floor;
	int r = floor_start(&floor, bench, threads, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; !r && i < WARM_UP + batches; i++) {
		bool counted = i >= WARM_UP;

		r = floor_batch(&floor, threads, i, counted ? &results[SIDE_FLOOR] : NULL, err);
		if (!r)
			r = kvick_batch(bench, threads, i, false,
				counted ? &results[SIDE_KVICK] : NULL, err);
		/*
		 * The parts need a timeline, whose clock readings count in no step. Every fourth
		 * time, on another CPU each.
		 */
		if (!r && i % 4 == 3)
			r = kvick_batch(bench, threads, i / 4, true,
				counted ? &results[SIDE_KVICK] : NULL, err);
		if (!r && bench_interrupted())
			r = err_set(err, -EINTR, "interrupted");
		bench_progress(i + 1, WARM_UP + batches);
	}
	bench_progress(0, 0);
	floor_end(&floor);
	return r;
}

static int files_make(struct halt_bench *bench, struct kv_err *err)
{
	const struct image_opts opts = {0};
	const char *paths[] = {bench->initrd};
	int r = bench_locate(
		bench->guest, sizeof(bench->guest), "guest/flat/halt.pvh.elf", "halt.pvh.elf", err);

	if (!r)
		r = bench_locate(
			bench->floor, sizeof(bench->floor), "bench/floor-loop", "floor-loop", err);
	if (!r)
		r = bench_dir_make(bench->dir, err);
	if (r < 0)
		return r;
	snprintf(bench->kernel, sizeof(bench->kernel), "%s/kernel", bench->dir);
	snprintf(bench->initrd, sizeof(bench->initrd), "%s/initrd", bench->dir);
	r = bench_kernel_make(bench->guest, bench->kernel, bench->kernel_bytes, err);
	if (!r && bench->initrd_bytes)
		r = bench_file_make(bench->initrd, bench->initrd_bytes, err);
	if (!r)
		r = vm_config_init(&bench->config);
	if (!r)
		r = vm_config_set(&bench->config, "kernel", bench->kernel, err);
	if (!r)
		r = vm_config_set(&bench->config, "serial", "none", err);
	if (r < 0)
		return r;
	bench->config.memory_bytes = bench->memory_bytes;
	r = image_open(&bench->image, bench->kernel, &opts, err);
	if (!r)
		r = initrd_open(&bench->files, paths, bench->initrd_bytes ? 1 : 0, err);
	return r < 0 ? r : kvm_open(&bench->kvm, "/dev/kvm", err);
}

static void bench_clear(struct halt_bench *bench)
{
	kvm_close(bench->kvm);
	initrd_destroy(bench->files);
	image_destroy(bench->image);
	vm_config_free(&bench->config);
	for (int t = 0; t < 2; t++) {
		for (int side = 0; side < SIDE_COUNT; side++) {
			struct result *result = &bench->results[t][side];

			for (int s = 0; s < STEP_COUNT; s++)
				bench_free(&result->steps_us[s]);
			for (int p = 0; p < PLACE_COUNT; p++)
				bench_free(&result->run_us[p]);
			for (int p = 0; p < PART_COUNT; p++)
				bench_free(&result->parts_us[p]);
			bench_free(&result->cpu_us);
		}
	}
	if (bench->dir[0]) {
		unlink(bench->kernel);
		unlink(bench->initrd);
		rmdir(bench->dir);
	}
}

static void row_print(
	const char *name, const struct bench_samples *kvick, const struct bench_samples *floor)
{
	double base = bench_rank(floor, 0.5), base_min = bench_rank(floor, 0);

	printf("  %-18s %8.1f %8.1f %8.1f  %8.1f %8.1f %8.1f", name, base_min, base,
		bench_rank(floor, 0.99), bench_rank(kvick, 0), bench_rank(kvick, 0.5),
		bench_rank(kvick, 0.99));
	if (base > 0)
		printf("  %6.2f %6.2f", bench_rank(kvick, 0) / base_min,
			bench_rank(kvick, 0.5) / base);
	printf("\n");
}

/* The step that begins with a new thread, by where the kernel put that. */
static void places_print(struct result *kvick, struct result *floor)
{
	unsigned here = floor->run_us[PLACE_SAME].count;
	unsigned all = here + floor->run_us[PLACE_OTHER].count;

	for (int p = 0; p < PLACE_COUNT; p++) {
		char name[32];

		snprintf(name, sizeof(name), "  on %s", place_names[p]);
		if (floor->run_us[p].count && kvick->run_us[p].count)
			row_print(name, &kvick->run_us[p], &floor->run_us[p]);
	}
	printf("    (on the CPU that started it: %.0f %% of the floor's threads, %.0f %% of "
	       "kvick's)\n",
		100.0 * here / all, 100.0 * kvick->run_us[PLACE_SAME].count / all);
}

static void round_print(
	const struct halt_bench *bench, unsigned threads, struct result results[SIDE_COUNT])
{
	struct result *floor = &results[SIDE_FLOOR], *kvick = &results[SIDE_KVICK];

	printf("%u thread%s: %u VMs of each side, %u dropped before, batches of %u in turns\n",
		threads, threads > 1 ? "s at once" : "", floor->steps_us[0].count,
		WARM_UP * BATCH * threads, BATCH);
	printf("  %-18s %26s  %26s  %13s\n", "us", "floor: min   median      p99",
		"kvick: min   median      p99", "x floor: min, median");
	for (int s = 0; s < STEP_COUNT; s++) {
		row_print(step_names[s], &kvick->steps_us[s], &floor->steps_us[s]);
		if (s == STEP_RUN)
			places_print(kvick, floor);
	}
	row_print("CPU time", &kvick->cpu_us, &floor->cpu_us);
	printf("  in create (kvick: of other VMs, with a timeline):\n");
	for (int p = 0; p < PART_COUNT; p++)
		row_print(part_names[p], &kvick->parts_us[p], &floor->parts_us[p]);
	printf("\n");
}

static json_t *result_json(struct result *result)
{
	json_t *steps = json_object(), *parts = json_object(), *places = json_object();

	for (int s = 0; s < STEP_COUNT; s++)
		json_object_set_new(steps, step_names[s], bench_json(&result->steps_us[s]));
	for (int p = 0; p < PART_COUNT; p++)
		json_object_set_new(parts, part_names[p], bench_json(&result->parts_us[p]));
	for (int p = 0; p < PLACE_COUNT; p++)
		json_object_set_new(places, place_names[p], bench_json(&result->run_us[p]));
	return json_pack("{s:o, s:o, s:o, s:o}", "steps_us", steps, "run_us", places, "cpu_us",
		bench_json(&result->cpu_us), "create_parts_us", parts);
}

static int json_print(struct halt_bench *bench, const struct bench_noise *noise)
{
	json_t *rounds = json_array();

	for (int t = 0; t < (bench->threads > 1 ? 2 : 1); t++) {
		json_t *round = json_pack("{s:i}", "threads", t ? (int)bench->threads : 1);

		for (int side = 0; side < SIDE_COUNT; side++)
			json_object_set_new(
				round, side_names[side], result_json(&bench->results[t][side]));
		json_array_append_new(rounds, round);
	}
	return bench_json_print("halt", noise,
		json_pack("{s:I, s:I, s:I, s:o}", "kernel_bytes", (json_int_t)bench->kernel_bytes,
			"initrd_bytes", (json_int_t)bench->initrd_bytes, "memory_bytes",
			(json_int_t)bench->memory_bytes, "rounds", rounds));
}

static int bench_run_all(struct halt_bench *bench, struct kv_err *err)
{
	struct bench_noise noise;
	int r = files_make(bench, err);

	bench_noise_start(&noise);
	if (!r)
		r = round_run(bench, 1, bench->results[0], err);
	if (!r && bench->threads > 1)
		r = round_run(bench, bench->threads, bench->results[1], err);
	if (r < 0)
		return r;
	if (bench->json)
		return json_print(bench, &noise);
	round_print(bench, 1, bench->results[0]);
	if (bench->threads > 1)
		round_print(bench, bench->threads, bench->results[1]);
	bench_noise_print(&noise);
	return 0;
}

int bench_halt(int argc, char **argv)
{
	struct kv_err err = {0};
	int status;
	struct halt_bench *bench = calloc(1, sizeof(*bench));

	if (!bench) {
		cli_error("bench halt", "out of memory");
		return CLI_EXIT_START;
	}
	sched_getaffinity(0, sizeof(bench->allowed), &bench->allowed);
	bench->vms = 1000;
	bench->threads = 2;
	bench->kernel_bytes = 19 * MIB;
	bench->initrd_bytes = 3 * MIB;
	bench->memory_bytes = 128 * MIB;
	bench_catch_signals();
	signal(SIGPIPE, SIG_IGN);
	status = cli_parse(&usage, argc, argv, bench);
	if (status == CLI_GO_ON) {
		int r = bench_run_all(bench, &err);

		if (r < 0)
			cli_error("bench halt", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(bench);
	free(bench);
	return status;
}
