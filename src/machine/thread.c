/* SPDX-License-Identifier: Apache-2.0 */
/* Devices with a thread of their own. */
#include <errno.h>
#include <stdio.h>

#include "loop/thread.h"
#include "machine/internal.h"

unsigned machine_iothreads(const struct vm_config *config)
{
	unsigned count = 0;

	for (unsigned i = 0; i < config->disk_count; i++)
		count += config->disks[i].iothread;
	for (unsigned i = 0; i < config->net_count; i++)
		count += config->nets[i].iothread;
	return count;
}

int machine_loop_for(
	struct machine *m, bool own, const char *id, struct loop **ret, struct kv_err *err)
{
	unsigned index = m->thread_count;
	char name[16];
	int r;

	*ret = m->p.loop;
	if (!own)
		return 0;
	snprintf(name, sizeof(name), "kvick %s", id);
	r = loop_thread_create(&m->threads[index], name);
	if (r < 0)
		return err_set(err, r, "iothread: no event loop: %s", err_text(r));
	m->thread_count++;
	*ret = loop_thread_loop(m->threads[index]);
	/* The first part is that of the machine's own loop. */
	loop_trace(*ret, exits_cpu(m->p.work, index + 1));
	return 0;
}

int machine_threads_run(struct machine *m, struct kv_err *err)
{
	int r = 0;

	for (unsigned i = 0; !r && i < m->thread_count; i++)
		r = loop_thread_start(m->threads[i], err);
	return r;
}

int machine_threads_hold(struct machine *m, uint64_t ns)
{
	uint64_t begin = clock_ns();
	int r = 0;

	for (unsigned i = 0; i < m->thread_count; i++)
		loop_thread_pause(m->threads[i]);
	for (unsigned i = 0; !r && i < m->thread_count; i++) {
		uint64_t passed = clock_ns() - begin;

		r = loop_thread_parked(m->threads[i], passed < ns ? ns - passed : 0);
	}
	return r;
}

void machine_threads_let(struct machine *m)
{
	for (unsigned i = 0; i < m->thread_count; i++)
		loop_thread_resume(m->threads[i]);
}

void machine_threads_free(struct machine *m)
{
	while (m->thread_count)
		loop_thread_destroy(m->threads[--m->thread_count]);
}
