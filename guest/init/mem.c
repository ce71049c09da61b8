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

/*
 * What a test may take of the memory that is free: page tables for it, and a rest for the kernel,
 * which otherwise kills the test.
 */
static long free_mib(unsigned long *ret)
{
	static const char key[] = "MemAvailable:";
	char text[1024];
	long err = read_text("/proc/meminfo", text, sizeof(text));
	unsigned long kib = 0;
	char *p = text;

	if (err < 0)
		return err;
	while (strncmp(p, key, sizeof(key) - 1)) {
		p = strchr(p, '\n');
		if (!p)
			return -ENOENT;
		p++;
	}
	for (p += sizeof(key) - 1; *p == ' '; p++)
		;
	for (; *p >= '0' && *p <= '9'; p++)
		kib = kib * 10 + (unsigned long)(*p - '0');
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
