/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_API_API_H
#define KV_API_API_H

#include "api/http.h"
#include "base/err.h"
#include "loop/loop.h"
#include "machine/machine.h"

/*
 * The control socket of a running machine: what docs/api.md lists, in Firecracker's terms where it
 * has some.
 */
struct api;

struct api_params {
	struct machine *machine;	/* borrowed, as all here */
	const struct vm_config *config; /* what it was made from */
	struct loop *loop;
	int listen_fd; /* of api_listen(); taken over on success */
	/*
	 * Write the statistics of the run (FlushMetrics). Returns 0; -ENOTSUP when there are none;
	 * -errno. In the loop thread.
	 */
	int (*flush)(void *ctx);
	void *ctx;
};

/* Start to serve. Returns 0; http_server_make()'s errors, with a sentence. Owns: api_stop(). */
int api_start(struct api **ret, const struct api_params *params, struct kv_err *err);

/* Close all connections and free @api. NULL is allowed. Context: loop thread, or without it. */
void api_stop(struct api *api);

/* Answer one request (for the server, and for tests). Context: the loop thread. */
void api_answer(void *api, const struct http_request *req, struct http_reply *reply);

/* The release of Firecracker whose API this follows, as GET /version tells it. */
#define API_FIRECRACKER "1.16.0"

#endif
