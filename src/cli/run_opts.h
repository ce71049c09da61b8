/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_RUN_OPTS_H
#define KV_CLI_RUN_OPTS_H

#include <stdbool.h>

#include "base/err.h"
#include "machine/vm_config.h"

/* The command line of `kvick run`. */
struct run_opts {
	struct vm_config config;
	const char *config_file; /* the argument of --config-file, borrowed from argv, or NULL */
	struct kv_err file_err; /* why that file, which names a kernel, describes no VM; or empty */
	bool stats;		/* count exits */
	const char *stats_path; /* where they go as JSON, borrowed from argv; NULL: to stderr */
	bool timeline_detail;	/* vCPU exits and device work go into the timeline */
	const char *timeline;	/* the argument of --timeline, borrowed from argv, or NULL */
};

/*
 * Parse and check the command line; what is wrong is printed.
 * Returns CLI_GO_ON, or the exit status.
 * Owns: the caller frees @opts->config with vm_config_free() in either case.
 */
int run_opts_parse(struct run_opts *opts, int argc, char **argv);

#endif
