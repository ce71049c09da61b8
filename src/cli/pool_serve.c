/* SPDX-License-Identifier: Apache-2.0 */
/* kvick pool serve: the pool's process. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/cli.h"
#include "cli/pool.h"
#include "pool/notify.h"
#include "pool/path.h"
#include "pool/server.h"

#define UIDS_MAX 64

struct serve {
	struct pool_config config;
	uid_t allow[UIDS_MAX], trust[UIDS_MAX];
	const char *socket;
	struct kv_log log;
	struct loop *loop;
	struct pool_server *server;
	int signal_fd;
	struct loop_source *signal_source;
	char path[256]; /* of the socket that this program made, or "" */
	int held;	/* that socket, so that no other has its inode meanwhile; or -1 */
};

static void line_print(void *ctx, enum log_level level, const char *line)
{
	cli_error("pool serve", "%s", line);
}

static int size_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct serve *serve = ctx;
	uint64_t *to = &serve->config.size_bytes;
	int r;

	if (!strcmp(option->name, "chunk"))
		to = &serve->config.chunk_bytes;
	else if (!strcmp(option->name, "page-size"))
		to = &serve->config.page_bytes;
	else if (!strcmp(option->name, "user-limit"))
		to = &serve->config.user_bytes;
	r = cli_size(option->name, value, "64M or 8G", to, err);
	if (!r && !*to && to != &serve->config.size_bytes)
		r = err_set(err, -EINVAL, "--%s %s: a size above 0", option->name, value);
	return r;
}

static int count_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct serve *serve = ctx;
	bool node = !strcmp(option->name, "node"), threads = !strcmp(option->name, "threads");
	uint64_t min = node ? 0 : threads ? 1 : 2, max = node ? 1023 : threads ? 64 : 65536, n;

	if (uint_parse(value, min, max, &n) < 0)
		return err_set(err, -EINVAL, "--%s %s: %llu to %llu", option->name, value,
			(unsigned long long)min, (unsigned long long)max);
	if (node)
		serve->config.node = (int)n;
	else if (threads)
		serve->config.threads = (unsigned)n;
	else
		serve->config.clients_max = (unsigned)n;
	return 0;
}

static int uid_of(const char *text, uid_t *uid)
{
	FILE *file;
	struct passwd *entry;
	uint64_t n;

	if (!uint_parse(text, 0, UINT32_MAX - 1, &n)) {
		*uid = (uid_t)n;
		return 0;
	}
	/* Read by hand: a static program cannot load the libraries that getpwnam() may want. */
	file = fopen("/etc/passwd", "re");
	if (!file)
		return -errno;
	while ((entry = fgetpwent(file)) && strcmp(entry->pw_name, text) != 0)
		;
	if (entry)
		*uid = entry->pw_uid;
	fclose(file);
	return entry ? 0 : -ENOENT;
}

static int user_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct serve *serve = ctx;
	uid_t uid = 0;

	if (uid_of(value, &uid) < 0)
		return err_set(err, -EINVAL,
			"--%s %s: no such user in /etc/passwd (a number may be "
			"given)",
			option->name, value);
	if (serve->config.allow_count == UIDS_MAX || serve->config.trust_count == UIDS_MAX)
		return err_set(err, -EINVAL, "--%s: at most %d users", option->name, UIDS_MAX);
	/* Who is trusted is allowed, too. */
	serve->allow[serve->config.allow_count++] = uid;
	if (!strcmp(option->name, "trust"))
		serve->trust[serve->config.trust_count++] = uid;
	return 0;
}

static int verify_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	static const char *const names[] = {"none", "sample", "all"};
	struct serve *serve = ctx;

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(value, names[i])) {
			serve->config.verify = (enum pool_verify)i;
			return 0;
		}
	return err_set(err, -EINVAL, "--verify %s: none, sample or all", value);
}

static int socket_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct serve *)ctx)->socket = value;
	return *value ? 0 : err_set(err, -EINVAL, "--socket: the path is empty");
}

static const struct cli_option options[] = {
	{"size", "SIZE", "memory to keep (needed; 0: none until it grows)", size_set, 0},
	{"page-size", "4K|2M|1G",
		"pages that it is made of (default 4K); the others are huge\n"
		"pages, which must be reserved",
		size_set, 0},
	{"chunk", "SIZE",
		"the unit of leases (default: a sixteenth of the size as a\n"
		"power of two, 16M to 1G)",
		size_set, 0},
	{"node", "N", "take memory of this NUMA node only", count_set, 0},
	{"threads", "N",
		"threads that fill and clean, 1 to 64 (default: one a CPU, at\n"
		"most 8)",
		count_set, 0},
	{"socket", "PATH",
		"where to listen (default: /run/kvick/pool.sock for root,\n"
		"$XDG_RUNTIME_DIR/kvick/pool.sock for others; a socket passed\n"
		"by systemd comes first)",
		socket_set, 0},
	{"allow", "USER", "also serve this user (name or number); repeatable", user_set,
		CLI_OPT_REPEAT},
	{"trust", "USER",
		"serve this user and clean its memory in place, which is faster:\n"
		"see kvick-pool(1) for what its programs are trusted not to do",
		user_set, CLI_OPT_REPEAT},
	{"user-limit", "SIZE",
		"what one user may lease at a time, at least a chunk (default:\n"
		"everything)",
		size_set, 0},
	{"clients", "N",
		"connections to serve at a time, 2 to 65536 (default 1024); one\n"
		"user gets at most half of them",
		count_set, 0},
	{"verify", "none|sample|all", "read memory again after cleaning in place (default none)",
		verify_set, 0},
};

static const struct cli_usage usage = {
	.verb = "pool serve",
	.synopsis = "[OPTION...] --size SIZE",
	.about = "Keep memory that is present and zero, and lease it to `kvick run --memory\n"
		 "SIZE,backing=pool` and others. What comes back is made zero again in the\n"
		 "background before it is offered to anyone. Runs until SIGTERM or SIGINT.\n",
	.options = options,
	.option_count = ARRAY_LEN(options),
	.more = "Exit status: 0 stopped by a signal, 1 it could not start, 2 wrong command line.\n",
};

static void signal_ready(void *ctx, uint32_t events)
{
	struct serve *serve = ctx;
	struct signalfd_siginfo info;

	if (read(serve->signal_fd, &info, sizeof(info)) == sizeof(info))
		loop_stop(serve->loop);
}

static int signals_open(struct serve *serve)
{
	sigset_t set;

	/* A file that somebody opens while chunk_alone() looks at it raises SIGIO. */
	signal(SIGIO, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	serve->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (serve->signal_fd < 0)
		return -errno;
	return loop_add_fd(
		serve->loop, serve->signal_fd, EPOLLIN, signal_ready, serve, &serve->signal_source);
}

/* The listening socket: systemd's, or an own one, which is then held. */
static int socket_open(struct serve *serve, struct kv_err *err)
{
	int fd = notify_socket(), r;

	if (fd == -EINVAL)
		return err_set(err, fd,
			"LISTEN_FDS: what is needed is one listening socket, "
			"ListenSequentialPacket=");
	if (fd >= 0)
		return fd;
	if (serve->socket)
		r = snprintf(serve->path, sizeof(serve->path), "%s", serve->socket) <
				    (int)sizeof(serve->path)
			    ? 0
			    : err_set(err, -ENAMETOOLONG, "--socket: the path is too long");
	else
		r = pool_path(serve->path, sizeof(serve->path), err);
	if (!r)
		r = pool_listen(serve->path, serve->config.allow_count > 0, err);
	if (r >= 0)
		serve->held = open(serve->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return r;
}

/* Take the socket away, if it still is this program's: another may have taken its place. */
static void socket_remove(struct serve *serve)
{
	if (serve->held >= 0 && fd_is_at(serve->held, AT_FDCWD, serve->path))
		unlink(serve->path);
	fd_close(&serve->held);
}

static int serve_open(struct serve *serve, struct kv_err *err)
{
	struct rlimit files;
	int fd, r = loop_create(&serve->loop);

	if (!r)
		r = signals_open(serve);
	if (r < 0)
		return err_set(err, r, "event loop: %s", err_text(r));
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	/* Other programs of the same user shall not get at the memory by ptrace() or /proc. */
	prctl(PR_SET_DUMPABLE, 0);
	fd = socket_open(serve, err);
	if (fd < 0)
		return fd;
	r = pool_server_create(&serve->server, &serve->config, fd, serve->loop, &serve->log, err);
	if (r < 0) {
		fd_close(&fd);
		socket_remove(serve);
	}
	return r;
}

static int serve_run(struct serve *serve)
{
	struct kv_err err = {0};
	int r = serve_open(serve, &err);

	if (!r) {
		notify_send("READY=1");
		r = loop_run(serve->loop);
		if (r < 0)
			err_set(&err, r, "event loop: %s", err_text(r));
		notify_send("STOPPING=1");
	}
	if (r < 0)
		cli_error("pool serve", "%s", err.text);
	/* The socket goes first, so that nobody finds a server that is on its way out. */
	socket_remove(serve);
	pool_server_destroy(serve->server);
	loop_remove(serve->signal_source);
	fd_close(&serve->signal_fd);
	loop_destroy(serve->loop);
	return r < 0 ? CLI_EXIT_START : CLI_EXIT_OK;
}

int pool_serve_run(int argc, char **argv)
{
	struct serve serve = {
		.config = {.size_bytes = UINT64_MAX, .page_bytes = PAGE_BYTES, .node = -1},
		.log = {.level = LOG_LEVEL_INFO, .sink = line_print},
		.signal_fd = -1,
		.held = -1,
	};
	int status = cli_parse(&usage, argc, argv, &serve);

	if (status != CLI_GO_ON)
		return status;
	if (serve.config.size_bytes == UINT64_MAX)
		return cli_usage_error("pool serve", "--size is missing");
	serve.config.allow = serve.allow;
	serve.config.trust = serve.trust;
	return serve_run(&serve);
}
