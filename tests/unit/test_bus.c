/* SPDX-License-Identifier: Apache-2.0 */
/* bus/: dispatch, and the I/O APIC with KVM's two calls replaced by recorders (--wrap). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bus/bus.h"
#include "bus/irqchip.h"

#define BASE 0xfec00000ULL

static struct {
	unsigned messages, route_calls, route_count;
	uint64_t address;
	uint32_t data;
	uint32_t route_data;
	int fail;
} seen;

int __wrap_kvm_msi_send(struct kvm_vm *vm, uint64_t address, uint32_t data);
int __wrap_kvm_routes_set(
	struct kvm_vm *vm, const struct kvm_irq_routing_entry *entries, unsigned count);

int __wrap_kvm_msi_send(struct kvm_vm *vm, uint64_t address, uint32_t data)
{
	seen.messages++;
	seen.address = address;
	seen.data = data;
	return seen.fail;
}

int __wrap_kvm_routes_set(
	struct kvm_vm *vm, const struct kvm_irq_routing_entry *entries, unsigned count)
{
	seen.route_calls++;
	seen.route_count = count;
	seen.route_data = count ? entries[0].u.msi.data : 0;
	return 0;
}

struct dev {
	uint64_t offset;
	unsigned reads, writes, len;
	uint8_t last[8];
};

static void dev_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct dev *dev = ctx;

	dev->reads++;
	dev->offset = offset;
	dev->len = len;
	data[0] = 0x42;
}

static void dev_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct dev *dev = ctx;

	dev->writes++;
	dev->offset = offset;
	dev->len = len;
	memcpy(dev->last, data, len);
}

static const struct bus_ops dev_ops = {dev_read, dev_write};

static void test_dispatch(void **state)
{
	struct dev a = {0}, b = {0};
	uint8_t data[8];
	struct bus *bus;

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(bus_add_pio(bus, 0x3f8, 8, &dev_ops, &a), 0);
	assert_int_equal(bus_add_pio(bus, 0x60, 1, &dev_ops, &b), 0);
	assert_int_equal(bus_add_pio(bus, 0x3ff, 1, &dev_ops, &b), -EEXIST);
	assert_int_equal(bus_add_pio(bus, 0x3f0, 9, &dev_ops, &b), -EEXIST);
	assert_int_equal(bus_add_pio(bus, 0x3f0, 8, &dev_ops, &b), 0);
	assert_int_equal(bus_add_pio(bus, 0xffff, 2, &dev_ops, &b), -EINVAL);
	assert_int_equal(bus_add_pio(bus, 0x10, 0, &dev_ops, &b), -EINVAL);

	bus_pio_read(bus, 0x3fd, data, 1, 1);
	assert_int_equal(a.reads, 1);
	assert_int_equal(a.offset, 5);
	assert_int_equal(data[0], 0x42);
	/* Nobody there, or only partly: all ones, and no device sees it. */
	memset(data, 0, sizeof(data));
	bus_pio_read(bus, 0x70, data, 4, 1);
	assert_memory_equal(data, "\xff\xff\xff\xff\0\0\0\0", 8);
	bus_pio_read(bus, 0x3ff, data, 2, 1);
	assert_int_equal(a.reads, 1);
	assert_int_equal(data[0], 0xff);
	/* A string instruction hits the same port again and again. */
	bus_pio_write(bus, 0x3f8, (const uint8_t *)"abc", 1, 3);
	assert_int_equal(a.writes, 3);
	assert_int_equal(a.last[0], 'c');
	bus_pio_write(bus, 0x5f, data, 2, 1);
	assert_int_equal(b.writes, 0);
	/* The last addresses of all must not wrap round. */
	bus_mmio_read(bus, UINT64_MAX, data, 8);
	assert_int_equal(data[7], 0xff);
	bus_destroy(bus);
}

static void test_full(void **state)
{
	struct dev a = {0};
	struct bus *bus;

	assert_int_equal(bus_create(&bus), 0);
	for (unsigned i = 0; i < BUS_RANGES_MAX; i++)
		assert_int_equal(
			bus_add_mmio(bus, (BUS_RANGES_MAX - i) * 0x1000ULL, 16, &dev_ops, &a), 0);
	assert_int_equal(bus_add_mmio(bus, 0x900000, 16, &dev_ops, &a), -ENOSPC);
	for (unsigned i = 0; i < BUS_RANGES_MAX; i++) {
		uint8_t data[8] = {0};

		a.offset = 99;
		bus_mmio_write(bus, (i + 1) * 0x1000ULL + 8, data, 8);
		assert_int_equal(a.offset, 8);
	}
	assert_int_equal(a.writes, BUS_RANGES_MAX);
	bus_destroy(bus);
}

/* A bus with an I/O APIC, and what a guest does with it. */
struct board {
	struct bus *bus;
	struct irqchip *chip;
};

static void board_make(struct board *board, unsigned pins)
{
	memset(&seen, 0, sizeof(seen));
	assert_int_equal(bus_create(&board->bus), 0);
	assert_int_equal(
		irqchip_create(&board->chip, NULL, KVM_IRQCHIP_SPLIT, pins, board->bus, BASE), 0);
}

static void board_free(struct board *board)
{
	irqchip_destroy(board->chip);
	bus_destroy(board->bus);
}

static void reg_write(struct board *board, uint8_t reg, uint32_t value)
{
	uint32_t select = reg;

	bus_mmio_write(board->bus, BASE, (uint8_t *)&select, 4);
	bus_mmio_write(board->bus, BASE + 0x10, (uint8_t *)&value, 4);
}

static uint32_t reg_read(struct board *board, uint8_t reg)
{
	uint32_t select = reg, value;

	bus_mmio_write(board->bus, BASE, (uint8_t *)&select, 4);
	bus_mmio_read(board->bus, BASE + 0x10, (uint8_t *)&value, 4);
	return value;
}

static void test_ioapic_registers(void **state)
{
	struct board board;

	board_make(&board, IRQCHIP_PINS);
	assert_int_equal(reg_read(&board, 1), 0x00170011);
	reg_write(&board, 0, 0xff000000);
	assert_int_equal(reg_read(&board, 0), 0x0f000000);
	assert_int_equal(reg_read(&board, 0x10), 0x00010000);
	/* Delivery status and remote IRR are read-only. */
	reg_write(&board, 0x10, 0xffffffff);
	assert_int_equal(reg_read(&board, 0x10), 0x0001afff);
	reg_write(&board, 0x11, 0xffffffff);
	assert_int_equal(reg_read(&board, 0x11), 0xff000000);
	/* Behind the last pin there is nothing. */
	assert_int_equal(reg_read(&board, 0x40), UINT32_MAX);
	reg_write(&board, 0xff, 0);
	assert_int_equal(seen.messages, 0);
	board_free(&board);
}

static void test_ioapic_edge(void **state)
{
	struct irq_line line;
	struct board board;

	board_make(&board, IRQCHIP_PINS);
	line = irqchip_line(board.chip, 4);
	reg_write(&board, 0x19, 3U << 24);
	reg_write(&board, 0x18, 0x24 | 1 << 11 | 1 << 8);
	irq_set(&line, true);
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.address, 0xfee03004);
	assert_int_equal(seen.data, 0x4124);
	/* Only a rising edge counts. */
	irq_set(&line, true);
	assert_int_equal(seen.messages, 1);
	irq_set(&line, false);
	assert_int_equal(seen.messages, 1);
	/* An edge that arrives while the pin is masked waits for the mask to go. */
	reg_write(&board, 0x18, 0x24 | 1 << 16);
	irq_set(&line, true);
	irq_set(&line, false);
	assert_int_equal(seen.messages, 1);
	reg_write(&board, 0x18, 0x24);
	assert_int_equal(seen.messages, 2);
	/* Edge-triggered pins cost no route update, and their EOI means nothing. */
	assert_int_equal(seen.route_calls, 0);
	irqchip_eoi(board.chip, 0x24);
	assert_int_equal(seen.messages, 2);
	seen.fail = -EINVAL;
	irq_set(&line, true);
	assert_int_equal(irqchip_errors(board.chip), 1);
	board_free(&board);
}

static void test_ioapic_level(void **state)
{
	struct irq_line line;
	struct board board;

	board_make(&board, IRQCHIP_PINS);
	line = irqchip_line(board.chip, 5);
	reg_write(&board, 0x1a, 0x31 | 1 << 15);
	assert_int_equal(seen.route_calls, 1);
	assert_int_equal(seen.route_count, 1);
	assert_int_equal(seen.route_data, 0xc031);
	irq_set(&line, true);
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.data, 0xc031);
	assert_int_equal(reg_read(&board, 0x1a) & 1 << 14, 1 << 14);
	/* Not again before the EOI, ... */
	irq_set(&line, true);
	assert_int_equal(seen.messages, 1);
	irqchip_eoi(board.chip, 0x30);
	assert_int_equal(seen.messages, 1);
	/* ... and again after it, for the line is still high. */
	irqchip_eoi(board.chip, 0x31);
	assert_int_equal(seen.messages, 2);
	irq_set(&line, false);
	irqchip_eoi(board.chip, 0x31);
	assert_int_equal(seen.messages, 2);
	assert_int_equal(reg_read(&board, 0x1a) & 1 << 14, 0);
	/* A level that went away while the pin was masked is gone. */
	reg_write(&board, 0x1a, 0x31 | 1 << 15 | 1 << 16);
	irq_set(&line, true);
	irq_set(&line, false);
	reg_write(&board, 0x1a, 0x31 | 1 << 15);
	assert_int_equal(seen.messages, 2);
	/* Masking it again takes the route back. */
	reg_write(&board, 0x1a, 0x31 | 1 << 15 | 1 << 16);
	assert_int_equal(seen.route_count, 0);
	board_free(&board);
}

/* Lines beyond a PC's: registers, edges and levels of the last of 64 pins, and no mix-up. */
static void test_ioapic_wide(void **state)
{
	struct irq_line high, low;
	struct board board;

	board_make(&board, IRQCHIP_PINS_MAX);
	assert_int_equal(reg_read(&board, 1), 0x003f0011);
	assert_int_equal(reg_read(&board, 0x10 + 2 * 63), 0x00010000);
	assert_int_equal(reg_read(&board, 0x10 + 2 * 64), UINT32_MAX);
	high = irqchip_line(board.chip, 63);
	low = irqchip_line(board.chip, 31);
	irq_set(&high, true);
	irq_set(&high, false);
	assert_int_equal(seen.messages, 0);
	/* Pin 31 has the same bit in the lower half; only pin 63 waits. */
	reg_write(&board, 0x10 + 2 * 31, 0x40);
	assert_int_equal(seen.messages, 0);
	reg_write(&board, 0x10 + 2 * 63, 0x41);
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.data, 0x4041);
	irq_set(&low, true);
	assert_int_equal(seen.messages, 2);
	assert_int_equal(seen.data, 0x4040);
	reg_write(&board, 0x10 + 2 * 63, 0x42 | 1 << 15);
	assert_int_equal(seen.route_count, 1);
	irq_set(&high, true);
	assert_int_equal(seen.messages, 3);
	irqchip_eoi(board.chip, 0x42);
	assert_int_equal(seen.messages, 4);
	irq_set(&high, false);
	irqchip_eoi(board.chip, 0x42);
	assert_int_equal(seen.messages, 4);
	board_free(&board);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dispatch),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_ioapic_registers),
		cmocka_unit_test(test_ioapic_edge),
		cmocka_unit_test(test_ioapic_level),
		cmocka_unit_test(test_ioapic_wide),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
