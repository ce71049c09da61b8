/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_GMEM_FILL_H
#define KV_GMEM_FILL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "gmem/internal.h"
#include "gmem/populate.h"

/* The inside of struct gmem_fill, for the files of gmem/ (and their tests). */

/* Memory of one kind. Pieces follow each other in the order of guest addresses. */
struct fill_piece {
	uint8_t *host;
	uint64_t bytes;
	uint64_t start;	     /* bytes of all pieces before it */
	uint64_t page_bytes; /* of the pages that will be allocated: 4 KiB, 2 MiB, 1 GiB */
	bool file;	     /* an image's pages: mapped in, never written */
	bool fresh;	     /* takes memory that nobody has reserved */
	bool own;	     /* private RAM of GMEM_ANON */
	bool advise;	     /* huge pages are to be asked for first */
	bool skip;	     /* left as it is */
};

/* An overlay or a range of small pages adds two pieces at most. */
#define FILL_PIECES_MAX (GMEM_REGIONS_MAX + 4 * OVERLAYS_MAX)

struct fill_thread {
	struct gmem_fill *fill;
	unsigned index;
	pthread_t thread;
	_Atomic pid_t tid; /* [a] 0: it has not begun; only of the background's */
};

struct gmem_fill {
	unsigned piece_count;			   /* [c] */
	struct fill_piece pieces[FILL_PIECES_MAX]; /* [c] */
	uint64_t span_bytes;			   /* [c] of all pieces: what slices divide */
	uint64_t total_bytes;			   /* [c] of the pieces to allocate */
	const struct gmem *gm;			   /* [c] */
	uint64_t nodes;				   /* [c] */
	bool touch;				   /* [c] */
	bool huge_only;				   /* [c] */
	bool idle;				   /* [c] once started: gmem_fill_ready() */
	unsigned threads_asked;			   /* [c] 0: thread_count is our own choice */
	unsigned thread_count;			   /* [c] and as many slices */
	unsigned started;			   /* threads to join; the owner's */
	struct fill_thread *threads;		   /* [c] once started */
	void (*done)(void *ctx, int result);	   /* [c] */
	void *done_ctx;				   /* [c] */
	_Atomic uint64_t done_bytes;		   /* [a] */
	_Atomic unsigned slices_begun;		   /* [a] may count further than there are */
	pthread_mutex_t lock;			   /* guards what follows; taken last */
	pthread_cond_t changed;			   /* slices_left or begun */
	unsigned slices_left;			   /* [lock] that have not ended */
	bool begun;	    /* [lock] the background's threads need not wait */
	_Atomic int result; /* [a] the first failure */
	_Atomic bool stop;  /* [a] */
};

/* pieces.c: fill the list of pieces and the sums from what @gm has. */
void gmem_pieces_find(struct gmem_fill *fill, struct gmem *gm);

/* pieces.c: ask the kernel for huge pages where pieces want it. */
void gmem_pieces_advise(const struct gmem_fill *fill);

/*
 * pieces.c: where slice @part of @parts begins (@part == @parts: where the last one ends), as a
 * position in all pieces laid end to end; never decreases with @part, and never inside a huge page.
 */
uint64_t gmem_fill_bound(const struct gmem_fill *fill, unsigned part, unsigned parts);

/* pieces.c: how far one system call may go from @host in @piece, bytes. */
uint64_t gmem_fill_step(
	const struct gmem_fill *fill, const struct fill_piece *piece, const uint8_t *host);

#endif
