/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_API_HTTP_H
#define KV_API_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The part of HTTP/1.1 that clients of a control socket speak (RFC 9112): requests with a body of
 * known length, one after the other on a connection. What is not well-formed is refused, never
 * repaired.
 */

#define HTTP_HEAD_MAX 8192  /* bytes of request line and fields, with the empty line */
#define HTTP_BODY_MAX 51200 /* bytes; Firecracker's --http-api-max-payload-size */

enum http_method { HTTP_GET, HTTP_PUT, HTTP_PATCH, HTTP_OTHER };

/* A request; the pointers lead into the text that was parsed. */
struct http_request {
	enum http_method method;
	const char *verb; /* the method as it was written, @verb_len bytes */
	size_t verb_len;
	const char *path; /* starts with '/'; without a query, @path_len bytes */
	size_t path_len;
	const char *body; /* @body_len bytes; not there before the whole request is */
	size_t body_len;
	bool keep;    /* the connection goes on after the answer */
	bool expects; /* the client waits for "100 Continue" before it sends the body */
};

/*
 * How far a request is whose answer takes long: the handler's own, zero at first. With @more it is
 * called again with the same request, after others had their turn.
 */
struct http_work {
	bool more;
	uint64_t at, sum;
};

/* What a handler answers. @body is JSON on the heap, or NULL; who called the handler frees it. */
struct http_reply {
	int status; /* 200, 204, 400 ... */
	char *body;
	struct http_work work;
};

/*
 * Parse the request at the start of @text. *@fault is set to a sentence when it is refused.
 * Returns the bytes it takes with its body; 0 when more are needed, with @req->expects and
 * @req->body_len true once the head is whole, and body_len 0 before; -400, -413, -431, -501 or
 * -505, the negative status to refuse it with.
 * Source: RFC 9112 §2 to §6, RFC 9110 §10.1.1.
 */
long http_parse(struct http_request *req, const char *text, size_t len, const char **fault);

/*
 * Make an answer out of @fmt: {"fault_message": "..."}, as Firecracker does, in place of what
 * @reply has. What is not UTF-8 in it becomes '?', and what is longer than 639 bytes is cut.
 */
void http_fault(struct http_reply *reply, int status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * The answer as it goes over the wire; @keep: the connection goes on.
 * Returns its length, with the text in *@ret; -ENOMEM. Owns: the caller frees *@ret.
 */
long http_write(const struct http_reply *reply, bool keep, char **ret);

#endif
