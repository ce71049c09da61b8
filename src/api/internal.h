/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_API_INTERNAL_H
#define KV_API_INTERNAL_H

#include <jansson.h>

#include "api/api.h"
#include "api/server.h"

/* Inside api/ only. */

struct api {
	struct api_params p;
	struct http_server *server;
};

/* Answer with @body, which is taken over; NULL: out of memory. */
void api_json(struct http_reply *reply, json_t *body);

/*
 * The request's body, which must be an object with members from @names (NULL behind the last).
 * Returns it; NULL when @reply was made to say what is wrong. Owns: the caller's.
 */
json_t *api_object(
	const struct http_request *req, const char *const *names, struct http_reply *reply);

/* memory.c: GET and PATCH /hotplug/memory[/ID], GET /kvick/memory. */
void api_mem_get(struct api *api, const struct http_request *req, struct http_reply *reply);
void api_mem_patch(struct api *api, const struct http_request *req, struct http_reply *reply);
void api_mem_list(struct api *api, const struct http_request *req, struct http_reply *reply);

#endif
