/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of a verb's options, and the wording of what is wrong with them. */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/cli.h"

/* One step through a command line. */
struct item {
	const struct cli_option *option; /* NULL: an operand, or an error */
	const char *value;
};

struct cursor {
	const struct cli_usage *usage;
	int argc, at;
	char **argv;
	bool only_operands; /* behind "--" */
};

static const struct cli_option help_option = {"help", NULL, "print this help", NULL, 0};

static void error_print(const char *verb, const char *text)
{
	char line[sizeof(((struct kv_err *)0)->text) + 100];
	int n = snprintf(
		line, sizeof(line), "kvick%s%s: %s\n", verb ? " " : "", verb ? verb : "", text);

	/* One write, so that lines of several processes on one terminal stay whole. */
	if (n > 0)
		fd_write_all(STDERR_FILENO, line,
			(size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

void cli_error(const char *verb, const char *fmt, ...)
{
	struct kv_err err;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err.text, sizeof(err.text), fmt, ap);
	va_end(ap);
	error_print(verb, err.text);
}

int cli_usage_error(const char *verb, const char *fmt, ...)
{
	struct kv_err err;
	va_list ap;
	size_t len;

	va_start(ap, fmt);
	vsnprintf(err.text, sizeof(err.text), fmt, ap);
	va_end(ap);
	len = strlen(err.text);
	snprintf(err.text + len, sizeof(err.text) - len, " (see kvick help%s%s)", verb ? " " : "",
		verb ? verb : "");
	error_print(verb, err.text);
	return CLI_EXIT_USAGE;
}

int cli_size(const char *option, const char *value, const char *such, uint64_t *ret_bytes,
	struct kv_err *err)
{
	int r = size_parse(value, ret_bytes);

	if (r == -ERANGE)
		return err_set(err, r,
			"--%s: \"%.40s\" is out of range; a size is less than 16777216T", option,
			value);
	return r < 0 ? err_set(err, r, "--%s: \"%.40s\" is not a size such as %s", option, value,
			       such)
		     : 0;
}

#define NEAR_MAX 32

/*
 * How many single-character edits (change, insert, delete, swap of neighbours) lead from @a to @b:
 * the optimal string alignment distance. Words over NEAR_MAX characters are far from everything.
 */
static unsigned distance(const char *a, const char *b)
{
	unsigned rows[3][NEAR_MAX + 1];
	unsigned *before = rows[0], *last = rows[1], *now = rows[2];
	size_t alen = strnlen(a, NEAR_MAX + 1), blen = strnlen(b, NEAR_MAX + 1);

	if (alen > NEAR_MAX || blen > NEAR_MAX)
		return NEAR_MAX;
	for (unsigned j = 0; j <= blen; j++)
		last[j] = j;
	for (unsigned i = 1; i <= alen; i++) {
		unsigned *spare = before;

		now[0] = i;
		for (unsigned j = 1; j <= blen; j++) {
			unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);

			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
		before = last;
		last = now;
		now = spare;
	}
	return last[blen];
}

const char *cli_near(const char *word, const void *table, unsigned count, size_t stride)
{
	/* A third of the word may be wrong, at most 3 characters. */
	size_t len = strlen(word);
	unsigned best = len < 9 ? (unsigned)len / 3 + 1 : 4;
	const char *found = NULL;

	for (unsigned i = 0; i < count; i++) {
		const char *name = *(const char *const *)((const char *)table + i * stride);
		unsigned d = distance(word, name);

		if (d < best) {
			best = d;
			found = name;
		}
	}
	return found;
}

static const struct cli_option *option_find(
	const struct cli_usage *usage, const char *name, size_t len)
{
	for (unsigned i = 0; i < usage->option_count; i++)
		if (!strncmp(usage->options[i].name, name, len) && !usage->options[i].name[len])
			return &usage->options[i];
	return len == 4 && !strncmp(name, "help", 4) ? &help_option : NULL;
}

static int option_unknown(const struct cli_usage *usage, const char *word, size_t len)
{
	const char *near = NULL;
	char name[NEAR_MAX + 1];

	if (!strncmp(word, "--", 2) && len - 2 < sizeof(name)) {
		memcpy(name, word + 2, len - 2);
		name[len - 2] = '\0';
		near = cli_near(name, usage->options, usage->option_count, sizeof(*usage->options));
	}
	if (near)
		return cli_usage_error(usage->verb, "unknown option %.*s; did you mean --%s?",
			(int)len, word, near);
	return cli_usage_error(usage->verb, "unknown option %.*s", (int)len, word);
}

/*
 * Take the next option or operand.
 * Returns 1 with *@item; 0 at the end; -EINVAL when the line is malformed, which has been printed.
 */
static int item_next(struct cursor *cur, struct item *item)
{
	const char *word, *equals;
	size_t len;

	if (cur->at < cur->argc && !cur->only_operands && !strcmp(cur->argv[cur->at], "--")) {
		cur->only_operands = true;
		cur->at++;
	}
	if (cur->at >= cur->argc)
		return 0;
	word = cur->argv[cur->at++];
	*item = (struct item){NULL, word};
	if (cur->only_operands || word[0] != '-' || !word[1])
		return 1;
	if (!strcmp(word, "-h")) {
		*item = (struct item){&help_option, NULL};
		return 1;
	}
	equals = strchrnul(word, '=');
	len = (size_t)(equals - word);
	if (word[1] == '-')
		item->option = option_find(cur->usage, word + 2, len - 2);
	if (!item->option) {
		option_unknown(cur->usage, word, len);
		return -EINVAL;
	}
	item->value = NULL;
	if (!item->option->arg) {
		if (!*equals)
			return 1;
		cli_usage_error(
			cur->usage->verb, "option --%s takes no argument", item->option->name);
		return -EINVAL;
	}
	if (*equals)
		item->value = equals + 1;
	else if (item->option->flags & CLI_OPT_MAYBE)
		return 1;
	else if (cur->at < cur->argc)
		item->value = cur->argv[cur->at++];
	if (item->value)
		return 1;
	cli_usage_error(cur->usage->verb, "option --%s needs an argument: --%s %s",
		item->option->name, item->option->name, item->option->arg);
	return -EINVAL;
}

/* Check the whole line. Returns CLI_GO_ON when it is well-formed, else the exit status. */
static int line_check(struct cursor cur)
{
	const struct cli_usage *usage = cur.usage;
	unsigned operands = 0;
	uint64_t seen = 0;
	struct item item;
	int r;

	while ((r = item_next(&cur, &item)) > 0) {
		uint64_t bit;

		if (item.option == &help_option)
			return cli_help(usage);
		if (!item.option) {
			if (++operands <= usage->operands_max)
				continue;
			return cli_usage_error(
				usage->verb, "unexpected argument \"%s\"", item.value);
		}
		bit = 1ULL << (item.option - usage->options);
		if (seen & bit && !(item.option->flags & CLI_OPT_REPEAT))
			return cli_usage_error(usage->verb, "option --%s is given more than once",
				item.option->name);
		seen |= bit;
	}
	if (r < 0)
		return CLI_EXIT_USAGE;
	if (operands < usage->operands_min)
		return cli_usage_error(usage->verb, "%s is missing", usage->operand);
	return CLI_GO_ON;
}

/* Run the setters of one pass: those of files of settings, or all others. */
static int line_apply(struct cursor cur, bool files, void *ctx)
{
	const struct cli_usage *usage = cur.usage;
	struct kv_err err = {0};
	struct item item;

	while (item_next(&cur, &item) > 0) {
		bool file = item.option && item.option->flags & CLI_OPT_FILE;
		int r;

		if (file != files || item.option == &help_option)
			continue;
		r = item.option ? item.option->set(ctx, item.option, item.value, &err)
				: usage->operand_set(ctx, item.value, &err);
		if (r == 0)
			continue;
		cli_error(usage->verb, "%s", err.text[0] ? err.text : err_text(r));
		return file || r == -ENOMEM ? CLI_EXIT_START : CLI_EXIT_USAGE;
	}
	return CLI_GO_ON;
}

int cli_parse(const struct cli_usage *usage, int argc, char **argv, void *ctx)
{
	struct cursor cur = {.usage = usage, .argc = argc, .at = 1, .argv = argv};
	int status = line_check(cur);

	if (status == CLI_GO_ON)
		status = line_apply(cur, true, ctx);
	if (status == CLI_GO_ON)
		status = line_apply(cur, false, ctx);
	return status;
}
