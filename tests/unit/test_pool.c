/* SPDX-License-Identifier: Apache-2.0 */
/* pool/: messages, clearing, chunks and who holds them, leases of a server in a thread. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/num.h"
#include "pool/chunk.h"
#include "pool/clear.h"
#include "pool/client.h"
#include "pool/notify.h"
#include "pool/path.h"
#include "pool/server.h"

#define CHUNK (4 * MIB)

static const struct chunk_form form = {CHUNK, PAGE_BYTES, -1};
static const atomic_bool go_on;

static struct pool_msg request(uint16_t type)
{
	return (struct pool_msg){.magic = POOL_MAGIC, .version = POOL_VERSION, .type = type};
}

static void test_messages(void **state)
{
	struct pool_wrote wrote = {.msg = request(POOL_WROTE)};
	struct pool_msg msg = request(POOL_LEASE);
	char odd[sizeof(msg) + 1];

	msg.bytes = 1;
	assert_int_equal(pool_check(&msg, sizeof(msg)), 0);
	memcpy(odd + 1, &msg, sizeof(msg));
	assert_int_equal(pool_check(odd + 1, sizeof(msg)), 0);
	for (size_t len = 0; len < sizeof(msg); len++)
		assert_int_equal(pool_check(&msg, len), -EBADMSG);
	assert_int_equal(pool_check(odd, sizeof(odd)), -EBADMSG);
	msg.flags = POOL_LAZY | POOL_WAIT | POOL_RENEW;
	assert_int_equal(pool_check(&msg, sizeof(msg)), 0);
	msg.flags = 8;
	assert_int_equal(pool_check(&msg, sizeof(msg)), -EBADMSG);
	msg.flags = 0;
	msg.bytes = 0;
	assert_int_equal(pool_check(&msg, sizeof(msg)), -EBADMSG);
	for (unsigned type = 0; type < 100; type++) {
		bool bare = (type >= POOL_FETCH && type <= POOL_STATUS) || type == POOL_DRAIN ||
			    type == POOL_QUIET;

		msg = request((uint16_t)type);
		assert_int_equal(pool_check(&msg, sizeof(msg)), bare ? 0 : -EBADMSG);
	}
	msg = request(POOL_STATUS);
	msg.index = 1;
	assert_int_equal(pool_check(&msg, sizeof(msg)), -EBADMSG);
	wrote.msg.count = 3;
	assert_int_equal(pool_check(&wrote, sizeof(wrote.msg) + 24), 0);
	assert_int_equal(pool_check(&wrote, sizeof(wrote.msg) + 16), -EBADMSG);
	wrote.msg.count = POOL_SPANS_MAX;
	assert_int_equal(pool_check(&wrote, sizeof(wrote)), 0);
	wrote.msg.count = UINT32_MAX;
	assert_int_equal(pool_check(&wrote, sizeof(wrote)), -EBADMSG);
}

static void test_clear(void **state)
{
	_Alignas(64) static unsigned char area[3 * 4096];

	memset(area, 0x5a, sizeof(area));
	pool_clear(area + 64, 8192);
	for (size_t i = 0; i < sizeof(area); i++)
		assert_int_equal(area[i], i >= 64 && i < 64 + 8192 ? 0 : 0x5a);
	assert_true(pool_is_zero(area + 64, 8192));
	for (size_t i = 64; i < 64 + 8192; i += 97) {
		area[i] = 1;
		assert_false(pool_is_zero(area + 64, 8192));
		area[i] = 0;
	}
	assert_true(pool_is_zero(area + 64, 8192));
	assert_true(pool_is_zero(area, 0));
}

static struct chunk_mem chunk_new(void)
{
	struct chunk_mem mem;
	struct kv_err err = {0};

	assert_int_equal(chunk_make(&mem, &form, &go_on, &err), 0);
	return mem;
}

static void test_chunk(void **state)
{
	struct chunk_mem mem = chunk_new();
	const atomic_bool stop = true;
	struct stat st;
	struct kv_err err = {0};

	assert_int_equal(fstat(mem.fd, &st), 0);
	assert_int_equal(st.st_size, CHUNK);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true((uint64_t)st.st_blocks * 512 >= CHUNK);
	assert_true(pool_is_zero(mem.map, CHUNK));
	assert_int_equal(ftruncate(mem.lend_fd, 0), -1);
	assert_int_equal(ftruncate(mem.lend_fd, 2 * CHUNK), -1);
	assert_int_equal(fcntl(mem.lend_fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	chunk_drop(&mem, &form, true);
	assert_int_equal(mem.fd, -1);
	chunk_drop(&mem, &form, true);
	assert_int_equal(chunk_make(&mem, &form, &stop, &err), -ECANCELED);
}

/* Every way to keep a chunk that the server must see. */
static void test_alone(void **state)
{
	struct chunk_mem mem = chunk_new();
	int fd = mem.lend_fd, copy, again, pair[2];
	char path[32];
	void *map;

	signal(SIGIO, SIG_IGN);
	assert_false(chunk_alone(&mem));
	copy = dup(fd);
	close(fd);
	mem.lend_fd = -1;
	assert_false(chunk_alone(&mem));
	/* only a mapping, writable or not */
	map = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE, copy, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", copy);
	again = open(path, O_RDONLY);
	assert_true(again >= 0);
	close(copy);
	assert_false(chunk_alone(&mem));
	close(again);
	assert_false(chunk_alone(&mem));
	munmap(map, PAGE_BYTES);
	assert_true(chunk_alone(&mem));
	/* only one that is opened for reading */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", mem.fd);
	again = open(path, O_RDONLY);
	assert_false(chunk_alone(&mem));
	close(again);
	assert_true(chunk_alone(&mem));
	/* only in flight */
	assert_int_equal(chunk_lend(&mem), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	assert_int_equal(pool_send(pair[0], "x", 1, &mem.lend_fd, 1), 0);
	fd_close(&mem.lend_fd);
	assert_false(chunk_alone(&mem));
	close(pair[0]);
	assert_false(chunk_alone(&mem));
	close(pair[1]);
	assert_true(chunk_alone(&mem));
	chunk_drop(&mem, &form, true);
}

static void test_clean(void **state)
{
	static const struct pool_span spans[] = {{1, 1}, {10, 5}, {1023, 1}};
	static const struct pool_span bad = {1023, 2}, worse = {UINT32_MAX, UINT32_MAX};
	struct chunk_mem mem = chunk_new();
	char *map = mem.map;
	uint64_t bytes;

	memset(map, 0xff, CHUNK);
	assert_int_equal(chunk_clean(&mem, &form, spans, 3, &bytes), 0);
	assert_int_equal(bytes, 7 * PAGE_BYTES);
	for (unsigned page = 0; page < 1024; page++) {
		bool inside = page == 1 || (page >= 10 && page < 15) || page == 1023;

		assert_int_equal(map[page * PAGE_BYTES], inside ? 0 : -1);
		assert_int_equal(pool_is_zero(map + page * PAGE_BYTES, PAGE_BYTES), inside);
	}
	assert_int_equal(chunk_clean(&mem, &form, &bad, 1, &bytes), -ERANGE);
	assert_int_equal(chunk_clean(&mem, &form, &worse, 1, &bytes), -ERANGE);
	/* holes that a client punched come back */
	assert_int_equal(
		fallocate(mem.lend_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, CHUNK / 2),
		0);
	assert_int_equal(chunk_holes(&mem, &form), CHUNK / 2);
	assert_int_equal(chunk_populate(&mem, &form, &go_on), 0);
	assert_int_equal(chunk_holes(&mem, &form), 0);
	assert_int_equal(chunk_clean(&mem, &form, NULL, 0, &bytes), 0);
	assert_int_equal(bytes, CHUNK);
	assert_true(pool_is_zero(map, CHUNK));
	chunk_drop(&mem, &form, true);
}

/* Who keeps a mapping of a chunk that is given up loses its pages. */
static void test_drop(void **state)
{
	struct chunk_mem mem = chunk_new();
	char *map = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, mem.lend_fd, 0);
	int copy = dup(mem.lend_fd);
	struct stat st;

	memset(map, 1, CHUNK);
	chunk_drop(&mem, &form, true);
	assert_int_equal(fstat(copy, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	assert_true(pool_is_zero(map, CHUNK));
	munmap(map, CHUNK);
	close(copy);
}

/* A server in a thread, on a socket of its own. */
struct fixture {
	struct loop *loop;
	struct pool_server *server;
	pthread_t thread;
	char dir[32], path[64];
};

static void *fixture_thread(void *ctx)
{
	loop_run(((struct fixture *)ctx)->loop);
	return NULL;
}

static void fixture_start(struct fixture *f, const struct pool_config *config)
{
	struct kv_err err = {0};
	int fd;

	signal(SIGIO, SIG_IGN);
	strcpy(f->dir, "/tmp/kvick-pool-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/sub/sock", f->dir);
	fd = pool_listen(f->path, 0, &err);
	assert_true(fd >= 0);
	assert_int_equal(loop_create(&f->loop), 0);
	assert_int_equal(pool_server_create(&f->server, config, fd, f->loop, NULL, &err), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, fixture_thread, f), 0);
}

static void fixture_stop(struct fixture *f)
{
	char sub[64], lock[80];

	loop_stop(f->loop);
	pthread_join(f->thread, NULL);
	pool_server_destroy(f->server);
	loop_destroy(f->loop);
	snprintf(sub, sizeof(sub), "%s/sub", f->dir);
	snprintf(lock, sizeof(lock), "%s.lock", f->path);
	unlink(f->path);
	unlink(lock);
	rmdir(sub);
	assert_int_equal(rmdir(f->dir), 0);
}

static const struct pool_config config_plain = {
	.size_bytes = 4 * CHUNK,
	.chunk_bytes = CHUNK,
	.page_bytes = PAGE_BYTES,
	.node = -1,
	.threads = 2,
	.verify = POOL_VERIFY_ALL,
};

static struct pool_info info_of(const struct fixture *f)
{
	struct pool_info info;
	struct kv_err err = {0};

	assert_int_equal(pool_status(f->path, &info, &err), 0);
	return info;
}

/* Until the server has seen the end of all leases and cleaned up after them. */
static struct pool_info info_quiet(const struct fixture *f)
{
	struct pool_info info;

	do {
		usleep(1000);
		info = info_of(f);
	} while (info.leases || info.cleaning_chunks || info.filling_chunks);
	return info;
}

static struct pool_lease *lease_take(const struct fixture *f, uint64_t bytes)
{
	struct pool_lease *lease;
	struct kv_err err = {0};

	assert_int_equal(pool_lease(&lease, f->path, bytes, true, &err), 0);
	return lease;
}

static char *chunk_map(const struct pool_lease *lease, unsigned index)
{
	unsigned count;
	const struct pool_chunk *chunks = pool_chunks(lease, &count);
	char *map;

	assert_true(index < count);
	map = mmap(
		NULL, chunks[index].bytes, PROT_READ | PROT_WRITE, MAP_SHARED, chunks[index].fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	return map;
}

/* Everything the pool has is zero. */
static void all_zero(const struct fixture *f, unsigned chunks)
{
	struct pool_lease *lease = lease_take(f, chunks * CHUNK);
	unsigned count;

	pool_chunks(lease, &count);
	assert_int_equal(count, chunks);
	for (unsigned i = 0; i < count; i++) {
		char *map = chunk_map(lease, i);

		assert_true(pool_is_zero(map, CHUNK));
		munmap(map, CHUNK);
	}
	pool_lease_end(lease);
}

static void scribble(const struct fixture *f)
{
	struct pool_lease *lease = lease_take(f, 3 * CHUNK);

	assert_int_equal(pool_page_bytes(lease), PAGE_BYTES);
	for (unsigned i = 0; i < 3; i++) {
		char *map = chunk_map(lease, i);

		memset(map, 0xa5, CHUNK);
		munmap(map, CHUNK);
	}
	pool_lease_end(lease);
}

static void test_renewed(void **state)
{
	struct pool_info info;
	struct fixture f;

	fixture_start(&f, &config_plain);
	for (unsigned round = 0; round < 5; round++) {
		scribble(&f);
		all_zero(&f, 4);
	}
	info = info_quiet(&f);
	assert_int_equal(info.granted, 10);
	assert_int_equal(info.free_chunks, 4);
	assert_int_equal(info.renewed_bytes, 5 * 7 * CHUNK);
	assert_int_equal(info.cleaned_bytes, 0);
	fixture_stop(&f);
}

static struct pool_config config_trust(uid_t *uid)
{
	struct pool_config config = config_plain;

	*uid = geteuid();
	config.trust = uid;
	config.trust_count = 1;
	return config;
}

static void test_cleaned(void **state)
{
	uid_t uid;
	struct pool_config config = config_trust(&uid);
	struct pool_info info;
	struct fixture f;

	fixture_start(&f, &config);
	for (unsigned round = 0; round < 5; round++) {
		scribble(&f);
		all_zero(&f, 4);
	}
	info = info_quiet(&f);
	assert_int_equal(info.renewed_bytes, 0);
	assert_int_equal(info.cleaned_bytes, 5 * 7 * CHUNK);
	assert_int_equal(info.verify_failed, 0);
	fixture_stop(&f);
}

/* A report saves cleaning the rest; a false one is found by reading again. */
static void test_reported(void **state)
{
	static const struct pool_span span = {17, 1};
	uid_t uid;
	struct pool_config config = config_trust(&uid);
	struct pool_info info;
	struct fixture f;

	fixture_start(&f, &config);
	for (int lie = 0; lie < 2; lie++) {
		struct pool_lease *lease = lease_take(&f, 2 * CHUNK);
		char *map = chunk_map(lease, 1);

		memset(map + 17 * PAGE_BYTES, 1, PAGE_BYTES);
		map[CHUNK - 1] = (char)lie;
		munmap(map, CHUNK);
		assert_int_equal(pool_wrote(lease, 2, &span, 1), -EINVAL);
		assert_int_equal(pool_wrote(lease, 1, &span, 1), 0);
		pool_lease_report(lease);
		info = info_quiet(&f);
		assert_int_equal(info.cleaned_bytes, (lie + 1) * PAGE_BYTES);
		assert_int_equal(info.verify_failed, lie);
		assert_int_equal(info.renewed_bytes, lie * CHUNK);
	}
	all_zero(&f, 4);
	fixture_stop(&f);
}

/* A lease of two chunks that devices may write to: a page of one is dirty, and reported or not. */
static void device_lease(const struct fixture *f, bool quiet, bool report)
{
	static const struct pool_span span = {17, 1};
	uint32_t flags = POOL_RENEW | POOL_WAIT;
	struct kv_err err = {0};
	struct pool_lease *lease;
	char *map;

	assert_int_equal(pool_lease_with(&lease, f->path, 2 * CHUNK, flags, &err), 0);
	map = chunk_map(lease, 1);
	memset(map + 17 * PAGE_BYTES, 1, PAGE_BYTES);
	munmap(map, CHUNK);
	if (report)
		assert_int_equal(pool_wrote(lease, 1, &span, 1), 0);
	if (quiet)
		pool_lease_quiet(lease);
	if (report)
		pool_lease_report(lease);
	else
		pool_lease_end(lease);
}

/* Trusted or not, who lets devices in gets other memory, unless it says that they are done. */
static void test_devices(void **state)
{
	uid_t uid;
	struct pool_config config = config_trust(&uid);
	uint64_t renewed = 0, cleaned = 0;
	struct pool_info info;
	struct fixture f;

	fixture_start(&f, &config);
	for (unsigned i = 0; i < 4; i++) {
		bool quiet = i & 1, report = i & 2;

		device_lease(&f, quiet, report);
		renewed += quiet ? 0 : 2 * CHUNK;
		cleaned += !quiet ? 0 : report ? PAGE_BYTES : 2 * CHUNK;
		info = info_quiet(&f);
		assert_int_equal(info.renewed_bytes, renewed);
		assert_int_equal(info.cleaned_bytes, cleaned);
	}
	all_zero(&f, 4);
	assert_int_equal(info_quiet(&f).refused_message, 0);
	fixture_stop(&f);
	/* Of others it is no help. */
	fixture_start(&f, &config_plain);
	device_lease(&f, true, true);
	info = info_quiet(&f);
	assert_int_equal(info.renewed_bytes, 2 * CHUNK);
	assert_int_equal(info.cleaned_bytes, 0);
	fixture_stop(&f);
}

/*
 * Chunks that are cleaned in microseconds, so that several are told of at once, among others that
 * take long: whoever waits for all of them gets them.
 */
static void test_many(void **state)
{
	enum { MANY = 96, PAGES = 512 };
	struct pool_span page = {PAGES - 1, 1}, all = {0, PAGES};
	uid_t uid;
	struct pool_config config = config_trust(&uid);
	struct fixture f;

	config.chunk_bytes = PAGES * PAGE_BYTES;
	config.size_bytes = MANY * config.chunk_bytes;
	fixture_start(&f, &config);
	for (unsigned round = 0; round < 10; round++) {
		struct pool_lease *lease = lease_take(&f, config.size_bytes);

		for (unsigned i = 0; i < MANY; i++) {
			char *map = chunk_map(lease, i);

			assert_true(pool_is_zero(map, config.chunk_bytes));
			map[config.chunk_bytes - 1] = 1;
			munmap(map, config.chunk_bytes);
			assert_int_equal(pool_wrote(lease, i, i % 7 ? &page : &all, 1), 0);
		}
		pool_lease_report(lease);
	}
	assert_int_equal(info_quiet(&f).free_chunks, MANY);
	assert_int_equal(info_quiet(&f).renewed_bytes, 0);
	fixture_stop(&f);
}

/* Nobody's word counts but that of the trusted. */
static void test_report_of_others(void **state)
{
	struct pool_lease *lease;
	struct fixture f;
	char *map;

	fixture_start(&f, &config_plain);
	lease = lease_take(&f, CHUNK);
	map = chunk_map(lease, 0);
	memset(map, 1, CHUNK);
	munmap(map, CHUNK);
	pool_lease_report(lease);
	all_zero(&f, 4);
	assert_int_equal(info_quiet(&f).renewed_bytes, 5 * CHUNK);
	fixture_stop(&f);
}

/* The answer may come at any time between the two halves; who gives up ends the lease. */
static void test_halves(void **state)
{
	struct kv_err err = {0};
	struct pool_lease *lease, *other;
	struct fixture f;
	unsigned count;

	fixture_start(&f, &config_plain);
	assert_int_equal(pool_ask(&lease, f.path, 3 * CHUNK, POOL_WAIT, &err), 0);
	pool_chunks(lease, &count);
	assert_int_equal(count, 0);
	while (!info_of(&f).leases)
		usleep(1000);
	assert_int_equal(pool_take(lease, &err), 0);
	pool_chunks(lease, &count);
	assert_int_equal(count, 3);
	assert_int_equal(pool_ask(&other, f.path, 3 * CHUNK, 0, &err), 0);
	assert_int_equal(pool_take(other, &err), -EAGAIN);
	pool_lease_end(other);
	pool_lease_end(lease);
	assert_int_equal(pool_ask(&lease, f.path, 4 * CHUNK, POOL_WAIT, &err), 0);
	pool_lease_end(lease);
	assert_int_equal(pool_ask(&lease, "/nowhere/sock", CHUNK, POOL_WAIT, &err), -ENOENT);
	all_zero(&f, 4);
	fixture_stop(&f);
}

/* Answer one request by a grant of one chunk of @bytes, which has @seals. Does not return. */
static void grant_serve(int listening, uint64_t bytes, int seals)
{
	int client = accept(listening, NULL, NULL),
	    chunk = memfd_create("chunk", MFD_ALLOW_SEALING);
	struct pool_msg msg;
	bool good = recv(client, &msg, sizeof(msg), 0) == sizeof(msg) &&
		    !ftruncate(chunk, (off_t)bytes) && !fcntl(chunk, F_ADD_SEALS, seals);

	msg.type = POOL_GRANT;
	msg.flags = 0;
	msg.count = 1;
	msg.bytes = msg.chunk_bytes = CHUNK;
	msg.page_bytes = PAGE_BYTES;
	good = good && !pool_send(client, &msg, sizeof(msg), &chunk, 1);
	/* Until the client is done. */
	if (good)
		recv(client, &msg, sizeof(msg), 0);
	_exit(!good);
}

/* What a lease of such a pool comes to. */
static int grant_lease(uint64_t bytes, int seals)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int listening = socket(AF_UNIX, SOCK_SEQPACKET, 0), status, r;
	char dir[] = "/tmp/kvick-test-XXXXXX";
	struct pool_lease *lease;
	struct kv_err err = {0};
	pid_t pid;

	assert_non_null(mkdtemp(dir));
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/pool", dir);
	assert_int_equal(bind(listening, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listening, 1), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		grant_serve(listening, bytes, seals);
	r = pool_lease(&lease, addr.sun_path, CHUNK, false, &err);
	if (!r)
		pool_lease_end(lease);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(listening);
	unlink(addr.sun_path);
	rmdir(dir);
	return r;
}

/* A chunk that is or could become too small would end the client by SIGBUS. */
static void test_bad_chunks(void **state)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW;

	assert_int_equal(grant_lease(CHUNK, seals), 0);
	assert_int_equal(grant_lease(CHUNK, F_SEAL_GROW), -EPROTO);
	assert_int_equal(grant_lease(CHUNK - PAGE_BYTES, seals), -EPROTO);
}

static void test_lazy(void **state)
{
	struct kv_err err = {0};
	struct pool_lease *lease;
	struct pool_info info;
	struct fixture f;
	unsigned count;
	char *map;

	fixture_start(&f, &config_plain);
	assert_int_equal(
		pool_lease_with(&lease, f.path, 4 * CHUNK, POOL_WAIT | POOL_LAZY, &err), 0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pool_chunks(lease, &count)[i].fd, -1);
	assert_int_equal(count, 4);
	assert_int_equal(pool_fetch(lease, 4, &err), -EINVAL);
	assert_int_equal(pool_fetch(lease, 2, &err), 0);
	assert_int_equal(pool_fetch(lease, 2, &err), 0);
	map = chunk_map(lease, 2);
	memset(map, 1, CHUNK);
	munmap(map, CHUNK);
	assert_int_equal(info_of(&f).leased_chunks, 4);
	pool_lease_end(lease);
	info = info_quiet(&f);
	assert_int_equal(info.untouched_chunks, 3);
	assert_int_equal(info.renewed_bytes, CHUNK);
	all_zero(&f, 4);
	fixture_stop(&f);
}

/*
 * Whoever keeps something of a lease neither sees nor changes the next one: a descriptor, a mapping
 * in another process, and a page in a pipe (vmsplice(2), which no count of openers shows).
 */
static void hold_and_look(const struct fixture *f, bool pipe_too)
{
	struct pool_lease *lease = lease_take(f, 4 * CHUNK), *next;
	char *map = chunk_map(lease, 0), *maps[4], byte = 0;
	struct iovec iov = {.iov_base = map, .iov_len = PAGE_BYTES};
	int look[2], done[2], pages[2], kept;
	unsigned count;
	pid_t child;

	assert_int_equal(pipe(look) | pipe(done) | pipe(pages), 0);
	memset(map, 0x11, CHUNK);
	if (pipe_too)
		assert_int_equal(vmsplice(pages[1], &iov, 1, 0), PAGE_BYTES);
	kept = dup(pool_chunks(lease, &count)[0].fd);
	child = fork();
	if (child == 0) {
		/* The copy of the connection must not keep the lease. */
		pool_lease_end(lease);
		close(look[1]);
		while (read(look[0], &byte, 1) == 1) {
			byte = map[5] == 0x77;
			memset(map, 0x22, PAGE_BYTES);
			if (write(done[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(0);
	}
	munmap(map, CHUNK);
	pool_lease_end(lease);
	next = lease_take(f, 4 * CHUNK);
	for (unsigned i = 0; i < 4; i++) {
		maps[i] = chunk_map(next, i);
		assert_true(pool_is_zero(maps[i], CHUNK));
		memset(maps[i], 0x77, CHUNK);
	}
	assert_int_equal(write(look[1], &byte, 1), 1);
	assert_int_equal(read(done[0], &byte, 1), 1);
	assert_int_equal(byte, 0);
	assert_int_equal(pwrite(kept, "x", 1, 7), 1);
	for (unsigned i = 0; i < 4; i++) {
		for (size_t at = 0; at < CHUNK; at++)
			if (maps[i][at] != 0x77)
				fail_msg("byte %zu of chunk %u was changed", at, i);
		munmap(maps[i], CHUNK);
	}
	if (pipe_too) {
		char page[PAGE_BYTES];

		assert_int_equal(read(pages[0], page, sizeof(page)), PAGE_BYTES);
		assert_null(memchr(page, 0x77, sizeof(page)));
	}
	close(look[1]);
	waitpid(child, NULL, 0);
	close(kept);
	close(look[0]);
	for (unsigned i = 0; i < 2; i++) {
		close(done[i]);
		close(pages[i]);
	}
	pool_lease_end(next);
}

static void test_held(void **state)
{
	struct fixture f;

	fixture_start(&f, &config_plain);
	hold_and_look(&f, true);
	fixture_stop(&f);
}

static void test_held_trusted(void **state)
{
	uid_t uid;
	struct pool_config config = config_trust(&uid);
	struct fixture f;

	fixture_start(&f, &config);
	hold_and_look(&f, false);
	/* More of them when the machine is too busy for the child to let go within the second. */
	assert_in_range(info_quiet(&f).held_chunks, 1, 4);
	fixture_stop(&f);
}

static void test_short(void **state)
{
	struct kv_err err = {0};
	struct pool_config config = config_plain;
	struct pool_lease *lease, *other;
	struct fixture f;

	config.user_bytes = 3 * CHUNK;
	fixture_start(&f, &config);
	info_quiet(&f);
	assert_int_equal(pool_lease(&lease, f.path, 5 * CHUNK, true, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "16M"));
	assert_int_equal(pool_lease(&lease, f.path, UINT64_MAX, false, &err), -ENOSPC);
	assert_int_equal(pool_lease(&lease, f.path, 4 * CHUNK, true, &err), -EDQUOT);
	assert_int_equal(pool_lease(&lease, f.path, 0, true, &err), -EINVAL);
	assert_int_equal(pool_lease(&lease, f.path, CHUNK + 1, false, &err), 0);
	assert_int_equal(pool_lease(&other, f.path, 2 * CHUNK, false, &err), -EDQUOT);
	assert_int_equal(pool_lease(&other, "/nowhere/sock", CHUNK, false, &err), -ENOENT);
	assert_int_equal(pool_resize(f.path, POOL_SHRINK, CHUNK, &err), 0);
	assert_int_equal(pool_resize(f.path, POOL_SHRINK, CHUNK, &err), 0);
	assert_int_equal(pool_lease(&other, f.path, CHUNK, false, &err), -EAGAIN);
	pool_lease_end(lease);
	assert_int_equal(info_quiet(&f).free_chunks, 2);
	assert_int_equal(pool_resize(f.path, POOL_DRAIN, 0, &err), 0);
	assert_int_equal(pool_lease(&other, f.path, CHUNK, true, &err), -ENOSPC);
	assert_int_equal(pool_resize(f.path, POOL_GROW, UINT64_MAX, &err), -ENOSPC);
	assert_int_equal(pool_resize(f.path, POOL_GROW, 3 * CHUNK, &err), 0);
	all_zero(&f, 3);
	fixture_stop(&f);
}

static void test_config(void **state)
{
	static const struct {
		uint64_t size, chunk, page;
		int want;
		const char *text;
	} cases[] = {
		{CHUNK, CHUNK, 8192, -EINVAL, "page size 8K"},
		{CHUNK, 5000, PAGE_BYTES, -EINVAL, "chunk size 5000"},
		{CHUNK + 1, CHUNK, PAGE_BYTES, -EINVAL, "size 4194305"},
		{1 << 30, 4096, PAGE_BYTES, -EINVAL, "16384 chunks"},
		{64 * TIB, GIB, PAGE_BYTES, -EINVAL, "16384 chunks"},
		{1 * TIB, GIB, PAGE_BYTES, -ENOMEM, "the host has only"},
		{1 * TIB, GIB, 2 * MIB, -ENOMEM, "huge pages of 2M are missing"},
	};
	struct loop *loop;

	assert_int_equal(loop_create(&loop), 0);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct pool_config config = config_plain;
		struct pool_server *server = NULL;
		struct kv_err err = {0};

		config.size_bytes = cases[i].size;
		config.chunk_bytes = cases[i].chunk;
		config.page_bytes = cases[i].page;
		assert_int_equal(
			pool_server_create(&server, &config, -1, loop, NULL, &err), cases[i].want);
		assert_null(server);
		assert_non_null(strstr(err.text, cases[i].text));
	}
	loop_destroy(loop);
	assert_int_equal(pool_chunk_size(8 * GIB, PAGE_BYTES), 512 * MIB);
	assert_int_equal(pool_chunk_size(0, PAGE_BYTES), 16 * MIB);
	assert_int_equal(pool_chunk_size(1 * TIB, PAGE_BYTES), 1 * GIB);
	assert_int_equal(pool_chunk_size(1 * GIB, 1 * GIB), 1 * GIB);
}

static void test_systemd(void **state)
{
	char pid[16], text[32] = {0};
	struct sockaddr_un {
		sa_family_t family;
		char path[108];
	} addr = {AF_UNIX, "\0kvick-test-notify"};
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_send("READY=1"), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, 2 + 18), 0);
	setenv("NOTIFY_SOCKET", "@kvick-test-notify", 1);
	assert_int_equal(notify_send("READY=1"), 0);
	assert_int_equal(recv(fd, text, sizeof(text), MSG_DONTWAIT), 7);
	assert_string_equal(text, "READY=1");
	close(fd);
	unsetenv("NOTIFY_SOCKET");

	unsetenv("LISTEN_PID");
	assert_int_equal(notify_socket(), -ENOENT);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", "1", 1);
	assert_int_equal(notify_socket(), -ENOENT);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "2", 1);
	assert_int_equal(notify_socket(), -EINVAL);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_clear),
		cmocka_unit_test(test_chunk),
		cmocka_unit_test(test_alone),
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_drop),
		cmocka_unit_test(test_renewed),
		cmocka_unit_test(test_cleaned),
		cmocka_unit_test(test_reported),
		cmocka_unit_test(test_devices),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_report_of_others),
		cmocka_unit_test(test_halves),
		cmocka_unit_test(test_bad_chunks),
		cmocka_unit_test(test_lazy),
		cmocka_unit_test(test_held),
		cmocka_unit_test(test_held_trusted),
		cmocka_unit_test(test_short),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_systemd),
	};

	return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
