/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/bench_stat.h"
#include "cli/cli.h"
#include "trace/timeline.h"

char **bench_environ(char *text)
{
	size_t count = 0;
	char **env;

	while (environ[count])
		count++;
	env = calloc(count + 2, sizeof(*env));
	if (!env)
		return NULL;
	env[0] = text;
	memcpy(env + 1, environ, count * sizeof(*env));
	return env;
}

/* Set by a signal that asks for the end; a signal handler has no other place to leave word. */
static volatile sig_atomic_t interrupted;

static void alarm_handler(int signo)
{
	/* Its arrival interrupts wait4(). */
}

static void end_handler(int signo)
{
	interrupted = 1;
}

void bench_catch_signals(void)
{
	struct sigaction sa = {.sa_handler = end_handler};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

unsigned bench_turn(unsigned round, unsigned i, unsigned count)
{
	/* An odd number needs each order backwards, too. */
	if (count % 2) {
		i = round % 2 ? count - 1 - i : i;
		round /= 2;
	}
	return (round + (i % 2 ? (i + 1) / 2 : count - i / 2)) % count;
}

bool bench_interrupted(void)
{
	return interrupted;
}

int bench_dir_make(char *buf, struct kv_err *err)
{
	const char *tmp = getenv("TMPDIR");
	int r = 0;

	if (!tmp || !*tmp)
		tmp = "/tmp";
	if (snprintf(buf, BENCH_DIR_MAX, "%s/kvick-bench-XXXXXX", tmp) >= BENCH_DIR_MAX)
		r = -ENAMETOOLONG;
	else if (!mkdtemp(buf))
		r = -errno;
	if (!r)
		return 0;
	buf[0] = '\0';
	return err_set(err, r, "no folder for temporary files in %s: %s", tmp, err_text(r));
}

/* Wait for @pid, at most @timeout_ns. */
static int reap(struct bench_run *run, pid_t pid, uint64_t started, uint64_t timeout_ns)
{
	struct sigaction alarmed = {.sa_handler = alarm_handler}, old;
	struct itimerspec limit = {
		.it_value = {(time_t)(timeout_ns / 1000000000), (long)(timeout_ns % 1000000000)}};
	struct rusage usage;
	timer_t timer;
	int status;
	pid_t r;

	if (timer_create(CLOCK_MONOTONIC, NULL, &timer) < 0)
		return -errno;
	sigaction(SIGALRM, &alarmed, &old);
	timer_settime(timer, 0, &limit, NULL);
	r = wait4(pid, &status, 0, &usage);
	run->wall_ns = clock_ns() - started;
	timer_delete(timer);
	sigaction(SIGALRM, &old, NULL);
	if (r < 0) {
		kill(pid, SIGKILL);
		wait4(pid, &status, 0, &usage);
		return interrupted ? -EINTR : -ETIMEDOUT;
	}
	if (interrupted)
		return -EINTR;
	run->cpu_ns = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
		      (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
	run->system_ns = (uint64_t)usage.ru_stime.tv_sec * 1000000000 +
			 (uint64_t)usage.ru_stime.tv_usec * 1000;
	run->minor_faults = (uint64_t)usage.ru_minflt;
	run->major_faults = (uint64_t)usage.ru_majflt;
	run->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return 0;
}

int bench_spawn(struct bench_run *run, char *const *argv, uint64_t timeout_ns)
{
	posix_spawn_file_actions_t actions;
	char text[48];
	char **env = bench_environ(text);
	uint64_t started;
	pid_t pid;
	int r;

	if (!env)
		return -ENOMEM;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, 0, 1);
	posix_spawn_file_actions_adddup2(&actions, 0, 2);
	started = clock_ns();
	snprintf(text, sizeof(text), "KVICK_EXEC_NS=%" PRIu64, started);
	r = posix_spawnp(&pid, argv[0], &actions, NULL, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	free(env);
	return r ? -r : reap(run, pid, started, timeout_ns);
}

int bench_add(struct bench_samples *samples, double value)
{
	if (samples->count == samples->room) {
		unsigned room = samples->room ? samples->room * 2 : 64;
		double *values = realloc(samples->values, room * sizeof(*values));

		if (!values)
			return -ENOMEM;
		samples->values = values;
		samples->room = room;
	}
	samples->values[samples->count++] = value;
	return 0;
}

void bench_free(struct bench_samples *samples)
{
	free(samples->values);
	*samples = (struct bench_samples){0};
}

double bench_rank(const struct bench_samples *samples, double share)
{
	unsigned n = samples->count;
	MEM_SCOPED double *sorted = malloc((n + 1) * sizeof(*sorted));
	double at = share * n;
	unsigned index = (unsigned)at;

	if (!n || !sorted)
		return 0;
	memcpy(sorted, samples->values, n * sizeof(*sorted));
	bench_stat_sort(sorted, n);
	if (share > 0.499 && share < 0.501)
		return bench_stat_median(sorted, n);
	/* Nearest rank: the smallest value with at least that share at or below it. */
	if (at > index)
		index++;
	return sorted[index ? index - 1 : 0];
}

int bench_memory_set(uint64_t *bytes, const char *value, struct kv_err *err)
{
	int r = cli_size("memory", value, "256M", bytes, err);

	if (!r && (*bytes % MIB || *bytes < 16 * MIB))
		r = err_set(err, -EINVAL, "--memory: \"%s\" is not a size of whole MiB from 16M on",
			value);
	return r;
}

int bench_vs_add(
	const char **list, unsigned room, unsigned *count, const char *value, struct kv_err *err)
{
	if (*count == room)
		return err_set(err, -E2BIG, "--vs: at most %u commands", room);
	list[(*count)++] = value;
	return 0;
}

int bench_self(char *buf, struct kv_err *err)
{
	ssize_t n = readlink("/proc/self/exe", buf, BENCH_SELF_MAX - 1);

	if (n < 0)
		return err_set(err, -errno, "/proc/self/exe: %s", err_text(errno));
	buf[n] = '\0';
	return 0;
}

uint64_t bench_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

int bench_locate(
	char *buf, size_t buf_bytes, const char *build_path, const char *name, struct kv_err *err)
{
	char self[BENCH_SELF_MAX];
	int r = bench_self(self, err);
	char *slash;

	if (r < 0)
		return r;
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	if ((size_t)snprintf(buf, buf_bytes, "%s/%s", self, build_path) < buf_bytes &&
		!access(buf, R_OK))
		return 0;
	if ((size_t)snprintf(buf, buf_bytes, "%s/../libexec/kvick/%s", self, name) < buf_bytes &&
		!access(buf, R_OK))
		return 0;
	return err_set(
		err, -ENOENT, "%s is neither at %s/%s nor at %s", name, self, build_path, buf);
}

/* Where {name} in @at is replaced: its value, and *@len is the length of what it stands for. */
static const char *placeholder(const char *at, const char *const values[3], size_t *len)
{
	static const char *const names[3] = {"{kernel}", "{initrd}", "{memory_mib}"};

	for (int i = 0; i < 3; i++) {
		*len = strlen(names[i]);
		if (!strncmp(at, names[i], *len))
			return values[i];
	}
	return NULL;
}

/* One word at *@at, unquoted, with placeholders replaced. NULL: missing quote or no memory. */
static char *word_read(const char **at, const char *const values[3])
{
	const char *c = *at;
	char *out = NULL;
	char quote = 0;
	size_t len;
	FILE *f = open_memstream(&out, &len);

	if (!f)
		return NULL;
	while (*c && (quote || !strchr(" \t\n", *c))) {
		size_t name_len;
		const char *value = placeholder(c, values, &name_len);

		if (value) {
			fputs(value, f);
			c += name_len;
			continue;
		}
		if (quote ? *c == quote : *c == '\'' || *c == '"')
			quote = quote ? 0 : *c;
		else if (*c == '\\' && quote != '\'' && c[1])
			fputc(*++c, f);
		else
			fputc(*c, f);
		c++;
	}
	*at = c;
	if (fclose(f) || quote) {
		free(out);
		return NULL;
	}
	return out;
}

int bench_words(char ***ret, const char *text, const char *kernel, const char *initrd,
	uint64_t memory_mib, struct kv_err *err)
{
	char memory[24];
	const char *const values[3] = {kernel, initrd ? initrd : "", memory};
	const char *at = text;
	size_t count = 0;
	/* No more words than characters. */
	char **words = calloc(strlen(text) + 2, sizeof(*words));

	if (!words)
		return err_set(err, -ENOMEM, "out of memory");
	snprintf(memory, sizeof(memory), "%" PRIu64, memory_mib);
	for (;;) {
		at += strspn(at, " \t\n");
		if (!*at)
			break;
		words[count] = word_read(&at, values);
		if (!words[count]) {
			bench_words_free(words);
			return err_set(err, -EINVAL, "\"%s\" lacks a closing quote", text);
		}
		count++;
	}
	if (!count) {
		bench_words_free(words);
		return err_set(err, -EINVAL, "the command is empty");
	}
	*ret = words;
	return 0;
}

char **bench_words_copy(const char *const *words, size_t count)
{
	char **copy = calloc(count + 1, sizeof(*copy));

	for (size_t i = 0; copy && i < count; i++) {
		copy[i] = strdup(words[i]);
		if (!copy[i]) {
			bench_words_free(copy);
			return NULL;
		}
	}
	return copy;
}

const char *bench_words_name(char *const *words)
{
	const char *name = words[0] ? words[0] : "", *slash = strrchr(name, '/');

	return slash ? slash + 1 : name;
}

void bench_words_free(char **words)
{
	for (char **word = words; word && *word; word++)
		free(*word);
	free(words);
}
