/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/net_vhost: queues that the host's kernel serves, over a real tap, where there is
 * vhost-net. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "gmem/hot.h"
#include "mmio_driver.h"
#include "virtio/net_host.h"

#define PAIRS	   2
#define RX	   0
#define TX	   1
#define CONTROL	   4
#define QUEUES	   5
#define SIZE	   256
#define BUFFERS	   (SIZE / 2) /* of a queue: drv_take() tells of every second descriptor */
#define HDR	   sizeof(struct vnet_header)
#define FRAMES	   0xa0000ULL
#define COMMAND	   0xc0000ULL
#define BUF	   1024
#define NEEDS_CSUM 1	  /* VIRTIO_NET_HDR_F_NEEDS_CSUM */
#define PROTOCOL   0x88b5 /* for experiments: no other frames are of it */
#define FRAME_LEN  200
#define WAIT_MS	   20000
#define FEATURES   (VDEV_F_VERSION_1 | VNET_F_MAC | VNET_F_MRG_RXBUF | VNET_F_CTRL_VQ | VNET_F_STATUS)

/* Memory that comes and goes. */
#define HOT_BASE   (4 * GIB)
#define HOT_BLOCK  (2 * MIB)
#define HOT_WINDOW GIB
#define HOT_BYTES  (200 * GIB)

struct board {
	int tap; /* keeps the interface */
	int raw; /* a packet socket at it */
	char name[IFNAMSIZ];
	struct gmem *gm;
	struct gmem_hot *hot;
	struct vnet *net;
	struct md md;
	struct drv drv[QUEUES];
	unsigned posted[QUEUES];
};

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};

/* Set the device up, with its rings in memory from @at on. */
static void up_at(struct board *b, uint64_t features, gpa_t at)
{
	assert_true(md_negotiate(&b->md, features));
	memset(gmem_at(b->gm, 0, DRV_RAM), 0, DRV_RAM);
	memset(gmem_at(b->gm, at, DRV_RAM), 0, DRV_RAM);
	memset(b->posted, 0, sizeof(b->posted));
	for (unsigned i = 0; i < QUEUES; i++) {
		b->drv[i] = (struct drv){
			.gm = b->gm,
			.setup = {.size = SIZE,
				.desc = at + DRV_DESC + i * 0x2000,
				.driver = at + DRV_DRIVER + i * 0x2000,
				.device = at + DRV_DEVICE + i * 0x2000},
		};
		md_queue_set(&b->md, i, &b->drv[i].setup);
	}
	md_driver_ok(&b->md);
	assert_false(md_get(&b->md, MD_STATUS) & VDEV_NEEDS_RESET);
}

static void up(struct board *b)
{
	up_at(b, FEATURES, 0);
}

/* Offer one buffer in queue @q and kick. */
static void post(struct board *b, unsigned q, gpa_t gpa, uint32_t len, uint16_t flags)
{
	uint16_t head = (uint16_t)(2 * (b->posted[q]++ % BUFFERS));

	drv_desc_set(&b->drv[q], b->drv[q].setup.desc, head, gpa, len, flags, 0);
	drv_split_offer(&b->drv[q], head);
	md_set(&b->md, MD_QUEUE_NOTIFY, q);
}

static gpa_t rx_buffer(unsigned q, unsigned id)
{
	return DRV_DATA + (q * BUFFERS / 2 + id % BUFFERS) * BUF;
}

/* A buffer for a frame, in receive queue @q. */
static void buffer_post(struct board *b, unsigned q)
{
	post(b, q, rx_buffer(q, b->posted[q]), BUF, DRV_WRITE);
}

/* The device has given the next buffer of queue @q back. Its number is in *@id. */
static bool used(struct board *b, unsigned q, uint32_t *id, uint32_t *len)
{
	for (unsigned i = 0; i < WAIT_MS; i++) {
		md_round(&b->md);
		if (drv_take(&b->drv[q], 1, id, len))
			return true;
		usleep(1000);
	}
	return false;
}

static void frame_fill(uint8_t frame[FRAME_LEN], unsigned seed)
{
	for (unsigned i = 0; i < FRAME_LEN; i++)
		frame[i] = (uint8_t)(i * 13 + seed);
	memset(frame, 0xff, sizeof(mac));
	memcpy(frame + sizeof(mac), mac, sizeof(mac));
	frame[12] = PROTOCOL >> 8;
	frame[13] = PROTOCOL & 0xff;
}

static void frame_post(struct board *b, unsigned q, unsigned seed)
{
	frame_fill(gmem_at(b->gm, FRAMES + HDR, FRAME_LEN), seed);
	post(b, q, FRAMES, HDR + FRAME_LEN, 0);
}

static bool frame_comes(struct board *b, unsigned seed, int ms)
{
	struct pollfd fd = {.fd = b->raw, .events = POLLIN};
	uint8_t want[FRAME_LEN], got[BUF];

	if (poll(&fd, 1, ms) <= 0)
		return false;
	frame_fill(want, seed);
	assert_int_equal(recv(b->raw, got, sizeof(got), 0), FRAME_LEN);
	assert_memory_equal(got, want, FRAME_LEN);
	return true;
}

/* A frame of the guest's, by transmit queue @q. */
static void transmit(struct board *b, unsigned q, unsigned seed)
{
	uint32_t id, len;

	frame_post(b, q, seed);
	assert_true(frame_comes(b, seed, WAIT_MS));
	assert_true(used(b, q, &id, &len));
}

static void host_sends(struct board *b, unsigned seed)
{
	uint8_t frame[FRAME_LEN];

	frame_fill(frame, seed);
	assert_int_equal(send(b->raw, frame, sizeof(frame), 0), sizeof(frame));
}

/* Is the frame in buffer @id of queue @q the one that the host sent, and not one of its own? */
static bool frame_is(struct board *b, unsigned q, uint32_t id, uint32_t len, unsigned seed)
{
	uint8_t *got = gmem_at(b->gm, rx_buffer(q, id), BUF), frame[FRAME_LEN];

	frame_fill(frame, seed);
	if (memcmp(got + HDR + 12, frame + 12, 2))
		return false;
	assert_int_equal(len, HDR + FRAME_LEN);
	assert_memory_equal(got + HDR, frame, FRAME_LEN);
	assert_int_equal(((struct vnet_header *)got)->num_buffers, 1);
	return true;
}

/* A frame for the guest. */
static void receive(struct board *b, unsigned seed)
{
	unsigned edges = b->md.edges;
	uint32_t id = 0, len = 0;

	host_sends(b, seed);
	do {
		buffer_post(b, RX);
		assert_true(used(b, RX, &id, &len));
	} while (!frame_is(b, RX, id, len, seed));
	/* It comes behind the buffer. */
	for (unsigned i = 0; i < WAIT_MS && b->md.edges == edges; i++) {
		md_round(&b->md);
		usleep(1000);
	}
	assert_true(b->md.edges > edges);
}

/* Run a control command in queue @q. Returns the answer. */
static uint8_t command(
	struct board *b, unsigned q, uint8_t class, uint8_t cmd, const void *data, uint32_t bytes)
{
	uint8_t *at = gmem_at(b->gm, COMMAND, BUF);
	uint32_t id, len;

	at[0] = class;
	at[1] = cmd;
	memcpy(at + 2, data, bytes);
	at[BUF / 2] = 0xee;
	drv_offer(&b->drv[q], (uint16_t)(b->posted[q]++ % BUFFERS), COMMAND, 2 + bytes,
		COMMAND + BUF / 2, 1);
	md_set(&b->md, MD_QUEUE_NOTIFY, q);
	assert_true(used(b, q, &id, &len));
	return at[BUF / 2];
}

static void wait_for_status(struct board *b, uint32_t bit)
{
	for (unsigned i = 0; i < WAIT_MS && !(md_get(&b->md, MD_STATUS) & bit); i++) {
		md_round(&b->md);
		usleep(1000);
	}
	assert_true(md_get(&b->md, MD_STATUS) & bit);
}

/* A tap with several queues that is up, and a socket at it. */
static struct vnet_host *tap_make(struct board *b)
{
	struct ifreq ifr = {.ifr_name = "kvtest%d",
		.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE};
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL)};
	struct vnet_host *host = NULL;
	struct kv_err err = {0};

	b->tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	assert_true(b->tap >= 0);
	assert_int_equal(ioctl(b->tap, TUNSETIFF, &ifr), 0);
	memcpy(b->name, ifr.ifr_name, sizeof(b->name));
	/* It lives as long as it is open, but nothing is to be sent to the test. */
	ifr.ifr_flags = IFF_DETACH_QUEUE;
	assert_int_equal(ioctl(b->tap, TUNSETQUEUE, &ifr), 0);
	if (vnet_tap_open(&host, b->name, PAIRS, &err))
		fail_msg("%s", err.text);
	b->raw = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	assert_true(b->raw >= 0);
	/* A socket at an interface that is down has an error to tell first. */
	ifr.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(b->raw, SIOCSIFFLAGS, &ifr), 0);
	at.sll_ifindex = (int)if_nametoindex(b->name);
	assert_int_equal(bind(b->raw, (struct sockaddr *)&at, sizeof(at)), 0);
	return host;
}

/* Skips the test where there is no vhost-net, or only for others. */
static void board_make(struct board *b)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	struct gmem_hot_params hot = {
		.gpa = HOT_BASE,
		.bytes = HOT_BYTES,
		.block_bytes = HOT_BLOCK,
		.window_bytes = HOT_WINDOW,
		.backing = &anon,
	};
	struct vnet_params params = {.name = "net0"};
	struct kv_err err = {0};

	*b = (struct board){0};
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, DRV_RAM, NULL), 0);
	assert_int_equal(gmem_hot_add(&b->hot, b->gm, &hot, &err), 0);
	if (vnet_vhost_open(&params.vhost, b->gm, PAIRS, &err)) {
		assert_non_null(strstr(err.text, "vhost: /dev/vhost-net "));
		assert_non_null(strstr(err.text, "vhost=off does without"));
		gmem_destroy(b->gm);
		print_message("%s\n", err.text);
		skip();
	}
	assert_int_equal(loop_create(&b->md.loop), 0);
	memcpy(params.mac, mac, sizeof(mac));
	params.gm = b->gm;
	params.loop = b->md.loop;
	assert_int_equal(vnet_create(&b->net, &params, tap_make(b)), 0);
	assert_int_equal(md_attach(&b->md, vnet_vdev(b->net)), 0);
	assert_false(md_features(&b->md) & VDEV_F_RING_PACKED);
	up(b);
	print_message("vhost-net serves the queues\n");
}

static void board_free(struct board *b)
{
	md_detach(&b->md);
	vnet_destroy(b->net);
	loop_destroy(b->md.loop);
	gmem_destroy(b->gm);
	close(b->raw);
	close(b->tap);
}

/* Packets both ways, and again after each reset. */
static void test_packets(void **state)
{
	struct board b;

	board_make(&b);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 2 * SIZE; i++) {
			transmit(&b, TX, i);
			receive(&b, i + 1);
		}
		up(&b);
	}
	/* A queue that is taken away alone. */
	md_set(&b.md, MD_QUEUE_SEL, TX);
	md_set(&b.md, MD_QUEUE_READY, 0);
	frame_post(&b, TX, 1);
	assert_false(frame_comes(&b, 1, 50));
	receive(&b, 2);
	assert_int_equal(vdev_violations(vnet_vdev(b.net)), 0);
	board_free(&b);
}

/* Nothing moves in a pause, and nothing is lost. */
static void test_pause(void **state)
{
	uint32_t id, len;
	struct board b;

	board_make(&b);
	for (unsigned round = 0; round < 5; round++) {
		transmit(&b, TX, round);
		receive(&b, round);
		vdev_pause(vnet_vdev(b.net), true);
		frame_post(&b, TX, round);
		assert_false(frame_comes(&b, round, 50));
		vdev_pause(vnet_vdev(b.net), false);
		assert_true(frame_comes(&b, round, WAIT_MS));
		assert_true(used(&b, TX, &id, &len));
	}
	/* A reset in between is one. */
	vdev_pause(vnet_vdev(b.net), true);
	up(&b);
	vdev_pause(vnet_vdev(b.net), false);
	transmit(&b, TX, 9);
	board_free(&b);
}

/* What is against the rules: a buffer outside guest RAM. */
static void test_broken(void **state)
{
	struct board b;

	board_make(&b);
	for (unsigned round = 0; round < 3; round++) {
		transmit(&b, TX, round);
		post(&b, TX, DRV_RAM + 0x1000, HDR + FRAME_LEN, 0);
		wait_for_status(&b, VDEV_NEEDS_RESET);
		assert_int_equal(vdev_violations(vnet_vdev(b.net)), round + 1);
		frame_post(&b, TX, 1);
		assert_false(frame_comes(&b, 1, 20));
		/* A pause does not make up for the reset. */
		vdev_pause(vnet_vdev(b.net), true);
		vdev_pause(vnet_vdev(b.net), false);
		assert_false(frame_comes(&b, 1, 20));
		up(&b);
	}
	transmit(&b, TX, 7);
	receive(&b, 8);
	board_free(&b);
}

/* What is no packet is given back, as one that is sent is, and those behind it are sent. */
static void test_no_packets(void **state)
{
	struct vnet_header *header;
	struct board b;
	uint32_t id, len;

	board_make(&b);
	for (unsigned round = 0; round < 3; round++) {
		header = gmem_at(b.gm, FRAMES, sizeof(*header));
		memset(header, 0, sizeof(*header));
		post(&b, TX, FRAMES, 5, 0);
		assert_true(used(&b, TX, &id, &len));
		post(&b, TX, FRAMES, HDR, 0);
		assert_true(used(&b, TX, &id, &len));
		*header = (struct vnet_header){
			.flags = NEEDS_CSUM, .csum_start = 60000, .csum_offset = 6};
		post(&b, TX, FRAMES, HDR + FRAME_LEN, 0);
		assert_true(used(&b, TX, &id, &len));
		memset(header, 0, sizeof(*header));
		transmit(&b, TX, round);
	}
	assert_int_equal(vdev_violations(vnet_vdev(b.net)), 0);
	board_free(&b);
}

/* Does a frame to UDP port @port come to receive queue @q, and how often? */
static unsigned udp_taken(struct board *b, unsigned q, uint16_t port)
{
	uint32_t id = 0, len = 0;
	unsigned count = 0;

	while (drv_take(&b->drv[q], 1, &id, &len)) {
		const uint8_t *frame = (uint8_t *)gmem_at(b->gm, rx_buffer(q, id), BUF) + HDR;

		count += frame[12] == 8 && !frame[13] && frame[36] == port >> 8 &&
			 frame[37] == (port & 0xff);
	}
	return count;
}

/* Frames of many flows, which the kernel spreads over the queues in use. Returns how many. */
static unsigned udp_send(struct board *b, uint16_t port)
{
	uint8_t frame[60] = {[12] = 8, [14] = 0x45, [17] = 46, [22] = 64, [23] = 17, [39] = 26};
	const uint8_t addresses[] = {192, 0, 2, 1, 192, 0, 2, 2};
	struct sockaddr_ll to = {.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = (int)if_nametoindex(b->name)};
	unsigned count = BUFFERS / 4;

	memset(frame, 0xff, sizeof(mac));
	memcpy(frame + 26, addresses, sizeof(addresses));
	frame[36] = (uint8_t)(port >> 8);
	frame[37] = (uint8_t)port;
	for (unsigned i = 0; i < count; i++) {
		frame[35] = (uint8_t)i;
		assert_int_equal(
			sendto(b->raw, frame, sizeof(frame), 0, (struct sockaddr *)&to, sizeof(to)),
			sizeof(frame));
	}
	return count;
}

/* The second pair is served while the driver uses it. */
static void test_pairs(void **state)
{
	const uint16_t one = 1, two = 2, port = 9999;
	unsigned found[PAIRS] = {0}, sent;
	struct board b;

	board_make(&b);
	for (unsigned round = 0; round < 3; round++) {
		up_at(&b, FEATURES | VNET_F_MQ, 0);
		transmit(&b, TX, 1);
		frame_post(&b, TX + 2, 2);
		assert_false(frame_comes(&b, 2, 20));
		assert_int_equal(command(&b, CONTROL, 4, 0, &two, 2), 0);
		assert_true(frame_comes(&b, 2, WAIT_MS));
		transmit(&b, TX, 3);
		assert_int_equal(command(&b, CONTROL, 4, 0, &one, 2), 0);
		transmit(&b, TX, 5);
		assert_int_equal(command(&b, CONTROL, 4, 0, &two, 2), 0);
	}
	for (unsigned i = 0; i < PAIRS * BUFFERS / 2; i++)
		buffer_post(&b, RX + i % PAIRS * 2);
	sent = udp_send(&b, port);
	for (unsigned i = 0; i < WAIT_MS && found[0] + found[1] < sent; i++) {
		usleep(1000);
		md_round(&b.md);
		for (unsigned j = 0; j < PAIRS; j++)
			found[j] += udp_taken(&b, RX + 2 * j, port);
	}
	assert_int_equal(found[0] + found[1], sent);
	assert_true(found[0] && found[1]);
	/* A driver without the feature has its control queue in the second pair's place. */
	up(&b);
	assert_int_equal(command(&b, 2, 1, 1, mac, sizeof(mac)), 1);
	transmit(&b, TX, 8);
	receive(&b, 9);
	assert_int_equal(command(&b, 2, 4, 0, &two, 2), 1);
	transmit(&b, TX, 10);
	board_free(&b);
}

/* Rings and packets in memory that was plugged. */
static void test_memory(void **state)
{
	uint64_t plugged = 0;
	struct board b;
	int r = 0;

	board_make(&b);
	assert_int_equal(gmem_hot_plug(b.hot, HOT_BASE, 2 * HOT_BLOCK), 0);
	up_at(&b, FEATURES, HOT_BASE);
	transmit(&b, TX, 1);
	receive(&b, 2);
	memcpy(gmem_at(b.gm, HOT_BASE + HOT_BLOCK, HDR + FRAME_LEN), gmem_at(b.gm, FRAMES, HDR),
		HDR);
	frame_fill(gmem_at(b.gm, HOT_BASE + HOT_BLOCK + HDR, FRAME_LEN), 3);
	post(&b, TX, HOT_BASE + HOT_BLOCK, HDR + FRAME_LEN, 0);
	assert_true(frame_comes(&b, 3, WAIT_MS));
	/* Rings that are gone. */
	assert_int_equal(gmem_hot_unplug(b.hot, HOT_BASE, HOT_BLOCK), 0);
	vdev_memory_changed(vnet_vdev(b.net));
	assert_true(md_get(&b.md, MD_STATUS) & VDEV_NEEDS_RESET);
	up(&b);
	transmit(&b, TX, 4);
	/* Packets in what is no memory of the guest's any more. */
	assert_int_equal(gmem_hot_unplug(b.hot, HOT_BASE + HOT_BLOCK, HOT_BLOCK), 0);
	post(&b, TX, HOT_BASE + HOT_BLOCK, HDR + FRAME_LEN, 0);
	wait_for_status(&b, VDEV_NEEDS_RESET);
	up(&b);
	/* As many windows as the kernel takes beside RAM, and one too many. */
	while (plugged < HOT_BYTES) {
		r = gmem_hot_plug(b.hot, HOT_BASE + plugged, HOT_BLOCK);
		if (r < 0)
			break;
		plugged += HOT_WINDOW;
		transmit(&b, TX, 5);
	}
	assert_int_equal(r, -E2BIG);
	assert_int_equal(plugged / HOT_WINDOW, vnet_vhost_pieces() - 1);
	transmit(&b, TX, 6);
	receive(&b, 7);
	gmem_hot_clear(b.hot);
	assert_int_equal(gmem_hot_plug(b.hot, HOT_BASE, HOT_BLOCK), 0);
	receive(&b, 8);
	board_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_packets),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_broken),
		cmocka_unit_test(test_no_packets),
		cmocka_unit_test(test_pairs),
		cmocka_unit_test(test_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
