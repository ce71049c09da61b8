/* SPDX-License-Identifier: Apache-2.0 */
/* kvick run: one VM in the foreground. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/api.h"
#include "api/path.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/out_file.h"
#include "cli/run_memory.h"
#include "cli/run_opts.h"
#include "cli/run_stats.h"
#include "cli/timeline_file.h"
#include "config/config.h"
#include "kvm/kvm.h"
#include "legacy/chardev.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"

/* vCPU exits and loop handlers that --timeline-detail keeps, each; 24 bytes of memory a piece. */
#define DETAILS_MAX (1U << 20)

/* Everything of one run, in the order of creation. */
struct run {
	struct run_opts opts;
	struct timeline_file timeline_file;
	struct timeline tl;
	struct run_stats stats; /* its exits: NULL without --stats and --timeline-detail */
	struct exits *work;	/* of all loops; NULL without --timeline-detail */
	struct kv_log log;
	struct image *image;
	struct initrd *initrd;
	struct kvm *kvm;
	struct run_memory memory;
	struct loop *loop;
	int signal_fd;
	struct loop_source *signal_source;
	struct machine *machine;
	struct api_sock sock; /* of the control socket, if there is one */
	int api_fd;	      /* it, until api has it */
	struct api *api;
	int stopped_by; /* the signal that ended the run, or 0 */
};

/* What the SIGBUS handler needs; a signal handler has no other way to its context. */
static struct {
	atomic_flag begun; /* in one thread */
	const struct gmem *gm;
	const struct chardev *console;
	struct api_sock *sock;
} crash = {.begun = ATOMIC_FLAG_INIT};

static void line_print(void *ctx, enum log_level level, const char *line)
{
	static const char *const names[] = {"error: ", "warning: ", "", ""};

	/* Raw terminals need the carriage return, others ignore it at a line's end. */
	dprintf(STDERR_FILENO, "kvick: %s%s%s\n", names[level], line,
		isatty(STDERR_FILENO) ? "\r" : "");
}

/*
 * The monitor itself, or the guest's own code where KVM lets it, touched a page of an image or of
 * RAM in a file that is no longer there. Says so and goes: there is no way to give the guest back
 * what it lost.
 */
static void sigbus_handler(int signo, siginfo_t *info, void *context)
{
	static const char head[] = "kvick run: ", image[] = ": an image file",
			  ram[] = ": the file of the VM's memory";
	static const char shrank[] = " became shorter while the VM was using it, and pages that it "
				     "still needed are gone\n";
	static const char fails[] = " cannot be written or read any more: its file system is full, "
				    "or fails\n";
	const char *what = crash.gm ? gmem_overlay_name(crash.gm, info->si_addr) : NULL;
	const char *kind = what ? image : ram, *tail = shrank;

	/* Another thread that ran into it waits for the end. */
	while (atomic_flag_test_and_set(&crash.begun))
		pause();
	if (!what && crash.gm) {
		what = gmem_file_name(crash.gm, info->si_addr);
		tail = gmem_file_short(crash.gm) ? shrank : fails;
	}
	chardev_restore(crash.console);
	if (crash.sock)
		api_unlink(crash.sock);
	if (what && write(STDERR_FILENO, head, strlen(head)) > 0 &&
		write(STDERR_FILENO, what, strlen(what)) > 0 &&
		write(STDERR_FILENO, kind, strlen(kind)) > 0 &&
		write(STDERR_FILENO, tail, strlen(tail)) > 0)
		_exit(CLI_EXIT_IMAGE_SHRANK);
	/* Something else: let it end the process as it would have. */
	signal(signo, SIG_DFL);
	raise(signo);
}

/* The number of the signal that arrived, or 0. */
static int signal_take(int fd)
{
	struct signalfd_siginfo info;
	ssize_t n = read(fd, &info, sizeof(info));

	return n == (ssize_t)sizeof(info) ? (int)info.ssi_signo : 0;
}

/* Write the statistics where --stats says. Returns 0 or -errno, which has been printed. */
static int stats_write(struct run *run)
{
	run_stats_note(&run->stats, run->machine);
	return run_stats_write(&run->stats, run->opts.stats_path, &run->log);
}

static void signal_ready(void *ctx, uint32_t events)
{
	struct run *run = ctx;
	int signo = signal_take(run->signal_fd);
	struct kv_err err = {0};

	if (!signo)
		return;
	if (signo == SIGUSR1) {
		if (run->opts.stats)
			stats_write(run);
		return;
	}
	if (signo == SIGUSR2) {
		if (machine_disk_look(run->machine, NULL, &err) < 0)
			log_msg(&run->log, LOG_LEVEL_WARN, "%s", err.text);
		return;
	}
	if (!run->stopped_by)
		run->stopped_by = signo;
	machine_stop(run->machine);
}

/* Signals that end the run arrive in the loop, so that the machine is taken down in order. */
static int signals_open(struct run *run, struct kv_err *err)
{
	struct sigaction bus = {.sa_sigaction = sigbus_handler, .sa_flags = SA_SIGINFO};
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGBUS, &bus, NULL);
	run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run->signal_fd < 0)
		return err_set(err, -errno, "signalfd: %s", err_text(errno));
	r = loop_add_fd(run->loop, run->signal_fd, EPOLLIN, signal_ready, run, &run->signal_source);
	return r < 0 ? err_set(err, r, "event loop: %s", err_text(r)) : 0;
}

static void run_ended(void *ctx)
{
	struct run *run = ctx;

	loop_stop(run->loop);
}

/* Firecracker's line, which its users' scripts look for. */
static void run_booted(void *ctx)
{
	struct run *run = ctx;
	uint64_t us = (run->tl.ns[MARK_BOOT] - run->tl.ns[MARK_EXEC]) / 1000;
	uint64_t cpu_us = run->tl.cpu_ns[MARK_BOOT] / 1000;
	char line[160];

	if (!run->opts.config.boot_timer)
		return;
	snprintf(line, sizeof(line),
		"Guest-boot-time = %" PRIu64 " us %" PRIu64 " ms, %" PRIu64 " CPU us %" PRIu64
		" CPU ms",
		us, us / 1000, cpu_us, cpu_us / 1000);
	log_msg(&run->log, LOG_LEVEL_INFO, "%s", line);
}

/* Open the images: made once, before anything of the VM exists. */
static int images_open(struct run *run, struct kv_err *err)
{
	const struct vm_config *config = &run->opts.config;
	struct image_opts opts = {
		.protocol = config->protocol,
		.symbols_path = config->symbols,
		.log = &run->log,
	};
	int r = image_open(&run->image, config->kernel, &opts, err);

	if (!r)
		r = initrd_open(&run->initrd, (const char *const *)config->initrds,
			config->initrd_count, err);
	timeline_mark(&run->tl, MARK_IMAGE);
	return r;
}

/* What --stats and --timeline-detail need. Returns 0 or -ENOMEM. */
static int counters_make(struct run *run)
{
	uint32_t details = run->opts.timeline_detail ? DETAILS_MAX : 0;
	int r = 0;

	if (run->opts.stats || details)
		r = exits_create(&run->stats.exits, run->opts.config.cpus, details);
	if (!r && details)
		r = exits_create(&run->work, 1 + machine_iothreads(&run->opts.config), details);
	return r;
}

static void run_memory_over(void *ctx, const struct gmem *gm)
{
	run_memory_tell(&((struct run *)ctx)->memory, gm);
}

/*
 * The control socket is made before anything of the VM, so that an id that is in use is an error
 * before the VM starts, and after signals are caught, so that none leaves it behind. It costs
 * nothing without --id and --api-sock.
 */
static int sock_open(struct run *run, struct kv_err *err)
{
	const struct vm_config *config = &run->opts.config;
	char path[API_PATH_MAX];
	int r;

	if (config->no_api || (!config->named && !config->api_sock))
		return 0;
	r = config->api_sock ? 0 : api_path(path, config->id, err);
	if (!r)
		r = api_listen(config->api_sock ? config->api_sock : path, !config->api_sock,
			&run->sock, err);
	if (r < 0)
		return r;
	run->api_fd = r;
	crash.sock = &run->sock;
	return 0;
}

static int api_flush(void *ctx)
{
	struct run *run = ctx;

	return run->opts.stats ? stats_write(run) : -ENOTSUP;
}

/* The vCPUs run; from now on requests are answered. */
static int api_open(struct run *run, struct kv_err *err)
{
	struct api_params params = {
		.machine = run->machine,
		.config = &run->opts.config,
		.loop = run->loop,
		.listen_fd = run->api_fd,
		.flush = api_flush,
		.ctx = run,
	};
	int r;

	if (run->api_fd < 0)
		return 0;
	r = api_start(&run->api, &params, err);
	if (!r)
		run->api_fd = -1;
	return r;
}

/* Nobody finds the socket any more, and nobody is connected. */
static void api_close(struct run *run)
{
	crash.sock = NULL;
	api_unlink(&run->sock);
	api_stop(run->api);
	run->api = NULL;
	fd_close(&run->api_fd);
}

static int run_start(struct run *run, struct kv_err *err)
{
	struct gmem_watch watch = {run_memory_tick, &run->memory};
	struct machine_params params = {
		.config = &run->opts.config,
		.tl = &run->tl,
		.boot_marks = run->opts.timeline != NULL,
		.watch = &watch,
		.log = &run->log,
		.ended = run_ended,
		.booted = run_booted,
		.memory_over = run_memory_over,
		.ctx = run,
	};
	const struct kvm_cpuid2 *cpuid;
	int r = counters_make(run);

	if (r < 0)
		return err_set(err, r, "counters: %s", err_text(r));
	r = loop_create(&run->loop);
	if (r < 0)
		return err_set(err, r, "event loop: %s", err_text(r));
	loop_trace(run->loop, exits_cpu(run->work, 0));
	r = signals_open(run, err);
	if (!r)
		r = sock_open(run, err);
	if (r < 0)
		return r;
	run->memory.signal_fd = run->signal_fd;
	/* The slowest of what needs no memory, while the pool answers; kept until it is needed. */
	if (run->memory.lease)
		kvm_cpuid_supported(run->kvm, &cpuid);
	r = run_memory_take(&run->memory, err);
	if (!r)
		r = run_memory_lend(&run->memory, &run->opts.config, err);
	if (r < 0)
		return r;
	params.kvm = run->kvm;
	params.image = run->image;
	params.initrd = run->initrd;
	params.loop = run->loop;
	params.exits = run->stats.exits;
	params.work = run->work;
	params.chunks = run->memory.chunks;
	params.chunk_count = run->memory.chunk_count;
	params.lenders = run->memory.lenders;
	r = machine_create(&run->machine, &params, err);
	run_memory_hide(&run->memory);
	if (r < 0)
		return r;
	crash.gm = machine_gmem(run->machine);
	crash.console = machine_console(run->machine);
	if (crash.console && run->opts.config.serial == VM_SERIAL_PTY)
		log_msg(&run->log, LOG_LEVEL_INFO, "serial port: %s", chardev_name(crash.console));
	r = machine_start(run->machine, err);
	return r < 0 ? r : api_open(run, err);
}

/* The exit status of an ended run; says on stderr what is not self-evident. */
static int run_report(const struct run *run)
{
	const struct machine_end *end = machine_end(run->machine);

	switch (end->kind) {
	case MACHINE_RUNNING:
	case MACHINE_POWEROFF:
	case MACHINE_RESET:
	case MACHINE_QUIT:
		return CLI_EXIT_OK;
	case MACHINE_STOPPED:
		return CLI_EXIT_SIGNAL + run->stopped_by;
	case MACHINE_CRASHED:
		cli_error("run", "the guest crashed: %s", end->text);
		return CLI_EXIT_CRASH;
	case MACHINE_UNSUPPORTED:
		cli_error("run", "the guest cannot run on this host: %s", end->text);
		return CLI_EXIT_HOST;
	case MACHINE_KVM_FAILED:
		cli_error("run", "KVM failed: %s", end->text);
		return CLI_EXIT_KVM;
	case MACHINE_MEMORY_SHORT:
		cli_error("run", "%s", end->text);
		return CLI_EXIT_START;
	case MACHINE_IMAGE_SHRANK:
		cli_error("run", "%s", end->text);
		return CLI_EXIT_IMAGE_SHRANK;
	}
	return CLI_EXIT_KVM;
}

static void run_free(struct run *run)
{
	crash.console = NULL;
	crash.gm = NULL;
	api_close(run);
	run_stats_note(&run->stats, run->machine);
	machine_destroy(run->machine);
	run_memory_free(&run->memory);
	loop_remove(run->signal_source);
	fd_close(&run->signal_fd);
	loop_destroy(run->loop);
	initrd_destroy(run->initrd);
	image_destroy(run->image);
	kvm_close(run->kvm);
	timeline_mark(&run->tl, MARK_DOWN);
	run->machine = NULL;
}

/* The whole life of the VM. Returns the exit status. */
static int run_vm(struct run *run)
{
	struct kv_err err = {0};
	int r = run_memory_ask(&run->memory, &run->opts.config, &err);

	if (!r)
		r = images_open(run, &err);
	if (r < 0) {
		cli_error("run", "%s", err.text);
		return CLI_EXIT_START;
	}
	r = kvm_open(&run->kvm, "/dev/kvm", &err);
	if (r < 0) {
		cli_error("run", "%s; kvick doctor tells more", err.text);
		return CLI_EXIT_HOST;
	}
	r = run_start(run, &err);
	if (!r)
		r = loop_run(run->loop);
	if (r < 0) {
		/* The terminal is the machine's until it is gone. */
		api_close(run);
		machine_destroy(run->machine);
		run->machine = NULL;
		if (r == -ECANCELED && run->memory.stopped_by)
			return CLI_EXIT_SIGNAL + run->memory.stopped_by;
		cli_error("run", "%s", err.text[0] ? err.text : err_text(r));
		return CLI_EXIT_START;
	}
	chardev_restore(crash.console);
	return run_report(run);
}

/* What was asked for about the run that is over. Returns 0 or -errno, which has been printed. */
static int reports_write(struct run *run)
{
	struct timeline_detail detail = {
		.exits = run->stats.exits,
		.cpus = run->opts.config.cpus,
		.name = vcpu_exit_name,
		.work = run->work,
		.loops = 1 + machine_iothreads(&run->opts.config),
	};
	struct kv_err err = {0};
	int r = run->opts.stats && run->stats.exits ? stats_write(run) : 0;

	if (run->opts.timeline && timeline_file_write(&run->timeline_file, &run->tl,
					  run->work ? &detail : NULL, &err) < 0) {
		cli_error("run", "--timeline: %s", err.text);
		r = -EIO;
	}
	return r;
}

int cli_run(int argc, char **argv)
{
	/* Not on the stack: what a run does not use of it stays untouched. */
	static struct run run;
	const char *exec_ns = getenv("KVICK_EXEC_NS");
	uint64_t started_ns = 0;
	struct kv_err err = {0};
	int status;

	run.signal_fd = -1;
	run.api_fd = -1;
	if (exec_ns && uint_parse(exec_ns, 1, UINT64_MAX, &started_ns) < 0)
		started_ns = 0;
	timeline_init(&run.tl, started_ns);
	/* A console that went away and a limit on file sizes are errors of a call, not ends of the
	 * VM. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	run.log = (struct kv_log){.level = LOG_LEVEL_INFO, .sink = line_print};
	status = run_opts_parse(&run.opts, argc, argv);
	if (status != CLI_GO_ON)
		goto out_opts;
	if (run.opts.timeline &&
		timeline_file_check(&run.timeline_file, run.opts.timeline, &err) < 0) {
		cli_error("run", "--timeline: %s", err.text);
		status = CLI_EXIT_START;
		goto out_opts;
	}
	if (run.opts.stats_path && out_file_check(run.opts.stats_path, false, &err) < 0) {
		cli_error("run", "--stats: %s", err.text);
		status = CLI_EXIT_START;
		goto out_opts;
	}
	timeline_mark(&run.tl, MARK_CONFIG);
	status = run_vm(&run);
	run_free(&run);
	if (reports_write(&run) < 0 && status == CLI_EXIT_OK)
		status = CLI_EXIT_START;
	exits_destroy(run.work);
	exits_destroy(run.stats.exits);
out_opts:
	vm_config_free(&run.opts.config);
	return status;
}
