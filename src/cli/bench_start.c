/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench start: how long `kvick run` takes from exec to exit with a guest that writes the
 * boot-complete byte and resets, beside the smallest program that makes the same KVM calls, in
 * turns. What a run costs is taken without a timeline; the phases come from further runs with one.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_marks.h"
#include "cli/bench_out.h"
#include "cli/bench_util.h"
#include "cli/cli.h"
#include "trace/timeline.h"

#define CASES_MAX 16
#define VS_MAX	  8
#define WARM_UP	  3
#define LIMIT_NS  20000000000ULL

/* What is measured of kvick: spans between marks of the timeline. */
static const struct {
	const char *name;
	enum mark from, to;
} phases[] = {
	{"exec to main", MARK_EXEC, MARK_MAIN},
	{"configuration", MARK_MAIN, MARK_CONFIG},
	{"image", MARK_CONFIG, MARK_IMAGE},
	{"memory", MARK_IMAGE, MARK_MEMORY},
	{"KVM VM", MARK_MEMORY, MARK_VM},
	{"devices", MARK_VM, MARK_DEVICES},
	{"vCPU", MARK_DEVICES, MARK_VCPU},
	{"to first entry", MARK_VCPU, MARK_FIRST_ENTRY},
	{"run to boot byte", MARK_FIRST_ENTRY, MARK_BOOT},
	{"run to reset", MARK_BOOT, MARK_SHUTDOWN},
	{"teardown", MARK_SHUTDOWN, MARK_DOWN},
	{"exec to boot byte", MARK_EXEC, MARK_BOOT},
};

enum subject_kind { SUBJECT_FLOOR, SUBJECT_KVICK, SUBJECT_PHASES, SUBJECT_VS };

/* One command that takes part. */
struct subject {
	enum subject_kind kind;
	char **argv;
	unsigned failed; /* runs that did not end with status 0 or timed out */
	int last_status;
	struct bench_samples wall_ms, cpu_ms;
	struct bench_samples phases_ms[ARRAY_LEN(phases)];
};

/* One combination of sizes. */
struct bench_case {
	uint64_t kernel_bytes, initrd_bytes, memory_bytes;
	char kernel[BENCH_FILE_MAX], initrd[BENCH_FILE_MAX];
	unsigned subject_count;
	struct subject subjects[3 + VS_MAX];
};

struct bench {
	unsigned runs;
	unsigned case_count;
	struct bench_case *cases; /* CASES_MAX of them */
	unsigned vs_count;
	const char *vs[VS_MAX];
	bool json;
	char dir[BENCH_DIR_MAX], timeline[BENCH_FILE_MAX];
	char self[BENCH_SELF_MAX], guest[4200], floor[4200];
};

static int runs_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;
	uint64_t n;

	if (uint_parse(value, 1, 100000, &n) < 0)
		return err_set(
			err, -EINVAL, "--runs: \"%s\" is not a number from 1 to 100000", value);
	bench->runs = (unsigned)n;
	return 0;
}

/* "KERNEL/INITRD/MEMORY", sizes each; an initrd of 0 is none. */
static int case_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;
	struct bench_case *c = &bench->cases[bench->case_count];
	char text[96];
	char *initrd, *memory;

	if (bench->case_count == CASES_MAX)
		return err_set(err, -E2BIG, "--case: at most %d cases", CASES_MAX);
	snprintf(text, sizeof(text), "%s", value);
	initrd = strchr(text, '/');
	memory = initrd ? strchr(initrd + 1, '/') : NULL;
	if (memory) {
		*initrd++ = '\0';
		*memory++ = '\0';
	}
	if (!memory || size_parse(text, &c->kernel_bytes) < 0 ||
		size_parse(initrd, &c->initrd_bytes) < 0 ||
		size_parse(memory, &c->memory_bytes) < 0 || c->memory_bytes % MIB)
		return err_set(err, -EINVAL,
			"--case: \"%s\" is not KERNEL/INITRD/MEMORY, three sizes such as "
			"19M/3M/256M "
			"(memory in whole MiB)",
			value);
	bench->case_count++;
	return 0;
}

static int sweep_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	static const char *const cases[] = {
		"100K/0/256M",
		"19M/0/256M",
		"19M/3M/256M",
		"19M/64M/256M",
		"40M/64M/256M",
		"19M/3M/1G",
		"19M/3M/4G",
		"19M/3M/16G",
		"19M/3M/64G",
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int r = case_set(ctx, option, cases[i], err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int vs_set(void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct bench *bench = ctx;

	return bench_vs_add(bench->vs, VS_MAX, &bench->vs_count, value, err);
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct bench *)ctx)->json = true;
	return 0;
}

static const struct cli_option options[] = {
	{"runs", "N", "counted runs of each command (default 30); 3 more go first", runs_set, 0},
	{"case", "KERNEL/INITRD/MEMORY",
		"sizes of the images and of RAM (default 19M/3M/256M); an\n"
		"initrd of 0 is none; all cases take turns",
		case_set, CLI_OPT_REPEAT},
	{"sweep", NULL, "nine cases from 100K/0/256M to 40M/64M/256M and 19M/3M/64G", sweep_set, 0},
	{"vs", "COMMAND",
		"another monitor's command line; {kernel}, {initrd} and\n"
		"{memory_mib} stand for this case's files and size",
		vs_set, CLI_OPT_REPEAT},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench start",
	.synopsis = "[OPTION...]",
	.about = "Time kvick run with a guest that signals and resets at once, from exec to exit,\n"
		 "in turns with the floor: the smallest static program that makes the same KVM\n"
		 "calls. Times are wall-clock ms of the whole process unless said otherwise.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

static int subject_add(struct bench_case *c, enum subject_kind kind, const char *const *words,
	size_t count, struct kv_err *err)
{
	char **argv = bench_words_copy(words, count);

	if (!argv)
		return err_set(err, -ENOMEM, "out of memory");
	c->subjects[c->subject_count++] = (struct subject){.kind = kind, .argv = argv};
	return 0;
}

/* The commands of a case. The initrd's words come last, so that leaving them out is cutting off. */
static int subjects_make(struct bench *bench, struct bench_case *c, struct kv_err *err)
{
	size_t tail = c->initrd_bytes ? 0 : 2;
	char mib[24], memory[24];
	const char *floor[] = {bench->floor, c->kernel, "--memory", mib, "--until", "reset",
		"--initrd", c->initrd};
	const char *kvick[] = {
		bench->self, "run", c->kernel, "--memory", memory, "--initrd", c->initrd};
	const char *phased[] = {bench->self, "run", c->kernel, "--memory", memory, "--timeline",
		bench->timeline, "--initrd", c->initrd};
	int r;

	snprintf(mib, sizeof(mib), "%" PRIu64, (uint64_t)(c->memory_bytes / MIB));
	size_format(c->memory_bytes, memory, sizeof(memory));
	r = subject_add(c, SUBJECT_FLOOR, floor, ARRAY_LEN(floor) - tail, err);
	if (!r)
		r = subject_add(c, SUBJECT_KVICK, kvick, ARRAY_LEN(kvick) - tail, err);
	if (!r)
		r = subject_add(c, SUBJECT_PHASES, phased, ARRAY_LEN(phased) - tail, err);
	for (unsigned i = 0; !r && i < bench->vs_count; i++) {
		struct subject *subject = &c->subjects[c->subject_count];

		*subject = (struct subject){.kind = SUBJECT_VS};
		r = bench_words(&subject->argv, bench->vs[i], c->kernel,
			c->initrd_bytes ? c->initrd : NULL, c->memory_bytes / MIB, err);
		if (r < 0)
			return err_prefix(err, r, "--vs");
		c->subject_count++;
	}
	return r;
}

static int files_make(struct bench *bench, struct kv_err *err)
{
	int r = bench_self(bench->self, err);

	if (!r)
		r = bench_locate(bench->guest, sizeof(bench->guest), "guest/flat/signal.pvh.elf",
			"signal.pvh.elf", err);
	if (!r)
		r = bench_locate(bench->floor, sizeof(bench->floor), "bench/floor", "floor", err);
	if (r < 0)
		return r;
	r = bench_dir_make(bench->dir, err);
	if (r < 0)
		return r;
	snprintf(bench->timeline, sizeof(bench->timeline), "%s/timeline.json", bench->dir);
	for (unsigned i = 0; !r && i < bench->case_count; i++) {
		struct bench_case *c = &bench->cases[i];

		snprintf(c->kernel, sizeof(c->kernel), "%s/kernel-%u", bench->dir, i);
		snprintf(c->initrd, sizeof(c->initrd), "%s/initrd-%u", bench->dir, i);
		r = bench_kernel_make(bench->guest, c->kernel, c->kernel_bytes, err);
		if (!r && c->initrd_bytes)
			r = bench_file_make(c->initrd, c->initrd_bytes, err);
		if (!r)
			r = subjects_make(bench, c, err);
	}
	return r;
}

static void bench_clear(struct bench *bench)
{
	for (unsigned i = 0; i < bench->case_count; i++) {
		struct bench_case *c = &bench->cases[i];

		for (unsigned s = 0; s < c->subject_count; s++) {
			struct subject *subject = &c->subjects[s];

			bench_words_free(subject->argv);
			bench_free(&subject->wall_ms);
			bench_free(&subject->cpu_ms);
			for (size_t p = 0; p < ARRAY_LEN(phases); p++)
				bench_free(&subject->phases_ms[p]);
		}
		unlink(c->kernel);
		unlink(c->initrd);
	}
	free(bench->cases);
	if (bench->dir[0]) {
		unlink(bench->timeline);
		rmdir(bench->dir);
	}
}

/* Take the spans out of the timeline that the last run left. */
static int phases_read(struct bench *bench, struct subject *subject)
{
	struct bench_marks marks;
	int r = bench_marks_read(&marks, bench->timeline);

	for (size_t i = 0; !r && i < ARRAY_LEN(phases); i++)
		if (marks.reached[phases[i].from] && marks.reached[phases[i].to])
			r = bench_add(&subject->phases_ms[i],
				bench_span_ms(&marks, phases[i].from, phases[i].to));
	return r;
}

static int subject_run(
	struct bench *bench, struct subject *subject, bool counted, struct kv_err *err)
{
	struct bench_run run;
	int r = bench_spawn(&run, subject->argv, LIMIT_NS);

	if (r == -ETIMEDOUT)
		return err_set(err, r, "%s did not end within %u s", subject->argv[0],
			(unsigned)(LIMIT_NS / 1000000000));
	if (r == -EINTR)
		return err_set(err, r, "interrupted");
	if (r < 0)
		return err_set(err, r, "%s cannot be started: %s", subject->argv[0], err_text(r));
	/* Ours must succeed; another monitor's way of saying "reset" is its own affair. */
	if (run.status && subject->kind != SUBJECT_VS)
		return err_set(err, -EIO, "%s ended with status %d; try it by hand: %s %s ...",
			subject->argv[0], run.status, subject->argv[0],
			subject->argv[1] ? subject->argv[1] : "");
	if (!counted)
		return 0;
	subject->failed += run.status != 0;
	subject->last_status = run.status;
	r = bench_add(&subject->wall_ms, (double)run.wall_ns / 1e6);
	if (!r)
		r = bench_add(&subject->cpu_ms, (double)run.cpu_ns / 1e6);
	if (!r && subject->kind == SUBJECT_PHASES)
		r = phases_read(bench, subject);
	return r < 0 ? err_set(err, r, "figures of a run are lost: %s", err_text(r)) : 0;
}

/* Everything takes turns, so that a slow minute of the machine falls on all alike. */
static int rounds_run(struct bench *bench, struct kv_err *err)
{
	for (unsigned round = 0; round < WARM_UP + bench->runs; round++) {
		for (unsigned i = 0; i < bench->case_count; i++) {
			struct bench_case *c = &bench->cases[i];

			for (unsigned s = 0; s < c->subject_count; s++) {
				int r = subject_run(bench, &c->subjects[s], round >= WARM_UP, err);

				if (r < 0)
					return r;
			}
		}
		bench_progress(round + 1, WARM_UP + bench->runs);
	}
	bench_progress(0, 0);
	return 0;
}

static const char *subject_name(const struct subject *subject)
{
	switch (subject->kind) {
	case SUBJECT_FLOOR:
		return "floor";
	case SUBJECT_KVICK:
		return "kvick run";
	case SUBJECT_PHASES:
		return "with timeline";
	case SUBJECT_VS:
		break;
	}
	return subject->argv[0];
}

static void row_print(const char *name, const struct bench_samples *s, double base)
{
	printf("  %-22.22s %9.3f %9.3f %9.3f", name, bench_rank(s, 0), bench_rank(s, 0.5),
		bench_rank(s, 0.99));
	if (base > 0)
		printf(" %8.2f", bench_rank(s, 0.5) / base);
	printf("\n");
}

static void case_print(struct bench *bench, struct bench_case *c)
{
	char kernel[24], initrd[24], memory[24];
	double base = bench_rank(&c->subjects[0].wall_ms, 0.5);
	double cpu_base = bench_rank(&c->subjects[0].cpu_ms, 0.5);

	printf("kernel %s, initrd %s, memory %s: %u runs each, %d dropped before, in turns\n",
		size_format(c->kernel_bytes, kernel, sizeof(kernel)),
		size_format(c->initrd_bytes, initrd, sizeof(initrd)),
		size_format(c->memory_bytes, memory, sizeof(memory)), bench->runs, WARM_UP);
	printf("  %-22s %9s %9s %9s %8s\n", "exec to exit, ms", "min", "median", "p99", "x floor");
	for (unsigned s = 0; s < c->subject_count; s++) {
		struct subject *subject = &c->subjects[s];

		row_print(subject_name(subject), &subject->wall_ms, base);
		if (subject->failed)
			printf("    (%u of them with a status other than 0, the last with %d)\n",
				subject->failed, subject->last_status);
	}
	printf("  %-22s %9s %9s %9s %8s\n", "CPU time, ms", "min", "median", "p99", "x floor");
	for (unsigned s = 0; s < c->subject_count; s++)
		row_print(subject_name(&c->subjects[s]), &c->subjects[s].cpu_ms, cpu_base);
	printf("  %-22s %9s %9s %9s\n", "phases of kvick, ms", "min", "median", "p99");
	for (size_t p = 0; p < ARRAY_LEN(phases); p++)
		row_print(phases[p].name, &c->subjects[SUBJECT_PHASES].phases_ms[p], 0);
	printf("\n");
}

static json_t *case_json(struct bench_case *c)
{
	json_t *subjects = json_array();

	for (unsigned i = 0; i < c->subject_count; i++) {
		struct subject *s = &c->subjects[i];
		json_t *row = json_pack("{s:s, s:i, s:o, s:o}", "name", subject_name(s), "failed",
			(int)s->failed, "wall_ms", bench_json(&s->wall_ms), "cpu_ms",
			bench_json(&s->cpu_ms));

		if (s->kind == SUBJECT_PHASES) {
			json_t *spans = json_object();

			for (size_t p = 0; p < ARRAY_LEN(phases); p++)
				json_object_set_new(
					spans, phases[p].name, bench_json(&s->phases_ms[p]));
			json_object_set_new(row, "phases_ms", spans);
		}
		json_array_append_new(subjects, row);
	}
	return json_pack("{s:I, s:I, s:I, s:o}", "kernel_bytes", (json_int_t)c->kernel_bytes,
		"initrd_bytes", (json_int_t)c->initrd_bytes, "memory_bytes",
		(json_int_t)c->memory_bytes, "subjects", subjects);
}

static int bench_print(struct bench *bench, const struct bench_noise *noise)
{
	json_t *cases;

	if (!bench->json) {
		for (unsigned i = 0; i < bench->case_count; i++)
			case_print(bench, &bench->cases[i]);
		bench_noise_print(noise);
		return 0;
	}
	cases = json_array();
	for (unsigned i = 0; i < bench->case_count; i++)
		json_array_append_new(cases, case_json(&bench->cases[i]));
	return bench_json_print("start", noise, json_pack("{s:o}", "cases", cases));
}

int bench_start(int argc, char **argv)
{
	struct bench bench = {.runs = 30};
	struct bench_noise noise;
	struct kv_err err = {0};
	int status, r;

	bench_catch_signals();
	bench_noise_start(&noise);
	bench.cases = calloc(CASES_MAX, sizeof(*bench.cases));
	if (!bench.cases) {
		cli_error("bench start", "out of memory");
		return CLI_EXIT_START;
	}
	status = cli_parse(&usage, argc, argv, &bench);
	if (status == CLI_GO_ON) {
		r = bench.case_count ? 0 : case_set(&bench, NULL, "19M/3M/256M", &err);
		if (!r)
			r = files_make(&bench, &err);
		if (!r)
			r = rounds_run(&bench, &err);
		if (!r)
			r = bench_print(&bench, &noise);
		if (r < 0)
			cli_error("bench start", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(&bench);
	return status;
}
