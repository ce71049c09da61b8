/* SPDX-License-Identifier: Apache-2.0 */
/* Areas whose memory somebody lends, piece by piece. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "gmem/internal.h"

struct gmem_lent {
	const struct gmem_region *rg; /* [c] */
	struct gmem_lender lender;    /* [c] */
	unsigned count;		      /* [c] */
	int fds[];		      /* [l] one more than the descriptor; 0: not there */
};

int gmem_lent_create(
	struct gmem_lent **ret, const struct gmem_region *rg, const struct gmem_lender *lender)
{
	uint64_t count = (rg->bytes + lender->bytes - 1) / lender->bytes;
	struct gmem_lent *lent;

	if (count > UINT32_MAX)
		return -EINVAL;
	lent = calloc(1, sizeof(*lent) + count * sizeof(lent->fds[0]));
	if (!lent)
		return -ENOMEM;
	lent->rg = rg;
	lent->lender = *lender;
	lent->count = (unsigned)count;
	*ret = lent;
	return 0;
}

void gmem_lent_destroy(struct gmem_lent *lent)
{
	if (!lent)
		return;
	for (unsigned i = 0; i < lent->count; i++)
		if (lent->fds[i])
			lent->lender.back(lent->lender.ctx, i);
	free(lent);
}

/* The bytes of piece @index in the area: the last one may be shorter than what is lent. */
static uint64_t piece_len(const struct gmem_lent *lent, unsigned index)
{
	uint64_t left = lent->rg->bytes - index * lent->lender.bytes;

	return left < lent->lender.bytes ? left : lent->lender.bytes;
}

static int piece_get(struct gmem_lent *lent, unsigned index)
{
	uint8_t *host = lent->rg->host + index * lent->lender.bytes;
	uint64_t len = piece_len(lent, index);
	int fd = lent->lender.lend(lent->lender.ctx, index), r = 0;

	if (fd < 0)
		return fd;
	if (mmap(host, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		r = -errno;
	if (!r)
		r = gmem_region_tune(lent->rg, host, len, false);
	lent->fds[index] = fd + 1;
	return r;
}

/* What a device still writes there for a driver that unplugged too early is lost. */
static void piece_put(struct gmem_lent *lent, unsigned index)
{
	uint8_t *host = lent->rg->host + index * lent->lender.bytes;
	uint64_t len = piece_len(lent, index);

	/* A mapping that cannot be replaced keeps its pages: the lender must not have them. */
	if (mmap(host, len, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		return;
	lent->fds[index] = 0;
	lent->lender.back(lent->lender.ctx, index);
}

/* The part of [@at, @at + @bytes), offsets in the area, that lies in the piece of @at. */
static uint64_t part_len(const struct gmem_lent *lent, uint64_t at, uint64_t bytes)
{
	uint64_t left = lent->lender.bytes - at % lent->lender.bytes;

	return bytes < left ? bytes : left;
}

int gmem_lent_in(struct gmem_lent *lent, uint64_t at, uint64_t bytes)
{
	int r = 0;

	for (uint64_t len; !r && bytes; at += len, bytes -= len) {
		unsigned index = (unsigned)(at / lent->lender.bytes);

		len = part_len(lent, at, bytes);
		if (!lent->fds[index])
			r = piece_get(lent, index);
		/* What was unplugged before is a hole: a shortage shows now, not as a SIGBUS. */
		if (!r && fallocate(lent->fds[index] - 1, 0, (off_t)(at % lent->lender.bytes),
				  (off_t)len) < 0)
			r = -errno;
	}
	return r;
}

void gmem_lent_out(struct gmem_lent *lent, const struct gmem_hot *hot, uint64_t at, uint64_t bytes)
{
	for (uint64_t len; bytes; at += len, bytes -= len) {
		unsigned index = (unsigned)(at / lent->lender.bytes);

		len = part_len(lent, at, bytes);
		if (!lent->fds[index])
			continue;
		if (!gmem_hot_used(hot, index * lent->lender.bytes, piece_len(lent, index)))
			piece_put(lent, index);
		else
			fallocate(lent->fds[index] - 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(at % lent->lender.bytes), (off_t)len);
	}
}
