/* SPDX-License-Identifier: Apache-2.0 */
/* virtio/net_host: the network device's host sides, passt and taps. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "virtio/net_host.h"

#define HDR sizeof(struct vnet_header)

/*
 * A program in passt's place, first on the PATH. Returns the folder, for path_drop(). Without
 * @script there is none at all.
 */
static char *path_make(const char *script)
{
	static char folder[64], name[80];
	FILE *f;

	strcpy(folder, "/tmp/kvick-test-net-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(name, sizeof(name), "%s/passt", folder);
	if (script) {
		f = fopen(name, "w");
		fprintf(f,
			"#!/bin/bash\nPATH=/usr/bin:/bin\nwhile (($#)); do case $1 in -F) "
			"sock=$2 ;; -P) pid=$2 ;; esac; shift; done\n%s",
			script);
		fclose(f);
		assert_int_equal(chmod(name, 0755), 0);
	}
	setenv("PATH", folder, 1);
	return folder;
}

static void path_drop(char *folder)
{
	char name[80];

	snprintf(name, sizeof(name), "%s/passt", folder);
	unlink(name);
	assert_int_equal(rmdir(folder), 0);
	setenv("PATH", "/usr/bin:/bin", 1);
}

/* What can go wrong with passt, in a sentence each. */
static void test_user_errors(void **state)
{
	struct vnet_forward forward = {.guest = 80};
	struct vnet_user_params params = {.forwards = &forward, .mtu = 1500};
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t len = sizeof(address);
	struct vnet_host *host = NULL;
	struct kv_err err = {0};
	char *folder = path_make(NULL);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(vnet_user_open(&host, &params, &err), -ENOENT);
	assert_non_null(strstr(err.text, "apt-get install passt"));
	path_drop(folder);
	folder =
		path_make("echo 'Failed to send 5 bytes to syslog' >&2; echo 'No way' >&2; exit 1");
	assert_int_equal(vnet_user_open(&host, &params, &err), -EIO);
	assert_string_equal(err.text, "passt does not start: No way");
	path_drop(folder);
	folder = path_make("exit 1");
	assert_int_equal(vnet_user_open(&host, &params, &err), -EIO);
	assert_non_null(strstr(err.text, "without a word"));
	assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	forward.host = ntohs(address.sin_port);
	params.forward_count = 1;
	assert_int_equal(vnet_user_open(&host, &params, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "of this host is taken"));
	close(fd);
	path_drop(folder);
	/* It says that it is ready, but does not listen. */
	folder = path_make("echo $$ >$pid; exec sleep 9");
	assert_int_equal(vnet_user_open(&host, &params, &err), -EACCES);
	assert_non_null(strstr(err.text, "passt cannot listen at TCP port"));
	path_drop(folder);
	assert_null(host);
}

/* Packets of all lengths through something that sends all back, more than the socket holds. */
static void test_user(void **state)
{
	static uint8_t packet[70000];
	struct vnet_user_params params = {.mtu = 1500};
	unsigned sent = 0, got = 0, blocked = 0;
	struct vnet_host *host = NULL;
	struct kv_err err = {0};
	char *folder = path_make("echo $$ >$pid; exec cat <&$sock >&$sock");
	ssize_t n;

	if (vnet_user_open(&host, &params, &err))
		fail_msg("%s", err.text);
	for (unsigned round = 0; got < 300 && round < 1000000; round++) {
		struct iovec out[2] = {{packet, 20}, {packet + 20, sent * 221 % 65000}}, in[3];

		memset(packet, (int)sent, sizeof(packet));
		memset(packet, 0xff, HDR);
		if (sent < 300 && host->ops->send(host, 0, out, 2))
			sent++;
		else if (sent < 300)
			blocked++;
		if (host->pending && round % 3)
			host->ops->flush(host);
		if (sent < 300 && !blocked)
			continue;
		in[0] = (struct iovec){packet, 7};
		in[1] = (struct iovec){packet + 7, 30};
		in[2] = (struct iovec){packet + 37, sizeof(packet) - 37};
		n = host->ops->recv(host, 0, in, 3);
		if (!n)
			continue;
		/* Shorter than a frame is not sent. */
		while (20 + got * 221 % 65000 < HDR + VNET_ETH_BYTES)
			got++;
		assert_int_equal(n, 20 + got * 221 % 65000);
		for (unsigned i = 0; i < (size_t)n; i++)
			assert_int_equal(packet[i], i < HDR ? 0 : (uint8_t)got);
		got++;
	}
	assert_int_equal(got, 300);
	assert_true(blocked > 0);
	vnet_host_close(host);
	path_drop(folder);
}

/* A passt that ends, and one that sends no frames. */
static void test_user_lost(void **state)
{
	static uint8_t packet[70000];
	struct vnet_user_params params = {.mtu = 1500};
	struct vnet_host *host = NULL;
	struct kv_err err = {0};
	char *folder;
	ssize_t n;

	for (unsigned i = 0; i < 2; i++) {
		struct iovec in = {packet, sizeof(packet)};

		folder = path_make(
			i ? "echo $$ >$pid; printf '\\377\\377\\377\\377' >&$sock; sleep 9"
			  : "echo $$ >$pid");
		if (vnet_user_open(&host, &params, &err))
			fail_msg("%s", err.text);
		do {
			n = host->ops->recv(host, 0, &in, 1);
		} while (!n);
		assert_int_equal(n, i ? -EBADMSG : -EPIPE);
		vnet_host_close(host);
		path_drop(folder);
	}
}

static void test_tap(void **state)
{
	struct ifreq ifr = {.ifr_name = "kvtest%d", .ifr_flags = IFF_TAP | IFF_NO_PI};
	struct vnet_host *host = NULL;
	struct kv_err err = {0};
	int fd;

	assert_int_equal(vnet_tap_open(&host, "kvnosuch0", 1, &err), -ENODEV);
	assert_non_null(strstr(err.text, "ip tuntap add kvnosuch0 mode tap user"));
	assert_int_equal(vnet_tap_open(&host, "kvnosuch0", 2, &err), -ENODEV);
	assert_non_null(strstr(err.text, "multi_queue"));
	assert_int_equal(vnet_fd_open(&host, 9999, &err), -EBADF);
	fd = open("/dev/null", O_RDWR);
	assert_int_equal(vnet_fd_open(&host, fd, &err), -EINVAL);
	assert_non_null(strstr(err.text, "no tap"));
	close(fd);
	fd = open("/dev/net/tun", O_RDWR);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0) {
		print_message("taps cannot be created here\n");
		skip();
	}
	/* One that is in use, without the header; and the loopback, which is none. */
	assert_int_equal(vnet_tap_open(&host, ifr.ifr_name, 1, &err), -EBUSY);
	assert_non_null(strstr(err.text, "in use"));
	assert_int_equal(vnet_fd_open(&host, fd, &err), -EINVAL);
	assert_non_null(strstr(err.text, "IFF_VNET_HDR"));
	assert_int_equal(vnet_tap_open(&host, "lo", 1, &err), -EINVAL);
	assert_non_null(strstr(err.text, "lo is no tap"));
	close(fd);
	fd = open("/dev/net/tun", O_RDWR);
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	assert_int_equal(ioctl(fd, TUNSETIFF, &ifr), 0);
	assert_int_equal(vnet_fd_open(&host, fd, &err), 0);
	vnet_host_close(host);
}

/* A queue of a tap that cannot be attached: those before it are as they were. */
static void test_tap_half_way(void **state)
{
	struct ifreq ifr = {.ifr_name = "kvtest%d",
		.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE};
	struct ifreq attach = {.ifr_flags = IFF_ATTACH_QUEUE};
	struct ifreq detach = {.ifr_flags = IFF_DETACH_QUEUE};
	int fd = open("/dev/net/tun", O_RDWR);
	struct vnet_host *host = NULL;
	struct kv_err err = {0};

	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0) {
		print_message("taps cannot be created here\n");
		skip();
	}
	if (vnet_tap_open(&host, ifr.ifr_name, 4, &err))
		fail_msg("%s", err.text);
	/* What is attached cannot be attached again. */
	assert_int_equal(ioctl(host->fds[2], TUNSETQUEUE, &attach), 0);
	assert_int_equal(host->ops->pairs(host, 4), -EINVAL);
	assert_int_equal(ioctl(host->fds[2], TUNSETQUEUE, &detach), 0);
	assert_int_equal(ioctl(host->fds[1], TUNSETQUEUE, &attach), 0);
	assert_int_equal(ioctl(host->fds[1], TUNSETQUEUE, &detach), 0);
	assert_int_equal(host->ops->pairs(host, 4), 0);
	assert_int_equal(host->ops->pairs(host, 1), 0);
	vnet_host_close(host);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_user_errors),
		cmocka_unit_test(test_user),
		cmocka_unit_test(test_user_lost),
		cmocka_unit_test(test_tap),
		cmocka_unit_test(test_tap_half_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
