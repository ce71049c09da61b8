/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench_util.h"
#include "trace/timeline.h"

#define LOOK_NS	  30000000ULL  /* between two looks at a process */
#define QUIET_NS  330000000ULL /* how long it must be quiet */
#define BUSY_PART 50	       /* a thread that runs more than a 50th of the time is busy */

int proc_start(pid_t *pid, char *const *argv, const char *err_path)
{
	posix_spawn_file_actions_t actions;
	int r;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, 0, 1);
	posix_spawn_file_actions_addopen(&actions, 2, err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	r = posix_spawnp(pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

void proc_stop(pid_t pid)
{
	if (!pid)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
}

/* What the threads of a process have done so far. */
struct activity {
	uint64_t ran_ns;
	bool busy;     /* one of them runs, wants to, or waits for a disk */
	bool has_vcpu; /* one has the name asked for */
};

/* Add the thread in the folder @path. Threads that are gone meanwhile count as activity. */
static void thread_look(const char *path, const char *vcpu, struct activity *activity)
{
	MEM_SCOPED char *stat = NULL, *sched = NULL;
	char file[400];
	const char *open, *close;
	unsigned long long ran = 0;

	snprintf(file, sizeof(file), "%s/stat", path);
	if (file_read_all(file, 4096, &stat) < 0)
		stat = NULL;
	snprintf(file, sizeof(file), "%s/schedstat", path);
	if (file_read_all(file, 4096, &sched) >= 0 && sscanf(sched, "%llu", &ran) == 1)
		activity->ran_ns += ran;
	/* "PID (NAME) STATE ...", and a name may hold any character. */
	open = stat ? strchr(stat, '(') : NULL;
	close = stat ? strrchr(stat, ')') : NULL;
	if (!open || !close || strlen(close) < 3) {
		activity->busy = true;
		return;
	}
	activity->busy |= close[2] != 'S' && close[2] != 'I';
	if (vcpu && (size_t)(close - open - 1) == strlen(vcpu) &&
		!strncmp(open + 1, vcpu, strlen(vcpu)))
		activity->has_vcpu = true;
}

static int activity_look(pid_t pid, const char *vcpu, struct activity *activity)
{
	char path[300];
	struct dirent *entry;
	DIR *dir;

	*activity = (struct activity){.has_vcpu = !vcpu};
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.20s", (int)pid, entry->d_name);
		thread_look(path, vcpu, activity);
	}
	closedir(dir);
	return 0;
}

int proc_settle(pid_t pid, const char *vcpu, uint64_t limit_ns, int *status)
{
	const struct timespec nap = {.tv_nsec = LOOK_NS};
	uint64_t start = clock_ns(), quiet_since = start;
	struct activity before = {0}, now;

	for (;;) {
		uint64_t time = clock_ns();
		siginfo_t info = {0};
		int code, r;

		if (!waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid) {
			if (waitpid(pid, &code, 0) < 0)
				return -errno;
			*status = WIFEXITED(code) ? WEXITSTATUS(code) : 128 + WTERMSIG(code);
			return -ECHILD;
		}
		r = activity_look(pid, vcpu, &now);
		if (r < 0)
			return r;
		if (now.busy || !now.has_vcpu ||
			now.ran_ns - before.ran_ns > (time - quiet_since) / BUSY_PART + 1000000) {
			quiet_since = time;
			before = now;
		}
		if (time - quiet_since >= QUIET_NS)
			return 0;
		if (time - start >= limit_ns)
			return -ETIMEDOUT;
		if (bench_interrupted())
			return -EINTR;
		nanosleep(&nap, NULL);
	}
}

/* The sum of all lines "NAME: N kB" in @text whose name starts with @name, in bytes. */
static uint64_t field_bytes(const char *text, const char *name)
{
	size_t len = strlen(name);
	uint64_t sum = 0;

	for (const char *line = text; *line; line += *line == '\n') {
		unsigned long long kb;

		if (!strncmp(line, name, len) && line[len] == ':' &&
			sscanf(line + len + 1, "%llu", &kb) == 1)
			sum += kb * KIB;
		line = strchrnul(line, '\n');
	}
	return sum;
}

static uint64_t count_fds(pid_t pid)
{
	char path[40];
	struct dirent *entry;
	uint64_t count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return count;
}

int proc_measure(pid_t pid, struct proc_memory *ret)
{
	MEM_SCOPED char *rollup = NULL, *status = NULL;
	const char *threads;
	char path[48];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	n = file_read_all(path, 64 * KIB, &rollup);
	if (n < 0)
		return (int)n;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	n = file_read_all(path, 64 * KIB, &status);
	if (n < 0)
		return (int)n;
	threads = strstr(status, "\nThreads:");
	*ret = (struct proc_memory){
		.uss_bytes = field_bytes(rollup, "Private_Clean") +
			     field_bytes(rollup, "Private_Dirty") +
			     field_bytes(rollup, "Private_Hugetlb"),
		.pss_bytes = field_bytes(rollup, "Pss"),
		.rss_bytes = field_bytes(rollup, "Rss"),
		.dirty_bytes = field_bytes(rollup, "Private_Dirty"),
		.page_tables_bytes = field_bytes(status, "VmPTE"),
		.threads = threads ? strtoull(threads + strlen("\nThreads:"), NULL, 10) : 0,
		.fds = count_fds(pid),
	};
	return 0;
}

int proc_kernel(struct kernel_memory *ret, bool exact)
{
	MEM_SCOPED char *text = NULL, *nothing = NULL;
	ssize_t n;

	*ret = (struct kernel_memory){0};
	if (exact)
		(void)file_read_all("/proc/sys/vm/stat_refresh", KIB, &nothing);
	n = file_read_all("/proc/meminfo", 64 * KIB, &text);
	if (n < 0)
		return (int)n;
	*ret = (struct kernel_memory){
		.available_bytes = field_bytes(text, "MemAvailable"),
		.slab_bytes = field_bytes(text, "Slab"),
		.vmalloc_bytes = field_bytes(text, "VmallocUsed"),
		.page_tables_bytes = field_bytes(text, "PageTables"),
		.second_tables_bytes = field_bytes(text, "SecPageTables"),
		.stacks_bytes = field_bytes(text, "KernelStack"),
		.percpu_bytes = field_bytes(text, "Percpu"),
	};
	return 0;
}
