/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "api/path.h"
#include "base/fd.h"
#include "base/num.h"

#define ANSWER_MAX (1 * MIB)
#define TIME_S	   10

/* Read all that comes until the other side closes. Returns its length, without the NUL; -errno. */
static ssize_t answer_read(int fd, char buf[static ANSWER_MAX + 1])
{
	size_t used = 0;

	for (;;) {
		ssize_t n = recv(fd, buf + used, ANSWER_MAX - used, 0);

		if (n < 0 && errno == EINTR)
			continue;
		/* It may close before it has read all; what it said first counts. */
		if (n < 0 && errno == ECONNRESET && used)
			n = 0;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (!n)
			break;
		used += (size_t)n;
		if (used == ANSWER_MAX)
			return -EPROTO;
	}
	buf[used] = '\0';
	return (ssize_t)used;
}

/* The sentence of a refusal. */
static int refusal(const char *body, struct kv_err *err)
{
	json_t *root = json_loads(body, 0, NULL);
	const char *text = json_string_value(json_object_get(root, "fault_message"));
	int r = text ? err_set(err, -EINVAL, "%s", text)
		     : err_set(err, -EPROTO, "the answer is none that a VM gives");

	json_decref(root);
	/* It goes to a terminal, and what it quotes came from anywhere. */
	for (char *c = err->text; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	return r;
}

/* Take the answer apart. */
static int answer_parse(const char *answer, char **ret, struct kv_err *err)
{
	const char *body = strstr(answer, "\r\n\r\n");
	int status;

	if (!body || sscanf(answer, "HTTP/1.1 %3d ", &status) != 1)
		return err_set(err, -EPROTO, "the answer is none that a VM gives");
	body += 4;
	if (status != 200 && status != 204)
		return refusal(body, err);
	*ret = *body ? strdup(body) : NULL;
	return *body && !*ret ? -ENOMEM : 0;
}

static int request_send(int fd, const char *verb, const char *target, const char *body)
{
	MEM_SCOPED char *text = NULL;
	size_t len = body ? strlen(body) : 0, at = 0;
	int n = asprintf(&text,
		"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
		"Content-Length: %zu\r\n\r\n%s",
		verb, target, len, body ? body : "");

	if (n < 0)
		return -ENOMEM;
	while (at < (size_t)n) {
		ssize_t sent = send(fd, text + at, (size_t)n - at, MSG_NOSIGNAL);

		if (sent < 0 && errno != EINTR)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (sent > 0)
			at += (size_t)sent;
	}
	return 0;
}

int api_call(const char *path, const char *verb, const char *target, const char *body, char **ret,
	struct kv_err *err)
{
	const struct timeval limit = {.tv_sec = TIME_S};
	MEM_SCOPED char *answer = malloc(ANSWER_MAX + 1);
	FD_SCOPED int fd = api_connect(path, TIME_S * 1000);
	ssize_t n;
	int r;

	*ret = NULL;
	if (fd == -ENOENT || fd == -ECONNREFUSED)
		return fd;
	if (fd < 0)
		return err_set(err, fd, "%s: %s", path, err_text(fd));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	r = request_send(fd, verb, target, body);
	if (r < 0)
		return err_set(err, r, "%s: %s", path, err_text(r));
	if (!answer)
		return err_set(err, -ENOMEM, "out of memory");
	n = answer_read(fd, answer);
	/* One that ends closes the connection, with or without an answer still to come. */
	if (!n)
		n = -ECONNRESET;
	if (n < 0)
		return err_set(err, (int)n, "%s: %s", path, err_text((int)n));
	r = answer_parse(answer, ret, err);
	return r == -ENOMEM ? err_set(err, r, "out of memory") : r;
}
