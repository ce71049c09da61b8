/* SPDX-License-Identifier: Apache-2.0 */
/* The network device's packets, from and to the host. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "virtio/net_internal.h"

/* Packets received in a row; then other devices have their turn. */
#define RECEIVE_BATCH 64

/* Buffers handed to the host at once, beside the one behind them. */
#define IOV_MAX_HOST 1022

static struct vq_chain *chain_at(const struct net_pair *pair, unsigned i)
{
	return &pair->chains[pair->chain_first + i];
}

/* A packet was received that the driver does not have yet. */
static bool packet_held(const struct net_pair *pair)
{
	return pair->held_bytes || pair->rest_bytes;
}

static void chains_drop(struct net_pair *pair)
{
	struct vq *vq = vdev_queue(pair->net->vd, NET_RX(pair->index));

	while (pair->chain_count)
		vq_unpop(vq, chain_at(pair, --pair->chain_count));
	pair->chain_first = 0;
	pair->chain_bytes = 0;
}

void net_forget(struct net_pair *pair)
{
	/* A pair that is only not used for now finds its buffers when it is used again. */
	chains_drop(pair);
	pair->held_bytes = pair->rest_bytes = pair->rest_at = 0;
	pair->starved = pair->send_blocked = pair->send_paid = false;
}

void net_give_back(struct net_pair *pair)
{
	uint64_t at = 0;

	if (!pair->chain_count)
		return;
	/* Behind the packet's bytes that are in the chains, and go in front of the others. */
	memmove(pair->rest + pair->held_bytes, pair->rest + pair->rest_at, pair->rest_bytes);
	for (unsigned i = 0; at < pair->held_bytes; i++) {
		const struct vq_chain *chain = chain_at(pair, i);

		at += vq_iov_read(chain->iov + chain->out_count, chain->in_count, 0,
			pair->rest + at, pair->held_bytes - at);
	}
	pair->rest_bytes += pair->held_bytes;
	pair->held_bytes = pair->rest_at = 0;
	chains_drop(pair);
	vdev_kick(pair->net->vd, NET_RX(pair->index));
}

/* Room for the largest packet that may come: more need not be looked at yet. */
static uint64_t bytes_wanted(const struct vnet *net)
{
	if (vdev_features(net->vd) & VNET_GUEST_TSO || net->config.mtu > 1500)
		return VNET_PACKET_MAX;
	return sizeof(struct vnet_header) + VNET_ETH_BYTES + 4 + 1500;
}

/*
 * Take chains until there are @bytes of room, or no more.
 * Returns 0 or -EPROTO when the driver broke the rules.
 */
static int chains_take(struct net_pair *pair, struct vq *vq, uint64_t bytes)
{
	while (pair->chain_bytes < bytes && pair->chain_count < NET_QUEUE_SIZE) {
		struct vq_chain *chain;
		int r;

		if (pair->chain_first + pair->chain_count == NET_QUEUE_SIZE) {
			memmove(pair->chains, chain_at(pair, 0),
				pair->chain_count * sizeof(*pair->chains));
			pair->chain_first = 0;
		}
		chain = chain_at(pair, pair->chain_count);
		r = vq_pop(vq, chain);
		if (r <= 0)
			return r;
		/* §5.1.6.3.1: each buffer has room for a header. */
		if (chain->in_bytes < sizeof(struct vnet_header))
			return -EPROTO;
		pair->chain_count++;
		pair->chain_bytes += chain->in_bytes;
	}
	return 0;
}

static bool mergeable(const struct vnet *net)
{
	return vdev_features(net->vd) & VNET_F_MRG_RXBUF;
}

/* So many chains one packet may have. */
static unsigned chains_max(const struct net_pair *pair, const struct vq *vq)
{
	return mergeable(pair->net) ? vq_size(vq) : 1;
}

/* The buffers of as many chains as go at once, and their room. Returns how many buffers. */
static unsigned iov_collect(
	const struct net_pair *pair, struct iovec iov[IOV_MAX_HOST], uint64_t *room)
{
	unsigned chains = mergeable(pair->net) ? pair->chain_count : 1, count = 0;

	*room = 0;
	for (unsigned i = 0; i < chains; i++) {
		const struct vq_chain *chain = chain_at(pair, i);

		if (chain->in_count > IOV_MAX_HOST - count)
			break;
		memcpy(iov + count, chain->iov + chain->out_count, chain->in_count * sizeof(*iov));
		count += chain->in_count;
		*room += chain->in_bytes;
	}
	return count;
}

/*
 * Have the host fill the chains, and what is behind them.
 * Returns 1: a packet came, which is held, unless it is not for the driver; 0: there is none;
 * -errno: there will be none any more.
 */
static int packet_fetch(struct net_pair *pair)
{
	struct vnet *net = pair->net;
	struct iovec iov[IOV_MAX_HOST + 1];
	uint8_t to[VNET_MAC_BYTES] = {0};
	uint64_t room;
	unsigned count = iov_collect(pair, iov, &room);
	ssize_t n;

	iov[count++] = (struct iovec){.iov_base = pair->rest, .iov_len = VNET_PACKET_MAX};
	n = net->host->ops->recv(net->host, pair->index, iov, count);
	if (n <= 0)
		return (int)n;
	/* Too short for a frame, too long for any packet, or for a driver that takes one buffer. */
	if ((size_t)n < sizeof(struct vnet_header) + VNET_ETH_BYTES ||
		(size_t)n > VNET_PACKET_MAX || ((size_t)n > room && !mergeable(net)))
		return 1;
	vq_iov_read(iov, count, sizeof(struct vnet_header), to, sizeof(to));
	if (!net_filter_pass(&net->filter, to))
		return 1;
	pair->held_bytes = (uint64_t)n < room ? (uint64_t)n : room;
	pair->rest_bytes = (uint64_t)n - pair->held_bytes;
	pair->rest_at = 0;
	return 1;
}

/*
 * Move what is behind the chains of the held packet into further ones, as far as there are any and
 * it may have them.
 */
static void rest_move(struct net_pair *pair, unsigned chains)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < pair->chain_count && i < chains && pair->rest_bytes; i++) {
		const struct vq_chain *chain = chain_at(pair, i);
		uint64_t n = 0;

		if (at + chain->in_bytes > pair->held_bytes)
			n = vq_chain_write(chain, pair->held_bytes - at, pair->rest + pair->rest_at,
				pair->rest_bytes);
		at += chain->in_bytes;
		pair->held_bytes += n;
		pair->rest_bytes -= n;
		pair->rest_at += n;
	}
}

/* Hand the held packet to the driver; all of it is in the chains. */
static void packet_push(struct net_pair *pair, struct vq *vq)
{
	const struct vq_chain *first = chain_at(pair, 0);
	uint32_t written[NET_QUEUE_SIZE];
	uint16_t count = 0;

	while (pair->held_bytes) {
		uint64_t room = chain_at(pair, count)->in_bytes;

		written[count] = (uint32_t)(pair->held_bytes < room ? pair->held_bytes : room);
		pair->held_bytes -= written[count++];
		pair->chain_bytes -= room;
	}
	/* §5.1.6.4.1: 1 where buffers are not merged. */
	vq_chain_write(first, offsetof(struct vnet_header, num_buffers), &count, sizeof(count));
	vq_push_all(vq, first, written, count);
	pair->chain_first += count;
	pair->chain_count -= count;
}

/* Returns true when there are buffers after all. */
static bool starve(struct net_pair *pair, struct vq *vq)
{
	pair->starved = !vq_kicks(vq, true);
	return !pair->starved;
}

/*
 * Go on with the packet that is held, or get one.
 * Returns 1 when there may be more to do; 0; -EPROTO: the driver broke the rules; another -errno:
 * the host's side is lost.
 */
static int packet_receive(struct net_pair *pair, struct vq *vq)
{
	unsigned chains = chains_max(pair, vq);
	int r = chains_take(pair, vq, bytes_wanted(pair->net));

	if (r < 0)
		return r;
	if (!packet_held(pair)) {
		if (!pair->chain_count)
			return starve(pair, vq);
		r = packet_fetch(pair);
		if (r <= 0 || !packet_held(pair))
			return r;
	}
	rest_move(pair, chains);
	if (pair->rest_bytes) {
		r = chains_take(pair, vq, pair->chain_bytes + pair->rest_bytes);
		rest_move(pair, chains);
	}
	if (r < 0)
		return r;
	if (pair->rest_bytes && pair->chain_count < chains)
		return starve(pair, vq);
	if (pair->rest_bytes) {
		/* All the buffers that it can have are not enough for it. */
		pair->held_bytes = pair->rest_bytes = 0;
		return 1;
	}
	if (!limit_take(&pair->net->rx, NET_RX(pair->index),
		    pair->held_bytes - sizeof(struct vnet_header)))
		return 0;
	packet_push(pair, vq);
	return 1;
}

void net_receive(struct net_pair *pair)
{
	struct vnet *net = pair->net;
	unsigned index = NET_RX(pair->index);
	struct vq *vq = vdev_queue(net->vd, index);
	int r = 1;

	if (net->gone || !vdev_serving(net->vd, index))
		return;
	/* While there are buffers, the driver need not tell of more. */
	pair->starved = false;
	vq_kicks(vq, false);
	for (unsigned i = 0; r > 0 && i < RECEIVE_BATCH; i++)
		r = packet_receive(pair, vq);
	if (r > 0)
		vdev_kick(net->vd, index);
	if (r == -EPROTO)
		vdev_broken(net->vd, index);
	else if (r < 0)
		net_host_lost(net, r);
	vdev_notify(net->vd, index);
}

/*
 * Send one packet, or drop it where it can never go. Returns false when it has to wait, for the
 * limit or the host.
 */
static bool packet_send(struct net_pair *pair, const struct vq_chain *chain)
{
	struct vnet *net = pair->net;
	struct vnet_host *host = net->host;

	if (net->gone || chain->out_bytes > VNET_PACKET_MAX)
		return true;
	if (!pair->send_paid && !limit_take(&net->tx, NET_TX(pair->index),
					chain->out_bytes - sizeof(struct vnet_header)))
		return false;
	pair->send_blocked = !host->ops->send(host, pair->index, chain->iov, chain->out_count);
	pair->send_paid = pair->send_blocked;
	return !pair->send_blocked;
}

void net_send(struct net_pair *pair)
{
	struct vnet *net = pair->net;
	unsigned index = NET_TX(pair->index);
	struct vq *vq = vdev_queue(net->vd, index);
	struct vq_chain chain;
	bool waits = false;
	unsigned sent = 0;
	int r = 0;

	pair->send_blocked = false;
	if (!vdev_serving(net->vd, index) || limit_holds(&net->tx, index))
		return;
	vq_kicks(vq, false);
	for (; sent < NET_QUEUE_SIZE && (r = vq_pop(vq, &chain)) > 0; sent++) {
		if (chain.out_bytes < sizeof(struct vnet_header)) {
			r = -EPROTO;
			break;
		}
		waits = !packet_send(pair, &chain);
		if (waits) {
			vq_unpop(vq, &chain);
			break;
		}
		vq_push(vq, &chain, 0);
	}
	if (r < 0)
		vdev_broken(net->vd, index);
	/* Where there were some, more may come soon: a look is cheaper than a kick. */
	else if (!waits && (sent || vq_kicks(vq, true)))
		vdev_kick(net->vd, index);
	vdev_notify(net->vd, index);
}

/* The host's descriptor can be read or written, or is of no use any more. */
static void host_ready(void *ctx, uint32_t events)
{
	struct net_pair *pair = ctx;
	struct vnet *net = pair->net;
	struct vnet_host *host = net->host;

	vdev_lock(net->vd);
	if (!net->gone && pair->index < net->pairs_on) {
		/* The end is told whether one asks for it or not, so it cannot wait. */
		if (events & (EPOLLHUP | EPOLLERR) && !(pair->events & EPOLLIN))
			net_host_lost(net, -EPIPE);
		if (events & EPOLLOUT && host->pending)
			host->ops->flush(host);
		if (events & EPOLLOUT)
			net_send(pair);
		if (events & ~(uint32_t)EPOLLOUT)
			net_receive(pair);
	}
	net_watch(pair);
	vdev_unlock(net->vd);
}

void net_watch(struct net_pair *pair)
{
	struct vnet *net = pair->net;
	struct vnet_host *host = net->host;
	uint32_t events = 0;
	int r = 0;

	if (net->gone || pair->index >= net->pairs_on) {
		loop_remove(pair->source);
		pair->source = NULL;
		pair->events = 0;
		return;
	}
	if (vdev_serving(net->vd, NET_RX(pair->index)) && !pair->starved && !packet_held(pair))
		events |= EPOLLIN;
	if (host->pending || (pair->send_blocked && vdev_serving(net->vd, NET_TX(pair->index))))
		events |= EPOLLOUT;
	if (!pair->source)
		r = loop_add_fd(net->p.loop, host->fds[pair->index], events, host_ready, pair,
			&pair->source);
	else if (events != pair->events)
		r = loop_mod_fd(pair->source, events);
	pair->events = events;
	if (r < 0)
		net_host_lost(net, r);
}
