/* SPDX-License-Identifier: Apache-2.0 */
/* kvick bench: the program measures itself. One file a benchmark. */
#include "cli/bench.h"

#include "base/num.h"
#include "cli/cli.h"

static const struct cli_verb verbs[] = {
	{"start", bench_start, "time from exec to exit, against the floor of the bare KVM calls"},
	{"boot", bench_boot, "time of a real kernel's boot, by its steps"},
	{"footprint", bench_footprint, "memory of 1 to 16 VMs of the same images"},
	{"halt", bench_halt, "create, run and destroy VMs in one process, against the floor"},
	{"hold", bench_hold, "several VMs in one process until one ends, for footprint"},
	{"pool", bench_pool, "leases of zeroed memory, and how fast it is zero again"},
	{"populate", bench_populate,
		"how fast guest memory becomes present, beside the bare kernel"},
	{"memslots", bench_memslots,
		"memory devices: KVM's book-keeping, plugging, stalls, starts"},
	{"io", bench_io, "a guest's disk: throughput, exits for each request, CPU time"},
	{"report", bench_report, "run them and write one page"},
	{"compare", bench_compare, "what changed between two reports"},
};

static const struct cli_group group = {
	.name = "bench",
	.about = "Measure kvick on this machine.\n",
	.verbs = verbs,
	.verb_count = ARRAY_LEN(verbs),
};

int cli_bench(int argc, char **argv)
{
	return cli_group(&group, argc, argv);
}
