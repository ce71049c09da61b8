/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the emulated host, whose busybox makes taps of one queue: makes the tap of the name that is
 * given, for several, which stays. With a command behind it, opens a tap of one queue and has the
 * command run with it as descriptor 7, as a program does that sets networks up for others.
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define HANDED_FD 7

int main(int argc, char **argv)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	if (argc < 2 || strlen(argv[1]) >= sizeof(ifr.ifr_name)) {
		fprintf(stderr, "usage: tap NAME [COMMAND...]\n");
		return 2;
	}
	memcpy(ifr.ifr_name, argv[1], strlen(argv[1]));
	if (argc == 2)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 ||
		(argc == 2 && ioctl(fd, TUNSETPERSIST, 1) < 0) ||
		(argc > 2 && dup2(fd, HANDED_FD) < 0)) {
		perror(argv[1]);
		return 1;
	}
	if (argc == 2)
		return 0;
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 1;
}
