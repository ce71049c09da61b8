/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench io: what requests to a disk cost, and blocks of TCP streams over a tap: throughput as
 * the guest sees it, exits of its CPUs for each request, and CPU time of the monitor's process for
 * each byte, the guest's own share included. Other monitors are run in turns with kvick, with the
 * same kernel, initrd, disk and tap.
 *
 * The guest's init gets a script in an archive behind the initrd. It says when a piece of work
 * begins, waits, works, and says when it has ended; the counters are read at these lines. Pieces
 * without a request go first: what waiting and lines cost is taken off the others.
 */
#include <dirent.h>
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
#include "cli/bench_stream.h"
#include "cli/bench_util.h"
#include "cli/bench_watch.h"
#include "cli/cli.h"

#define SUBJECTS_MAX 5 /* kvick and up to 4 others */
#define DISK_BYTES   (32 * MIB)
#define INITRD_MAX   (256 * MIB)
#define IDLE_PIECES  2 /* the first meets what the boot left to do */
#define KVM_DEBUG    "/sys/kernel/debug/kvm"

#define STREAM 0 /* in place of a depth: each follows the one before, as TCP lets it */

/* What the guest does, one after the other. */
static const struct {
	const char *name, *verb;
	unsigned block, depth; /* or STREAM */
} works[] = {
	{"read 4K, 1 at a time", "read", 4096, 1},
	{"write 4K, 1 at a time", "write", 4096, 1},
	{"read 4K, 32 at a time", "read", 4096, 32},
	{"write 4K, 32 at a time", "write", 4096, 32},
	{"read 64K, 8 at a time", "read", 65536, 8},
	{"write 64K, 8 at a time", "write", 65536, 8},
	{"send 64K by TCP", "send", 65536, STREAM},
	{"receive 64K by TCP", "receive", 65536, STREAM},
};
#define DISK_WORKS (ARRAY_LEN(works) - 2) /* without a tap there are no others */

/* Of one monitor and one piece of work. */
struct figures {
	struct bench_samples mib_s, exits, cpu_ns; /* exits a request, ns a byte */
};

/* Of a monitor's process. */
struct counters {
	double exits;  /* of all vCPUs; 0: KVM does not tell */
	double cpu_ns; /* of all threads */
};

struct subject {
	char **argv;
	struct figures figures[ARRAY_LEN(works)];
};

struct io_bench {
	const char *kernel, *initrd, *append, *memory, *keys, *given_disk, *vs[SUBJECTS_MAX - 1];
	const char *tap, *tap_keys;
	struct bench_stream *stream; /* NULL: no tap */
	unsigned vs_count, runs, work_count;
	const char *disk;
	uint64_t timeout_s, memory_bytes, requests;
	bool json;
	char dir[BENCH_DIR_MAX], fresh[BENCH_FILE_MAX], both[BENCH_FILE_MAX], self[BENCH_SELF_MAX];
	unsigned subject_count;
	struct subject subjects[SUBJECTS_MAX];
	/* Of the run under way: */
	struct subject *now;
	unsigned piece; /* under way, or the next; IDLE_PIECES without a request, then works */
	struct counters begin;	 /* of the piece under way */
	struct counters cost;	 /* of that, or of the last */
	struct counters nothing; /* of the piece without a request */
	bool begun, counted;
	int failed;
};

static int number_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct io_bench *bench = ctx;
	uint64_t n;

	if (uint_parse(value, 1, 1000000, &n) < 0)
		return err_set(err, -EINVAL, "--%s: \"%s\" is not a number from 1 to 1000000",
			option->name, value);
	if (!strcmp(option->name, "runs"))
		bench->runs = (unsigned)n;
	else if (!strcmp(option->name, "requests"))
		bench->requests = n;
	else
		bench->timeout_s = n;
	return 0;
}

static int text_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct io_bench *bench = ctx;

	switch (option->name[0]) {
	case 'i':
		bench->initrd = value;
		break;
	case 'a':
		bench->append = value;
		break;
	case 't':
		*(strcmp(option->name, "tap") ? &bench->tap_keys : &bench->tap) = value;
		break;
	default:
		*(strcmp(option->name, "disk") ? &bench->keys : &bench->given_disk) = value;
		break;
	}
	return 0;
}

static int memory_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct io_bench *bench = ctx;

	bench->memory = value;
	return bench_memory_set(&bench->memory_bytes, value, err);
}

static int vs_set(void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct io_bench *bench = ctx;

	return bench_vs_add(bench->vs, ARRAY_LEN(bench->vs), &bench->vs_count, value, err);
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct io_bench *)ctx)->json = true;
	return 0;
}

static int kernel_set(void *ctx, const char *value, struct kv_err *err)
{
	((struct io_bench *)ctx)->kernel = value;
	return 0;
}

static const struct cli_option options[] = {
	{"initrd", "FILE", "initial RAM disk with kvick's own init (guest/); required", text_set,
		0},
	{"append", "TEXT", "kernel command line (default \"console=ttyS0 quiet\")", text_set, 0},
	{"memory", "SIZE", "guest memory, whole MiB (default 128M)", memory_set, 0},
	{"disk", "FILE",
		"a disk to work on, whose contents are lost; by default a fresh\n"
		"file of 32 MiB in $TMPDIR or /tmp",
		text_set, 0},
	{"disk-keys", "KEYS", "of kvick's --disk, for instance direct,queues=2", text_set, 0},
	{"tap", "NAME",
		"a tap of this host that has an address, for TCP streams; the\n"
		"guest's address is a matter of --append: ip=...",
		text_set, 0},
	{"tap-keys", "KEYS", "of kvick's --net, for instance vhost=off", text_set, 0},
	{"requests", "N", "requests of each piece of work (default 1024)", number_set, 0},
	{"runs", "N", "counted runs of each monitor (default 5); 1 more goes first", number_set, 0},
	{"timeout", "SECONDS", "how long a run may take (default 120)", number_set, 0},
	{"vs", "COMMAND",
		"another monitor's command line; {kernel}, {initrd}, {disk},\n"
		"{tap} and {memory_mib} stand for the files, the tap and the\n"
		"size; may be repeated",
		vs_set, CLI_OPT_REPEAT},
	{"json", NULL, "print the figures as JSON", json_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench io",
	.synopsis = "--initrd FILE [OPTION...] KERNEL",
	.about = "Measure a guest's disk, and with --tap its network: throughput, exits for each\n"
		 "request (where KVM's debugfs can be read) and CPU time of the monitor for each\n"
		 "byte.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.operand = "KERNEL",
	.operands_min = 1,
	.operands_max = 1,
	.operand_set = kernel_set,
};

/* The initrd with an archive (cpio, newc) of one file behind it: the script. */
static int initrd_make(struct io_bench *bench, struct kv_err *err)
{
	static const char name[] = "kvick.script", end[] = "TRAILER!!!";
	MEM_SCOPED char *text = NULL, *old = NULL;
	ssize_t old_bytes = file_read_all(bench->initrd, INITRD_MAX, &old);
	size_t bytes = 0;
	FILE *f;

	if (old_bytes < 0)
		return err_set(err, (int)old_bytes, "--initrd: %s: %s", bench->initrd,
			err_text((int)old_bytes));
	f = open_memstream(&text, &bytes);
	for (int i = 0; f && i < IDLE_PIECES; i++)
		fprintf(f, "io /dev/vda read 512 1 0\n");
	for (size_t i = 0; f && i < bench->work_count; i++)
		if (works[i].depth == STREAM)
			fprintf(f, "stream %s %s %u %u %" PRIu64 "\n", works[i].verb,
				bench_stream_host(bench->stream), bench_stream_port(bench->stream),
				works[i].block, bench->requests);
		else
			fprintf(f, "io /dev/vda %s %u %u %" PRIu64 "\n", works[i].verb,
				works[i].block, works[i].depth, bench->requests);
	if (!f || fclose(f))
		return err_set(err, -ENOMEM, "out of memory");
	f = fopen(bench->both, "we");
	if (!f)
		return err_set(err, -errno, "%s: %s", bench->both, err_text(errno));
	fwrite(old, 1, (size_t)old_bytes, f);
	for (int i = (int)(-old_bytes & 3); i; i--)
		fputc(0, f);
	fprintf(f, "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X%s%c%c", 1, 0100644,
		0, 0, 1, 0, bytes, 0, 0, 0, 0, sizeof(name), 0, name, 0, 0);
	fwrite(text, 1, bytes, f);
	for (; bytes % 4; bytes++)
		fputc(0, f);
	fprintf(f, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08zX%08X%s%c%c%c%c", 0, 0, 0,
		0, 1, 0, 0, 0, 0, 0, 0, sizeof(end), 0, end, 0, 0, 0, 0);
	return fclose(f) ? err_set(err, -EIO, "%s: cannot be written", bench->both) : 0;
}

/* "@kind@name,@keys", without the comma where there are none; NULL: out of memory. */
static char *with_keys(const char *kind, const char *name, const char *keys)
{
	char *text;

	return asprintf(&text, "%s%s%s%s", kind, name, keys ? "," : "", keys ? keys : "") < 0
		       ? NULL
		       : text;
}

static int own_make(struct io_bench *bench, struct kv_err *err)
{
	MEM_SCOPED char *disk = with_keys("", bench->disk, bench->keys);
	MEM_SCOPED char *net = with_keys("tap=", bench->tap ? bench->tap : "", bench->tap_keys);
	char **argv = NULL;

	if (disk && net) {
		const char *words[] = {bench->self, "run", "--memory", bench->memory, "--initrd",
			bench->both, "--append", bench->append, "--disk", disk, "--net", net, "--",
			bench->kernel};

		/* Without a tap, the last two follow the disk. */
		if (!bench->tap)
			memmove(words + ARRAY_LEN(words) - 4, words + ARRAY_LEN(words) - 2,
				2 * sizeof(words[0]));
		argv = bench_words_copy(words, ARRAY_LEN(words) - (bench->tap ? 0 : 2));
	}
	bench->subjects[0].argv = argv;
	bench->subject_count = 1;
	return argv ? 0 : err_set(err, -ENOMEM, "out of memory");
}

/* @text with @value for each @mark; NULL: out of memory. */
static char *filled_in(const char *text, const char *mark, const char *value)
{
	char *filled = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&filled, &bytes);
	const char *at;

	for (; f && (at = strstr(text, mark)); text = at + strlen(mark))
		fprintf(f, "%.*s%s", (int)(at - text), text, value);
	if (f)
		fputs(text, f);
	if (f && !fclose(f))
		return filled;
	free(filled);
	return NULL;
}

/* What else stands for something is bench_words()'s. */
static int other_make(struct io_bench *bench, const char *text, struct kv_err *err)
{
	MEM_SCOPED char *disk = filled_in(text, "{disk}", bench->disk);
	MEM_SCOPED char *filled =
		disk ? filled_in(disk, "{tap}", bench->tap ? bench->tap : "{tap}") : NULL;
	int r;

	if (!filled)
		return err_set(err, -ENOMEM, "out of memory");
	r = bench_words(&bench->subjects[bench->subject_count].argv, filled, bench->kernel,
		bench->both, bench->memory_bytes / MIB, err);
	if (r < 0)
		return err_prefix(err, r, "--vs");
	bench->subject_count++;
	return 0;
}

static int subjects_make(struct io_bench *bench, struct kv_err *err)
{
	int r = bench_self(bench->self, err);

	if (!r)
		r = bench_dir_make(bench->dir, err);
	if (r < 0)
		return r;
	snprintf(bench->both, sizeof(bench->both), "%s/initrd", bench->dir);
	snprintf(bench->fresh, sizeof(bench->fresh), "%s/disk", bench->dir);
	bench->disk = bench->given_disk ? bench->given_disk : bench->fresh;
	if (!bench->given_disk)
		r = bench_file_make(bench->fresh, DISK_BYTES, err);
	if (!r && bench->tap) {
		r = bench_stream_start(&bench->stream, bench->tap, err);
		if (r < 0)
			return err_prefix(err, r, "--tap");
	}
	bench->work_count = bench->tap ? ARRAY_LEN(works) : DISK_WORKS;
	if (!r)
		r = initrd_make(bench, err);
	if (!r)
		r = own_make(bench, err);
	for (unsigned i = 0; !r && i < bench->vs_count; i++)
		r = other_make(bench, bench->vs[i], err);
	return r;
}

/* Exits of all vCPUs of the process so far; 0 when KVM does not tell. */
static uint64_t exits_read(pid_t pid)
{
	DIR *dir = opendir(KVM_DEBUG);
	char prefix[24], path[400];
	struct dirent *entry;
	uint64_t exits = 0;

	snprintf(prefix, sizeof(prefix), "%d-", pid);
	while (dir && (entry = readdir(dir))) {
		MEM_SCOPED char *text = NULL;

		if (strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		snprintf(path, sizeof(path), KVM_DEBUG "/%s/exits", entry->d_name);
		if (file_read_all(path, 64, &text) > 0)
			exits += strtoull(text, NULL, 10);
	}
	if (dir)
		closedir(dir);
	return exits;
}

/* CPU time of the process so far, of all its threads. */
static uint64_t cpu_read(pid_t pid)
{
	struct timespec ts = {0};
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static struct counters counters_read(pid_t pid)
{
	return (struct counters){(double)exits_read(pid), (double)cpu_read(pid)};
}

/* The piece of work under way, which is not the one without a request, took @us. */
static void work_done(struct io_bench *bench, uint64_t requests, uint64_t us)
{
	struct figures *figures = &bench->now->figures[bench->piece - IDLE_PIECES];
	double bytes = (double)requests * works[bench->piece - IDLE_PIECES].block;
	double exits = bench->cost.exits - bench->nothing.exits;
	int r = bench_add(&figures->mib_s, bytes / MIB / ((double)(us ? us : 1) / 1e6));

	if (!r && bench->cost.exits > 0)
		r = bench_add(&figures->exits, exits / (double)requests);
	if (!r)
		r = bench_add(
			&figures->cpu_ns, (bench->cost.cpu_ns - bench->nothing.cpu_ns) / bytes);
	if (r < 0)
		bench->failed = r;
}

/* A line that the guest printed. */
static void line_take(void *ctx, pid_t pid, const char *line)
{
	struct io_bench *bench = ctx;
	uint64_t requests, us;

	if (!strcmp(line, "io: begin")) {
		bench->begin = counters_read(pid);
		bench->begun = true;
	} else if (!strcmp(line, "io: end") && bench->begun) {
		bench->cost = counters_read(pid);
		bench->cost.exits -= bench->begin.exits;
		bench->cost.cpu_ns -= bench->begin.cpu_ns;
	} else if (sscanf(line, "io: %" SCNu64 " requests took %" SCNu64 " us", &requests, &us) ==
			   2 &&
		   bench->begun && bench->piece < IDLE_PIECES + bench->work_count) {
		if (bench->piece < IDLE_PIECES)
			bench->nothing = bench->cost;
		else if (bench->counted && requests)
			work_done(bench, requests, us);
		bench->begun = false;
		bench->piece++;
	}
}

/* A sentence for a run that did not do all of the work. */
static int run_failed(
	const struct io_bench *bench, const struct bench_watch *watch, int code, struct kv_err *err)
{
	const char *name = bench->now->argv[0];
	const char *line = *watch->last_line ? watch->last_line : "nothing";

	if (code != -ETIMEDOUT && code != -ECHILD && code != -EIO)
		return err_set(err, code, "%s cannot be started: %s", name, err_text(code));
	err_set(err, code, "%u of %u pieces of work were done; the last line of output: %s",
		bench->piece > IDLE_PIECES ? bench->piece - IDLE_PIECES : 0, bench->work_count,
		line);
	if (code == -ETIMEDOUT)
		return err_prefix(
			err, code, "%s: not done within %" PRIu64 " s", name, bench->timeout_s);
	if (code == -EIO)
		return err_prefix(err, code, "%s: the guest gave up", name);
	return err_prefix(err, code, "%s: ended with status %d", name, watch->status);
}

static int subject_run(struct io_bench *bench, unsigned index, bool counted, struct kv_err *err)
{
	struct subject *subject = &bench->subjects[index];
	struct bench_watch watch;
	int r;

	bench->now = subject;
	bench->piece = 0;
	bench->begun = false;
	bench->counted = counted;
	r = bench_lines(&watch, subject->argv, "kvick-init: done", bench->timeout_s * 1000000000,
		line_take, bench);
	if (r == -EINTR)
		return err_set(err, r, "interrupted");
	if (!r && bench->piece < IDLE_PIECES + bench->work_count)
		r = -EIO;
	if (r < 0)
		return run_failed(bench, &watch, r, err);
	return bench->failed ? err_set(err, bench->failed, "out of memory") : 0;
}

static int rounds_run(struct io_bench *bench, struct kv_err *err)
{
	for (unsigned round = 0; round < 1 + bench->runs; round++) {
		for (unsigned s = 0; s < bench->subject_count; s++) {
			int r = subject_run(bench, s, round > 0, err);

			if (r < 0)
				return r;
		}
		bench_progress(round + 1, 1 + bench->runs);
	}
	bench_progress(0, 0);
	return 0;
}

static const char *subject_name(const struct io_bench *bench, unsigned index)
{
	return index ? bench_words_name(bench->subjects[index].argv) : "kvick run";
}

/* As subject_name(), with the place among those of the same name behind it from the second on. */
static void subject_label(const struct io_bench *bench, unsigned index, char buf[64])
{
	const char *name = subject_name(bench, index);
	unsigned nth = 1;

	for (unsigned i = 0; i < index; i++)
		nth += !strcmp(subject_name(bench, i), name);
	if (nth > 1)
		snprintf(buf, 64, "%.21s (%u)", name, nth);
	else
		snprintf(buf, 64, "%.26s", name);
}

static void bench_print(struct io_bench *bench)
{
	char label[64];

	printf("%s: %u runs with each monitor, 1 dropped before, in turns; medians of %" PRIu64
	       " requests each\n",
		bench->kernel, bench->runs, bench->requests);
	for (size_t i = 0; i < bench->work_count; i++) {
		printf("  %-28s %10s %15s %12s\n", works[i].name, "MiB/s", "exits/request",
			"CPU ns/byte");
		for (unsigned s = 0; s < bench->subject_count; s++) {
			struct figures *f = &bench->subjects[s].figures[i];

			subject_label(bench, s, label);
			printf("    %-26s %10.1f ", label, bench_rank(&f->mib_s, 0.5));
			if (f->exits.count)
				printf("%15.2f", bench_rank(&f->exits, 0.5));
			else
				printf("%15s", "-");
			printf(" %12.2f\n", bench_rank(&f->cpu_ns, 0.5));
		}
	}
	if (!bench->subjects[0].figures[0].exits.count)
		printf("exits cannot be counted: " KVM_DEBUG " cannot be read (root, debugfs)\n");
}

static int json_print(struct io_bench *bench, const struct bench_noise *noise)
{
	json_t *subjects = json_array();

	for (unsigned s = 0; s < bench->subject_count; s++) {
		struct subject *subject = &bench->subjects[s];
		json_t *list = json_array();

		for (size_t i = 0; i < bench->work_count; i++)
			json_array_append_new(list,
				json_pack("{s:s, s:i, s:i, s:o, s:o, s:o}", "work", works[i].verb,
					"block_bytes", (int)works[i].block, "depth",
					(int)works[i].depth, "mib_per_s",
					bench_json(&subject->figures[i].mib_s), "exits_per_request",
					bench_json(&subject->figures[i].exits), "cpu_ns_per_byte",
					bench_json(&subject->figures[i].cpu_ns)));
		json_array_append_new(subjects,
			json_pack("{s:s, s:o, s:o}", "name", subject_name(bench, s), "command",
				bench_words_json(subject->argv), "works", list));
	}
	return bench_json_print("io", noise,
		json_pack("{s:s, s:i, s:I, s:o}", "kernel", bench->kernel, "runs", (int)bench->runs,
			"requests", (json_int_t)bench->requests, "subjects", subjects));
}

static void bench_clear(struct io_bench *bench)
{
	bench_stream_stop(bench->stream);
	for (unsigned s = 0; s < bench->subject_count; s++) {
		bench_words_free(bench->subjects[s].argv);
		for (size_t i = 0; i < ARRAY_LEN(works); i++) {
			bench_free(&bench->subjects[s].figures[i].mib_s);
			bench_free(&bench->subjects[s].figures[i].exits);
			bench_free(&bench->subjects[s].figures[i].cpu_ns);
		}
	}
	if (!bench->dir[0])
		return;
	unlink(bench->fresh);
	unlink(bench->both);
	rmdir(bench->dir);
}

int bench_io(int argc, char **argv)
{
	struct io_bench bench = {
		.runs = 5,
		.timeout_s = 120,
		.requests = 1024,
		.memory = "128M",
		.memory_bytes = 128 * MIB,
		.append = "console=ttyS0 quiet",
	};
	struct bench_noise noise;
	struct kv_err err = {0};
	int status, r;

	bench_catch_signals();
	bench_noise_start(&noise);
	status = cli_parse(&usage, argc, argv, &bench);
	if (status == CLI_GO_ON && !bench.initrd)
		status = cli_usage_error("bench io", "--initrd is missing; the work is its init's");
	if (status == CLI_GO_ON && !bench.tap && bench.tap_keys)
		status = cli_usage_error("bench io", "--tap-keys is without --tap");
	for (unsigned i = 0; i < ARRAY_LEN(bench.vs) && status == CLI_GO_ON; i++)
		if (!bench.tap && bench.vs[i] && strstr(bench.vs[i], "{tap}"))
			status = cli_usage_error("bench io", "{tap} in --vs is without --tap");
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
			cli_error("bench io", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
	}
	bench_clear(&bench);
	return status;
}
