/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "kvm/internal.h"

/* More leaves than any CPU so far reports; KVM itself stops at 256 (KVM_MAX_CPUID_ENTRIES). */
#define CPUID_LEAVES_MAX 256

int kvm_call(int fd, unsigned long request, unsigned long arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

/* A sentence for a failed open of the device. */
static int open_failed(const char *path, int code, struct kv_err *err)
{
	switch (-code) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return err_set(err, code,
			"%s: there is no KVM on this machine (%s); load kvm_intel or kvm_amd, or "
			"enable "
			"virtualisation in the firmware",
			path, err_text(code));
	case EACCES:
	case EPERM:
		return err_set(err, code,
			"%s: no permission to use KVM (%s); join the group that owns it (usually: "
			"adduser "
			"$USER kvm, then log in again)",
			path, err_text(code));
	default:
		return err_set(err, code, "%s: cannot be opened: %s", path, err_text(code));
	}
}

int kvm_open(struct kvm **ret, const char *path, struct kv_err *err)
{
	struct kvm *kvm = calloc(1, sizeof(*kvm));
	int r;

	if (!kvm)
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	kvm->fd = open(path, O_RDWR | O_CLOEXEC);
	if (kvm->fd < 0) {
		r = open_failed(path, -errno, err);
		goto err_free;
	}
	r = kvm_call(kvm->fd, KVM_GET_API_VERSION, 0);
	if (r != KVM_API_VERSION) {
		r = err_set(err, -ENOTSUP, "%s: speaks KVM API version %d; kvick needs %d", path, r,
			KVM_API_VERSION);
		goto err_close;
	}
	kvm->run_bytes = kvm_call(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (kvm->run_bytes < (int)sizeof(struct kvm_run)) {
		r = err_set(
			err, -ENOTSUP, "%s: KVM_GET_VCPU_MMAP_SIZE gave %d", path, kvm->run_bytes);
		goto err_close;
	}
	pthread_mutex_init(&kvm->lock, NULL);
	*ret = kvm;
	return 0;

err_close:
	fd_close(&kvm->fd);
err_free:
	free(kvm);
	return r;
}

void kvm_close(struct kvm *kvm)
{
	if (!kvm)
		return;
	pthread_mutex_destroy(&kvm->lock);
	free(kvm->cpuid);
	fd_close(&kvm->fd);
	free(kvm);
}

int kvm_cap(const struct kvm *kvm, int cap)
{
	int r = kvm_call(kvm->fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return r < 0 ? 0 : r;
}

static int cpuid_ask(const struct kvm *kvm, struct kvm_cpuid2 **ret)
{
	/* Not cleared: KVM fills in what it has, and the rest would cost page faults. */
	struct kvm_cpuid2 *cpuid =
		malloc(sizeof(*cpuid) + CPUID_LEAVES_MAX * sizeof(cpuid->entries[0]));
	struct kvm_cpuid2 *fit;
	int r;

	if (!cpuid)
		return -ENOMEM;
	*cpuid = (struct kvm_cpuid2){.nent = CPUID_LEAVES_MAX};
	r = kvm_call(kvm->fd, KVM_GET_SUPPORTED_CPUID, (unsigned long)cpuid);
	if (r < 0) {
		free(cpuid);
		return r;
	}
	fit = realloc(cpuid, sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]));
	*ret = fit ? fit : cpuid;
	return 0;
}

int kvm_cpuid_supported(struct kvm *kvm, const struct kvm_cpuid2 **ret)
{
	int r = 0;

	pthread_mutex_lock(&kvm->lock);
	if (!kvm->cpuid)
		r = cpuid_ask(kvm, &kvm->cpuid);
	*ret = kvm->cpuid;
	pthread_mutex_unlock(&kvm->lock);
	return r;
}
