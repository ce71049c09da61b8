/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block device's requests: rings, headers and buffers are the input's. The disk must keep its
 * size, and a read-only one its contents.
 *
 * Input: one byte of set-up, ring positions fixed, then guest memory; the driver kicks a few times.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop/loop.h"
#include "virtio/blk.h"

#define RAM_BYTES  0x4000ULL
#define DISK_BYTES 0x4000
#define QUEUE_SIZE 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

static void stop(void *ctx)
{
	loop_stop(ctx);
}

static void loop_round(struct loop *loop)
{
	if (!loop_post(loop, stop, loop))
		loop_run(loop);
}

/* A disk in memory, filled with one byte. */
static struct vblk_file disk_make(bool read_only)
{
	static const uint8_t fill[512] = {[0 ... 511] = 0x5a};
	struct vblk_file file = {.direct_fd = -1,
		.bytes = DISK_BYTES,
		.block_bytes = VBLK_SECTOR_BYTES,
		.read_only = read_only};

	file.fd = memfd_create("disk", MFD_CLOEXEC);
	check(file.fd >= 0);
	for (unsigned i = 0; i < DISK_BYTES; i += sizeof(fill))
		check(pwrite(file.fd, fill, sizeof(fill), i) == sizeof(fill));
	return file;
}

static void disk_check(int fd, bool read_only)
{
	uint8_t buf[512];
	struct stat st;

	check(!fstat(fd, &st) && st.st_size == DISK_BYTES);
	for (unsigned i = 0; read_only && i < DISK_BYTES; i += sizeof(buf)) {
		check(pread(fd, buf, sizeof(buf), i) == sizeof(buf));
		for (unsigned j = 0; j < sizeof(buf); j++)
			check(buf[j] == 0x5a);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vq_setup setups[1] = {
		{.size = QUEUE_SIZE, .desc = 0, .driver = 0x100, .device = 0x200}};
	struct vblk_params params = {.serial = "fuzz", .sync = true, .queues = 1};
	struct vblk_file file;
	struct vblk *blk = NULL;
	struct loop *loop = NULL;
	struct gmem *gm = NULL;
	uint64_t features;
	int fd;

	if (!size)
		return 0;
	check(!gmem_create(&gm, NULL) && !gmem_add_ram(gm, 0, RAM_BYTES, NULL) &&
		!loop_create(&loop));
	memcpy(gmem_at(gm, 0, RAM_BYTES), data + 1, size - 1 < RAM_BYTES ? size - 1 : RAM_BYTES);
	file = disk_make(data[0] & 1);
	fd = dup(file.fd);
	params.gm = gm;
	params.loop = loop;
	params.writeback = data[0] & 2;
	check(fd >= 0 && !vblk_create(&blk, &params, &file));
	features = vdev_offered(vblk_vdev(blk));
	if (data[0] & 4)
		features &= ~VDEV_F_RING_PACKED;
	vdev_status_write(vblk_vdev(blk), 3, 0, setups);
	vdev_status_write(vblk_vdev(blk), 11, features, setups);
	vdev_status_write(vblk_vdev(blk), 15, features, setups);
	for (unsigned i = 0; i < 4; i++) {
		vdev_kick(vblk_vdev(blk), 0);
		loop_round(loop);
	}
	vdev_status_write(vblk_vdev(blk), 0, 0, setups);
	disk_check(fd, data[0] & 1);
	vblk_destroy(blk);
	close(fd);
	loop_destroy(loop);
	gmem_destroy(gm);
	return 0;
}
