/* SPDX-License-Identifier: Apache-2.0 */
/* gmem/hot with KVM's memory slots: whoever refuses a window, KVM has what is plugged, no more. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "gmem/backing.h"
#include "gmem/hot.h"
#include "kvm/kvm.h"

#define BASE	(8 * GIB)
#define BLOCK	(2 * MIB)
#define WINDOW	(4 * MIB)
#define WINDOWS 3
#define BYTES	(WINDOWS * WINDOW)
/* Of the test's own; what gmem numbers is less. */
#define PROBE (GMEM_REGIONS_MAX + GMEM_WINDOWS_MAX)

/* A listener that refuses one call, and counts what it was told of. */
struct fake {
	int refuse_at; /* from 1; 0: none */
	int calls, mapped;
};

struct board {
	struct kvm_vm *vm;
	struct gmem *gm;
	struct gmem_hot *hot;
	struct fake fake;
	void *page;
};

static int fake_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	struct fake *fake = ctx;

	if (++fake->calls == fake->refuse_at)
		return -ENOSPC;
	fake->mapped++;
	return 0;
}

static void fake_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	((struct fake *)ctx)->mapped--;
}

/* As the machine's. */
static int slot_map(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes, void *host)
{
	return kvm_slot_set(ctx, region, gpa, bytes, host, 0);
}

static void slot_unmap(void *ctx, unsigned region, gpa_t gpa, uint64_t bytes)
{
	kvm_slot_set(ctx, region, gpa, 0, NULL, 0);
}

/* @kvm_first: KVM is told before the other one. */
static void board_make(struct board *b, struct kvm *kvm, bool kvm_first)
{
	static const struct gmem_backing anon = {.kind = GMEM_ANON};
	const struct gmem_hot_params params = {
		.gpa = BASE,
		.bytes = BYTES,
		.block_bytes = BLOCK,
		.window_bytes = WINDOW,
		.backing = &anon,
	};
	struct kv_err err = {0};

	*b = (struct board){0};
	if (kvm_vm_create(&b->vm, kvm, &err))
		fail_msg("%s", err.text);
	assert_int_equal(gmem_create(&b->gm, NULL), 0);
	assert_int_equal(gmem_add_ram(b->gm, 0, MIB, NULL), 0);
	assert_int_equal(gmem_hot_add(&b->hot, b->gm, &params, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct gmem_listener slots = {slot_map, slot_unmap, b->vm};
		struct gmem_listener fake = {fake_map, fake_unmap, &b->fake};

		assert_int_equal(gmem_listen(b->gm, kvm_first == !i ? &slots : &fake), 0);
	}
	b->page =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(b->page, MAP_FAILED);
	b->fake.calls = 0;
}

static void board_free(struct board *b)
{
	gmem_destroy(b->gm);
	assert_int_equal(b->fake.mapped, 0);
	kvm_vm_destroy(b->vm);
	munmap(b->page, PAGE_BYTES);
}

/* KVM takes no two slots for one address, so another one tells whether there is one. */
static bool slot_there(struct board *b, unsigned window, unsigned page)
{
	gpa_t gpa = BASE + window * WINDOW + page * PAGE_BYTES;
	int r = kvm_slot_set(b->vm, PROBE, gpa, PAGE_BYTES, b->page, 0);

	if (!r)
		assert_int_equal(kvm_slot_set(b->vm, PROBE, gpa, 0, NULL, 0), 0);
	else
		assert_int_equal(r, -EEXIST);
	return r;
}

/* All windows are there, or none, for everybody. */
static void all_check(struct board *b, bool there)
{
	for (unsigned w = 0; w < WINDOWS; w++) {
		assert_int_equal(slot_there(b, w, 0), there);
		assert_int_equal(slot_there(b, w, WINDOW / PAGE_BYTES - 1), there);
	}
	assert_int_equal(b->fake.mapped, there ? 1 + WINDOWS : 1);
	assert_int_equal(gmem_hot_plugged(b->hot, BASE, BYTES), there ? BYTES : 0);
	assert_int_equal(gmem_at(b->gm, BASE, BYTES) != NULL, there);
}

/* After what was refused the same can be had, and given back. */
static void again_check(struct board *b)
{
	all_check(b, false);
	assert_int_equal(gmem_hot_plug(b->hot, BASE, BYTES), 0);
	all_check(b, true);
	assert_int_equal(gmem_hot_unplug(b->hot, BASE, BYTES), 0);
	all_check(b, false);
}

static void test_other_refuses(void **state)
{
	if (!*state)
		skip();
	for (unsigned i = 0; i < 2 * WINDOWS; i++) {
		struct board b;

		board_make(&b, *state, i & 1);
		b.fake.refuse_at = 1 + (int)i / 2;
		assert_int_equal(gmem_hot_plug(b.hot, BASE, BYTES), -ENOSPC);
		again_check(&b);
		board_free(&b);
	}
}

/* KVM itself refuses a window, at whose address something else lies. */
static void test_kvm_refuses(void **state)
{
	if (!*state)
		skip();
	for (unsigned i = 0; i < 2 * WINDOWS; i++) {
		gpa_t gpa = BASE + i / 2 * WINDOW + PAGE_BYTES;
		struct board b;

		board_make(&b, *state, i & 1);
		assert_int_equal(kvm_slot_set(b.vm, PROBE, gpa, PAGE_BYTES, b.page, 0), 0);
		assert_int_equal(gmem_hot_plug(b.hot, BASE, BYTES), -EEXIST);
		assert_int_equal(kvm_slot_set(b.vm, PROBE, gpa, 0, NULL, 0), 0);
		again_check(&b);
		board_free(&b);
	}
}

static int kvm_setup(void **state)
{
	struct kv_err err = {0};
	struct kvm *kvm = NULL;

	if (kvm_open(&kvm, "/dev/kvm", &err) < 0)
		print_message("%s\n", err.text);
	*state = kvm;
	return 0;
}

static int kvm_teardown(void **state)
{
	if (*state)
		kvm_close(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_other_refuses),
		cmocka_unit_test(test_kvm_refuses),
	};

	return cmocka_run_group_tests(tests, kvm_setup, kvm_teardown);
}
