/* SPDX-License-Identifier: Apache-2.0 */
/*
 * floor-loop: VMs one after the other in one process, by the bare KVM calls.
 *
 *	floor-loop KERNEL [--initrd FILE] [--memory MIB] [--threads N]
 *
 * For each line of standard input, a number of VMs and one of a CPU, each of the N threads makes
 * that many, beginning on that CPU or one of the next: memory and images, VM, slot, split irqchip,
 * vCPU, a thread that enters it until it wrote 123 to MMIO 0xd0000000 or 0xc0000000 and halts; then
 * the thread is called back by a signal and joined, and everything closed and unmapped. What can be
 * had once per process is: the images' descriptors, the CPUID, the size of kvm_run. Standard output
 * gets the steps of each VM as struct floor_record, then one more record that holds the CPU time of
 * the whole batch in its first field.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "floor.h"
#include "cli/floor_loop.h"

#define THREADS_MAX 16
#define VMS_MAX	    100000
#define STACK_BYTES (256 * 1024)

struct loop {
	const char *kernel, *initrd;
	uint64_t ram_bytes;
	unsigned threads;
	cpu_set_t allowed;
	struct floor_images images;
	struct floor_kvm kvm;
};

/* One of the threads that make VMs. */
struct maker {
	const struct loop *loop;
	pthread_t thread;
	unsigned vms;
	unsigned place; /* of its CPU */
	struct floor_record *records;
};

/* A VM and the thread that runs it. */
struct guest {
	struct floor_vm vm;
	pthread_t thread;
	sem_t booted;
	uint64_t boot_ns;
	int boot_cpu;
	_Atomic int leave;
};

static void kick_handler(int signo)
{
	/* Its arrival alone interrupts KVM_RUN. */
	(void)signo;
}

static void *guest_main(void *arg)
{
	struct guest *g = arg;

	while (!atomic_load(&g->leave)) {
		if (ioctl(g->vm.vcpu, KVM_RUN, 0) < 0) {
			if (errno != EINTR)
				die("KVM_RUN");
			continue;
		}
		if (floor_ended(&g->vm, 0)) {
			g->boot_ns = now_ns();
			g->boot_cpu = sched_getcpu();
			sem_post(&g->booted);
		}
	}
	return NULL;
}

static void guest_start(struct guest *g)
{
	pthread_attr_t attr;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	err = pthread_create(&g->thread, &attr, guest_main, g);
	if (err)
		die_with("thread", err);
	pthread_attr_destroy(&attr);
	while (sem_wait(&g->booted) < 0 && errno == EINTR)
		continue;
}

static void guest_stop(struct guest *g)
{
	atomic_store(&g->leave, 1);
	__atomic_store_n(&g->vm.run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(g->thread, SIGRTMIN);
	pthread_join(g->thread, NULL);
}

static void vm_close(const struct loop *loop, struct floor_vm *vm)
{
	munmap(vm->run, loop->kvm.run_bytes);
	close(vm->vcpu);
	close(vm->vm);
	munmap(vm->ram, vm->ram_bytes);
}

static void vm_live(const struct loop *loop, struct floor_record *record)
{
	struct guest g = {.vm = {.images = &loop->images, .ram_bytes = loop->ram_bytes}};
	uint64_t start, memory, created, ready, stop, stopped;
	int cpu;

	sem_init(&g.booted, 0, 0);
	start = now_ns();
	floor_memory(&g.vm);
	memory = now_ns();
	floor_create(&g.vm, &loop->kvm);
	floor_slots(&g.vm);
	floor_irqchip(&g.vm, "split");
	created = now_ns();
	floor_vcpu(&g.vm, &loop->kvm);
	floor_cpuid(&g.vm, &loop->kvm);
	floor_registers(&g.vm);
	cpu = sched_getcpu();
	ready = now_ns();
	guest_start(&g);
	stop = now_ns();
	guest_stop(&g);
	stopped = now_ns();
	vm_close(loop, &g.vm);
	*record = (struct floor_record){
		.memory_ns = memory - start,
		.vm_ns = created - memory,
		.vcpu_ns = ready - created,
		.run_ns = g.boot_ns - ready,
		.stop_ns = stopped - stop,
		.close_ns = now_ns() - stopped,
		.moved = g.boot_cpu != cpu,
	};
	sem_destroy(&g.booted);
}

static void *maker_main(void *arg)
{
	struct maker *maker = arg;

	for (unsigned i = 0; i < maker->vms; i++) {
		bench_place(&maker->loop->allowed, maker->place);
		vm_live(maker->loop, &maker->records[i]);
	}
	return NULL;
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void batch_run(const struct loop *loop, unsigned vms, unsigned place)
{
	struct maker makers[THREADS_MAX];
	size_t count = (size_t)loop->threads * vms;
	struct floor_record *records = calloc(count + 1, sizeof(*records));
	uint64_t cpu = cpu_ns();

	if (!records)
		die_with("records", ENOMEM);
	for (unsigned i = 0; i < loop->threads; i++) {
		makers[i] = (struct maker){loop, 0, vms, place + i, records + (size_t)i * vms};
		if (i && pthread_create(&makers[i].thread, NULL, maker_main, &makers[i]))
			die_with("thread", EAGAIN);
	}
	maker_main(&makers[0]);
	for (unsigned i = 1; i < loop->threads; i++)
		pthread_join(makers[i].thread, NULL);
	records[count].memory_ns = cpu_ns() - cpu;
	if (fwrite(records, sizeof(*records), count + 1, stdout) != count + 1 || fflush(stdout))
		die("standard output");
	free(records);
}

static void read_args(struct loop *loop, int argc, char **argv)
{
	loop->ram_bytes = 256ULL << 20;
	loop->threads = 1;
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		const char *val = i + 1 < argc ? argv[i + 1] : "";

		if (strncmp(arg, "--", 2)) {
			loop->kernel = arg;
			continue;
		}
		i++;
		if (!strcmp(arg, "--initrd") && *val)
			loop->initrd = val;
		else if (!strcmp(arg, "--memory") && atoll(val) >= 4)
			loop->ram_bytes = (uint64_t)atoll(val) << 20;
		else if (!strcmp(arg, "--threads") && atoi(val) >= 1 && atoi(val) <= THREADS_MAX)
			loop->threads = (unsigned)atoi(val);
		else
			die_with(arg, EINVAL);
	}
	if (!loop->kernel)
		die_with("usage: floor-loop KERNEL [options]", EINVAL);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = kick_handler};
	struct loop loop = {0};
	char line[32];

	read_args(&loop, argc, argv);
	sched_getaffinity(0, sizeof(loop.allowed), &loop.allowed);
	sigaction(SIGRTMIN, &sa, NULL);
	floor_kvm_open(&loop.kvm);
	floor_kvm_size(&loop.kvm);
	floor_kvm_cpuid(&loop.kvm);
	floor_images_open(&loop.images, loop.kernel, loop.initrd);
	while (fgets(line, sizeof(line), stdin)) {
		unsigned vms, place;

		if (sscanf(line, "%u %u", &vms, &place) != 2 || !vms || vms > VMS_MAX)
			die_with("number of VMs and of a CPU", EINVAL);
		batch_run(&loop, vms, place);
	}
	return 0;
}
