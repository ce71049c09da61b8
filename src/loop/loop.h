/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_LOOP_LOOP_H
#define KV_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

/*
 * An event loop over epoll for one thread ("the loop thread"): descriptors, timers, and a wake-up
 * that other threads may call. Devices of all VMs of a process share one by default.
 */
struct loop;
struct loop_source; /* one watched descriptor or timer */

/*
 * Called in the loop thread. @events: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR as in epoll(7); for a
 * timer, 0. A handler may remove any source, its own too.
 */
typedef void (*loop_fn)(void *ctx, uint32_t events);

/*
 * Returns 0; -EMFILE, -ENFILE, -ENOMEM. Owns: the caller destroys it after its sources; calls that
 * were posted and did not run are dropped.
 */
int loop_create(struct loop **ret);
void loop_destroy(struct loop *loop);

/*
 * Make a branch of @trunk: sources that are added to it are served by @trunk's thread and can be
 * held together. It is no loop to run, and what is posted to it runs in @trunk, held or not.
 * Returns 0 or -ENOMEM. Owns: the caller destroys it with loop_destroy(), after its sources and
 * before @trunk.
 */
int loop_branch(struct loop **ret, struct loop *trunk);

/*
 * From now on, call none of @branch's sources (@hold), or go on: what became ready and what was
 * due in between is served then. Context: loop thread.
 */
void loop_hold(struct loop *branch, bool hold);

/*
 * Watch @fd (borrowed) for @events, level-triggered unless EPOLLET is set.
 * Returns 0; -EPERM when the descriptor cannot be polled (regular file); -EEXIST; -errno.
 * Owns: the caller removes *@ret before it closes @fd. Context: loop thread, or before it runs.
 */
int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fn fn, void *ctx,
	struct loop_source **ret);

/*
 * Change the events of a descriptor. Returns 0 or -errno. Context: loop thread; another that keeps
 * it from a call or loop_hold() for this source meanwhile.
 */
int loop_mod_fd(struct loop_source *source, uint32_t events);

/*
 * Make a disarmed one-shot timer (CLOCK_MONOTONIC).
 * Returns 0 or -errno. Owns: the caller removes *@ret. Context: loop thread, or before it runs.
 */
int loop_add_timer(struct loop *loop, loop_fn fn, void *ctx, struct loop_source **ret);

/* Arm the timer to fire @ns from now; 0 disarms. Returns 0 or -errno. Context: any thread. */
int loop_set_timer(struct loop_source *source, uint64_t ns);

/* Stop watching and free @source; NULL is allowed. Context: loop thread, or while it is not
 * running. */
void loop_remove(struct loop_source *source);

/*
 * Run @fn(@ctx) once in the loop thread, soon; calls run in order. A post cannot be taken back: a
 * device that may be destroyed before uses a timer of 1 ns instead.
 * Returns 0 or -ENOMEM. Context: any thread.
 */
int loop_post(struct loop *loop, void (*fn)(void *ctx), void *ctx);

/*
 * Count into @work (NULL: stop that) how long each handler takes that loop_run() calls, with its
 * descriptor as address; 0 stands for a timer. Context: loop thread, or before it runs.
 */
struct exits_cpu;
void loop_trace(struct loop *loop, struct exits_cpu *work);

/*
 * Dispatch events until loop_stop(). Returns 0, or -errno of epoll_wait(2).
 * Context: makes the calling thread the loop thread.
 */
int loop_run(struct loop *loop);

/*
 * Make loop_run() return after the handler at work; when it does not run, the next one returns at
 * once. Context: any thread, and signal handlers.
 */
void loop_stop(struct loop *loop);

#endif
