/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_VCPU_DESCRIBE_H
#define KV_VCPU_DESCRIBE_H

#include "gmem/gmem.h"
#include "kvm/kvm.h"
#include "vcpu/vcpu.h"

/*
 * Put into @end->text what a person needs to know about a vCPU that cannot go on: @what (a
 * sentence without full stop), then RIP, CPU mode and the instruction bytes at RIP. Sets
 * @end->idt_empty. Context: the vCPU's thread.
 */
void vcpu_describe(
	struct vcpu_end *end, struct kvm_vcpu *vcpu, const struct gmem *gm, const char *what);

#endif
