/* SPDX-License-Identifier: Apache-2.0 */
/* For the emulated host, whose busybox makes taps of one queue: makes the tap of the name that is
 * given, for several, which stays. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE};
	int fd = open("/dev/net/tun", O_RDWR);

	if (argc != 2 || strlen(argv[1]) >= sizeof(ifr.ifr_name)) {
		fprintf(stderr, "usage: tap NAME\n");
		return 2;
	}
	memcpy(ifr.ifr_name, argv[1], strlen(argv[1]));
	if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETPERSIST, 1) < 0) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
