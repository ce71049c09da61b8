/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvick bench hold: several VMs of the same images in one process, until one of them or the process
 * ends. What bench footprint measures as "all in one process".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/num.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "config/config.h"
#include "machine/machine.h"

#define INSTANCES_MAX 1024

struct hold {
	unsigned count, made;
	struct vm_config config;
	struct kvm *kvm;
	struct image *image;
	struct initrd *initrd;
	struct loop *loop;
	struct machine **machines;
};

static int count_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct hold *hold = ctx;
	uint64_t n;

	if (uint_parse(value, 1, INSTANCES_MAX, &n) < 0)
		return err_set(err, -EINVAL, "--instances: \"%s\" is not a number from 1 to %d",
			value, INSTANCES_MAX);
	hold->count = (unsigned)n;
	return 0;
}

static int config_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	return vm_config_set(&((struct hold *)ctx)->config, option->name, value, err);
}

static int kernel_set(void *ctx, const char *value, struct kv_err *err)
{
	return vm_config_set(&((struct hold *)ctx)->config, "kernel", value, err);
}

static const struct cli_option options[] = {
	{"instances", "N", "number of VMs (default 1)", count_set, 0},
	{"memory", "SIZE", "guest memory of each (default 128M)", config_set, 0},
	{"initrd", "FILE", "initial RAM disk; may be repeated", config_set, CLI_OPT_REPEAT},
	{"append", "TEXT", "kernel command line", config_set, 0},
};

static const struct cli_usage usage = {
	.verb = "bench hold",
	.synopsis = "[OPTION...] KERNEL",
	.about = "Run several virtual machines of the same images in one process, without "
		 "consoles,\n"
		 "until one of them ends. What bench footprint starts to measure that.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.operand = "KERNEL",
	.operands_min = 1,
	.operands_max = 1,
	.operand_set = kernel_set,
};

static void vm_ended(void *ctx)
{
	struct hold *hold = ctx;

	loop_stop(hold->loop);
}

/* Images, KVM's CPUID and the loop are shared; the rest each machine has for itself. */
static int hold_start(struct hold *hold, struct kv_err *err)
{
	const struct image_opts image_opts = {.protocol = hold->config.protocol};
	struct machine_params params = {.config = &hold->config, .ended = vm_ended, .ctx = hold};
	int r = image_open(&hold->image, hold->config.kernel, &image_opts, err);

	if (!r)
		r = initrd_open(&hold->initrd, (const char *const *)hold->config.initrds,
			hold->config.initrd_count, err);
	if (!r)
		r = kvm_open(&hold->kvm, "/dev/kvm", err);
	if (r < 0)
		return r;
	hold->machines = calloc(hold->count, sizeof(struct machine *));
	r = hold->machines ? loop_create(&hold->loop) : -ENOMEM;
	if (r < 0)
		return err_set(err, r, "event loop: %s", err_text(r));
	params.kvm = hold->kvm;
	params.image = hold->image;
	params.initrd = hold->initrd;
	params.loop = hold->loop;
	for (; !r && hold->made < hold->count; hold->made += !r)
		r = machine_create(&hold->machines[hold->made], &params, err);
	for (unsigned i = 0; !r && i < hold->made; i++)
		r = machine_start(hold->machines[i], err);
	return r;
}

/* Says what ended the VM that ended. */
static int hold_report(const struct hold *hold)
{
	for (unsigned i = 0; i < hold->made; i++) {
		const struct machine_end *end = machine_end(hold->machines[i]);

		if (end->kind == MACHINE_RUNNING || end->kind == MACHINE_POWEROFF ||
			end->kind == MACHINE_RESET || end->kind == MACHINE_STOPPED)
			continue;
		cli_error("bench hold", "VM %u: %s", i, end->text);
		return CLI_EXIT_START;
	}
	return CLI_EXIT_OK;
}

static void hold_clear(struct hold *hold)
{
	while (hold->made > 0)
		machine_destroy(hold->machines[--hold->made]);
	free(hold->machines);
	loop_destroy(hold->loop);
	initrd_destroy(hold->initrd);
	image_destroy(hold->image);
	kvm_close(hold->kvm);
	vm_config_free(&hold->config);
}

int bench_hold(int argc, char **argv)
{
	struct hold hold = {.count = 1};
	struct kv_err err = {0};
	int status, r = vm_config_init(&hold.config);

	if (!r)
		r = vm_config_set(&hold.config, "serial", "none", &err);
	if (r < 0) {
		cli_error("bench hold", "%s", err_text(r));
		return CLI_EXIT_START;
	}
	status = cli_parse(&usage, argc, argv, &hold);
	if (status == CLI_GO_ON) {
		r = hold_start(&hold, &err);
		if (!r)
			r = loop_run(hold.loop);
		if (r < 0)
			cli_error("bench hold", "%s", err.text[0] ? err.text : err_text(r));
		status = r < 0 ? CLI_EXIT_START : hold_report(&hold);
	}
	hold_clear(&hold);
	return status;
}
