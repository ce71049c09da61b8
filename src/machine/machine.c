/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/internal.h"

#define PAUSE_NS 2000000000ULL /* for all vCPUs together to leave the guest */

int machine_create(struct machine **ret, const struct machine_params *params, struct kv_err *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	m->p = *params;
	m->trunk = params->loop;
	m->cpu_count = params->config->cpus;
	pthread_mutex_init(&m->end_lock, NULL);
	m->vcpus = calloc(m->cpu_count, sizeof(*m->vcpus));
	r = m->vcpus ? vcpu_signal_init() : -ENOMEM;
	if (!r)
		r = loop_branch(&m->devices, params->loop);
	/* What is built from here on lives in the branch. */
	if (!r)
		m->p.loop = m->devices;
	if (r < 0)
		err_set(err, r, "%s", err_text(r));
	if (!r)
		r = machine_load(m, err);
	if (!r)
		r = machine_build(m, err);
	m->p.config = NULL;
	if (r < 0) {
		machine_destroy(m);
		return r;
	}
	timeline_mark(m->p.tl, MARK_READY);
	*ret = m;
	return 0;
}

int machine_start(struct machine *m, struct kv_err *err)
{
	int r = machine_threads_run(m, err);

	if (!r)
		r = machine_fill_ready(m, err);
	if (r < 0)
		return r;
	gmem_files_keep(m->gm);
	/* The boot CPU last: its first exit may end the run. */
	for (unsigned i = m->cpu_count; i-- > 0;) {
		r = vcpu_start(m->vcpus[i], err);

		if (r < 0)
			return r;
	}
	machine_fill_start(m);
	return 0;
}

/* Devices' threads and vCPUs go on. */
static void all_let(struct machine *m)
{
	machine_threads_let(m);
	for (unsigned i = 0; i < m->cpu_count; i++)
		vcpu_resume(m->vcpus[i]);
}

/*
 * The loop thread waits for the vCPUs: they are in devices for short times only, and wait for
 * nothing that this thread would have to do. If one does not come, nothing has happened.
 */
int machine_pause(struct machine *m, struct kv_err *err)
{
	uint64_t late = clock_ns() + PAUSE_NS;
	int r = 0;

	if (m->paused)
		return 0;
	if (atomic_load(&m->over))
		return err_set(err, -ESHUTDOWN, "the VM is about to end");
	for (unsigned i = 0; i < m->cpu_count; i++)
		vcpu_pause(m->vcpus[i]);
	for (unsigned i = 0; !r && i < m->cpu_count; i++) {
		uint64_t now = clock_ns();

		r = vcpu_parked(m->vcpus[i], now < late ? late - now : 0);
		if (r < 0)
			err_set(err, -EBUSY,
				"vCPU %u did not leave the guest within %llu s; the VM runs on", i,
				PAUSE_NS / 1000000000);
	}
	if (!r && machine_threads_hold(m, PAUSE_NS) < 0)
		r = err_set(err, -EBUSY,
			"a device's thread is not done with its work after %llu s; the VM runs on",
			PAUSE_NS / 1000000000);
	if (r < 0) {
		all_let(m);
		return -EBUSY;
	}
	m->paused = true;
	loop_hold(m->devices, true);
	for (unsigned i = 0; i < m->virtio_count; i++)
		vdev_pause(m->virtio[i].vd, true);
	return 0;
}

void machine_resume(struct machine *m)
{
	if (!m->paused)
		return;
	m->paused = false;
	for (unsigned i = 0; i < m->virtio_count; i++)
		vdev_pause(m->virtio[i].vd, false);
	loop_hold(m->devices, false);
	all_let(m);
}

bool machine_paused(const struct machine *m)
{
	return m->paused;
}

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	gmem_fill_stop(m->fill);
	/* All leave the guest at once; none is freed while another may still kick it. */
	for (unsigned i = 0; m->vcpus && i < m->cpu_count; i++)
		if (m->vcpus[i])
			vcpu_stop(m->vcpus[i]);
	for (unsigned i = 0; m->vcpus && i < m->cpu_count; i++)
		if (m->vcpus[i])
			vcpu_join(m->vcpus[i]);
	for (unsigned i = 0; m->vcpus && i < m->cpu_count; i++)
		vcpu_destroy(m->vcpus[i]);
	free(m->vcpus);
	gmem_fill_destroy(m->fill);
	/* They live until the requests under way have ended, which io_uring counts as theirs. */
	machine_threads_hold(m, UINT64_MAX);
	machine_virtio_free(m);
	machine_threads_free(m);
	serial_destroy(m->serial);
	chardev_destroy(m->console);
	if (m->trace_ports_added)
		trace_ports_drop(&m->trace_ports);
	irqchip_destroy(m->irqchip);
	bus_destroy(m->bus);
	/* The VM goes as a whole: deleting its slots one by one would cost a grace period each. */
	if (m->listening)
		gmem_forget(m->gm, m);
	kvm_vm_destroy(m->vm);
	if (m->gm && m->p.memory_over)
		m->p.memory_over(m->p.ctx, m->gm);
	gmem_destroy(m->gm);
	loop_destroy(m->devices);
	pthread_mutex_destroy(&m->end_lock);
	free(m);
}

void machine_finish(struct machine *m, enum machine_end_kind kind, const char *text)
{
	bool first;

	pthread_mutex_lock(&m->end_lock);
	first = m->end.kind == MACHINE_RUNNING;
	if (first) {
		m->end.kind = kind;
		snprintf(m->end.text, sizeof(m->end.text), "%s", text);
	}
	pthread_mutex_unlock(&m->end_lock);
	if (!first)
		return;
	timeline_mark(m->p.tl, MARK_SHUTDOWN);
	atomic_store(&m->over, true);
	gmem_fill_stop(m->fill);
	/* No vCPU runs on while the end makes its way to the loop; they are freed only there. */
	for (unsigned i = 0; i < m->cpu_count; i++)
		if (m->vcpus[i])
			vcpu_stop(m->vcpus[i]);
	if (m->p.ended)
		m->p.ended(m->p.ctx);
}

void machine_stop(struct machine *m)
{
	machine_finish(m, MACHINE_STOPPED, "");
}

const struct machine_end *machine_end(const struct machine *m)
{
	static const struct machine_end running = {.kind = MACHINE_RUNNING};

	return atomic_load(&m->over) ? &m->end : &running;
}

const struct gmem_placed *machine_placed(const struct machine *m)
{
	return &m->placed;
}

const struct gmem *machine_gmem(const struct machine *m)
{
	return m->gm;
}

struct chardev *machine_console(const struct machine *m)
{
	return m->console;
}

/* KVM cannot run the guest here: on a software KVM that is what it is, and the testbed is the way.
 */
static void finish_emulation(struct machine *m, const struct vcpu_end *end)
{
	char text[sizeof(m->end.text)];

	if (kvm_kind_probe() != KVM_KIND_SOFTWARE) {
		machine_finish(m, MACHINE_KVM_FAILED, end->text);
		return;
	}
	snprintf(text, sizeof(text),
		"%s. This host's KVM is of the kind %s, which emulates only part of what an "
		"operating system's "
		"kernel does: Linux cannot run here with any monitor; try: testbed/run -- kvick "
		"run ...",
		end->text, kvm_kind_name());
	machine_finish(m, MACHINE_UNSUPPORTED, text);
}

/*
 * Pages lost to a file that shrank: the guest, or KVM on its behalf, ran into nothing. Returns
 * false, and does nothing, when none did.
 */
static bool finish_shrunk(struct machine *m)
{
	const char *image = machine_shrunk(m), *path = image ? image : gmem_file_short(m->gm);
	char text[sizeof(m->end.text)];

	if (!path)
		return false;
	snprintf(text, sizeof(text),
		"%s%s became shorter while the VM was using it, and pages that the guest still "
		"needed are gone%s",
		path, image ? "" : ", its memory,",
		image ? " (replace image files by renaming a new one over them)" : "");
	machine_finish(m, MACHINE_IMAGE_SHRANK, text);
	return true;
}

static void vcpu_ended(void *ctx, struct vcpu *vcpu, const struct vcpu_end *end)
{
	struct machine *m = ctx;

	if (end->kind == VCPU_END_ASKED)
		return;
	if (end->kind == VCPU_END_SHUTDOWN && end->idt_empty) {
		machine_finish(m, MACHINE_RESET, "");
		return;
	}
	/* Whatever KVM calls it: a guest whose own code is gone may end in any of these ways. */
	if (finish_shrunk(m))
		return;
	switch (end->kind) {
	case VCPU_END_SHUTDOWN:
		if (m->reset_by_fault)
			machine_finish(m, MACHINE_RESET, "");
		else
			machine_finish(m, MACHINE_CRASHED, end->text);
		break;
	case VCPU_END_EMULATION:
		finish_emulation(m, end);
		break;
	case VCPU_END_ASKED:
	case VCPU_END_MEMORY:
	case VCPU_END_KVM:
		machine_finish(m, MACHINE_KVM_FAILED, end->text);
		break;
	}
}

static void vcpu_kicked(void *ctx, struct vcpu *vcpu)
{
	struct machine *m = ctx;

	if (m->marks.active)
		boot_marks_arm(&m->marks, vcpu);
}

static void vcpu_debug(void *ctx, struct vcpu *vcpu, const struct kvm_debug_exit_arch *debug)
{
	struct machine *m = ctx;

	if (!boot_marks_hit(&m->marks, vcpu, debug))
		return;
	for (unsigned i = 0; i < m->cpu_count; i++)
		if (m->vcpus[i] != vcpu)
			vcpu_kick(m->vcpus[i]);
}

static void vcpu_eoi(void *ctx, uint8_t vector)
{
	struct machine *m = ctx;

	irqchip_eoi(m->irqchip, vector);
}

static bool vcpu_begin(void *ctx, struct vcpu *vcpu)
{
	return machine_fill_vcpu(ctx, vcpu_index(vcpu));
}

const struct vcpu_ops machine_vcpu_ops = {
	.begin = vcpu_begin,
	.kicked = vcpu_kicked,
	.debug = vcpu_debug,
	.eoi = vcpu_eoi,
	.ended = vcpu_ended,
};
