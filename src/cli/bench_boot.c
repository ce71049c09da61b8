/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench boot: how long a real kernel takes from the execution of the monitor to the line that
 * says that it is up, and kvick's steps on the way there. Other monitors are run in turns with it;
 * all are watched from outside by what they print. Nothing is asked of the guest but that line.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_marks.h"
#include "cli/bench_out.h"
#include "cli/bench_util.h"
#include "cli/bench_watch.h"
#include "cli/cli.h"
#include "trace/timeline.h"

#define SUBJECTS_MAX 5 /* kvick and up to 4 others */
#define WARM_UP	     1
#define ARGS_MAX     48

/* The steps of kvick, each from the mark before that was reached. */
static const struct {
	const char *name;
	enum mark from, to;
} phases[] = {
	{"process start", MARK_EXEC, MARK_CONFIG},
	{"image", MARK_CONFIG, MARK_IMAGE},
	{"memory", MARK_IMAGE, MARK_MEMORY},
	{"KVM VM", MARK_MEMORY, MARK_VM},
	{"devices", MARK_VM, MARK_DEVICES},
	{"vCPU", MARK_DEVICES, MARK_VCPU},
	{"to first entry", MARK_VCPU, MARK_FIRST_ENTRY},
	{"to start_kernel", MARK_FIRST_ENTRY, MARK_START_KERNEL},
	{"kernel", MARK_START_KERNEL, MARK_USER},
	{"user space to boot byte", MARK_USER, MARK_BOOT},
	{"teardown", MARK_SHUTDOWN, MARK_DOWN},
	{"exec to VMM ready", MARK_EXEC, MARK_READY},
	{"exec to user space", MARK_EXEC, MARK_USER},
	{"exec to boot byte", MARK_EXEC, MARK_BOOT},
};

/* The three parts of the pie of a start. */
static const struct {
	const char *name;
	enum mark from, to;
} slices[] = {
	{"memory setup", MARK_CONFIG, MARK_MEMORY},
	{"VM setup", MARK_MEMORY, MARK_FIRST_ENTRY},
	{"boot", MARK_FIRST_ENTRY, MARK_BOOT},
};

struct subject {
	char **argv;
	struct bench_samples first_ms, done_ms, cpu_ms;
};

struct boot_bench {
	const char *kernel, *initrd, *append, *memory, *cpus, *text, *vs[SUBJECTS_MAX - 1];
	unsigned vs_count, runs;
	uint64_t timeout_s, memory_bytes;
	bool json;
	char dir[BENCH_DIR_MAX], timeline[BENCH_FILE_MAX], self[BENCH_SELF_MAX];
	unsigned subject_count;
	struct subject subjects[SUBJECTS_MAX];
	struct bench_samples phases_ms[ARRAY_LEN(phases)];
	double best_ms; /* the fastest run to the line, and what kvick's steps took in it */
	double best_phases_ms[ARRAY_LEN(phases)], best_slices_ms[ARRAY_LEN(slices)];
};

static int number_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct boot_bench *bench = ctx;
	uint64_t n;

	if (uint_parse(value, 1, 10000, &n) < 0)
		return err_set(err, -EINVAL, "--%s: \"%s\" is not a number from 1 to 10000",
			option->name, value);
	if (option->name[0] == 'r')
		bench->runs = (unsigned)n;
	else
		bench->timeout_s = n;
	return 0;
}

static int text_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct boot_bench *bench = ctx;

	if (!*value)
		return err_set(err, -EINVAL, "--%s: is empty", option->name);
	switch (option->name[0]) {
	case 'i':
		bench->initrd = value;
		break;
	case 'a':
		bench->append = value;
		break;
	case 'c':
		bench->cpus = value;
		break;
	default:
		bench->text = value;
		break;
	}
	return 0;
}

static int memory_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct boot_bench *bench = ctx;

	bench->memory = value;
	return bench_memory_set(&bench->memory_bytes, value, err);
}

static int vs_set(void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct boot_bench *bench = ctx;

	return bench_vs_add(bench->vs, ARRAY_LEN(bench->vs), &bench->vs_count, value, err);
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct boot_bench *)ctx)->json = true;
	return 0;
}

static int kernel_set(void *ctx, const char *value, struct kv_err *err)
{
	((struct boot_bench *)ctx)->kernel = value;
	return 0;
}

static const struct cli_option options[] = {
	{"initrd", "FILE", "initial RAM disk", text_set, 0},
	{"append", "TEXT", "kernel command line", text_set, 0},
	{"memory", "SIZE", "guest memory, whole MiB (default 128M)", memory_set, 0},
	{"cpus", "N", "vCPUs of kvick's VM (default 1)", text_set, 0},
	{"runs", "N", "counted runs of each monitor (default 10); 1 more goes first", number_set,
		0},
	{"timeout", "SECONDS", "how long a boot may take (default 60)", number_set, 0},
	{"text", "TEXT",
		"what a monitor prints when its guest is up (default\n"
		"\"Guest-boot-time\": kvick's and Firecracker's line for the boot byte)",
		text_set, 0},
	{"vs", "COMMAND",
		"another monitor's command line; {kernel}, {initrd} and\n"
		"{memory_mib} stand for the files and the size; may be repeated",
		vs_set, CLI_OPT_REPEAT},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench boot",
	.synopsis = "[OPTION...] KERNEL",
	.about = "Time real boots: from the execution of the monitor until it or its guest prints\n"
		 "that it is up, and kvick's steps on the way. The VM is ended then.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.operand = "KERNEL",
	.operands_min = 1,
	.operands_max = 1,
	.operand_set = kernel_set,
};

static int own_make(struct boot_bench *bench, struct kv_err *err)
{
	const char *words[ARGS_MAX] = {bench->self, "run", "--boot-timer", "--timeline",
		bench->timeline, "--memory", bench->memory};
	unsigned count = 7;

	if (bench->initrd) {
		words[count++] = "--initrd";
		words[count++] = bench->initrd;
	}
	if (bench->append) {
		words[count++] = "--append";
		words[count++] = bench->append;
	}
	if (bench->cpus) {
		words[count++] = "--cpus";
		words[count++] = bench->cpus;
	}
	words[count++] = "--";
	words[count++] = bench->kernel;
	bench->subjects[0].argv = bench_words_copy(words, count);
	bench->subject_count = 1;
	return bench->subjects[0].argv ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int subjects_make(struct boot_bench *bench, struct kv_err *err)
{
	int r = bench_self(bench->self, err);

	if (!r)
		r = bench_dir_make(bench->dir, err);
	if (r < 0)
		return r;
	snprintf(bench->timeline, sizeof(bench->timeline), "%s/timeline.json", bench->dir);
	r = own_make(bench, err);
	for (unsigned i = 0; !r && i < bench->vs_count; i++) {
		r = bench_words(&bench->subjects[i + 1].argv, bench->vs[i], bench->kernel,
			bench->initrd, bench->memory_bytes / MIB, err);
		if (r < 0)
			return err_prefix(err, r, "--vs");
		bench->subject_count++;
	}
	return r;
}

/* Keep the steps of kvick's last run, which took @done_ms to the line. */
static int phases_keep(struct boot_bench *bench, double done_ms)
{
	bool best = !bench->best_ms || done_ms < bench->best_ms;
	struct bench_marks marks;
	int r = bench_marks_read(&marks, bench->timeline);

	for (size_t i = 0; !r && i < ARRAY_LEN(phases); i++) {
		double ms = bench_span_ms(&marks, phases[i].from, phases[i].to);

		if (best)
			bench->best_phases_ms[i] = ms;
		if (ms >= 0)
			r = bench_add(&bench->phases_ms[i], ms);
	}
	for (size_t i = 0; !r && best && i < ARRAY_LEN(slices); i++) {
		double ms = bench_span_ms(&marks, slices[i].from, slices[i].to);

		/* A guest that writes no boot byte has booted when the line comes. */
		if (ms < 0 && slices[i].to == MARK_BOOT)
			ms = done_ms - bench_span_ms(&marks, MARK_EXEC, slices[i].from);
		bench->best_slices_ms[i] = ms;
	}
	if (best)
		bench->best_ms = done_ms;
	return r;
}

/* The name of the last mark that kvick's last run reached before it was ended. */
static const char *mark_last(const struct boot_bench *bench)
{
	const char *last = NULL;
	struct bench_marks marks;
	uint64_t latest = 0;

	bench_marks_read(&marks, bench->timeline);
	for (int i = 0; i < MARK_COUNT; i++) {
		if (i == MARK_SHUTDOWN || i == MARK_DOWN || !marks.reached[i])
			continue;
		if (marks.ns[i] >= latest) {
			latest = marks.ns[i];
			last = mark_name((enum mark)i);
		}
	}
	return last;
}

/* A sentence for a boot that did not come to the line. */
static int boot_failed(const struct boot_bench *bench, unsigned index,
	const struct bench_watch *watch, int code, struct kv_err *err)
{
	const char *name = bench->subjects[index].argv[0];
	const char *mark = index ? NULL : mark_last(bench);
	const char *output = *watch->last_line ? watch->last_line : "nothing";

	if (code == -EINTR)
		return err_set(err, code, "interrupted");
	if (code != -ETIMEDOUT && code != -ECHILD)
		return err_set(err, code, "%s cannot be started: %s", name, err_text(code));
	err_set(err, code, "%s%s%sthe last line of output: %s",
		mark ? "the last mark reached is " : "", mark ? mark : "", mark ? ", " : "",
		output);
	if (code == -ETIMEDOUT)
		return err_prefix(err, code, "%s: no \"%s\" within %" PRIu64 " s", name,
			bench->text, bench->timeout_s);
	return err_prefix(err, code, "%s: ended with status %d without \"%s\"", name, watch->status,
		bench->text);
}

static int subject_run(struct boot_bench *bench, unsigned index, bool counted, struct kv_err *err)
{
	struct subject *subject = &bench->subjects[index];
	struct bench_watch watch;
	int r;

	unlink(bench->timeline);
	r = bench_watch(&watch, subject->argv, bench->text, bench->timeout_s * 1000000000);
	if (r < 0)
		return boot_failed(bench, index, &watch, r, err);
	if (!counted)
		return 0;
	r = bench_add(&subject->first_ms, (double)watch.first_ns / 1e6);
	if (!r)
		r = bench_add(&subject->done_ms, (double)watch.text_ns / 1e6);
	if (!r)
		r = bench_add(&subject->cpu_ms, (double)watch.cpu_ns / 1e6);
	if (!r && !index)
		r = phases_keep(bench, (double)watch.text_ns / 1e6);
	return r < 0 ? err_set(err, r, "figures of a run are lost: %s", err_text(r)) : 0;
}

static int rounds_run(struct boot_bench *bench, struct kv_err *err)
{
	for (unsigned round = 0; round < WARM_UP + bench->runs; round++) {
		for (unsigned s = 0; s < bench->subject_count; s++) {
			int r = subject_run(bench, s, round >= WARM_UP, err);

			if (r < 0)
				return r;
		}
		bench_progress(round + 1, WARM_UP + bench->runs);
	}
	bench_progress(0, 0);
	return 0;
}

static const char *subject_name(const struct boot_bench *bench, unsigned index)
{
	if (!index)
		return "kvick run";
	return bench_words_name(bench->subjects[index].argv);
}

static void row_print(const char *name, const struct bench_samples *s)
{
	printf("  %-24.24s %10.3f %10.3f %10.3f\n", name, bench_rank(s, 0), bench_rank(s, 0.5),
		bench_rank(s, 0.99));
}

static void bench_print(struct boot_bench *bench)
{
	double sum = 0;

	printf("%s: %u boots with each monitor, %d dropped before, in turns\n", bench->kernel,
		bench->runs, WARM_UP);
	printf("  %-24s %10s %10s %10s\n", "ms", "min", "median", "p99");
	for (unsigned s = 0; s < bench->subject_count; s++) {
		printf(" %s\n", subject_name(bench, s));
		row_print("exec to first output", &bench->subjects[s].first_ms);
		printf("  exec to %-16.16s", bench->text);
		printf(" %10.3f %10.3f %10.3f\n", bench_rank(&bench->subjects[s].done_ms, 0),
			bench_rank(&bench->subjects[s].done_ms, 0.5),
			bench_rank(&bench->subjects[s].done_ms, 0.99));
		row_print("CPU time of the process", &bench->subjects[s].cpu_ms);
	}
	printf(" steps of kvick\n");
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		if (bench->phases_ms[i].count)
			row_print(phases[i].name, &bench->phases_ms[i]);
	printf("best run of kvick, %.3f ms:", bench->best_ms);
	for (size_t i = 0; i < ARRAY_LEN(slices); i++)
		sum += bench->best_slices_ms[i] > 0 ? bench->best_slices_ms[i] : 0;
	for (size_t i = 0; i < ARRAY_LEN(slices); i++)
		if (bench->best_slices_ms[i] >= 0)
			printf(" %s %.3f ms (%.1f %%)%s", slices[i].name, bench->best_slices_ms[i],
				100 * bench->best_slices_ms[i] / sum,
				i + 1 < ARRAY_LEN(slices) ? "," : "");
	printf("\n");
}

static json_t *best_json(const struct boot_bench *bench)
{
	json_t *steps = json_object(), *pie = json_object();

	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		if (bench->best_phases_ms[i] >= 0)
			json_object_set_new(
				steps, phases[i].name, json_real(bench->best_phases_ms[i]));
	for (size_t i = 0; i < ARRAY_LEN(slices); i++)
		if (bench->best_slices_ms[i] >= 0)
			json_object_set_new(
				pie, slices[i].name, json_real(bench->best_slices_ms[i]));
	return json_pack(
		"{s:f, s:o, s:o}", "done_ms", bench->best_ms, "phases_ms", steps, "pie_ms", pie);
}

static int json_print(struct boot_bench *bench, const struct bench_noise *noise)
{
	json_t *subjects = json_array(), *steps = json_object();

	for (unsigned s = 0; s < bench->subject_count; s++) {
		struct subject *subject = &bench->subjects[s];

		json_array_append_new(subjects,
			json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", subject_name(bench, s),
				"command", bench_words_json(subject->argv), "first_output_ms",
				bench_json(&subject->first_ms), "done_ms",
				bench_json(&subject->done_ms), "cpu_ms",
				bench_json(&subject->cpu_ms)));
	}
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		if (bench->phases_ms[i].count)
			json_object_set_new(
				steps, phases[i].name, bench_json(&bench->phases_ms[i]));
	return bench_json_print("boot", noise,
		json_pack("{s:s, s:s, s:i, s:o, s:o, s:o}", "kernel", bench->kernel, "text",
			bench->text, "runs", (int)bench->runs, "subjects", subjects, "phases_ms",
			steps, "best", best_json(bench)));
}

static void bench_clear(struct boot_bench *bench)
{
	for (unsigned s = 0; s < bench->subject_count; s++) {
		bench_words_free(bench->subjects[s].argv);
		bench_free(&bench->subjects[s].first_ms);
		bench_free(&bench->subjects[s].done_ms);
		bench_free(&bench->subjects[s].cpu_ms);
	}
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		bench_free(&bench->phases_ms[i]);
	if (!bench->dir[0])
		return;
	unlink(bench->timeline);
	rmdir(bench->dir);
}

int bench_boot(int argc, char **argv)
{
	struct boot_bench bench = {
		.runs = 10,
		.timeout_s = 60,
		.memory = "128M",
		.memory_bytes = 128 * MIB,
		.text = "Guest-boot-time",
	};
	struct bench_noise noise;
	struct kv_err err = {0};
	int status, r;

	bench_catch_signals();
	bench_noise_start(&noise);
	status = cli_parse(&usage, argc, argv, &bench);
	if (status == CLI_GO_ON) {
		r = subjects_make(&bench, &err);
		if (!r)
			r = rounds_run(&bench, &err);
		if (!r && bench.json) {
			r = json_print(&bench, &noise);
		} else if (!r) {
			bench_print(&bench);
			bench_noise_print(&noise);
		}
		if (r < 0)
			cli_error("bench boot", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(&bench);
	return status;
}
