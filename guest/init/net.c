/* SPDX-License-Identifier: Apache-2.0 */
/* Timed streams over TCP. */
#include "nolibc.h"
#include <linux/in.h>
#include "out.h"
#include "cmd.h"

#define STREAM	  1 /* SOCK_STREAM, which no header of the kernel's names for programs */
#define INET	  2 /* AF_INET */
#define BLOCK_MAX (1UL << 20)
#define COUNT_MAX (1UL << 30)
#define NAP_NS	  200000000L
#define NS_PER_US 1000UL

struct stream {
	struct sockaddr_in peer;
	int send;
	unsigned long block, count;
	char *buf;
};

/* Takes "A.B.C.D". Returns 0 or -1. */
static int address_parse(const char *s, __be32 *address)
{
	unsigned char bytes[4];

	for (int i = 0; i < 4; i++) {
		unsigned long n = 0;

		if (*s < '0' || *s > '9')
			return -1;
		for (; *s >= '0' && *s <= '9' && n < 256; s++)
			n = n * 10 + (unsigned long)(*s - '0');
		if (n > 255 || *s != (i < 3 ? '.' : 0))
			return -1;
		bytes[i] = (unsigned char)n;
		s++;
	}
	memcpy(address, bytes, sizeof(bytes));
	return 0;
}

/*
 * The other end first gets two numbers of 8 bytes: how much it will get, and how much it shall
 * send. It hangs up when it has done both.
 */
static long transfer(int fd, const struct stream *stream)
{
	unsigned long bytes = stream->block * stream->count, got = 0;
	unsigned long head[2] = {stream->send ? bytes : 0, stream->send ? 0 : bytes};
	long n = write_all(fd, (char *)head, sizeof(head));

	for (unsigned long i = 0; n >= 0 && stream->send && i < stream->count; i++)
		n = write_all(fd, stream->buf, stream->block);
	while (n >= 0 && (n = sys_read(fd, stream->buf, stream->block)) > 0)
		got += (unsigned long)n;
	return n < 0 ? n : got == head[1] ? 0 : -EIO;
}

static long run(const struct stream *stream)
{
	struct timespec nap = {.tv_sec = 0, .tv_nsec = NAP_NS};
	unsigned long from;
	int fd = (int)my_syscall3(__NR_socket, INET, STREAM, 0);
	long err = fd;

	if (fd < 0)
		return err;
	/* As for requests to a disk. */
	say("io: begin");
	my_syscall2(__NR_nanosleep, &nap, NULL);
	from = clock_ns(CLOCK_MONOTONIC);
	err = my_syscall3(__NR_connect, fd, &stream->peer, sizeof(stream->peer));
	if (err >= 0)
		err = transfer(fd, stream);
	from = clock_ns(CLOCK_MONOTONIC) - from;
	say("io: end");
	my_syscall2(__NR_nanosleep, &nap, NULL);
	sys_close(fd);
	if (!err)
		say("io: %lu requests took %lu us", stream->count, from / NS_PER_US);
	return err;
}

int cmd_stream(int argc, char **argv, char *why)
{
	struct stream stream = {.peer = {.sin_family = INET}};
	unsigned long port;
	long err;

	if (argc != 6 || address_parse(argv[2], &stream.peer.sin_addr.s_addr) ||
		parse_num(argv[3], &port) || parse_num(argv[4], &stream.block) ||
		parse_num(argv[5], &stream.count) || !port || port > 0xffff || !stream.block ||
		stream.block > BLOCK_MAX || stream.count > COUNT_MAX ||
		(strcmp(argv[1], "send") && strcmp(argv[1], "receive")))
		return fail(why, "needs send|receive ADDRESS PORT BLOCK COUNT", 0);
	stream.peer.sin_port = (__be16)(port >> 8 | port << 8);
	stream.send = !strcmp(argv[1], "send");
	stream.buf = sys_mmap(
		NULL, stream.block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if ((unsigned long)stream.buf > -4096UL)
		return fail(why, "mmap", (long)stream.buf);
	err = run(&stream);
	sys_munmap(stream.buf, stream.block);
	return err < 0 ? fail(why, argv[2], err) : 0;
}
