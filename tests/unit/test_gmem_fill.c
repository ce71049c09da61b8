/* SPDX-License-Identifier: Apache-2.0 */
/* gmem/: populating RAM: what there is to do, how it is divided, stopped, and fails. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "child.h"
#include "gmem/fill.h"
#include "gmem/host.h"

static struct gmem *ram_make(const struct gmem_backing *backing, uint64_t low, uint64_t high)
{
	struct kv_err err = {0};
	struct gmem *gm;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	if (gmem_add_backed(gm, 0, low, backing, 0, &err) < 0 ||
		(high && gmem_add_backed(gm, 4 * GIB, high, backing, low, &err) < 0))
		fail_msg("%s", err.text);
	return gm;
}

static struct gmem_fill *fill_make(struct gmem *gm, unsigned threads, bool touch)
{
	struct gmem_fill_opts opts = {threads, touch};
	struct kv_err err = {0};
	struct gmem_fill *fill;

	if (gmem_fill_create(&fill, gm, &opts, &err) < 0)
		fail_msg("%s", err.text);
	return fill;
}

/* Pages of [@at, @at + @bytes) that are present in this process. */
static uint64_t present(const uint8_t *at, uint64_t bytes)
{
	FILE *f = fopen("/proc/self/pagemap", "r");
	uint64_t found = 0, entry;

	assert_non_null(f);
	assert_int_equal(fseek(f, (long)((uintptr_t)at / 4096 * 8), SEEK_SET), 0);
	for (uint64_t i = 0; i < bytes / 4096; i++) {
		assert_int_equal(fread(&entry, sizeof(entry), 1, f), 1);
		found += entry >> 63;
	}
	fclose(f);
	return found;
}

/* Overlays with pages of a file between RAM, at the places given. */
static void image_lay(struct gmem *gm, int fd, gpa_t gpa, uint64_t bytes)
{
	struct kv_err err = {0};

	if (gmem_overlay(gm, gpa, bytes, fd, 0, bytes, GMEM_IMAGE_SHARE, "image", NULL, &err) < 0)
		fail_msg("%s", err.text);
}

static int image_make(uint64_t bytes)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(pwrite(fd, "kvick", 5, 0), 5);
	return fd;
}

/* Pieces cover each byte of the regions once and in order, and know which are the image's. */
static void test_pieces(void **state)
{
	struct gmem *gm = ram_make(NULL, 64 * MIB, 32 * MIB);
	int fd = image_make(8 * MIB);
	struct gmem_fill *fill;
	uint64_t at = 0, image = 0;

	image_lay(gm, fd, 16 * MIB, 8 * MIB);
	image_lay(gm, fd, 24 * MIB, 4096);
	image_lay(gm, fd, 64 * MIB - 8192, 8192);
	image_lay(gm, fd, 4 * GIB, 4096);
	fill = fill_make(gm, 1, false);
	for (unsigned i = 0; i < fill->piece_count; i++) {
		const struct fill_piece *piece = &fill->pieces[i];
		gpa_t gpa = at < 64 * MIB ? at : at - 64 * MIB + 4 * GIB;

		assert_int_equal(piece->start, at);
		assert_true(piece->bytes > 0);
		assert_ptr_equal(piece->host, gmem_at(gm, gpa, piece->bytes));
		assert_int_equal(piece->file, gmem_overlay_name(gm, piece->host) != NULL);
		image += piece->file ? piece->bytes : 0;
		at += piece->bytes;
	}
	assert_int_equal(at, 96 * MIB);
	assert_int_equal(image, 8 * MIB + 4096 + 8192 + 4096);
	assert_int_equal(gmem_fill_total(fill), 96 * MIB - image);
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	fd_close(&fd);
}

/* For any number of parts the slices are in order, begin at 0, end at the end, cut no huge page. */
static void test_slices(void **state)
{
	struct gmem *gm = ram_make(NULL, 64 * MIB, 32 * MIB + 4096);
	int fd = image_make(5 * MIB + 4096);
	struct gmem_fill *fill;

	image_lay(gm, fd, 17 * MIB, 5 * MIB + 4096);
	fill = fill_make(gm, 1, false);
	for (unsigned parts = 1; parts <= 300; parts++) {
		uint64_t last = 0;

		assert_int_equal(gmem_fill_bound(fill, 0, parts), 0);
		for (unsigned i = 1; i <= parts; i++) {
			uint64_t bound = gmem_fill_bound(fill, i, parts);

			assert_true(bound >= last);
			if (i < parts)
				assert_true(bound <= fill->span_bytes / parts * (i + 1));
			for (unsigned p = 0; p < fill->piece_count; p++) {
				const struct fill_piece *piece = &fill->pieces[p];

				if (bound > piece->start && bound - piece->start < piece->bytes)
					assert_int_equal(
						((uintptr_t)piece->host + bound - piece->start) %
							(2 * MIB),
						0);
			}
			last = bound;
		}
		assert_int_equal(last, fill->span_bytes);
	}
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	fd_close(&fd);
}

/* Everything is present afterwards; the image's pages are still the file's. */
static void full_check(const struct gmem_backing *backing, unsigned threads, bool touch)
{
	struct gmem *gm = ram_make(backing, 32 * MIB, 16 * MIB);
	int fd = image_make(4 * MIB);
	struct kv_err err = {0};
	struct gmem_fill *fill;
	uint8_t *ram = gmem_at(gm, 0, 32 * MIB);

	image_lay(gm, fd, 8 * MIB, 4 * MIB);
	memcpy(ram + 20 * MIB, "mine", 4);
	fill = fill_make(gm, threads, touch);
	if (gmem_fill_run(fill, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(gmem_fill_done(fill), gmem_fill_total(fill));
	assert_int_equal(present(ram, 8 * MIB), 8 * MIB / 4096);
	assert_int_equal(present(ram + 12 * MIB, 20 * MIB), 20 * MIB / 4096);
	assert_int_equal(present(gmem_at(gm, 4 * GIB, 16 * MIB), 16 * MIB), 16 * MIB / 4096);
	assert_int_equal(memcmp(ram + 20 * MIB, "mine", 4), 0);
	if (backing && !backing->shared) {
		/* Still the page cache's own: a change of the file shows. */
		assert_int_equal(pwrite(fd, "KVICK", 5, 0), 5);
		assert_int_equal(memcmp(ram + 8 * MIB, "KVICK", 5), 0);
	}
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	fd_close(&fd);
}

static void test_full(void **state)
{
	static const struct gmem_backing backings[] = {
		{.kind = GMEM_ANON},
		{.kind = GMEM_ANON, .thp = GMEM_OFF},
		{.kind = GMEM_ANON, .thp = GMEM_ON, .mlock = true},
		{.kind = GMEM_ANON, .shared = true},
		{.kind = GMEM_MEMFD, .nodes = 1},
	};

	for (size_t i = 0; i < ARRAY_LEN(backings); i++)
		for (unsigned threads = 0; threads < 4; threads++)
			full_check(&backings[i], threads, threads & 1);
}

static void test_full_hugetlb(void **state)
{
	static const struct gmem_backing backing = {.kind = GMEM_HUGETLB_2M};
	static const char path[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
	MEM_SCOPED char *before = NULL;
	bool got = gmem_huge_free(2 * MIB, 0) >= 24, borrowed = false;
	FILE *f;

	if (!got && file_read_all(path, 64, &before) > 0 && (f = fopen(path, "w"))) {
		fprintf(f, "%llu\n", strtoull(before, NULL, 10) + 24);
		fclose(f);
		borrowed = true;
		got = gmem_huge_free(2 * MIB, 0) >= 24;
	}
	if (got)
		for (unsigned threads = 1; threads < 4; threads++)
			full_check(&backing, threads, false);
	if (borrowed && (f = fopen(path, "w"))) {
		fputs(before, f);
		fclose(f);
	}
	if (!got) {
		print_message("no 2 MiB pages can be reserved here\n");
		skip();
	}
}

/* Each part populates its own slice and nothing else. */
static void test_parts(void **state)
{
	static const struct gmem_backing backing = {.kind = GMEM_ANON, .thp = GMEM_OFF};
	struct gmem *gm = ram_make(&backing, 64 * MIB, 0);
	struct gmem_fill *fill = fill_make(gm, 1, false);
	uint8_t *ram = gmem_at(gm, 0, 64 * MIB);
	struct kv_err err = {0};

	assert_int_equal(gmem_fill_part(fill, 1, 4, &err), 0);
	assert_int_equal(present(ram, 64 * MIB), 16 * MIB / 4096);
	assert_int_equal(present(ram + 16 * MIB, 16 * MIB), 16 * MIB / 4096);
	assert_int_equal(gmem_fill_part(fill, 0, 4, &err), 0);
	assert_int_equal(gmem_fill_part(fill, 3, 4, &err), 0);
	assert_int_equal(present(ram, 64 * MIB), 48 * MIB / 4096);
	assert_int_equal(gmem_fill_done(fill), 48 * MIB);
	gmem_fill_stop(fill);
	assert_int_equal(gmem_fill_part(fill, 2, 4, &err), -ECANCELED);
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
}

struct stopper {
	struct gmem_fill *fill;	     /* to be stopped here and now, or NULL */
	uint64_t stop_at, at, total; /* @at: what was done when it was stopped */
	unsigned calls;
};

static bool stop_tick(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
	struct stopper *stopper = ctx;

	stopper->calls++;
	stopper->total = total_bytes;
	if (done_bytes < stopper->stop_at)
		return false;
	if (!stopper->at) {
		gmem_fill_stop(stopper->fill);
		stopper->at = stopper->fill ? gmem_fill_done(stopper->fill) : done_bytes;
	}
	return true;
}

/*
 * Populate @gm, to be stopped at 16 MiB. On a machine that is busy elsewhere the other threads may
 * have filled much or everything before this one looks: then again, with fresh memory.
 */
static struct gmem_fill *stopped_fill(const struct gmem_backing *backing, unsigned threads,
	struct gmem **gm, struct stopper *stopper, bool flag)
{
	for (unsigned tries = 0; tries < 20; tries++) {
		struct gmem_fill *fill;
		struct gmem_watch watch = {stop_tick, stopper};
		struct kv_err err = {0};
		int r;

		*gm = ram_make(backing, 512 * MIB, 0);
		fill = fill_make(*gm, threads, false);
		*stopper = (struct stopper){.fill = flag ? fill : NULL, .stop_at = 16 * MIB};
		r = gmem_fill_run(fill, &watch, &err);
		if (r)
			assert_int_equal(r, -ECANCELED);
		if (r && stopper->at < 128 * MIB)
			return fill;
		gmem_fill_destroy(fill);
		gmem_destroy(*gm);
	}
	fail_msg("never stopped");
	return NULL;
}

/* After the flag is up, each other thread ends the step it is in, of at most 4 MiB. */
static void test_stop_step(void **state)
{
	/* Only root may always lock so much. */
	struct gmem_backing backings[] = {{.kind = GMEM_ANON, .thp = GMEM_OFF},
		{.kind = GMEM_ANON, .thp = GMEM_OFF, .mlock = !geteuid()}};

	for (unsigned threads = 1; threads <= 4; threads++) {
		struct gmem *gm;
		struct stopper stopper;
		struct gmem_fill *fill =
			stopped_fill(&backings[threads % 2], threads, &gm, &stopper, true);

		assert_true(stopper.at >= stopper.stop_at);
		assert_true(gmem_fill_done(fill) - stopper.at <= (threads - 1) * 4 * MIB);
		/* Each thread has given back what it had. */
		assert_int_equal(present(gmem_at(gm, 0, 512 * MIB), 512 * MIB), 0);
		gmem_fill_destroy(fill);
		gmem_destroy(gm);
	}
}

/* It is enough that the watch says so. */
static void test_stop(void **state)
{
	for (unsigned threads = 1; threads <= 2; threads++) {
		struct gmem *gm;
		struct stopper stopper;
		struct gmem_fill *fill = stopped_fill(NULL, threads, &gm, &stopper, false);

		assert_true(stopper.calls > 0);
		assert_int_equal(stopper.total, 512 * MIB);
		/* All threads stopped soon. */
		assert_true(gmem_fill_done(fill) < 256 * MIB);
		gmem_fill_destroy(fill);
		gmem_destroy(gm);
	}
}

struct background {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int calls, result;
};

static void background_done(void *ctx, int result)
{
	struct background *bg = ctx;

	pthread_mutex_lock(&bg->lock);
	bg->calls++;
	bg->result = result;
	pthread_cond_signal(&bg->changed);
	pthread_mutex_unlock(&bg->lock);
}

static void background_wait(struct background *bg)
{
	pthread_mutex_lock(&bg->lock);
	while (!bg->calls)
		pthread_cond_wait(&bg->changed, &bg->lock);
	pthread_mutex_unlock(&bg->lock);
}

static void test_background(void **state)
{
	struct background bg = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 1};
	struct gmem *gm = ram_make(NULL, 64 * MIB, 0);
	struct gmem_fill *fill = fill_make(gm, 3, false);
	struct kv_err err = {0};

	assert_int_equal(gmem_fill_ready(fill, &err), 0);
	/* Its threads wait. */
	assert_int_equal(fill->started, 3);
	assert_int_equal(gmem_fill_done(fill), 0);
	assert_int_equal(gmem_fill_start(fill, background_done, &bg), 0);
	background_wait(&bg);
	gmem_fill_destroy(fill);
	assert_int_equal(bg.calls, 1);
	assert_int_equal(bg.result, 0);
	assert_int_equal(present(gmem_at(gm, 0, 64 * MIB), 64 * MIB), 64 * MIB / 4096);
	gmem_destroy(gm);
	/* Destroyed at once: stopped, and nobody is told. */
	gm = ram_make(NULL, GIB, 0);
	fill = fill_make(gm, 2, false);
	bg.calls = 0;
	assert_int_equal(gmem_fill_ready(fill, &err), 0);
	assert_int_equal(gmem_fill_start(fill, background_done, &bg), 0);
	gmem_fill_destroy(fill);
	assert_int_equal(bg.calls, 0);
	assert_true(present(gmem_at(gm, 0, GIB), GIB) < GIB / 4096);
	/* And before it began. */
	fill = fill_make(gm, 2, false);
	assert_int_equal(gmem_fill_ready(fill, &err), 0);
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	gmem_fill_destroy(NULL);
	gmem_fill_stop(NULL);
}

static void test_too_much(void **state)
{
	struct gmem_backing backing = {.kind = GMEM_ANON};
	struct gmem_fill_opts opts = {0};
	struct gmem_fill *fill = NULL;
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * PAGE_BYTES;
	struct gmem *gm = ram_make(&backing, align_up(host, GIB) * 4, 0);
	struct kv_err err = {0};

	/* Refused before anything is touched; nobody is killed. */
	assert_int_equal(gmem_fill_create(&fill, gm, &opts, &err), -ENOMEM);
	assert_null(fill);
	assert_non_null(strstr(err.text, "are needed, but the host has"));
	gmem_destroy(gm);
}

/* Be a user who has nothing else, where that can be, and may still read /proc/self. */
static bool user_be(void)
{
	if (geteuid())
		return true;
	return !setuid(10000 + (uid_t)getpid() % 50000) && !prctl(PR_SET_DUMPABLE, 1);
}

/* More threads than a user may have. */
static int threads_child(void)
{
	struct rlimit limit = {1, 1};
	struct gmem_fill_opts opts = {.threads = 8};
	struct gmem_fill *fill;
	struct kv_err err = {0};
	struct gmem *gm;

	if (!user_be() || setrlimit(RLIMIT_NPROC, &limit) < 0 || gmem_create(&gm, NULL) < 0 ||
		gmem_add_ram(gm, 0, 256 * MIB, &err) < 0 ||
		gmem_fill_create(&fill, gm, &opts, &err) < 0)
		return 1;
	if (gmem_fill_run(fill, NULL, &err) != -EAGAIN || !strstr(err.text, "8 threads"))
		return 2;
	gmem_fill_destroy(fill);
	/* Our own choice of threads is no promise. */
	opts.threads = 0;
	if (gmem_fill_create(&fill, gm, &opts, &err) < 0 || gmem_fill_run(fill, NULL, &err) < 0)
		return 3;
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	return 0;
}

static void *nothing_main(void *arg)
{
	return arg;
}

/* Let this user have one more thread. Returns false when there is no such limit. */
static bool threads_leave_one(void)
{
	struct rlimit limit;
	pthread_t thread;

	if (getrlimit(RLIMIT_NPROC, &limit) < 0)
		return false;
	for (limit.rlim_cur = 1; limit.rlim_cur < 50000; limit.rlim_cur++) {
		if (setrlimit(RLIMIT_NPROC, &limit) < 0)
			return false;
		if (pthread_create(&thread, NULL, nothing_main, NULL))
			continue;
		pthread_join(thread, NULL);
		return true;
	}
	return false;
}

/* Room for one thread of the four that we would choose, or that were asked for. */
static int background_child(void)
{
	struct background bg = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 1};
	struct gmem_backing backing = {.kind = GMEM_ANON, .thp = GMEM_OFF};
	struct gmem_fill_opts opts = {.threads = 4};
	struct gmem *gm = ram_make(&backing, 64 * MIB, 0);
	bool alone = !geteuid();
	struct gmem_fill *fill;
	struct kv_err err = {0};

	if (!user_be() || !threads_leave_one())
		return 1;
	if (gmem_fill_create(&fill, gm, &opts, &err) < 0 || gmem_fill_ready(fill, &err) != -EAGAIN)
		return 2;
	if (!strstr(err.text, "4 threads"))
		return 3;
	gmem_fill_destroy(fill);
	if (present(gmem_at(gm, 0, 64 * MIB), 64 * MIB))
		return 4;
	opts.threads = 0;
	if (gmem_fill_create(&fill, gm, &opts, &err) < 0)
		return 5;
	/* As on a host with more CPUs and memory. */
	fill->thread_count = fill->slices_left = 4;
	if (gmem_fill_ready(fill, &err) < 0 || gmem_fill_start(fill, background_done, &bg) < 0)
		return alone ? 6 : 0; /* others of this user took the room */
	if (alone && fill->started != 1)
		return 7;
	background_wait(&bg);
	if (bg.calls != 1 || bg.result || gmem_fill_done(fill) != 64 * MIB ||
		present(gmem_at(gm, 0, 64 * MIB), 64 * MIB) != 64 * MIB / 4096)
		return 8;
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	return 0;
}

/* No thread at all: the caller hears of it, and the memory comes when it is touched. */
static int nothing_child(void)
{
	struct background bg = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 1};
	struct gmem *gm = ram_make(NULL, 64 * MIB, 0);
	struct gmem_fill *fill = fill_make(gm, 0, false);
	struct rlimit limit = {1, 1};
	struct kv_err err = {0};

	if (!user_be() || setrlimit(RLIMIT_NPROC, &limit) < 0)
		return 1;
	if (gmem_fill_ready(fill, &err) < 0 ||
		gmem_fill_start(fill, background_done, &bg) != -EAGAIN || bg.calls)
		return 2;
	gmem_fill_destroy(fill);
	gmem_destroy(gm);
	return 0;
}

static void test_threads_limit(void **state)
{
	static int (*const children[])(void) = {threads_child, background_child, nothing_child};

	children_run(children, ARRAY_LEN(children));
}

/* The memory of nodes, as the kernel tells it. What is on a full node: tests/func. */
static void test_nodes(void **state)
{
	static const char text[] = "Node 3 MemFree:  12 kB\nNode 3 Active:  1 kB\n"
				   "Node 3 Active(file):   7 kB\n";
	uint64_t total = 1, free = 1;
	struct kv_err err = {0};

	assert_int_equal(gmem_table_find(text, "Node 3 MemFree"), 12);
	assert_int_equal(gmem_table_find(text, "Node 3 Active(file)"), 7);
	assert_int_equal(gmem_table_find(text, "Node 3 Inactive(file)"), 0);
	assert_false(gmem_node_memory(1023, &total, &free));
	assert_int_equal(total, 0);
	assert_int_equal(free, 0);
	if (!gmem_node_memory(0, &total, &free))
		skip();
	assert_true(free < total);
	assert_int_equal(gmem_room_check(MIB, 1, "memory", "none", &err), 0);
	assert_int_equal(gmem_room_check(1ULL << 60, 1, "memory", "none", &err), -ENOMEM);
	/* As large as it was asked for, but for what images take of it. */
	assert_int_equal(
		gmem_room_check((1ULL << 60) - 28 * KIB, 0, "memory", "none", &err), -ENOMEM);
	if (!strstr(err.text, "memory: 1048576T are needed"))
		fail_msg("%s", err.text);
	assert_int_equal(gmem_nodes_check(1, &err), 0);
	assert_int_equal(gmem_nodes_check(1 | 5ULL << 61, &err), -EINVAL);
	if (!strstr(err.text, "memory: numa=61,63: memory cannot be bound to them; this host has "
			      "memory on node 0"))
		fail_msg("%s", err.text);
	assert_int_equal(gmem_nodes_check(3ULL << 62 | 1ULL << 60, &err), -EINVAL);
	assert_non_null(strstr(err.text, "numa=60,62-63: "));
	/* Of a node that the kernel says nothing about, nothing is known. */
	assert_int_equal(gmem_room_check(MIB, 1ULL << 63, "memory", "none", &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_slices),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_full_hugetlb),
		cmocka_unit_test(test_parts),
		cmocka_unit_test(test_stop_step),
		cmocka_unit_test(test_stop),
		cmocka_unit_test(test_background),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_threads_limit),
		cmocka_unit_test(test_nodes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
