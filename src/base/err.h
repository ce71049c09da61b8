/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BASE_ERR_H
#define KV_BASE_ERR_H

/*
 * Errors are 0 or negative errno. Paths that a person started also carry one sentence in a
 * struct kv_err: it names the field, the value and what is allowed, and has no trailing newline.
 */
struct kv_err {
	char text[512];
};

/*
 * Fill @err (NULL: nothing is kept) with a sentence in printf form; too long a text is cut.
 * @code is the negative errno to report.
 * Returns @code, so that a caller can write `return err_set(err, -EINVAL, ...)`.
 * Context: any thread; touches only @err.
 */
int err_set(struct kv_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Put "<printf text>: " in front of the sentence already in @err, to say which part of the input
 * it belongs to. Does nothing when @err is NULL or empty.
 * Returns @code.
 */
int err_prefix(struct kv_err *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#if defined(__clang_analyzer__) && !defined(ERR_OWN)
/* The analyzer looks at one file at a time: this is what it has to know of the others. */
static inline int err_code(int code)
{
	if (code >= 0)
		__builtin_unreachable();
	return code;
}
#define err_set(err, code, ...)	   (err_set(err, code, __VA_ARGS__), err_code(code))
#define err_prefix(err, code, ...) (err_prefix(err, code, __VA_ARGS__), err_code(code))
#endif

/* The C library's text for an errno of either sign, e.g. "No such file or directory". */
const char *err_text(int code);

#endif
