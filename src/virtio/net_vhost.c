/* SPDX-License-Identifier: Apache-2.0 */
/* A tap's packets moved by the kernel: vhost-net takes the queues with packets over. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/vhost.h>
#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "gmem/hot.h"
#include "virtio/net_internal.h"

#define VHOST_PATH   "/dev/vhost-net"
#define REGIONS_PATH "/sys/module/vhost/parameters/max_mem_regions"
/* More than there are: all that gmem may tell of. */
#define PIECES_MAX (GMEM_REGIONS_MAX + GMEM_WINDOWS_MAX)
/* Of one that the kernel has for two queues. */
#define RINGS 2

/* A table that the kernel had no room for. */
#define TRY_NS	  100000000
#define TRIES_MAX 50

#define NEEDED (VDEV_F_VERSION_1 | VNET_F_MRG_RXBUF)

struct ring {
	struct vnet_vhost *vhost; /* [c] */
	unsigned index;		  /* [c] of the queue */
	int call_fd, error_fd;	  /* [c] */
	struct loop_source *call, *error;
	bool on;       /* the kernel works on it */
	uint16_t base; /* where it goes on */
};

struct vnet_vhost {
	struct gmem *gm;	   /* [c] NULL: it has not listened yet */
	struct vnet *net;	   /* [c] once attached */
	uint64_t features;	   /* [c] of the kernel's */
	unsigned pair_count;	   /* [c] */
	int fds[VNET_PAIRS_MAX];   /* [c] one for each pair */
	int link_fd;		   /* [c] tells of interfaces that go; -1: nobody does */
	struct loop_source *links; /* [l] */
	struct loop_source *again; /* [c] once attached; timer: the table is to be tried again */
	unsigned tries;		   /* [l] in a row that failed */
	/* Taken inside the lock of any device, since memory devices come here too. Guards all
	 * below. */
	pthread_mutex_t lock;
	struct ring rings[RINGS * VNET_PAIRS_MAX];
	bool stale;		    /* the kernel may have another table than this */
	struct vhost_memory *table; /* [c] the pointer; room for PIECES_MAX */
};

static unsigned ring_count(const struct vnet_vhost *vhost)
{
	return RINGS * vhost->pair_count;
}

/* Ask the kernel's half that has queue @index for something. Returns 0 or -errno. */
static int vhost_set(
	const struct vnet_vhost *vhost, unsigned index, unsigned long request, const void *arg)
{
	return ioctl(vhost->fds[index / RINGS], request, arg) < 0 ? -errno : 0;
}

/* Stop the kernel's work on @ring, and see how far it came. Called with the lock. */
static void ring_stop(struct vnet_vhost *vhost, struct ring *ring)
{
	struct vhost_vring_file none = {.index = ring->index % RINGS, .fd = -1};
	struct vhost_vring_state state = {.index = ring->index % RINGS};

	if (!ring->on)
		return;
	vhost_set(vhost, ring->index, VHOST_NET_SET_BACKEND, &none);
	if (!vhost_set(vhost, ring->index, VHOST_GET_VRING_BASE, &state))
		ring->base = (uint16_t)state.num;
	ring->on = false;
}

static void rings_stop(struct vnet_vhost *vhost, unsigned first)
{
	for (unsigned i = first; i < ring_count(vhost); i++)
		ring_stop(vhost, &vhost->rings[i]);
}

/* Have the kernel work on @ring. Returns 0 or -errno. Called with the lock. */
static int ring_start(struct vnet_vhost *vhost, struct ring *ring)
{
	struct vdev *vd = vhost->net->vd;
	unsigned index = ring->index % RINGS;
	struct vq_ring at = vq_ring(vdev_queue(vd, ring->index));
	struct vhost_vring_state size = {.index = index, .num = at.size};
	struct vhost_vring_state base = {.index = index, .num = ring->base};
	struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = (uintptr_t)at.desc,
		.avail_user_addr = (uintptr_t)at.driver,
		.used_user_addr = (uintptr_t)at.device,
	};
	struct vhost_vring_file kick = {.index = index, .fd = vdev_kick_fd(vd, ring->index)};
	struct vhost_vring_file call = {.index = index, .fd = ring->call_fd};
	struct vhost_vring_file error = {.index = index, .fd = ring->error_fd};
	struct vhost_vring_file tap = {
		.index = index, .fd = vhost->net->host->fds[ring->index / RINGS]};
	const struct {
		unsigned long request;
		const void *arg;
	} steps[] = {
		{VHOST_SET_VRING_NUM, &size},
		{VHOST_SET_VRING_BASE, &base},
		{VHOST_SET_VRING_ADDR, &addr},
		{VHOST_SET_VRING_KICK, &kick},
		{VHOST_SET_VRING_CALL, &call},
		{VHOST_SET_VRING_ERR, &error},
		{VHOST_NET_SET_BACKEND, &tap},
	};

	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		int r = vhost_set(vhost, ring->index, steps[i].request, steps[i].arg);

		if (r < 0)
			return r;
	}
	ring->on = true;
	return 0;
}

/* Tell the kernel of all memory. Returns 0 or -errno. Called with the lock. */
static int table_set(struct vnet_vhost *vhost)
{
	int r = 0;

	for (unsigned i = 0; !r && i < vhost->pair_count; i++)
		r = vhost_set(vhost, RINGS * i, VHOST_SET_MEM_TABLE, vhost->table);
	vhost->stale = r < 0;
	return r;
}

/* Have the kernel work on the queues of @pair that run. Returns 0 or -errno. With the lock. */
static int pair_start(struct vnet_vhost *vhost, unsigned pair)
{
	struct vdev *vd = vhost->net->vd;
	struct ring *rings = &vhost->rings[RINGS * pair];
	uint64_t features = vdev_features(vd) & vhost->features;
	int r = 0;

	if (!rings[0].on && !rings[1].on)
		r = vhost_set(vhost, RINGS * pair, VHOST_SET_FEATURES, &features);
	for (unsigned i = 0; !r && i < RINGS; i++)
		if (!rings[i].on && vdev_serving(vd, RINGS * pair + i))
			r = ring_start(vhost, &rings[i]);
	return r;
}

/* The kernel had no room for the table: its queues stop, until it is asked again. With the lock. */
static void table_lost(struct vnet_vhost *vhost)
{
	rings_stop(vhost, 0);
	if (vhost->again)
		loop_set_timer(vhost->again, TRY_NS);
}

int net_vhost_run(struct vnet_vhost *vhost)
{
	struct vnet *net = vhost->net;
	int r = 0;

	if (net->gone)
		return 0;
	pthread_mutex_lock(&vhost->lock);
	if (vhost->stale && table_set(vhost) < 0) {
		table_lost(vhost);
	} else {
		for (unsigned i = 0; !r && i < net->pairs_on; i++)
			r = pair_start(vhost, i);
		if (r < 0)
			rings_stop(vhost, 0);
	}
	pthread_mutex_unlock(&vhost->lock);
	return r;
}

int net_vhost_activate(struct vnet_vhost *vhost)
{
	struct vdev *vd = vhost->net->vd;
	/* §5.1.2: behind them is the control queue, which stays the device's. */
	unsigned count = vdev_features(vd) & VNET_F_MQ ? ring_count(vhost) : RINGS;
	int r = 0;

	for (unsigned i = 0; !r && i < ring_count(vhost); i++)
		r = vdev_queue_watch(vd, i, i >= count);
	if (!r)
		r = net_vhost_run(vhost);
	/* No reset follows for a device that did not become active. */
	for (unsigned i = 0; r < 0 && i < ring_count(vhost); i++)
		net_vhost_stop(vhost, i);
	return r;
}

void net_vhost_pause(struct vnet_vhost *vhost, unsigned first)
{
	pthread_mutex_lock(&vhost->lock);
	rings_stop(vhost, RINGS * first);
	pthread_mutex_unlock(&vhost->lock);
}

void net_vhost_stop(struct vnet_vhost *vhost, unsigned index)
{
	pthread_mutex_lock(&vhost->lock);
	ring_stop(vhost, &vhost->rings[index]);
	vhost->rings[index].base = 0;
	pthread_mutex_unlock(&vhost->lock);
}

/* The kernel has used buffers of the driver. */
static void ring_called(void *ctx, uint32_t events)
{
	struct ring *ring = ctx;
	struct vdev *vd = ring->vhost->net->vd;
	uint64_t count;

	if (read(ring->call_fd, &count, sizeof(count)) != sizeof(count))
		return;
	vdev_lock(vd);
	if (vdev_serving(vd, ring->index))
		vdev_interrupt(vd, ring->index);
	vdev_unlock(vd);
}

/* Whether the tap is not there any more; the guest is told. Called with the device's lock. */
static bool tap_went(struct vnet *net)
{
	struct ifreq ifr;

	if (!net->gone && ioctl(net->host->fds[0], TUNGETIFF, &ifr) < 0)
		net_host_lost(net, -errno);
	return net->gone;
}

/*
 * The kernel has found something against the rules, and does nothing more; or it cannot send, for
 * the tap went.
 */
static void ring_failed(void *ctx, uint32_t events)
{
	struct ring *ring = ctx;
	struct vdev *vd = ring->vhost->net->vd;
	uint64_t count;

	if (read(ring->error_fd, &count, sizeof(count)) != sizeof(count))
		return;
	vdev_lock(vd);
	if (vdev_serving(vd, ring->index) && !tap_went(ring->vhost->net))
		vdev_broken(vd, ring->index);
	vdev_unlock(vd);
}

/*
 * Something happened to an interface, and the kernel does not say that vhost's tap is the one that
 * went: to a guest that only waits for packets none come any more.
 */
static void links_changed(void *ctx, uint32_t events)
{
	struct vnet_vhost *vhost = ctx;
	struct vnet *net = vhost->net;
	char message[8192];

	/* Messages that were too many are as good as one. */
	while (recv(vhost->link_fd, message, sizeof(message), MSG_DONTWAIT) > 0 || errno == ENOBUFS)
		;
	vdev_lock(net->vd);
	tap_went(net);
	vdev_unlock(net->vd);
}

/* A shortage may pass, so the kernel is asked again and again, but not for ever. */
static void table_due(void *ctx, uint32_t events)
{
	struct vnet_vhost *vhost = ctx;
	struct vnet *net = vhost->net;
	bool stale;
	int r;

	vdev_lock(net->vd);
	r = net_vhost_run(vhost);
	pthread_mutex_lock(&vhost->lock);
	stale = vhost->stale;
	pthread_mutex_unlock(&vhost->lock);
	vhost->tries = stale ? vhost->tries + 1 : 0;
	if (r < 0 || vhost->tries == TRIES_MAX)
		net_host_lost(net, r < 0 ? r : -ENOMEM);
	vdev_unlock(net->vd);
}

/*
 * Give the tap a limit of what it has yet to send, however large: without one vhost gathers packets
 * itself, and when a driver offers one that is none (shorter than its header, say) it looks at it
 * for ever, on a CPU of the host (handle_tx_copy() of Linux 6.12). With one the tap refuses the
 * packet, and vhost goes on to the next.
 */
static int send_room_set(struct vnet_host *host)
{
	int bytes = INT_MAX - 1;

	for (unsigned i = 0; i < host->pair_count; i++)
		if (ioctl(host->fds[i], TUNSETSNDBUF, &bytes) < 0)
			return -errno;
	return 0;
}

int net_vhost_attach(struct vnet_vhost *vhost, struct vnet *net)
{
	int r = 0;

	vhost->net = net;
	r = send_room_set(net->host);
	if (!r)
		r = loop_add_timer(net->p.loop, table_due, vhost, &vhost->again);
	if (!r && vhost->link_fd >= 0)
		r = loop_add_fd(
			net->p.loop, vhost->link_fd, EPOLLIN, links_changed, vhost, &vhost->links);
	for (unsigned i = 0; !r && i < ring_count(vhost); i++) {
		struct ring *ring = &vhost->rings[i];

		r = loop_add_fd(
			net->p.loop, ring->call_fd, EPOLLIN, ring_called, ring, &ring->call);
		if (!r)
			r = loop_add_fd(net->p.loop, ring->error_fd, EPOLLIN, ring_failed, ring,
				&ring->error);
	}
	return r;
}

void net_vhost_detach(struct vnet_vhost *vhost)
{
	for (unsigned i = 0; i < ring_count(vhost); i++) {
		loop_remove(vhost->rings[i].call);
		loop_remove(vhost->rings[i].error);
		vhost->rings[i].call = vhost->rings[i].error = NULL;
	}
	loop_remove(vhost->links);
	loop_remove(vhost->again);
	vhost->links = vhost->again = NULL;
}

uint64_t net_vhost_features(const struct vnet_vhost *vhost)
{
	return vhost->features;
}

static int memory_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct vnet_vhost *vhost = ctx;
	uint32_t *count = &vhost->table->nregions;
	int r = -ENOSPC;

	pthread_mutex_lock(&vhost->lock);
	if (*count < PIECES_MAX) {
		vhost->table->regions[(*count)++] = (struct vhost_memory_region){
			.guest_phys_addr = gpa,
			.memory_size = bytes,
			.userspace_addr = (uintptr_t)host,
		};
		r = table_set(vhost);
		if (r < 0) {
			--*count;
			/* Some pairs may have taken what another refused. */
			if (table_set(vhost) < 0)
				table_lost(vhost);
		}
	}
	pthread_mutex_unlock(&vhost->lock);
	return r;
}

static void memory_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	struct vnet_vhost *vhost = ctx;
	struct vhost_memory_region *pieces = vhost->table->regions;
	uint32_t *count = &vhost->table->nregions;

	pthread_mutex_lock(&vhost->lock);
	for (uint32_t i = 0; i < *count; i++) {
		if (pieces[i].guest_phys_addr != gpa || pieces[i].memory_size != bytes)
			continue;
		pieces[i] = pieces[--*count];
		/* A kernel that has not even room for a shorter table must not use the old one. */
		if (table_set(vhost) < 0)
			table_lost(vhost);
		break;
	}
	pthread_mutex_unlock(&vhost->lock);
}

unsigned vnet_vhost_pieces(void)
{
	MEM_SCOPED char *text = NULL;
	unsigned long pieces = 0;

	if (file_read_all(REGIONS_PATH, 64, &text) > 0)
		pieces = strtoul(text, NULL, 10);
	/* The module may be loaded by its first user only. */
	if (!pieces)
		pieces = 64;
	return pieces < PIECES_MAX ? (unsigned)pieces : PIECES_MAX;
}

bool vnet_vhost_usable(void)
{
	return !access(VHOST_PATH, R_OK | W_OK);
}

/* Returns 0 or -errno with a sentence. */
static int pair_open(struct vnet_vhost *vhost, unsigned pair, struct kv_err *err)
{
	int *fd = &vhost->fds[pair];

	*fd = open(VHOST_PATH, O_RDWR | O_CLOEXEC);
	if (*fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(err, -errno,
			"vhost: %s is not for this user; vhost=off does without", VHOST_PATH);
	if (*fd < 0)
		return err_set(err, -errno,
			"vhost: %s cannot be opened: %s; load the module (modprobe vhost_net), or "
			"vhost=off does without",
			VHOST_PATH, err_text(-errno));
	if (ioctl(*fd, VHOST_SET_OWNER) < 0 || ioctl(*fd, VHOST_GET_FEATURES, &vhost->features) < 0)
		return err_set(
			err, -errno, "vhost: %s cannot be used: %s", VHOST_PATH, err_text(-errno));
	if ((vhost->features & NEEDED) != NEEDED)
		return err_set(err, -ENOTSUP, "vhost: this host's kernel is too old for it");
	return 0;
}

/* Returns 0 or -errno with a sentence. */
static int events_open(struct vnet_vhost *vhost, struct kv_err *err)
{
	struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

	for (unsigned i = 0; i < ring_count(vhost); i++) {
		struct ring *ring = &vhost->rings[i];

		ring->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		ring->error_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (ring->call_fd < 0 || ring->error_fd < 0)
			return err_set(err, -errno, "vhost: no eventfd: %s", err_text(-errno));
	}
	/* Where this cannot be had, only the guest's link stays up when the tap goes. */
	vhost->link_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (vhost->link_fd >= 0 &&
		bind(vhost->link_fd, (struct sockaddr *)&links, sizeof(links)) < 0)
		fd_close(&vhost->link_fd);
	return 0;
}

static int vhost_take(struct vnet_vhost *vhost, struct gmem *gm, struct kv_err *err)
{
	struct gmem_listener listener = {.map = memory_map, .unmap = memory_unmap, .ctx = vhost};
	int r = events_open(vhost, err);

	for (unsigned i = 0; !r && i < vhost->pair_count; i++)
		r = pair_open(vhost, i, err);
	if (r < 0)
		return r;
	r = gmem_listen(gm, &listener);
	if (r < 0)
		return err_set(err, r, "vhost: %s refused the guest's memory: %s", VHOST_PATH,
			err_text(r));
	vhost->gm = gm;
	return 0;
}

int vnet_vhost_open(struct vnet_vhost **ret, struct gmem *gm, unsigned pairs, struct kv_err *err)
{
	struct vnet_vhost *vhost = calloc(1, sizeof(*vhost));
	int r;

	if (vhost)
		vhost->table = calloc(
			1, sizeof(*vhost->table) + PIECES_MAX * sizeof(vhost->table->regions[0]));
	if (!vhost || !vhost->table) {
		free(vhost);
		return err_set(err, -ENOMEM, "out of memory");
	}
	vhost->link_fd = -1;
	vhost->pair_count = pairs;
	pthread_mutex_init(&vhost->lock, NULL);
	for (unsigned i = 0; i < pairs; i++)
		vhost->fds[i] = -1;
	for (unsigned i = 0; i < ring_count(vhost); i++)
		vhost->rings[i] =
			(struct ring){.vhost = vhost, .index = i, .call_fd = -1, .error_fd = -1};
	r = vhost_take(vhost, gm, err);
	if (r < 0) {
		vnet_vhost_close(vhost);
		return r;
	}
	*ret = vhost;
	return 0;
}

void vnet_vhost_close(struct vnet_vhost *vhost)
{
	if (!vhost)
		return;
	if (vhost->gm)
		gmem_forget(vhost->gm, vhost);
	for (unsigned i = 0; i < vhost->pair_count; i++)
		fd_close(&vhost->fds[i]);
	for (unsigned i = 0; i < ring_count(vhost); i++) {
		fd_close(&vhost->rings[i].call_fd);
		fd_close(&vhost->rings[i].error_fd);
	}
	fd_close(&vhost->link_fd);
	pthread_mutex_destroy(&vhost->lock);
	free(vhost->table);
	free(vhost);
}
