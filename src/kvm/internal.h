/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_KVM_INTERNAL_H
#define KV_KVM_INTERNAL_H

#include <pthread.h>

#include "kvm/kvm.h"

/* Shared by the files of kvm/ alone. */

struct kvm {
	int fd;
	int run_bytes;		  /* [c] size of the kvm_run mapping */
	pthread_mutex_t lock;	  /* guards cpuid until it is set */
	struct kvm_cpuid2 *cpuid; /* constant once set; NULL: not asked yet */
};

struct kvm_vm {
	struct kvm *kvm; /* [c] */
	int fd;
};

struct kvm_vcpu {
	struct kvm_run *run; /* [c] */
	size_t run_bytes;    /* [c] */
	int fd;
};

/* ioctl(2) that gives -errno and goes on after EINTR; @arg: a pointer or a number. */
int kvm_call(int fd, unsigned long request, unsigned long arg);

#endif
