/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network device's queues: rings, buffers, headers and commands are the input's, and packets of
 * some sizes come from the host meanwhile. No packet may leave that is larger than any can be.
 *
 * Input: one byte of set-up, one of the packets that come, then guest memory with the rings at
 * fixed positions; the driver kicks every queue a few times. Buffers may lie behind that, in memory
 * that is unplugged half-way: nothing comes there afterwards.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gmem/backing.h"
#include "gmem/hot.h"
#include "loop/loop.h"
#include "virtio/net_host.h"

#define RAM_BYTES  0x4000ULL
#define RING_BYTES 0x300ULL
#define QUEUE_SIZE 16
#define PAIRS_MAX  2
#define ROUNDS	   4
#define HOT_BYTES  0x4000ULL /* from RAM_BYTES on */

enum set_up {
	SET_PAIRS = 1,
	SET_SPLIT = 2,
	SET_UNMERGED = 4,
	SET_SLOW = 8,
	SET_MTU = 16,
	SET_UNPLUG = 32
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
	if (!good)
		abort();
}

static bool host_send(
	struct vnet_host *host, unsigned pair, const struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
	size_t bytes = 0;

	for (unsigned i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	check(bytes >= sizeof(struct vnet_header) && bytes <= VNET_PACKET_MAX);
	return sendmsg(host->fds[pair], &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

static ssize_t host_recv(struct vnet_host *host, unsigned pair, struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n = recvmsg(host->fds[pair], &msg, MSG_TRUNC | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	return n ? n : -EPIPE;
}

static int host_pairs(struct vnet_host *host, unsigned count)
{
	check(count >= 1 && count <= host->pair_count);
	return 0;
}

static void host_close(struct vnet_host *host)
{
	for (unsigned i = 0; i < host->pair_count; i++)
		close(host->fds[i]);
}

static const struct vnet_host_ops host_ops = {
	.send = host_send,
	.recv = host_recv,
	.pairs = host_pairs,
	.close = host_close,
};

static void stop(void *ctx)
{
	loop_stop(ctx);
}

static void loop_round(struct loop *loop)
{
	if (!loop_post(loop, stop, loop))
		loop_run(loop);
}

/* Packets come on @fd, and what was sent leaves. */
static void traffic(int fd, uint8_t kind)
{
	static const uint8_t packet[40000] = {[12 ... 39999] = 0xff};
	static const uint16_t sizes[] = {12, 13, 26, 60, 1526, 4096, 9012, sizeof(packet)};
	char left;

	for (unsigned i = 0; i < (kind >> 3 & 3); i++)
		send(fd, packet, sizes[(kind + i) & 7], MSG_DONTWAIT | MSG_NOSIGNAL);
	while (recv(fd, &left, sizeof(left), MSG_DONTWAIT) > 0)
		;
}

/* Memory behind RAM, all of it plugged. */
static struct gmem_hot *hot_make(struct gmem *gm)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	const struct gmem_hot_params params = {
		.gpa = RAM_BYTES,
		.bytes = HOT_BYTES,
		.block_bytes = HOT_BYTES,
		.window_bytes = HOT_BYTES,
		.backing = &anon,
	};
	struct gmem_hot *hot = NULL;

	check(!gmem_hot_add(&hot, gm, &params, NULL) && !gmem_hot_plug(hot, RAM_BYTES, HOT_BYTES));
	return hot;
}

static void unplug(struct gmem_hot *hot, struct vdev *vd)
{
	check(!gmem_hot_begin(hot, GMEM_HOT_UNPLUG, RAM_BYTES, HOT_BYTES));
	vdev_memory_changed(vd);
	while (gmem_hot_turn(hot) > 0)
		;
}

static void drive(struct vdev *vd, struct loop *loop, const uint8_t *data, const int *far,
	struct gmem_hot *hot)
{
	struct vq_setup setups[2 * PAIRS_MAX + 1];
	unsigned pairs = data[0] & SET_PAIRS ? 2 : 1, queues = 2 * pairs + 1;
	uint64_t features = vdev_offered(vd);

	for (unsigned i = 0; i < queues; i++)
		setups[i] = (struct vq_setup){
			.size = QUEUE_SIZE,
			.desc = i * RING_BYTES,
			.driver = i * RING_BYTES + 0x100,
			.device = i * RING_BYTES + 0x200,
		};
	if (data[0] & SET_SPLIT)
		features &= ~VDEV_F_RING_PACKED;
	if (data[0] & SET_UNMERGED)
		features &= ~VNET_F_MRG_RXBUF;
	vdev_status_write(vd, 3, 0, setups);
	vdev_status_write(vd, 11, features, setups);
	vdev_status_write(vd, 15, features, setups);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < pairs; i++)
			traffic(far[i], data[1]);
		for (unsigned i = 0; i < queues; i++)
			vdev_kick(vd, queues - 1 - i);
		loop_round(loop);
		if (hot && round == ROUNDS / 2 - 1)
			unplug(hot, vd);
	}
	vdev_status_write(vd, 0, 0, setups);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vnet_params params = {.name = "fuzz", .mac = {2, 0, 0, 0, 0, 1}};
	struct vnet_host host = {.ops = &host_ops, .features = VNET_F_CSUM | VNET_GUEST_OFFLOADS};
	struct vnet *net = NULL;
	struct loop *loop = NULL;
	struct gmem_hot *hot = NULL;
	const uint8_t *gone = NULL;
	struct gmem *gm = NULL;
	int far[PAIRS_MAX];

	if (size < 2)
		return 0;
	check(!gmem_create(&gm, NULL) && !gmem_add_ram(gm, 0, RAM_BYTES, NULL) &&
		!loop_create(&loop));
	memcpy(gmem_at(gm, 0, RAM_BYTES), data + 2, size - 2 < RAM_BYTES ? size - 2 : RAM_BYTES);
	if (data[0] & SET_UNPLUG) {
		hot = hot_make(gm);
		gone = gmem_at(gm, RAM_BYTES, HOT_BYTES);
	}
	host.pair_count = data[0] & SET_PAIRS ? 2 : 1;
	for (unsigned i = 0; i < host.pair_count; i++) {
		int fds[2];

		check(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds));
		host.fds[i] = fds[0];
		far[i] = fds[1];
	}
	params.gm = gm;
	params.loop = loop;
	params.mtu = data[0] & SET_MTU ? 1500 : 0;
	if (data[0] & SET_SLOW)
		params.rx.ops = params.tx.bytes =
			(struct limit_rate){.size = 100, .refill_ms = 1000};
	check(!vnet_create(&net, &params, &host));
	drive(vnet_vdev(net), loop, data, far, hot);
	for (unsigned i = 0; hot && i < HOT_BYTES; i++)
		check(!gone[i]);
	vnet_destroy(net);
	for (unsigned i = 0; i < host.pair_count; i++)
		close(far[i]);
	loop_destroy(loop);
	gmem_destroy(gm);
	return 0;
}
