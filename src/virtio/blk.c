/* SPDX-License-Identifier: Apache-2.0 */
/* Block device (virtio 1.3 §5.2). */
#include "virtio/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/blk_io.h"

#define DEVICE_ID 2
/* A request has at most so many buffers: room for 1 MiB in pages that do not lie side by side. */
#define QUEUE_SIZE 256

/* §5.2.3. */
#define F_SEG_MAX      (1ULL << 2)
#define F_RO	       (1ULL << 5)
#define F_BLK_SIZE     (1ULL << 6)
#define F_FLUSH	       (1ULL << 9)
#define F_MQ	       (1ULL << 12)
#define F_DISCARD      (1ULL << 13)
#define F_WRITE_ZEROES (1ULL << 14)

/* §5.2.4; what no feature asks for stays zero. */
struct blk_config {
	uint64_t capacity; /* sectors, as all lengths here */
	uint32_t size_max;
	uint32_t seg_max;
	uint8_t geometry[4];
	uint32_t blk_size;
	uint8_t topology[8];
	uint8_t writeback;
	uint8_t unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
};
_Static_assert(sizeof(struct blk_config) == 64 &&
		       __builtin_offsetof(struct blk_config, write_zeroes_may_unmap) == 56,
	"virtio 1.3 §5.2.4");

/* §5.2.6: in front of each request's data; its status is the last byte. */
struct blk_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "virtio 1.3 §5.2.6");

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };

struct blk_range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};
_Static_assert(sizeof(struct blk_range) == 16, "virtio 1.3 §5.2.6");

#define RANGE_UNMAP 1

enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

/* Sectors of one discard or write-zeroes request: a bound for what one may take. */
#define RANGE_MAX (GIB / VBLK_SECTOR_BYTES)

struct blk_req {
	struct blk_io_req io; /* first: blk_io.c hands back its address */
	struct blk_req *next; /* of the free ones */
	struct vq_chain chain;
	unsigned queue;
	uint8_t *status;  /* NULL: it is not under way */
	uint32_t written; /* bytes of the writable part when it ends well */
};

struct vblk {
	struct vdev *vd;		   /* [c] */
	const struct gmem *gm;		   /* [c] */
	struct vblk_file file;		   /* [c] */
	bool writeback;			   /* [c] */
	uint8_t serial[VBLK_SERIAL_BYTES]; /* [c] */
	struct blk_config config;	   /* [c] */
	/* Under the device's lock: */
	struct blk_io *io;
	struct blk_req *reqs; /* one for each entry of each queue */
	unsigned reqs_used;   /* so many of them were in use ever: the rest is untouched memory */
	struct blk_req *free_reqs; /* of those */
	struct limit limit;
};

static int blk_activate(void *dev)
{
	return 0;
}

static void req_end(struct vblk *blk, struct blk_req *req, uint8_t status)
{
	*req->status = status;
	req->status = NULL;
	vq_push(vdev_queue(blk->vd, req->queue), &req->chain,
		1 + (status == S_OK ? req->written : 0));
	req->next = blk->free_reqs;
	blk->free_reqs = req;
}

/* §5.2.6.2: without flushes, what is written is stored when the request ends. */
static bool stores_at_once(const struct vblk *blk)
{
	return blk->writeback && !(vdev_features(blk->vd) & F_FLUSH);
}

static void io_done(void *ctx, struct blk_io_req *io, int result)
{
	struct vblk *blk = ctx;

	/* A buffer that O_DIRECT does not take for its alignment goes through the page cache. */
	if (result == -EINVAL && blk->file.direct_fd >= 0 && io->fd == blk->file.direct_fd) {
		io->fd = blk->file.fd;
		blk_io_submit(blk->io, io);
		return;
	}
	/* As RWF_DSYNC does for writes. */
	if (!result && io->kind == BLK_IO_FALLOCATE && stores_at_once(blk)) {
		io->kind = BLK_IO_SYNC;
		blk_io_submit(blk->io, io);
		return;
	}
	req_end(blk, (struct blk_req *)io,
		result == -EOPNOTSUPP ? S_UNSUPP
		: result < 0	      ? S_IOERR
				      : S_OK);
}

/* [@sector, @sector + @sectors) lies on the disk. */
static bool on_disk(const struct vblk *blk, uint64_t sector, uint64_t sectors)
{
	return sector <= blk->config.capacity && sectors <= blk->config.capacity - sector;
}

static void data_start(struct vblk *blk, struct blk_req *req, uint64_t sector)
{
	struct blk_io_req *io = &req->io;
	bool write = io->kind == BLK_IO_WRITE;

	if (io->bytes % VBLK_SECTOR_BYTES || !on_disk(blk, sector, io->bytes / VBLK_SECTOR_BYTES) ||
		(write && blk->file.read_only)) {
		req_end(blk, req, S_IOERR);
		return;
	}
	if (!io->bytes) {
		req_end(blk, req, S_OK);
		return;
	}
	io->offset = sector * VBLK_SECTOR_BYTES;
	io->fd = blk->file.direct_fd >= 0 ? blk->file.direct_fd : blk->file.fd;
	if (write && stores_at_once(blk))
		io->flags = RWF_DSYNC;
	if (!write)
		req->written = (uint32_t)io->bytes;
	blk_io_submit(blk->io, io);
}

static void flush_start(struct vblk *blk, struct blk_req *req)
{
	if (!blk->writeback || blk->file.read_only) {
		req_end(blk, req, S_OK);
		return;
	}
	req->io.kind = BLK_IO_SYNC;
	req->io.fd = blk->file.fd;
	blk_io_submit(blk->io, &req->io);
}

static void id_answer(struct vblk *blk, struct blk_req *req)
{
	const uint8_t *from = blk->serial;
	uint32_t left = VBLK_SERIAL_BYTES;

	for (unsigned i = 0; i < req->io.iov_count && left; i++) {
		size_t n = req->io.iov[i].iov_len < left ? req->io.iov[i].iov_len : left;

		memcpy(req->io.iov[i].iov_base, from, n);
		from += n;
		left -= (uint32_t)n;
	}
	req->written = VBLK_SERIAL_BYTES - left;
	req_end(blk, req, left ? S_IOERR : S_OK);
}

/*
 * Cut @range to the blocks that the host can discard or zero. A discard is only a hint, but zeroes
 * are wanted to the last sector. Returns false when the host does not have them.
 */
static bool range_fit(const struct vblk *blk, struct blk_range *range, bool zero)
{
	uint64_t block = blk->file.block_bytes / VBLK_SECTOR_BYTES;
	uint64_t begin = (range->sector + block - 1) & ~(block - 1);
	uint64_t end = (range->sector + range->sectors) & ~(block - 1);

	if (zero)
		return begin == range->sector && end == begin + range->sectors;
	range->sector = begin;
	range->sectors = end > begin ? (uint32_t)(end - begin) : 0;
	return true;
}

/* §5.2.6.2: discard and write zeroes, of one range (max_*_seg says so). */
static void range_start(struct vblk *blk, struct blk_req *req, bool zero)
{
	struct blk_range range;
	uint64_t got = vq_chain_read(&req->chain, sizeof(struct blk_header), &range, sizeof(range));
	bool unmap;

	if (got != sizeof(range) || req->chain.out_bytes != sizeof(struct blk_header) + got ||
		range.sectors > RANGE_MAX || !on_disk(blk, range.sector, range.sectors) ||
		blk->file.read_only) {
		req_end(blk, req, S_IOERR);
		return;
	}
	unmap = !zero || range.flags & RANGE_UNMAP;
	if (range.flags & ~(uint32_t)(zero ? RANGE_UNMAP : 0) || !range_fit(blk, &range, zero)) {
		req_end(blk, req, S_UNSUPP);
		return;
	}
	if (!range.sectors) {
		req_end(blk, req, S_OK);
		return;
	}
	req->io.kind = BLK_IO_FALLOCATE;
	req->io.fd = blk->file.fd;
	req->io.offset = range.sector * VBLK_SECTOR_BYTES;
	req->io.bytes = (uint64_t)range.sectors * VBLK_SECTOR_BYTES;
	req->io.flags = FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	blk_io_submit(blk->io, &req->io);
}

/* The data behind the header, which may share a buffer with it. */
static void data_out(struct blk_req *req)
{
	struct blk_io_req *io = &req->io;
	size_t skip = sizeof(struct blk_header);

	io->iov = req->chain.iov;
	io->iov_count = req->chain.out_count;
	io->bytes = req->chain.out_bytes - skip;
	while (skip >= io->iov->iov_len && io->iov_count) {
		skip -= io->iov->iov_len;
		io->iov++;
		io->iov_count--;
		if (!io->iov_count)
			return;
	}
	io->iov->iov_base = (uint8_t *)io->iov->iov_base + skip;
	io->iov->iov_len -= skip;
}

/* The data before the status, which may share a buffer with it. */
static void data_in(struct blk_req *req)
{
	struct blk_io_req *io = &req->io;
	struct iovec *last;

	io->iov = req->chain.iov + req->chain.out_count;
	io->iov_count = req->chain.in_count;
	io->bytes = req->chain.in_bytes - 1;
	last = &io->iov[io->iov_count - 1];
	if (!--last->iov_len)
		io->iov_count--;
}

static void req_start(struct vblk *blk, struct blk_req *req, const struct blk_header *header)
{
	switch (header->type) {
	case T_IN:
		data_in(req);
		req->io.kind = BLK_IO_READ;
		data_start(blk, req, header->sector);
		break;
	case T_OUT:
		data_out(req);
		req->io.kind = BLK_IO_WRITE;
		data_start(blk, req, header->sector);
		break;
	case T_FLUSH:
		flush_start(blk, req);
		break;
	case T_GET_ID:
		data_in(req);
		id_answer(blk, req);
		break;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		range_start(blk, req, header->type == T_WRITE_ZEROES);
		break;
	default:
		req_end(blk, req, S_UNSUPP);
		break;
	}
}

/* What the limits count as the bytes of a request: the data of reads and writes. */
static uint64_t data_bytes(const struct vq_chain *chain, uint32_t type)
{
	if (type == T_IN)
		return chain->in_bytes - 1;
	return type == T_OUT ? chain->out_bytes - sizeof(struct blk_header) : 0;
}

/* A request that is free, or NULL. */
static struct blk_req *req_find(struct vblk *blk)
{
	if (blk->free_reqs)
		return blk->free_reqs;
	if (blk->reqs_used == blk->config.num_queues * QUEUE_SIZE)
		return NULL;
	blk->free_reqs = &blk->reqs[blk->reqs_used++];
	return blk->free_reqs;
}

/*
 * Take one chain on. Returns 0; -EPROTO for one that is no request; -EAGAIN for one that the limits
 * make wait.
 */
static int chain_take(struct vblk *blk, unsigned index, const struct vq_chain *chain)
{
	struct blk_req *req = req_find(blk);
	const struct iovec *last;
	struct blk_header header;

	if (!req || !chain->in_bytes ||
		vq_chain_read(chain, 0, &header, sizeof(header)) != sizeof(header))
		return -EPROTO;
	if (!limit_take(&blk->limit, index, data_bytes(chain, header.type)))
		return -EAGAIN;
	blk->free_reqs = req->next;
	*req = (struct blk_req){.chain = *chain, .queue = index};
	last = &chain->iov[chain->out_count + chain->in_count - 1];
	req->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	req_start(blk, req, &header);
	return 0;
}

static void blk_kick(void *dev, unsigned index)
{
	struct vblk *blk = dev;
	struct vq *vq = vdev_queue(blk->vd, index);
	int popped = 1, r = 0;
	struct vq_chain chain;

	if (limit_holds(&blk->limit, index))
		return;
	for (unsigned i = 0; i < QUEUE_SIZE && !r; i++) {
		popped = vq_pop(vq, &chain);
		if (popped <= 0)
			break;
		r = chain_take(blk, index, &chain);
	}
	if (r == -EAGAIN)
		vq_unpop(vq, &chain);
	blk_io_flush(blk->io);
	if (popped < 0 || r == -EPROTO)
		vdev_broken(blk->vd, index);
	else if (popped > 0 && !r)
		/* The queue was not seen empty, so the driver was not asked to kick. */
		vdev_kick(blk->vd, index);
	vdev_notify(blk->vd, index);
}

static void notify_all(struct vblk *blk)
{
	for (unsigned i = 0; i < blk->config.num_queues; i++)
		vdev_notify(blk->vd, i);
}

static void io_ready(void *ctx)
{
	struct vblk *blk = ctx;

	vdev_lock(blk->vd);
	blk_io_reap(blk->io);
	notify_all(blk);
	vdev_unlock(blk->vd);
}

static void blk_reset(void *dev)
{
	struct vblk *blk = dev;

	limit_reset(&blk->limit);
	blk_io_drain(blk->io);
}

static void blk_queue_stop(void *dev, unsigned index)
{
	struct vblk *blk = dev;

	/* What the other queues had under way ends too, and their drivers wait for it. */
	blk_io_drain(blk->io);
	notify_all(blk);
}

/* Some of what @req, which is under way, reads or writes is no guest memory any more. */
static bool req_gone(const struct vblk *blk, const struct blk_req *req)
{
	const struct vq_chain *chain = &req->chain;

	for (unsigned i = 0; i < chain->out_count + chain->in_count; i++)
		if (gmem_gone(blk->gm, chain->iov[i].iov_base, chain->iov[i].iov_len))
			return true;
	return gmem_gone(blk->gm, req->status, 1);
}

static void blk_memory_changed(void *dev)
{
	struct vblk *blk = dev;
	bool gone = false;

	for (unsigned i = 0; i < blk->reqs_used && !gone; i++)
		gone = blk->reqs[i].status && req_gone(blk, &blk->reqs[i]);
	/* A driver in order does not take away what it has lent: nobody else waits for the disk. */
	if (!gone)
		return;
	blk_io_drain(blk->io);
	notify_all(blk);
}

static void blk_config_read(void *dev, uint32_t offset, void *data, uint32_t len)
{
	struct vblk *blk = dev;

	memcpy(data, (const uint8_t *)&blk->config + offset, len);
}

static const struct vdev_ops blk_ops = {
	.name = "virtio-blk",
	.device_id = DEVICE_ID,
	.config_bytes = sizeof(struct blk_config),
	.activate = blk_activate,
	.reset = blk_reset,
	.queue_stop = blk_queue_stop,
	.kick = blk_kick,
	.memory_changed = blk_memory_changed,
	.config_read = blk_config_read,
};

static void config_fill(struct vblk *blk, unsigned queues)
{
	blk->config = (struct blk_config){
		.capacity = blk->file.bytes / VBLK_SECTOR_BYTES,
		.seg_max = QUEUE_SIZE - 2,
		.blk_size = VBLK_SECTOR_BYTES,
		.writeback = blk->writeback,
		.num_queues = (uint16_t)queues,
		.max_discard_sectors = RANGE_MAX,
		.max_discard_seg = 1,
		.discard_sector_alignment = blk->file.block_bytes / VBLK_SECTOR_BYTES,
		.max_write_zeroes_sectors = RANGE_MAX,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};
}

static int parts_make(struct vblk *blk, const struct vblk_params *params)
{
	unsigned depth = params->queues * QUEUE_SIZE;
	struct blk_io_params io = {
		.loop = params->loop,
		.log = params->log,
		.depth = depth,
		.sync = params->sync,
		.done = io_done,
		.ready = io_ready,
		.ctx = blk,
	};
	struct vdev_params vd = {
		.ops = &blk_ops,
		.dev = blk,
		.features =
			VDEV_F_QUEUES | F_SEG_MAX | F_BLK_SIZE | (params->queues > 1 ? F_MQ : 0),
		.queue_count = params->queues,
		.queue_size = QUEUE_SIZE,
		.gm = params->gm,
		.loop = params->loop,
		.log = params->log,
	};
	int r;

	if (blk->file.read_only)
		vd.features |= F_RO;
	else
		vd.features |= F_DISCARD | F_WRITE_ZEROES | (params->writeback ? F_FLUSH : 0);
	blk->reqs = calloc(depth, sizeof(*blk->reqs));
	if (!blk->reqs)
		return -ENOMEM;
	r = blk_io_create(&blk->io, &io);
	if (!r)
		r = vdev_create(&blk->vd, &vd);
	return r < 0 ? r : limit_init(&blk->limit, blk->vd, params->loop, &params->limit);
}

int vblk_create(struct vblk **ret, const struct vblk_params *params, const struct vblk_file *file)
{
	struct vblk *blk = calloc(1, sizeof(*blk));
	int r;

	if (!blk)
		return -ENOMEM;
	blk->file = *file;
	blk->gm = params->gm;
	blk->writeback = params->writeback;
	if (params->serial)
		memcpy(blk->serial, params->serial, strnlen(params->serial, sizeof(blk->serial)));
	config_fill(blk, params->queues);
	r = parts_make(blk, params);
	if (r < 0) {
		/* The file stays the caller's. */
		blk->file.fd = blk->file.direct_fd = -1;
		vblk_destroy(blk);
		return r;
	}
	*ret = blk;
	return 0;
}

void vblk_destroy(struct vblk *blk)
{
	if (!blk)
		return;
	limit_free(&blk->limit);
	vdev_destroy(blk->vd);
	blk_io_destroy(blk->io);
	free(blk->reqs);
	vblk_file_close(&blk->file);
	free(blk);
}

int vblk_resize(struct vblk *blk, uint64_t *bytes)
{
	uint64_t sectors;
	int r = vblk_file_size(blk->file.fd, bytes);

	if (r < 0)
		return r;
	sectors = *bytes / VBLK_SECTOR_BYTES;
	vdev_lock(blk->vd);
	if (sectors > blk->config.capacity) {
		blk->config.capacity = sectors;
		vdev_config_changed(blk->vd);
		r = 1;
	} else if (sectors < blk->config.capacity) {
		r = -ERANGE;
	}
	vdev_unlock(blk->vd);
	return r;
}

struct limit_rates vblk_rates(struct vblk *blk)
{
	/* Only vblk_limit() changes them. */
	return blk->limit.rates;
}

void vblk_limit(struct vblk *blk, const struct limit_rates *rates)
{
	vdev_lock(blk->vd);
	limit_set(&blk->limit, rates);
	vdev_unlock(blk->vd);
}

struct vdev *vblk_vdev(struct vblk *blk)
{
	return blk->vd;
}
