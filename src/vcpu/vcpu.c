/* SPDX-License-Identifier: Apache-2.0 */
#include "vcpu/vcpu.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "vcpu/describe.h"

/* What the thread is asked to do when it leaves the guest. */
#define ASK_KICKED (1U << 0)
#define ASK_STOP   (1U << 1)
#define ASK_PARK   (1U << 2)

/*
 * A vCPU thread calls devices, which are small; this leaves room for the C library's formatting.
 * glibc's default of 8 MiB would count against address space limits with many vCPUs.
 */
#define STACK_BYTES (256 * 1024)

/* How long KVM may lack a thread: 5 s. */
#define STARVED_PAUSE_NS 10000000
#define STARVED_TRIES	 500

struct vcpu {
	struct vcpu_params p;	/* [c] */
	struct kvm_vcpu *kvm;	/* [c] */
	struct kvm_run *run;	/* [v] but immediate_exit, which any thread may set */
	pthread_t thread;	/* the owner's, valid when @started */
	bool started;		/* the owner's */
	_Atomic unsigned asked; /* [a] ASK_* */
	pthread_mutex_t lock;	/* guards the rest; taken last */
	pthread_t self;		/* while @live */
	bool live;		/* the thread runs, is not joined, and takes kicks */
	pthread_cond_t turn;	/* @hold or @inside changed, or a stop was asked for */
	bool hold;		/* do not enter the guest */
	bool inside;		/* in the guest, or in a device on its behalf */
	bool again;		/* its thread's: KVM_RUN said EAGAIN of a vCPU that can run */
	unsigned starved;	/* its thread's: how often in a row after that */
};

static int kick_signal(void)
{
	return SIGRTMIN;
}

static void kick_handler(int signo)
{
	/* Its arrival alone interrupts KVM_RUN. */
}

int vcpu_signal_init(void)
{
	struct sigaction sa = {.sa_handler = kick_handler};

	return sigaction(kick_signal(), &sa, NULL) < 0 ? -errno : 0;
}

int vcpu_create(struct vcpu **ret, const struct vcpu_params *params, struct kv_err *err)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	pthread_condattr_t attr;
	int r;

	if (!vcpu)
		return err_set(err, -ENOMEM, "vCPU %u: out of memory", params->index);
	vcpu->p = *params;
	r = kvm_vcpu_create(&vcpu->kvm, params->vm, params->index, err);
	if (r < 0) {
		free(vcpu);
		return r;
	}
	vcpu->run = kvm_vcpu_page(vcpu->kvm);
	pthread_mutex_init(&vcpu->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vcpu->turn, &attr);
	pthread_condattr_destroy(&attr);
	*ret = vcpu;
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (!vcpu)
		return;
	vcpu_join(vcpu);
	kvm_vcpu_destroy(vcpu->kvm);
	pthread_cond_destroy(&vcpu->turn);
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu);
}

/*
 * The kernel reads immediate_exit as it enters the guest, so a request made just before counts. A
 * thread that is not live yet sees the flag before its first entry: it sets live, then looks.
 */
static void vcpu_ask(struct vcpu *vcpu, unsigned what)
{
	/* Asked already and not yet served: who asked first sees to the rest. */
	if ((atomic_fetch_or(&vcpu->asked, what) & what) == what)
		return;
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&vcpu->lock);
	if (vcpu->live && !pthread_equal(vcpu->self, pthread_self()))
		pthread_kill(vcpu->self, kick_signal());
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_kick(struct vcpu *vcpu)
{
	vcpu_ask(vcpu, ASK_KICKED);
}

void vcpu_stop(struct vcpu *vcpu)
{
	vcpu_ask(vcpu, ASK_STOP);
	/* One that is parked looks for the request before it waits, with the lock. */
	pthread_mutex_lock(&vcpu->lock);
	pthread_cond_broadcast(&vcpu->turn);
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_pause(struct vcpu *vcpu)
{
	bool inside;

	pthread_mutex_lock(&vcpu->lock);
	vcpu->hold = true;
	inside = vcpu->inside;
	pthread_mutex_unlock(&vcpu->lock);
	/* One outside finds @hold before it enters, and is not disturbed in what it does there. */
	if (inside)
		vcpu_ask(vcpu, ASK_PARK);
}

int vcpu_parked(struct vcpu *vcpu, uint64_t ns)
{
	uint64_t due = clock_ns() + ns;
	struct timespec until = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
	int r = 0;

	pthread_mutex_lock(&vcpu->lock);
	while (!r && vcpu->inside)
		r = pthread_cond_timedwait(&vcpu->turn, &vcpu->lock, &until);
	pthread_mutex_unlock(&vcpu->lock);
	return -r;
}

void vcpu_resume(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->hold = false;
	pthread_cond_broadcast(&vcpu->turn);
	pthread_mutex_unlock(&vcpu->lock);
}

/*
 * Go outside, stay there while the vCPU is held, and come in again unless the thread shall end.
 * Called in its own thread.
 */
static void vcpu_park(struct vcpu *vcpu)
{
	bool held;

	pthread_mutex_lock(&vcpu->lock);
	held = vcpu->inside && vcpu->hold;
	pthread_mutex_unlock(&vcpu->lock);
	/* Before anybody is told that this vCPU stands still: it writes to guest memory. */
	if (held)
		kvm_clock_stopped(vcpu->kvm);
	pthread_mutex_lock(&vcpu->lock);
	vcpu->inside = false;
	pthread_cond_broadcast(&vcpu->turn);
	while (vcpu->hold && !(atomic_load(&vcpu->asked) & ASK_STOP))
		pthread_cond_wait(&vcpu->turn, &vcpu->lock);
	vcpu->inside = true;
	pthread_mutex_unlock(&vcpu->lock);
}

/* The thread enters the guest no more, and takes no kicks. Called in it. */
static void vcpu_leave(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->live = false;
	vcpu->inside = false;
	pthread_cond_broadcast(&vcpu->turn);
	pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_join(struct vcpu *vcpu)
{
	vcpu_stop(vcpu);
	if (vcpu->started)
		pthread_join(vcpu->thread, NULL);
	vcpu->started = false;
}

struct kvm_vcpu *vcpu_kvm(struct vcpu *vcpu)
{
	return vcpu->kvm;
}

unsigned vcpu_index(const struct vcpu *vcpu)
{
	return vcpu->p.index;
}

/* See to what other threads asked for. Returns false when the thread shall end. */
static bool asked_serve(struct vcpu *vcpu)
{
	unsigned asked;

	/*
	 * Clear immediate_exit before reading the requests: one that comes in between leaves the
	 * flag set and is seen at the next round.
	 */
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	asked = atomic_exchange(&vcpu->asked, 0);
	if (asked & ASK_STOP)
		return false;
	if (asked & ASK_KICKED && vcpu->p.ops->kicked)
		vcpu->p.ops->kicked(vcpu->p.ctx, vcpu);
	if (asked & ASK_PARK)
		vcpu_park(vcpu);
	return true;
}

static void exit_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	if (run->io.direction == KVM_EXIT_IO_OUT)
		bus_pio_write(vcpu->p.bus, run->io.port, data, run->io.size, run->io.count);
	else
		bus_pio_read(vcpu->p.bus, run->io.port, data, run->io.size, run->io.count);
}

static void end_set(
	struct vcpu *vcpu, struct vcpu_end *end, enum vcpu_end_kind kind, const char *what)
{
	end->kind = kind;
	vcpu_describe(end, vcpu->kvm, vcpu->p.gm, what);
}

/* Returns false when the access was to RAM that KVM's emulator could not reach. */
static bool exit_mmio(struct vcpu *vcpu, struct vcpu_end *end)
{
	struct kvm_run *run = vcpu->run;

	/* All RAM is in memory slots, so KVM asks for an address in it only when a page is lost. */
	if (gmem_at(vcpu->p.gm, run->mmio.phys_addr, run->mmio.len)) {
		end_set(vcpu, end, VCPU_END_MEMORY, "KVM could not reach guest memory");
		return false;
	}
	if (run->mmio.is_write)
		bus_mmio_write(vcpu->p.bus, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_mmio_read(vcpu->p.bus, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	return true;
}

/* An exit that ends the vCPU; says why in @end. */
static void exit_fatal(struct vcpu *vcpu, struct vcpu_end *end)
{
	struct kvm_run *run = vcpu->run;
	char what[120];

	switch (run->exit_reason) {
	case KVM_EXIT_SHUTDOWN:
		end_set(vcpu, end, VCPU_END_SHUTDOWN, "triple fault");
		return;
	case KVM_EXIT_INTERNAL_ERROR:
		if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
			end_set(vcpu, end, VCPU_END_EMULATION, "KVM cannot emulate an instruction");
			return;
		}
		snprintf(what, sizeof(what), "KVM internal error %u", run->internal.suberror);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(what, sizeof(what),
			"the CPU refused to enter the guest, hardware reason 0x%llx",
			(unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		snprintf(what, sizeof(what), "KVM system event %u", run->system_event.type);
		break;
	default:
		snprintf(what, sizeof(what), "unexpected KVM exit %u", run->exit_reason);
		break;
	}
	end_set(vcpu, end, VCPU_END_KVM, what);
}

/* Handle what KVM_RUN came back with. Returns false when @end says that the vCPU cannot go on. */
static bool exit_handle(struct vcpu *vcpu, struct vcpu_end *end)
{
	const struct vcpu_ops *ops = vcpu->p.ops;

	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(vcpu);
		return true;
	case KVM_EXIT_MMIO:
		return exit_mmio(vcpu, end);
	case KVM_EXIT_INTR:
		return true;
	case KVM_EXIT_IOAPIC_EOI:
		if (ops->eoi)
			ops->eoi(vcpu->p.ctx, vcpu->run->eoi.vector);
		return true;
	case KVM_EXIT_DEBUG:
		if (ops->debug)
			ops->debug(vcpu->p.ctx, vcpu, &vcpu->run->debug.arch);
		return true;
	default:
		exit_fatal(vcpu, end);
		return false;
	}
}

/*
 * KVM_RUN said EAGAIN. It is to be called again by an AP, whose wait for its start-up IPI is over
 * or was interrupted. Of a vCPU that could run it means that KVM lacks a thread of its own, which
 * Linux from 6.14 on starts with the first entry, in this process; there may be room for it soon,
 * when those that populate memory are done. Returns true when there was none for long.
 */
static bool enter_starved(struct vcpu *vcpu)
{
	const struct timespec pause = {.tv_nsec = STARVED_PAUSE_NS};
	bool could = vcpu->again;

	vcpu->again = kvm_vcpu_runnable(vcpu->kvm);
	if (!could)
		return false;
	nanosleep(&pause, NULL);
	return ++vcpu->starved > STARVED_TRIES;
}

/* KVM_RUN failed with @code. Returns false when that ends the vCPU. */
static bool enter_failed(struct vcpu *vcpu, int code, struct vcpu_end *end)
{
	char what[120];

	if (code == -EINTR || (code == -EAGAIN && !enter_starved(vcpu)))
		return true;
	snprintf(what, sizeof(what), "KVM_RUN failed (%s)%s", err_text(code),
		code == -EAGAIN ? "; more threads must be allowed (pids.max, ulimit -u)" : "");
	end_set(vcpu, end, code == -EFAULT ? VCPU_END_MEMORY : VCPU_END_KVM, what);
	return false;
}

/* What an exit accessed. */
static enum exit_access exit_access(const struct kvm_run *run, uint64_t *address)
{
	*address = 0;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		*address = run->io.port;
		return run->io.direction == KVM_EXIT_IO_OUT ? EXIT_PORT_OUT : EXIT_PORT_IN;
	case KVM_EXIT_MMIO:
		*address = run->mmio.phys_addr;
		return run->mmio.is_write ? EXIT_MMIO_WRITE : EXIT_MMIO_READ;
	default:
		return EXIT_OTHER;
	}
}

/* KVM_RUN came back with @r. Returns false when the vCPU cannot go on. */
static bool exit_serve(struct vcpu *vcpu, int r, struct vcpu_end *end)
{
	if (r != -EAGAIN) {
		vcpu->again = false;
		vcpu->starved = 0;
	}
	return r < 0 ? enter_failed(vcpu, r, end) : exit_handle(vcpu, end);
}

/* As exit_serve(), counting. Handling changes kvm_run, so that it is read before. */
static bool exit_count(struct vcpu *vcpu, int r, struct vcpu_end *end)
{
	uint64_t left_ns = clock_ns(), address = 0;
	unsigned reason = r < 0 ? KVM_EXIT_INTR : vcpu->run->exit_reason;
	enum exit_access access = r < 0 ? EXIT_OTHER : exit_access(vcpu->run, &address);
	bool going = exit_serve(vcpu, r, end);

	exits_add(vcpu->p.exits, left_ns, reason, access, address);
	return going;
}

static void *vcpu_main(void *arg)
{
	struct vcpu *vcpu = arg;
	struct timeline *tl = vcpu->p.index ? NULL : vcpu->p.tl;
	struct vcpu_end end = {.kind = VCPU_END_ASKED};
	bool going = true;
	char name[16];

	pthread_mutex_lock(&vcpu->lock);
	vcpu->self = pthread_self();
	vcpu->live = true;
	pthread_mutex_unlock(&vcpu->lock);
	/* The name that Firecracker's clients look for to place vCPU threads. */
	snprintf(name, sizeof(name), "fc_vcpu %u", vcpu->p.index);
	pthread_setname_np(pthread_self(), name);
	if (vcpu->p.exits)
		exits_begin(vcpu->p.exits);
	if (vcpu->p.ops->begin)
		going = vcpu->p.ops->begin(vcpu->p.ctx, vcpu);
	if (going) {
		vcpu_park(vcpu);
		timeline_mark(tl, MARK_FIRST_ENTRY);
	}
	while (going) {
		int r;

		if (__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST) &&
			!asked_serve(vcpu))
			break;
		r = kvm_vcpu_enter(vcpu->kvm);
		timeline_mark(tl, MARK_FIRST_EXIT);
		tl = NULL;
		going = vcpu->p.exits ? exit_count(vcpu, r, &end) : exit_serve(vcpu, r, &end);
	}
	vcpu_leave(vcpu);
	if (end.kind != VCPU_END_ASKED)
		vcpu->p.ops->ended(vcpu->p.ctx, vcpu, &end);
	return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct kv_err *err)
{
	int r = thread_start(&vcpu->thread, STACK_BYTES, kick_signal(), vcpu_main, vcpu);

	if (r < 0)
		return err_set(
			err, r, "vCPU %u: cannot start its thread: %s", vcpu->p.index, err_text(r));
	vcpu->started = true;
	return 0;
}
