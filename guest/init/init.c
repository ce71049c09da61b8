/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first program of a test guest: mounts what it needs, tells the monitor that the guest is up,
 * runs the commands it was given, and ends the machine. guest/README.md describes its parameters.
 */
#include "nolibc.h"
#include <asm/ioctls.h>
#include "out.h"
#include "cmd.h"

#define BOOT_TIMER_GPA	0xd0000000UL
#define BOOT_TIMER_BYTE 123
#define TRACE_PORT	0x80
#define TRACE_USER	0x60 /* first of the trace codes for user space */
#define PAGE		4096UL
#define MAX_RUNS	16
#define ACCESS_EXEC	1 /* X_OK, which nolibc lacks */

enum end { END_POWEROFF, END_REBOOT, END_HALT, END_SHELL, END_CRASH };

struct init {
	char cmdline[8192];
	char script[65536];
	char *runs[MAX_RUNS]; /* commands given as kvick.run, in cmdline */
	unsigned long nr_runs;
	unsigned long timer_gpa;
	int timer_off;
	enum end end;
	unsigned long ok;
	unsigned long failed;
};

static void note_failure(struct init *in, const char *what, const char *why)
{
	in->failed++;
	say("kvick-init: FAILED %s: %s", what, why);
}

static void open_console(void)
{
	int fd;

	/*
	 * The kernel hands over the console as 0, 1 and 2. Without a console it hands over nothing,
	 * and files opened later must not take these numbers.
	 */
	do {
		fd = sys_open("/dev/console", O_RDWR, 0);
		if (fd < 0)
			fd = sys_open("/dev/null", O_RDWR, 0);
	} while (fd >= 0 && fd < STDERR_FILENO);
	if (fd > STDERR_FILENO)
		sys_close(fd);
}

static void mount_all(struct init *in)
{
	static const struct {
		const char *type;
		const char *dir;
	} table[] = {{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}};
	char why[WHY_BYTES];

	for (unsigned long i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		long err;

		sys_mkdir(table[i].dir, 0755);
		err = sys_mount(table[i].type, table[i].dir, table[i].type, 0, NULL);
		/* Busy: the kernel or an earlier stage has mounted it. */
		if (err < 0 && err != -EBUSY) {
			fail(why, table[i].dir, err);
			note_failure(in, "mount", why);
		}
	}
}

/*
 * Cuts the next word off, in place: separated by blanks, quotes group and vanish. Newlines and
 * semicolons were dealt with before. *open becomes the quote that was left open, or 0.
 */
static char *next_word(char **rest, char *open)
{
	char *from = *rest;
	char *to, *word;
	char quote = 0;

	while (*from == ' ' || *from == '\t')
		from++;
	if (!*from)
		return NULL;
	word = to = from;
	for (; *from && (quote || (*from != ' ' && *from != '\t')); from++) {
		if (quote ? *from == quote : *from == '"' || *from == '\'')
			quote = quote ? 0 : *from;
		else
			*to++ = *from;
	}
	*rest = *from ? from + 1 : from;
	*to = 0;
	*open = quote;
	return word;
}

/* As next_word(), by the kernel's rules for its command line: only double quotes, kept inside. */
static char *next_param(char **rest)
{
	char *from = *rest;
	char *to, *word;
	int quoted = 0;

	while (*from == ' ' || *from == '\n')
		from++;
	if (!*from)
		return NULL;
	word = to = from;
	for (; *from && (quoted || (*from != ' ' && *from != '\n')); from++) {
		if (*from == '"')
			quoted = !quoted;
		else
			*to++ = *from;
	}
	*rest = *from ? from + 1 : from;
	*to = 0;
	return word;
}

static void parse_end(struct init *in, const char *value)
{
	if (!strcmp(value, "poweroff"))
		in->end = END_POWEROFF;
	else if (!strcmp(value, "reboot"))
		in->end = END_REBOOT;
	else if (!strcmp(value, "halt"))
		in->end = END_HALT;
	else if (!strcmp(value, "shell"))
		in->end = END_SHELL;
	else
		note_failure(in, "kvick.end", "must be poweroff, reboot, halt or shell");
}

static void parse_timer(struct init *in, const char *value)
{
	if (!strcmp(value, "none"))
		in->timer_off = 1;
	else if (parse_num(value, &in->timer_gpa))
		note_failure(in, "kvick.timer", "must be an address or none");
}

static void parse_cmdline(struct init *in)
{
	char why[WHY_BYTES];
	char *rest = in->cmdline;
	char *word;
	long err = read_text("/proc/cmdline", in->cmdline, sizeof(in->cmdline));

	if (err < 0) {
		fail(why, "/proc/cmdline", err);
		note_failure(in, "cmdline", why);
		return;
	}
	while ((word = next_param(&rest))) {
		if (!strncmp(word, "kvick.run=", 10)) {
			if (in->nr_runs < MAX_RUNS)
				in->runs[in->nr_runs++] = word + 10;
			else
				note_failure(in, "kvick.run", "given more than 16 times");
		} else if (!strncmp(word, "kvick.end=", 10)) {
			parse_end(in, word + 10);
		} else if (!strncmp(word, "kvick.timer=", 12)) {
			parse_timer(in, word + 12);
		}
	}
}

static long write_mmio(unsigned long gpa, unsigned char byte)
{
	int fd = sys_open("/dev/mem", O_RDWR | O_SYNC, 0);
	volatile unsigned char *page;
	void *map;

	if (fd < 0)
		return fd;
	map = sys_mmap(
		NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(gpa & ~(PAGE - 1)));
	sys_close(fd);
	if ((unsigned long)map > -PAGE)
		return (long)map;
	page = map;
	page[gpa & (PAGE - 1)] = byte;
	sys_munmap(map, PAGE);
	return 0;
}

static void signal_boot(const struct init *in)
{
	char why[WHY_BYTES];
	long err, port_err;

	if (in->timer_off)
		return;
	err = write_mmio(in->timer_gpa, BOOT_TIMER_BYTE);
	if (err >= 0)
		return;
	/* A kernel that keeps /dev/mem closed leaves the trace port, which needs no device file. */
	port_err = port_write(TRACE_PORT, TRACE_USER);
	fail(why, "boot timer: /dev/mem", err);
	say("kvick-init: %s at 0x%lx; %s 0x%lx to port 0x%lx", why, in->timer_gpa,
		port_err < 0 ? "nor could it write" : "wrote", (unsigned long)TRACE_USER,
		(unsigned long)TRACE_PORT);
}

static void finish(struct init *in, enum end end) __attribute__((noreturn));

static void finish(struct init *in, enum end end)
{
	static const int how[] = {
		[END_POWEROFF] = LINUX_REBOOT_CMD_POWER_OFF,
		[END_REBOOT] = LINUX_REBOOT_CMD_RESTART,
		[END_HALT] = LINUX_REBOOT_CMD_HALT,
	};
	int fd = end == END_POWEROFF ? sys_open("/sys/firmware/acpi", O_RDONLY, 0) : 0;

	/* Without ACPI nothing can switch the machine off, and the kernel would halt for ever. */
	if (fd < 0) {
		say("kvick-init: no ACPI to power off with, resetting instead");
		end = END_REBOOT;
	}
	say("kvick-init: done, %lu ok, %lu failed", in->ok, in->failed);
	my_syscall0(__NR_sync);
	/* TCSBRK with 1 is tcdrain(): what is still in the serial port's queue would be lost. */
	(void)sys_ioctl(STDOUT_FILENO, TCSBRK, (void *)1);
	if (end == END_CRASH) {
		fd = sys_open("/proc/sysrq-trigger", O_WRONLY, 0);
		sys_write(fd, "c", 1);
	} else {
		sys_reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, how[end], NULL);
	}
	/* Not reached, unless the kernel refuses; then the end of process 1 panics it. */
	sys_exit(1);
}

static void run_command(struct init *in, char *text)
{
	char *argv[CMD_MAX_ARGS + 1];
	char why[WHY_BYTES];
	char open = 0;
	int argc = 0;
	char *word;
	cmd_fn fn;

	while ((word = next_word(&text, &open))) {
		if (argc == CMD_MAX_ARGS) {
			note_failure(in, argv[0], "more than 31 arguments");
			return;
		}
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	if (argc == 0 || argv[0][0] == '#')
		return;
	if (open) {
		note_failure(in, argv[0], "a quote is not closed");
		return;
	}
	if (!strcmp(argv[0], "poweroff"))
		finish(in, END_POWEROFF);
	if (!strcmp(argv[0], "reboot"))
		finish(in, END_REBOOT);
	if (!strcmp(argv[0], "halt"))
		finish(in, END_HALT);
	if (!strcmp(argv[0], "crash"))
		finish(in, END_CRASH);
	fn = cmd_find(argv[0]);
	if (!fn)
		note_failure(in, argv[0], "unknown command");
	else if (fn(argc, argv, why))
		note_failure(in, argv[0], why);
	else
		in->ok++;
}

/*
 * The end of the command at text: a semicolon or newline outside quotes, or the end of the text. A
 * comment reaches to the end of its line, whatever is in it.
 */
static char *command_end(char *text)
{
	char quote = 0;

	while (*text == ' ' || *text == '\t')
		text++;
	if (*text == '#') {
		while (*text && *text != '\n')
			text++;
		return text;
	}
	for (; *text && (quote || (*text != ';' && *text != '\n')); text++) {
		if (quote ? *text == quote : *text == '"' || *text == '\'')
			quote = quote ? 0 : *text;
	}
	return text;
}

static void run_commands(struct init *in, char *text)
{
	int more = 1;

	while (more) {
		char *end = command_end(text);

		more = *end != 0;
		*end = 0;
		run_command(in, text);
		text = end + 1;
	}
}

static void run_script(struct init *in)
{
	static const char path[] = "/kvick.script";
	char why[WHY_BYTES];
	long n = read_text(path, in->script, sizeof(in->script));

	if (n == -ENOENT)
		return;
	if (n < 0) {
		fail(why, path, n);
		note_failure(in, "script", why);
	} else if ((unsigned long)n == sizeof(in->script) - 1) {
		note_failure(in, "script", "/kvick.script is longer than 65534 bytes");
	} else {
		run_commands(in, in->script);
	}
}

static void run_shell(struct init *in)
{
	static char *const shells[] = {"/init.sh", "/bin/sh"};
	char why[WHY_BYTES];

	for (unsigned long i = 0; i < sizeof(shells) / sizeof(shells[0]); i++) {
		char *argv[] = {shells[i], NULL};

		if (my_syscall2(__NR_access, shells[i], ACCESS_EXEC) < 0)
			continue;
		if (run_program(argv, 1, why))
			note_failure(in, shells[i], why);
		else
			in->ok++;
		return;
	}
	note_failure(in, "shell", "the initrd has neither /init.sh nor /bin/sh");
}

int main(void)
{
	static struct init in;

	if (sys_getpid() != 1) {
		say("kvick-init: runs only as the first process of a guest");
		return 1;
	}
	in.timer_gpa = BOOT_TIMER_GPA;
	open_console();
	say("kvick-init: user space");
	mount_all(&in);
	parse_cmdline(&in);
	signal_boot(&in);
	run_script(&in);
	for (unsigned long i = 0; i < in.nr_runs; i++)
		run_commands(&in, in.runs[i]);
	if (in.end == END_SHELL) {
		run_shell(&in);
		in.end = END_POWEROFF;
	}
	finish(&in, in.end);
}
