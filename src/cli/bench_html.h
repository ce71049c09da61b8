/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_HTML_H
#define KV_CLI_BENCH_HTML_H

#include <jansson.h>

/*
 * A report (docs/bench.md) as one HTML page that needs nothing else.
 * Returns 0 with a NUL-terminated text in *@ret; -ENOMEM. Owns: the caller frees *@ret.
 */
int bench_html(json_t *report, char **ret);

#endif
