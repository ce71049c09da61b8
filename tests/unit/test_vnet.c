/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/net: the network device behind its registers, over sockets instead of a tap. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "gmem/backing.h"
#include "gmem/hot.h"
#include "mmio_driver.h"
#include "virtio/net_host.h"

#define PAIRS	2
#define RX	0
#define TX	1
#define CONTROL 4
#define QUEUES	5
#define SIZE	256
#define HDR	sizeof(struct vnet_header)
#define FRAMES	0xa0000ULL /* what is sent; received buffers lie at DRV_DATA */
#define COMMAND 0xe0000ULL

/* Memory that can be unplugged, some buffers of 2 KiB in each block. */
#define HOT_AT	  0x1000000ULL
#define HOT_BLOCK 0x10000ULL
#define HOT_BYTES (4 * HOT_BLOCK)

/* The host's side: packets of a SOCK_SEQPACKET pair, whose other ends are the test's. */
struct fake {
	struct vnet_host host;
	uint64_t offloads;
	unsigned pairs;
	unsigned closed;
};

static bool fake_send(
	struct vnet_host *host, unsigned pair, const struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};

	return sendmsg(host->fds[pair], &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

static ssize_t fake_recv(struct vnet_host *host, unsigned pair, struct iovec *iov, unsigned count)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n = recvmsg(host->fds[pair], &msg, MSG_TRUNC | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	return n ? n : -EPIPE;
}

static int fake_offload(struct vnet_host *host, uint64_t offloads)
{
	((struct fake *)host)->offloads = offloads;
	return 0;
}

static int fake_pairs(struct vnet_host *host, unsigned count)
{
	((struct fake *)host)->pairs = count;
	return 0;
}

static void fake_close(struct vnet_host *host)
{
	((struct fake *)host)->closed++;
	for (unsigned i = 0; i < host->pair_count; i++)
		close(host->fds[i]);
}

static const struct vnet_host_ops fake_ops = {
	.send = fake_send,
	.recv = fake_recv,
	.offload = fake_offload,
	.pairs = fake_pairs,
	.close = fake_close,
};

struct board {
	struct fake fake;
	int far[PAIRS]; /* the test's ends */
	struct gmem *gm;
	struct vnet *net;
	struct md md;
	struct drv drv[QUEUES];
	unsigned posted[QUEUES];
};

struct how {
	bool packed;
	uint64_t features;
	uint16_t size; /* of the queues; 0: SIZE */
	bool slow;     /* one packet at a time is received */
};

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};

static void up(struct board *b, const struct how *how)
{
	assert_true(md_negotiate(&b->md, VDEV_F_VERSION_1 | VNET_F_MAC | how->features |
						 (how->packed ? VDEV_F_RING_PACKED : 0)));
	memset(gmem_at(b->gm, 0, DRV_RAM), 0, DRV_RAM);
	memset(b->posted, 0, sizeof(b->posted));
	for (unsigned i = 0; i < QUEUES; i++) {
		uint16_t size = how->size ? how->size : SIZE;

		b->drv[i] = (struct drv){
			.gm = b->gm,
			.wrap = true,
			.used_wrap = true,
			.setup = {.size = size,
				.packed = how->packed,
				.desc = DRV_DESC + i * 0x2000,
				.driver = DRV_DRIVER + i * 0x2000,
				.device = DRV_DEVICE + i * 0x2000},
		};
		md_queue_set(&b->md, i, &b->drv[i].setup);
	}
	md_driver_ok(&b->md);
	assert_false(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
	md_round(&b->md);
}

static void board_make(struct board *b, const struct how *how)
{
	struct vnet_params params = {.name = "net0", .mtu = 1500};

	if (how->slow)
		params.rx.ops = (struct limit_rate){.size = 1, .refill_ms = 100};
	*b = (struct board){0};
	memcpy(params.mac, mac, sizeof(mac));
	b->fake.host = (struct vnet_host){.ops = &fake_ops,
		.pair_count = PAIRS,
		.features = VNET_F_CSUM | VNET_GUEST_OFFLOADS};
	for (unsigned i = 0; i < PAIRS; i++) {
		int fds[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
		b->fake.host.fds[i] = fds[0];
		b->far[i] = fds[1];
	}
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(loop_create(&b->md.loop), 0);
	params.gm = b->gm;
	params.loop = b->md.loop;
	assert_int_equal(vnet_create(&b->net, &params, &b->fake.host), 0);
	assert_int_equal(md_attach(&b->md, vnet_vdev(b->net)), 0);
	up(b, how);
}

static void board_free(struct board *b)
{
	md_detach(&b->md);
	vnet_destroy(b->net);
	assert_int_equal(b->fake.closed, 1);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
	for (unsigned i = 0; i < PAIRS; i++)
		if (b->far[i] >= 0)
			close(b->far[i]);
}

/* Offer one buffer in queue @q, without a kick. */
static void post(struct board *b, unsigned q, gpa_t gpa, uint32_t len, uint16_t flags)
{
	struct drv *drv = &b->drv[q];
	uint16_t id = (uint16_t)(b->posted[q]++ % (drv->setup.size / 2));

	if (drv->setup.packed) {
		drv_packed_offer(drv, gpa, len, flags, id);
		return;
	}
	drv_desc_set(drv, drv->setup.desc, 2U * id, gpa, len, flags, 0);
	drv_split_offer(drv, (uint16_t)(2 * id));
}

static void kick(struct board *b, unsigned q)
{
	md_set(&b->md, MD_QUEUE_NOTIFY, q);
	md_round(&b->md);
	md_round(&b->md);
}

/* @count receive buffers of @len bytes, one behind the other. */
static void buffers_post(struct board *b, unsigned q, unsigned count, uint32_t len)
{
	for (unsigned i = 0; i < count; i++)
		post(b, q, DRV_DATA + (uint64_t)(b->posted[q] % (SIZE / 2)) * len, len, DRV_WRITE);
	kick(b, q);
}

static void frame_fill(uint8_t *packet, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		packet[i] = (uint8_t)(i * 13 + seed + (i >> 8));
	memset(packet, 0, HDR);
	memcpy(packet + HDR, mac, sizeof(mac));
}

static void host_sends(struct board *b, unsigned pair, const uint8_t *packet, size_t bytes)
{
	assert_int_equal(send(b->far[pair], packet, bytes, 0), bytes);
	md_round(&b->md);
	md_round(&b->md);
}

/* Take a received packet, which lies in buffers of @len bytes. Returns its bytes, 0: there is none.
 */
static size_t packet_take(struct board *b, unsigned q, uint32_t len, uint8_t *to)
{
	const struct vnet_header *header = NULL;
	unsigned left = 1;
	size_t bytes = 0;

	while (left) {
		uint32_t id, got;

		if (!drv_take(&b->drv[q], 1, &id, &got)) {
			/* All of it is there, or none of it. */
			assert_int_equal(bytes, 0);
			return 0;
		}
		if (!header) {
			header = drv_at(&b->drv[q], DRV_DATA + (uint64_t)id * len);
			left = header->num_buffers;
			assert_true(left >= 1);
		}
		memcpy(to + bytes, drv_at(&b->drv[q], DRV_DATA + (uint64_t)id * len), got);
		bytes += got;
		left--;
	}
	return bytes;
}

static void received(struct board *b, uint32_t len, const uint8_t *packet, size_t bytes)
{
	static uint8_t got[0x20000];

	assert_int_equal(packet_take(b, RX, len, got), bytes);
	assert_memory_equal(got + HDR, packet + HDR, bytes - HDR);
}

/* Every kind of ring, with and without merged buffers: what goes in comes out, in order. */
static void test_packets(void **state)
{
	static uint8_t packet[2][3000], got[4000];

	for (unsigned bits = 0; bits < 8; bits++) {
		struct how how = {
			.packed = bits & 1,
			.features = (bits & 2 ? VNET_F_MRG_RXBUF : 0) |
				    (bits & 4 ? VDEV_F_EVENT_IDX : 0),
		};
		struct board b;
		uint32_t id, len;

		board_make(&b, &how);
		for (unsigned round = 0; round < 300; round++) {
			size_t bytes = HDR + VNET_ETH_BYTES + round * 4;
			unsigned edges = b.md.edges;

			buffers_post(&b, RX, 2, 2048);
			frame_fill(packet[0], bytes, round);
			frame_fill(packet[1], bytes + 1, round + 1);
			host_sends(&b, 0, packet[0], bytes);
			/* With the event index, the driver asked for one interrupt only. */
			assert_true(b.md.edges > edges || (bits & 4 && round));
			host_sends(&b, 0, packet[1], bytes + 1);
			received(&b, 2048, packet[0], bytes);
			received(&b, 2048, packet[1], bytes + 1);
			memcpy(drv_at(&b.drv[TX], FRAMES), packet[0], bytes);
			post(&b, TX, FRAMES, (uint32_t)bytes, 0);
			kick(&b, TX);
			assert_int_equal(recv(b.far[0], got, sizeof(got), MSG_DONTWAIT), bytes);
			assert_memory_equal(got, packet[0], bytes);
			assert_true(drv_take(&b.drv[TX], 1, &id, &len));
			assert_int_equal(len, 0);
		}
		assert_int_equal(vdev_violations(vnet_vdev(b.net)), 0);
		board_free(&b);
	}
}

/* A large packet in small buffers, of which there are not enough at first. */
static void test_merging(void **state)
{
	static uint8_t packet[VNET_PACKET_MAX + 1];

	for (unsigned packed = 0; packed < 2; packed++) {
		struct how how = {
			.packed = packed,
			.features = VNET_F_MRG_RXBUF | VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4,
		};
		size_t bytes = 60000;
		struct board b;
		uint8_t got[8];

		board_make(&b, &how);
		frame_fill(packet, sizeof(packet), 7);
		buffers_post(&b, RX, 10, 1536);
		host_sends(&b, 0, packet, bytes);
		assert_int_equal(packet_take(&b, RX, 1536, got), 0);
		buffers_post(&b, RX, 20, 1536);
		assert_int_equal(packet_take(&b, RX, 1536, got), 0);
		buffers_post(&b, RX, 40, 1536);
		received(&b, 1536, packet, bytes);
		/* The largest one, and one that is too large. */
		buffers_post(&b, RX, 50, 1536);
		host_sends(&b, 0, packet, VNET_PACKET_MAX + 1);
		host_sends(&b, 0, packet, VNET_PACKET_MAX);
		received(&b, 1536, packet, VNET_PACKET_MAX);
		assert_int_equal(packet_take(&b, RX, 1536, got), 0);
		assert_int_equal(vdev_violations(vnet_vdev(b.net)), 0);
		board_free(&b);
	}
}

/* A packet that all of the ring's buffers cannot hold is dropped; it does not block the others. */
static void test_too_large(void **state)
{
	static uint8_t packet[60000], got[64];
	struct how how = {
		.features = VNET_F_MRG_RXBUF | VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4, .size = 16};
	struct board b;

	board_make(&b, &how);
	frame_fill(packet, sizeof(packet), 1);
	for (unsigned i = 0; i < 16; i++) {
		drv_desc_set(&b.drv[RX], DRV_DESC, i, DRV_DATA + i * 2048, 2048, DRV_WRITE, 0);
		drv_split_offer(&b.drv[RX], (uint16_t)i);
	}
	kick(&b, RX);
	host_sends(&b, 0, packet, sizeof(packet));
	assert_int_equal(packet_take(&b, RX, 2048, got), 0);
	host_sends(&b, 0, packet, 60);
	assert_int_equal(packet_take(&b, RX, 2048, got), 60);
	/* Without merging, what does not fit in one buffer. */
	how = (struct how){0};
	up(&b, &how);
	buffers_post(&b, RX, 2, 1526);
	host_sends(&b, 0, packet, 1527);
	host_sends(&b, 0, packet, HDR + VNET_ETH_BYTES - 1);
	assert_int_equal(packet_take(&b, RX, 1526, got), 0);
	host_sends(&b, 0, packet, HDR + VNET_ETH_BYTES);
	assert_int_equal(packet_take(&b, RX, 1526, got), HDR + VNET_ETH_BYTES);
	board_free(&b);
}

/* Run a control command. Returns the answer. */
static uint8_t command(
	struct board *b, uint8_t class, uint8_t cmd, const void *data, uint32_t bytes)
{
	struct drv *drv = &b->drv[CONTROL];
	uint8_t *at = drv_at(drv, COMMAND);
	uint32_t id, len;

	at[0] = class;
	at[1] = cmd;
	memcpy(at + 2, data, bytes);
	at[0x800] = 0xee;
	drv_offer(drv, (uint16_t)(b->posted[CONTROL]++ % 100), COMMAND, 2 + bytes, COMMAND + 0x800,
		1);
	kick(b, CONTROL);
	assert_true(drv_take(drv, 2, &id, &len));
	assert_int_equal(len, 1);
	return at[0x800];
}

#define CTRL_FEATURES                                                                              \
	(VNET_F_CTRL_VQ | VNET_F_CTRL_RX | VNET_F_CTRL_RX_EXTRA | VNET_F_CTRL_MAC_ADDR |           \
		VNET_F_MQ | VNET_F_CTRL_GUEST_OFFLOADS | VNET_GUEST_OFFLOADS)

/* Is a frame to @to let through? */
static bool passes(struct board *b, const uint8_t to[6])
{
	uint8_t packet[64] = {0}, got[2048];

	memcpy(packet + HDR, to, 6);
	buffers_post(b, RX, 1, 2048);
	host_sends(b, 0, packet, sizeof(packet));
	return packet_take(b, RX, 2048, got) > 0;
}

static void test_filter(void **state)
{
	static const uint8_t other[6] = {2, 0, 0, 0, 0, 9}, all[6] = {255, 255, 255, 255, 255, 255},
			     group[6] = {1, 0, 0x5e, 0, 0, 1}, group2[6] = {1, 0, 0x5e, 0, 0, 2};
	struct how how = {.features = CTRL_FEATURES};
	uint8_t on = 1, off = 0, table[4 + 6 + 4 + 6] = {1, 0, 0, 0}, big[8 + 6 * 65] = {0};
	struct board b;

	board_make(&b, &how);
	assert_true(passes(&b, other) && passes(&b, group) && passes(&b, all));
	assert_int_equal(command(&b, 0, 0, &off, 1), 0);
	assert_true(passes(&b, mac) && passes(&b, all));
	assert_false(passes(&b, other) || passes(&b, group));
	memcpy(table + 4, other, 6);
	table[10] = 1;
	memcpy(table + 14, group, 6);
	assert_int_equal(command(&b, 1, 0, table, sizeof(table)), 0);
	assert_true(passes(&b, other) && passes(&b, group));
	assert_false(passes(&b, group2));
	/* Tables that are none change nothing. */
	assert_int_equal(command(&b, 1, 0, table, sizeof(table) - 1), 1);
	table[0] = 0xff;
	assert_int_equal(command(&b, 1, 0, table, sizeof(table)), 1);
	assert_int_equal(command(&b, 1, 0, table, 3), 1);
	assert_true(passes(&b, other));
	/* More than there is room for: all pass. */
	big[4] = 65;
	assert_int_equal(command(&b, 1, 0, big, sizeof(big)), 0);
	assert_true(passes(&b, group2));
	assert_false(passes(&b, other));
	assert_int_equal(command(&b, 0, 2, &on, 1), 0);
	assert_true(passes(&b, other));
	for (uint8_t mode = 3; mode <= 5; mode++)
		assert_int_equal(command(&b, 0, mode, &on, 1), 0);
	assert_false(passes(&b, other) || passes(&b, group) || passes(&b, all));
	assert_int_equal(command(&b, 0, 6, &on, 1), 1);
	assert_int_equal(command(&b, 0, 0, table, 2), 1);
	assert_int_equal(command(&b, 7, 0, &on, 1), 1);
	/* A reset forgets it all. */
	up(&b, &how);
	assert_true(passes(&b, other) && passes(&b, group));
	board_free(&b);
}

static void test_commands(void **state)
{
	struct how how = {.features = CTRL_FEATURES};
	uint64_t offloads = VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4;
	uint8_t other[6] = {2, 0, 0, 0, 0, 9}, packet[100] = {0}, got[2048];
	uint16_t pairs = 2, none = 0, many = 3;
	struct board b;

	board_make(&b, &how);
	assert_int_equal(b.fake.offloads, VNET_GUEST_OFFLOADS);
	assert_int_equal(command(&b, 5, 0, &offloads, 8), 0);
	assert_int_equal(b.fake.offloads, offloads);
	offloads = 1ULL << 40;
	assert_int_equal(command(&b, 5, 0, &offloads, 8), 1);
	assert_int_equal(command(&b, 1, 1, other, 6), 0);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG, got, 4);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG + 4, got + 4, 2);
	assert_memory_equal(got, other, 6);
	assert_int_equal(command(&b, 4, 0, &none, 2), 1);
	assert_int_equal(command(&b, 4, 0, &many, 2), 1);
	/* Nothing comes to the second pair until it is used. */
	buffers_post(&b, 2, 4, 2048);
	host_sends(&b, 1, packet, sizeof(packet));
	assert_int_equal(packet_take(&b, 2, 2048, got), 0);
	assert_int_equal(command(&b, 4, 0, &pairs, 2), 0);
	assert_int_equal(b.fake.pairs, 2);
	md_round(&b.md);
	assert_int_equal(packet_take(&b, 2, 2048, got), sizeof(packet));
	host_sends(&b, 1, packet, sizeof(packet));
	assert_int_equal(packet_take(&b, 2, 2048, got), sizeof(packet));
	pairs = 1;
	assert_int_equal(command(&b, 4, 0, &pairs, 2), 0);
	host_sends(&b, 1, packet, sizeof(packet));
	assert_int_equal(packet_take(&b, 2, 2048, got), 0);
	/* Without the feature, the control queue is the third, and there is no such command. */
	how.features &= ~(VNET_F_MQ | VNET_F_CTRL_MAC_ADDR);
	up(&b, &how);
	assert_int_equal(b.fake.pairs, 1);
	drv_offer(&b.drv[2], 0, COMMAND, 4, COMMAND + 0x800, 1);
	memcpy(drv_at(&b.drv[2], COMMAND), "\4\0\1\0", 4);
	kick(&b, 2);
	assert_int_equal(*(uint8_t *)drv_at(&b.drv[2], COMMAND + 0x800), 1);
	bus_mmio_read(b.md.bus, MD_BASE + MD_CONFIG, got, 4);
	assert_memory_equal(got, mac, 4);
	board_free(&b);
}

/* Buffers of a pair that is not used for a while are still there when it is used again. */
static void test_pairs_back(void **state)
{
	const uint16_t one = 1, two = 2;

	for (unsigned packed = 0; packed < 2; packed++) {
		struct how how = {.features = CTRL_FEATURES | VNET_F_MRG_RXBUF, .packed = packed};
		uint8_t packet[100], got[2048];
		struct board b;

		board_make(&b, &how);
		frame_fill(packet, sizeof(packet), 3);
		buffers_post(&b, 2, 100, 2048);
		for (unsigned round = 0; round < 100; round++) {
			assert_int_equal(command(&b, 4, 0, &two, 2), 0);
			host_sends(&b, 1, packet, sizeof(packet));
			assert_int_equal(packet_take(&b, 2, 2048, got), sizeof(packet));
			assert_memory_equal(got + HDR, packet + HDR, sizeof(packet) - HDR);
			assert_int_equal(command(&b, 4, 0, &one, 2), 0);
		}
		assert_int_equal(vdev_violations(vnet_vdev(b.net)), 0);
		board_free(&b);
	}
}

static bool needs_reset(struct board *b)
{
	return md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET;
}

/* A driver that breaks the rules stops its device, which says so once, until the reset. */
static void test_broken(void **state)
{
	struct how how = {.features = CTRL_FEATURES};
	uint8_t packet[100] = {0}, got[2048];
	struct board b;

	board_make(&b, &how);
	post(&b, TX, FRAMES, HDR - 1, 0);
	kick(&b, TX);
	assert_true(needs_reset(&b));
	assert_int_equal(recv(b.far[0], got, sizeof(got), MSG_DONTWAIT), -1);
	/* Nothing is received either, and nobody spins. */
	buffers_post(&b, RX, 1, 2048);
	host_sends(&b, 0, packet, sizeof(packet));
	assert_int_equal(packet_take(&b, RX, 2048, got), 0);
	up(&b, &how);
	post(&b, RX, DRV_DATA, HDR - 1, DRV_WRITE);
	kick(&b, RX);
	assert_true(needs_reset(&b));
	up(&b, &how);
	post(&b, RX, DRV_RAM, 2048, DRV_WRITE);
	kick(&b, RX);
	assert_true(needs_reset(&b));
	up(&b, &how);
	post(&b, CONTROL, COMMAND, 2, 0);
	kick(&b, CONTROL);
	assert_true(needs_reset(&b));
	assert_int_equal(vdev_violations(vnet_vdev(b.net)), 4);
	up(&b, &how);
	/* What came meanwhile is still there. */
	buffers_post(&b, RX, 1, 2048);
	assert_int_equal(packet_take(&b, RX, 2048, got), sizeof(packet));
	board_free(&b);
}

/* A host that takes no more for a while loses nothing and keeps the order. */
static void test_blocked(void **state)
{
	struct how how = {.features = VDEV_F_EVENT_IDX};
	unsigned sent = 0, got = 0;
	struct board b;
	int room = 4096;

	board_make(&b, &how);
	setsockopt(b.fake.host.fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	for (unsigned i = 0; i < 100; i++) {
		uint8_t *at = drv_at(&b.drv[TX], FRAMES + i * 2048);

		frame_fill(at, 1000, i);
		at[500] = (uint8_t)i;
		post(&b, TX, FRAMES + i * 2048, 1000, 0);
	}
	kick(&b, TX);
	for (unsigned round = 0; round < 1000 && got < 100; round++) {
		uint8_t packet[2048];
		uint32_t id, len;

		if (recv(b.far[0], packet, sizeof(packet), MSG_DONTWAIT) == 1000)
			assert_int_equal(packet[500], got++);
		md_round(&b.md);
		while (drv_take(&b.drv[TX], 1, &id, &len))
			assert_int_equal(id, sent++);
		assert_true(sent >= got);
		if (!round)
			assert_true(sent < 100);
	}
	assert_int_equal(got, 100);
	assert_int_equal(sent, 100);
	board_free(&b);
}

/* The host's side ends: the driver is told, and what it sends goes nowhere. */
static void test_lost(void **state)
{
	for (unsigned starved = 0; starved < 2; starved++) {
		struct how how = {.features = VNET_F_STATUS};
		uint32_t id, len;
		unsigned edges;
		struct board b;

		board_make(&b, &how);
		assert_int_equal(md_get(&b.md, MD_CONFIG + 4) >> 16 & 1, 1);
		if (!starved)
			buffers_post(&b, RX, 4, 2048);
		edges = b.md.edges;
		close(b.far[0]);
		b.far[0] = -1;
		md_round(&b.md);
		assert_int_equal(b.md.edges, edges + 1);
		assert_int_equal(md_get(&b.md, MD_CONFIG + 4) >> 16, 0);
		post(&b, TX, FRAMES, 100, 0);
		kick(&b, TX);
		assert_true(drv_take(&b.drv[TX], 1, &id, &len));
		up(&b, &how);
		assert_int_equal(b.md.edges, edges + 2);
		board_free(&b);
	}
}

/* Resets and lost queues with packets under way. */
static void test_reset_under_way(void **state)
{
	static uint8_t packet[60000], got[2048];
	struct how how = {.features = VNET_F_MRG_RXBUF | VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4};
	struct board b;

	board_make(&b, &how);
	frame_fill(packet, sizeof(packet), 3);
	for (unsigned round = 0; round < 40; round++) {
		unsigned edges;

		buffers_post(&b, RX, round % 20, 1536);
		/* Held half received. */
		host_sends(&b, 0, packet, sizeof(packet));
		if (round & 1) {
			md_set(&b.md, MD_QUEUE_SEL, RX);
			md_set(&b.md, MD_QUEUE_READY, 0);
		}
		md_set(&b.md, MD_STATUS, 0);
		edges = b.md.edges;
		memset(drv_at(&b.drv[RX], DRV_DATA), 0, 0x10000);
		host_sends(&b, 0, packet, 100);
		assert_int_equal(b.md.edges, edges);
		for (unsigned i = 0; i < 0x10000; i++)
			assert_int_equal(((uint8_t *)drv_at(&b.drv[RX], DRV_DATA))[i], 0);
		up(&b, &how);
		/* What waits at the host: here, the short packet at least. */
		while (recv(b.fake.host.fds[0], got, sizeof(got), MSG_DONTWAIT) > 0)
			;
	}
	board_free(&b);
}

/* Plug all of the memory that can be unplugged. Returns its place on the host. */
static uint8_t *hot_plug(struct board *b, struct gmem_hot **hot)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	const struct gmem_hot_params params = {
		.gpa = HOT_AT,
		.bytes = HOT_BYTES,
		.block_bytes = HOT_BLOCK,
		.window_bytes = HOT_BYTES,
		.backing = &anon,
	};

	assert_int_equal(gmem_hot_add(hot, b->gm, &params, NULL), 0);
	assert_int_equal(gmem_hot_plug(*hot, HOT_AT, HOT_BYTES), 0);
	return gmem_at(b->gm, HOT_AT, HOT_BYTES);
}

/* As the memory device and the machine do. */
static void hot_unplug(struct board *b, struct gmem_hot *hot, unsigned block)
{
	assert_int_equal(
		gmem_hot_begin(hot, GMEM_HOT_UNPLUG, HOT_AT + block * HOT_BLOCK, HOT_BLOCK), 0);
	vdev_memory_changed(vnet_vdev(b->net));
	while (gmem_hot_turn(hot) > 0)
		;
}

static void nothing_written(const uint8_t *host, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		assert_int_equal(host[i], 0);
}

/* Buffers that the device has taken already are no memory any more: nothing comes into them. */
static void test_unplugged(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct how how = {.packed = bits & 1, .features = bits & 2 ? VNET_F_MRG_RXBUF : 0};
		struct gmem_hot *hot;
		uint8_t packet[1500], *host;
		struct board b;

		board_make(&b, &how);
		host = hot_plug(&b, &hot);
		frame_fill(packet, sizeof(packet), 5);
		buffers_post(&b, RX, 1, 2048);
		for (unsigned i = 0; i < 4; i++)
			post(&b, RX, HOT_AT + i * HOT_BLOCK, 2048, DRV_WRITE);
		kick(&b, RX);
		/* All are looked at, once one of them is needed. */
		host_sends(&b, 0, packet, sizeof(packet));
		received(&b, 2048, packet, sizeof(packet));
		hot_unplug(&b, hot, 0);
		host_sends(&b, 0, packet, sizeof(packet));
		nothing_written(host, HOT_BLOCK);
		assert_true(needs_reset(&b));
		assert_int_equal(vdev_violations(vnet_vdev(b.net)), 1);
		up(&b, &how);
		buffers_post(&b, RX, 1, 2048);
		received(&b, 2048, packet, sizeof(packet));
		board_free(&b);
	}
}

/* A packet that waits for more buffers stays whole when memory goes that it does not lie in. */
static void test_unplugged_half_way(void **state)
{
	static uint8_t packet[60000];

	for (unsigned packed = 0; packed < 2; packed++) {
		struct how how = {
			.packed = packed,
			.features = VNET_F_MRG_RXBUF | VNET_F_GUEST_CSUM | VNET_F_GUEST_TSO4,
		};
		struct gmem_hot *hot;
		struct board b;
		uint8_t got[8], *host;

		board_make(&b, &how);
		host = hot_plug(&b, &hot);
		frame_fill(packet, sizeof(packet), 9);
		for (unsigned i = 0; i < 3; i++) {
			buffers_post(&b, RX, 10, 1536);
			if (!i)
				host_sends(&b, 0, packet, sizeof(packet));
			else
				hot_unplug(&b, hot, i);
			/* Before the device has looked again, and after. */
			if (i == 2)
				md_round(&b.md);
			assert_int_equal(packet_take(&b, RX, 1536, got), 0);
		}
		buffers_post(&b, RX, 20, 1536);
		received(&b, 1536, packet, sizeof(packet));
		/* One that lies in what goes is lost, with the device. */
		buffers_post(&b, RX, 10, 1536);
		post(&b, RX, HOT_AT + 3 * HOT_BLOCK, HOT_BLOCK / 4, DRV_WRITE);
		kick(&b, RX);
		host_sends(&b, 0, packet, sizeof(packet));
		assert_false(needs_reset(&b));
		hot_unplug(&b, hot, 3);
		buffers_post(&b, RX, 40, 1536);
		assert_true(needs_reset(&b));
		nothing_written(host, HOT_BYTES);
		assert_int_equal(packet_take(&b, RX, 1536, got), 0);
		board_free(&b);
	}
}

/* The same with one that waits for its limit, in a driver that takes one buffer for each. */
static void test_unplugged_waiting(void **state)
{
	for (unsigned bits = 0; bits < 4; bits++) {
		struct how how = {.packed = bits & 1,
			.features = bits & 2 ? VNET_F_MRG_RXBUF : 0,
			.slow = true};
		struct gmem_hot *hot;
		uint8_t packet[3][1500], got[2048];
		struct board b;
		size_t bytes;

		board_make(&b, &how);
		hot_plug(&b, &hot);
		for (unsigned i = 0; i < 3; i++)
			frame_fill(packet[i], sizeof(packet[i]), 20 + i);
		buffers_post(&b, RX, 8, 1526);
		host_sends(&b, 0, packet[0], sizeof(packet[0]));
		received(&b, 1526, packet[0], sizeof(packet[0]));
		host_sends(&b, 0, packet[1], sizeof(packet[1]));
		host_sends(&b, 0, packet[2], sizeof(packet[2]));
		for (unsigned i = 0; i < 4; i++)
			hot_unplug(&b, hot, i);
		for (unsigned i = 1; i < 3; i++) {
			while (!(bytes = packet_take(&b, RX, 1526, got)))
				md_round(&b.md);
			assert_int_equal(bytes, sizeof(packet[i]));
			assert_memory_equal(got + HDR, packet[i] + HDR, sizeof(packet[i]) - HDR);
		}
		assert_int_equal(vdev_violations(vnet_vdev(b.net)), 0);
		board_free(&b);
	}
}

static void test_config(void **state)
{
	struct how how = {.features = VNET_F_MTU | VNET_F_MQ};
	struct board b;

	board_make(&b, &how);
	assert_int_equal(md_get(&b.md, MD_CONFIG + 8), 1500 << 16 | PAIRS);
	assert_true(md_features(&b.md) & VNET_F_CTRL_GUEST_OFFLOADS);
	assert_false(md_features(&b.md) & VNET_F_HOST_TSO4);
	board_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_packets),
		cmocka_unit_test(test_merging),
		cmocka_unit_test(test_too_large),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_commands),
		cmocka_unit_test(test_pairs_back),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_blocked),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_reset_under_way),
		cmocka_unit_test(test_unplugged),
		cmocka_unit_test(test_unplugged_half_way),
		cmocka_unit_test(test_unplugged_waiting),
		cmocka_unit_test(test_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
