/* SPDX-License-Identifier: Apache-2.0 */
/* Network devices on the board, and their host sides. */
#include "virtio/net.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "machine/internal.h"

static void net_free(void *dev)
{
	vnet_destroy(dev);
}

/* Returns 0 or -errno with a sentence. */
static int host_open(
	struct vnet_host **ret, const struct vm_net *net, uint16_t mtu, struct kv_err *err)
{
	struct vnet_user_params user = {
		.forwards = net->forwards,
		.forward_count = net->forward_count,
		.mtu = mtu,
	};

	switch (net->kind) {
	case VM_NET_TAP:
		return vnet_tap_open(ret, net->tap, net->queues, err);
	case VM_NET_FD:
		return vnet_fd_open(ret, net->fd, err);
	case VM_NET_USER:
		return vnet_user_open(ret, &user, err);
	case VM_NET_NONE:
		break;
	}
	return err_set(err, -EINVAL, "the host's side is missing");
}

static bool limited(const struct limit_rates *rates)
{
	return rates->bytes.size || rates->ops.size;
}

/* It is asked for, or nothing in the configuration is against it. */
static bool vhost_wanted(const struct vm_net *net)
{
	if (net->vhost != VM_NET_VHOST_AUTO)
		return net->vhost == VM_NET_VHOST_ON;
	return net->kind != VM_NET_USER && !limited(&net->rx) && !limited(&net->tx);
}

bool machine_vhost_wanted(const struct machine *m, bool *must)
{
	const struct vm_config *config = m->p.config;
	bool wanted = false;

	*must = false;
	for (unsigned i = 0; i < config->net_count; i++) {
		wanted |= vhost_wanted(&config->nets[i]);
		*must |= config->nets[i].vhost == VM_NET_VHOST_ON;
	}
	return *must || (wanted && vnet_vhost_usable());
}

/* Returns 0, *@ret stays NULL where it is not to be; -errno with a sentence. */
static int vhost_open(
	struct vnet_vhost **ret, struct machine *m, const struct vm_net *net, struct kv_err *err)
{
	bool must = net->vhost == VM_NET_VHOST_ON;
	int r;

	if (!vhost_wanted(net) || (!must && m->vhost_barred))
		return 0;
	r = vnet_vhost_open(ret, m->gm, net->queues, err);
	return must ? r : 0;
}

/* An address that nobody else has, most likely: of one interface, locally administered. */
static int mac_make(uint8_t mac[VNET_MAC_BYTES])
{
	if (getrandom(mac, VNET_MAC_BYTES, 0) != VNET_MAC_BYTES)
		return -errno;
	mac[0] = (uint8_t)((mac[0] & 0xfc) | 2);
	return 0;
}

int machine_add_net(struct machine *m, const struct vm_net *net, struct kv_err *err)
{
	struct vnet_params params = {
		.gm = m->gm,
		.log = m->p.log,
		.name = net->id,
		.mtu = net->mtu,
		.rx = net->rx,
		.tx = net->tx,
	};
	struct vnet_host *host = NULL;
	struct vnet *dev = NULL;
	int r;

	/* Without segmentation by the host, large packets are what makes it fast. */
	if (net->kind == VM_NET_USER && !params.mtu)
		params.mtu = VNET_USER_MTU;
	memcpy(params.mac, net->mac, sizeof(params.mac));
	r = net->mac_set ? 0 : mac_make(params.mac);
	if (r < 0)
		return err_set(err, r, "net %s: no random MAC address: %s", net->id, err_text(r));
	r = machine_loop_for(m, net->iothread, net->id, &params.loop, err);
	if (!r)
		r = host_open(&host, net, params.mtu, err);
	if (!r)
		r = vhost_open(&params.vhost, m, net, err);
	if (r < 0) {
		vnet_host_close(host);
		return err_prefix(err, r, "net %s", net->id);
	}
	r = vnet_create(&dev, &params, host);
	if (r < 0) {
		vnet_vhost_close(params.vhost);
		vnet_host_close(host);
		return err_set(err, r, "net %s: %s", net->id, err_text(r));
	}
	r = machine_virtio_add(m, vnet_vdev(dev), dev, net_free);
	if (r < 0) {
		vnet_destroy(dev);
		return err_set(err, r, "net %s: %s", net->id, err_text(r));
	}
	return 0;
}
