/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"

#define BACKLOG 128

int pool_path(char *buf, size_t buf_bytes, struct kv_err *err)
{
	const char *dir = geteuid() ? getenv("XDG_RUNTIME_DIR") : "/run";
	int n;

	if (!dir || dir[0] != '/')
		return err_set(err, -ENOENT,
			"XDG_RUNTIME_DIR is %s: name the pool's socket (--socket PATH, or "
			"backing=pool:PATH of a machine)",
			dir ? "no absolute path" : "not set");
	n = snprintf(buf, buf_bytes, "%s/kvick/pool.sock", dir);
	if (n < 0 || (size_t)n >= buf_bytes)
		return err_set(err, -ENAMETOOLONG, "XDG_RUNTIME_DIR %s: too long", dir);
	return 0;
}

static int dir_make(const char *path, struct kv_err *err)
{
	char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	/* Searchable by all: the socket itself says who may connect. */
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return err_set(err, -errno, "%s: %s", dir, err_text(errno));
	return 0;
}

/* Nothing but a socket is ever replaced: to connect(2) every other file is a dead socket, too. */
static int path_check(const char *path, struct kv_err *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "%s: %s", path, err_text(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST,
			"%s exists and is no socket; it is left alone (--socket PATH)", path);
	return 0;
}

/* 1: a server answers at @addr. */
static int server_answers(const struct sockaddr_un *addr)
{
	FD_SCOPED int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) || errno == EAGAIN)
		return 1;
	return errno == ECONNREFUSED || errno == ENOENT ? 0 : -errno;
}

static int socket_bind(int fd, const struct sockaddr_un *addr, mode_t mode)
{
	int r = server_answers(addr);

	if (r)
		return r < 0 ? r : -EADDRINUSE;
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return -errno;
	/* The mode is set before anybody can connect. */
	if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ||
		chmod(addr->sun_path, mode) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	return 0;
}

int pool_listen(const char *path, int everybody, struct kv_err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	FD_SCOPED int lock = -1;
	char lock_path[sizeof(addr.sun_path) + 8];
	int fd, r;

	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(err, -ENAMETOOLONG, "%s: a socket's path has at most %zu bytes",
			path, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	r = dir_make(path, err);
	if (!r)
		r = path_check(path, err);
	if (r < 0)
		return r;
	/* Between two servers that start at once, and both find a dead socket. */
	snprintf(lock_path, sizeof(lock_path), "%s.lock", path);
	lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock < 0 && errno == EACCES && !access(lock_path, F_OK))
		return err_set(err, -EACCES,
			"%s is another user's, who had a pool there: remove it, or listen "
			"elsewhere",
			lock_path);
	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		return err_set(err, -errno, "%s: %s", lock_path, err_text(errno));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = fd < 0 ? -errno : socket_bind(fd, &addr, everybody ? 0666 : 0600);
	if (r < 0) {
		fd_close(&fd);
		if (r == -EADDRINUSE)
			return err_set(err, r, "%s: a pool is running there already", path);
		if (r == -EPROTOTYPE)
			return err_set(err, r, "%s: another program's socket is there", path);
		return err_set(err, r, "%s: %s", path, err_text(r));
	}
	return fd;
}
