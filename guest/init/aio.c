/* SPDX-License-Identifier: Apache-2.0 */
/* Timed reading and writing with several requests under way. */
#include "nolibc.h"
#include <linux/aio_abi.h>
#include "out.h"
#include "cmd.h"

#define DIRECT	  040000 /* O_DIRECT, which nolibc does not name */
#define DEPTH_MAX 64UL
#define BLOCK_MAX (1UL << 20)
#define STRIDE	  5 /* blocks; neighbours would be merged into one request */
#define NAP_NS	  200000000L
#define NS_PER_US 1000UL

struct job {
	int fd, write;
	unsigned long block, depth, count;
	unsigned long blocks; /* of the file */
	unsigned char *bufs;
	aio_context_t aio;
	unsigned long next, done;
	struct iocb iocbs[DEPTH_MAX];
};

/* Send off the requests of @slots. Returns 0 or a negative errno. */
static long submit(struct job *job, const unsigned long *slots, unsigned long count)
{
	struct iocb *list[DEPTH_MAX];
	unsigned long sent = 0;

	for (unsigned long i = 0; i < count; i++) {
		struct iocb *io = &job->iocbs[slots[i]];

		memset(io, 0, sizeof(*io));
		io->aio_data = slots[i];
		io->aio_lio_opcode = job->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		io->aio_fildes = (unsigned int)job->fd;
		io->aio_buf = (unsigned long)(job->bufs + slots[i] * job->block);
		io->aio_nbytes = job->block;
		io->aio_offset = (long)(job->next++ * STRIDE % job->blocks * job->block);
		list[i] = io;
	}
	while (sent < count) {
		long n = my_syscall3(__NR_io_submit, job->aio, count - sent, list + sent);

		if (n <= 0)
			return n ? n : -EIO;
		sent += (unsigned long)n;
	}
	return 0;
}

static long work(struct job *job)
{
	unsigned long slots[DEPTH_MAX], first = job->depth < job->count ? job->depth : job->count;
	struct io_event events[DEPTH_MAX];
	long err;

	for (unsigned long i = 0; i < first; i++)
		slots[i] = i;
	err = submit(job, slots, first);
	while (!err && job->done < job->count) {
		long n = my_syscall5(__NR_io_getevents, job->aio, 1, DEPTH_MAX, events, NULL);
		unsigned long again = 0;

		if (n <= 0)
			return n ? n : -EIO;
		for (long i = 0; i < n; i++) {
			if (events[i].res != (long)job->block)
				return events[i].res < 0 ? (long)events[i].res : -EIO;
			if (job->next + again < job->count)
				slots[again++] = events[i].data;
		}
		job->done += (unsigned long)n;
		if (again)
			err = submit(job, slots, again);
	}
	return err;
}

static long run(struct job *job)
{
	struct timespec nap = {.tv_sec = 0, .tv_nsec = NAP_NS};
	unsigned long from;
	long err = my_syscall2(__NR_io_setup, DEPTH_MAX, &job->aio);

	if (err < 0)
		return err;
	/*
	 * Who watches from outside reads counters while nothing goes on. What is said in between is
	 * always the same, so that what it costs can be measured (COUNT 0) and taken off.
	 */
	say("io: begin");
	my_syscall2(__NR_nanosleep, &nap, NULL);
	from = clock_ns(CLOCK_MONOTONIC);
	err = work(job);
	from = clock_ns(CLOCK_MONOTONIC) - from;
	say("io: end");
	my_syscall2(__NR_nanosleep, &nap, NULL);
	if (!err)
		say("io: %lu requests took %lu us", job->count, from / NS_PER_US);
	my_syscall1(__NR_io_destroy, job->aio);
	return err;
}

int cmd_io(int argc, char **argv, char *why)
{
	struct job job = {0};
	unsigned long bytes;
	long size, err;

	if (argc != 6 || parse_num(argv[3], &job.block) || parse_num(argv[4], &job.depth) ||
		parse_num(argv[5], &job.count) || !job.block || job.block > BLOCK_MAX ||
		job.block % 512 || !job.depth || job.depth > DEPTH_MAX ||
		(strcmp(argv[2], "read") && strcmp(argv[2], "write")))
		return fail(why, "needs FILE read|write BLOCK DEPTH COUNT", 0);
	job.write = !strcmp(argv[2], "write");
	job.fd = sys_open(argv[1], (job.write ? O_WRONLY : O_RDONLY) | DIRECT, 0);
	if (job.fd < 0)
		return fail(why, argv[1], job.fd);
	bytes = job.block * job.depth;
	size = my_syscall3(__NR_lseek, job.fd, 0, SEEK_END);
	job.blocks = size > 0 ? (unsigned long)size / job.block : 0;
	job.bufs =
		sys_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if ((unsigned long)job.bufs > -4096UL || !job.blocks) {
		sys_close(job.fd);
		return fail(why, "file too small, or no memory", 0);
	}
	for (unsigned long i = 0; i < bytes; i += 512)
		job.bufs[i] = (unsigned char)(i / 512 + 1);
	err = run(&job);
	sys_munmap(job.bufs, bytes);
	sys_close(job.fd);
	return err < 0 ? fail(why, argv[1], err) : 0;
}
