/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <string.h>

#include "base/log.h"
#include "base/num.h"
#include "legacy/legacy.h"

#define PORT_POST	0x80
#define PORT_CONSOLE	0xe9
#define PORT_TRACE	0xf4
#define PORT_TRACE_FIRM 0xf5

/* Codes with a meaning of their own; the others are the guest's. */
#define POST_KERNEL  0x40
#define POST_USER    0x41
#define TRACE_KERNEL 6
#define TRACE_USER   7

static void post_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct trace_ports *dev = ctx;

	if (!dev->tl)
		return;
	timeline_event(dev->tl, PORT_POST, data[0]);
	if (data[0] == POST_KERNEL)
		timeline_mark(dev->tl, MARK_START_KERNEL);
	if (data[0] == POST_USER)
		timeline_mark(dev->tl, MARK_USER);
}

static void trace_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct trace_ports *dev = ctx;

	if (!dev->tl)
		return;
	timeline_event(dev->tl, PORT_TRACE, data[0]);
	if (data[0] == TRACE_KERNEL)
		timeline_mark(dev->tl, MARK_START_KERNEL);
	if (data[0] == TRACE_USER)
		timeline_mark(dev->tl, MARK_USER);
}

static void trace_firm_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct trace_ports *dev = ctx;

	if (dev->tl)
		timeline_event(dev->tl, PORT_TRACE_FIRM, data[0]);
}

/* Called with the lock. */
static void line_flush(struct trace_ports *dev)
{
	log_msg(dev->log, LOG_LEVEL_INFO, "guest: %.*s", (int)dev->used, dev->line);
	dev->used = 0;
}

static void console_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct trace_ports *dev = ctx;
	uint8_t byte = data[0];

	pthread_mutex_lock(&dev->lock);
	if (byte == '\n') {
		line_flush(dev);
	} else if (byte != '\r') {
		if (dev->used == sizeof(dev->line))
			line_flush(dev);
		/* A log is read on terminals: the guest must not be able to control them. */
		dev->line[dev->used++] = (byte >= ' ' && byte <= '~') || byte == '\t' ? byte : '?';
	}
	pthread_mutex_unlock(&dev->lock);
}

/* How software finds out that the port is there. */
static void console_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	data[0] = PORT_CONSOLE;
}

static const struct bus_ops post_ops = {NULL, post_write};
static const struct bus_ops trace_ops = {NULL, trace_write};
static const struct bus_ops trace_firm_ops = {NULL, trace_firm_write};
static const struct bus_ops console_ops = {console_read, console_write};

int trace_ports_add(
	struct trace_ports *dev, struct bus *bus, struct timeline *tl, const struct kv_log *log)
{
	const struct {
		uint16_t port;
		const struct bus_ops *ops;
	} ports[] = {
		{PORT_POST, &post_ops},
		{PORT_CONSOLE, &console_ops},
		{PORT_TRACE, &trace_ops},
		{PORT_TRACE_FIRM, &trace_firm_ops},
	};

	memset(dev, 0, sizeof(*dev));
	dev->tl = tl;
	dev->log = log;
	for (size_t i = 0; i < ARRAY_LEN(ports); i++) {
		int r = bus_add_pio(bus, ports[i].port, 1, ports[i].ops, dev);

		if (r < 0)
			return r;
	}
	pthread_mutex_init(&dev->lock, NULL);
	return 0;
}

void trace_ports_drop(struct trace_ports *dev)
{
	if (dev->used)
		line_flush(dev);
	pthread_mutex_destroy(&dev->lock);
}
