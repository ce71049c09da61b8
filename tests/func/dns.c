/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dns ADDRESS: a name server where there is nothing else that is one. It answers each question for
 * an IPv4 address that comes to ADDRESS with 192.0.2.53.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define DNS_PORT 53
#define DNS_HEAD 12

static int dns(const char *address)
{
	/* RFC 1035 §4.1.3: the name of the question, A, IN, a minute, 4 bytes. */
	static const unsigned char record[] = {
		0xc0, DNS_HEAD, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53};
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(DNS_PORT)}, from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	here.sin_addr.s_addr = inet_addr(address);
	if (bind(fd, (struct sockaddr *)&here, sizeof(here)) < 0) {
		perror("bind");
		return 1;
	}
	for (;;) {
		unsigned char packet[512 + sizeof(record)];
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, packet, 512, 0, (struct sockaddr *)&from, &len);

		if (n < DNS_HEAD)
			return 1;
		packet[2] |= 0x80; /* an answer, with one record */
		packet[7] = 1;
		memcpy(packet + n, record, sizeof(record));
		sendto(fd, packet, (size_t)n + sizeof(record), 0, (struct sockaddr *)&from, len);
	}
}

int main(int argc, char **argv)
{
	return argc == 2 ? dns(argv[1]) : 2;
}
