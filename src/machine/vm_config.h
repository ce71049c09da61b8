/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_MACHINE_VM_CONFIG_H
#define KV_MACHINE_VM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "gmem/backing.h"
#include "gmem/gmem.h"
#include "gmem/populate.h"
#include "image/image.h"
#include "image/initrd.h"
#include "virtio/limit.h"
#include "virtio/net.h"

/*
 * Everything that can be said about a VM, in one place. The command line, the JSON file, the HTTP
 * API and kvick.h all fill this structure (config/); machine_create() reads it. Strings are owned
 * by the structure.
 */

#define VM_CPUS_MAX	    254
#define VM_MEMORY_MIN_BYTES (16 * MIB)

enum vm_serial_kind {
	VM_SERIAL_NONE,
	VM_SERIAL_STDIO,
	VM_SERIAL_FILE,
	VM_SERIAL_PTY,
	VM_SERIAL_UNIX,
};

/* Which interrupt controllers and timers exist, see docs/design.md. */
enum vm_legacy {
	VM_LEGACY_AUTO, /* PIC and PIT only when the command line takes away what replaces them */
	VM_LEGACY_OFF,
	VM_LEGACY_ON,
};

/* What RAM is made of, and when (docs/memory.md); the size has a field of its own. */
struct vm_memory {
	enum gmem_backing_kind backing;
	char *path; /* GMEM_FILE: the file; GMEM_POOL: the server's socket, or NULL for its usual
		       place */
	enum gmem_switch thp;
	enum gmem_populate populate;
	unsigned threads; /* that populate, 1..GMEM_THREADS_MAX; 0: as many as gain something */
	uint64_t nodes;	  /* NUMA nodes, a bit each; 0: any */
	bool mlock, merge, dump, shared;
	bool wait; /* GMEM_POOL: for chunks that others give back, instead of failing at once */
};

/* How a guest learns of the virtio devices: in one of the two ways, never both. */
enum vm_discovery {
	VM_DISCOVERY_AUTO,    /* ACPI, unless the kernel or its command line is without */
	VM_DISCOVERY_ACPI,    /* the DSDT */
	VM_DISCOVERY_CMDLINE, /* virtio_mmio.device= on the kernel command line */
};

#define VM_DEVICES_MAX 32 /* virtio devices of all kinds */
#define VM_DISKS_MAX   VM_DEVICES_MAX

struct vm_disk {
	char *id;     /* 1..64 of [A-Za-z0-9_-], unlike the others' */
	char *path;   /* a file or a block device */
	char *serial; /* up to 20 bytes, or NULL */
	bool read_only;
	bool writeback;	 /* flushes reach the host's disk; else they are not offered */
	bool direct;	 /* around the host's page cache */
	bool root;	 /* root=/dev/vda is appended to the command line */
	char *partuuid;	 /* root=PARTUUID= this, instead; or NULL */
	unsigned queues; /* 1..16 */
	bool iothread;	 /* it has a thread of its own */
	struct limit_rates limit;
};

#define VM_MEM_DEVICES_MAX 8
#define VM_MEM_NODE_MAX	   255

/* Memory that the guest plugs and unplugs while it runs (virtio-mem). */
struct vm_mem_device {
	char *id;		  /* as a disk's; unlike the other memory devices' */
	uint64_t max_bytes;	  /* a multiple of 128 MiB and of the block */
	uint64_t requested_bytes; /* what the guest shall plug at first; whole blocks */
	uint64_t block_bytes;	  /* a power of two from the backing's page to 1 GiB */
	unsigned slots;		  /* memory slots at most, up to 256; 0: a fair share of them */
	bool dynamic;		  /* slots where memory is plugged; else one for all there may be */
	bool populate;		  /* blocks become present when they are plugged */
	enum gmem_backing_kind backing; /* not GMEM_FILE */
	char *path; /* GMEM_POOL: the server's socket, or NULL for its usual place */
	int node;   /* NUMA node of the guest (ACPI proximity domain), up to 255; -1: not told */
};

#define VM_NETS_MAX VM_DEVICES_MAX

enum vm_net_kind {
	VM_NET_NONE, /* not said yet */
	VM_NET_TAP,
	VM_NET_FD,
	VM_NET_USER, /* passt */
};

/* Does the host's kernel move a tap's packets? */
enum vm_net_vhost {
	VM_NET_VHOST_AUTO, /* where it can */
	VM_NET_VHOST_ON,
	VM_NET_VHOST_OFF,
};

/* A network device, and the host's side of it. */
struct vm_net {
	char *id; /* 1..64 of [A-Za-z0-9_-], unlike the others' */
	enum vm_net_kind kind;
	char *tap;		/* VM_NET_TAP: the interface's name */
	int fd;			/* VM_NET_FD: an open descriptor */
	unsigned forward_count; /* VM_NET_USER: ports of the host */
	struct vnet_forward forwards[VNET_FORWARDS_MAX];
	enum vm_net_vhost vhost;
	bool mac_set;
	uint8_t mac[6];	 /* unicast; unless mac_set, one is made up */
	uint16_t mtu;	 /* 68..65535; 0: the guest is told none */
	unsigned queues; /* pairs of them, 1..16 */
	bool iothread;	 /* it has a thread of its own */
	struct limit_rates rx, tx;
};

struct vm_config {
	char *id;	/* 1..64 of [A-Za-z0-9_-], default "anonymous-instance" */
	bool named;	/* the id was given: the VM has a control socket of that name */
	bool no_api;	/* no control socket in any case */
	char *api_sock; /* path of a control socket, instead of the id's; or NULL */
	char *kernel;	/* path, required */
	unsigned initrd_count;
	char *initrds[INITRD_FILES_MAX]; /* paths, in order */
	char *cmdline; /* kernel command line, never NULL after vm_config_init() */
	char *symbols; /* System.map path or NULL */
	enum image_protocol protocol;
	enum gmem_image_map image_map;
	uint64_t memory_bytes; /* a multiple of 4096 from VM_MEMORY_MIN_BYTES */
	struct vm_memory memory;
	unsigned cpus; /* 1..VM_CPUS_MAX */
	bool boot_timer;
	bool rng; /* a virtio entropy device */
	struct limit_rates rng_limit;
	unsigned disk_count;
	struct vm_disk disks[VM_DISKS_MAX]; /* in the guest's order */
	unsigned mem_count;
	struct vm_mem_device mems[VM_MEM_DEVICES_MAX];
	unsigned net_count;
	struct vm_net nets[VM_NETS_MAX]; /* in the guest's order */
	enum vm_discovery discovery;
	enum vm_legacy legacy;
	enum vm_serial_kind serial;
	char *serial_path; /* for VM_SERIAL_FILE and VM_SERIAL_UNIX */
};

#endif
