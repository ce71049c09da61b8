/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VIRTIO_NET_INTERNAL_H
#define KV_VIRTIO_NET_INTERNAL_H

#include "virtio/limit.h"
#include "virtio/net_host.h"
#include "virtio/vq.h"

/* Shared by the files of the network device alone. */

#define NET_QUEUE_SIZE 256

/* Addresses of a receive filter, of each kind; with more, the filter lets all of the kind pass. */
#define NET_MACS_MAX 64

/* Which received frames the driver wants (§5.1.6.5.1, §5.1.6.5.2). */
struct net_filter {
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	uint8_t mac[VNET_MAC_BYTES];
	bool uni_all, multi_all; /* the driver named more addresses than there is room for */
	unsigned uni_count, multi_count;
	uint8_t uni[NET_MACS_MAX][VNET_MAC_BYTES];
	uint8_t multi[NET_MACS_MAX][VNET_MAC_BYTES];
};

/*
 * A receive and a transmit queue. Chains of the receive queue are taken before there are packets
 * for them, so that each is looked at once.
 */
struct net_pair {
	struct vnet *net;	    /* [c] */
	unsigned index;		    /* [c] */
	struct loop_source *source; /* [l] NULL: the host's descriptor is not watched */
	uint32_t events;	    /* [l] that it is watched for */
	/* Under the device's lock: */
	bool starved;		 /* there may be packets, but no buffers for them */
	bool send_blocked;	 /* the host takes no more for now */
	bool send_paid;		 /* the next packet has passed the limit */
	struct vq_chain *chains; /* [c] the pointer; room for NET_QUEUE_SIZE */
	unsigned chain_first, chain_count;
	uint64_t chain_bytes; /* writable ones of all chains */
	/*
	 * A packet that was received and not given to the driver yet: its first bytes are in the
	 * chains, the others in rest[rest_at...]. All may be in one of the two.
	 */
	uint64_t held_bytes, rest_bytes, rest_at;
	uint8_t *rest; /* [c] the pointer; VNET_PACKET_MAX bytes */
};

/* §5.1.4; the rest belongs to features that are not offered. */
struct net_config {
	uint8_t mac[VNET_MAC_BYTES];
	uint16_t status;
	uint16_t pairs;
	uint16_t mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "virtio 1.3 §5.1.4");

struct vnet {
	struct vdev *vd;	/* [c] */
	struct vnet_params p;	/* [c] */
	char name[65];		/* [c] */
	struct vnet_host *host; /* [c] */
	/* Under the device's lock: */
	struct limit rx, tx;
	struct net_config config;
	struct net_filter filter;
	unsigned pairs_on; /* that the driver uses */
	bool gone;	   /* the host side is lost */
	unsigned pair_count;
	struct net_pair pairs[];
};

#define NET_RX(pair) (2 * (pair))
#define NET_TX(pair) (2 * (pair) + 1)

/* Queue calls, all with the device's lock and from the loop thread unless it says otherwise. */

/* net_queue.c: take what can be received on @pair, or sent. */
void net_receive(struct net_pair *pair);
void net_send(struct net_pair *pair);

/*
 * net_queue.c: watch the host's descriptor of @pair for what it waits for, and stop watching those
 * of pairs that are not used.
 */
void net_watch(struct net_pair *pair);

/* net_queue.c: give up the chains and the packet that @pair holds. Context: any thread. */
void net_forget(struct net_pair *pair);

/*
 * net_queue.c: give the chains back that @pair holds, to be taken and checked anew; a packet in
 * them is kept. Context: any thread.
 */
void net_give_back(struct net_pair *pair);

/* net_ctrl.c: carry out what is in the control queue, which has @index. */
void net_control(struct vnet *net, unsigned index);

/* net_ctrl.c: the filter after a reset: all pass. Context: any thread. */
void net_filter_reset(struct net_filter *filter, const uint8_t mac[VNET_MAC_BYTES]);

/* net_ctrl.c: shall the driver get a frame for the address @to? */
bool net_filter_pass(const struct net_filter *filter, const uint8_t to[VNET_MAC_BYTES]);

/* net.c: use @count pairs. Returns 0 or -errno. Context: any thread. */
int net_pairs_use(struct vnet *net, unsigned count);

/*
 * net.c: net_vhost_run() of a device that is active; where that fails, the host side is lost.
 * Returns whether it did not. Context: any thread.
 */
bool net_vhost_resume(struct vnet *net);

/* net.c: the host side is lost: the link is down, and stays so. */
void net_host_lost(struct vnet *net, int why);

/*
 * net_vhost.c: the packets of @net are the kernel's from now on. Returns 0 or -errno. Context:
 * before the loop runs, without the lock.
 */
int net_vhost_attach(struct vnet_vhost *vhost, struct vnet *net);
/* Context: loop thread, or while it does not run. */
void net_vhost_detach(struct vnet_vhost *vhost);

/* net_vhost.c: features of queues and buffers that the kernel has. Context: any thread. */
uint64_t net_vhost_features(const struct vnet_vhost *vhost);

/*
 * net_vhost.c: the driver is ready: net_vhost_run() of the queues that it has for packets.
 * Returns 0 or -errno. Context: that of vdev_queue_watch().
 */
int net_vhost_activate(struct vnet_vhost *vhost);

/*
 * net_vhost.c: have the kernel work on all queues that run of the pairs in use; keep it from
 * working on pairs from @first on; take queue @index away, which begins anew then. Returns 0 or
 * -errno, with none worked on. Context: any thread.
 */
int net_vhost_run(struct vnet_vhost *vhost);
void net_vhost_pause(struct vnet_vhost *vhost, unsigned first);
void net_vhost_stop(struct vnet_vhost *vhost, unsigned index);

#endif
