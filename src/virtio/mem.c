/* SPDX-License-Identifier: Apache-2.0 */
/* Memory device (virtio 1.3 §5.15). */
#include "virtio/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_ID  24
#define QUEUE_SIZE 64

/* §5.15.3. */
#define F_ACPI_PXM		 (1ULL << 0)
#define F_UNPLUGGED_INACCESSIBLE (1ULL << 1)

/*
 * What may be plugged reaches this far beyond what is requested. Linux plugs whole memory blocks of
 * its own, of 2 GiB at most, and needs some choice when parts of them cannot be had.
 */
#define USABLE_EXTRA (2 * GIB)

/* §5.15.4. */
struct mem_config {
	uint64_t block_size;
	uint16_t node_id;
	uint8_t padding[6];
	uint64_t addr;
	uint64_t region_size;
	uint64_t usable_region_size;
	uint64_t plugged_size;
	uint64_t requested_size;
};
_Static_assert(sizeof(struct mem_config) == 56, "virtio 1.3 §5.15.4");

/* §5.15.6. */
struct mem_req {
	uint16_t type;
	uint16_t padding[3];
	uint64_t addr;
	uint16_t nb_blocks;
	uint16_t padding2[3];
};
_Static_assert(sizeof(struct mem_req) == 24, "virtio 1.3 §5.15.6");

struct __attribute__((packed)) mem_resp {
	uint16_t type;
	uint16_t padding[3];
	uint16_t state;
};
_Static_assert(sizeof(struct mem_resp) == 10, "virtio 1.3 §5.15.6");

enum { REQ_PLUG = 0, REQ_UNPLUG = 1, REQ_UNPLUG_ALL = 2, REQ_STATE = 3 };
enum { RESP_ACK = 0, RESP_NACK = 1, RESP_BUSY = 2, RESP_ERROR = 3 };
enum { STATE_PLUGGED = 0, STATE_UNPLUGGED = 1, STATE_MIXED = 2 };

struct vmem {
	struct vdev *vd;	  /* [c] */
	struct vmem_params p;	  /* [c] */
	struct loop_source *turn; /* [c] timer: the request under way goes on */
	struct mem_config config; /* under the device's lock, as all below */
	uint64_t refused;
	bool shrunk;	       /* since the last call of p.shrunk */
	bool owed;	       /* the driver waits for an answer to the request under way */
	struct vq_chain chain; /* of that request */
};

static uint64_t usable_bytes(const struct vmem *mem)
{
	uint64_t requested = mem->config.requested_size, region = mem->config.region_size;

	if (!requested)
		return 0;
	if (requested >= region || region - requested <= 2 * USABLE_EXTRA)
		return region;
	return align_down(requested + 2 * USABLE_EXTRA, USABLE_EXTRA);
}

/*
 * The driver reads what it must not (§5.15.6.1) unless it says that it does not; and what is
 * unplugged may be no memory at all.
 */
static int mem_activate(void *dev)
{
	struct vmem *mem = dev;
	struct gmem_hot_info info;

	gmem_hot_info(mem->p.hot, &info);
	return info.whole || vdev_features(mem->vd) & F_UNPLUGGED_INACCESSIBLE ? 0 : -EOPNOTSUPP;
}

/* Nobody waits any more: what is half-plugged, of which the driver sees nothing yet, goes back. */
static void chain_forget(struct vmem *mem)
{
	mem->owed = false;
	gmem_hot_cancel(mem->p.hot);
}

/* §5.15.5.2: blocks stay as they are. */
static void mem_reset(void *dev)
{
	chain_forget(dev);
}

static void mem_queue_stop(void *dev, unsigned index)
{
	chain_forget(dev);
}

/* The size of a request's range when it lies in the usable region, or 0. */
static uint64_t req_bytes(const struct vmem *mem, const struct mem_req *req)
{
	uint64_t bytes = req->nb_blocks * mem->config.block_size;
	uint64_t usable = mem->config.usable_region_size;

	if (req->addr % mem->config.block_size || req->addr < mem->config.addr ||
		req->addr - mem->config.addr >= usable ||
		bytes > usable - (req->addr - mem->config.addr))
		return 0;
	return bytes;
}

static uint16_t plug(struct vmem *mem, const struct mem_req *req)
{
	uint64_t bytes = req_bytes(mem, req);

	if (!bytes || gmem_hot_plugged(mem->p.hot, req->addr, bytes))
		return RESP_ERROR;
	if (bytes > mem->config.requested_size ||
		mem->config.plugged_size > mem->config.requested_size - bytes)
		return RESP_NACK;
	return gmem_hot_begin(mem->p.hot, GMEM_HOT_PLUG, req->addr, bytes) < 0 ? RESP_BUSY
									       : RESP_ACK;
}

static uint16_t unplug(struct vmem *mem, const struct mem_req *req)
{
	uint64_t bytes = req_bytes(mem, req);

	if (!bytes || gmem_hot_begin(mem->p.hot, GMEM_HOT_UNPLUG, req->addr, bytes) < 0)
		return RESP_ERROR;
	mem->shrunk = true;
	return RESP_ACK;
}

static uint16_t unplug_all(struct vmem *mem)
{
	if (gmem_hot_begin(mem->p.hot, GMEM_HOT_CLEAR, 0, 0) < 0)
		return RESP_BUSY;
	mem->shrunk |= mem->config.plugged_size != 0;
	mem->config.usable_region_size = usable_bytes(mem);
	return RESP_ACK;
}

static uint16_t state(const struct vmem *mem, const struct mem_req *req, uint16_t *ret)
{
	uint64_t bytes = req_bytes(mem, req), plugged;

	if (!bytes)
		return RESP_ERROR;
	plugged = gmem_hot_plugged(mem->p.hot, req->addr, bytes);
	*ret = !plugged ? STATE_UNPLUGGED : plugged == bytes ? STATE_PLUGGED : STATE_MIXED;
	return RESP_ACK;
}

/* What is plugged has changed: unplugged at the begin of a request, plugged at its end. */
static void plugged_note(struct vmem *mem)
{
	struct gmem_hot_info info;

	gmem_hot_info(mem->p.hot, &info);
	mem->config.plugged_size = info.plugged_bytes;
}

/* Carry out a request, or begin to: gmem_hot_busy(). */
static void req_serve(struct vmem *mem, const struct mem_req *req, struct mem_resp *resp)
{
	uint16_t word = 0;

	*resp = (struct mem_resp){.type = RESP_ERROR};
	switch (req->type) {
	case REQ_PLUG:
		resp->type = plug(mem, req);
		break;
	case REQ_UNPLUG:
		resp->type = unplug(mem, req);
		break;
	case REQ_UNPLUG_ALL:
		resp->type = unplug_all(mem);
		break;
	case REQ_STATE:
		resp->type = state(mem, req, &word);
		resp->state = word;
		break;
	}
	plugged_note(mem);
}

static void req_answer(struct vmem *mem, const struct vq_chain *chain, const struct mem_resp *resp)
{
	if (resp->type != RESP_ACK)
		mem->refused++;
	vq_chain_write(chain, 0, resp, sizeof(*resp));
	vq_push(vdev_queue(mem->vd, 0), chain, sizeof(*resp));
	vdev_notify(mem->vd, 0);
}

/*
 * Go on with the request under way, for a moment: a large one may take minutes, and others have
 * their turn in between.
 */
static void req_turn(struct vmem *mem)
{
	struct mem_resp resp = {.type = RESP_ACK};
	int r = gmem_hot_turn(mem->p.hot);

	if (r > 0) {
		loop_set_timer(mem->turn, 1);
		return;
	}
	plugged_note(mem);
	if (r < 0)
		resp.type = RESP_BUSY;
	if (mem->owed)
		req_answer(mem, &mem->chain, &resp);
	mem->owed = false;
	vdev_kick(mem->vd, 0);
}

static void turn_due(void *ctx, uint32_t events)
{
	struct vmem *mem = ctx;

	vdev_lock(mem->vd);
	/* A driver that broke the rules meanwhile gets no answer (§2.1.2). */
	if (!vdev_serving(mem->vd, 0))
		chain_forget(mem);
	req_turn(mem);
	vdev_unlock(mem->vd);
}

/*
 * One request at a time, for it may set memory slots and clear pages: other devices have their turn
 * in between, and the next request waits until the one before is done.
 */
static void mem_kick(void *dev, unsigned index)
{
	struct vmem *mem = dev;
	struct vq_chain chain;
	struct mem_resp resp;
	struct mem_req req;
	int r;

	if (gmem_hot_busy(mem->p.hot))
		return;
	r = vq_pop(vdev_queue(mem->vd, index), &chain);
	if (!r)
		return;
	if (r < 0 || chain.in_bytes < sizeof(resp) ||
		vq_chain_read(&chain, 0, &req, sizeof(req)) < sizeof(req)) {
		vdev_broken(mem->vd, index);
		return;
	}
	req_serve(mem, &req, &resp);
	if (gmem_hot_busy(mem->p.hot)) {
		mem->chain = chain;
		mem->owed = true;
		/*
		 * Others are told of what went (mem_kicked()) before the host gets it back, and
		 * before the driver hears that it is gone.
		 */
		if (mem->shrunk)
			loop_set_timer(mem->turn, 1);
		else
			req_turn(mem);
		return;
	}
	req_answer(mem, &chain, &resp);
	vdev_kick(mem->vd, index);
}

static void mem_kicked(void *dev)
{
	struct vmem *mem = dev;
	bool shrunk;

	vdev_lock(mem->vd);
	shrunk = mem->shrunk;
	mem->shrunk = false;
	vdev_unlock(mem->vd);
	if (shrunk && mem->p.shrunk)
		mem->p.shrunk(mem->p.ctx);
}

/* Where the answer goes may be among what went: the request's chain is looked at once more. */
static void mem_memory_changed(void *dev)
{
	struct vmem *mem = dev;
	struct vq *vq = vdev_queue(mem->vd, 0);

	if (!mem->owed)
		return;
	vq_unpop(vq, &mem->chain);
	mem->owed = false;
	if (!vdev_serving(mem->vd, 0))
		return;
	if (vq_pop(vq, &mem->chain) > 0 && mem->chain.in_bytes >= sizeof(struct mem_resp))
		mem->owed = true;
	else
		vdev_broken(mem->vd, 0);
}

static void mem_config_read(void *dev, uint32_t offset, void *data, uint32_t len)
{
	struct vmem *mem = dev;

	memcpy(data, (const uint8_t *)&mem->config + offset, len);
}

static const struct vdev_ops mem_ops = {
	.name = "virtio-mem",
	.device_id = DEVICE_ID,
	.config_bytes = sizeof(struct mem_config),
	.activate = mem_activate,
	.reset = mem_reset,
	.queue_stop = mem_queue_stop,
	.kick = mem_kick,
	.kicked = mem_kicked,
	.memory_changed = mem_memory_changed,
	.config_read = mem_config_read,
};

int vmem_create(struct vmem **ret, const struct vmem_params *params)
{
	struct vmem *mem = calloc(1, sizeof(*mem));
	struct vdev_params p = {
		.ops = &mem_ops,
		.dev = mem,
		.features = VDEV_F_QUEUES | F_UNPLUGGED_INACCESSIBLE |
			    (params->node >= 0 ? F_ACPI_PXM : 0),
		.queue_count = 1,
		.queue_size = QUEUE_SIZE,
		.gm = params->gm,
		.loop = params->loop,
		.log = params->log,
	};
	struct gmem_hot_info info;
	int r;

	if (!mem)
		return -ENOMEM;
	gmem_hot_info(params->hot, &info);
	mem->p = *params;
	mem->config = (struct mem_config){
		.block_size = info.block_bytes,
		.node_id = params->node >= 0 ? (uint16_t)params->node : 0,
		.addr = info.gpa,
		.region_size = info.bytes,
		.plugged_size = info.plugged_bytes,
		.requested_size = params->requested_bytes,
	};
	mem->config.usable_region_size = usable_bytes(mem);
	r = loop_add_timer(params->loop, turn_due, mem, &mem->turn);
	if (!r)
		r = vdev_create(&mem->vd, &p);
	if (r < 0) {
		loop_remove(mem->turn);
		free(mem);
		return r;
	}
	*ret = mem;
	return 0;
}

void vmem_destroy(struct vmem *mem)
{
	if (!mem)
		return;
	vdev_destroy(mem->vd);
	loop_remove(mem->turn);
	free(mem);
}

struct vdev *vmem_vdev(struct vmem *mem)
{
	return mem->vd;
}

/* With the lock. */
static bool has_driver(const struct vmem *mem)
{
	return vdev_serving(mem->vd, 0);
}

int vmem_request(struct vmem *mem, uint64_t bytes)
{
	uint64_t usable;
	int r = 0;

	if (bytes % mem->config.block_size || bytes > mem->config.region_size)
		return -EINVAL;
	vdev_lock(mem->vd);
	if (!has_driver(mem)) {
		r = -EAGAIN;
	} else if (bytes != mem->config.requested_size) {
		mem->config.requested_size = bytes;
		usable = usable_bytes(mem);
		/* §5.15.4.2: it shrinks when all is unplugged only. */
		if (usable > mem->config.usable_region_size)
			mem->config.usable_region_size = usable;
		vdev_config_changed(mem->vd);
	}
	vdev_unlock(mem->vd);
	return r;
}

void vmem_info(struct vmem *mem, struct vmem_info *ret)
{
	vdev_lock(mem->vd);
	gmem_hot_info(mem->p.hot, &ret->hot);
	ret->requested_bytes = mem->config.requested_size;
	ret->driver = has_driver(mem);
	ret->refused = mem->refused;
	vdev_unlock(mem->vd);
}

bool vmem_resident(struct vmem *mem, uint64_t *at, uint64_t *bytes)
{
	bool more;

	vdev_lock(mem->vd);
	more = gmem_hot_resident(mem->p.hot, at, bytes);
	vdev_unlock(mem->vd);
	return more;
}
