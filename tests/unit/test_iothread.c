/* SPDX-License-Identifier: Apache-2.0 */
/* Devices with a thread of their own, while others reset, change and hold them. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/thread.h"
#include "mmio_driver.h"
#include "virtio/blk.h"
#include "virtio/net_host.h"

#define LONG 20000000000ULL /* ns */

static struct loop_thread *thread_make(const char *name)
{
	struct loop_thread *thread = NULL;

	assert_int_equal(loop_thread_create(&thread, name), 0);
	return thread;
}

/* What the machine's own thread does to a device meanwhile. */
struct monitor {
	struct loop_thread *thread;
	struct vdev *vd;
	struct vblk *blk; /* or NULL */
	int fd;		  /* of its file */
	atomic_bool stop, failed;
	unsigned rounds;
	pthread_t self;
};

static void disk_change(struct monitor *mon)
{
	struct limit_rates rates = {0};
	uint64_t bytes;

	rates = vblk_rates(mon->blk);
	rates.ops = (struct limit_rate){.size = mon->rounds % 2 ? 16 : 0, .refill_ms = 2};
	vblk_limit(mon->blk, &rates);
	if (ftruncate(mon->fd, (off_t)(256 + mon->rounds) * VBLK_SECTOR_BYTES) < 0 ||
		vblk_resize(mon->blk, &bytes) < 0)
		mon->failed = true;
}

static void *monitor_main(void *ctx)
{
	struct monitor *mon = ctx;

	for (; !mon->stop; mon->rounds++) {
		loop_thread_pause(mon->thread);
		if (loop_thread_parked(mon->thread, LONG) < 0)
			mon->failed = true;
		usleep(mon->rounds % 16 * 50);
		if (mon->rounds % 3)
			loop_thread_resume(mon->thread);
		if (mon->blk)
			disk_change(mon);
		vdev_memory_changed(mon->vd);
		loop_thread_resume(mon->thread);
		usleep(mon->rounds % 8 * 100);
	}
	return NULL;
}

static void monitor_start(struct monitor *mon)
{
	assert_int_equal(pthread_create(&mon->self, NULL, monitor_main, mon), 0);
}

static void monitor_end(struct monitor *mon)
{
	mon->stop = true;
	pthread_join(mon->self, NULL);
	assert_false(mon->failed);
	assert_true(mon->rounds > 0);
}

static struct gmem *memory_make(void)
{
	struct gmem *gm = NULL;

	assert_int_equal(gmem_create(&gm, NULL), 0);
	assert_int_equal(gmem_add_ram(gm, 0, DRV_RAM, NULL), 0);
	return gm;
}

/* Wait for a used buffer; the thread has no other way to tell. */
static void used_wait(struct drv *drv)
{
	uint32_t id, len;

	for (unsigned i = 0; !drv_take(drv, 1, &id, &len); i++) {
		if (i == 400000)
			fail_msg("no answer");
		usleep(50);
	}
}

#define BATCH 8
#define BYTES 4096ULL

static void disk_up(struct md *md, struct drv *drv, struct gmem *gm)
{
	assert_true(md_negotiate(md, VDEV_F_VERSION_1));
	drv_init(drv, gm, 128, false, false);
	md_queue_set(md, 0, &drv->setup);
	md_driver_ok(md);
}

/* Offer a batch of requests, each with a page of the disk. */
static void disk_offer(struct md *md, struct drv *drv, bool write)
{
	for (unsigned i = 0; i < BATCH; i++) {
		gpa_t header = DRV_TABLE + i * 64, data = DRV_DATA + i * BYTES;
		uint64_t words[2] = {write, i * BYTES / VBLK_SECTOR_BYTES};

		memcpy(drv_at(drv, header), words, sizeof(words));
		*(uint8_t *)drv_at(drv, header + 32) = 0xee;
		drv_desc_set(drv, DRV_DESC, 4 * i, header, 16, DRV_NEXT, (uint16_t)(4 * i + 1));
		drv_desc_set(drv, DRV_DESC, 4 * i + 1, data, BYTES,
			write ? DRV_NEXT : DRV_NEXT | DRV_WRITE, (uint16_t)(4 * i + 2));
		drv_desc_set(drv, DRV_DESC, 4 * i + 2, header + 32, 1, DRV_WRITE, 0);
		drv_split_offer(drv, (uint16_t)(4 * i));
	}
	md_set(md, MD_QUEUE_NOTIFY, 0);
}

static void disk_wait(struct drv *drv)
{
	for (unsigned i = 0; i < BATCH; i++)
		used_wait(drv);
	for (unsigned i = 0; i < BATCH; i++)
		assert_int_equal(*(uint8_t *)drv_at(drv, DRV_TABLE + i * 64 + 32), 0);
}

static void disk_rounds(struct md *md, struct drv *drv, struct gmem *gm)
{
	uint8_t *data = gmem_at(gm, DRV_DATA, BATCH * BYTES);

	disk_up(md, drv, gm);
	for (unsigned round = 0; round < 60; round++) {
		for (unsigned i = 0; i < BATCH * BYTES; i++)
			data[i] = (uint8_t)(i / 512 + round);
		disk_offer(md, drv, true);
		if (round % 7 == 3) {
			/* With requests under way, which end before the reset does. */
			disk_up(md, drv, gm);
			continue;
		}
		disk_wait(drv);
		memset(data, 0, BATCH * BYTES);
		disk_offer(md, drv, false);
		disk_wait(drv);
		for (unsigned i = 0; i < BATCH * BYTES; i++)
			assert_int_equal(data[i], (uint8_t)(i / 512 + round));
		assert_true(md_get(md, MD_CONFIG) >= 256);
	}
}

static void disk_run(bool sync)
{
	char path[] = "/tmp/kvick-test-iothread-XXXXXX";
	struct vblk_params params = {.writeback = true, .queues = 1, .sync = sync};
	struct monitor mon = {.thread = thread_make("kvick disk0"), .fd = mkstemp(path)};
	struct kv_err err = {0};
	struct vblk_file file;
	struct md md = {0};
	struct drv drv;

	assert_true(mon.fd >= 0);
	assert_int_equal(ftruncate(mon.fd, 256 * VBLK_SECTOR_BYTES), 0);
	params.gm = memory_make();
	params.loop = loop_thread_loop(mon.thread);
	if (vblk_file_open(&file, path, false, false, &err))
		fail_msg("%s", err.text);
	assert_int_equal(vblk_create(&mon.blk, &params, &file), 0);
	mon.vd = vblk_vdev(mon.blk);
	assert_int_equal(md_attach(&md, mon.vd), 0);
	assert_int_equal(loop_thread_start(mon.thread, &err), 0);
	monitor_start(&mon);
	disk_rounds(&md, &drv, (struct gmem *)params.gm);
	/* The machine goes while requests are under way. */
	disk_offer(&md, &drv, true);
	monitor_end(&mon);
	loop_thread_pause(mon.thread);
	assert_int_equal(loop_thread_parked(mon.thread, LONG), 0);
	assert_int_equal(vdev_violations(mon.vd), 0);
	md_detach(&md);
	vblk_destroy(mon.blk);
	loop_thread_destroy(mon.thread);
	gmem_destroy((struct gmem *)params.gm);
	close(mon.fd);
	unlink(path);
}

static void test_disk(void **state)
{
	disk_run(false);
	disk_run(true);
}

static bool host_send(
	struct vnet_host *host, unsigned pair, const struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};

	return sendmsg(host->fds[0], &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

static ssize_t host_recv(struct vnet_host *host, unsigned pair, struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n = recvmsg(host->fds[0], &msg, MSG_TRUNC | MSG_DONTWAIT);

	return n < 0 && errno == EAGAIN ? 0 : n < 0 ? -errno : n;
}

static void host_close(struct vnet_host *host)
{
	close(host->fds[0]);
}

static const struct vnet_host_ops host_ops = {
	.send = host_send, .recv = host_recv, .close = host_close};

#define PACKET (sizeof(struct vnet_header) + 100)

static void net_up(struct md *md, struct drv drv[2], struct gmem *gm)
{
	assert_true(md_negotiate(md, VDEV_F_VERSION_1 | VNET_F_MAC));
	memset(gmem_at(gm, 0, DRV_RAM), 0, DRV_RAM);
	for (unsigned i = 0; i < 2; i++) {
		drv[i] = (struct drv){
			.gm = gm,
			.setup = {.size = 64,
				.desc = DRV_DESC + i * 0x2000,
				.driver = DRV_DRIVER + i * 0x2000,
				.device = DRV_DEVICE + i * 0x2000},
		};
		md_queue_set(md, i, &drv[i].setup);
	}
	md_driver_ok(md);
}

static void net_offer(struct md *md, struct drv drv[2], unsigned q, gpa_t gpa, uint32_t len)
{
	uint16_t at = drv[q].avail % drv[q].setup.size;

	drv_desc_set(&drv[q], drv[q].setup.desc, at, gpa, len, q ? 0 : DRV_WRITE, 0);
	drv_split_offer(&drv[q], at);
	md_set(md, MD_QUEUE_NOTIFY, q);
}

static void net_rounds(struct md *md, struct drv drv[2], struct gmem *gm, int far)
{
	uint8_t packet[PACKET] = {0}, got[PACKET];

	net_up(md, drv, gm);
	memset(packet + sizeof(struct vnet_header), 0xff, VNET_MAC_BYTES);
	for (unsigned round = 0; round < 200; round++) {
		memset(packet + sizeof(struct vnet_header) + VNET_ETH_BYTES, (int)round, 20);
		memcpy(drv_at(&drv[1], DRV_TABLE), packet, PACKET);
		net_offer(md, drv, 1, DRV_TABLE, PACKET);
		if (round % 9 == 5) {
			net_up(md, drv, gm);
			while (recv(far, got, PACKET, MSG_DONTWAIT) > 0)
				;
			continue;
		}
		assert_int_equal(recv(far, got, PACKET, 0), PACKET);
		assert_memory_equal(got, packet, PACKET);
		used_wait(&drv[1]);
		/* The buffer comes before the packet, or behind it. */
		if (round % 2)
			net_offer(md, drv, 0, DRV_DATA, 2048);
		assert_int_equal(send(far, packet, PACKET, 0), PACKET);
		if (!(round % 2))
			net_offer(md, drv, 0, DRV_DATA, 2048);
		used_wait(&drv[0]);
		packet[offsetof(struct vnet_header, num_buffers)] = 1;
		assert_memory_equal(drv_at(&drv[0], DRV_DATA), packet, PACKET);
		packet[offsetof(struct vnet_header, num_buffers)] = 0;
	}
}

static void test_net(void **state)
{
	struct vnet_host host = {.ops = &host_ops, .pair_count = 1};
	struct vnet_params params = {.name = "net0", .mac = {2, 0, 0, 0, 0, 1}};
	struct monitor mon = {.thread = thread_make("kvick net0")};
	struct kv_err err = {0};
	struct vnet *net = NULL;
	struct md md = {0};
	struct drv drv[2];
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	host.fds[0] = fds[0];
	params.gm = memory_make();
	params.loop = loop_thread_loop(mon.thread);
	assert_int_equal(vnet_create(&net, &params, &host), 0);
	mon.vd = vnet_vdev(net);
	assert_int_equal(md_attach(&md, mon.vd), 0);
	assert_int_equal(loop_thread_start(mon.thread, &err), 0);
	monitor_start(&mon);
	net_rounds(&md, drv, (struct gmem *)params.gm, fds[1]);
	monitor_end(&mon);
	loop_thread_pause(mon.thread);
	assert_int_equal(loop_thread_parked(mon.thread, LONG), 0);
	assert_int_equal(vdev_violations(mon.vd), 0);
	md_detach(&md);
	vnet_destroy(net);
	loop_thread_destroy(mon.thread);
	gmem_destroy((struct gmem *)params.gm);
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk),
		cmocka_unit_test(test_net),
	};

	return cmocka_run_group_tests_name("iothread", tests, NULL, NULL);
}
