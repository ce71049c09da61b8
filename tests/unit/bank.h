/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_TESTS_BANK_H
#define KV_TESTS_BANK_H

/* A lender for memory devices' tests, which lends at most @most pieces at a time. */
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gmem/hot.h"

#define BANK_PIECES 64

struct bank {
	uint64_t bytes; /* of a piece */
	unsigned most, lent;
	int fds[BANK_PIECES];
};

static inline int bank_lend(void *ctx, unsigned index)
{
	struct bank *bank = ctx;

	assert_in_range(index, 0, BANK_PIECES - 1);
	assert_int_equal(bank->fds[index], 0);
	if (bank->lent == bank->most)
		return -EAGAIN;
	bank->lent++;
	bank->fds[index] = memfd_create("piece", MFD_CLOEXEC);
	assert_int_equal(ftruncate(bank->fds[index], (off_t)bank->bytes), 0);
	return bank->fds[index];
}

static inline void bank_back(void *ctx, unsigned index)
{
	struct bank *bank = ctx;

	bank->lent--;
	close(bank->fds[index]);
	bank->fds[index] = 0;
}

#endif
