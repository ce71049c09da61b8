/* SPDX-License-Identifier: Apache-2.0 */
#include "nolibc.h"
#include <linux/mman.h>
#include "out.h"
#include "cmd.h"

#define PAGE	   4096UL
#define MIB	   (1UL << 20)
#define STEP_WORDS 64 /* one word in 512 bytes: every page is told from every other, cheaply */

/* Shared between init and the testing child. */
struct memtest {
	unsigned long mib;
	unsigned long mib_written;
	unsigned long bad_offset;
	unsigned long bad_value;
	long err;
	int bad;
};

/* The value of a line of /proc/meminfo, in KiB. Returns 0 or a negative errno. */
static long meminfo_kib(const char *key, unsigned long *ret)
{
	unsigned long len = strlen(key);
	char text[1024];
	long err = read_text("/proc/meminfo", text, sizeof(text));
	char *p = text;

	if (err < 0)
		return err;
	while (strncmp(p, key, len)) {
		p = strchr(p, '\n');
		if (!p)
			return -ENOENT;
		p++;
	}
	*ret = 0;
	for (p += len; *p == ' '; p++)
		;
	for (; *p >= '0' && *p <= '9'; p++)
		*ret = *ret * 10 + (unsigned long)(*p - '0');
	return 0;
}

/*
 * What a test may take of the memory that is free: page tables for it, and a rest for the kernel,
 * which otherwise kills the test.
 */
static long free_mib(unsigned long *ret)
{
	unsigned long kib;
	long err = meminfo_kib("MemAvailable:", &kib);

	if (err < 0)
		return err;
	kib -= kib / 64;
	*ret = kib / 1024 > 2 ? kib / 1024 - 2 : 0;
	return 0;
}

static unsigned long pattern(unsigned long offset)
{
	/* The multiplier is odd, so no two offsets give the same word. */
	return (offset + 1) * 0x9e3779b97f4a7c15UL;
}

static void memtest_child(struct memtest *t)
{
	static const char last[] = "1000";
	unsigned long words = t->mib * (MIB / sizeof(unsigned long));
	volatile unsigned long *mem;
	void *map;
	int fd = sys_open("/proc/self/oom_score_adj", O_WRONLY, 0);

	if (fd >= 0) {
		sys_write(fd, last, sizeof(last) - 1);
		sys_close(fd);
	}
	map = sys_mmap(NULL, t->mib * MIB, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if ((unsigned long)map > -PAGE) {
		t->err = (long)map;
		return;
	}
	/* Only makes it quicker, and not every kernel has huge pages. */
	(void)my_syscall3(__NR_madvise, map, t->mib * MIB, MADV_HUGEPAGE);
	mem = map;
	for (unsigned long i = 0; i < words; i += STEP_WORDS) {
		mem[i] = pattern(i);
		t->mib_written = i / (MIB / sizeof(unsigned long));
	}
	for (unsigned long i = 0; i < words; i += STEP_WORDS) {
		unsigned long value = mem[i];

		if (value != pattern(i)) {
			t->bad = 1;
			t->bad_offset = i * sizeof(unsigned long);
			t->bad_value = value;
			return;
		}
	}
}

static int memtest_result(const struct memtest *t, int status, char *why)
{
	if (WTERMSIG(status)) {
		say("memtest: killed by signal %lu after %lu of %lu MiB",
			(unsigned long)WTERMSIG(status), t->mib_written, t->mib);
		return fail(why, "killed, most likely out of memory", 0);
	}
	if (t->err)
		return fail(why, "mmap", t->err);
	if (t->bad) {
		say("memtest: at offset 0x%lx: 0x%lx instead of 0x%lx", t->bad_offset, t->bad_value,
			pattern(t->bad_offset / sizeof(unsigned long)));
		return fail(why, "memory does not hold what was written", 0);
	}
	say("memtest: %lu MiB ok", t->mib);
	return 0;
}

int cmd_memtest(int argc, char **argv, char *why)
{
	struct memtest *t;
	unsigned long mib;
	int status = 0;
	long pid, err;

	if (argc < 2 || !strcmp(argv[1], "all")) {
		err = free_mib(&mib);
		if (err < 0)
			return fail(why, "/proc/meminfo", err);
	} else if (parse_num(argv[1], &mib) || mib > (~0UL >> 20)) {
		return fail(why, "not a number of MiB", 0);
	}
	if (mib == 0)
		return fail(why, "no memory to test", 0);

	t = sys_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if ((unsigned long)t > -PAGE)
		return fail(why, "mmap", (long)t);
	t->mib = mib;
	pid = sys_fork();
	if (pid == 0) {
		memtest_child(t);
		sys_exit(0);
	}
	err = pid < 0 ? pid : sys_wait4((pid_t)pid, &status, 0, NULL);
	if (err < 0)
		fail(why, "fork", err);
	else
		err = memtest_result(t, status, why);
	sys_munmap(t, PAGE);
	return err < 0 ? -1 : 0;
}

#define WAIT_STEP_NS 20000000
#define WAIT_STEPS   15000 /* five minutes */

int cmd_memwait(int argc, char **argv, char *why)
{
	unsigned long low, high, kib = 0;
	struct timespec step = {.tv_nsec = WAIT_STEP_NS};

	if (argc != 3 || parse_num(argv[1], &low) || parse_num(argv[2], &high))
		return fail(why, "needs LOW and HIGH, in MiB", 0);
	for (int i = 0; i < WAIT_STEPS; i++) {
		long err = meminfo_kib("MemTotal:", &kib);

		if (err < 0)
			return fail(why, "/proc/meminfo", err);
		if (kib / 1024 >= low && kib / 1024 <= high) {
			say("memwait: %lu MiB", kib / 1024);
			return 0;
		}
		my_syscall2(__NR_nanosleep, &step, NULL);
	}
	say("memwait: still %lu MiB", kib / 1024);
	return fail(why, "memory did not become what was waited for", 0);
}

/* Shared between init and the child that works. */
struct memwork {
	long pid;
	volatile int stop;
	volatile unsigned long rounds;
	struct memtest test;
};

static void memwork_child(struct memwork *w)
{
	while (!w->stop && !w->test.err && !w->test.bad) {
		unsigned long bytes = w->test.mib * MIB, words = bytes / sizeof(unsigned long);
		volatile unsigned long *mem = sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if ((unsigned long)mem > -PAGE) {
			w->test.err = (long)mem;
			return;
		}
		for (unsigned long i = 0; i < words; i += STEP_WORDS)
			mem[i] = pattern(i) + w->rounds;
		for (unsigned long i = 0; i < words && !w->test.bad; i += STEP_WORDS)
			w->test.bad = mem[i] != pattern(i) + w->rounds;
		sys_munmap((void *)mem, bytes);
		w->rounds++;
	}
}

int cmd_memwork(int argc, char **argv, char *why)
{
	static struct memwork *w;
	struct memwork done;
	unsigned long mib;
	int status = 0;

	if (argc == 2 && !w && !parse_num(argv[1], &mib) && mib && mib <= 4096) {
		w = sys_mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if ((unsigned long)w > -PAGE) {
			w = NULL;
			return fail(why, "no memory", 0);
		}
		w->test.mib = mib;
		w->pid = sys_fork();
		if (w->pid == 0) {
			memwork_child(w);
			sys_exit(0);
		}
		return w->pid < 0 ? fail(why, "fork", w->pid) : 0;
	}
	if (argc != 2 || !w || strcmp(argv[1], "stop"))
		return fail(why, "needs a number of MiB, and then stop", 0);
	w->stop = 1;
	sys_wait4((pid_t)w->pid, &status, 0, NULL);
	done = *w;
	sys_munmap(w, PAGE);
	w = NULL;
	if (WTERMSIG(status))
		return fail(why, "killed, most likely out of memory", 0);
	if (done.test.err)
		return fail(why, "mmap", done.test.err);
	if (done.test.bad)
		return fail(why, "memory does not hold what was written", 0);
	say("memwork: %lu rounds of %lu MiB ok", done.rounds, done.test.mib);
	return 0;
}
