/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_CLI_H
#define KV_CLI_CLI_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* The frame of the command line: verbs, their options, their help and their errors. */

/* Exit statuses of `kvick run`; the other verbs use the first three. */
enum cli_exit {
	CLI_EXIT_OK = 0,	   /* done; the guest shut down or reset in an orderly way */
	CLI_EXIT_START = 1,	   /* configuration, files, resources of the host */
	CLI_EXIT_USAGE = 2,	   /* wrong command line */
	CLI_EXIT_HOST = 3,	   /* this host cannot run the guest */
	CLI_EXIT_CRASH = 4,	   /* the guest crashed */
	CLI_EXIT_KVM = 5,	   /* KVM failed at run time */
	CLI_EXIT_IMAGE_SHRANK = 6, /* an image file, or RAM's, shrank under the running VM */
	CLI_EXIT_SIGNAL = 128,	   /* plus N: stopped by signal N */
};

/* What parsers return in place of an exit status when there is something to do. */
#define CLI_GO_ON (-1)

/* Flags of an option. */
enum {
	CLI_OPT_REPEAT = 1, /* may be given more than once */
	/* Names a file of settings: it is applied before all other options, wherever it stands, and
	 * its failure is CLI_EXIT_START instead of CLI_EXIT_USAGE. */
	CLI_OPT_FILE = 2,
	CLI_OPT_MAYBE = 4, /* its argument may be left out, and is given as --name=VALUE only */
};

struct cli_option {
	const char *name; /* without the dashes */
	const char *arg;  /* what its argument is called in the help; NULL: takes none */
	const char *help; /* what it does; lines of at most 70 characters */
	/*
	 * Apply @value (NULL when @arg is, or when it was left out). Returns 0; -errno with a
	 * sentence that stands alone behind "kvick VERB: ".
	 */
	int (*set)(
		void *ctx, const struct cli_option *option, const char *value, struct kv_err *err);
	unsigned flags;
};

/* A verb's command line: the source of its parser and of its help. */
struct cli_usage {
	const char *verb;     /* as typed: "run", "image info" */
	const char *synopsis; /* one line a form, without "kvick VERB": "[OPTION...] KERNEL" */
	const char *about;    /* whole lines, each with its newline */
	const struct cli_option *options; /* --help is understood without being listed */
	unsigned option_count;		  /* at most 64 */
	const char *operand;		  /* what an operand is called: "KERNEL" */
	unsigned operands_min, operands_max;
	/* Takes the operands in order; errors as in struct cli_option. */
	int (*operand_set)(void *ctx, const char *value, struct kv_err *err);
	const char *more; /* whole lines behind the options (exit statuses), or NULL */
};

/*
 * Parse the command line @argv[1..@argc-1] of @usage's verb: `--name VALUE`, `--name=VALUE`, `--`
 * before operands that start with a dash; options and operands may be mixed. The setters run only
 * when the whole line is well-formed. Errors and the text of --help are printed here.
 * Returns CLI_GO_ON, or the status to exit with.
 */
int cli_parse(const struct cli_usage *usage, int argc, char **argv, void *ctx);

/*
 * The size that @option got, of the kind of @such ("64M").
 * Returns 0; -EINVAL or -ERANGE with a sentence.
 */
int cli_size(const char *option, const char *value, const char *such, uint64_t *ret_bytes,
	struct kv_err *err);

/* Print a verb's help to stdout. Returns 0, or CLI_EXIT_START when stdout does not take it. */
int cli_help(const struct cli_usage *usage);

/* Print `kvick VERB: <printf text>` to stderr (@verb NULL: `kvick: `). */
void cli_error(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* As cli_error(), and point to the verb's help. Returns CLI_EXIT_USAGE. */
int cli_usage_error(const char *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A verb. @run gets @argv with @argv[0] being the verb and returns the exit status. */
struct cli_verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
};

/* A verb made of verbs: `kvick image info FILE`. */
struct cli_group {
	const char *name;  /* "image" */
	const char *about; /* whole lines */
	const struct cli_verb *verbs;
	unsigned verb_count;
};

/* Run the verb @argv[1] names in @group, or print the help of the group and of all its verbs. */
int cli_group(const struct cli_group *group, int argc, char **argv);

/* The verb called @name, or NULL. */
const struct cli_verb *cli_verb_find(
	const struct cli_verb *verbs, unsigned count, const char *name);

/* Print the list of @verbs to stdout. */
void cli_verbs_print(const struct cli_verb *verbs, unsigned count);

/*
 * The entry of a table that @word was probably meant to be, or NULL when none is near. Each of the
 * @count entries of @stride bytes starts with a `const char *` name.
 */
const char *cli_near(const char *word, const void *table, unsigned count, size_t stride);

/* The verbs, one file each: @argv[0] is the verb. Return the exit status of the process. */
int cli_run(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_image(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_pool(int argc, char **argv);
int cli_mem(int argc, char **argv);

#endif
