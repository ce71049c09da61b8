/* SPDX-License-Identifier: Apache-2.0 */
/* Help texts, made from the tables of verbs and options. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define COLUMN 28 /* where explanations start */

/* Print "  @left" and beside it the lines of @text, or below it when @left is too wide. */
static void entry_print(const char *left, const char *text)
{
	int width = printf("  %s", left);

	if (width > COLUMN - 2) {
		putchar('\n');
		width = 0;
	}
	for (const char *line = text; *line;) {
		int len = (int)(strchrnul(line, '\n') - line);

		printf("%*s%.*s\n", COLUMN - width, "", len, line);
		width = 0;
		line += len + (line[len] == '\n');
	}
}

static void option_print(const struct cli_option *option)
{
	const char *form = !option->arg			   ? "--%s"
			   : option->flags & CLI_OPT_MAYBE ? "--%s[=%s]"
							   : "--%s %s";
	char left[80];

	snprintf(left, sizeof(left), form, option->name, option->arg);
	entry_print(left, option->help);
}

void cli_verbs_print(const struct cli_verb *verbs, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		entry_print(verbs[i].name, verbs[i].summary);
}

int cli_help(const struct cli_usage *usage)
{
	const struct cli_option help = {.name = "help", .help = "print this help"};
	const char *form = usage->synopsis;
	const char *lead = "usage:";

	do {
		int len = (int)(strchrnul(form, '\n') - form);

		printf("%-6s kvick %s%s%.*s\n", lead, usage->verb, len ? " " : "", len, form);
		lead = "";
		form += len + (form[len] == '\n');
	} while (*form);
	printf("\n%s\noptions:\n", usage->about);
	for (unsigned i = 0; i < usage->option_count; i++)
		option_print(&usage->options[i]);
	option_print(&help);
	if (usage->more)
		printf("\n%s", usage->more);
	return CLI_EXIT_OK;
}

static int group_help(const struct cli_group *group)
{
	printf("usage: kvick %s VERB [OPTION...] [ARGUMENT...]\n\n%s\nverbs:\n", group->name,
		group->about);
	cli_verbs_print(group->verbs, group->verb_count);
	for (unsigned i = 0; i < group->verb_count; i++) {
		char help[] = "--help";
		char name[32];
		char *argv[] = {name, help, NULL};
		int r;

		snprintf(name, sizeof(name), "%s", group->verbs[i].name);
		putchar('\n');
		r = group->verbs[i].run(2, argv);
		if (r)
			return r;
	}
	return CLI_EXIT_OK;
}

int cli_group(const struct cli_group *group, int argc, char **argv)
{
	const struct cli_verb *verb;
	const char *near;

	if (argc < 2)
		return cli_usage_error(group->name, "a verb is missing");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return group_help(group);
	verb = cli_verb_find(group->verbs, group->verb_count, argv[1]);
	if (verb)
		return verb->run(argc - 1, argv + 1);
	near = cli_near(argv[1], group->verbs, group->verb_count, sizeof(*group->verbs));
	if (near)
		return cli_usage_error(
			group->name, "unknown verb \"%s\"; did you mean \"%s\"?", argv[1], near);
	return cli_usage_error(group->name, "unknown verb \"%s\"", argv[1]);
}

const struct cli_verb *cli_verb_find(const struct cli_verb *verbs, unsigned count, const char *name)
{
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}
