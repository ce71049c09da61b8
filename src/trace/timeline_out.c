/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "trace/timeline_internal.h"

/* More than a run without trace-port writes needs. */
#define FIRST_ROOM 4096

#define DIGITS_MAX 24

/* Room for @bytes more, or NULL. */
static char *room_for(struct timeline_out *out, size_t bytes)
{
	size_t room = out->room ? out->room : FIRST_ROOM;
	char *text;

	if (out->failed)
		return NULL;
	while (room - out->len < bytes)
		room *= 2;
	if (room != out->room) {
		text = realloc(out->text, room);
		if (!text) {
			out->failed = true;
			return NULL;
		}
		out->text = text;
		out->room = room;
	}
	return out->text + out->len;
}

static void put_bytes(struct timeline_out *out, const char *bytes, size_t len, size_t width)
{
	size_t spaces = width > len ? width - len : 0;
	char *at = room_for(out, spaces + len);

	if (!at)
		return;
	memset(at, ' ', spaces);
	memcpy(at + spaces, bytes, len);
	out->len += spaces + len;
}

/* The digits of @value, @least of them or more, which end before @end. Returns where they begin. */
static char *digits(char *end, uint64_t value, unsigned least)
{
	char *at = end;

	for (; value || at > end - least; value /= 10)
		*--at = (char)('0' + value % 10);
	return at;
}

void timeline_put(struct timeline_out *out, const char *text)
{
	put_bytes(out, text, strlen(text), 0);
}

void timeline_put_num(struct timeline_out *out, uint64_t value, unsigned width)
{
	char text[DIGITS_MAX], *end = text + sizeof(text), *at = digits(end, value, 1);

	put_bytes(out, at, (size_t)(end - at), width);
}

void timeline_put_milli(struct timeline_out *out, uint64_t thousandths, unsigned width)
{
	char text[DIGITS_MAX], *end = text + sizeof(text);
	char *at = digits(end, thousandths % 1000, 3);

	*--at = '.';
	at = digits(at, thousandths / 1000, 1);
	put_bytes(out, at, (size_t)(end - at), width);
}

void timeline_putf(struct timeline_out *out, const char *format, ...)
{
	va_list args;
	char text[512];
	int n;

	va_start(args, format);
	n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(text))
		out->failed = true;
	else
		put_bytes(out, text, (size_t)n, 0);
}

int timeline_put_end(struct timeline_out *out, int fd)
{
	int r = out->failed ? -ENOMEM : fd_write_all(fd, out->text, out->len);

	free(out->text);
	*out = (struct timeline_out){0};
	return r;
}
