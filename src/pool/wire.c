/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/num.h"

/* What a request may set, beside magic, version and type. */
struct shape {
	uint32_t flags; /* those it knows */
	bool index, count, bytes;
};

static bool shape_of(uint16_t type, struct shape *shape)
{
	*shape = (struct shape){0};
	switch (type) {
	case POOL_LEASE:
		shape->flags = POOL_WAIT | POOL_LAZY | POOL_RENEW;
		shape->bytes = true;
		return true;
	case POOL_FETCH:
		shape->index = true;
		return true;
	case POOL_WROTE:
		shape->index = shape->count = true;
		return true;
	case POOL_GROW:
	case POOL_SHRINK:
		shape->bytes = true;
		return true;
	case POOL_END:
	case POOL_STATUS:
	case POOL_DRAIN:
	case POOL_QUIET:
		return true;
	default:
		return false;
	}
}

int pool_check(const void *packet, size_t len)
{
	struct pool_msg msg;
	struct shape shape;

	if (len < sizeof(msg))
		return -EBADMSG;
	memcpy(&msg, packet, sizeof(msg));
	if (msg.magic != POOL_MAGIC || msg.version != POOL_VERSION || !shape_of(msg.type, &shape))
		return -EBADMSG;
	if ((msg.flags & ~shape.flags) || (msg.index && !shape.index) ||
		(msg.count && !shape.count) || (msg.bytes && !shape.bytes) || msg.error ||
		msg.chunk_bytes || msg.page_bytes)
		return -EBADMSG;
	if ((shape.bytes && !msg.bytes) || msg.count > POOL_SPANS_MAX)
		return -EBADMSG;
	if (len != sizeof(msg) + msg.count * sizeof(struct pool_span))
		return -EBADMSG;
	return 0;
}

int pool_send(int fd, const void *packet, size_t len, const int *fds, unsigned fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(POOL_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = (void *)packet, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (fd_count > POOL_FDS_MAX)
		return -EMSGSIZE;
	if (fd_count) {
		struct cmsghdr *cmsg = &control.align;

		memset(&control, 0, CMSG_SPACE(fd_count * sizeof(int)));
		*cmsg = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(fd_count * sizeof(int)),
			.cmsg_level = SOL_SOCKET,
			.cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
	}
	do {
		n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}
