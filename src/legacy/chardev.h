/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_LEGACY_CHARDEV_H
#define KV_LEGACY_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "loop/loop.h"

/*
 * The host side of a character device: stdio (terminal in raw mode, restored by
 * chardev_destroy()), a file, a pty, a Unix socket. Output never blocks the guest: what the other
 * side does not take is kept in a bounded ring and, once that is full, the oldest of it is dropped
 * and counted. Output is written by the loop thread within about a millisecond.
 */
struct chardev;

/* Receives bytes from the host side. Returns how many it took (0..len); the rest is offered again
 * after chardev_accept(). Context: loop thread. */
typedef size_t (*chardev_rx_fn)(void *ctx, const uint8_t *bytes, size_t len);

struct chardev_ops {
	chardev_rx_fn rx;
	/* The escape Ctrl-A X was typed on the terminal; or NULL. Must not destroy the device. Loop
	 * thread. */
	void (*quit)(void *ctx);
	void *ctx;
};

/*
 * Open the host side.
 * chardev_stdio: reads descriptor 0, writes descriptor 1, and leaves their file status flags alone.
 * When 0 is a terminal: raw mode; Ctrl-A X calls quit, Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A H
 * lists the keys; while another job has the terminal it is not read at all.
 * chardev_file: output appended to @path (made 0600 when absent, truncated otherwise), no input; a
 * FIFO or terminal is opened non-blocking, without waiting for a reader.
 * chardev_pty: a new pseudo-terminal in raw mode; its name through chardev_name().
 * chardev_unix: listens at @path (mode 0600; an existing socket that no program holds is replaced),
 * serves one client at a time while others wait, unlinks it at the end. What is written while there
 * is no client waits for the next one.
 * Return 0; -errno with a sentence naming the path: of open(2), bind(2), posix_openpt(3);
 * -EADDRINUSE, -ENOTSOCK, -ENAMETOOLONG for a socket; -ENOMEM.
 * Own: the caller destroys it.
 * Context: before the loop runs, or in the loop thread.
 */
int chardev_stdio(struct chardev **ret, struct loop *loop, struct kv_err *err);
int chardev_file(struct chardev **ret, struct loop *loop, const char *path, struct kv_err *err);
int chardev_pty(struct chardev **ret, struct loop *loop, struct kv_err *err);
int chardev_unix(struct chardev **ret, struct loop *loop, const char *path, struct kv_err *err);

/*
 * Flush what the other side takes at once (at most 200 ms), restore the terminal, close. NULL is
 * allowed. Context: the loop thread, or while it is not running; nobody writes any more.
 */
void chardev_destroy(struct chardev *dev);

/*
 * Name the receiver (copied); input is read from then on. NULL: no more input is read.
 * Returns 0. Context: as for opening.
 */
int chardev_attach(struct chardev *dev, const struct chardev_ops *ops);

/* Send bytes; never blocks. Context: any thread (vCPU threads). */
void chardev_write(struct chardev *dev, const uint8_t *bytes, size_t len);

/* The receiver has room again. Context: any thread. */
void chardev_accept(struct chardev *dev);

/* Where the other side is ("/dev/pts/3", a path), or NULL for stdio. */
const char *chardev_name(const struct chardev *dev);

/* Bytes dropped so far because the other side did not take them. Context: any thread. */
uint64_t chardev_dropped(const struct chardev *dev);

/*
 * Restore the terminal; async-signal-safe, for handlers of fatal signals. Harmless when nothing is
 * to be restored.
 */
void chardev_restore(const struct chardev *dev);

#endif
