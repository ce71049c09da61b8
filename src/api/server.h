/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_API_SERVER_H
#define KV_API_SERVER_H

#include <stdint.h>

#include "api/http.h"
#include "base/err.h"
#include "loop/loop.h"

/*
 * Serves HTTP on a listening Unix socket in the loop thread. No client can hold it up: requests,
 * connections and times are limited, and a connection gets a few requests' worth of the thread at
 * a time.
 */
struct http_server;

struct http_server_params {
	struct loop *loop;    /* borrowed */
	int listen_fd;	      /* non-blocking; taken over on success */
	unsigned clients_max; /* connections served at once; others wait; 0: 64 */
	uint64_t request_ns;  /* for a request to be complete, and for its answer to go; 0: 5 s */
	uint64_t idle_ns;     /* that a connection may be silent between requests; 0: 60 s */
	/*
	 * Answer @req: fill in @reply, which is 204 without a body before, or do a part of that and
	 * set @reply->work.more. In the loop thread; must not free the server.
	 */
	void (*handle)(void *ctx, const struct http_request *req, struct http_reply *reply);
	void *ctx;
};

/* Returns 0; -ENOMEM; loop_add_fd()'s errors. Owns: the caller frees it before the loop. */
int http_server_make(struct http_server **ret, const struct http_server_params *params);
/* Closes all connections. NULL is allowed. Context: loop thread, or while it does not run. */
void http_server_free(struct http_server *server);

#endif
