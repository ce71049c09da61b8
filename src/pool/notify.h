/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_NOTIFY_H
#define KV_POOL_NOTIFY_H

/* systemd's two small protocols for services. */

/*
 * Tell the service manager @state ("READY=1"), when there is one ($NOTIFY_SOCKET).
 * Returns 0, also without one; -errno. Source: sd_notify(3), "Notes".
 */
int notify_send(const char *state);

/*
 * The one socket that the service manager passed in ($LISTEN_FDS), made non-blocking and
 * close-on-exec.
 * Returns the descriptor; -ENOENT when none was passed; -EINVAL when it is not exactly one
 * listening Unix socket of packets. Source: sd_listen_fds(3), "Notes".
 */
int notify_socket(void);

#endif
