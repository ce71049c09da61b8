/* SPDX-License-Identifier: Apache-2.0 */
/* How probes read /sys and /proc and write down what they find. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "cli/doctor.h"

void doctor_find(struct doctor_finding *finding, enum doctor_level level, const char *fmt, ...)
{
	va_list ap;

	finding->level = level;
	va_start(ap, fmt);
	vsnprintf(finding->text, sizeof(finding->text), fmt, ap);
	va_end(ap);
}

void doctor_fix(struct doctor_finding *finding, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(finding->fix, sizeof(finding->fix), fmt, ap);
	va_end(ap);
}

void doctor_value(struct doctor_finding *finding, const char *name, int64_t value)
{
	if (finding->value_count == DOCTOR_VALUES_MAX)
		return;
	snprintf(finding->values[finding->value_count].name,
		sizeof(finding->values[finding->value_count].name), "%s", name);
	finding->values[finding->value_count++].value = value;
}

static int path_make(
	const struct doctor *doctor, char *path, size_t bytes, const char *fmt, va_list ap)
{
	int head = snprintf(path, bytes, "%s", doctor->root);
	int tail;

	if (head < 0 || (size_t)head >= bytes)
		return -ENAMETOOLONG;
	tail = vsnprintf(path + head, bytes - (size_t)head, fmt, ap);
	return tail < 0 || (size_t)tail >= bytes - (size_t)head ? -ENAMETOOLONG : 0;
}

static int line_read(const char *path, char *buf, size_t bytes)
{
	FD_SCOPED int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, bytes - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return 0;
}

int doctor_read(const struct doctor *doctor, char *buf, size_t bytes, const char *fmt, ...)
{
	char path[1024];
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = path_make(doctor, path, sizeof(path), fmt, ap);
	va_end(ap);
	return r < 0 ? r : line_read(path, buf, bytes);
}

int64_t doctor_number(const struct doctor *doctor, const char *fmt, ...)
{
	char path[1024], text[64];
	uint64_t n;
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = path_make(doctor, path, sizeof(path), fmt, ap);
	va_end(ap);
	if (r < 0 || line_read(path, text, sizeof(text)) < 0 ||
		uint_parse(text, 0, INT64_MAX, &n) < 0)
		return -1;
	return (int64_t)n;
}

char *doctor_text(const struct doctor *doctor, const char *path)
{
	char full[1024];
	char *text;

	snprintf(full, sizeof(full), "%s%s", doctor->root, path);
	return file_read_all(full, 4 * MIB, &text) < 0 ? NULL : text;
}
