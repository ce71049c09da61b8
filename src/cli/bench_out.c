/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/bench_out.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "kvm/kvm.h"

static uint64_t usage_ns(int who)
{
	struct rusage usage;

	getrusage(who, &usage);
	return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
	       (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

/* Source: proc(5), /proc/stat: user nice system idle iowait irq softirq steal, in ticks. */
static void noise_read(struct bench_noise *noise)
{
	MEM_SCOPED char *text = NULL;
	unsigned long long ticks[8] = {0};
	uint64_t tick_ns = 1000000000ULL / (uint64_t)sysconf(_SC_CLK_TCK);

	*noise = (struct bench_noise){0};
	noise->own_ns = usage_ns(RUSAGE_SELF) + usage_ns(RUSAGE_CHILDREN);
	if (file_read_all("/proc/stat", 1 * MIB, &text) < 0 ||
		sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &ticks[0], &ticks[1],
			&ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6], &ticks[7]) != 8)
		return;
	for (int i = 0; i < 8; i++) {
		noise->all_ns += ticks[i] * tick_ns;
		if (i != 3 && i != 4)
			noise->busy_ns += ticks[i] * tick_ns;
	}
}

void bench_noise_start(struct bench_noise *noise)
{
	double load = 0;

	noise_read(noise);
	if (getloadavg(&load, 1) == 1)
		noise->load = load;
}

double bench_noise_share(const struct bench_noise *noise)
{
	struct bench_noise now;
	double others;

	noise_read(&now);
	if (now.all_ns <= noise->all_ns)
		return 0;
	others = (double)(now.busy_ns - noise->busy_ns) - (double)(now.own_ns - noise->own_ns);
	return others > 0 ? others / (double)(now.all_ns - noise->all_ns) : 0;
}

void bench_noise_print(const struct bench_noise *noise)
{
	double share = bench_noise_share(noise);

	printf("others used %.0f %% of the CPUs meanwhile (load average %.2f at the start)%s\n",
		share * 100, noise->load,
		share > BENCH_NOISY ? ": the machine was NOISY; trust ratios, minima and CPU time"
				    : "");
}

void bench_progress(unsigned done, unsigned all)
{
	if (!isatty(STDERR_FILENO))
		return;
	if (all)
		fprintf(stderr, "\r%u of %u rounds", done, all);
	else
		fprintf(stderr, "\r\033[K");
}

/* The median distance from the median; 0 when memory is short. */
static double spread(const struct bench_samples *samples)
{
	struct bench_samples distances = {0};
	double median = bench_rank(samples, 0.5), mad = 0;
	int r = 0;

	for (unsigned i = 0; !r && i < samples->count; i++)
		r = bench_add(&distances, fabs(samples->values[i] - median));
	if (!r)
		mad = bench_rank(&distances, 0.5);
	bench_free(&distances);
	return mad;
}

json_t *bench_json(const struct bench_samples *samples)
{
	json_t *values = json_array();
	double median = bench_rank(samples, 0.5);

	for (unsigned i = 0; i < samples->count; i++)
		json_array_append_new(values, json_real(samples->values[i]));
	return json_pack("{s:f, s:f, s:f, s:f, s:i, s:o}", "min", bench_rank(samples, 0), "median",
		median, "p99", bench_rank(samples, 0.99), "mad", spread(samples), "count",
		(int)samples->count, "values", values);
}

/* The value of "model name" in /proc/cpuinfo, in @buf. */
static const char *cpu_name(char *buf, size_t bytes)
{
	char line[256];
	FILE *f = fopen("/proc/cpuinfo", "re");

	snprintf(buf, bytes, "unknown");
	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) || !colon)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(buf, bytes, "%s", colon + 2);
		break;
	}
	if (f)
		fclose(f);
	return buf;
}

json_t *bench_words_json(char *const *words)
{
	json_t *list = json_array();

	for (; *words; words++)
		json_array_append_new(list, json_string(*words));
	return list;
}

json_t *bench_host_json(void)
{
	struct sysinfo info = {0};
	struct utsname uts = {0};
	char cpu[160];

	uname(&uts);
	sysinfo(&info);
	return json_pack("{s:s, s:s, s:s, s:i, s:I, s:s}", "kernel", uts.release, "machine",
		uts.machine, "cpu", cpu_name(cpu, sizeof(cpu)), "cpus",
		(int)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
		(json_int_t)((uint64_t)info.totalram * info.mem_unit), "kvm", kvm_kind_name());
}

int bench_json_print(const char *kind, const struct bench_noise *noise, json_t *result)
{
	json_t *document = json_pack("{s:s, s:s, s:o, s:{s:f, s:f}, s:o}", "kind", kind, "kvick",
		KVICK_VERSION, "host", bench_host_json(), "noise", "others_share",
		bench_noise_share(noise), "load_average", noise->load, "result", result);
	int r;

	if (!document)
		return -ENOMEM;
	r = json_dumpf(document, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
	json_decref(document);
	return r < 0 || printf("\n") < 0 || fflush(stdout) ? -EIO : 0;
}
