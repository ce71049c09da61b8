/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of host sides: how each is opened. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "legacy/chardev.h"
#include "legacy/internal.h"

/*
 * Give the terminal @fd the settings under which bytes pass unchanged in both directions: the guest
 * has a terminal discipline of its own.
 */
static int raw_set(int fd, const struct termios *cooked)
{
	struct termios raw = *cooked;

	raw.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	raw.c_oflag &= ~OPOST;
	raw.c_lflag &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	raw.c_cflag &= ~(CSIZE | PARENB);
	raw.c_cflag |= CS8;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	return tcsetattr(fd, TCSANOW, &raw) < 0 ? -errno : 0;
}

/*
 * True when another job has the terminal: reading or changing it would stop this process. A
 * foreground group that cannot be seen (0: another PID namespace) is no such job.
 */
static bool in_background(int fd)
{
	pid_t foreground = tcgetpgrp(fd);

	return foreground > 0 && foreground != getpgrp();
}

int chardev_stdio(struct chardev **ret, struct loop *loop, struct kv_err *err)
{
	struct chardev *dev = NULL;
	bool terminal, background;
	int r = chardev_make(&dev, loop, NULL);

	if (r < 0)
		return err_set(err, r, "console on stdio: %s", err_text(r));
	terminal = tcgetattr(STDIN_FILENO, &dev->cooked) == 0;
	background = terminal && in_background(STDIN_FILENO);
	if (!background)
		dev->in = (struct chardev_end){.fd = STDIN_FILENO, .inherited = true};
	dev->out = (struct chardev_end){.fd = STDOUT_FILENO, .inherited = true};
	if (terminal && !background) {
		r = raw_set(STDIN_FILENO, &dev->cooked);
		if (r < 0) {
			chardev_destroy(dev);
			return err_set(
				err, r, "console on stdio: cannot set raw mode: %s", err_text(r));
		}
		dev->terminal = true;
	}
	*ret = dev;
	return 0;
}

void chardev_reopen(struct chardev_end *end, bool output)
{
	int flags = (output ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	struct stat st;
	char path[32];
	int fd;

	end->inherited = false;
	if (fstat(end->fd, &st) < 0 || S_ISREG(st.st_mode) || S_ISBLK(st.st_mode))
		return;
	if (S_ISSOCK(st.st_mode)) {
		end->socket = true;
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", end->fd);
	fd = open(path, flags);
	if (fd >= 0) {
		end->fd = fd;
		end->own = true;
	} else {
		/* Without /proc, or after su(1) on another user's terminal. */
		end->may_wait = true;
	}
}

/*
 * A FIFO is opened for both directions: that succeeds without a reader, and what is written waits
 * for one.
 */
static int file_open(const char *path)
{
	int flags = O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	int fd = open(path, flags | O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
	struct stat st;

	if (fd < 0 && errno != ENXIO)
		return -errno;
	if (fd >= 0 ? fstat(fd, &st) < 0 : stat(path, &st) < 0) {
		fd_close(&fd);
		return -errno;
	}
	if (S_ISFIFO(st.st_mode)) {
		fd_close(&fd);
		fd = open(path, flags | O_RDWR);
		return fd < 0 ? -errno : fd;
	}
	return fd < 0 ? -ENXIO : fd;
}

/* What a person can do about @code, for the end of a sentence. */
static const char *path_hint(int code)
{
	switch (code) {
	case -ENOENT:
	case -ENOTDIR:
		return " (its folder must exist)";
	case -ENXIO:
		return " (a file, FIFO or terminal is allowed)";
	default:
		return "";
	}
}

int chardev_file(struct chardev **ret, struct loop *loop, const char *path, struct kv_err *err)
{
	struct chardev *dev = NULL;
	int fd = file_open(path);
	int r = fd < 0 ? fd : chardev_make(&dev, loop, path);

	if (r < 0) {
		fd_close(&fd);
		return err_set(err, r, "cannot write the console to the file %s: %s%s", path,
			err_text(r), path_hint(r));
	}
	dev->out = (struct chardev_end){.fd = fd, .own = true};
	*ret = dev;
	return 0;
}

/* Make the pair: *@master, and *@peer in raw mode with its @name. */
static int pty_open(int *master, int *peer, char *name, size_t name_bytes)
{
	struct termios settings;

	*master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (*master < 0 || grantpt(*master) < 0 || unlockpt(*master) < 0 ||
		ptsname_r(*master, name, name_bytes) != 0)
		return -errno;
	*peer = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*peer < 0 || tcgetattr(*peer, &settings) < 0)
		return -errno;
	return raw_set(*peer, &settings);
}

int chardev_pty(struct chardev **ret, struct loop *loop, struct kv_err *err)
{
	struct chardev *dev = NULL;
	int master = -1, peer = -1, copy = -1;
	char name[64];
	int r = pty_open(&master, &peer, name, sizeof(name));

	if (r < 0)
		goto err_close;
	/* Each direction is watched by itself. */
	copy = fcntl(master, F_DUPFD_CLOEXEC, 0);
	if (copy < 0) {
		r = -errno;
		goto err_close;
	}
	r = chardev_make(&dev, loop, name);
	if (r < 0)
		goto err_close;
	dev->in = (struct chardev_end){.fd = master, .own = true};
	dev->out = (struct chardev_end){.fd = copy, .own = true};
	dev->peer_fd = peer;
	*ret = dev;
	return 0;

err_close:
	fd_close(&copy);
	fd_close(&peer);
	fd_close(&master);
	return err_set(err, r, "cannot make a pseudo-terminal for the console: %s", err_text(r));
}

/*
 * Is @addr a socket of a running program? Asked with a socket of the other type: where a program
 * holds it the kernel complains of the type, and the program does not notice.
 * Returns 0 when not; -EADDRINUSE; -ENOTSOCK: no socket at all.
 */
static int unix_probe(const struct sockaddr_un *addr)
{
	FD_SCOPED int fd = -1;
	struct stat st;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED)
		return 0;
	return -EADDRINUSE;
}

static int unix_bind(int fd, const struct sockaddr_un *addr)
{
	int r;

	/* The mode of the descriptor is what bind() gives to the file: never open to others. */
	if (fchmod(fd, 0600) < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	r = unix_probe(addr);
	if (r < 0)
		return r;
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return -errno;
	return bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
}

/* Check @path and turn it into an address. */
static int unix_address(struct sockaddr_un *addr, const char *path, struct kv_err *err)
{
	size_t len = strlen(path);

	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (len == 0 || len >= sizeof(addr->sun_path))
		return err_set(err, -ENAMETOOLONG,
			"the console's socket %s: its path has %zu bytes, allowed are 1 to %zu",
			path, len, sizeof(addr->sun_path) - 1);
	memcpy(addr->sun_path, path, len);
	return 0;
}

/* The sentence about a socket that could not be made. */
static int unix_failed(struct kv_err *err, int code, const char *path)
{
	if (code == -EADDRINUSE)
		return err_set(err, code, "the console's socket %s: another program uses it", path);
	if (code == -ENOTSOCK)
		return err_set(err, code,
			"the console's socket %s: a file is there that is no socket", path);
	return err_set(err, code, "cannot make the console's socket %s: %s%s", path, err_text(code),
		path_hint(code));
}

int chardev_unix(struct chardev **ret, struct loop *loop, const char *path, struct kv_err *err)
{
	struct chardev *dev = NULL;
	struct sockaddr_un addr;
	struct stat st;
	int fd;
	int r = unix_address(&addr, path, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return unix_failed(err, -errno, path);
	r = unix_bind(fd, &addr);
	if (r < 0)
		goto err_close;
	if (listen(fd, 1) < 0 || lstat(path, &st) < 0) {
		r = -errno;
		goto err_unlink;
	}
	r = chardev_make(&dev, loop, path);
	if (r < 0)
		goto err_unlink;
	dev->listen_fd = fd;
	dev->path_dev = st.st_dev;
	dev->path_ino = st.st_ino;
	dev->state = CHARDEV_OUT_HELD;
	chardev_listen(dev);
	*ret = dev;
	return 0;

err_unlink:
	unlink(path);
err_close:
	fd_close(&fd);
	return unix_failed(err, r, path);
}
