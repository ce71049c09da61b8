/* SPDX-License-Identifier: Apache-2.0 */
/* Process 1 of the emulated host; agent.h says what it does and what it speaks. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/random.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define MAX_JOBS 64
/* How long a command's descendants may keep its output open after it has ended. */
#define GRACE_NS 250000000ull
/* How long killed descendants may take to go before the command is reported all the same. */
#define REAP_NS	    2000000000ull
#define CGROUP_ROOT "/sys/fs/cgroup"
#define PORT_NAME   "kvick.agent"

struct job {
	uint32_t id;
	pid_t pid;
	bool reaped;
	bool killed; /* its cgroup has been killed after its end */
	int in;
	int out;
	int err;
	bool in_eof;
	size_t in_off;
	size_t in_len;
	char *in_buf;
	uint64_t start_ns;
	uint64_t end_ns;
	struct exit_report report;
	struct job *next;
};

struct agent {
	int port;
	int sigfd;
	unsigned int njobs;
	struct job *jobs;
	unsigned char *window;
	size_t window_bytes;
	size_t rx_len;
	unsigned char rx[sizeof(struct frame_head) + FRAME_MAX];
};

/* The agent's own death is a kernel panic that carries this line in the console log. */
__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "testbed agent: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void power_off(void)
{
	reboot(RB_POWER_OFF);
	die("power off: %s", strerror(errno));
}

static void port_write(struct agent *a, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(a->port, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			power_off();
		p += n;
		len -= (size_t)n;
	}
}

static void send_frame(struct agent *a, uint32_t type, uint32_t id, const void *data, uint32_t len)
{
	unsigned char buf[sizeof(struct frame_head) + 4096];
	struct frame_head h = {.len = len, .type = type, .id = id};

	/* A small frame in one write: each write is a trip to the emulator's device. */
	memcpy(buf, &h, sizeof(h));
	if (len <= 4096) {
		if (len)
			memcpy(buf + sizeof(h), data, len);
		port_write(a, buf, sizeof(h) + len);
		return;
	}
	port_write(a, buf, sizeof(h));
	port_write(a, data, len);
}

static int read_file(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, cap - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return 0;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	close(fd);
	return n < 0 ? -EIO : 0;
}

static void port_open(struct agent *a)
{
	const char *base = "/sys/class/virtio-ports";
	struct dirent *e;
	char path[300], name[64];
	DIR *d = opendir(base);

	if (!d)
		die("%s: %s", base, strerror(errno));
	a->port = -1;
	while (a->port < 0 && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/name", base, e->d_name);
		if (read_file(path, name, sizeof(name)) || strcmp(name, PORT_NAME) != 0)
			continue;
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		a->port = open(path, O_RDWR | O_CLOEXEC);
		if (a->port < 0)
			die("%s: %s", path, strerror(errno));
	}
	closedir(d);
	if (a->port < 0)
		die("no virtio port is called %s", PORT_NAME);
}

static void window_open(struct agent *a)
{
	const char *base = "/sys/bus/pci/devices";
	char path[300], vendor[16], device[16];
	struct dirent *e;
	struct stat st;
	DIR *d = opendir(base);
	int fd;

	if (!d)
		die("%s: %s", base, strerror(errno));
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/vendor", base, e->d_name);
		if (read_file(path, vendor, sizeof(vendor)))
			continue;
		snprintf(path, sizeof(path), "%s/%s/device", base, e->d_name);
		if (read_file(path, device, sizeof(device)))
			continue;
		if (strcmp(vendor, "0x1af4") != 0 || strcmp(device, "0x1110") != 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s/enable", base, e->d_name);
		write_file(path, "1");
		snprintf(path, sizeof(path), "%s/%s/resource2", base, e->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st))
			die("%s: %s", path, strerror(errno));
		a->window_bytes = (size_t)st.st_size;
		a->window = mmap(NULL, a->window_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (a->window == MAP_FAILED)
			die("map %s: %s", path, strerror(errno));
		close(fd);
		break;
	}
	closedir(d);
	if (!a->window)
		die("no ivshmem device");
}

/* The clock and the random numbers of a restored host are those of the moment it was saved. */
static void do_hello(struct agent *a, const unsigned char *p, uint32_t len)
{
	uint32_t seed[2 + 8] = {256, 32}; /* struct rand_pool_info: bits, bytes, the bytes */
	struct timespec t;
	struct utsname u;
	uint64_t wall_ns;
	int fd;

	if (len != 40)
		die("a HELLO frame of %u bytes", len);
	memcpy(&wall_ns, p, 8);
	t.tv_sec = (time_t)(wall_ns / 1000000000u);
	t.tv_nsec = (long)(wall_ns % 1000000000u);
	clock_settime(CLOCK_REALTIME, &t);
	memcpy(seed + 2, p + 8, 32);
	fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		ioctl(fd, RNDADDENTROPY, seed);
		ioctl(fd, RNDRESEEDCRNG);
		close(fd);
	}
	uname(&u);
	send_frame(a, F_HELLO, 0, u.release, (uint32_t)strlen(u.release));
}

static struct job *job_find(struct agent *a, uint32_t id)
{
	struct job *j = a->jobs;

	while (j && j->id != id)
		j = j->next;
	return j;
}

static void cgroup_path(char *buf, size_t cap, const struct job *j, const char *file)
{
	snprintf(buf, cap, CGROUP_ROOT "/job-%u%s", j->id, file);
}

static unsigned int cgroup_count(const struct job *j)
{
	char path[96];
	unsigned int n = 0;
	FILE *f;
	int c;

	cgroup_path(path, sizeof(path), j, "/cgroup.procs");
	f = fopen(path, "re");
	if (!f)
		return 0;
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static void cgroup_kill(const struct job *j)
{
	char path[96];

	cgroup_path(path, sizeof(path), j, "/cgroup.kill");
	write_file(path, "1");
}

struct run_request {
	struct run_head head;
	gid_t *groups;
	char *cwd;
	char **argv;
	char **envp;
};

static void run_free(struct run_request *r)
{
	free(r->groups);
	free(r->argv);
	free(r->envp);
}

/* Points into the frame, which lives until the child has been forked. */
static int run_parse(struct run_request *r, unsigned char *p, uint32_t len)
{
	unsigned char *end = p + len;
	uint32_t i, n;

	memset(r, 0, sizeof(*r));
	if (len < sizeof(r->head))
		return -EINVAL;
	memcpy(&r->head, p, sizeof(r->head));
	p += sizeof(r->head);
	if (!r->head.argc || r->head.argc > 4096 || r->head.envc > 4096 || r->head.ngroups > 32)
		return -E2BIG;
	n = r->head.ngroups * 4;
	if ((size_t)(end - p) < n)
		return -EINVAL;
	r->groups = calloc(r->head.ngroups + 1, sizeof(*r->groups));
	r->argv = calloc(r->head.argc + 1, sizeof(*r->argv));
	r->envp = calloc(r->head.envc + 1, sizeof(*r->envp));
	if (!r->groups || !r->argv || !r->envp)
		return -ENOMEM;
	memcpy(r->groups, p, n);
	p += n;
	for (i = 0; i < 1 + r->head.argc + r->head.envc; i++) {
		unsigned char *nul = memchr(p, 0, (size_t)(end - p));

		if (!nul)
			return -EINVAL;
		if (!i)
			r->cwd = (char *)p;
		else if (i <= r->head.argc)
			r->argv[i - 1] = (char *)p;
		else
			r->envp[i - 1 - r->head.argc] = (char *)p;
		p = nul + 1;
	}
	return 0;
}

static int last_cpu_only(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)sysconf(_SC_NPROCESSORS_ONLN) - 1, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

__attribute__((noreturn)) static void child(
	const struct job *j, const struct run_request *r, int in, int out, int err)
{
	const char *what = "join its cgroup";
	char path[96];
	sigset_t none;
	int rc;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		_exit(126);
	cgroup_path(path, sizeof(path), j, "/cgroup.procs");
	rc = write_file(path, "0");
	if (rc) {
		errno = -rc;
		goto fail;
	}
	what = "take its CPU";
	if (!r->head.spread && last_cpu_only())
		goto fail;
	what = "set its user";
	if (setgroups(r->head.ngroups, r->groups) || setgid(r->head.gid) || setuid(r->head.uid))
		goto fail;
	what = "enter its working folder";
	if (chdir(r->cwd))
		goto fail;
	what = "execute it";
	environ = r->envp;
	execvp(r->argv[0], r->argv);
fail:
	rc = errno == ENOENT && environ == r->envp ? 127 : 126;
	fprintf(stderr, "testbed agent: %s: cannot %s: %s\n", r->argv[0], what, strerror(errno));
	_exit(rc);
}

static void close_pair(int p[2])
{
	if (p[0] >= 0)
		close(p[0]);
	if (p[1] >= 0)
		close(p[1]);
}

/* A command that could not even be forked ends like one that could not be executed. */
static void run_refuse(struct agent *a, uint32_t id, const char *why)
{
	struct exit_report rep = {.wait_status = 126 << 8};
	char text[160];
	int n;

	n = snprintf(text, sizeof(text), "testbed agent: cannot run the command: %s\n", why);
	send_frame(a, F_STDERR, id, text, (uint32_t)n);
	send_frame(a, F_EXIT, id, &rep, sizeof(rep));
}

static int job_spawn(struct job *j, const struct run_request *r)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
	char path[96];
	int rc;

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		goto err_pipes;
	/* A command may ask for a pipe it can pour much into while the host is slow. */
	fcntl(out[1], F_SETPIPE_SZ, 256 << 10);
	cgroup_path(path, sizeof(path), j, "");
	if (mkdir(path, 0755))
		goto err_pipes;
	j->start_ns = now_ns();
	j->pid = fork();
	if (j->pid < 0)
		goto err_cgroup;
	if (!j->pid)
		child(j, r, in[0], out[1], err[1]);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	j->in = in[1];
	j->out = out[0];
	j->err = err[0];
	return 0;
err_cgroup:
	rmdir(path);
err_pipes:
	rc = -errno;
	close_pair(in);
	close_pair(out);
	close_pair(err);
	return rc;
}

static void do_run(struct agent *a, uint32_t id, unsigned char *p, uint32_t len)
{
	struct run_request r;
	struct job *j;
	int rc;

	if (job_find(a, id))
		die("job %u runs already", id);
	rc = run_parse(&r, p, len);
	if (rc) {
		run_free(&r);
		run_refuse(a, id, strerror(-rc));
		return;
	}
	j = calloc(1, sizeof(*j));
	if (j)
		j->in_buf = malloc(STDIN_WINDOW);
	if (!j || !j->in_buf)
		die("out of memory");
	j->id = id;
	rc = a->njobs < MAX_JOBS ? job_spawn(j, &r) : -EAGAIN;
	run_free(&r);
	if (rc) {
		run_refuse(a, id, strerror(-rc));
		free(j->in_buf);
		free(j);
		return;
	}
	j->next = a->jobs;
	a->jobs = j;
	a->njobs++;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Gives the command what waits for it; what a command no longer reads counts as taken. */
static void stdin_push(struct agent *a, struct job *j)
{
	uint32_t taken = 0;

	while (j->in_len) {
		ssize_t n = j->in < 0 ? (ssize_t)j->in_len
				      : write(j->in, j->in_buf + j->in_off, j->in_len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			close_fd(&j->in);
			continue;
		}
		j->in_off += (size_t)n;
		j->in_len -= (size_t)n;
		taken += (uint32_t)n;
	}
	if (j->in_eof && !j->in_len)
		close_fd(&j->in);
	if (taken)
		send_frame(a, F_STDIN_ACK, j->id, &taken, sizeof(taken));
}

static void do_stdin(struct agent *a, uint32_t id, const void *p, uint32_t len)
{
	struct job *j = job_find(a, id);

	/* The command may have ended while this was on its way. */
	if (!j)
		return;
	if (!len)
		j->in_eof = true;
	if (len > STDIN_WINDOW - j->in_len)
		die("job %u: more input than the window of %u bytes", id, STDIN_WINDOW);
	if (j->in_off + j->in_len + len > STDIN_WINDOW) {
		memmove(j->in_buf, j->in_buf + j->in_off, j->in_len);
		j->in_off = 0;
	}
	memcpy(j->in_buf + j->in_off + j->in_len, p, len);
	j->in_len += len;
	stdin_push(a, j);
}

static void do_kill(struct agent *a, uint32_t id, const unsigned char *p, uint32_t len)
{
	struct job *j = job_find(a, id);
	uint32_t arg[2];

	if (len != sizeof(arg))
		die("a KILL frame of %u bytes", len);
	memcpy(arg, p, sizeof(arg));
	if (!j)
		return;
	if (arg[1])
		cgroup_kill(j);
	else if (!j->reaped)
		kill(j->pid, (int)arg[0]);
}

static void make_parents(char *path)
{
	char *s;

	for (s = strchr(path + 1, '/'); s; s = strchr(s + 1, '/')) {
		*s = 0;
		mkdir(path, 0755);
		*s = '/';
	}
}

/* Written beside and renamed, so that a program that is running can be replaced. */
static int put_part(
	struct agent *a, char *path, const struct done_report *req, uint32_t flags, uint64_t len)
{
	char tmp[4096 + 8];
	uint64_t off = 0;
	int fd, rc = 0;

	snprintf(tmp, sizeof(tmp), "%s.put", path);
	if (flags & 1)
		make_parents(path);
	fd = open(tmp, O_WRONLY | O_CLOEXEC | (flags & 1 ? O_CREAT | O_TRUNC : O_APPEND), 0600);
	if (fd < 0)
		return -errno;
	while (off < len && !rc) {
		ssize_t n = write(fd, a->window + off, len - off);

		if (n < 0)
			rc = -errno;
		else
			off += (uint64_t)n;
	}
	if (!rc && (flags & 2)) {
		if (fchmod(fd, req->mode & 07777) || rename(tmp, path))
			rc = -errno;
	}
	close(fd);
	if (rc)
		unlink(tmp);
	return rc;
}

static void do_put(struct agent *a, uint32_t id, unsigned char *p, uint32_t len)
{
	struct done_report rep = {0};
	uint32_t flags;
	uint64_t n;

	if (len < 18 || len > 16 + 4096 || p[len - 1] || p[16] != '/')
		die("a malformed PUT frame");
	memcpy(&rep.mode, p, 4);
	memcpy(&flags, p + 4, 4);
	memcpy(&n, p + 8, 8);
	if (n > a->window_bytes)
		die("a PUT of %llu bytes", (unsigned long long)n);
	rep.error = (uint32_t)-put_part(a, (char *)p + 16, &rep, flags, n);
	rep.moved_bytes = rep.error ? 0 : n;
	send_frame(a, F_DONE, id, &rep, sizeof(rep));
}

static void do_get(struct agent *a, uint32_t id, unsigned char *p, uint32_t len)
{
	struct done_report rep = {0};
	uint64_t off, n;
	struct stat st;
	ssize_t r = 1;
	int fd;

	if (len < 18 || p[len - 1])
		die("a malformed GET frame");
	memcpy(&off, p, 8);
	memcpy(&n, p + 8, 8);
	if (n > a->window_bytes)
		die("a GET of %llu bytes", (unsigned long long)n);
	fd = open((char *)p + 16, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st)) {
		rep.error = (uint32_t)errno;
	} else {
		rep.mode = st.st_mode;
		rep.size_bytes = (uint64_t)st.st_size;
		/* Files of proc and sysfs say size 0: the end is where read says it is. */
		while (rep.moved_bytes < n && r > 0) {
			r = pread(fd, a->window + rep.moved_bytes, n - rep.moved_bytes,
				(off_t)(off + rep.moved_bytes));
			if (r > 0)
				rep.moved_bytes += (uint64_t)r;
		}
		if (r < 0)
			rep.error = (uint32_t)errno;
	}
	if (fd >= 0)
		close(fd);
	send_frame(a, F_DONE, id, &rep, sizeof(rep));
}

static void frame_handle(struct agent *a, const struct frame_head *h, unsigned char *p)
{
	switch (h->type) {
	case F_HELLO:
		do_hello(a, p, h->len);
		break;
	case F_RUN:
		do_run(a, h->id, p, h->len);
		break;
	case F_STDIN:
		do_stdin(a, h->id, p, h->len);
		break;
	case F_KILL:
		do_kill(a, h->id, p, h->len);
		break;
	case F_PUT:
		do_put(a, h->id, p, h->len);
		break;
	case F_GET:
		do_get(a, h->id, p, h->len);
		break;
	default:
		die("a frame of type %u", h->type);
	}
}

static void port_read(struct agent *a)
{
	struct frame_head h;
	size_t off = 0;
	ssize_t n = read(a->port, a->rx + a->rx_len, sizeof(a->rx) - a->rx_len);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		power_off();
	a->rx_len += (size_t)n;
	while (a->rx_len - off >= sizeof(h)) {
		memcpy(&h, a->rx + off, sizeof(h));
		if (h.len > FRAME_MAX)
			die("a frame of %u bytes", h.len);
		if (a->rx_len - off < sizeof(h) + h.len)
			break;
		frame_handle(a, &h, a->rx + off + sizeof(h));
		off += sizeof(h) + h.len;
	}
	a->rx_len -= off;
	memmove(a->rx, a->rx + off, a->rx_len);
}

static void job_output(struct agent *a, struct job *j, int *fd, uint32_t type)
{
	char buf[FRAME_MAX];
	ssize_t n = read(*fd, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		close_fd(fd);
	else
		send_frame(a, type, j->id, buf, (uint32_t)n);
}

/* As process 1 the agent also inherits, and must reap, what others leave behind. */
static void reap(struct agent *a)
{
	struct signalfd_siginfo si;
	struct rusage ru;
	struct job *j;
	pid_t pid;
	int status;

	while (read(a->sigfd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		;
	while ((pid = wait4(-1, &status, WNOHANG, &ru)) > 0) {
		for (j = a->jobs; j && (j->pid != pid || j->reaped); j = j->next)
			;
		if (!j)
			continue;
		j->reaped = true;
		j->end_ns = now_ns();
		j->report.wait_status = (uint32_t)status;
		j->report.duration_ns = j->end_ns - j->start_ns;
		j->report.user_us =
			(uint64_t)ru.ru_utime.tv_sec * 1000000u + (uint64_t)ru.ru_utime.tv_usec;
		j->report.system_us =
			(uint64_t)ru.ru_stime.tv_sec * 1000000u + (uint64_t)ru.ru_stime.tv_usec;
		j->report.maxrss_kib = (uint64_t)ru.ru_maxrss;
	}
}

/* Output that is not read yet, or an end of file that is not seen yet. */
static bool job_pending(const struct job *j)
{
	struct pollfd fds[2] = {{.fd = j->out, .events = POLLIN}, {.fd = j->err, .events = POLLIN}};

	return poll(fds, 2, 0) > 0;
}

/*
 * True when a command that has ended, and all it started, are gone: its output is read to the end,
 * and what still runs after the grace time is killed.
 */
static bool job_over(struct job *j)
{
	uint64_t now = now_ns();
	char path[96];

	if (!j->reaped || job_pending(j))
		return false;
	if ((j->out >= 0 || j->err >= 0) && !j->killed && now - j->end_ns < GRACE_NS)
		return false;
	if (!j->killed) {
		j->killed = true;
		j->report.leftovers = cgroup_count(j);
		if (j->report.leftovers)
			cgroup_kill(j);
	}
	cgroup_path(path, sizeof(path), j, "");
	if (rmdir(path) && errno != ENOENT && now - j->end_ns < GRACE_NS + REAP_NS)
		return false;
	return (j->out < 0 && j->err < 0) || now - j->end_ns >= GRACE_NS + REAP_NS;
}

static void jobs_finish(struct agent *a)
{
	struct job **pp = &a->jobs;

	while (*pp) {
		struct job *j = *pp;

		if (!job_over(j)) {
			pp = &j->next;
			continue;
		}
		*pp = j->next;
		a->njobs--;
		close_fd(&j->in);
		close_fd(&j->out);
		close_fd(&j->err);
		send_frame(a, F_EXIT, j->id, &j->report, sizeof(j->report));
		free(j->in_buf);
		free(j);
	}
}

static int add_fd(struct pollfd *fds, int n, int fd, short events)
{
	fds[n].fd = fd;
	fds[n].events = events;
	fds[n].revents = 0;
	return n + 1;
}

static void agent_turn(struct agent *a)
{
	struct pollfd fds[2 + 3 * MAX_JOBS];
	struct job *j;
	int n = 0, timeout_ms = -1;

	n = add_fd(fds, n, a->port, POLLIN);
	n = add_fd(fds, n, a->sigfd, POLLIN);
	for (j = a->jobs; j; j = j->next) {
		/* poll() skips negative descriptors, so every job takes its three places. */
		n = add_fd(fds, n, j->in_len ? j->in : -1, POLLOUT);
		n = add_fd(fds, n, j->out, POLLIN);
		n = add_fd(fds, n, j->err, POLLIN);
		if (j->reaped)
			timeout_ms = 2;
	}
	if (poll(fds, (nfds_t)n, timeout_ms) < 0 && errno != EINTR)
		die("poll: %s", strerror(errno));
	n = 2;
	for (j = a->jobs; j; j = j->next, n += 3) {
		if (fds[n].revents)
			stdin_push(a, j);
		if (fds[n + 1].revents)
			job_output(a, j, &j->out, F_STDOUT);
		if (fds[n + 2].revents)
			job_output(a, j, &j->err, F_STDERR);
	}
	if (fds[1].revents)
		reap(a);
	jobs_finish(a);
	/* Last, because it may change the list of jobs that the places above belong to. */
	if (fds[0].revents & POLLIN)
		port_read(a);
	else if (fds[0].revents & (POLLHUP | POLLERR))
		power_off();
}

int main(void)
{
	struct agent *a = calloc(1, sizeof(*a));
	sigset_t chld;

	if (!a)
		die("out of memory");
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	a->sigfd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	if (a->sigfd < 0)
		die("signalfd: %s", strerror(errno));
	port_open(a);
	window_open(a);
	send_frame(a, F_READY, 0, NULL, 0);
	for (;;)
		agent_turn(a);
}
