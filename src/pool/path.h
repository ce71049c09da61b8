/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_POOL_PATH_H
#define KV_POOL_PATH_H

#include <stddef.h>

#include "base/err.h"

/*
 * The socket where a pool is looked for when no path is given: /run/kvick/pool.sock for root,
 * $XDG_RUNTIME_DIR/kvick/pool.sock for others.
 * Returns 0 with the path in @buf; -ENOENT (XDG_RUNTIME_DIR is not set); -ENAMETOOLONG.
 * Context: any thread while nobody changes the environment.
 */
int pool_path(char *buf, size_t buf_bytes, struct kv_err *err);

/*
 * Make the listening socket at @path, replacing one that no server answers any more, and its
 * directory when that is the only part missing. What is no socket is left alone. @everybody may
 * connect (the server then looks at credentials), or only the own user.
 * Returns the descriptor; -EADDRINUSE when a server runs there; -EEXIST when something else is
 * there; -EPROTOTYPE when another program's server runs there; -ENAMETOOLONG; -errno.
 */
int pool_listen(const char *path, int everybody, struct kv_err *err);

#endif
