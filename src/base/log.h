/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BASE_LOG_H
#define KV_BASE_LOG_H

/*
 * Library code never prints. What it has to say beside an error goes to the sink that the
 * embedding program passed in; a NULL log or a NULL sink drops it.
 */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct kv_log {
	enum log_level level; /* [c] messages above it are dropped */
	/* [c] receives one line without newline; called from any thread, must not block */
	void (*sink)(void *ctx, enum log_level level, const char *line);
	void *ctx; /* [c] */
};

/*
 * Send one line in printf form to @log's sink; lines over 1,023 bytes are cut.
 * Context: any thread.
 */
void log_msg(const struct kv_log *log, enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
