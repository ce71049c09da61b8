/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_NET_HOST_H
#define KV_VIRTIO_NET_HOST_H

#include <sys/types.h>
#include <sys/uio.h>

#include "virtio/net.h"

/* Between the network device and its host side; inside virtio/ (and its tests) only. */

/* Feature bits (virtio 1.3 §5.1.3). */
#define VNET_F_CSUM		   (1ULL << 0)
#define VNET_F_GUEST_CSUM	   (1ULL << 1)
#define VNET_F_CTRL_GUEST_OFFLOADS (1ULL << 2)
#define VNET_F_MTU		   (1ULL << 3)
#define VNET_F_MAC		   (1ULL << 5)
#define VNET_F_GUEST_TSO4	   (1ULL << 7)
#define VNET_F_GUEST_TSO6	   (1ULL << 8)
#define VNET_F_GUEST_ECN	   (1ULL << 9)
#define VNET_F_HOST_TSO4	   (1ULL << 11)
#define VNET_F_HOST_TSO6	   (1ULL << 12)
#define VNET_F_HOST_ECN		   (1ULL << 13)
#define VNET_F_MRG_RXBUF	   (1ULL << 15)
#define VNET_F_STATUS		   (1ULL << 16)
#define VNET_F_CTRL_VQ		   (1ULL << 17)
#define VNET_F_CTRL_RX		   (1ULL << 18)
#define VNET_F_CTRL_RX_EXTRA	   (1ULL << 20)
#define VNET_F_MQ		   (1ULL << 22)
#define VNET_F_CTRL_MAC_ADDR	   (1ULL << 23)

/* What the guest can take instead of whole packets with checksums. */
#define VNET_GUEST_OFFLOADS                                                                        \
	(VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4 | VNET_F_GUEST_TSO6 | VNET_F_GUEST_ECN)
#define VNET_GUEST_TSO (VNET_F_GUEST_TSO4 | VNET_F_GUEST_TSO6)

/* In front of each packet (§5.1.6). */
struct vnet_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};
_Static_assert(sizeof(struct vnet_header) == 12, "virtio 1.3 §5.1.6");

#define VNET_ETH_BYTES 14
/* Header and frame: more than 64 KiB of IP does not come, not even for segmentation. */
#define VNET_PACKET_MAX (sizeof(struct vnet_header) + VNET_ETH_BYTES + 4 + 65536)

/*
 * Packets are a struct vnet_header and a frame in @count buffers (at most 1,023). Calls come with
 * the device's lock, all but close from the loop thread or, where it says so, from any.
 */
struct vnet_host_ops {
	/*
	 * Send a packet on @pair. Returns true when it went, or can never go; false to be called
	 * again when the descriptor is writable.
	 */
	bool (*send)(
		struct vnet_host *host, unsigned pair, const struct iovec *iov, unsigned count);
	/*
	 * Receive a packet on @pair. Returns its bytes, more than there is room for when it was
	 * cut; 0: there is none; -errno: there will be none any more.
	 */
	ssize_t (*recv)(struct vnet_host *host, unsigned pair, struct iovec *iov, unsigned count);
	/* Finish what send() left; NULL: it leaves nothing. Sets `pending`. */
	void (*flush)(struct vnet_host *host);
	/* The guest takes @offloads of VNET_GUEST_OFFLOADS from now on. Any thread; may be NULL. */
	int (*offload)(struct vnet_host *host, uint64_t offloads);
	/*
	 * Use so many pairs. A descriptor beyond them must not be polled. Any thread; NULL: there
	 * is one.
	 */
	int (*pairs)(struct vnet_host *host, unsigned count);
	void (*close)(struct vnet_host *host);
};

struct vnet_host {
	const struct vnet_host_ops *ops; /* [c] */
	unsigned pair_count;		 /* [c] 1..VNET_PAIRS_MAX */
	uint64_t features;		 /* [c] that need the host side, VNET_F_CSUM and so on */
	int fds[VNET_PAIRS_MAX];	 /* [c] one for each pair; pollable */
	bool pending; /* send() left something: call flush() when it is writable */
};

#endif
