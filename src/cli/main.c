/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs. A run pays for what stands here, so nothing is set up before the verb is known. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "cli/cli.h"

static const struct cli_verb verbs[] = {
	{"run", cli_run, "start a virtual machine and run it until the guest shuts down"},
	{"bench", cli_bench, "measure kvick on this machine"},
	{"image", cli_image, "look at kernel files"},
	{"mem", cli_mem, "show and change how much memory a running machine has"},
	{"pool", cli_pool, "keep zeroed memory for virtual machines to come"},
	{"doctor", cli_doctor, "check whether and how well this host runs virtual machines"},
};

static int main_help(void)
{
	fputs("usage: kvick VERB [OPTION...] [ARGUMENT...]\n"
	      "       kvick help [VERB]\n"
	      "       kvick --version\n"
	      "\n"
	      "kvick starts Linux virtual machines quickly and shares between them what can be\n"
	      "shared.\n"
	      "\n"
	      "verbs:\n",
		stdout);
	cli_verbs_print(verbs, ARRAY_LEN(verbs));
	return CLI_EXIT_OK;
}

static int verb_unknown(const char *name)
{
	const char *near = cli_near(name, verbs, ARRAY_LEN(verbs), sizeof(verbs[0]));

	if (name[0] == '-')
		return cli_usage_error(
			NULL, "unknown option %s; options stand behind a verb", name);
	if (near)
		return cli_usage_error(
			NULL, "unknown verb \"%s\"; did you mean \"%s\"?", name, near);
	return cli_usage_error(NULL, "unknown verb \"%s\"", name);
}

/* `kvick help VERB...` is `kvick VERB... --help`: the verb's own file has its text. */
static int verb_help(int argc, char **argv)
{
	char help[] = "--help";
	char *line[4];
	int n = 0;
	const struct cli_verb *verb;

	if (argc < 2)
		return main_help();
	if (argc > 3)
		return cli_usage_error(NULL, "unexpected argument \"%s\"", argv[3]);
	verb = cli_verb_find(verbs, ARRAY_LEN(verbs), argv[1]);
	if (!verb)
		return verb_unknown(argv[1]);
	for (int i = 1; i < argc; i++)
		line[n++] = argv[i];
	line[n++] = help;
	line[n] = NULL;
	return verb->run(n, line);
}

/*
 * A program started with a standard descriptor closed would give its number to the next file that
 * it opens, and print into that.
 */
static void stdio_keep(void)
{
	for (int fd = 0; fd <= 2; fd++)
		/* The lowest free number is @fd: those below it are open. */
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return;
}

static int verb_run(int argc, char **argv)
{
	const struct cli_verb *verb = cli_verb_find(verbs, ARRAY_LEN(verbs), argv[1]);

	if (verb)
		return verb->run(argc - 1, argv + 1);
	if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return verb_help(argc - 1, argv + 1);
	if (!strcmp(argv[1], "--version")) {
		puts("kvick " KVICK_VERSION);
		return CLI_EXIT_OK;
	}
	return verb_unknown(argv[1]);
}

int main(int argc, char **argv)
{
	int status;

	stdio_keep();
	if (argc < 2)
		return cli_usage_error(NULL, "a verb is missing");
	status = verb_run(argc, argv);
	/* A full disk at the other end makes a success of no verb. */
	if (status == CLI_EXIT_OK && (fflush(stdout) || ferror(stdout))) {
		cli_error(argv[1], "cannot write to standard output");
		return CLI_EXIT_START;
	}
	return status;
}
