/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/blk: the block device behind its registers, over a temporary file. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gmem/backing.h"
#include "gmem/hot.h"
#include "mmio_driver.h"
#include "virtio/blk.h"
#include "virtio/blk_io.h"

#define SECTORS	   64ULL
#define DISK_BYTES (SECTORS * VBLK_SECTOR_BYTES)
#define HEADER	   DRV_DATA
#define DATA	   (DRV_DATA + 0x1000)
#define STATUS	   (DRV_DATA + 0x800)

#define F_RO	(1ULL << 5)
#define F_FLUSH (1ULL << 9)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct board {
	char path[64];
	struct gmem *gm;
	struct vblk *blk;
	struct md md;
	struct drv drv;
};

struct how {
	bool sync, read_only, direct, unsafe, packed;
	uint64_t features;    /* of the driver's, beside VERSION_1 */
	uint32_t block_bytes; /* as of a block device, or 0 */
};

static unsigned asked[4]; /* by enum blk_io_kind: what the device had done */
static int flags_last;

void __wrap_blk_io_submit(struct blk_io *io, struct blk_io_req *req);
void __real_blk_io_submit(struct blk_io *io, struct blk_io_req *req);

void __wrap_blk_io_submit(struct blk_io *io, struct blk_io_req *req)
{
	asked[req->kind]++;
	flags_last = req->flags;
	__real_blk_io_submit(io, req);
}

static void file_make(char path[64], uint64_t bytes)
{
	int fd;

	strcpy(path, "/tmp/kvick-test-blk-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	close(fd);
}

static void up(struct board *b, const struct how *how)
{
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1 | VDEV_F_INDIRECT_DESC | how->features |
						 (how->packed ? VDEV_F_RING_PACKED : 0)));
	drv_init(&b->drv, b->gm, 128, how->packed, false);
	md_queue_set(&b->md, 0, &b->drv.setup);
	md_driver_ok(&b->md);
	assert_false(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
	md_round(&b->md);
}

static void board_make(struct board *b, const struct how *how)
{
	struct vblk_params params = {
		.serial = "SN-1",
		.writeback = !how->unsafe,
		.sync = how->sync,
		.queues = 2,
	};
	struct kv_err err = {0};
	struct vblk_file file;

	*b = (struct board){0};
	file_make(b->path, DISK_BYTES);
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(loop_create(&b->md.loop), 0);
	params.gm = b->gm;
	params.loop = b->md.loop;
	if (vblk_file_open(&file, b->path, how->read_only, how->direct, &err))
		fail_msg("%s", err.text);
	if (how->block_bytes)
		file.block_bytes = how->block_bytes;
	assert_int_equal(vblk_create(&b->blk, &params, &file), 0);
	assert_int_equal(md_attach(&b->md, vblk_vdev(b->blk)), 0);
	up(b, how);
}

static void board_free(struct board *b)
{
	md_detach(&b->md);
	vblk_destroy(b->blk);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
	unlink(b->path);
}

/* What the disk's file has at @sector. */
static void file_read(struct board *b, uint64_t sector, void *to, size_t bytes)
{
	int fd = open(b->path, O_RDONLY);

	assert_int_equal(pread(fd, to, bytes, (off_t)(sector * VBLK_SECTOR_BYTES)), bytes);
	close(fd);
}

/*
 * Offer the chain [header, out bytes of data][in bytes of data, status] as request @id of the ring,
 * in as many buffers as there are parts.
 */
static void offer_at(struct board *b, uint32_t type, uint64_t sector, uint32_t out, uint32_t in,
	gpa_t data, gpa_t status)
{
	struct header *header = drv_at(&b->drv, HEADER);
	struct {
		gpa_t gpa;
		uint32_t len;
		uint16_t flags;
	} parts[4] = {{HEADER, 16, 0}};
	unsigned count = 1;

	*header = (struct header){.type = type, .sector = sector};
	*(uint8_t *)drv_at(&b->drv, status) = 0xee;
	if (out)
		parts[count++] = (typeof(parts[0])){data, out, 0};
	if (in)
		parts[count++] = (typeof(parts[0])){data, in, DRV_WRITE};
	parts[count++] = (typeof(parts[0])){status, 1, DRV_WRITE};
	for (unsigned i = 0; i < count; i++) {
		uint16_t flags = parts[i].flags | (i + 1 < count ? DRV_NEXT : 0);

		if (b->drv.setup.packed)
			drv_packed_offer(&b->drv, parts[i].gpa, parts[i].len, flags, 0);
		else
			drv_desc_set(&b->drv, DRV_DESC, i, parts[i].gpa, parts[i].len, flags,
				(uint16_t)(i + 1));
	}
	if (!b->drv.setup.packed)
		drv_split_offer(&b->drv, 0);
	md_set(&b->md, MD_QUEUE_NOTIFY, 0);
}

static void offer(struct board *b, uint32_t type, uint64_t sector, uint32_t out, uint32_t in)
{
	offer_at(b, type, sector, out, in, DATA, STATUS);
}

/* Wait for the answer. Returns the status; *@len is the used length. */
static uint8_t answer(struct board *b, uint16_t parts, uint32_t *len)
{
	uint32_t id;

	for (unsigned i = 0; i < 10000; i++) {
		md_round(&b->md);
		if (drv_take(&b->drv, parts, &id, len))
			return *(uint8_t *)drv_at(&b->drv, STATUS);
		usleep(100);
	}
	fail_msg("no answer");
	return 0xff;
}

static uint8_t request(struct board *b, uint32_t type, uint64_t sector, uint32_t out, uint32_t in)
{
	uint32_t len;
	uint8_t status;

	offer(b, type, sector, out, in);
	status = answer(b, (uint16_t)(2 + !!out + !!in), &len);
	if (status == 0)
		assert_int_equal(len, in + 1);
	return status;
}

static void round_trip(const struct how *how)
{
	uint8_t disk[8192], *data;
	struct board b;

	board_make(&b, how);
	data = drv_at(&b.drv, DATA);
	for (unsigned i = 0; i < 8192; i++)
		data[i] = (uint8_t)(i * 7 + 1);
	memcpy(disk, data, sizeof(disk));
	assert_int_equal(request(&b, T_OUT, 3, 8192, 0), 0);
	assert_int_equal(request(&b, T_FLUSH, 0, 0, 0), 0);
	memset(data, 0, 8192);
	file_read(&b, 3, data, 8192);
	assert_memory_equal(data, disk, 8192);
	memset(data, 0, 8192);
	assert_int_equal(request(&b, T_IN, 3, 0, 8192), 0);
	assert_memory_equal(data, disk, 8192);
	/* The last sector, and those that are none. */
	assert_int_equal(request(&b, T_IN, SECTORS - 1, 0, 512), 0);
	assert_int_equal(request(&b, T_IN, SECTORS - 1, 0, 1024), 1);
	assert_int_equal(request(&b, T_OUT, SECTORS, 512, 0), 1);
	assert_int_equal(request(&b, T_IN, UINT64_MAX, 0, 512), 1);
	assert_int_equal(request(&b, T_IN, UINT64_MAX / 512 + 1, 0, 512), 1);
	assert_int_equal(request(&b, T_OUT, 0, 511, 0), 1);
	assert_int_equal(request(&b, 77, 0, 0, 512), 2);
	assert_int_equal(request(&b, T_GET_ID, 0, 0, 20), 0);
	assert_memory_equal(data, "SN-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	assert_int_equal(vdev_violations(vblk_vdev(b.blk)), 0);
	board_free(&b);
}

static void test_round_trips(void **state)
{
	for (unsigned bits = 0; bits < 16; bits++) {
		struct how how = {
			.sync = bits & 1,
			.packed = bits & 2,
			.unsafe = bits & 4,
			.features = bits & 8 && !(bits & 4) ? F_FLUSH : 0,
		};

		round_trip(&how);
	}
}

/* O_DIRECT, with buffers that it takes and one that it does not. */
static void test_direct(void **state)
{
	struct how how = {.direct = true, .features = F_FLUSH};
	struct board b;
	struct header *header;
	uint32_t len;
	int fd;

	file_make(b.path, DISK_BYTES);
	fd = open(b.path, O_RDONLY | O_DIRECT);
	unlink(b.path);
	if (fd < 0) {
		print_message("no O_DIRECT in /tmp\n");
		skip();
	}
	close(fd);
	round_trip(&how);
	board_make(&b, &how);
	header = drv_at(&b.drv, HEADER);
	*header = (struct header){.type = T_OUT, .sector = 1};
	memcpy(drv_at(&b.drv, DATA + 3), "odd", 3);
	drv_desc_set(&b.drv, DRV_DESC, 0, HEADER, 16, DRV_NEXT, 1);
	drv_desc_set(&b.drv, DRV_DESC, 1, DATA + 3, 512, DRV_NEXT, 2);
	drv_desc_set(&b.drv, DRV_DESC, 2, STATUS, 1, DRV_WRITE, 0);
	drv_split_offer(&b.drv, 0);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	assert_int_equal(answer(&b, 3, &len), 0);
	file_read(&b, 1, drv_at(&b.drv, DATA), 512);
	assert_memory_equal(drv_at(&b.drv, DATA), "odd", 3);
	board_free(&b);
}

static void test_read_only(void **state)
{
	struct how how = {.read_only = true, .features = F_RO};
	struct board b;

	board_make(&b, &how);
	assert_false(md_features(&b.md) & (F_FLUSH | 1ULL << 13 | 1ULL << 14));
	assert_int_equal(request(&b, T_IN, 0, 0, 512), 0);
	assert_int_equal(request(&b, T_OUT, 0, 512, 0), 1);
	assert_int_equal(request(&b, T_DISCARD, 0, 16, 0), 1);
	board_free(&b);
}

static uint8_t range(
	struct board *b, uint32_t type, uint64_t sector, uint32_t count, uint32_t flags)
{
	struct {
		uint64_t sector;
		uint32_t count, flags;
	} *seg = drv_at(&b->drv, DATA);

	seg->sector = sector;
	seg->count = count;
	seg->flags = flags;
	return request(b, type, 0, 16, 0);
}

static void test_ranges(void **state)
{
	struct how how = {.features = F_FLUSH | 1ULL << 13 | 1ULL << 14};
	uint8_t sector[512], zero[512] = {0};
	struct board b;

	board_make(&b, &how);
	memset(drv_at(&b.drv, DATA), 0x55, 32 * 512);
	assert_int_equal(request(&b, T_OUT, 0, 32 * 512, 0), 0);
	assert_int_equal(range(&b, T_DISCARD, 8, 8, 0), 0);
	assert_int_equal(range(&b, T_WRITE_ZEROES, 17, 1, 1), 0);
	for (unsigned i = 0; i < 32; i++) {
		bool gone = (i >= 8 && i < 16) || i == 17;

		file_read(&b, i, sector, sizeof(sector));
		assert_int_equal(memcmp(sector, zero, sizeof(zero)) == 0, gone);
	}
	assert_int_equal(range(&b, T_DISCARD, SECTORS, 1, 0), 1);
	assert_int_equal(range(&b, T_DISCARD, UINT64_MAX, UINT32_MAX, 0), 1);
	assert_int_equal(range(&b, T_WRITE_ZEROES, SECTORS - 1, 2, 0), 1);
	assert_int_equal(range(&b, T_WRITE_ZEROES, 0, 1, 2), 2);
	assert_int_equal(range(&b, T_DISCARD, 0, 1, 1), 2);
	assert_int_equal(request(&b, T_DISCARD, 0, 32, 0), 1);
	assert_int_equal(request(&b, T_DISCARD, 0, 15, 0), 1);
	board_free(&b);
}

/* A block device takes whole blocks: a discard is cut to them, other zeroes the guest writes. */
static void test_block_ranges(void **state)
{
	struct how how = {
		.features = F_FLUSH | 1ULL << 13 | 1ULL << 14,
		.block_bytes = 4096,
	};
	uint8_t sector[512], zero[512] = {0};
	struct board b;

	board_make(&b, &how);
	memset(drv_at(&b.drv, DATA), 0x55, 64 * 512);
	assert_int_equal(request(&b, T_OUT, 0, 64 * 512, 0), 0);
	memset(asked, 0, sizeof(asked));
	assert_int_equal(range(&b, T_DISCARD, 1, 7, 0), 0);
	assert_int_equal(range(&b, T_DISCARD, 9, 14, 0), 0);
	assert_int_equal(asked[BLK_IO_FALLOCATE], 0);
	assert_int_equal(range(&b, T_DISCARD, 1, 18, 0), 0);
	assert_int_equal(range(&b, T_WRITE_ZEROES, 24, 8, 1), 0);
	assert_int_equal(range(&b, T_WRITE_ZEROES, 32, 9, 0), 2);
	assert_int_equal(range(&b, T_WRITE_ZEROES, 33, 7, 1), 2);
	assert_int_equal(asked[BLK_IO_FALLOCATE], 2);
	for (unsigned i = 0; i < 64; i++) {
		bool gone = (i >= 8 && i < 16) || (i >= 24 && i < 32);

		file_read(&b, i, sector, sizeof(sector));
		assert_int_equal(memcmp(sector, zero, sizeof(zero)) == 0, gone);
	}
	board_free(&b);
}

/* With a driver that does not flush, all that changes the disk is stored when it is answered. */
static void test_stored(void **state)
{
	for (unsigned bits = 0; bits < 8; bits++) {
		struct how how = {
			.sync = bits & 1,
			.unsafe = bits & 2,
			.features = (bits & 4 ? F_FLUSH : 0) | 1ULL << 13 | 1ULL << 14,
		};
		bool stored = !(bits & 6);
		struct board b;

		if ((bits & 6) == 6)
			continue;
		board_make(&b, &how);
		memset(asked, 0, sizeof(asked));
		assert_int_equal(request(&b, T_OUT, 0, 512, 0), 0);
		assert_int_equal(flags_last, stored ? RWF_DSYNC : 0);
		assert_int_equal(asked[BLK_IO_SYNC], 0);
		assert_int_equal(range(&b, T_WRITE_ZEROES, 8, 8, 1), 0);
		assert_int_equal(asked[BLK_IO_SYNC], stored ? 1 : 0);
		assert_int_equal(range(&b, T_DISCARD, 8, 8, 0), 0);
		assert_int_equal(asked[BLK_IO_SYNC], stored ? 2 : 0);
		assert_int_equal(asked[BLK_IO_FALLOCATE], 2);
		board_free(&b);
	}
}

/* Header and status share buffers with the data, or have none: any layout (§2.7.4). */
static void test_layouts(void **state)
{
	struct how how = {.features = F_FLUSH};
	struct header *header;
	uint32_t id, len;
	struct board b;

	board_make(&b, &how);
	/* All in one readable buffer. */
	header = drv_at(&b.drv, DATA);
	*header = (struct header){.type = T_OUT, .sector = 2};
	memset(header + 1, 0x77, 512);
	drv_desc_set(&b.drv, DRV_DESC, 0, DATA, 16 + 512, DRV_NEXT, 1);
	drv_desc_set(&b.drv, DRV_DESC, 1, STATUS, 1, DRV_WRITE, 0);
	drv_split_offer(&b.drv, 0);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	assert_int_equal(answer(&b, 2, &len), 0);
	/* Header in two halves, data and status in one. */
	*header = (struct header){.type = T_IN, .sector = 2};
	drv_desc_set(&b.drv, DRV_DESC, 0, DATA, 7, DRV_NEXT, 1);
	drv_desc_set(&b.drv, DRV_DESC, 1, DATA + 7, 9, DRV_NEXT, 2);
	drv_desc_set(&b.drv, DRV_DESC, 2, STATUS - 512, 513, DRV_WRITE, 0);
	*(uint8_t *)drv_at(&b.drv, STATUS) = 0xee;
	drv_split_offer(&b.drv, 0);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	assert_int_equal(answer(&b, 3, &len), 0);
	assert_int_equal(len, 513);
	assert_int_equal(*(uint8_t *)drv_at(&b.drv, STATUS - 1), 0x77);
	/* No status, and half a header: no requests at all. */
	drv_desc_set(&b.drv, DRV_DESC, 0, DATA, 16, 0, 0);
	drv_split_offer(&b.drv, 0);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	md_round(&b.md);
	assert_true(md_get(&b.md, MD_STATUS) & VDEV_NEEDS_RESET);
	up(&b, &how);
	drv_desc_set(&b.drv, DRV_DESC, 0, DATA, 15, DRV_NEXT, 1);
	drv_desc_set(&b.drv, DRV_DESC, 1, STATUS, 1, DRV_WRITE, 0);
	drv_split_offer(&b.drv, 0);
	md_set(&b.md, MD_QUEUE_NOTIFY, 0);
	md_round(&b.md);
	assert_true(md_get(&b.md, MD_STATUS) & VDEV_NEEDS_RESET);
	assert_false(drv_take(&b.drv, 2, &id, &len));
	board_free(&b);
}

/* A reset, or the loss of the queue, with requests under way: they end first, and nothing after. */
static void test_reset_under_way(void **state)
{
	struct how how = {.features = F_FLUSH};
	struct board b;

	board_make(&b, &how);
	for (unsigned round = 0; round < 50; round++) {
		unsigned edges;

		memset(drv_at(&b.drv, DATA), (int)round, 0x4000);
		offer(&b, round & 1 ? T_OUT : T_IN, round % 8, round & 1 ? 0x4000 : 0,
			round & 1 ? 0 : 0x4000);
		md_round(&b.md);
		if (round & 2) {
			md_set(&b.md, MD_QUEUE_SEL, 0);
			md_set(&b.md, MD_QUEUE_READY, 0);
		}
		md_set(&b.md, MD_STATUS, 0);
		assert_int_equal(*(uint8_t *)drv_at(&b.drv, STATUS), 0);
		edges = b.md.edges;
		md_round(&b.md);
		md_round(&b.md);
		assert_int_equal(b.md.edges, edges);
		up(&b, &how);
	}
	board_free(&b);
}

/* Memory goes that a request under way reads into, or where its status goes: it ends first. */
static void test_unplugged(void **state)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	const struct gmem_hot_params params = {
		.gpa = 0x1000000,
		.bytes = 0x20000,
		.block_bytes = 0x10000,
		.window_bytes = 0x20000,
		.backing = &anon,
	};

	for (unsigned bits = 0; bits < 4; bits++) {
		struct how how = {.packed = bits & 1};
		gpa_t data = bits & 2 ? DATA : params.gpa;
		gpa_t status = bits & 2 ? params.gpa : STATUS;
		struct gmem_hot *hot;
		struct board b;
		uint32_t id, len;

		board_make(&b, &how);
		assert_int_equal(gmem_hot_add(&hot, b.gm, &params, NULL), 0);
		assert_int_equal(gmem_hot_plug(hot, params.gpa, params.bytes), 0);
		offer_at(&b, T_IN, 0, 0, 4096, data, status);
		md_round(&b.md);
		assert_int_equal(gmem_hot_begin(hot, GMEM_HOT_UNPLUG, params.gpa, 0x10000), 0);
		vdev_memory_changed(vblk_vdev(b.blk));
		assert_true(drv_take(&b.drv, 3, &id, &len));
		while (gmem_hot_turn(hot) > 0)
			;
		/* Nobody waits for one that does not lie there. */
		offer(&b, T_IN, 0, 0, 4096);
		md_round(&b.md);
		vdev_memory_changed(vblk_vdev(b.blk));
		assert_int_equal(answer(&b, 3, &len), 0);
		assert_int_equal(vdev_violations(vblk_vdev(b.blk)), 0);
		board_free(&b);
	}
}

/* After a full ring at once the device looks again, and asks to be kicked for what comes next. */
static void test_full_ring(void **state)
{
	struct how how = {.features = F_FLUSH | VDEV_F_EVENT_IDX};
	uint16_t *avail_event;
	struct board b;

	for (unsigned sync = 0; sync < 2; sync++) {
		uint32_t id, len, done = 0;

		how.sync = sync;
		board_make(&b, &how);
		*(struct header *)drv_at(&b.drv, HEADER) = (struct header){.type = T_IN};
		drv_desc_set(&b.drv, DRV_TABLE, 0, HEADER, 16, DRV_NEXT, 1);
		drv_desc_set(&b.drv, DRV_TABLE, 1, DATA, 512, DRV_NEXT | DRV_WRITE, 2);
		drv_desc_set(&b.drv, DRV_TABLE, 2, STATUS, 1, DRV_WRITE, 0);
		for (uint16_t i = 0; i < 128; i++) {
			drv_desc_set(&b.drv, DRV_DESC, i, DRV_TABLE, 48, DRV_INDIRECT, 0);
			drv_split_offer(&b.drv, i);
		}
		md_set(&b.md, MD_QUEUE_NOTIFY, 0);
		for (unsigned i = 0; i < 10000 && done < 128; i++) {
			md_round(&b.md);
			while (drv_take(&b.drv, 1, &id, &len))
				done++;
			usleep(100);
		}
		assert_int_equal(done, 128);
		md_round(&b.md);
		avail_event = (uint16_t *)((uint8_t *)drv_at(&b.drv, DRV_DEVICE) + 4 + 8 * 128);
		assert_int_equal(*avail_event, 128);
		board_free(&b);
	}
}

/* A file that shrinks under the device: an error for the guest, and no more. */
static void test_shrunk(void **state)
{
	struct how how = {.features = F_FLUSH};
	struct board b;

	for (unsigned sync = 0; sync < 2; sync++) {
		how.sync = sync;
		board_make(&b, &how);
		assert_int_equal(truncate(b.path, 4096), 0);
		assert_int_equal(request(&b, T_IN, 0, 0, 4096), 0);
		assert_int_equal(request(&b, T_IN, 7, 0, 1024), 1);
		assert_int_equal(request(&b, T_IN, 32, 0, 512), 1);
		board_free(&b);
	}
}

static void test_open(void **state)
{
	struct kv_err err = {0};
	struct vblk_file a, c;
	char path[64];

	assert_int_equal(vblk_file_open(&a, "/nonexistent/disk", false, false, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/disk"));
	assert_int_equal(vblk_file_open(&a, "/dev/null", false, false, &err), -EINVAL);
	assert_int_equal(vblk_file_open(&a, "/tmp", true, false, &err), -EINVAL);
	file_make(path, 0);
	assert_int_equal(vblk_file_open(&a, path, false, false, &err), -EINVAL);
	assert_int_equal(truncate(path, 513), 0);
	assert_int_equal(vblk_file_open(&a, path, false, false, &err), -EINVAL);
	assert_non_null(strstr(err.text, "multiple of 512"));
	assert_int_equal(truncate(path, 512), 0);
	/* One that writes, or any number that read. */
	assert_int_equal(vblk_file_open(&a, path, false, false, &err), 0);
	assert_false(fcntl(a.fd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(vblk_file_open(&c, path, false, false, &err), -EBUSY);
	assert_int_equal(vblk_file_open(&c, path, true, false, &err), -EBUSY);
	vblk_file_close(&a);
	assert_int_equal(vblk_file_open(&a, path, true, false, &err), 0);
	assert_int_equal(vblk_file_open(&c, path, true, false, &err), 0);
	vblk_file_close(&c);
	assert_int_equal(vblk_file_open(&c, path, false, false, &err), -EBUSY);
	assert_non_null(strstr(err.text, "in use"));
	vblk_file_close(&a);
	unlink(path);
}

/* What a process that was killed had under way keeps its lock for a moment: that is waited for. */
static void test_open_again(void **state)
{
	struct kv_err err = {0};
	struct vblk_file file;
	char path[64], byte;
	int locked[2];
	pid_t child;

	file_make(path, 512);
	assert_int_equal(pipe(locked), 0);
	child = fork();
	if (!child) {
		if (vblk_file_open(&file, path, false, false, &err) || write(locked[1], "x", 1) < 1)
			_exit(1);
		usleep(200000);
		_exit(0);
	}
	assert_true(child > 0);
	close(locked[1]);
	assert_int_equal(read(locked[0], &byte, 1), 1);
	close(locked[0]);
	assert_int_equal(vblk_file_open(&file, path, false, false, &err), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	vblk_file_close(&file);
	unlink(path);
}

static void test_config(void **state)
{
	struct how how = {.features = F_FLUSH};
	struct board b;
	uint64_t capacity = 0;
	uint16_t queues = 0;

	board_make(&b, &how);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG, (uint8_t *)&capacity, 8);
	assert_int_equal(capacity, SECTORS);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG + 34, (uint8_t *)&queues, 2);
	assert_int_equal(queues, 2);
	assert_int_equal(md_get(&b.md, MD_CONFIG + 20), 512);
	assert_int_equal(md_get(&b.md, MD_CONFIG + 12), 254);
	assert_int_equal(md_get(&b.md, MD_CONFIG + 40), 1);
	board_free(&b);
}

/* The file grows: capacity, generation and interrupt. It shrinks: nothing of that. */
static void test_resize(void **state)
{
	struct how how = {.features = F_FLUSH};
	uint64_t capacity = 0, bytes = 0;
	struct board b;
	uint32_t generation;

	board_make(&b, &how);
	generation = md_get(&b.md, MD_GENERATION);
	assert_int_equal(vblk_resize(b.blk, &bytes), 0);
	assert_int_equal(bytes, DISK_BYTES);
	assert_int_equal(md_get(&b.md, MD_GENERATION), generation);
	assert_int_equal(request(&b, T_OUT, SECTORS, 512, 0), 1);
	assert_int_equal(truncate(b.path, DISK_BYTES + 1024 + 511), 0);
	assert_int_equal(vblk_resize(b.blk, &bytes), 1);
	assert_int_equal(bytes, DISK_BYTES + 1024 + 511);
	assert_int_not_equal(md_get(&b.md, MD_GENERATION), generation);
	assert_int_equal(md_get(&b.md, MD_INTERRUPT_STATUS) & 2, 2);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG, (uint8_t *)&capacity, 8);
	assert_int_equal(capacity, SECTORS + 2);
	assert_int_equal(request(&b, T_OUT, SECTORS + 1, 512, 0), 0);
	assert_int_equal(request(&b, T_OUT, SECTORS + 2, 512, 0), 1);
	assert_int_equal(truncate(b.path, 512), 0);
	assert_int_equal(vblk_resize(b.blk, &bytes), -ERANGE);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG, (uint8_t *)&capacity, 8);
	assert_int_equal(capacity, SECTORS + 2);
	board_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_direct),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_block_ranges),
		cmocka_unit_test(test_stored),
		cmocka_unit_test(test_layouts),
		cmocka_unit_test(test_reset_under_way),
		cmocka_unit_test(test_unplugged),
		cmocka_unit_test(test_full_ring),
		cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_open_again),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_resize),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
