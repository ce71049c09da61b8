/* SPDX-License-Identifier: Apache-2.0 */
/* The network device's control queue (virtio 1.3 §5.1.6.5). */
#include <errno.h>
#include <string.h>

#include "virtio/net_internal.h"

enum { ACK_OK = 0, ACK_ERR = 1 };

enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_MQ = 4, CLASS_GUEST_OFFLOADS = 5 };
enum { RX_PROMISC = 0, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { MQ_PAIRS_SET = 0 };
enum { GUEST_OFFLOADS_SET = 0 };

/* In front of each command's data. */
struct ctrl_header {
	uint8_t class;
	uint8_t command;
};
_Static_assert(sizeof(struct ctrl_header) == 2, "virtio 1.3 §5.1.6.5");

void net_filter_reset(struct net_filter *filter, const uint8_t mac[VNET_MAC_BYTES])
{
	*filter = (struct net_filter){.promisc = true};
	memcpy(filter->mac, mac, sizeof(filter->mac));
}

static bool address_in(const uint8_t macs[][VNET_MAC_BYTES], unsigned count, const uint8_t *mac)
{
	for (unsigned i = 0; i < count; i++)
		if (!memcmp(macs[i], mac, VNET_MAC_BYTES))
			return true;
	return false;
}

bool net_filter_pass(const struct net_filter *f, const uint8_t to[VNET_MAC_BYTES])
{
	static const uint8_t broadcast[VNET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (f->promisc)
		return true;
	if (!memcmp(to, broadcast, sizeof(broadcast)))
		return !f->nobcast;
	if (to[0] & 1)
		return !f->nomulti &&
		       (f->allmulti || f->multi_all || address_in(f->multi, f->multi_count, to));
	return !f->nouni && (f->alluni || f->uni_all || !memcmp(to, f->mac, VNET_MAC_BYTES) ||
				    address_in(f->uni, f->uni_count, to));
}

/* The command's data: exactly @len bytes. */
static bool data_read(const struct vq_chain *chain, void *to, size_t len)
{
	return chain->out_bytes == sizeof(struct ctrl_header) + len &&
	       vq_chain_read(chain, sizeof(struct ctrl_header), to, len) == len;
}

/* §5.1.6.5.1: switch one of the modes. */
static bool rx_command(struct vnet *net, uint8_t command, const struct vq_chain *chain)
{
	struct net_filter *f = &net->filter;
	bool *const modes[] = {
		[RX_PROMISC] = &f->promisc,
		[RX_ALLMULTI] = &f->allmulti,
		[RX_ALLUNI] = &f->alluni,
		[RX_NOMULTI] = &f->nomulti,
		[RX_NOUNI] = &f->nouni,
		[RX_NOBCAST] = &f->nobcast,
	};
	uint64_t needs = command > RX_ALLMULTI ? VNET_F_CTRL_RX_EXTRA : VNET_F_CTRL_RX;
	uint8_t on;

	if (command >= ARRAY_LEN(modes) || !(vdev_features(net->vd) & needs) ||
		!data_read(chain, &on, sizeof(on)))
		return false;
	*modes[command] = on;
	return true;
}

/*
 * One of the two tables of addresses at *@at of the chain. Returns false when it is none. With more
 * addresses than there is room for, *@all says so.
 */
static bool table_read(const struct vq_chain *chain, uint64_t *at,
	uint8_t macs[NET_MACS_MAX][VNET_MAC_BYTES], unsigned *count, bool *all)
{
	uint32_t n;

	if (vq_chain_read(chain, *at, &n, sizeof(n)) != sizeof(n))
		return false;
	*at += sizeof(n);
	if ((uint64_t)n * VNET_MAC_BYTES > chain->out_bytes - *at)
		return false;
	*all = n > NET_MACS_MAX;
	*count = *all ? 0 : n;
	vq_chain_read(chain, *at, macs, (uint64_t)*count * VNET_MAC_BYTES);
	*at += (uint64_t)n * VNET_MAC_BYTES;
	return true;
}

/* §5.1.6.5.2. */
static bool mac_table_set(struct vnet *net, const struct vq_chain *chain)
{
	struct net_filter next = net->filter;
	uint64_t at = sizeof(struct ctrl_header);

	if (!(vdev_features(net->vd) & VNET_F_CTRL_RX) ||
		!table_read(chain, &at, next.uni, &next.uni_count, &next.uni_all) ||
		!table_read(chain, &at, next.multi, &next.multi_count, &next.multi_all) ||
		at != chain->out_bytes)
		return false;
	net->filter = next;
	return true;
}

static bool mac_set(struct vnet *net, const struct vq_chain *chain)
{
	uint8_t mac[VNET_MAC_BYTES];

	if (!(vdev_features(net->vd) & VNET_F_CTRL_MAC_ADDR) || !data_read(chain, mac, sizeof(mac)))
		return false;
	memcpy(net->config.mac, mac, sizeof(mac));
	memcpy(net->filter.mac, mac, sizeof(mac));
	return true;
}

static bool pairs_set(struct vnet *net, const struct vq_chain *chain)
{
	uint16_t count;

	if (!(vdev_features(net->vd) & VNET_F_MQ) || !data_read(chain, &count, sizeof(count)) ||
		!count || count > net->pair_count || net_pairs_use(net, count) < 0)
		return false;
	if (net->p.vhost)
		return net_vhost_resume(net);
	/* Those that came have buffers already; those that went are watched no more. */
	for (unsigned i = 0; i < net->pair_count; i++) {
		if (i < count) {
			net_receive(&net->pairs[i]);
			net_send(&net->pairs[i]);
		}
		net_watch(&net->pairs[i]);
	}
	return true;
}

static bool offloads_set(struct vnet *net, const struct vq_chain *chain)
{
	uint64_t may = vdev_features(net->vd) & VNET_GUEST_OFFLOADS, offloads;

	return vdev_features(net->vd) & VNET_F_CTRL_GUEST_OFFLOADS &&
	       data_read(chain, &offloads, sizeof(offloads)) && !(offloads & ~may) &&
	       net->host->ops->offload && !net->host->ops->offload(net->host, offloads);
}

static bool command_run(struct vnet *net, const struct vq_chain *chain)
{
	struct ctrl_header header;

	if (vq_chain_read(chain, 0, &header, sizeof(header)) != sizeof(header))
		return false;
	switch (header.class) {
	case CLASS_RX:
		return rx_command(net, header.command, chain);
	case CLASS_MAC:
		if (header.command == MAC_TABLE_SET)
			return mac_table_set(net, chain);
		return header.command == MAC_ADDR_SET && mac_set(net, chain);
	case CLASS_MQ:
		return header.command == MQ_PAIRS_SET && pairs_set(net, chain);
	case CLASS_GUEST_OFFLOADS:
		return header.command == GUEST_OFFLOADS_SET && offloads_set(net, chain);
	default:
		return false;
	}
}

void net_control(struct vnet *net, unsigned index)
{
	struct vq *vq = vdev_queue(net->vd, index);
	struct vq_chain chain;
	int r = 0;

	for (unsigned i = 0; i < NET_QUEUE_SIZE && (r = vq_pop(vq, &chain)) > 0; i++) {
		uint8_t ack;

		if (!chain.in_bytes) {
			r = -EPROTO;
			break;
		}
		ack = command_run(net, &chain) ? ACK_OK : ACK_ERR;
		vq_chain_write(&chain, 0, &ack, sizeof(ack));
		vq_push(vq, &chain, sizeof(ack));
	}
	if (r < 0)
		vdev_broken(net->vd, index);
	else if (r > 0)
		vdev_kick(net->vd, index);
	vdev_notify(net->vd, index);
}
