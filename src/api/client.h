/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_API_CLIENT_H
#define KV_API_CLIENT_H

#include "base/err.h"

/*
 * Ask the machine behind the control socket at @path: @verb ("GET") @target ("/vm") with @body
 * (JSON, or NULL). The machine's refusal is an error, too, with its sentence.
 * Returns 0 with the answer's JSON in *@ret (NULL: none); -ENOENT or -ECONNREFUSED, without a
 * sentence (nobody listens there); -EINVAL (refused); -EPROTO (no answer of a machine);
 * -ETIMEDOUT; -errno.
 * Owns: the caller frees *@ret. @err is needed. Context: blocks for 10 s at most.
 */
int api_call(const char *path, const char *verb, const char *target, const char *body, char **ret,
	struct kv_err *err);

#endif
