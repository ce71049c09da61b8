/* SPDX-License-Identifier: Apache-2.0 */
/*
 * talk SOCKET STEP...: speaks HTTP to a control socket where there is nothing else that does. A
 * step is "METHOD PATH BODY", whose answer is printed as a line of status and body, or "sleep MS".
 * Ends with 1 when nobody listens.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int ask(const char *path, const char *step)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char verb[16], target[256], body[512] = "";
	static char text[65536];
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), len, used = 0;
	ssize_t n;
	char *end;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (sscanf(step, "%15s %255s %511[^\n]", verb, target, body) < 2 ||
		connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -1;
	len = snprintf(text, sizeof(text),
		"%s %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", verb,
		target, strlen(body), body);
	if (write(fd, text, (size_t)len) != len)
		return -1;
	while ((n = read(fd, text + used, sizeof(text) - 1 - (size_t)used)) > 0)
		used += (int)n;
	close(fd);
	text[used] = 0;
	end = strstr(text, "\r\n\r\n");
	if (used < 12 || !end)
		return -1;
	printf("%.3s %s\n", text + 9, end + 4);
	return fflush(stdout);
}

int main(int argc, char **argv)
{
	for (int i = 2; i < argc; i++) {
		if (!strncmp(argv[i], "sleep ", 6))
			usleep((useconds_t)atoi(argv[i] + 6) * 1000);
		else if (ask(argv[1], argv[i]))
			return 1;
	}
	return 0;
}
