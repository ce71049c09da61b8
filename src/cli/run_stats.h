/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_CLI_RUN_STATS_H
#define KV_CLI_RUN_STATS_H

#include "base/log.h"
#include "machine/machine.h"
#include "trace/exits.h"

/* What --stats tells of a run: exits of the vCPUs, and what virtio devices counted. */
struct run_stats {
	struct exits *exits; /* NULL: nothing is counted */
	unsigned device_count;
	struct machine_device devices[VM_DEVICES_MAX];
};

/*
 * Take note of what the devices of @machine (NULL: nothing new) counted, for later than it lives.
 * Context: the loop thread.
 */
void run_stats_note(struct run_stats *stats, const struct machine *machine);

/*
 * Write the statistics to the file @path, as JSON, or to @log when it is NULL.
 * Returns 0 or -errno, which has been logged.
 */
int run_stats_write(const struct run_stats *stats, const char *path, const struct kv_log *log);

#endif
