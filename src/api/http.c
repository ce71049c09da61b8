/* SPDX-License-Identifier: Apache-2.0 */
#include "api/http.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/num.h"

/* A piece of the text. */
struct span {
	const char *at;
	size_t len;
};

/* What the fields said, as far as it matters. */
struct fields {
	bool length_told;
	size_t length;
	bool close, keep_alive, expects;
};

static bool span_is(struct span span, const char *text)
{
	return span.len == strlen(text) && !strncasecmp(span.at, text, span.len);
}

/* RFC 9110 §5.6.2: what methods and field names are made of. */
static bool is_token(struct span span)
{
	static const char marks[] = "!#$%&'*+-.^_`|~";

	for (size_t i = 0; i < span.len; i++) {
		unsigned char c = (unsigned char)span.at[i];

		if (!(c >= '0' && c <= '9') && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') &&
			(!c || !strchr(marks, c)))
			return false;
	}
	return span.len > 0;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Text with blanks, and no other control characters (RFC 9110 §5.5). */
static bool is_text(struct span span)
{
	for (size_t i = 0; i < span.len; i++) {
		unsigned char c = (unsigned char)span.at[i];

		if ((c < 0x20 && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

/* Take what stands before the next blank off @line; true when there is one. */
static bool word_take(struct span *line, struct span *word)
{
	const char *blank = memchr(line->at, ' ', line->len);

	if (!blank)
		return false;
	*word = (struct span){line->at, (size_t)(blank - line->at)};
	line->len -= word->len + 1;
	line->at = blank + 1;
	return true;
}

static enum http_method method_of(struct span verb)
{
	static const char *const verbs[] = {
		[HTTP_GET] = "GET", [HTTP_PUT] = "PUT", [HTTP_PATCH] = "PATCH"};

	/* Methods are case-sensitive. */
	for (unsigned i = 0; i < HTTP_OTHER; i++)
		if (verb.len == strlen(verbs[i]) && !memcmp(verb.at, verbs[i], verb.len))
			return i;
	return HTTP_OTHER;
}

/* RFC 9112 §3; of the forms of a target, the one with a path. */
static int request_line(struct http_request *req, struct span line, const char **fault)
{
	struct span verb, target;
	const char *query;

	*fault = "the request line is not METHOD /PATH HTTP/1.1";
	if (!word_take(&line, &verb) || !is_token(verb) || !word_take(&line, &target))
		return -400;
	if (!target.len || target.at[0] != '/' || !is_text(target) ||
		memchr(target.at, '\t', target.len))
		return -400;
	if (line.len != 8 || memcmp(line.at, "HTTP/", 5))
		return -400;
	if (memcmp(line.at + 5, "1.1", 3) && memcmp(line.at + 5, "1.0", 3)) {
		*fault = "only HTTP/1.1 and HTTP/1.0 are spoken here";
		return -505;
	}
	*fault = NULL;
	query = memchr(target.at, '?', target.len);
	*req = (struct http_request){
		.method = method_of(verb),
		.verb = verb.at,
		.verb_len = verb.len,
		.path = target.at,
		.path_len = query ? (size_t)(query - target.at) : target.len,
		.keep = line.at[7] == '1',
	};
	return 0;
}

static int length_read(struct fields *fields, struct span value, const char **fault)
{
	size_t n = 0;

	*fault = "Content-Length is not one number";
	if (fields->length_told || !value.len)
		return -400;
	for (size_t i = 0; i < value.len; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return -400;
		/* Larger is too large anyway, and stays so. */
		if (n <= HTTP_BODY_MAX)
			n = n * 10 + (size_t)(value.at[i] - '0');
	}
	*fault = NULL;
	fields->length_told = true;
	fields->length = n;
	return 0;
}

static int field_read(
	struct fields *fields, struct span name, struct span value, const char **fault)
{
	if (span_is(name, "Content-Length"))
		return length_read(fields, value, fault);
	if (span_is(name, "Transfer-Encoding")) {
		*fault = "Transfer-Encoding is not offered; send the body with Content-Length";
		return -501;
	}
	if (span_is(name, "Connection")) {
		fields->close |= span_is(value, "close");
		fields->keep_alive |= span_is(value, "keep-alive");
	}
	if (span_is(name, "Expect"))
		fields->expects = span_is(value, "100-continue");
	return 0;
}

/* RFC 9112 §5, without the obsolete folding of lines. */
static int field_line(struct fields *fields, struct span line, const char **fault)
{
	const char *colon = memchr(line.at, ':', line.len);
	struct span name, value;

	*fault = "a header field is not NAME: VALUE";
	if (!colon)
		return -400;
	name = (struct span){line.at, (size_t)(colon - line.at)};
	value = (struct span){colon + 1, line.len - name.len - 1};
	while (value.len && is_blank(value.at[0]))
		value = (struct span){value.at + 1, value.len - 1};
	while (value.len && is_blank(value.at[value.len - 1]))
		value.len--;
	if (!is_token(name) || !is_text(value))
		return -400;
	*fault = NULL;
	return field_read(fields, name, value, fault);
}

/* The length of the head with its empty line, 0 when it is not all there. */
static size_t head_length(const char *text, size_t len)
{
	const char *end = memmem(text, len, "\r\n\r\n", 4);

	return end ? (size_t)(end - text) + 4 : 0;
}

/* Parse the @head_len bytes of a whole head. Returns 0 or a negative status. */
static int head_parse(struct http_request *req, struct fields *fields, const char *text,
	size_t head_len, const char **fault)
{
	const char *end = text + head_len - 2;
	bool first = true;
	int r = 0;

	while (!r && text < end) {
		const char *line_end = memmem(text, (size_t)(end + 2 - text), "\r\n", 2);
		struct span line = {text, (size_t)(line_end - text)};

		r = first ? request_line(req, line, fault) : field_line(fields, line, fault);
		first = false;
		text = line_end + 2;
	}
	return r;
}

long http_parse(struct http_request *req, const char *text, size_t len, const char **fault)
{
	size_t head = head_length(text, len < HTTP_HEAD_MAX ? len : HTTP_HEAD_MAX);
	struct fields fields = {0};
	int r;

	*req = (struct http_request){0};
	*fault = NULL;
	if (!head && len >= HTTP_HEAD_MAX) {
		*fault = "the request's head is longer than 8192 bytes";
		return -431;
	}
	if (!head)
		return 0;
	r = head_parse(req, &fields, text, head, fault);
	if (r < 0)
		return r;
	if (fields.length > HTTP_BODY_MAX) {
		*fault = "the request's body is longer than 51200 bytes";
		return -413;
	}
	if (fields.close)
		req->keep = false;
	else if (fields.keep_alive)
		req->keep = true;
	req->body_len = fields.length;
	req->expects = fields.expects;
	if (len - head < fields.length)
		return 0;
	req->body = text + head;
	return (long)(head + fields.length);
}

static const char *reason(int status)
{
	static const struct {
		int status;
		const char *text;
	} reasons[] = {
		{200, "OK"},
		{204, "No Content"},
		{400, "Bad Request"},
		{408, "Request Timeout"},
		{413, "Payload Too Large"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{505, "HTTP Version Not Supported"},
	};

	for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].text;
	return "Error";
}

void http_fault(struct http_reply *reply, int status, const char *fmt, ...)
{
	char text[640];
	json_t *root;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	root = json_pack("{s:s}", "fault_message", text);
	if (!root) {
		for (char *c = text; *c; c++)
			if (*c & 0x80)
				*c = '?';
		root = json_pack("{s:s}", "fault_message", text);
	}
	free(reply->body);
	reply->status = status;
	reply->body = json_dumps(root, JSON_COMPACT);
	json_decref(root);
}

long http_write(const struct http_reply *reply, bool keep, char **ret)
{
	size_t len = reply->body ? strlen(reply->body) : 0;
	const char *state = keep ? "keep-alive" : "close";
	int n;

	/* RFC 9110 §8.6: no Content-Length with 204. */
	if (reply->status == 204)
		n = asprintf(ret, "HTTP/1.1 204 %s\r\nServer: kvick\r\nConnection: %s\r\n\r\n",
			reason(204), state);
	else
		n = asprintf(ret,
			"HTTP/1.1 %d %s\r\nServer: kvick\r\nConnection: %s\r\n"
			"Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
			reply->status, reason(reply->status), state, len,
			reply->body ? reply->body : "");
	return n < 0 ? -ENOMEM : n;
}
