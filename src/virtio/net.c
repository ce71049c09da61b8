/* SPDX-License-Identifier: Apache-2.0 */
/* Network device (virtio 1.3 §5.1): set-up, configuration and reset. */
#include "virtio/net.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net_internal.h"

#define DEVICE_ID      1
#define STATUS_LINK_UP 1

void vnet_host_close(struct vnet_host *host)
{
	if (host)
		host->ops->close(host);
}

int net_pairs_use(struct vnet *net, unsigned count)
{
	int r = net->host->ops->pairs ? net->host->ops->pairs(net->host, count) : 0;

	if (r < 0)
		return r;
	if (net->p.vhost)
		net_vhost_pause(net->p.vhost, count);
	for (unsigned i = count; i < net->pair_count; i++)
		net_forget(&net->pairs[i]);
	net->pairs_on = count;
	return 0;
}

void net_host_lost(struct vnet *net, int why)
{
	if (net->gone)
		return;
	net->gone = true;
	if (net->p.vhost)
		net_vhost_pause(net->p.vhost, 0);
	net->config.status = 0;
	log_msg(net->p.log, LOG_LEVEL_WARN, "%s: the host's side is gone (%s): the link is down",
		net->name, err_text(why));
	vdev_config_changed(net->vd);
}

static int net_activate(void *dev)
{
	struct vnet *net = dev;
	uint64_t offloads = vdev_features(net->vd) & VNET_GUEST_OFFLOADS;
	int r = net->host->ops->offload ? net->host->ops->offload(net->host, offloads) : 0;

	return !r && net->p.vhost ? net_vhost_activate(net->p.vhost) : r;
}

static void net_reset(void *dev)
{
	struct vnet *net = dev;

	for (unsigned i = 0; net->p.vhost && i < 2 * net->pair_count; i++)
		net_vhost_stop(net->p.vhost, i);
	for (unsigned i = 0; i < net->pair_count; i++)
		net_forget(&net->pairs[i]);
	/* What was possible before is possible again. */
	net_pairs_use(net, 1);
	if (net->host->ops->offload)
		net->host->ops->offload(net->host, 0);
	limit_reset(&net->rx);
	limit_reset(&net->tx);
	memcpy(net->config.mac, net->p.mac, sizeof(net->config.mac));
	net_filter_reset(&net->filter, net->config.mac);
}

static void net_queue_stop(void *dev, unsigned index)
{
	struct vnet *net = dev;

	if (net->p.vhost && index / 2 < net->pair_count)
		net_vhost_stop(net->p.vhost, index);
	if (index / 2 < net->pair_count && index % 2 == NET_RX(0))
		net_forget(&net->pairs[index / 2]);
}

static void net_kick(void *dev, unsigned index)
{
	struct vnet *net = dev;
	unsigned pairs = vdev_features(net->vd) & VNET_F_MQ ? net->pair_count : 1;

	/* §5.1.2: the control queue is behind the pairs that the driver knows of. */
	if (index == 2 * pairs)
		net_control(net, index);
	if (index / 2 >= net->pairs_on || net->p.vhost)
		return;
	if (index % 2 == NET_RX(0))
		net_receive(&net->pairs[index / 2]);
	else
		net_send(&net->pairs[index / 2]);
	net_watch(&net->pairs[index / 2]);
}

bool net_vhost_resume(struct vnet *net)
{
	int r = net_vhost_run(net->p.vhost);

	if (r < 0)
		net_host_lost(net, r);
	return !r;
}

static void net_pause(void *dev, bool on)
{
	struct vnet *net = dev;

	if (net->p.vhost && on)
		net_vhost_pause(net->p.vhost, 0);
	else if (net->p.vhost)
		net_vhost_resume(net);
}

static void net_memory_changed(void *dev)
{
	struct vnet *net = dev;

	for (unsigned i = 0; i < net->pair_count; i++)
		net_give_back(&net->pairs[i]);
}

static void net_config_read(void *dev, uint32_t offset, void *data, uint32_t len)
{
	struct vnet *net = dev;

	memcpy(data, (const uint8_t *)&net->config + offset, len);
}

static const struct vdev_ops net_ops = {
	.name = "virtio-net",
	.device_id = DEVICE_ID,
	.config_bytes = sizeof(struct net_config),
	.activate = net_activate,
	.reset = net_reset,
	.queue_stop = net_queue_stop,
	.kick = net_kick,
	.pause = net_pause,
	.memory_changed = net_memory_changed,
	.config_read = net_config_read,
};

static int pairs_make(struct vnet *net)
{
	for (unsigned i = 0; i < net->pair_count; i++) {
		struct net_pair *pair = &net->pairs[i];

		pair->net = net;
		pair->index = i;
		pair->chains = calloc(NET_QUEUE_SIZE, sizeof(*pair->chains));
		pair->rest = malloc(VNET_PACKET_MAX);
		if (!pair->chains || !pair->rest)
			return -ENOMEM;
	}
	return 0;
}

static int core_make(struct vnet *net)
{
	struct vdev_params vd = {
		.ops = &net_ops,
		.dev = net,
		.features = VDEV_F_QUEUES | net->host->features | VNET_F_MAC | VNET_F_STATUS |
			    VNET_F_MRG_RXBUF | VNET_F_CTRL_VQ | VNET_F_CTRL_RX |
			    VNET_F_CTRL_RX_EXTRA | VNET_F_CTRL_MAC_ADDR,
		.queue_count = 2 * net->pair_count + 1,
		.queue_size = NET_QUEUE_SIZE,
		.gm = net->p.gm,
		.loop = net->p.loop,
		.log = net->p.log,
	};

	if (net->p.vhost)
		vd.features &= ~VDEV_F_QUEUES | net_vhost_features(net->p.vhost);
	if (net->p.mtu)
		vd.features |= VNET_F_MTU;
	if (net->pair_count > 1)
		vd.features |= VNET_F_MQ;
	if (net->host->features & VNET_GUEST_OFFLOADS)
		vd.features |= VNET_F_CTRL_GUEST_OFFLOADS;
	return vdev_create(&net->vd, &vd);
}

int vnet_create(struct vnet **ret, const struct vnet_params *params, struct vnet_host *host)
{
	struct vnet *net = calloc(1, sizeof(*net) + host->pair_count * sizeof(net->pairs[0]));
	int r;

	if (!net)
		return -ENOMEM;
	net->p = *params;
	snprintf(net->name, sizeof(net->name), "%s", params->name);
	net->host = host;
	net->pair_count = host->pair_count;
	net->pairs_on = 1;
	net->config = (struct net_config){
		.status = STATUS_LINK_UP,
		.pairs = (uint16_t)host->pair_count,
		.mtu = params->mtu,
	};
	memcpy(net->config.mac, params->mac, sizeof(net->config.mac));
	net_filter_reset(&net->filter, params->mac);
	r = pairs_make(net);
	if (!r)
		r = core_make(net);
	if (!r)
		r = limit_init(&net->rx, net->vd, params->loop, &params->rx);
	if (!r)
		r = limit_init(&net->tx, net->vd, params->loop, &params->tx);
	if (!r && net->p.vhost)
		r = net_vhost_attach(net->p.vhost, net);
	if (r < 0) {
		/* The host side stays the caller's. */
		if (net->p.vhost)
			net_vhost_detach(net->p.vhost);
		net->host = NULL;
		net->p.vhost = NULL;
		vnet_destroy(net);
		return r;
	}
	*ret = net;
	return 0;
}

void vnet_destroy(struct vnet *net)
{
	if (!net)
		return;
	limit_free(&net->rx);
	limit_free(&net->tx);
	vdev_destroy(net->vd);
	if (net->p.vhost)
		net_vhost_detach(net->p.vhost);
	vnet_vhost_close(net->p.vhost);
	for (unsigned i = 0; i < net->pair_count; i++) {
		loop_remove(net->pairs[i].source);
		free(net->pairs[i].chains);
		free(net->pairs[i].rest);
	}
	vnet_host_close(net->host);
	free(net);
}

struct vdev *vnet_vdev(struct vnet *net)
{
	return net->vd;
}
