/* SPDX-License-Identifier: Apache-2.0 */
/* image/: the cache of unpacked kernels. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "base/fd.h"
#include "image/cache.h"
#include "image_build.h"

/* Put a bzImage at @path whose kernel has @tag as its first data bytes. */
static void bz_put(const char *path, uint32_t tag)
{
	uint8_t elf[GOOD_BYTES];
	struct blob payload, bz;

	good_elf(elf);
	memcpy(elf + GOOD_DATA_AT, &tag, sizeof(tag));
	payload = pack(IMAGE_ZSTD, elf, sizeof(elf));
	bz = good_bz(&payload);
	file_put(path, bz.data, bz.bytes);
	free(payload.data);
	free(bz.data);
}

/* Wait until the file's time stamps are old enough for the index to trust them. */
static void age(const char *path)
{
	struct stat st;

	do {
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
		assert_int_equal(stat(path, &st), 0);
	} while (!cache_quiet(&st));
}

/* The tag of the kernel that @path is opened as. */
static uint32_t tag_of(const struct dir *dir, const char *path)
{
	struct image *img = open_works(dir, path);
	uint32_t tag = 0;

	assert_int_equal(
		fd_pread_all(image_fd(img), &tag, sizeof(tag), image_plan(img)->segments[1].offset),
		0);
	image_destroy(img);
	return tag;
}

/* How many bytes opening @path reads. */
static uint64_t open_reads(const struct dir *dir, const char *path)
{
	uint64_t own, before;

	own = bytes_read();
	own = bytes_read() - own;
	before = bytes_read();
	image_destroy(open_works(dir, path));
	return bytes_read() - before - own;
}

/* Files in the cache whose name ends in @suffix; @ret_path (may be NULL) gets one of them. */
static unsigned cache_files(const struct dir *dir, const char *suffix, char *ret_path)
{
	DIR *d = opendir(dir->cache);
	struct dirent *de;
	unsigned n = 0;

	if (!d)
		return 0;
	while ((de = readdir(d))) {
		const char *dot = strrchr(de->d_name, '.');

		if (!dot || !dot[1] || (*suffix && strcmp(dot, suffix)))
			continue;
		if (!strcmp(de->d_name, ".."))
			continue;
		n++;
		if (ret_path)
			snprintf(ret_path, PATH_MAX, "%s/%s", dir->cache, de->d_name);
	}
	closedir(d);
	return n;
}

static void test_dir(void **state)
{
	char buf[64];

	setenv("XDG_CACHE_HOME", "/x/y", 1);
	setenv("HOME", "/home/z", 1);
	assert_int_equal(image_cache_dir(buf, sizeof(buf)), 0);
	assert_string_equal(buf, "/x/y/kvick");
	assert_int_equal(image_cache_dir(buf, 10), -ENAMETOOLONG);
	assert_int_equal(image_cache_dir(buf, 11), 0);
	setenv("XDG_CACHE_HOME", "not/absolute", 1);
	assert_int_equal(image_cache_dir(buf, sizeof(buf)), 0);
	assert_string_equal(buf, "/home/z/.cache/kvick");
	setenv("XDG_CACHE_HOME", "", 1);
	assert_int_equal(image_cache_dir(buf, sizeof(buf)), 0);
	assert_string_equal(buf, "/home/z/.cache/kvick");
	unsetenv("HOME");
	assert_int_equal(image_cache_dir(buf, sizeof(buf)), -ENOENT);
	setenv("HOME", "relative", 1);
	assert_int_equal(image_cache_dir(buf, sizeof(buf)), -ENOENT);
}

static void test_layout(void **state)
{
	struct dir *dir = *state;
	char path[PATH_MAX];
	struct stat st;

	bz_put(dir->file, 1);
	age(dir->file);
	assert_int_equal(tag_of(dir, dir->file), 1);
	assert_int_equal(stat(dir->cache, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(cache_files(dir, ".elf", path), 1);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0400);
	assert_int_equal(cache_files(dir, ".idx", NULL), 1);
	assert_int_equal(cache_files(dir, "", NULL), 2);
	assert_string_equal(dir->log, "");
}

/* A warm start reads headers only, a cold one everything. */
static void test_index(void **state)
{
	struct dir *dir = *state;
	char copy[128], path[PATH_MAX];
	struct stat st;
	uint64_t cold;

	bz_put(dir->file, 1);
	assert_int_equal(stat(dir->file, &st), 0);
	/* Too young for the index. */
	cold = open_reads(dir, dir->file);
	assert_true(cold >= (uint64_t)st.st_size - BZ_PAYLOAD_AT);
	age(dir->file);
	image_destroy(open_works(dir, dir->file));
	assert_int_equal(cache_files(dir, ".idx", path), 1);
	/* Two heads, the index record, the entry's footer. */
	assert_true(open_reads(dir, dir->file) <= 2 * 4096 + 512);

	/* The same content elsewhere: no second entry. */
	snprintf(copy, sizeof(copy), "%s/copy", dir->path);
	bz_put(copy, 1);
	assert_int_equal(tag_of(dir, copy), 1);
	assert_int_equal(cache_files(dir, ".elf", NULL), 1);

	/* Damaged, cut or empty index files count as none, and are written again. */
	for (unsigned i = 0; i < 4; i++) {
		if (i == 0)
			assert_int_equal(truncate(path, 100), 0);
		else if (i == 1)
			assert_int_equal(truncate(path, 0), 0);
		else if (i == 2)
			assert_int_equal(unlink(path), 0);
		else
			file_put(path, copy, sizeof(copy));
		assert_true(open_reads(dir, dir->file) > 2 * 4096 + 512);
		assert_true(open_reads(dir, dir->file) <= 2 * 4096 + 512);
	}
	assert_string_equal(dir->log, "");
}

/* An index file that is half another's must not lead to the other's kernel. */
static void test_index_mixed(void **state)
{
	enum { RECORD = 160, SOURCE_END = 64 };
	struct dir *dir = *state;
	char other[128], path[2][PATH_MAX];
	uint8_t record[2][RECORD];
	struct stat st;

	snprintf(other, sizeof(other), "%s/other", dir->path);
	for (uint32_t i = 0; i < 2; i++) {
		const char *file = i ? other : dir->file;
		int fd;

		bz_put(file, 50 + i);
		age(file);
		assert_int_equal(tag_of(dir, file), 50 + i);
		assert_int_equal(stat(file, &st), 0);
		snprintf(path[i], PATH_MAX, "%s/%lx-%lx.idx", dir->cache, st.st_dev, st.st_ino);
		fd = open(path[i], O_RDONLY | O_CLOEXEC);
		assert_int_equal(read(fd, record[i], RECORD), RECORD);
		close(fd);
	}
	memcpy(record[0] + SOURCE_END, record[1] + SOURCE_END, RECORD - SOURCE_END);
	file_put(path[0], record[0], RECORD);
	assert_int_equal(tag_of(dir, dir->file), 50);
	assert_int_equal(tag_of(dir, other), 51);
}

static void test_quiet(void **state)
{
	struct stat st = {0};
	struct timespec now;

	assert_true(cache_quiet(&st));
	clock_gettime(CLOCK_REALTIME, &now);
	st.st_ctim = now;
	assert_false(cache_quiet(&st));
	st.st_ctim.tv_sec++;
	assert_false(cache_quiet(&st));
	st.st_ctim.tv_sec += 1000;
	assert_false(cache_quiet(&st));
	st.st_ctim = (struct timespec){now.tv_sec - 1, 1};
	assert_true(cache_quiet(&st));
	/* Whole seconds: perhaps a file system with steps of two. */
	st.st_ctim = (struct timespec){now.tv_sec - 1, 0};
	assert_false(cache_quiet(&st));
	st.st_ctim.tv_sec -= 2;
	assert_true(cache_quiet(&st));
	st.st_ctim.tv_sec = INT64_MIN / 2;
	assert_true(cache_quiet(&st));
}

/* The file changes under the same name and inode: never the old kernel. */
static void test_stale(void **state)
{
	struct dir *dir = *state;
	struct timespec times[2];
	struct stat st;

	for (uint32_t tag = 1; tag <= 20; tag++) {
		bz_put(dir->file, tag);
		if (tag % 4 == 0)
			age(dir->file);
		assert_int_equal(tag_of(dir, dir->file), tag);
		assert_int_equal(tag_of(dir, dir->file), tag);
	}
	/* The modification time is put back: the change time tells. */
	bz_put(dir->file, 100);
	age(dir->file);
	assert_int_equal(tag_of(dir, dir->file), 100);
	assert_int_equal(stat(dir->file, &st), 0);
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	bz_put(dir->file, 101);
	assert_int_equal(utimensat(AT_FDCWD, dir->file, times, 0), 0);
	assert_int_equal(tag_of(dir, dir->file), 101);
}

static void entry_truncate(const char *path)
{
	assert_int_equal(truncate(path, 4096), 0);
}
static void entry_empty(const char *path)
{
	assert_int_equal(truncate(path, 0), 0);
}
static void entry_grow(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(truncate(path, st.st_size + 1), 0);
}
static void entry_poke(const char *path, off_t at)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x40;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}
static void entry_data(const char *path)
{
	entry_poke(path, GOOD_DATA_AT);
}
static void entry_magic(const char *path)
{
	entry_poke(path, 0);
}
static void entry_footer(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	/* The field "packing", which only the footer's own checksum covers. */
	entry_poke(path, st.st_size - 16);
}
static void entry_gone(const char *path)
{
	assert_int_equal(unlink(path), 0);
}
static void entry_link(const char *path)
{
	char moved[PATH_MAX];

	/* A good one, but elsewhere. */
	snprintf(moved, sizeof(moved), "%s-moved", path);
	assert_int_equal(rename(path, moved), 0);
	assert_int_equal(symlink(moved, path), 0);
}
static void entry_dead_pipe(const char *path)
{
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
}

static void test_corrupt(void **state)
{
	static const struct {
		void (*damage)(const char *path);
		bool told;
	} damages[] = {
		{entry_truncate, true},
		{entry_empty, true},
		{entry_grow, true},
		{entry_data, true},
		{entry_magic, true},
		{entry_footer, true},
		{entry_gone, false},
		{entry_link, true},
		{entry_dead_pipe, true},
	};
	struct dir *dir = *state;
	char path[PATH_MAX];

	bz_put(dir->file, 7);
	age(dir->file);
	for (size_t i = 0; i < ARRAY_LEN(damages); i++) {
		assert_int_equal(tag_of(dir, dir->file), 7);
		assert_int_equal(cache_files(dir, ".elf", path), 1);
		dir->log[0] = '\0';
		chmod(path, 0600);
		damages[i].damage(path);
		assert_int_equal(tag_of(dir, dir->file), 7);
		if (!!strstr(dir->log, "is corrupt and is made anew") != damages[i].told)
			fail_msg("damage %zu: log \"%s\"", i, dir->log);
		assert_int_equal(cache_files(dir, ".elf", NULL), 1);
		assert_int_equal(cache_files(dir, ".part", NULL), 0);
		assert_true(open_reads(dir, dir->file) <= 2 * 4096 + 512);
	}
}

/* A kernel that runs while its entry is replaced keeps what it had. */
static void test_open_while_replaced(void **state)
{
	struct dir *dir = *state;
	char path[PATH_MAX];
	struct image *img;
	uint32_t tag;

	bz_put(dir->file, 8);
	img = open_works(dir, dir->file);
	assert_int_equal(cache_files(dir, ".elf", path), 1);
	unlink(path);
	assert_int_equal(tag_of(dir, dir->file), 8);
	assert_int_equal(
		fd_pread_all(image_fd(img), &tag, sizeof(tag), image_plan(img)->segments[1].offset),
		0);
	assert_int_equal(tag, 8);
	image_destroy(img);
}

/* --- several processes ---------------------------------------------------------------------- */

/* Run @run in a child, whose exit status is returned. */
static int in_child(int (*run)(const struct dir *dir), const struct dir *dir)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(run(dir));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* As tag_of(), for children: 0 when it fails. */
static uint32_t child_tag(const struct dir *dir)
{
	struct image *img = NULL;
	struct kv_err err = {""};
	uint32_t tag = 0;

	if (image_open(&img, dir->file, &dir->opts, &err))
		return 0;
	fd_pread_all(image_fd(img), &tag, sizeof(tag), image_plan(img)->segments[1].offset);
	image_destroy(img);
	return tag;
}

static void test_race(void **state)
{
	struct dir *dir = *state;
	enum { PROCESSES = 6, ROUNDS = 15 };

	for (uint32_t round = 1; round <= ROUNDS; round++) {
		pid_t pids[PROCESSES];
		int gate[2];

		bz_put(dir->file, round);
		assert_int_equal(pipe(gate), 0);
		for (unsigned i = 0; i < PROCESSES; i++) {
			pids[i] = fork();
			if (pids[i])
				continue;
			char c;

			close(gate[1]);
			/* All go when the parent closes its end. */
			if (read(gate[0], &c, 1))
				_exit(2);
			_exit(child_tag(dir) == round && !dir->log[0] ? 0 : 1);
		}
		close(gate[0]);
		close(gate[1]);
		for (unsigned i = 0; i < PROCESSES; i++) {
			int status;

			assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
			assert_int_equal(status, 0);
		}
		assert_int_equal(cache_files(dir, ".elf", NULL), round);
		assert_int_equal(cache_files(dir, ".part", NULL), 0);
	}
}

/* Killed at any moment, the next start is right and clears up. */
static void test_killed(void **state)
{
	struct dir *dir = *state;

	for (uint32_t round = 1; round <= 40; round++) {
		pid_t pid;

		bz_put(dir->file, round);
		pid = fork();
		if (!pid)
			_exit(child_tag(dir) != round);
		nanosleep(&(struct timespec){.tv_nsec = round * 40000}, NULL);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_int_equal(tag_of(dir, dir->file), round);
		assert_int_equal(cache_files(dir, ".elf", NULL), round);
		assert_int_equal(cache_files(dir, ".part", NULL), 0);
	}
}

/* Make the .part of the one entry in the cache in its place, as a crash leaves it. */
static void part_make(const struct dir *dir, char *path)
{
	static const uint8_t half[3 * GOOD_BYTES] = "half a kernel";
	char elf[PATH_MAX];

	assert_int_equal(cache_files(dir, ".elf", elf), 1);
	snprintf(path, PATH_MAX, "%.*s.part", (int)(strlen(elf) - 4), elf);
	unlink(elf);
	/* Longer than the entry: what is behind it must go. */
	file_put(path, half, sizeof(half));
}

static void test_crash(void **state)
{
	struct dir *dir = *state;
	char path[PATH_MAX];

	bz_put(dir->file, 1);
	assert_int_equal(tag_of(dir, dir->file), 1);
	part_make(dir, path);
	assert_int_equal(tag_of(dir, dir->file), 1);
	assert_int_equal(access(path, F_OK), -1);
	assert_string_equal(dir->log, "");
}

/* Another process holds the lock, then goes without having made the entry. */
static void test_wait(void **state)
{
	struct dir *dir = *state;
	struct timespec a, b;
	char path[PATH_MAX];
	int fd, gate[2];
	int64_t ms;
	pid_t pid;
	char c;

	bz_put(dir->file, 1);
	assert_int_equal(tag_of(dir, dir->file), 1);
	part_make(dir, path);
	assert_int_equal(pipe(gate), 0);
	pid = fork();
	if (!pid) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (flock(fd, LOCK_EX) || write(gate[1], "", 1) != 1)
			_exit(1);
		nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
		_exit(0);
	}
	assert_int_equal(read(gate[0], &c, 1), 1);
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_int_equal(tag_of(dir, dir->file), 1);
	clock_gettime(CLOCK_MONOTONIC, &b);
	ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
	assert_true(ms >= 150);
	waitpid(pid, NULL, 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_string_equal(dir->log, "");
	close(gate[0]);
	close(gate[1]);
}

/* The process that others wait for fails: it removes the file that they wait for, too. */
static void test_wait_failed(void **state)
{
	struct dir *dir = *state;
	char path[PATH_MAX];
	int fd, gate[2];
	pid_t pid;
	char c;

	bz_put(dir->file, 1);
	assert_int_equal(tag_of(dir, dir->file), 1);
	part_make(dir, path);
	assert_int_equal(pipe(gate), 0);
	pid = fork();
	if (!pid) {
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (flock(fd, LOCK_EX) || write(gate[1], "", 1) != 1)
			_exit(1);
		nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
		unlink(path);
		_exit(0);
	}
	assert_int_equal(read(gate[0], &c, 1), 1);
	assert_int_equal(tag_of(dir, dir->file), 1);
	waitpid(pid, NULL, 0);
	assert_int_equal(cache_files(dir, ".elf", NULL), 1);
	assert_int_equal(access(path, F_OK), -1);
	assert_string_equal(dir->log, "");
	close(gate[0]);
	close(gate[1]);
}

/* A process that holds the lock for ever does not keep others from starting. */
static void test_wait_limit(void **state)
{
	struct dir *dir = *state;
	uint8_t elf[GOOD_BYTES];
	struct cache_source source = {.packing = IMAGE_PLAIN,
		.payload = elf,
		.payload_bytes = GOOD_BYTES,
		.elf_bytes = GOOD_BYTES};
	struct cache_entry entry;
	struct kv_err err = {""};
	bool unusable = false;
	char path[PATH_MAX];
	struct cache cache;
	int held;

	good_elf(elf);
	assert_int_equal(cache_open(&cache, dir->cache, &err), 0);
	assert_int_equal(cache_fetch(&cache, &source, &entry, &unusable, &dir->klog, &err), 0);
	assert_int_equal(entry.elf_bytes, GOOD_BYTES);
	assert_int_equal(entry.packing, IMAGE_PLAIN);
	assert_true(entry.settled);
	close(entry.fd);

	part_make(dir, path);
	held = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(held, LOCK_EX), 0);
	cache.lock_wait_ms = 50;
	assert_int_equal(
		cache_fetch(&cache, &source, &entry, &unusable, &dir->klog, &err), -ETIMEDOUT);
	assert_true(unusable);
	assert_non_null(strstr(err.text, "another process"));
	assert_int_equal(access(path, F_OK), 0);
	close(held);
	assert_int_equal(cache_fetch(&cache, &source, &entry, &unusable, &dir->klog, &err), 0);
	assert_false(unusable);
	close(entry.fd);
	cache_close(&cache);
}

/* Leftovers of other kernels go when they are old and nobody holds them. */
static void test_sweep(void **state)
{
	struct dir *dir = *state;
	struct timespec old[2] = {{.tv_sec = time(NULL) - 7200}, {.tv_sec = time(NULL) - 7200}};
	char paths[3][PATH_MAX];
	int held;

	bz_put(dir->file, 1);
	assert_int_equal(tag_of(dir, dir->file), 1);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(paths[i], PATH_MAX, "%s/%u.part", dir->cache, i);
		file_put(paths[i], "x", 1);
		if (i)
			assert_int_equal(utimensat(AT_FDCWD, paths[i], old, 0), 0);
	}
	held = open(paths[2], O_RDONLY | O_CLOEXEC);
	assert_int_equal(flock(held, LOCK_EX), 0);
	bz_put(dir->file, 2);
	assert_int_equal(tag_of(dir, dir->file), 2);
	assert_int_equal(access(paths[0], F_OK), 0);
	assert_int_equal(access(paths[1], F_OK), -1);
	assert_int_equal(access(paths[2], F_OK), 0);
	close(held);
}

/* --- a cache that cannot be used ------------------------------------------------------------ */

/* The kernel starts all the same, from memory, and the log says why. */
static void works_without(struct dir *dir, const char *why)
{
	unsigned before = fd_count();
	struct image *img;
	uint32_t tag = 0;

	dir->log[0] = '\0';
	bz_put(dir->file, 9);
	img = open_works(dir, dir->file);
	assert_string_equal(image_data_path(img), "memfd:kvick-kernel");
	assert_int_equal(
		fd_pread_all(image_fd(img), &tag, sizeof(tag), image_plan(img)->segments[1].offset),
		0);
	assert_int_equal(tag, 9);
	image_destroy(img);
	assert_int_equal(fd_count(), before);
	if (!strstr(dir->log, why) || !strstr(dir->log, "unpacked into memory at every start"))
		fail_msg("log \"%s\", expected \"%s\"", dir->log, why);
}

static void test_unusable(void **state)
{
	struct dir *dir = *state;
	char path[PATH_MAX];

	/* A file where a directory should be. */
	snprintf(path, sizeof(path), "%s/cache", dir->path);
	file_put(path, "", 0);
	works_without(dir, "Not a directory");
	unlink(path);

	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(mkdir(dir->cache, 0700), 0);
	chmod(dir->cache, 0770);
	works_without(dir, "may be written by others (mode 0770)");
	chmod(dir->cache, 0707);
	works_without(dir, "may be written by others (mode 0707)");
	chmod(dir->cache, 0700);
	if (!geteuid()) {
		assert_int_equal(chown(dir->cache, 12345, 0), 0);
		works_without(dir, "belongs to user 12345, not to user 0");
	}

	dir->opts.cache_dir = NULL;
	unsetenv("XDG_CACHE_HOME");
	unsetenv("HOME");
	works_without(dir, "there is no cache directory");
	dir->opts.cache_dir = "";
	works_without(dir, "cannot make cache directory");
	dir->opts.cache_dir = "/proc/kvick/cache";
	works_without(dir, "cannot make cache directory /proc/kvick");
}

/* The content is at fault: an error, not a start without cache. */
static void test_content(void **state)
{
	struct dir *dir = *state;
	struct blob payload, bz;
	uint8_t elf[GOOD_BYTES];

	good_elf(elf);
	payload = pack(IMAGE_XZ, elf, sizeof(elf));
	bz = good_bz(&payload);
	bz.data[BZ_PAYLOAD_AT + 200] ^= 1;
	file_put(dir->file, bz.data, bz.bytes);
	open_fails(dir, dir->file, -ENOEXEC, "its xz payload is corrupt");
	assert_string_equal(dir->log, "");
	assert_int_equal(cache_files(dir, "", NULL), 0);
	/* And the same without a cache. */
	dir->opts.cache_dir = "/proc/kvick";
	open_fails(dir, dir->file, -ENOEXEC, "its xz payload is corrupt");
	free(payload.data);
	free(bz.data);
}

/* No file may grow beyond 8 KiB, not even in memory: an error, and nothing is left. */
static int run_limited(const struct dir *dir)
{
	struct rlimit limit = {.rlim_cur = 8192, .rlim_max = 8192};
	struct image *img = NULL;
	struct kv_err err = {""};

	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit))
		return 2;
	if (image_open(&img, dir->file, &dir->opts, &err) != -EFBIG)
		return 3;
	if (!strstr(err.text, "File too large"))
		return 4;
	if (!strstr(dir->log, dir->cache) || !strstr(dir->log, "File too large"))
		return 5;
	return cache_files(dir, "", NULL) ? 6 : 0;
}

static void test_limited(void **state)
{
	struct dir *dir = *state;

	bz_put(dir->file, 1);
	assert_int_equal(in_child(run_limited, dir), 0);
	assert_int_equal(tag_of(dir, dir->file), 1);
}

static void id_map(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		print_message("%s: %s\n", file, err_text(errno));
	fd_close(&fd);
}

/* Mounts that only this process sees; who is not root may make them in a user namespace. */
static bool mounts_own(void)
{
	char uids[64], gids[64];

	if (!unshare(CLONE_NEWNS))
		return true;
	snprintf(uids, sizeof(uids), "%u %u 1", geteuid(), geteuid());
	snprintf(gids, sizeof(gids), "%u %u 1", getegid(), getegid());
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return false;
	id_map("/proc/self/setgroups", "deny");
	id_map("/proc/self/uid_map", uids);
	id_map("/proc/self/gid_map", gids);
	return true;
}

static bool mount_cache(const struct dir *dir, const char *options)
{
	char parent[128];

	snprintf(parent, sizeof(parent), "%s/cache", dir->path);
	mkdir(parent, 0700);
	mkdir(dir->cache, 0700);
	return mounts_own() && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("kvick", dir->cache, "tmpfs", 0, options);
}

static int run_full(const struct dir *dir)
{
	char path[PATH_MAX];
	struct image *img = NULL;
	struct kv_err err;
	uint32_t tag = 0;

	/* One page is left of what the kernel takes. */
	if (!mount_cache(dir, "mode=0700,size=16k"))
		return 77;
	if (image_open(&img, dir->file, &dir->opts, &err))
		return 2;
	fd_pread_all(image_fd(img), &tag, sizeof(tag), image_plan(img)->segments[1].offset);
	if (tag != 1 || strcmp(image_data_path(img), "memfd:kvick-kernel"))
		return 3;
	image_destroy(img);
	if (!strstr(dir->log, dir->cache) || !strstr(dir->log, "No space left on device"))
		return 4;
	if (cache_files(dir, "", NULL))
		return 5;

	/* With just room for the kernel, the index finds none: it is done without. */
	if (mount(NULL, dir->cache, NULL, MS_REMOUNT, "size=24k"))
		return 77;
	if (child_tag(dir) != 1 || child_tag(dir) != 1 || cache_files(dir, ".elf", path) != 1)
		return 6;
	return 0;
}

static int run_readonly(const struct dir *dir)
{
	char path[PATH_MAX];

	if (!mount_cache(dir, "mode=0700,size=1m"))
		return 77;
	if (child_tag(dir) != 1 || cache_files(dir, ".elf", NULL) != 1)
		return 2;
	/* What is there is used, with and without index. */
	if (mount(NULL, dir->cache, NULL, MS_REMOUNT | MS_RDONLY, NULL))
		return 77;
	if (child_tag(dir) != 1 || dir->log[0])
		return 3;
	if (mount(NULL, dir->cache, NULL, MS_REMOUNT, NULL))
		return 77;
	if (cache_files(dir, ".idx", path))
		unlink(path);
	cache_files(dir, ".elf", path);
	if (mount(NULL, dir->cache, NULL, MS_REMOUNT | MS_RDONLY, NULL))
		return 77;
	if (child_tag(dir) != 1 || dir->log[0])
		return 4;
	/* What is not cannot be added. */
	bz_put(dir->file, 2);
	if (child_tag(dir) != 2 || !strstr(dir->log, "Read-only file system"))
		return 5;
	return 0;
}

static void in_mount(int (*run)(const struct dir *dir), struct dir *dir)
{
	int r;

	bz_put(dir->file, 1);
	age(dir->file);
	r = in_child(run, dir);
	if (r == 77) {
		print_message("cannot mount here\n");
		skip();
	}
	assert_int_equal(r, 0);
}

static void test_full(void **state)
{
	in_mount(run_full, *state);
}

static void test_readonly(void **state)
{
	in_mount(run_readonly, *state);
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, dir_setup, dir_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dir),
		IN_DIR(test_layout),
		IN_DIR(test_index),
		IN_DIR(test_stale),
		IN_DIR(test_corrupt),
		IN_DIR(test_open_while_replaced),
		IN_DIR(test_race),
		IN_DIR(test_killed),
		IN_DIR(test_crash),
		IN_DIR(test_wait),
		IN_DIR(test_wait_failed),
		IN_DIR(test_wait_limit),
		cmocka_unit_test(test_quiet),
		IN_DIR(test_index_mixed),
		IN_DIR(test_sweep),
		IN_DIR(test_unusable),
		IN_DIR(test_content),
		IN_DIR(test_limited),
		IN_DIR(test_full),
		IN_DIR(test_readonly),
	};

	return cmocka_run_group_tests_name("image_cache", tests, NULL, NULL);
}
