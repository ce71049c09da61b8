/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing files and devices piece by piece, with a pattern that tells what belongs
 * where. */
#include "nolibc.h"
#include "out.h"
#include "cmd.h"

#define PIECE	   (64UL << 10)
#define SECTOR	   512UL
#define ACK	   4096UL
#define DIRECT	   040000 /* O_DIRECT, which nolibc does not name */
#define BYTES_MOST (1UL << 40)

static unsigned char *piece_map(void)
{
	return sys_mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int map_failed(const void *at)
{
	return (unsigned long)at > -4096UL;
}

int cmd_read(int argc, char **argv, char *why)
{
	unsigned long total, done = 0, values = 0;
	unsigned char seen[256] = {0};
	unsigned char *buf;
	long n = 0;
	int fd;

	if (argc != 3 || parse_num(argv[2], &total) || total > BYTES_MOST)
		return fail(why, "needs FILE BYTES", 0);
	buf = piece_map();
	if (map_failed(buf))
		return fail(why, "mmap", (long)buf);
	fd = sys_open(argv[1], O_RDONLY, 0);
	n = fd;
	while (n >= 0 && done < total) {
		n = sys_read(fd, buf, total - done < PIECE ? total - done : PIECE);
		if (n <= 0)
			break;
		for (long i = 0; i < n; i++)
			seen[buf[i]] = 1;
		done += (unsigned long)n;
	}
	if (fd >= 0)
		sys_close(fd);
	sys_munmap(buf, PIECE);
	if (n < 0)
		return fail(why, argv[1], n);
	for (int i = 0; i < 256; i++)
		values += seen[i];
	say("read: %lu bytes, %lu values", done, values);
	return 0;
}

/* The pattern of [at, at + len): each 8 bytes are a mix of where they lie and of seed. */
static void pattern_make(
	unsigned char *buf, unsigned long at, unsigned long len, unsigned long seed)
{
	for (unsigned long i = 0; i < len; i += 8) {
		unsigned long word = (at + i + 1) * 0x9e3779b97f4a7c15UL ^ seed;

		word ^= word >> 29;
		word *= 0xbf58476d1ce4e5b9UL;
		word ^= word >> 32;
		memcpy(buf + i, &word, sizeof(word));
	}
}

struct span {
	const char *path;
	unsigned long at, bytes, seed;
};

static int span_parse(int argc, char **argv, struct span *span, char *why)
{
	if (argc != 5 || parse_num(argv[2], &span->at) || parse_num(argv[3], &span->bytes) ||
		parse_num(argv[4], &span->seed) || span->at % SECTOR || span->bytes % SECTOR ||
		span->at > BYTES_MOST || span->bytes > BYTES_MOST)
		return fail(why, "needs FILE OFFSET BYTES SEED, multiples of 512", 0);
	span->path = argv[1];
	return 0;
}

static long place(int fd, unsigned long at)
{
	return my_syscall3(__NR_lseek, fd, at, SEEK_SET);
}

static long fill(int fd, const struct span *span, unsigned char *buf)
{
	long err = place(fd, span->at);

	for (unsigned long done = 0; err >= 0 && done < span->bytes; done += PIECE) {
		unsigned long len = span->bytes - done < PIECE ? span->bytes - done : PIECE;

		pattern_make(buf, span->at + done, len, span->seed);
		err = write_all(fd, (char *)buf, len);
	}
	return err < 0 ? err : my_syscall1(__NR_fsync, fd);
}

/* Reads the span past the page cache. Returns: 0, 1 when it differs at *where, or a negative errno.
 */
static long compare(int fd, const struct span *span, unsigned char *buf, unsigned char *want,
	unsigned long *where)
{
	long n = place(fd, span->at);

	for (unsigned long done = 0; n >= 0 && done < span->bytes; done += (unsigned long)n) {
		n = sys_read(fd, buf, span->bytes - done < PIECE ? span->bytes - done : PIECE);
		if (n == 0)
			n = -EIO;
		if (n < 0)
			break;
		pattern_make(want, span->at + done, (unsigned long)n, span->seed);
		for (long i = 0; i < n; i++)
			if (buf[i] != want[i]) {
				*where = span->at + done + (unsigned long)i;
				return 1;
			}
	}
	return n < 0 ? n : 0;
}

static long acks(int fd, const struct span *span, unsigned char *buf)
{
	long err = place(fd, span->at);

	for (unsigned long done = 0; err >= 0 && done < span->bytes; done += ACK) {
		unsigned long len = span->bytes - done < ACK ? span->bytes - done : ACK;

		pattern_make(buf, span->at + done, len, span->seed);
		err = write_all(fd, (char *)buf, len);
		if (err >= 0)
			err = my_syscall1(__NR_fsync, fd);
		if (err >= 0)
			say("stored: %lu", done + len);
	}
	return err;
}

/* Has @work write to the span's file, with a buffer of PIECE bytes. Returns 0, or -1 with *why. */
static int span_write(const struct span *span, char *why,
	long (*work)(int fd, const struct span *span, unsigned char *buf))
{
	unsigned char *buf = piece_map();
	long err;
	int fd;

	if (map_failed(buf))
		return fail(why, "mmap", (long)buf);
	fd = sys_open(span->path, O_WRONLY, 0);
	err = fd < 0 ? fd : work(fd, span, buf);
	if (fd >= 0)
		sys_close(fd);
	sys_munmap(buf, PIECE);
	return err < 0 ? fail(why, span->path, err) : 0;
}

int cmd_fill(int argc, char **argv, char *why)
{
	struct span span;

	if (span_parse(argc, argv, &span, why) || span_write(&span, why, fill))
		return -1;
	say("fill: %lu bytes", span.bytes);
	return 0;
}

int cmd_acks(int argc, char **argv, char *why)
{
	struct span span;

	if (span_parse(argc, argv, &span, why))
		return -1;
	return span_write(&span, why, acks);
}

int cmd_verify(int argc, char **argv, char *why)
{
	unsigned char *buf, *want;
	unsigned long where = 0;
	struct span span;
	long err;
	int fd;

	if (span_parse(argc, argv, &span, why))
		return -1;
	buf = piece_map();
	want = piece_map();
	if (map_failed(buf) || map_failed(want))
		return fail(why, "mmap", (long)want);
	fd = sys_open(span.path, O_RDONLY | DIRECT, 0);
	err = fd < 0 ? fd : compare(fd, &span, buf, want, &where);
	if (fd >= 0)
		sys_close(fd);
	sys_munmap(buf, PIECE);
	sys_munmap(want, PIECE);
	if (err < 0)
		return fail(why, span.path, err);
	if (err > 0) {
		say("verify: byte %lu differs", where);
		return fail(why, "not what was written", 0);
	}
	say("verify: %lu bytes ok", span.bytes);
	return 0;
}
