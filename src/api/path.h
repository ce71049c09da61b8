/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_API_PATH_H
#define KV_API_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

/* Where control sockets lie, and who owns them. */

#define API_PATH_MAX 108 /* bytes of a Unix socket's path, with its NUL */

/*
 * The folder of the control sockets of VMs with a name: $XDG_RUNTIME_DIR/kvick; without that,
 * /run/kvick for root and /tmp/kvick-UID for others.
 * Returns 0 with the path in @buf; -ENAMETOOLONG with a sentence.
 * Context: any thread while nobody changes the environment.
 */
int api_folder(char buf[API_PATH_MAX], struct kv_err *err);

/* The control socket of the VM @id there. Returns as api_folder(). */
int api_path(char buf[API_PATH_MAX], const char *id, struct kv_err *err);

/* A control socket that was made: what has to go again. */
struct api_sock {
	char path[API_PATH_MAX]; /* empty: there is none */
	int held;		 /* keeps the file's number from being given to another one */
};

/*
 * Listen on the control socket at @path, for the own user only. One that a dead VM left behind is
 * replaced. @owned: it lies in api_folder(), which is made when it is missing and must belong to
 * this user alone.
 * Returns the non-blocking descriptor with @sock filled in; -EADDRINUSE (a VM answers there);
 * -EEXIST (something else lies there); -ENAMETOOLONG; -EPERM (the folder is another's); -errno;
 * all with a sentence.
 * Owns: the caller closes it and calls api_unlink().
 */
int api_listen(const char *path, bool owned, struct api_sock *sock, struct kv_err *err);

/* Remove the socket if it is still the one that was made. Async-signal-safe. */
void api_unlink(struct api_sock *sock);

/*
 * Connect to the control socket at @path, blocking, for @ms milliseconds at most; so long, too, may
 * each piece take that is sent.
 * Returns the descriptor; -ENOENT, -ECONNREFUSED (nobody listens), -ETIMEDOUT, -errno.
 */
int api_connect(const char *path, unsigned ms);

/*
 * The ids of the VMs in api_folder() that answer, as "a, b, c" in @buf, cut when there are many;
 * empty when there are none. Context: any thread.
 */
void api_running(char *buf, size_t buf_bytes);

#endif
