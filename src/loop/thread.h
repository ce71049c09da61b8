/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_LOOP_THREAD_H
#define KV_LOOP_THREAD_H

#include "base/err.h"
#include "loop/loop.h"

/*
 * An event loop with a thread of its own, for what shall neither wait for others nor keep them
 * waiting.
 */
struct loop_thread;

/*
 * Make the loop; its thread, which does not run yet, is to be called @name, cut to 15 bytes.
 * Returns 0; loop_create()'s errors. Owns: the caller destroys it after the loop's sources.
 */
int loop_thread_create(struct loop_thread **ret, const char *name);

/* Ends and joins the thread, if there is one, then frees. NULL is allowed. */
void loop_thread_destroy(struct loop_thread *thread);

/* The loop, for sources to be added before the thread runs, or in it. */
struct loop *loop_thread_loop(struct loop_thread *thread);

/*
 * Start the thread, which serves the loop's sources from now on. All signals but those that faults
 * raise stay blocked in it.
 * Returns 0 or -EAGAIN and friends of pthread_create(3), with a sentence.
 */
int loop_thread_start(struct loop_thread *thread, struct kv_err *err);

/*
 * Have the thread call no handler, after the one at work, until loop_thread_resume(); does not
 * wait, see loop_thread_parked(). What becomes ready or due meanwhile is served then. Context: one
 * thread at a time, not the loop's.
 */
void loop_thread_pause(struct loop_thread *thread);

/*
 * Wait, for @ns at most (UINT64_MAX: as long as it takes), until a thread that was paused is in no
 * handler. Until it is resumed the caller may do what only the loop thread may. A thread that was
 * not started counts as paused.
 * Returns 0; -ETIMEDOUT. Context: as loop_thread_pause().
 */
int loop_thread_parked(struct loop_thread *thread, uint64_t ns);

/* Go on after loop_thread_pause(). Context: as there. */
void loop_thread_resume(struct loop_thread *thread);

#endif
