/* SPDX-License-Identifier: Apache-2.0 */
/* A tap as the host side of a network device. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "virtio/net_host.h"

#define TUN_PATH "/dev/net/tun"

#define HOST_OFFLOADS                                                                              \
	(VNET_F_CSUM | VNET_F_HOST_TSO4 | VNET_F_HOST_TSO6 | VNET_F_HOST_ECN | VNET_GUEST_OFFLOADS)

struct tap {
	struct vnet_host host;
	unsigned pairs_on;
};

static bool tap_send(struct vnet_host *host, unsigned pair, const struct iovec *iov, unsigned count)
{
	ssize_t n;

	do {
		n = writev(host->fds[pair], iov, (int)count);
	} while (n < 0 && errno == EINTR);
	/* What the kernel finds wrong with a packet is the guest's loss. */
	return n >= 0 || errno != EAGAIN;
}

static ssize_t tap_recv(struct vnet_host *host, unsigned pair, struct iovec *iov, unsigned count)
{
	ssize_t n;

	do {
		n = readv(host->fds[pair], iov, (int)count);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	/* The end of file of something that is no tap any more. */
	return n ? n : -EPIPE;
}

static int tap_offload(struct vnet_host *host, uint64_t offloads)
{
	unsigned flags = 0;

	/* §5.1.3.1: the others depend on checksums. */
	if (offloads & VNET_F_GUEST_CSUM)
		flags = TUN_F_CSUM | (offloads & VNET_F_GUEST_TSO4 ? TUN_F_TSO4 : 0) |
			(offloads & VNET_F_GUEST_TSO6 ? TUN_F_TSO6 : 0) |
			(offloads & VNET_F_GUEST_ECN && offloads & VNET_GUEST_TSO ? TUN_F_TSO_ECN
										  : 0);
	return ioctl(host->fds[0], TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}

/* Attach or detach queues until there are @count. Returns 0 or -errno, half-way. */
static int queues_set(struct tap *tap, unsigned count)
{
	while (tap->pairs_on != count) {
		bool more = tap->pairs_on < count;
		unsigned i = more ? tap->pairs_on : tap->pairs_on - 1;
		struct ifreq ifr = {
			.ifr_flags = more ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE,
		};

		if (ioctl(tap->host.fds[i], TUNSETQUEUE, &ifr) < 0)
			return -errno;
		tap->pairs_on = more ? i + 1 : i;
	}
	return 0;
}

/* The kernel spreads what it sends over the queues that are attached. */
static int tap_pairs(struct vnet_host *host, unsigned count)
{
	struct tap *tap = (struct tap *)host;
	unsigned before = tap->pairs_on;
	int r = queues_set(tap, count);

	/* The device goes on with what it had: nobody reads from others. */
	if (r < 0)
		queues_set(tap, before);
	return r;
}

static void tap_close(struct vnet_host *host)
{
	for (unsigned i = 0; i < host->pair_count; i++)
		fd_close(&host->fds[i]);
	free(host);
}

static const struct vnet_host_ops tap_ops = {
	.send = tap_send,
	.recv = tap_recv,
	.offload = tap_offload,
	.pairs = tap_pairs,
	.close = tap_close,
};

static struct tap *tap_new(void)
{
	struct tap *tap = calloc(1, sizeof(*tap));

	if (!tap)
		return NULL;
	tap->host = (struct vnet_host){.ops = &tap_ops, .features = HOST_OFFLOADS};
	for (unsigned i = 0; i < VNET_PAIRS_MAX; i++)
		tap->host.fds[i] = -1;
	return tap;
}

/* The header as virtio 1 has it, and no offloads yet. Returns 0 or -errno. */
static int header_set(struct vnet_host *host)
{
	int bytes = sizeof(struct vnet_header), little = 1;

	for (unsigned i = 0; i < host->pair_count; i++)
		if (ioctl(host->fds[i], TUNSETVNETHDRSZ, &bytes) < 0 ||
			ioctl(host->fds[i], TUNSETVNETLE, &little) < 0)
			return -errno;
	return tap_offload(host, 0);
}

/* Attach one more queue of @name. Returns 0 or -errno. */
static int queue_open(struct vnet_host *host, const char *name, bool multi)
{
	struct ifreq ifr = {
		.ifr_flags =
			(short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi ? IFF_MULTI_QUEUE : 0)),
	};
	int fd = open(TUN_PATH, O_RDWR | O_NONBLOCK | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	memcpy(ifr.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		r = -errno;
		fd_close(&fd);
		return r;
	}
	host->fds[host->pair_count++] = fd;
	return 0;
}

static int open_error(const char *name, unsigned pairs, int r, struct kv_err *err)
{
	const char *multi = pairs > 1 ? " multi_queue" : "";

	switch (r) {
	case -EPERM:
		return err_set(err, r,
			"the tap %s is not for this user; create it anew with: ip link del %s; ip "
			"tuntap add %s mode tap%s user %u; ip link set %s up",
			name, name, name, multi, (unsigned)geteuid(), name);
	case -EBUSY:
		return err_set(err, r, "the tap %s is in use by another process", name);
	case -EINVAL:
		return err_set(err, r,
			"%s is no tap%s; create one with: ip tuntap add %s mode tap%s; ip link "
			"set %s up",
			name, pairs > 1 ? " with several queues" : "", name, multi, name);
	default:
		return err_set(err, r, "the tap %s cannot be used: %s", name, err_text(r));
	}
}

/* Returns 0 or -errno with a sentence. */
static int tap_attach(struct tap *tap, const char *name, unsigned pairs, struct kv_err *err)
{
	struct vnet_host *host = &tap->host;
	int r;

	/* Opening a name that is not there would create it, where one may, and lead nowhere. */
	if (!if_nametoindex(name))
		return err_set(err, -ENODEV,
			"there is no interface %s; create it with: ip tuntap add %s mode tap%s "
			"user %u; ip link set %s up",
			name, name, pairs > 1 ? " multi_queue" : "", (unsigned)geteuid(), name);
	if (access(TUN_PATH, R_OK | W_OK) < 0)
		return err_set(err, -errno, "%s cannot be opened: %s; taps need it", TUN_PATH,
			err_text(-errno));
	r = queue_open(host, name, pairs > 1);
	/* One queue of a tap that could have several is fine. */
	if (r == -EINVAL && pairs == 1)
		r = queue_open(host, name, true);
	while (!r && host->pair_count < pairs)
		r = queue_open(host, name, true);
	tap->pairs_on = host->pair_count;
	if (!r)
		r = header_set(host);
	if (!r && pairs > 1)
		r = tap_pairs(host, 1);
	return r < 0 ? open_error(name, pairs, r, err) : 0;
}

int vnet_tap_open(struct vnet_host **ret, const char *name, unsigned pairs, struct kv_err *err)
{
	struct tap *tap = tap_new();
	int r;

	if (!tap)
		return err_set(err, -ENOMEM, "out of memory");
	r = tap_attach(tap, name, pairs, err);
	if (r < 0) {
		tap_close(&tap->host);
		return r;
	}
	*ret = &tap->host;
	return 0;
}

/* Returns 0 or -errno with a sentence. */
static int fd_check(int fd, struct kv_err *err)
{
	struct ifreq ifr = {0};
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return err_set(err, -EBADF, "there is no open descriptor %d", fd);
	if (ioctl(fd, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_TAP))
		return err_set(err, -EINVAL, "descriptor %d is no tap", fd);
	if (!(ifr.ifr_flags & IFF_VNET_HDR) || !(ifr.ifr_flags & IFF_NO_PI))
		return err_set(err, -EINVAL,
			"descriptor %d is a tap without IFF_VNET_HDR and IFF_NO_PI; it needs both",
			fd);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(
			err, -errno, "descriptor %d cannot be used: %s", fd, err_text(-errno));
	return 0;
}

int vnet_fd_open(struct vnet_host **ret, int fd, struct kv_err *err)
{
	int r = fd_check(fd, err);
	struct tap *tap;

	if (r < 0)
		return r;
	tap = tap_new();
	if (!tap)
		return err_set(err, -ENOMEM, "out of memory");
	tap->host.fds[0] = fd;
	tap->host.pair_count = tap->pairs_on = 1;
	r = header_set(&tap->host);
	if (r < 0) {
		/* The descriptor stays the caller's. */
		tap->host.fds[0] = -1;
		tap_close(&tap->host);
		return err_set(
			err, r, "descriptor %d cannot be used as a tap: %s", fd, err_text(r));
	}
	*ret = &tap->host;
	return 0;
}
