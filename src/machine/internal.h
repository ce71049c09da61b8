/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_MACHINE_INTERNAL_H
#define KV_MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "bus/bus.h"
#include "bus/irqchip.h"
#include "gmem/populate.h"
#include "legacy/chardev.h"
#include "legacy/legacy.h"
#include "machine/boot_marks.h"
#include "machine/machine.h"
#include "vcpu/vcpu.h"
#include "x86/acpi.h"
#include "x86/boot.h"

struct loop_thread;
struct vblk;
struct vdev;
struct vmem;
struct vmmio;

/* A virtio device, its transport and what frees it. */
struct machine_virtio {
	struct vmmio *mmio;
	struct vdev *vd;
	void *dev;
	void (*destroy)(void *dev);
	struct vblk *disk; /* @dev, if it is one */
	char *id;	   /* of a disk */
	gpa_t gpa;
	uint32_t gsi;
};

/* A memory device; its area is gmem's, the device one of the virtio devices. */
struct machine_mem {
	char *id;
	struct gmem_hot *hot;
	struct vmem *dev;
};

/* Shared by the files of machine/ alone. Members stand in the order of their creation. */
struct machine {
	struct machine_params p;   /* [c] p.config only during machine_create() */
	struct loop *trunk;	   /* [c] p.loop as it was given */
	struct loop *devices;	   /* [c] a branch of it, and p.loop now; held while paused */
	bool paused;		   /* [l] */
	unsigned cpu_count;	   /* [c] */
	bool reset_by_fault;	   /* [c] reboot=t on the command line: a triple fault is a reset */
	struct gmem *gm;	   /* [c] */
	struct gmem_placed placed; /* [c] */
	enum gmem_populate populate; /* [c] */
	struct gmem_fill *fill;	     /* [c] NULL unless RAM is populated while vCPUs run */
	_Atomic unsigned filling;    /* [a] vCPUs whose slice is not present yet */
	gpa_t initrd_gpa;	     /* [c] 0: none */
	struct kvm_vm *vm;	     /* [c] */
	bool listening;		     /* [c] gmem tells the VM of memory */
	bool told_stuck;	     /* KVM kept a slot, and the log says so */
	enum kvm_irqchip_kind irqchip_kind;
	unsigned pins;		 /* [c] of the I/O APIC */
	struct bus *bus;	 /* [c] */
	struct irqchip *irqchip; /* [c] */
	struct chardev *console; /* [c] NULL without a serial port */
	struct serial *serial;	 /* [c] */
	struct i8042 i8042;
	struct acpi_regs acpi_regs;
	struct acpi_pm1 acpi_pm1; /* only beside a PIC */
	struct boot_timer boot_timer;
	struct trace_ports trace_ports;
	bool trace_ports_added; /* [c] */
	bool vhost_barred;	/* [c] memory devices are of more pieces than vhost takes */
	unsigned virtio_count;	/* [c] */
	struct machine_virtio virtio[ACPI_VIRTIO_MAX];
	unsigned thread_count;			     /* [c] */
	struct loop_thread *threads[VM_DEVICES_MAX]; /* [c] of devices that have one */
	unsigned mem_count;			     /* [c] */
	struct machine_mem mems[VM_MEM_DEVICES_MAX]; /* [c] */
	char *cmdline;				     /* [c] with devices appended; NULL: as given */
	struct x86_memmap memmap;		     /* [c] */
	gpa_t rsdp;				     /* [c] */
	struct boot_marks marks;
	struct vcpu **vcpus;	  /* [c] cpu_count entries, NULL until created */
	pthread_mutex_t end_lock; /* guards end while it is MACHINE_RUNNING; taken last */
	struct machine_end end;
	_Atomic bool over; /* [a] end is final */
};

/* The first reason counts; later ones are dropped. Calls @ended. Context: any thread. */
void machine_finish(struct machine *m, enum machine_end_kind kind, const char *text);

/* load.c: RAM, kernel and initrd. Returns 0 or -errno with a sentence; machine_destroy() undoes. */
int machine_load(struct machine *m, struct kv_err *err);

/* memory.c: RAM as the configuration wants it, empty. Returns 0 or -errno with a sentence. */
int machine_ram_add(struct machine *m, struct kv_err *err);

/*
 * memory.c: after the images: populate it, or prepare that for later.
 * Returns 0; -ECANCELED (the watch); -errno with a sentence.
 */
int machine_populate(struct machine *m, struct kv_err *err);

/*
 * memory.c: before the vCPUs run: start the threads that were asked for to populate in the
 * background.
 * Returns 0 or -errno with a sentence.
 */
int machine_fill_ready(struct machine *m, struct kv_err *err);

/*
 * memory.c: the vCPUs run: begin to populate in the background where that is wanted. With no thread
 * to be had, that is a warning.
 */
void machine_fill_start(struct machine *m);

/*
 * memory.c: populate a vCPU's slice where that is wanted. Returns false when the vCPU shall not
 * run; the machine knows why. Context: the vCPU's thread.
 */
bool machine_fill_vcpu(struct machine *m, unsigned index);

/*
 * load.c: the name of an image file that is now shorter than when it was opened, or NULL.
 * Context: any thread.
 */
const char *machine_shrunk(const struct machine *m);

/* builder.c: everything after memory. Returns and undoing as for machine_load(). */
int machine_build(struct machine *m, struct kv_err *err);

/*
 * virtio.c: see how many lines the devices asked for need, and set m->pins. After irqchip_kind.
 * Returns 0; -ENOSPC with a sentence when there are too many devices.
 */
int machine_lines_plan(struct machine *m, struct kv_err *err);

/*
 * net.c: open the host's side of @net and add the device.
 * Returns 0; -errno with a sentence that names it. Context: as machine_add_rng().
 */
int machine_add_net(struct machine *m, const struct vm_net *net, struct kv_err *err);

/*
 * net.c: is there a network device that will use vhost, as far as one can tell before it is opened?
 * @must: it has to. Context: as machine_add_rng().
 */
bool machine_vhost_wanted(const struct machine *m, bool *must);

/*
 * virtio.c: add an entropy device.
 * Returns 0; -errno with a sentence. Context: while the machine is built.
 */
int machine_add_rng(struct machine *m, struct kv_err *err);

/*
 * virtio.c: open @disk and add it.
 * Returns 0; -errno with a sentence that names it. Context: as machine_add_rng().
 */
int machine_add_disk(struct machine *m, const struct vm_disk *disk, struct kv_err *err);

/*
 * virtio.c: put the device @dev, whose core is @vd, on the board.
 * Returns 0; -errno. Owns: @dev, on success only. Context: as machine_add_rng().
 */
int machine_virtio_add(struct machine *m, struct vdev *vd, void *dev, void (*destroy)(void *dev));

/*
 * mem_device.c: find places and memory slots for the memory devices. Before gmem tells KVM of
 * memory. Returns 0; -EINVAL (more than the CPU can address); -ENOSPC (too few slots); -errno;
 * each with a sentence.
 */
int machine_mems_plan(struct machine *m, struct kv_err *err);

/*
 * mem_device.c: add memory device @index of the configuration.
 * Returns 0; -errno with a sentence. Context: as machine_add_rng().
 */
int machine_add_mem(struct machine *m, unsigned index, struct kv_err *err);

/* mem_device.c: tell @acpi of NUMA nodes, if a memory device has one. */
void machine_mems_tell(struct machine *m, struct acpi_config *acpi);

/*
 * thread.c: the loop for the device @id, whose sources are not added yet: one with a thread of its
 * own (@own), or the machine's.
 * Returns 0 and *@ret; -errno with a sentence. Owns: the machine.
 */
int machine_loop_for(
	struct machine *m, bool own, const char *id, struct loop **ret, struct kv_err *err);

/* thread.c: start the threads of devices. Returns 0; -errno with a sentence. */
int machine_threads_run(struct machine *m, struct kv_err *err);

/*
 * thread.c: wait, for @ns at most (UINT64_MAX: as long as it takes), until none of them is in a
 * handler; they call no more. Returns 0; -ETIMEDOUT.
 */
int machine_threads_hold(struct machine *m, uint64_t ns);

/* thread.c: they go on. */
void machine_threads_let(struct machine *m);

/* thread.c: end them. After their devices are freed. */
void machine_threads_free(struct machine *m);

/* virtio.c: pins of the I/O APIC that the MP table must list. After the devices. */
unsigned machine_irqs(const struct machine *m);

/*
 * virtio.c: tell the guest of the devices, in @acpi or by m->cmdline.
 * Returns 0; -ENOMEM with a sentence.
 */
int machine_announce(struct machine *m, struct acpi_config *acpi, struct kv_err *err);

/* virtio.c: free all devices. Context: after the vCPUs ended; as machine_destroy(). */
void machine_virtio_free(struct machine *m);

/* machine.c: the callbacks of vcpu/. */
extern const struct vcpu_ops machine_vcpu_ops;

#endif
