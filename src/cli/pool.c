/* SPDX-License-Identifier: Apache-2.0 */
/* kvick pool: the server of zeroed pages and what its users ask it. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/num.h"
#include "cli/cli.h"
#include "cli/pool.h"
#include "pool/client.h"

struct ask {
	const char *socket;
	bool json;
	uint64_t bytes;
};

static int socket_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct ask *)ctx)->socket = value;
	return *value ? 0 : err_set(err, -EINVAL, "--socket: the path is empty");
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	((struct ask *)ctx)->json = true;
	return 0;
}

static int bytes_set(void *ctx, const char *value, struct kv_err *err)
{
	struct ask *ask = ctx;
	int r = size_parse(value, &ask->bytes);

	if (r == -ERANGE)
		return err_set(err, r, "SIZE %s: out of range", value);
	if (r < 0 || !ask->bytes)
		return err_set(err, -EINVAL, "SIZE %s: a size such as 512M or 8G", value);
	return 0;
}

#define SOCKET_OPTION                                                                              \
	{                                                                                          \
		"socket", "PATH",                                                                  \
			"the pool's socket (default: /run/kvick/pool.sock for root,\n"             \
			"$XDG_RUNTIME_DIR/kvick/pool.sock for others)",                            \
			socket_set, 0                                                              \
	}

/* The counters, under the names that --json gives them. */
#define FIELD(name)                                                                                \
	{                                                                                          \
#name, offsetof(struct pool_info, name)                                            \
	}

static const struct {
	const char *name;
	size_t at;
} fields[] = {
	FIELD(target_chunks),
	FIELD(free_chunks),
	FIELD(leased_chunks),
	FIELD(cleaning_chunks),
	FIELD(filling_chunks),
	FIELD(missing_chunks),
	FIELD(clients),
	FIELD(leases),
	FIELD(waiting),
	FIELD(threads),
	FIELD(pid),
	FIELD(granted),
	FIELD(short_of),
	FIELD(refused_user),
	FIELD(refused_limit),
	FIELD(refused_message),
	FIELD(cleaned_bytes),
	FIELD(cleaned_ns),
	FIELD(renewed_bytes),
	FIELD(renewed_ns),
	FIELD(untouched_chunks),
	FIELD(held_chunks),
	FIELD(verify_failed),
};
_Static_assert(sizeof(struct pool_info) == sizeof(struct pool_msg) + ARRAY_LEN(fields) * 8,
	"every field is shown");

static void info_json(const struct pool_info *info)
{
	json_t *root = json_object();

	json_object_set_new(root, "size_bytes", json_integer((json_int_t)info->msg.bytes));
	json_object_set_new(root, "chunk_bytes", json_integer((json_int_t)info->msg.chunk_bytes));
	json_object_set_new(root, "page_bytes", json_integer((json_int_t)info->msg.page_bytes));
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		uint64_t value;

		memcpy(&value, (const char *)info + fields[i].at, sizeof(value));
		json_object_set_new(root, fields[i].name, json_integer((json_int_t)value));
	}
	json_dumpf(root, stdout, JSON_INDENT(2));
	json_decref(root);
	putchar('\n');
}

static void rate_print(const char *what, uint64_t bytes, uint64_t ns)
{
	printf("%-10s %.1f GiB", what, (double)bytes / (double)GIB);
	if (ns)
		printf(", %.1f GB/s for each thread", (double)bytes / (double)ns);
	putchar('\n');
}

static void info_print(const struct pool_info *info)
{
	char size[24], chunk[24], page[24];

	printf("pool       %s in chunks of %s, pages of %s, %" PRIu64 " threads, process %" PRIu64
	       "\n",
		size_format(info->msg.bytes, size, sizeof(size)),
		size_format(info->msg.chunk_bytes, chunk, sizeof(chunk)),
		size_format(info->msg.page_bytes, page, sizeof(page)), info->threads, info->pid);
	printf("chunks     %" PRIu64 " free, %" PRIu64 " leased, %" PRIu64
	       " being cleaned, %" PRIu64 " being filled, %" PRIu64 " without memory\n",
		info->free_chunks, info->leased_chunks, info->cleaning_chunks, info->filling_chunks,
		info->missing_chunks);
	printf("clients    %" PRIu64 ", with %" PRIu64 " leases, %" PRIu64 " waiting\n",
		info->clients, info->leases, info->waiting);
	printf("leases     %" PRIu64 " granted, %" PRIu64 " refused for want of chunks\n",
		info->granted, info->short_of);
	printf("refused    %" PRIu64 " users, %" PRIu64 " over limits, %" PRIu64 " bad messages\n",
		info->refused_user, info->refused_limit, info->refused_message);
	rate_print("renewed", info->renewed_bytes, info->renewed_ns);
	rate_print("cleaned", info->cleaned_bytes, info->cleaned_ns);
	printf("chunks     %" PRIu64 " returned untouched, %" PRIu64
	       " still held after the lease, %" PRIu64 " not clean when verified\n",
		info->untouched_chunks, info->held_chunks, info->verify_failed);
}

static int pool_status_run(int argc, char **argv)
{
	static const struct cli_option options[] = {
		SOCKET_OPTION,
		{"json", NULL, "print JSON", json_set, 0},
	};
	static const struct cli_usage usage = {
		.verb = "pool status",
		.synopsis = "[OPTION...]",
		.about = "Show how a pool is and what it has done.\n",
		.options = options,
		.option_count = ARRAY_LEN(options),
	};
	struct ask ask = {0};
	struct kv_err err = {0};
	struct pool_info info;
	int status = cli_parse(&usage, argc, argv, &ask);

	if (status != CLI_GO_ON)
		return status;
	if (pool_status(ask.socket, &info, &err) < 0) {
		cli_error("pool status", "%s", err.text);
		return CLI_EXIT_START;
	}
	if (ask.json)
		info_json(&info);
	else
		info_print(&info);
	return CLI_EXIT_OK;
}

static int resize_run(const struct cli_usage *usage, enum pool_type type, int argc, char **argv)
{
	struct ask ask = {0};
	struct kv_err err = {0};
	int status = cli_parse(usage, argc, argv, &ask);

	if (status != CLI_GO_ON)
		return status;
	if (pool_resize(ask.socket, type, ask.bytes, &err) < 0) {
		cli_error(usage->verb, "%s", err.text);
		return CLI_EXIT_START;
	}
	return CLI_EXIT_OK;
}

static const struct cli_option resize_options[] = {SOCKET_OPTION};

#define RESIZE_USAGE(name, text)                                                                   \
	{                                                                                          \
		.verb = name, .synopsis = "[OPTION...] SIZE", .about = text,                       \
		.options = resize_options, .option_count = ARRAY_LEN(resize_options),              \
		.operand = "SIZE", .operands_min = 1, .operands_max = 1, .operand_set = bytes_set, \
	}

static int pool_grow_run(int argc, char **argv)
{
	static const struct cli_usage usage = RESIZE_USAGE("pool grow",
		"Make a pool larger by SIZE, rounded up to whole chunks. The memory is filled in\n"
		"the background.\n");

	return resize_run(&usage, POOL_GROW, argc, argv);
}

static int pool_shrink_run(int argc, char **argv)
{
	static const struct cli_usage usage = RESIZE_USAGE("pool shrink",
		"Make a pool smaller by SIZE, rounded up to whole chunks. Free chunks go at once,\n"
		"leased ones when their leases end.\n");

	return resize_run(&usage, POOL_SHRINK, argc, argv);
}

static int pool_drain_run(int argc, char **argv)
{
	static const struct cli_usage usage = {
		.verb = "pool drain",
		.synopsis = "[OPTION...]",
		.about = "Give all of a pool's memory back: free chunks at once, leased ones when\n"
			 "their leases end. New leases fail until the pool grows again.\n",
		.options = resize_options,
		.option_count = ARRAY_LEN(resize_options),
	};

	return resize_run(&usage, POOL_DRAIN, argc, argv);
}

int cli_pool(int argc, char **argv)
{
	static const struct cli_verb verbs[] = {
		{"serve", pool_serve_run, "keep zeroed pages for virtual machines to come"},
		{"status", pool_status_run, "show how a pool is and what it has done"},
		{"grow", pool_grow_run, "make a pool larger"},
		{"shrink", pool_shrink_run, "make a pool smaller"},
		{"drain", pool_drain_run, "give a pool's memory back"},
	};
	static const struct cli_group group = {
		.name = "pool",
		.about = "Memory that is zeroed before anybody waits for it.\n",
		.verbs = verbs,
		.verb_count = ARRAY_LEN(verbs),
	};

	return cli_group(&group, argc, argv);
}
