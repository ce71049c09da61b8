/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_NET_H
#define KV_VIRTIO_NET_H

#include "virtio/limit.h"
#include "virtio/vdev.h"

/*
 * Network device (virtio 1.3 §5.1): queue pairs with mergeable buffers, offloads as far as the host
 * side has them, and a control queue for receive filters, offloads and the number of pairs.
 */
struct vnet;

#define VNET_MAC_BYTES 6
#define VNET_PAIRS_MAX 16
#define VNET_MTU_MIN   68
#define VNET_MTU_MAX   65535

/* The host's side of a network device: where its packets go and come from. */
struct vnet_host;

/*
 * Take the tap @name, which must exist, with @pairs (1..VNET_PAIRS_MAX) queues.
 * Returns 0; -ENODEV (no such interface), -EPERM, -EBUSY, -EINVAL (no tap, or one of another number
 * of queues), -errno of open(2), with a sentence that says how to create one.
 * Owns: vnet_host_close() closes it, unless a device takes it.
 */
int vnet_tap_open(struct vnet_host **ret, const char *name, unsigned pairs, struct kv_err *err);

/*
 * Take the open descriptor @fd of a tap or macvtap with a virtio header (IFF_VNET_HDR).
 * Returns 0; -EBADF; -EINVAL (no tap, or without the header), with a sentence.
 * Owns: as vnet_tap_open(); @fd is consumed on success only.
 */
int vnet_fd_open(struct vnet_host **ret, int fd, struct kv_err *err);

/* A port of the host whose connections, or packets, the guest gets at one of its own. */
struct vnet_forward {
	uint16_t host, guest; /* from 1 */
	bool udp;
};

#define VNET_FORWARDS_MAX 32

/* What passt hands on at most, IPv4 and IPv6 alike: its own default. */
#define VNET_USER_MTU 65520

struct vnet_user_params {
	const struct vnet_forward *forwards; /* borrowed, as all here */
	unsigned forward_count;		     /* up to VNET_FORWARDS_MAX */
	uint16_t mtu;			     /* told by DHCP */
};

/*
 * Start passt(1), which gives the guest a network of the host's connections without any rights, and
 * wait until it is ready. It ends when the host side is closed, or this process ends.
 * Returns 0; -ENOENT (no such program), -EADDRINUSE (a port is taken), -EACCES (one that is not for
 * us), -EIO (passt cannot work here), -ETIMEDOUT, -errno, with a sentence. Owns: as
 * vnet_tap_open(). Context: not where SIGCHLD is waited for.
 */
int vnet_user_open(
	struct vnet_host **ret, const struct vnet_user_params *params, struct kv_err *err);

/* NULL is allowed. */
void vnet_host_close(struct vnet_host *host);

/*
 * The kernel's vhost-net, which moves a tap's packets without kvick, and without receive filters
 * and limits. Takes the queues of @pairs, as many as the host side has. @gm must outlive it, of
 * whose memory it is told; more pieces than vnet_vhost_pieces() are refused.
 * Returns 0; -ENOENT, -EACCES and others where /dev/vhost-net cannot be used, with a sentence.
 * Owns: vnet_vhost_close(), unless a device takes it; NULL is allowed.
 */
struct vnet_vhost;
int vnet_vhost_open(struct vnet_vhost **ret, struct gmem *gm, unsigned pairs, struct kv_err *err);
void vnet_vhost_close(struct vnet_vhost *vhost);

/* May this process open /dev/vhost-net? Context: any thread. */
bool vnet_vhost_usable(void);

/* Pieces of guest memory that the kernel takes. Context: any thread. */
unsigned vnet_vhost_pieces(void);

struct vnet_params {
	const struct gmem *gm; /* borrowed, as loop and log */
	struct loop *loop;
	const struct kv_log *log;
	const char *name; /* for the log, up to 64 bytes; copied */
	uint8_t mac[VNET_MAC_BYTES];
	uint16_t mtu;		   /* told to the guest; 0: none is */
	struct limit_rates rx, tx; /* of what the guest receives and sends; frames' bytes */
	struct vnet_vhost *vhost;  /* NULL: kvick itself moves packets; without limits only */
};

/*
 * Make the device over @host. Returns 0 or vdev_create()'s errors.
 * Owns: @host and the vhost on success; the device is destroyed after its transport.
 */
int vnet_create(struct vnet **ret, const struct vnet_params *params, struct vnet_host *host);
void vnet_destroy(struct vnet *net);

/* The device core, to be given to a transport. */
struct vdev *vnet_vdev(struct vnet *net);

#endif
