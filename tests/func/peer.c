/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What busybox lacks, for tests in the emulated host; a static program.
 *
 *   peer dns ADDRESS
 *	answers each question for an IPv4 address that comes to ADDRESS with 192.0.2.53
 *
 *   peer ask SOCKET METHOD PATH BODY
 *	sends an HTTP request over a Unix socket and prints the answer
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

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

static int ask(char **argv)
{
	struct sockaddr_un there = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char text[1024];
	ssize_t n;

	snprintf(there.sun_path, sizeof(there.sun_path), "%s", argv[0]);
	if (connect(fd, (struct sockaddr *)&there, sizeof(there)) < 0) {
		perror(argv[0]);
		return 1;
	}
	dprintf(fd,
		"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
		"%zu\r\n\r\n%s",
		argv[1], argv[2], strlen(argv[3]), argv[3]);
	while ((n = read(fd, text, sizeof(text))) > 0)
		fwrite(text, 1, (size_t)n, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "dns"))
		return dns(argv[2]);
	return argc == 6 && !strcmp(argv[1], "ask") ? ask(argv + 2) : 2;
}
