/* SPDX-License-Identifier: Apache-2.0 */
#include "nolibc.h"
#include "out.h"

#define LINE_BYTES 512

struct line {
	char text[LINE_BYTES];
	unsigned long len;
};

static void line_put(struct line *l, const char *s)
{
	/* One byte stays free for the newline. */
	while (*s && l->len < LINE_BYTES - 1)
		l->text[l->len++] = *s++;
}

static void line_num(struct line *l, unsigned long v, unsigned long base)
{
	char digits[24];
	char *p = digits + sizeof(digits) - 1;

	*p = 0;
	do {
		*--p = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	line_put(l, p);
}

static void line_long(struct line *l, long v)
{
	if (v < 0)
		line_put(l, "-");
	line_num(l, v < 0 ? 0UL - (unsigned long)v : (unsigned long)v, 10);
}

long write_all(int fd, const char *buf, unsigned long len)
{
	while (len) {
		long n = sys_write(fd, buf, len);

		if (n == -EINTR)
			continue;
		if (n < 0)
			return n;
		buf += n;
		len -= (unsigned long)n;
	}
	return 0;
}

void say(const char *fmt, ...)
{
	struct line l = {.len = 0};
	va_list args;

	va_start(args, fmt);
	for (; *fmt; fmt++) {
		char one[2] = {*fmt, 0};

		if (*fmt != '%') {
			line_put(&l, one);
			continue;
		}
		fmt++;
		if (*fmt == 's') {
			line_put(&l, va_arg(args, const char *));
		} else if (fmt[0] == 'l' && fmt[1]) {
			fmt++;
			if (*fmt == 'd')
				line_long(&l, va_arg(args, long));
			else
				line_num(&l, va_arg(args, unsigned long), *fmt == 'x' ? 16 : 10);
		} else {
			line_put(&l, "%");
		}
	}
	va_end(args);
	l.text[l.len++] = '\n';
	/* Nobody is left to tell when the console itself does not take it. */
	(void)write_all(STDOUT_FILENO, l.text, l.len);
}

static const char *errno_text(long err)
{
	switch (-err) {
	case EPERM:
		return "not permitted";
	case ENOENT:
		return "no such file or directory";
	case EIO:
		return "I/O error";
	case ENXIO:
	case ENODEV:
		return "no such device";
	case ENOEXEC:
		return "not an executable this kernel knows";
	case EAGAIN:
		return "try again";
	case ENOMEM:
		return "out of memory";
	case EACCES:
		return "access denied";
	case EBUSY:
		return "busy";
	case EEXIST:
		return "exists already";
	case ENOTDIR:
		return "not a directory";
	case EISDIR:
		return "is a directory";
	case EINVAL:
		return "invalid argument";
	case ENOSYS:
		return "not in this kernel";
	default:
		return NULL;
	}
}

int fail(char *why, const char *what, long err)
{
	struct line l = {.len = 0};

	line_put(&l, what);
	if (err) {
		const char *text = errno_text(err);

		line_put(&l, ": ");
		if (text) {
			line_put(&l, text);
		} else {
			line_put(&l, "errno ");
			line_long(&l, -err);
		}
	}
	l.text[l.len] = 0;
	strlcpy(why, l.text, WHY_BYTES);
	return -1;
}

long read_text(const char *path, char *buf, unsigned long size)
{
	int fd = sys_open(path, O_RDONLY, 0);
	unsigned long len = 0;
	long n = 1;

	if (fd < 0)
		return fd;
	while (len < size - 1 && n > 0) {
		n = sys_read(fd, buf + len, size - 1 - len);
		if (n > 0)
			len += (unsigned long)n;
	}
	sys_close(fd);
	if (n < 0)
		return n;
	buf[len] = 0;
	return (long)len;
}

int parse_num(const char *s, unsigned long *ret)
{
	unsigned long v = 0;
	unsigned long base = 10;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		s += 2;
	}
	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		unsigned long digit;

		if (*s >= '0' && *s <= '9')
			digit = (unsigned long)(*s - '0');
		else if ((*s | 0x20) >= 'a' && (*s | 0x20) <= 'f')
			digit = (unsigned long)((*s | 0x20) - 'a') + 10;
		else
			return -EINVAL;
		if (digit >= base || __builtin_mul_overflow(v, base, &v) ||
			__builtin_add_overflow(v, digit, &v))
			return -EINVAL;
	}
	*ret = v;
	return 0;
}

unsigned long clock_ns(int clock)
{
	struct timespec ts = {0};

	if (my_syscall2(__NR_clock_gettime, clock, &ts) < 0)
		return 0;
	return (unsigned long)ts.tv_sec * 1000000000UL + (unsigned long)ts.tv_nsec;
}
