/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run_stats.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/fd.h"
#include "cli/out_file.h"
#include "vcpu/vcpu.h"

/* For the reader of a FIFO with statistics to take some: the VM's devices wait as long. */
#define STATS_WAIT_MS 1000

void run_stats_note(struct run_stats *stats, const struct machine *machine)
{
	unsigned n = 0;

	while (machine && n < VM_DEVICES_MAX && machine_device_at(machine, n, &stats->devices[n]))
		n++;
	if (machine)
		stats->device_count = n;
}

/* The document about the exits with one more member: the devices. */
static int stats_json(const struct run_stats *stats, char **ret)
{
	MEM_SCOPED char *text = NULL;
	json_t *root, *list = json_array();
	int r = exits_json(stats->exits, vcpu_exit_name, &text);

	root = r < 0 ? NULL : json_loads(text, 0, NULL);
	for (unsigned i = 0; i < stats->device_count; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:I, s:I}", "name", stats->devices[i].name, "gpa",
				      (json_int_t)stats->devices[i].gpa, "violations",
				      (json_int_t)stats->devices[i].violations));
	*ret = NULL;
	if (!json_object_set_new(root, "devices", list))
		*ret = json_dumps(root, JSON_INDENT(1));
	json_decref(root);
	return *ret ? 0 : -ENOMEM;
}

/* Line by line, as the console may have the terminal in raw mode. */
static int stats_log(const struct run_stats *stats, const struct kv_log *log)
{
	MEM_SCOPED char *text = NULL;
	int r = exits_text(stats->exits, vcpu_exit_name, &text);

	for (char *line = text; !r && *line;) {
		size_t len = strcspn(line, "\n");

		log_msg(log, LOG_LEVEL_INFO, "%.*s", (int)len, line);
		line += len + (line[len] == '\n');
	}
	for (unsigned i = 0; !r && i < stats->device_count; i++)
		log_msg(log, LOG_LEVEL_INFO,
			"%s at 0x%" PRIx64 ": its driver broke the rules %" PRIu64 " times",
			stats->devices[i].name, stats->devices[i].gpa,
			stats->devices[i].violations);
	return r;
}

int run_stats_write(const struct run_stats *stats, const char *path, const struct kv_log *log)
{
	MEM_SCOPED char *text = NULL;
	struct kv_err err = {0};
	int r;

	if (path) {
		r = stats_json(stats, &text);
		if (!r)
			r = out_file_offer(path, text, strlen(text), STATS_WAIT_MS, &err);
	} else {
		r = stats_log(stats, log);
	}
	if (r < 0)
		log_msg(log, LOG_LEVEL_ERROR, "--stats: %s", err.text[0] ? err.text : err_text(r));
	return r;
}
