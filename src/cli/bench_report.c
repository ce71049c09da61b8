/* SPDX-License-Identifier: Apache-2.0 */
/* kvick bench report: runs the other benchmarks and writes what they found as one page. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "cli/bench.h"
#include "cli/bench_html.h"
#include "cli/bench_out.h"
#include "cli/bench_util.h"
#include "cli/cli.h"
#include "cli/out_file.h"

#define WORDS_MAX 40
#define PARTS_MAX 5

/* One of the benchmarks, as it is run. */
struct part {
	unsigned seconds; /* what it takes, roughly */
	unsigned count;
	const char *words[WORDS_MAX]; /* behind "kvick"; NULL at the end */
};

struct report {
	const char *out, *kernel, *initrd, *append, *memory, *text, *vs;
	bool quick;
	bool out_made; /* the folder was not there before */
	char dir[BENCH_DIR_MAX], result[BENCH_FILE_MAX], self[BENCH_SELF_MAX];
	unsigned part_count;
	struct part parts[PARTS_MAX];
};

static int text_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct report *report = ctx;

	if (value && !*value)
		return err_set(err, -EINVAL, "--%s: is empty", option->name);
	switch (option->name[0]) {
	case 'o':
		report->out = value;
		break;
	case 'k':
		report->kernel = value;
		break;
	case 'i':
		report->initrd = value;
		break;
	case 'a':
		report->append = value;
		break;
	case 'm':
		report->memory = value;
		break;
	case 't':
		report->text = value;
		break;
	case 'v':
		report->vs = value;
		break;
	default:
		report->quick = true;
		break;
	}
	return 0;
}

static const struct cli_option options[] = {
	{"out", "DIR", "folder for index.html and report.json; made if need be", text_set, 0},
	{"quick", NULL, "a tenth of the runs: to see what a report looks like", text_set, 0},
	{"kernel", "FILE", "also boot this kernel, as kvick bench boot does", text_set, 0},
	{"initrd", "FILE", "its initial RAM disk", text_set, 0},
	{"append", "TEXT", "its command line", text_set, 0},
	{"memory", "SIZE", "its memory, whole MiB (default 128M)", text_set, 0},
	{"text", "TEXT", "what it prints when it is up (see kvick bench boot)", text_set, 0},
	{"vs", "COMMAND", "another monitor, for the boot and the footprint", text_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench report",
	.synopsis = "[OPTION...] --out DIR",
	.about = "Run the benchmarks and write one self-contained page, and its figures as JSON.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
};

static struct part *part_add(struct report *report, unsigned seconds)
{
	struct part *part = &report->parts[report->part_count++];

	part->seconds = report->quick ? seconds / 8 + 1 : seconds;
	return part;
}

static void words_add(struct part *part, const char *const *words)
{
	while (*words)
		part->words[part->count++] = *words++;
}

static void option_add(struct part *part, const char *name, const char *value)
{
	if (!value)
		return;
	part->words[part->count++] = name;
	part->words[part->count++] = value;
}

static void parts_make(struct report *report)
{
	static const char *const start[] = {"bench", "start", "--json", "--case", "19M/3M/256M",
		"--case", "100K/0/256M", "--case", "19M/0/256M", "--case", "19M/64M/256M", "--case",
		"40M/64M/256M", "--case", "19M/3M/1G", "--case", "19M/3M/4G", "--case",
		"19M/3M/16G", "--case", "19M/3M/64G", NULL};
	static const char *const halt[] = {"bench", "halt", "--json", NULL};
	static const char *const footprint[] = {"bench", "footprint", "--json", NULL};
	static const char *const populate[] = {"bench", "populate", "--json", "--no-start", NULL};
	static const char *const boot[] = {"bench", "boot", "--json", NULL};
	struct part *part = part_add(report, 14);

	words_add(part, start);
	option_add(part, "--runs", report->quick ? "3" : "30");
	part = part_add(report, 12);
	words_add(part, halt);
	option_add(part, "--vms", report->quick ? "100" : "1000");
	part = part_add(report, report->vs ? 120 : 40);
	words_add(part, footprint);
	option_add(part, "--runs", report->quick ? "1" : "3");
	option_add(part, "--instances", report->quick ? "1,2,4" : NULL);
	option_add(part, "--vs", report->vs);
	part = part_add(report, 20);
	words_add(part, populate);
	option_add(part, "--size", report->quick ? "128M" : "512M");
	option_add(part, "--rounds", report->quick ? "2" : "7");
	if (!report->kernel)
		return;
	part = part_add(report, 30);
	words_add(part, boot);
	option_add(part, "--runs", report->quick ? "2" : "10");
	option_add(part, "--initrd", report->initrd);
	option_add(part, "--append", report->append);
	option_add(part, "--memory", report->memory);
	option_add(part, "--text", report->text);
	option_add(part, "--vs", report->vs);
	option_add(part, "--", report->kernel);
}

static int child_run(const struct report *report, const struct part *part, int *status)
{
	posix_spawn_file_actions_t actions;
	const char *argv[WORDS_MAX + 2] = {report->self};
	pid_t pid;
	int r;

	memcpy(argv + 1, part->words, sizeof(part->words));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(
		&actions, 1, report->result, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	r = -posix_spawn(&pid, report->self, &actions, NULL, (char **)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	/* A signal to the group reaches the child too, which ends then. */
	while (!r && waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			r = -errno;
	return r;
}

/* The command line as a person would type it, for the page. */
static json_t *command_json(const struct part *part)
{
	char text[2048] = "kvick";
	size_t at = strlen(text);

	for (unsigned i = 0; i < part->count && at < sizeof(text); i++) {
		bool quote = strpbrk(part->words[i], " \t$;&|<>(){}*?\\\"");

		at += (size_t)snprintf(
			text + at, sizeof(text) - at, quote ? " '%s'" : " %s", part->words[i]);
	}
	return json_string(text);
}

/* Run one benchmark and add what it found to @sections. */
static int part_run(
	struct report *report, const struct part *part, json_t *sections, struct kv_err *err)
{
	json_error_t bad;
	json_t *document;
	int status = 0;
	int r = child_run(report, part, &status);

	if (r < 0)
		return err_set(err, r, "%s: %s", report->self, err_text(r));
	if (bench_interrupted())
		return err_set(err, -EINTR, "interrupted; nothing was written");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return err_set(
			err, -EIO, "kvick bench %s failed; nothing was written", part->words[1]);
	document = json_load_file(report->result, 0, &bad);
	if (!document)
		return err_set(err, -EIO, "kvick bench %s: its figures cannot be read: %s",
			part->words[1], bad.text);
	json_object_set_new(document, "command", command_json(part));
	json_array_append_new(sections, document);
	return 0;
}

static int parts_run(struct report *report, json_t *sections, struct kv_err *err)
{
	unsigned left = 0;

	for (unsigned i = 0; i < report->part_count; i++)
		left += report->parts[i].seconds;
	for (unsigned i = 0; i < report->part_count; i++) {
		int r;

		fprintf(stderr, "%u of %u: kvick bench %s (all that is left: about %u s)\n", i + 1,
			report->part_count, report->parts[i].words[1], left);
		r = part_run(report, &report->parts[i], sections, err);
		if (r < 0)
			return r;
		left -= report->parts[i].seconds;
	}
	return 0;
}

/* Both files are complete before either is written. */
static int report_write(const struct report *report, json_t *root, struct kv_err *err)
{
	char page_path[4200], json_path[4200];
	char *text = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
	char *page = NULL;
	int r = text ? bench_html(root, &page) : -ENOMEM;

	snprintf(page_path, sizeof(page_path), "%s/index.html", report->out);
	snprintf(json_path, sizeof(json_path), "%s/report.json", report->out);
	if (r < 0)
		err_set(err, r, "the page: %s", err_text(r));
	if (!r)
		r = out_file_write(json_path, text, strlen(text), err);
	if (!r) {
		r = out_file_write(page_path, page, strlen(page), err);
		if (r < 0)
			unlink(json_path);
	}
	free(text);
	free(page);
	if (!r)
		printf("%s\n", page_path);
	return r;
}

static int out_make(struct report *report, struct kv_err *err)
{
	char path[4200];

	report->out_made = !mkdir(report->out, 0777);
	if (!report->out_made && errno != EEXIST)
		return err_set(err, -errno, "%s: %s", report->out, err_text(errno));
	if ((size_t)snprintf(path, sizeof(path), "%s/report.json", report->out) >= sizeof(path))
		return err_set(err, -ENAMETOOLONG, "%s: %s", report->out, err_text(ENAMETOOLONG));
	return out_file_check(path, false, err);
}

static int report_make(struct report *report, struct kv_err *err)
{
	int r = bench_self(report->self, err);
	json_t *sections = json_array();
	char when[40];
	time_t now = time(NULL);
	struct tm tm;
	json_t *root;

	if (r < 0)
		return r;
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
	root = json_pack("{s:s, s:s, s:s, s:o, s:b, s:o}", "kind", "report", "kvick", KVICK_VERSION,
		"date", when, "host", bench_host_json(), "quick", report->quick, "sections",
		sections);
	if (!root)
		return err_set(err, -ENOMEM, "out of memory");
	r = out_make(report, err);
	if (!r)
		r = bench_dir_make(report->dir, err);
	if (!r) {
		snprintf(report->result, sizeof(report->result), "%s/result.json", report->dir);
		parts_make(report);
		r = parts_run(report, sections, err);
		unlink(report->result);
		rmdir(report->dir);
	}
	if (!r)
		r = report_write(report, root, err);
	if (r < 0 && report->out_made)
		rmdir(report->out);
	json_decref(root);
	return r;
}

int bench_report(int argc, char **argv)
{
	struct report report = {0};
	struct kv_err err = {0};
	int status, r;

	bench_catch_signals();
	status = cli_parse(&usage, argc, argv, &report);
	if (status != CLI_GO_ON)
		return status;
	if (!report.out)
		return cli_usage_error("bench report", "--out DIR is missing");
	r = report_make(&report, &err);
	if (r < 0)
		cli_error("bench report", "%s", err.text[0] ? err.text : err_text(r));
	return r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
}
