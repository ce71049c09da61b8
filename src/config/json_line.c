/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where in a JSON text a value stands. The library that reads the text keeps no positions, so this
 * walks the text once more, after an error; the text is known to be well-formed by then.
 */
#include "config/internal.h"

#include <string.h>

static const char *blanks_skip(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* @at is at the opening quote; returns what follows the closing one. */
static const char *string_skip(const char *at)
{
	for (at++; *at && *at != '"'; at++)
		if (*at == '\\' && at[1])
			at++;
	return *at ? at + 1 : at;
}

static const char *value_skip(const char *at)
{
	unsigned depth = 0;

	do {
		if (*at == '"') {
			at = string_skip(at);
			continue;
		}
		if (*at == '{' || *at == '[')
			depth++;
		else if (*at == '}' || *at == ']')
			depth--;
		else if (!depth)
			return at + strcspn(at, ",]} \t\r\n");
		if (*at)
			at++;
	} while (depth && *at);
	return at;
}

/* From the key of a member to its value. */
static const char *key_skip(const char *at)
{
	at = blanks_skip(string_skip(at));
	return *at == ':' ? blanks_skip(at + 1) : at;
}

unsigned config_json_line(const char *text, const size_t *indexes, unsigned depth)
{
	const char *at = blanks_skip(text);
	const char *target = at;
	unsigned line = 1;

	for (unsigned i = 0; i < depth && (*at == '{' || *at == '['); i++) {
		bool object = *at == '{';

		at = blanks_skip(at + 1);
		for (size_t n = 0; n < indexes[i]; n++) {
			at = blanks_skip(value_skip(object ? key_skip(at) : at));
			if (*at != ',')
				break;
			at = blanks_skip(at + 1);
		}
		target = at;
		if (object)
			at = key_skip(at);
	}
	for (const char *c = text; c < target; c++)
		line += *c == '\n';
	return line;
}
