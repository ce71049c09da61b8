/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_BENCH_H
#define KV_CLI_BENCH_H

/* The verbs under `kvick bench`; each takes argv[0] as its own name and returns the exit status. */
int bench_report(int argc, char **argv);
int bench_start(int argc, char **argv);
int bench_pool(int argc, char **argv);
int bench_populate(int argc, char **argv);
int bench_boot(int argc, char **argv);
int bench_compare(int argc, char **argv);
int bench_footprint(int argc, char **argv);
int bench_halt(int argc, char **argv);
int bench_hold(int argc, char **argv);
int bench_io(int argc, char **argv);
int bench_memslots(int argc, char **argv);

#endif
