/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run_opts.h"

#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/timeline_file.h"
#include "config/config.h"

/* Options that are fields of the configuration go there under their own name. */
static int field_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct run_opts *opts = ctx;

	return vm_config_set(&opts->config, option->name, value ? value : "on", err);
}

static int file_load(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct run_opts *opts = ctx;
	int r = vm_config_load(&opts->config, value, err);

	opts->config_file = value;
	/* One without a kernel leaves it to the rest of the line. */
	if (!r && opts->config.kernel)
		vm_config_check(&opts->config, &opts->file_err);
	return r;
}

static int timeline_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct run_opts *opts = ctx;

	opts->timeline = value;
	return 0;
}

static int detail_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct run_opts *)ctx)->timeline_detail = true;
	return 0;
}

static int stats_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct run_opts *opts = ctx;

	if (value && !*value)
		return err_set(err, -EINVAL, "--stats=: the file's name is missing");
	opts->stats = true;
	opts->stats_path = value;
	return 0;
}

static int kernel_set(void *ctx, const char *value, struct kv_err *err)
{
	struct run_opts *opts = ctx;

	return vm_config_set(&opts->config, "kernel", value, err);
}

static const struct cli_option options[] = {
	{"config-file", "FILE", "read a JSON configuration first; see kvick-config(5)", file_load,
		CLI_OPT_FILE},
	{"initrd", "FILE", "initial RAM disk; several are concatenated in order", field_set,
		CLI_OPT_REPEAT},
	{"append", "TEXT", "kernel command line", field_set, 0},
	{"memory", "SIZE[,KEY=VALUE...]",
		"RAM, 16M to 4095T (default 128M), and what it is made of;\n"
		"KEYs, with their defaults first (man kvick-run tells more):\n"
		"backing=anon|memfd|hugetlb-2m|hugetlb-1g|file:PATH|pool[:PATH]\n"
		"populate=none|full|background|vcpu,\n"
		"threads=N (1 to 512; default: one a CPU, at most 16, for 64M each)\n"
		"thp=auto|on|off, numa=all|NODE, shared=off|on, mlock=off|on,\n"
		"merge=off|on, dump=off|on, wait=off|on (for the pool)",
		field_set, 0},
	{"cpus", "N", "vCPUs, 1 to 254 (default 1)", field_set, 0},
	{"image-map", "share|copy",
		"share: kernel and initrd stay file pages, shared by all VMs\n"
		"until written (default); copy: every VM gets its own",
		field_set, 0},
	{"boot-protocol", "auto|pvh|linux",
		"how the kernel is entered (default auto: PVH where offered)", field_set, 0},
	{"symbols", "FILE", "System.map, to time kernels without a symbol table", field_set, 0},
	{"serial", "WHERE",
		"first serial port: stdio (default), none, file:PATH, pty,\n"
		"unix:PATH; on stdio, Ctrl-A X ends the VM, Ctrl-A H helps",
		field_set, 0},
	{"legacy", "auto|on|off",
		"PIC and PIT (default auto: when the kernel command line\n"
		"takes away what replaces them: noapic, nolapic, notsc, ...)",
		field_set, 0},
	{"rng", "LIMITS",
		"give the guest an entropy device (virtio-rng); LIMITS as --disk\n"
		"has them, for instance bw=64K/s",
		field_set, CLI_OPT_MAYBE},
	{"disk", "PATH[,KEY...]",
		"a disk: raw file or block device, with ro, direct, root,\n"
		"partuuid=UUID, serial=TEXT, cache=writeback|unsafe, queues=N,\n"
		"iothread, id=ID; limits: bw=SIZE/TIME, bw-burst=SIZE, ops=N/TIME,\n"
		"ops-burst=N, where TIME is s (default), 100ms, ...",
		field_set, CLI_OPT_REPEAT},
	{"mem-device", "KEY=VALUE[,...]",
		"memory that is plugged while the guest runs (virtio-mem):\n"
		"max=SIZE, requested=SIZE (default 0), id=ID, block=SIZE (2M),\n"
		"backing=anon|memfd|hugetlb-2m|hugetlb-1g|pool[:PATH],\n"
		"populate=none|full, slots=auto|N, dynamic-memslots=on|off,\n"
		"node=N",
		field_set, CLI_OPT_REPEAT},
	{"net", "tap=NAME|fd=N|user[,KEY=VALUE...]",
		"a network device over a tap of this host, or without any rights\n"
		"by passt (user; forward=HOST:GUEST ports), with mac=MAC, mtu=N,\n"
		"queues=N, iothread, vhost=on|off|auto, id=ID; limits as --disk\n"
		"has them, for each direction: rx-bw=SIZE/TIME, tx-ops=N/TIME, ...",
		field_set, CLI_OPT_REPEAT},
	{"discovery", "auto|acpi|cmdline",
		"how the guest learns of virtio devices (default auto: ACPI,\n"
		"unless kernel or command line are without it)",
		field_set, 0},
	{"boot-timer", NULL, "print a line when the guest writes the boot-complete byte", field_set,
		0},
	{"timeline", "FILE",
		"write when each step of the run was reached: FILE.json\n"
		"(trace events, opens in Perfetto), FILE.txt, FILE.svg (a chart),\n"
		"or - for stderr",
		timeline_set, 0},
	{"timeline-detail", NULL, "put vCPU exits and device work into --timeline FILE.json",
		detail_set, 0},
	{"stats", "FILE",
		"count exits by reason, port and address; at the end and on\n"
		"SIGUSR1 they are printed on stderr, or written to FILE as JSON",
		stats_set, CLI_OPT_MAYBE},
	{"id", "ID",
		"name of the VM, up to 64 of A-Z a-z 0-9 - _; one that is given\n"
		"has a control socket: $XDG_RUNTIME_DIR/kvick/ID.sock",
		field_set, 0},
	{"api-sock", "PATH", "put the control socket here", field_set, 0},
	{"no-api", NULL, "make no control socket", field_set, 0},
};

static const struct cli_usage usage = {
	.verb = "run",
	.synopsis = "[OPTION...] KERNEL\n[OPTION...] --config-file FILE",
	.about = "Start a virtual machine and run it until the guest shuts down.\n"
		 "KERNEL is an x86-64 ELF (vmlinux) or a bzImage.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.operand = "KERNEL",
	.operands_min = 0,
	.operands_max = 1,
	.operand_set = kernel_set,
	.more = "Exit status:\n"
		"  0    the guest shut down or reset in an orderly way, or Ctrl-A X\n"
		"  1    the VM could not be started: configuration, files, resources\n"
		"  2    wrong command line\n"
		"  3    this host cannot run the guest\n"
		"  4    the guest crashed (triple fault that nobody asked for)\n"
		"  5    KVM failed at run time\n"
		"  6    an image file, or the file of backing=file, shrank under the running VM\n"
		"  128+N  stopped by signal N\n",
};

int run_opts_parse(struct run_opts *opts, int argc, char **argv)
{
	struct kv_err err = {0};
	int status, r;

	if (vm_config_init(&opts->config) < 0) {
		cli_error("run", "out of memory");
		return CLI_EXIT_START;
	}
	status = cli_parse(&usage, argc, argv, opts);
	if (status != CLI_GO_ON)
		return status;
	r = vm_config_check(&opts->config, &err);
	/* What the options have not changed is the file's own mistake. */
	if (r < 0 && opts->config_file && !strcmp(err.text, opts->file_err.text)) {
		cli_error("run", "%s: %s", opts->config_file, err.text);
		return CLI_EXIT_START;
	}
	if (r < 0)
		return cli_usage_error("run", "%s", err.text);
	if (opts->timeline_detail && !timeline_wants_json(opts->timeline))
		return cli_usage_error("run", "--timeline-detail needs --timeline FILE.json");
	return CLI_GO_ON;
}
