/* SPDX-License-Identifier: Apache-2.0 */
#include "nolibc.h"
#include <asm/ioctls.h>
#include "out.h"
#include "cmd.h"

#define NS_PER_MS     1000000UL
#define SYSLOG_READ   3 /* syslog(2): read all messages kept */
#define SYSLOG_SIZE   10
#define EXIT_NO_EXEC  127
#define TEXT_BYTES    512
#define CLOCK_NAP_MS  50UL
#define CLOCK_SAMPLES 1000

static int cmd_echo(int argc, char **argv, char *why)
{
	char text[TEXT_BYTES];

	(void)why;
	text[0] = 0;
	for (int i = 1; i < argc; i++) {
		if (i > 1)
			strlcat(text, " ", sizeof(text));
		strlcat(text, argv[i], sizeof(text));
	}
	say("%s", text);
	return 0;
}

/* Counts the processors in a list such as "0-3,5". */
static unsigned long count_list(const char *s)
{
	unsigned long count = 0;

	while (*s >= '0' && *s <= '9') {
		unsigned long first = 0, last;

		for (; *s >= '0' && *s <= '9'; s++)
			first = first * 10 + (unsigned long)(*s - '0');
		last = first;
		if (*s == '-') {
			last = 0;
			for (s++; *s >= '0' && *s <= '9'; s++)
				last = last * 10 + (unsigned long)(*s - '0');
		}
		count += last - first + 1;
		if (*s == ',')
			s++;
	}
	return count;
}

static int cmd_cpus(int argc, char **argv, char *why)
{
	static const char path[] = "/sys/devices/system/cpu/online";
	char list[1024];
	long err = read_text(path, list, sizeof(list));

	(void)argc;
	(void)argv;
	if (err < 0)
		return fail(why, path, err);
	say("cpus: %lu", count_list(list));
	return 0;
}

static int cmd_mem(int argc, char **argv, char *why)
{
	char text[256];
	long err = read_text("/proc/meminfo", text, sizeof(text));
	char *p = text;
	char *end;

	(void)argc;
	(void)argv;
	if (err < 0)
		return fail(why, "/proc/meminfo", err);
	if (strncmp(p, "MemTotal:", 9))
		return fail(why, "/proc/meminfo does not begin with MemTotal", 0);
	for (p += 9; *p == ' '; p++)
		;
	end = strchr(p, '\n');
	if (end)
		*end = 0;
	say("mem: %s", p);
	return 0;
}

static int cat_file(const char *path, char *why)
{
	char buf[4096];
	char last = '\n';
	int fd = sys_open(path, O_RDONLY, 0);
	long n;

	if (fd < 0)
		return fail(why, path, fd);
	while ((n = sys_read(fd, buf, sizeof(buf))) > 0) {
		last = buf[n - 1];
		(void)write_all(STDOUT_FILENO, buf, (unsigned long)n);
	}
	sys_close(fd);
	if (last != '\n')
		(void)write_all(STDOUT_FILENO, "\n", 1);
	return n < 0 ? fail(why, path, n) : 0;
}

static int cmd_cat(int argc, char **argv, char *why)
{
	return argc == 2 ? cat_file(argv[1], why) : fail(why, "needs one FILE", 0);
}

static int cmd_irqs(int argc, char **argv, char *why)
{
	(void)argc;
	(void)argv;
	return cat_file("/proc/interrupts", why);
}

static int cmd_uptime(int argc, char **argv, char *why)
{
	char text[64];
	long err = read_text("/proc/uptime", text, sizeof(text));
	char *end;

	(void)argc;
	(void)argv;
	if (err < 0)
		return fail(why, "/proc/uptime", err);
	end = strchr(text, ' ');
	if (end)
		*end = 0;
	say("uptime: %s s", text);
	return 0;
}

static int cmd_ls(int argc, char **argv, char *why)
{
	char buf[2048] __attribute__((aligned(8))) = {0};
	int fd;
	long n;

	if (argc != 2)
		return fail(why, "needs one DIR", 0);
	fd = sys_open(argv[1], O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fail(why, argv[1], fd);
	while ((n = sys_getdents64(fd, (struct linux_dirent64 *)buf, sizeof(buf))) > 0) {
		for (long at = 0; at < n;) {
			struct linux_dirent64 *d = (struct linux_dirent64 *)(buf + at);

			if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
				say("%s%s", d->d_name, d->d_type == DT_DIR ? "/" : "");
			at += d->d_reclen;
		}
	}
	sys_close(fd);
	return n < 0 ? fail(why, argv[1], n) : 0;
}

static int cmd_write(int argc, char **argv, char *why)
{
	char text[TEXT_BYTES];
	unsigned long len;
	long err;
	int fd;

	if (argc != 3)
		return fail(why, "needs FILE TEXT (quote a text with spaces)", 0);
	/* One write with its newline: files under /proc and /sys take each write for a whole. */
	len = strlen(argv[2]);
	if (len >= sizeof(text))
		return fail(why, "TEXT is longer than 511 bytes", 0);
	memcpy(text, argv[2], len);
	text[len++] = '\n';
	fd = sys_open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0)
		return fail(why, argv[1], fd);
	err = write_all(fd, text, len);
	sys_close(fd);
	return err < 0 ? fail(why, argv[1], err) : 0;
}

static int cmd_mkdir(int argc, char **argv, char *why)
{
	long err;

	if (argc != 2)
		return fail(why, "needs one DIR", 0);
	err = sys_mkdir(argv[1], 0755);
	return err < 0 ? fail(why, argv[1], err) : 0;
}

static int cmd_umount(int argc, char **argv, char *why)
{
	long err;

	if (argc != 2)
		return fail(why, "needs DIR", 0);
	err = my_syscall2(__NR_umount2, argv[1], 0);
	return err < 0 ? fail(why, argv[1], err) : 0;
}

static int cmd_mount(int argc, char **argv, char *why)
{
	long err;

	if (argc < 4 || argc > 5)
		return fail(why, "needs TYPE SOURCE DIR [OPTIONS]", 0);
	err = sys_mount(argv[2], argv[3], argv[1], 0, argc == 5 ? argv[4] : NULL);
	return err < 0 ? fail(why, argv[3], err) : 0;
}

static int need_ms(int argc, char **argv, unsigned long *ms, char *why)
{
	*ms = 0;
	if (argc == 2 && !parse_num(argv[1], ms) && *ms <= 86400000UL)
		return 0;
	return fail(why, "needs one number of ms, at most a day", 0);
}

static void nap_ms(unsigned long ms)
{
	struct timespec left = {
		.tv_sec = (long)(ms / 1000), .tv_nsec = (long)(ms % 1000 * NS_PER_MS)};

	while (my_syscall2(__NR_nanosleep, &left, &left) == -EINTR)
		;
}

static int cmd_sleep(int argc, char **argv, char *why)
{
	unsigned long ms;

	if (need_ms(argc, argv, &ms, why))
		return -1;
	nap_ms(ms);
	return 0;
}

static int cmd_spin(int argc, char **argv, char *why)
{
	unsigned long ms, end;

	if (need_ms(argc, argv, &ms, why))
		return -1;
	end = clock_ns(CLOCK_MONOTONIC) + ms * NS_PER_MS;
	while (clock_ns(CLOCK_MONOTONIC) < end) {
		for (int i = 0; i < 1000; i++)
			__asm__ volatile("pause");
	}
	return 0;
}

static int cmd_clock(int argc, char **argv, char *why)
{
	static const char path[] =
		"/sys/devices/system/clocksource/clocksource0/current_clocksource";
	unsigned long before, prev;
	char name[64];
	char *end;
	long err = read_text(path, name, sizeof(name));

	(void)argc;
	(void)argv;
	if (err < 0)
		return fail(why, path, err);
	end = strchr(name, '\n');
	if (end)
		*end = 0;
	before = prev = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < CLOCK_SAMPLES; i++) {
		unsigned long now = clock_ns(CLOCK_MONOTONIC);

		if (now < prev)
			return fail(why, "time went backwards", 0);
		prev = now;
	}
	nap_ms(CLOCK_NAP_MS);
	prev = clock_ns(CLOCK_MONOTONIC);
	if (prev - before < CLOCK_NAP_MS * NS_PER_MS)
		return fail(why, "a sleep of 50 ms took less", 0);
	say("clock: %s, 50 ms asleep took %lu us", name, (prev - before) / 1000);
	return 0;
}

long port_write(unsigned short port, unsigned char byte)
{
	long err = my_syscall1(__NR_iopl, 3);
	int fd;

	if (!err) {
		__asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"(port));
		return 0;
	}
	/* A kernel without iopl may still have /dev/port. */
	fd = sys_open("/dev/port", O_WRONLY, 0);
	if (fd < 0)
		return err;
	err = my_syscall4(__NR_pwrite64, fd, &byte, 1, port);
	sys_close(fd);
	return err < 0 ? err : 0;
}

static int cmd_port(int argc, char **argv, char *why)
{
	unsigned long port, byte;
	long err;

	if (argc != 3 || parse_num(argv[1], &port) || parse_num(argv[2], &byte) || port > 0xffff ||
		byte > 0xff)
		return fail(why, "needs PORT (0 to 0xffff) and BYTE (0 to 0xff)", 0);
	err = port_write((unsigned short)port, (unsigned char)byte);
	return err < 0 ? fail(why, "iopl", err) : 0;
}

/* The terminal behind /dev/console, which itself cannot become a controlling terminal by open(). */
static int open_terminal(void)
{
	char names[128];
	char path[160] = "/dev/";
	char *name;
	int fd;

	if (read_text("/sys/class/tty/console/active", names, sizeof(names)) > 0) {
		name = strchr(names, '\n');
		if (name)
			*name = 0;
		name = strrchr(names, ' ');
		strlcat(path, name ? name + 1 : names, sizeof(path));
		fd = sys_open(path, O_RDWR, 0);
		if (fd >= 0)
			return fd;
	}
	return sys_open("/dev/console", O_RDWR, 0);
}

static void take_terminal(void)
{
	int fd;

	sys_setsid();
	fd = open_terminal();
	if (fd < 0)
		return;
	(void)sys_ioctl(fd, TIOCSCTTY, NULL);
	for (int i = 0; i <= STDERR_FILENO; i++)
		sys_dup2(fd, i);
	if (fd > STDERR_FILENO)
		sys_close(fd);
}

int run_program(char **argv, int terminal, char *why)
{
	static char *const env[] = {
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=vt100", NULL};
	char text[WHY_BYTES];
	int status = 0;
	long pid = sys_fork();

	if (pid < 0)
		return fail(why, "fork", pid);
	if (pid == 0) {
		if (terminal)
			take_terminal();
		fail(text, argv[0], sys_execve(argv[0], argv, env));
		say("%s", text);
		sys_exit(EXIT_NO_EXEC);
	}
	pid = sys_wait4((pid_t)pid, &status, 0, NULL);
	if (pid < 0)
		return fail(why, "wait", pid);
	if (!status)
		return 0;
	strlcpy(text, WTERMSIG(status) ? "ended by signal " : "exit status ", sizeof(text));
	strlcat(text,
		utoa((unsigned long)(WTERMSIG(status) ? WTERMSIG(status) : WEXITSTATUS(status))),
		sizeof(text));
	return fail(why, text, 0);
}

static int cmd_exec(int argc, char **argv, char *why)
{
	return argc > 1 ? run_program(argv + 1, 0, why) : fail(why, "needs PATH [ARGS]", 0);
}

static int cmd_dmesg(int argc, char **argv, char *why)
{
	long size = my_syscall3(__NR_syslog, SYSLOG_SIZE, NULL, 0);
	char *buf;
	long n;

	(void)argc;
	(void)argv;
	if (size <= 0)
		return fail(why, "syslog", size);
	buf = sys_mmap(
		NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if ((unsigned long)buf > -4096UL)
		return fail(why, "mmap", (long)buf);
	n = my_syscall3(__NR_syslog, SYSLOG_READ, buf, size);
	if (n > 0)
		(void)write_all(STDOUT_FILENO, buf, (unsigned long)n);
	sys_munmap(buf, (size_t)size);
	return n < 0 ? fail(why, "syslog", n) : 0;
}

cmd_fn cmd_find(const char *name)
{
	static const struct {
		const char *name;
		cmd_fn fn;
	} table[] = {
		{"acks", cmd_acks},
		{"cat", cmd_cat},
		{"clock", cmd_clock},
		{"cpus", cmd_cpus},
		{"dmesg", cmd_dmesg},
		{"echo", cmd_echo},
		{"exec", cmd_exec},
		{"fill", cmd_fill},
		{"io", cmd_io},
		{"irqs", cmd_irqs},
		{"kexec", cmd_kexec},
		{"ls", cmd_ls},
		{"mem", cmd_mem},
		{"memtest", cmd_memtest},
		{"memwait", cmd_memwait},
		{"memwork", cmd_memwork},
		{"mkdir", cmd_mkdir},
		{"mount", cmd_mount},
		{"port", cmd_port},
		{"read", cmd_read},
		{"sleep", cmd_sleep},
		{"spin", cmd_spin},
		{"stream", cmd_stream},
		{"umount", cmd_umount},
		{"uptime", cmd_uptime},
		{"verify", cmd_verify},
		{"write", cmd_write},
	};

	for (unsigned long i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (!strcmp(name, table[i].name))
			return table[i].fn;
	}
	return NULL;
}
