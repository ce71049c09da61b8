/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_MACHINE_MACHINE_H
#define KV_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "gmem/backing.h"
#include "gmem/gmem.h"
#include "gmem/hot.h"
#include "image/image.h"
#include "image/initrd.h"
#include "kvm/kvm.h"
#include "loop/loop.h"
#include "machine/vm_config.h"
#include "trace/exits.h"
#include "trace/timeline.h"

/* One virtual machine: the board with everything on it, from creation to teardown. */
struct machine;

/* Why a run ended. */
enum machine_end_kind {
	MACHINE_RUNNING,      /* it has not ended */
	MACHINE_POWEROFF,     /* the guest powered itself off (ACPI S5) */
	MACHINE_RESET,	      /* the guest asked for a reset: i8042, ACPI, or reboot=t */
	MACHINE_QUIT,	      /* the person at the console typed Ctrl-A X */
	MACHINE_STOPPED,      /* machine_stop() */
	MACHINE_CRASHED,      /* triple fault that nobody asked for */
	MACHINE_UNSUPPORTED,  /* this host's KVM cannot run this guest */
	MACHINE_KVM_FAILED,   /* KVM gave up */
	MACHINE_MEMORY_SHORT, /* a vCPU could not populate its slice of RAM */
	MACHINE_IMAGE_SHRANK, /* an image file, or that of RAM, lost pages that the guest needed */
};

struct machine_end {
	enum machine_end_kind kind;
	char text[600]; /* a sentence for people; empty after an orderly end */
};

struct machine_params {
	const struct vm_config *config; /* borrowed during machine_create() */
	struct kvm *kvm;		/* borrowed, as all below, for the machine's life */
	struct image *image;
	const struct initrd *initrd; /* may have no files */
	struct loop *loop;	     /* whose thread serves this machine's devices */
	struct timeline *tl;	     /* or NULL */
	struct exits *exits;	     /* counts exits of all vCPUs, or NULL */
	/* Counts what threads of devices do, from part 1 on (machine_iothreads()); or NULL. */
	struct exits *work;
	bool boot_marks; /* time start_kernel and user space by breakpoints, if symbols are there */
	/* Of a lease of config->memory_bytes; only with GMEM_POOL, borrowed during
	 * machine_create(). */
	const struct gmem_chunk *chunks;
	unsigned chunk_count;
	/* Of config->mems, by their numbers; used for those with GMEM_POOL, else it may be NULL. */
	const struct gmem_lender *lenders;
	/* Told while machine_create() reserves or populates memory, and may stop it; or NULL. */
	const struct gmem_watch *watch;
	const struct kv_log *log; /* or NULL */
	/* The run ended: machine_end() tells why. Called once, from any thread; must not block. */
	void (*ended)(void *ctx);
	/* The guest wrote the boot-complete byte; from a vCPU thread. May be NULL. */
	void (*booted)(void *ctx);
	/* Nobody uses guest RAM any more, and it goes next; in machine_destroy(). May be NULL. */
	void (*memory_over)(void *ctx, const struct gmem *gm);
	void *ctx;
};

/*
 * Build the machine up to the point where its vCPUs could run: memory, images, KVM VM, slots,
 * devices, tables, vCPUs.
 * Returns 0; -ECANCELED when the watch stopped it; -errno with a sentence that names what could
 * not be had.
 * Owns: the caller destroys it. Context: the loop thread, or before the loop runs.
 */
int machine_create(struct machine **ret, const struct machine_params *params, struct kv_err *err);

/* How many devices of a machine have a thread of their own. */
unsigned machine_iothreads(const struct vm_config *config);

/*
 * Where a machine of @memory_bytes puts an initrd of @initrd_bytes (> 0, below 2^63) beside the
 * kernel of @plan.
 * Returns 0 and *@ret (page-aligned); -E2BIG with a sentence when there is no room.
 */
int machine_initrd_at(const struct image_plan *plan, uint64_t memory_bytes, uint64_t initrd_bytes,
	gpa_t *ret, struct kv_err *err);

/* Let the vCPUs run. Returns 0 or -errno (no more threads). Context: as for machine_create(). */
int machine_start(struct machine *m, struct kv_err *err);

/* End the run from outside, with MACHINE_STOPPED; does not wait. Context: any thread. */
void machine_stop(struct machine *m);

/* What a virtio device counted. */
struct machine_device {
	const char *name;    /* "virtio-blk" */
	uint64_t gpa;	     /* where it lies in guest memory */
	uint64_t violations; /* times that its driver broke the rules */
};

/*
 * Tell of virtio device @index in *@ret, in the guest's order. Returns false when there are not as
 * many. Context: the loop thread.
 */
bool machine_device_at(const struct machine *m, unsigned index, struct machine_device *ret);

/*
 * Look at the size of the disk @id (NULL: of all disks) again: the guest is told of one that grew,
 * and the log tells of all that changed.
 * Returns 0; -ENOENT (no such disk), -ERANGE (it shrank, which is not passed on) or -errno with a
 * sentence. Context: the loop thread.
 */
int machine_disk_look(struct machine *m, const char *id, struct kv_err *err);

/*
 * The limits of the disk @id, and others from now on. Return 0; -ENOENT with a sentence. Context:
 * the loop thread.
 */
int machine_disk_rates(
	struct machine *m, const char *id, struct limit_rates *ret, struct kv_err *err);
int machine_disk_limit(
	struct machine *m, const char *id, const struct limit_rates *rates, struct kv_err *err);

/*
 * Stop the guest: its vCPUs leave it, and its devices serve nothing until machine_resume(). What
 * the host does for them goes on (a disk's requests under way end, the console prints what it has).
 * Repeating it changes nothing.
 * Returns 0; -ESHUTDOWN (the run is over); -EBUSY (a vCPU did not leave the guest, or a device's
 * thread its work, within seconds: the machine runs on), with a sentence. Context: the loop thread.
 */
int machine_pause(struct machine *m, struct kv_err *err);

/* Go on after machine_pause(); without one it changes nothing. Context: the loop thread. */
void machine_resume(struct machine *m);

/* True between machine_pause() and machine_resume(). Context: the loop thread. */
bool machine_paused(const struct machine *m);

/*
 * Stop the vCPU threads, flush the console, free everything in reverse order of creation. NULL is
 * allowed. Context: the loop thread, or when the loop does not run.
 */
void machine_destroy(struct machine *m);

/* How the run ended so far. The text is stable once @ended was called. Context: any thread. */
const struct machine_end *machine_end(const struct machine *m);

/* What the images brought into memory. Context: any thread. */
const struct gmem_placed *machine_placed(const struct machine *m);

/* Guest RAM, e.g. for a SIGBUS handler's gmem_overlay_name(). */
const struct gmem *machine_gmem(const struct machine *m);

/* A memory device (virtio-mem), as it is now. */
struct machine_mem_info {
	const char *id; /* of the machine's */
	uint64_t max_bytes, block_bytes;
	uint64_t window_bytes;	  /* of a memory slot; the last one may be shorter */
	uint64_t requested_bytes; /* what the guest shall have plugged */
	uint64_t plugged_bytes;	  /* what it has */
	unsigned windows;	  /* memory slots there may be */
	unsigned windows_mapped;  /* memory slots there are */
	bool driver;		  /* the guest has one at work */
	uint64_t refused;	  /* requests of the guest's that were not carried out */
	uint64_t stall_max_ns;	  /* the longest that setting the slots of one request took */
};

/* How many memory devices there are. Context: any thread. */
unsigned machine_mem_count(const struct machine *m);

/* Tell of memory device @i, from 0. Returns 0; -ENODEV. Context: the loop thread. */
int machine_mem_get(struct machine *m, unsigned i, struct machine_mem_info *ret);

/*
 * Count the bytes that the host has present for memory device @id, a part of them at a time, for
 * 1 ms at most: it is added to *@bytes, and *@at, 0 at first, goes on behind it. All of it takes
 * time in proportion to what was ever plugged.
 * Returns true while there is more to count. Context: the loop thread.
 */
bool machine_mem_present(struct machine *m, const char *id, uint64_t *at, uint64_t *bytes);

/*
 * Ask the guest to have @bytes of memory device @id plugged; it does so in its own time.
 * Returns 0; -EINVAL (no multiple of the block, more than the device has); -ENODEV (no such id);
 * -EAGAIN (the guest has no driver at work), each with a sentence. Context: the loop thread.
 */
int machine_mem_request(struct machine *m, const char *id, uint64_t bytes, struct kv_err *err);

/* The serial port's host side, or NULL: for its name, and to restore the terminal. */
struct chardev;
struct chardev *machine_console(const struct machine *m);

#endif
