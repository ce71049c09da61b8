/* SPDX-License-Identifier: Apache-2.0 */
#include "api/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"

#define BACKLOG	   512 /* clients that do not wait are refused when so many others do */
#define SUFFIX	   ".sock"
#define LOCK_TRIES 100 /* of 10 ms: who holds the folder's lock does so for microseconds */

_Static_assert(API_PATH_MAX == sizeof(((struct sockaddr_un *)0)->sun_path), "unix(7)");

int api_folder(char buf[API_PATH_MAX], struct kv_err *err)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	int n;

	if (dir && dir[0] == '/')
		n = snprintf(buf, API_PATH_MAX, "%s/kvick", dir);
	else if (!geteuid())
		n = snprintf(buf, API_PATH_MAX, "/run/kvick");
	else
		n = snprintf(buf, API_PATH_MAX, "/tmp/kvick-%u", (unsigned)geteuid());
	if (n >= API_PATH_MAX)
		return err_set(err, -ENAMETOOLONG, "XDG_RUNTIME_DIR %s: too long", dir);
	return 0;
}

int api_path(char buf[API_PATH_MAX], const char *id, struct kv_err *err)
{
	size_t len;
	int r = api_folder(buf, err);

	if (r < 0)
		return r;
	len = strlen(buf);
	if (snprintf(buf + len, API_PATH_MAX - len, "/%s" SUFFIX, id) >= (int)(API_PATH_MAX - len))
		return err_set(err, -ENAMETOOLONG,
			"the control socket of id %s would have a path of more than %d bytes; take "
			"a shorter id, or name the socket (--api-sock PATH)",
			id, API_PATH_MAX - 1);
	return 0;
}

/*
 * Make the folder of sockets if it is not there. Anybody may look into it, since a pool's socket
 * lies there, too; the sockets say who may connect. In /tmp, somebody else may have been faster.
 */
static int folder_make(const char *dir, struct kv_err *err)
{
	struct stat st;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return err_set(err, -errno,
			"control socket: the folder %s cannot be made: %s (--no-api does without)",
			dir, err_text(errno));
	if (lstat(dir, &st) < 0)
		return err_set(err, -errno, "control socket: %s: %s", dir, err_text(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & (S_IWGRP | S_IWOTH))
		return err_set(err, -EPERM,
			"control socket: %s is not a folder that only this user can write to", dir);
	return 0;
}

/*
 * Lock the folder @dir, so that two VMs that start at once do not both replace a dead socket. It
 * leaves nothing behind, unlike a file. Others may hold locks on folders that are everybody's, so
 * this does not wait for ever. Returns a descriptor or -errno.
 */
static int folder_lock(const char *dir)
{
	const struct timespec pause = {.tv_nsec = 10000000};
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	for (unsigned i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK || i == LOCK_TRIES) {
			int r = -errno;

			fd_close(&fd);
			return r;
		}
		nanosleep(&pause, NULL);
	}
	return fd;
}

static int addr_make(struct sockaddr_un *addr, const char *path)
{
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(addr->sun_path))
		return -ENAMETOOLONG;
	strcpy(addr->sun_path, path);
	return 0;
}

/* Returns a descriptor or -errno; a backlog that is full for so long is -EAGAIN. */
static int sock_connect(const char *path, int flags, unsigned ms)
{
	const struct timeval limit = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	struct sockaddr_un addr;
	int r = addr_make(&addr, path);
	int fd;

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0)
		return -errno;
	if ((ms && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0) ||
		connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = -errno;
		fd_close(&fd);
		return r;
	}
	return fd;
}

int api_connect(const char *path, unsigned ms)
{
	int r = sock_connect(path, 0, ms);

	return r == -EAGAIN ? -ETIMEDOUT : r;
}

/* Does anybody listen there? Returns 1, 0 (a dead socket, or nothing), -errno. */
static int sock_alive(const char *path)
{
	FD_SCOPED int fd = sock_connect(path, SOCK_NONBLOCK, 0);

	if (fd >= 0 || fd == -EAGAIN)
		return 1;
	return fd == -ECONNREFUSED || fd == -ENOENT ? 0 : fd;
}

/* Make room at @path. */
static int path_clear(const char *path, struct kv_err *err)
{
	struct stat st;
	int r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0
				       : err_set(err, -errno, "control socket: %s: %s", path,
						 err_text(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST,
			"control socket: %s exists and is no socket; it is left alone", path);
	r = sock_alive(path);
	if (r > 0)
		return err_set(err, -EADDRINUSE,
			"control socket: a running VM answers at %s; take another id or path",
			path);
	if (r == -EPROTOTYPE)
		return err_set(err, -EEXIST,
			"control socket: %s is another program's; take another id or path", path);
	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = -errno;
	return r < 0 ? err_set(err, r, "control socket: %s: %s", path, err_text(r)) : 0;
}

/* Where a socket is made ready before it gets its name; the folder's lock is held meanwhile. */
#define FRESH ".kvick-new"

/*
 * Listen in the folder @dir_fd. The name comes last: who waits for it to appear connects at once,
 * and would be refused by a socket that is bound and does not listen yet.
 */
static int sock_listen(int fd, int dir_fd, const char *path, struct api_sock *sock)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	FD_SCOPED int held = -1;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/" FRESH, dir_fd);
	/* Of one that was killed in between. */
	unlinkat(dir_fd, FRESH, 0);
	/* The mode is set before anybody can connect. */
	if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	held = openat(dir_fd, FRESH, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (held < 0 || listen(fd, BACKLOG) < 0 || renameat(dir_fd, FRESH, dir_fd, name) < 0) {
		int r = -errno;

		unlinkat(dir_fd, FRESH, 0);
		return r;
	}
	*sock = (struct api_sock){.held = fd_take(&held)};
	strcpy(sock->path, path);
	return 0;
}

/* The folder that @path lies in. */
static void folder_of(char dir[API_PATH_MAX], const char *path)
{
	char *slash;

	snprintf(dir, API_PATH_MAX, "%s", path);
	slash = strrchr(dir, '/');
	if (!slash)
		strcpy(dir, ".");
	else if (slash == dir)
		strcpy(dir, "/");
	else
		*slash = '\0';
}

int api_listen(const char *path, bool owned, struct api_sock *sock, struct kv_err *err)
{
	char dir[API_PATH_MAX];
	FD_SCOPED int lock = -1;
	int fd, r;

	if (strlen(path) >= API_PATH_MAX)
		return err_set(err, -ENAMETOOLONG,
			"control socket: %s: a socket's path has at most %d bytes", path,
			API_PATH_MAX - 1);
	folder_of(dir, path);
	r = owned ? folder_make(dir, err) : 0;
	if (r < 0)
		return r;
	lock = folder_lock(dir);
	if (lock < 0)
		return err_set(err, lock, "control socket: the folder %s: %s", dir, err_text(lock));
	r = path_clear(path, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = fd < 0 ? -errno : sock_listen(fd, lock, path, sock);
	if (r < 0) {
		fd_close(&fd);
		return err_set(err, r, "control socket: %s: %s", path, err_text(r));
	}
	return fd;
}

void api_unlink(struct api_sock *sock)
{
	if (!sock->path[0])
		return;
	if (fd_is_at(sock->held, AT_FDCWD, sock->path))
		unlink(sock->path);
	close(sock->held);
	sock->path[0] = '\0';
}

/* The id that a file in the folder stands for, or "" when it is none that is running. */
static void id_running(char id[NAME_MAX + 1], const char *folder, const char *name)
{
	size_t len = strlen(name);
	char path[API_PATH_MAX];

	id[0] = '\0';
	if (len <= strlen(SUFFIX) || strcmp(name + len - strlen(SUFFIX), SUFFIX))
		return;
	if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
		return;
	if (sock_alive(path) == 1)
		snprintf(id, NAME_MAX + 1, "%.*s", (int)(len - strlen(SUFFIX)), name);
}

void api_running(char *buf, size_t buf_bytes)
{
	char folder[API_PATH_MAX], id[NAME_MAX + 1];
	const struct dirent *entry;
	size_t used = 0;
	DIR *dir;

	buf[0] = '\0';
	if (api_folder(folder, NULL) < 0)
		return;
	dir = opendir(folder);
	if (!dir)
		return;
	while ((entry = readdir(dir)) && used < buf_bytes) {
		id_running(id, folder, entry->d_name);
		if (id[0])
			used += (size_t)snprintf(
				buf + used, buf_bytes - used, "%s%s", used ? ", " : "", id);
	}
	closedir(dir);
}
