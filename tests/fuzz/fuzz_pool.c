/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of the pool that sends anything: the input is packets, each behind two bytes that give
 * its length and whether a descriptor is passed along. Whatever they are, the server goes on: at
 * the end all chunks are free and zero.
 */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/num.h"
#include "pool/server.h"

#define CHUNK (64 * KIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The answers are of no interest, but their descriptors must not pile up. */
static void answers_drop(int fd)
{
	char answer[sizeof(struct pool_info)];

	while (recv(fd, answer, sizeof(answer), MSG_DONTWAIT) > 0)
		;
}

struct world {
	struct loop *loop;
	struct pool_server *server;
	uid_t uid;
	unsigned rounds;
};

/* Run the loop until @done or nothing more comes of it; the server must get there by itself. */
static void run_until(struct world *w, int (*done)(const struct pool_info *))
{
	struct pool_info info;

	for (w->rounds = 0; w->rounds < 100000; w->rounds++) {
		if (loop_post(w->loop, (void (*)(void *))loop_stop, w->loop))
			abort();
		loop_run(w->loop);
		pool_server_info(w->server, &info);
		if (done(&info))
			return;
		usleep(10);
	}
	abort();
}

static int nobody(const struct pool_info *info)
{
	return !info->clients && !info->leased_chunks;
}

static int at_rest(const struct pool_info *info)
{
	return !info->cleaning_chunks && !info->filling_chunks && !info->missing_chunks &&
	       info->free_chunks == info->target_chunks;
}

/* Returns how many bytes of @data were used. */
static size_t packet_send(int fd, const uint8_t *data, size_t size)
{
	size_t len = ((size_t)data[0] << 8 | data[1]) & 0x1fff;
	int pass = data[0] & 0x80 ? fd : -1;

	if (len > size - 2)
		len = size - 2;
	pool_send(fd, data + 2, len, &pass, pass >= 0);
	return 2 + len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w = {.uid = geteuid()};
	struct pool_config config = {
		.size_bytes = 3 * CHUNK,
		.chunk_bytes = CHUNK,
		.page_bytes = PAGE_BYTES,
		.node = -1,
		.threads = 1,
		.clients_max = 16,
		.verify = POOL_VERIFY_ALL,
		.trust = &w.uid,
		.trust_count = size && data[0] & 0x40,
	};
	/* Bounds what POOL_GROW gets. */
	struct rlimit files = {256, 256};
	int pair[2];

	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGIO, SIG_IGN);
	if (loop_create(&w.loop) ||
		pool_server_create(&w.server, &config, -1, w.loop, NULL, NULL) ||
		socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) ||
		pool_server_adopt(w.server, pair[1]))
		abort();
	run_until(&w, at_rest);
	for (size_t at = 0; at + 2 < size;) {
		at += packet_send(pair[0], data + at, size - at);
		loop_post(w.loop, (void (*)(void *))loop_stop, w.loop);
		loop_run(w.loop);
		answers_drop(pair[0]);
	}
	close(pair[0]);
	run_until(&w, nobody);
	run_until(&w, at_rest);
	pool_server_destroy(w.server);
	loop_destroy(w.loop);
	return 0;
}
