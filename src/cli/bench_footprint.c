/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench footprint: what 1, 2, 4, 8, 16 virtual machines of the same images cost in memory,
 * one process each and all in one process, once their guests have come to rest: the processes' own
 * pages, and what the kernel keeps for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_out.h"
#include "cli/bench_proc.h"
#include "cli/bench_util.h"
#include "cli/cli.h"

#define COUNTS_MAX    16
#define INSTANCES_MAX 1024
#define VS_MAX	      4
#define SUBJECTS_MAX  (2 + VS_MAX) /* kvick, kvick in one process, others */
#define OWN_WORDS_MAX 16
#define REST_NS	      300000000 /* for what ended before to be gone from the kernel */

/* The figures, all per instance. */
enum figure {
	FIG_USS,
	FIG_PSS,
	FIG_RSS,
	FIG_DIRTY,
	FIG_TABLES,
	FIG_THREADS,
	FIG_FDS,
	FIG_AVAILABLE, /* from here on: the machine's, less what was before */
	FIG_SLAB,
	FIG_VMALLOC,
	FIG_KTABLES,
	FIG_SECOND,
	FIG_STACKS,
	FIG_PERCPU,
	FIG_COUNT,
};

static const struct {
	const char *name;  /* in JSON */
	const char *title; /* in the table */
	bool number;	   /* no amount of memory */
} figures[FIG_COUNT] = {
	[FIG_USS] = {"uss_bytes", "USS", false},
	[FIG_PSS] = {"pss_bytes", "PSS", false},
	[FIG_RSS] = {"rss_bytes", "RSS", false},
	[FIG_DIRTY] = {"private_dirty_bytes", "private dirty", false},
	[FIG_TABLES] = {"page_tables_bytes", "page tables", false},
	[FIG_THREADS] = {"threads", "threads", true},
	[FIG_FDS] = {"fds", "descriptors", true},
	[FIG_AVAILABLE] = {"kernel_available_bytes", "MemAvailable less", false},
	[FIG_SLAB] = {"kernel_slab_bytes", "slab", false},
	[FIG_VMALLOC] = {"kernel_vmalloc_bytes", "vmalloc", false},
	[FIG_KTABLES] = {"kernel_page_tables_bytes", "page tables, all", false},
	[FIG_SECOND] = {"kernel_second_tables_bytes", "KVM page tables", false},
	[FIG_STACKS] = {"kernel_stacks_bytes", "kernel stacks", false},
	[FIG_PERCPU] = {"kernel_percpu_bytes", "per-CPU", false},
};

struct subject {
	char **argv;
	const char *vcpu; /* the name of a thread that it must have, or NULL */
	char *count;	  /* all in one process: the word of @argv that says how many; or NULL */
	struct bench_samples samples[COUNTS_MAX][FIG_COUNT];
};

struct footprint {
	unsigned counts[COUNTS_MAX];
	unsigned count_count;
	unsigned runs;
	uint64_t limit_s;
	bool json;
	const char *kernel, *initrd, *append, *vs[VS_MAX];
	unsigned vs_count;
	uint64_t kernel_bytes, initrd_bytes, memory_bytes;
	char dir[BENCH_DIR_MAX], made_kernel[BENCH_FILE_MAX], made_initrd[BENCH_FILE_MAX];
	char errors[BENCH_FILE_MAX], self[BENCH_SELF_MAX];
	unsigned subject_count;
	struct subject subjects[SUBJECTS_MAX];
};

static int counts_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct footprint *bench = ctx;
	char *copy = strdup(value), *rest = copy, *word;
	int r = copy ? 0 : -ENOMEM;

	bench->count_count = 0;
	while (!r && (word = strsep(&rest, ","))) {
		uint64_t n;

		if (bench->count_count == COUNTS_MAX || uint_parse(word, 1, INSTANCES_MAX, &n) < 0)
			r = err_set(err, -EINVAL,
				"--instances: \"%s\" is not a list of up to %d numbers from 1 to "
				"%d, such as 1,2,4",
				value, COUNTS_MAX, INSTANCES_MAX);
		else
			bench->counts[bench->count_count++] = (unsigned)n;
	}
	free(copy);
	return r;
}

static int number_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct footprint *bench = ctx;
	uint64_t n;

	if (uint_parse(value, 1, 10000, &n) < 0)
		return err_set(err, -EINVAL, "--%s: \"%s\" is not a number from 1 to 10000",
			option->name, value);
	if (option->name[0] == 'r')
		bench->runs = (unsigned)n;
	else
		bench->limit_s = n;
	return 0;
}

static int size_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct footprint *bench = ctx;
	uint64_t *bytes = option->name[0] == 'm'   ? &bench->memory_bytes
			  : option->name[0] == 'k' ? &bench->kernel_bytes
						   : &bench->initrd_bytes;

	if (bytes == &bench->memory_bytes)
		return bench_memory_set(bytes, value, err);
	return cli_size(option->name, value, "19M", bytes, err);
}

static int text_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct footprint *bench = ctx;

	if (option->name[0] == 'k')
		bench->kernel = value;
	else if (option->name[0] == 'i')
		bench->initrd = value;
	else
		bench->append = value;
	return 0;
}

static int vs_set(void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct footprint *bench = ctx;

	return bench_vs_add(bench->vs, VS_MAX, &bench->vs_count, value, err);
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct footprint *)ctx)->json = true;
	return 0;
}

static const struct cli_option options[] = {
	{"instances", "LIST", "numbers of VMs (default 1,2,4,8,16)", counts_set, 0},
	{"runs", "N", "how often all of it is measured (default 3)", number_set, 0},
	{"kernel", "FILE", "a kernel of your own (default: a flat guest that halts)", text_set, 0},
	{"initrd", "FILE", "an initrd of your own", text_set, 0},
	{"append", "TEXT", "kernel command line", text_set, 0},
	{"kernel-size", "SIZE", "pad the default kernel to this size (default 19M)", size_set, 0},
	{"initrd-size", "SIZE", "size of the default initrd; 0 is none (default 3M)", size_set, 0},
	{"memory", "SIZE", "guest memory, whole MiB (default 128M)", size_set, 0},
	{"timeout", "SECONDS", "how long a guest may take to come to rest (default 60)", number_set,
		0},
	{"vs", "COMMAND",
		"another monitor's command line; {kernel}, {initrd} and\n"
		"{memory_mib} stand for the files and the size; may be repeated",
		vs_set, CLI_OPT_REPEAT},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench footprint",
	.synopsis = "[OPTION...]",
	.about = "What virtual machines of the same images cost in memory, one process each and "
		 "all\n"
		 "in one process, once their guests have come to rest. All figures are averages\n"
		 "per instance.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

static int files_make(struct footprint *bench, struct kv_err *err)
{
	char guest[4200];
	int r = bench_dir_make(bench->dir, err);

	if (r < 0)
		return r;
	snprintf(bench->errors, sizeof(bench->errors), "%s/stderr", bench->dir);
	if (bench->kernel)
		return access(bench->kernel, R_OK) < 0
			       ? err_set(err, -errno, "%s: %s", bench->kernel, err_text(errno))
			       : 0;
	snprintf(bench->made_kernel, sizeof(bench->made_kernel), "%s/kernel", bench->dir);
	bench->kernel = bench->made_kernel;
	r = bench_locate(guest, sizeof(guest), "guest/flat/halt.pvh.elf", "halt.pvh.elf", err);
	if (!r)
		r = bench_kernel_make(guest, bench->kernel, bench->kernel_bytes, err);
	if (r < 0 || bench->initrd || !bench->initrd_bytes)
		return r;
	snprintf(bench->made_initrd, sizeof(bench->made_initrd), "%s/initrd", bench->dir);
	bench->initrd = bench->made_initrd;
	return bench_file_make(bench->initrd, bench->initrd_bytes, err);
}

/*
 * Name in @bench->self the program to measure: a copy of this one, as otherwise every instance
 * would share its pages with the benchmark too. Where nothing can be executed from there, this one.
 */
static int self_make(struct footprint *bench, struct kv_err *err)
{
	MEM_SCOPED char *text = NULL;
	ssize_t len = file_read_all("/proc/self/exe", 256 * MIB, &text);
	FD_SCOPED int fd = -1;
	int r;

	if (len < 0)
		return err_set(err, (int)len, "/proc/self/exe: %s", err_text((int)len));
	snprintf(bench->self, sizeof(bench->self), "%s/kvick", bench->dir);
	fd = open(bench->self, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	r = fd < 0 ? -errno : fd_write_all(fd, text, (size_t)len);
	/* Until it is on the disk its pages count as dirty ones of the instances. */
	if (!r && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0)
		return err_set(err, r, "%s: %s", bench->self, err_text(r));
	if (!access(bench->self, X_OK))
		return 0;
	unlink(bench->self);
	return bench_self(bench->self, err);
}

/* One of kvick's own, from @words, with the images behind them. */
static int own_make(struct footprint *bench, const char *const *words, struct kv_err *err)
{
	struct subject *own = &bench->subjects[bench->subject_count++];
	const char *const more[] = {"--initrd", bench->initrd, "--append", bench->append};
	unsigned count = 0;

	own->vcpu = "fc_vcpu 0";
	own->argv = calloc(OWN_WORDS_MAX + 1, sizeof(*own->argv));
	for (; own->argv && *words; words++)
		own->argv[count++] = strdup(*words);
	for (int i = 0; own->argv && i < 4; i += 2) {
		if (!more[i + 1])
			continue;
		own->argv[count++] = strdup(more[i]);
		own->argv[count++] = strdup(more[i + 1]);
	}
	for (unsigned i = 0; own->argv && i < count; i++)
		if (!own->argv[i])
			count = 0;
	return count ? 0 : err_set(err, -ENOMEM, "out of memory");
}

static int subjects_make(struct footprint *bench, struct kv_err *err)
{
	char memory[24];
	const char *const each[] = {
		bench->self, "run", "--serial", "none", "--memory", memory, bench->kernel, NULL};
	/* The number is filled in before each run: room for INSTANCES_MAX. */
	const char *const all[] = {bench->self, "bench", "hold", "--instances", "0000", "--memory",
		memory, bench->kernel, NULL};
	int r = self_make(bench, err);

	snprintf(memory, sizeof(memory), "%" PRIu64 "M", (uint64_t)(bench->memory_bytes / MIB));
	if (!r)
		r = own_make(bench, each, err);
	if (!r)
		r = own_make(bench, all, err);
	if (r < 0)
		return r;
	bench->subjects[1].count = bench->subjects[1].argv[4];
	for (unsigned i = 0; !r && i < bench->vs_count; i++) {
		r = bench_words(&bench->subjects[bench->subject_count].argv, bench->vs[i],
			bench->kernel, bench->initrd, bench->memory_bytes / MIB, err);
		if (!r)
			bench->subject_count++;
	}
	return r < 0 ? err_prefix(err, r, "--vs") : 0;
}

/* A sentence for a process that did not come to rest, with what it said itself. */
static int settle_failed(const struct footprint *bench, const struct subject *subject, int code,
	int status, struct kv_err *err)
{
	MEM_SCOPED char *said = NULL;

	if (code == -EINTR)
		return err_set(err, code, "interrupted");
	if (file_read_all(bench->errors, 1 * MIB, &said) > 0)
		said[strcspn(said, "\n")] = '\0';
	if (code == -ETIMEDOUT)
		return err_set(err, code,
			"%s: the guest did not come to rest within %" PRIu64 " s%s%s",
			subject->argv[0], bench->limit_s, said && *said ? "; it says: " : "",
			said ? said : "");
	if (code == -ECHILD)
		return err_set(err, code,
			"%s: ended with status %d while its guest should idle%s%s",
			subject->argv[0], status, said && *said ? "; it says: " : "",
			said ? said : "");
	return err_set(err, code, "%s: %s", subject->argv[0], err_text(code));
}

static int64_t less(uint64_t after, uint64_t before)
{
	return (int64_t)(after - before);
}

/* Take the figures of @count running processes and keep their averages over @instances. */
static int set_measure(struct subject *subject, unsigned index, const pid_t *pids, unsigned count,
	unsigned instances, const struct kernel_memory *before)
{
	double sums[FIG_COUNT] = {0};
	struct kernel_memory now;
	int r = proc_kernel(&now, true);

	for (unsigned i = 0; !r && i < count; i++) {
		struct proc_memory memory;

		r = proc_measure(pids[i], &memory);
		if (r < 0)
			break;
		sums[FIG_USS] += (double)memory.uss_bytes;
		sums[FIG_PSS] += (double)memory.pss_bytes;
		sums[FIG_RSS] += (double)memory.rss_bytes;
		sums[FIG_DIRTY] += (double)memory.dirty_bytes;
		sums[FIG_TABLES] += (double)memory.page_tables_bytes;
		sums[FIG_THREADS] += (double)memory.threads;
		sums[FIG_FDS] += (double)memory.fds;
	}
	if (r < 0)
		return r;
	sums[FIG_AVAILABLE] = (double)less(before->available_bytes, now.available_bytes);
	sums[FIG_SLAB] = (double)less(now.slab_bytes, before->slab_bytes);
	sums[FIG_VMALLOC] = (double)less(now.vmalloc_bytes, before->vmalloc_bytes);
	sums[FIG_KTABLES] = (double)less(now.page_tables_bytes, before->page_tables_bytes);
	sums[FIG_SECOND] = (double)less(now.second_tables_bytes, before->second_tables_bytes);
	sums[FIG_STACKS] = (double)less(now.stacks_bytes, before->stacks_bytes);
	sums[FIG_PERCPU] = (double)less(now.percpu_bytes, before->percpu_bytes);
	for (int f = 0; !r && f < FIG_COUNT; f++)
		r = bench_add(&subject->samples[index][f], sums[f] / instances);
	return r;
}

/* Start as many instances as counts[@index] says, one after the other, measure and end them. */
static int set_run(
	struct footprint *bench, struct subject *subject, unsigned index, struct kv_err *err)
{
	const struct timespec rest = {.tv_nsec = REST_NS};
	unsigned instances = bench->counts[index], started = 0;
	unsigned count = subject->count ? 1 : instances;
	MEM_SCOPED pid_t *pids = calloc(count, sizeof(*pids));
	struct kernel_memory before = {0};
	int status = 0, r;

	if (!pids)
		return err_set(err, -ENOMEM, "out of memory");
	if (subject->count)
		snprintf(subject->count, 5, "%u", instances);
	nanosleep(&rest, NULL);
	r = proc_kernel(&before, true);
	while (!r && started < count) {
		r = proc_start(&pids[started], subject->argv, bench->errors);
		if (r < 0) {
			err_set(err, r, "%s cannot be started: %s", subject->argv[0], err_text(r));
			break;
		}
		r = proc_settle(pids[started], subject->vcpu, bench->limit_s * 1000000000, &status);
		if (r == -ECHILD)
			pids[started] = 0;
		if (r < 0)
			settle_failed(bench, subject, r, status, err);
		started++;
	}
	if (!r) {
		r = set_measure(subject, index, pids, count, instances, &before);
		if (r < 0)
			err_set(err, r, "%s: its memory cannot be read: %s", subject->argv[0],
				err_text(r));
	}
	for (unsigned i = 0; i < started; i++)
		proc_stop(pids[i]);
	return r;
}

/* Everything takes turns, so that what else goes on falls on all alike. */
static int rounds_run(struct footprint *bench, struct kv_err *err)
{
	unsigned all = bench->runs * bench->count_count * bench->subject_count, done = 0;

	for (unsigned run = 0; run < bench->runs; run++) {
		for (unsigned i = 0; i < bench->count_count; i++) {
			for (unsigned s = 0; s < bench->subject_count; s++) {
				int r = set_run(bench, &bench->subjects[s], i, err);

				if (r < 0)
					return r;
				bench_progress(++done, all);
			}
		}
	}
	bench_progress(0, 0);
	return 0;
}

static double mib(const struct bench_samples *samples)
{
	return bench_rank(samples, 0.5) / (double)MIB;
}

static void subject_print(struct footprint *bench, struct subject *subject, const char *name)
{
	printf("%s, in detail (KiB but for numbers; from MemAvailable on: of the whole machine)\n",
		name);
	printf("  %-18s", "instances");
	for (unsigned i = 0; i < bench->count_count; i++)
		printf(" %10u", bench->counts[i]);
	printf("\n");
	for (int f = 0; f < FIG_COUNT; f++) {
		printf("  %-18s", figures[f].title);
		for (unsigned i = 0; i < bench->count_count; i++)
			printf(" %10.1f", bench_rank(&subject->samples[i][f], 0.5) /
						  (figures[f].number ? 1 : (double)KIB));
		printf("\n");
	}
	printf("\n");
}

static const char *subject_name(const struct footprint *bench, unsigned index)
{
	if (!index)
		return "kvick run";
	if (bench->subjects[index].count)
		return "kvick, one process";
	return bench_words_name(bench->subjects[index].argv);
}

static void bench_print(struct footprint *bench)
{
	printf("average per instance, MiB; median of %u runs, in turns\n", bench->runs);
	printf("  %-10s", "instances");
	for (unsigned s = 0; s < bench->subject_count; s++)
		printf("  %21.21s", subject_name(bench, s));
	printf("\n  %-10s", "");
	for (unsigned s = 0; s < bench->subject_count; s++)
		printf("  %10s %10s", "USS", "PSS");
	printf("\n");
	for (unsigned i = 0; i < bench->count_count; i++) {
		printf("  %-10u", bench->counts[i]);
		for (unsigned s = 0; s < bench->subject_count; s++)
			printf("  %10.3f %10.3f", mib(&bench->subjects[s].samples[i][FIG_USS]),
				mib(&bench->subjects[s].samples[i][FIG_PSS]));
		printf("\n");
	}
	printf("\n");
	for (unsigned s = 0; s < bench->subject_count; s++)
		subject_print(bench, &bench->subjects[s], subject_name(bench, s));
}

static json_t *subject_json(struct footprint *bench, unsigned index)
{
	struct subject *subject = &bench->subjects[index];
	json_t *sets = json_array();

	for (unsigned i = 0; i < bench->count_count; i++) {
		json_t *set = json_pack("{s:i}", "instances", (int)bench->counts[i]);

		for (int f = 0; f < FIG_COUNT; f++)
			json_object_set_new(
				set, figures[f].name, bench_json(&subject->samples[i][f]));
		json_array_append_new(sets, set);
	}
	return json_pack("{s:s, s:o, s:o}", "name", subject_name(bench, index), "command",
		bench_words_json(subject->argv), "sets", sets);
}

static int json_print(struct footprint *bench, const struct bench_noise *noise)
{
	json_t *subjects = json_array();

	for (unsigned s = 0; s < bench->subject_count; s++)
		json_array_append_new(subjects, subject_json(bench, s));
	return bench_json_print("footprint", noise,
		json_pack("{s:i, s:I, s:o}", "runs", (int)bench->runs, "memory_bytes",
			(json_int_t)bench->memory_bytes, "subjects", subjects));
}

static void bench_clear(struct footprint *bench)
{
	for (unsigned s = 0; s < bench->subject_count; s++) {
		bench_words_free(bench->subjects[s].argv);
		for (unsigned i = 0; i < COUNTS_MAX; i++)
			for (int f = 0; f < FIG_COUNT; f++)
				bench_free(&bench->subjects[s].samples[i][f]);
	}
	if (!bench->dir[0])
		return;
	unlink(bench->errors);
	if (!strncmp(bench->self, bench->dir, strlen(bench->dir)))
		unlink(bench->self);
	unlink(bench->made_kernel);
	unlink(bench->made_initrd);
	rmdir(bench->dir);
}

static int bench_run_all(struct footprint *bench, struct kv_err *err)
{
	struct bench_noise noise;
	int r = files_make(bench, err);

	bench_noise_start(&noise);
	if (!r)
		r = subjects_make(bench, err);
	if (!r)
		r = rounds_run(bench, err);
	if (r < 0)
		return r;
	if (bench->json)
		return json_print(bench, &noise);
	bench_print(bench);
	bench_noise_print(&noise);
	return 0;
}

int bench_footprint(int argc, char **argv)
{
	struct footprint *bench = calloc(1, sizeof(*bench));
	struct kv_err err = {0};
	int status;

	if (!bench) {
		cli_error("bench footprint", "out of memory");
		return CLI_EXIT_START;
	}
	*bench = (struct footprint){
		.counts = {1, 2, 4, 8, 16},
		.count_count = 5,
		.runs = 3,
		.limit_s = 60,
		.kernel_bytes = 19 * MIB,
		.initrd_bytes = 3 * MIB,
		.memory_bytes = 128 * MIB,
	};
	bench_catch_signals();
	status = cli_parse(&usage, argc, argv, bench);
	if (status == CLI_GO_ON) {
		int r = bench_run_all(bench, &err);

		if (r < 0)
			cli_error("bench footprint", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(bench);
	free(bench);
	return status;
}
