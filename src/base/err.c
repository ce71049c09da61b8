/* SPDX-License-Identifier: Apache-2.0 */
#define ERR_OWN
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct kv_err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (!err)
		return code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return code;
}

int err_prefix(struct kv_err *err, int code, const char *fmt, ...)
{
	char rest[sizeof(err->text)];
	va_list ap;
	int n;

	if (!err || !err->text[0])
		return code;
	memcpy(rest, err->text, sizeof(rest));
	va_start(ap, fmt);
	n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	/* What does not fit any more is cut, as in err_set(). */
	if (n >= 0 && (size_t)n + 2 < sizeof(err->text)) {
		size_t len = strnlen(rest, sizeof(err->text) - (size_t)n - 3);

		memcpy(err->text + n, ": ", 2);
		memcpy(err->text + n + 2, rest, len);
		err->text[(size_t)n + 2 + len] = '\0';
	}
	return code;
}

const char *err_text(int code)
{
	const char *text = strerrordesc_np(code < 0 ? -code : code);

	return text ? text : "Unknown error";
}
