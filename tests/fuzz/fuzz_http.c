/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests on a control socket: whatever the bytes, parsing them ends in a request that lies inside
 * them, in a refusal with a sentence, or in waiting for more; and the same bytes cut anywhere never
 * give another answer than they give whole.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const char *at, size_t len, const char *text, size_t size)
{
	if (at && (at < text || at > text + size || len > (size_t)(text + size - at)))
		abort();
}

static void check(const struct http_request *req, const char *text, long used)
{
	inside(req->verb, req->verb_len, text, (size_t)used);
	inside(req->path, req->path_len, text, (size_t)used);
	inside(req->body, req->body_len, text, (size_t)used);
	if (!req->verb_len || !req->path_len || req->path[0] != '/' ||
		req->body + req->body_len != text + used || req->body_len > HTTP_BODY_MAX)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Exactly as long as it is, so that a byte too far is seen. */
	char *text = malloc(size ? size : 1);
	struct http_request req;
	const char *fault;
	size_t at = 0;
	long r = 1;

	if (!text)
		return 0;
	memcpy(text, data, size);
	while (at < size && r > 0) {
		size_t left = size - at, cut = left / 2;
		long part = http_parse(&req, text + at, cut, &fault);

		r = http_parse(&req, text + at, left, &fault);
		if (part && part != r)
			abort();
		if (r > 0)
			check(&req, text + at, r);
		if ((r < 0) != (fault != NULL) || r > (long)left || r < -599)
			abort();
		at += r > 0 ? (size_t)r : 0;
	}
	free(text);
	return 0;
}
