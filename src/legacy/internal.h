/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_LEGACY_INTERNAL_H
#define KV_LEGACY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <termios.h>

#include "legacy/chardev.h"

/* Shared by the files of the character device alone. */

#define CHARDEV_RING_BYTES  (256 * 1024)
#define CHARDEV_INPUT_BYTES 4096
#define CHARDEV_CHUNK_BYTES 4096 /* what one system call writes or reads at most */

/*
 * One direction. Descriptors that others share keep their file status flags: O_NONBLOCK set on an
 * inherited terminal or pipe would break its other users. Such an end is opened anew through /proc
 * when it is first needed, which gives file status flags of its own.
 */
struct chardev_end {
	int fd;			    /* -1: nobody there */
	bool own;		    /* closed with the device */
	bool inherited;		    /* to be opened anew before use */
	bool socket;		    /* send() and recv() take the flag that forbids waiting */
	bool may_wait;		    /* fd blocks: ask poll() before each write */
	uint32_t events;	    /* watched for, when there is a source */
	struct loop_source *source; /* or NULL */
};

enum chardev_out {
	CHARDEV_OUT_IDLE,  /* nothing to write: who adds something sets the flush timer */
	CHARDEV_OUT_ARMED, /* the flush timer is set */
	CHARDEV_OUT_HELD,  /* waits for the other side to take more, or to come */
};

struct chardev {
	struct loop *loop;     /* [c] */
	char *name;	       /* [c] or NULL */
	bool terminal;	       /* [c] descriptor 0 is a terminal in raw mode: escape keys */
	struct termios cooked; /* [c] the terminal's settings before that */
	int peer_fd;	       /* [c] pty: the other side, held open so that it never hangs up */

	struct chardev_ops ops;		 /* [l] */
	struct loop_source *in_timer;	 /* [l] (set by any thread) goes on with input */
	struct loop_source *flush_timer; /* [l] (set by any thread) */
	struct chardev_end in;		 /* [l] */
	struct chardev_end out;		 /* [l] */
	bool in_direct;			 /* [l] input cannot be polled: read without asking */
	bool escape;			 /* [l] Ctrl-A was typed */
	size_t held_start, held_used;	 /* [l] of held[] */

	int listen_fd;			   /* [c] unix: or -1 */
	struct loop_source *listen_source; /* [l] NULL while there is a client */
	dev_t path_dev;			   /* [c] unix: the socket's place in the file system */
	ino_t path_ino;			   /* [c] */

	pthread_mutex_t lock; /* guards all below; taken after the device's, before the loop's */
	enum chardev_out state;
	uint8_t *ring; /* NULL until the first byte */
	size_t ring_start, ring_used;
	_Atomic uint64_t dropped; /* [a] written under the lock */

	/* [l] Input that the receiver did not take yet. Not cleared: most consoles never need it.
	 */
	uint8_t held[CHARDEV_INPUT_BYTES];
};

/*
 * Make a device without ends. Returns 0; -ENOMEM.
 * Owns: the opener, until it hands it out; chardev_destroy().
 */
int chardev_make(struct chardev **ret, struct loop *loop, const char *name);

/* Take up or stop watching for input as the state asks for it. Context: loop thread. */
void chardev_in_watch(struct chardev *dev);

/* Write what the ring holds until the other side takes no more. Context: loop thread. */
void chardev_flush(struct chardev *dev);

/* A socket's client is there on @fd (consumed on success). Returns 0 or -errno. */
int chardev_client(struct chardev *dev, int fd);

/* Watch for the next client. Context: loop thread. */
void chardev_listen(struct chardev *dev);

/* stdio: open an inherited end anew, as far as that is needed and possible. */
void chardev_reopen(struct chardev_end *end, bool output);

#endif
