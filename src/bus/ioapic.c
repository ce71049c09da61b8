/* SPDX-License-Identifier: Apache-2.0 */
/* Source: Intel 82093AA I/O APIC data sheet (290566), section 3. */
#include "bus/irqchip.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Offsets of the two registers through which the others are reached (§3.1). */
#define IOREGSEL  0x00
#define IOWIN	  0x10
#define REG_BYTES 0x1000

/* Indirect registers (§3.2). */
#define REG_ID	0x00
#define REG_VER 0x01
#define REG_ARB 0x02
#define REG_RED 0x10 /* two a pin */

#define VERSION 0x11

/* Redirection table entry (§3.2.4). */
#define RED_VECTOR(e)	((uint8_t)(e))
#define RED_DELIVERY(e) ((uint32_t)((e) >> 8 & 7))
#define RED_LOGICAL	(1ULL << 11)
#define RED_REMOTE_IRR	(1ULL << 14)
#define RED_LEVEL	(1ULL << 15)
#define RED_MASKED	(1ULL << 16)
#define RED_DEST(e)	((uint32_t)((e) >> 56))
#define RED_READ_ONLY	(1ULL << 12 | RED_REMOTE_IRR)
#define RED_WRITABLE	(0xff0000000001ffffULL & ~RED_READ_ONLY)
#define DELIVERY_EXTINT 7

/* Message format (SDM volume 3, 11.11). */
#define MSI_BASE	0xfee00000ULL
#define MSI_DEST_SHIFT	12
#define MSI_LOGICAL	(1U << 2)
#define MSI_DATA_ASSERT (1U << 14)
#define MSI_DATA_LEVEL	(1U << 15)

struct irqchip {
	struct kvm_vm *vm;	    /* [c] */
	enum kvm_irqchip_kind kind; /* [c] */
	unsigned pins;		    /* [c] */
	_Atomic uint64_t errors;
	pthread_mutex_t
		lock; /* guards all below; taken last, nothing is called under it but kvm/ */
	uint8_t select;
	uint8_t id;
	bool level_routed; /* KVM has a route of a level-triggered pin */
	uint64_t lines;	   /* level of each pin's wire */
	uint64_t pending;  /* pins with an interrupt not yet delivered */
	uint64_t red[IRQCHIP_PINS_MAX];
};

_Static_assert(IRQCHIP_PINS_MAX <= 64, "lines and pending have a bit a pin");

static uint64_t message_address(uint64_t entry)
{
	return MSI_BASE | RED_DEST(entry) << MSI_DEST_SHIFT |
	       (entry & RED_LOGICAL ? MSI_LOGICAL : 0);
}

static uint32_t message_data(uint64_t entry)
{
	return RED_VECTOR(entry) | RED_DELIVERY(entry) << 8 | MSI_DATA_ASSERT |
	       (entry & RED_LEVEL ? MSI_DATA_LEVEL : 0);
}

/* Deliver what is pending at @pin if its entry allows. Called with the lock. */
static void pin_service(struct irqchip *chip, unsigned pin)
{
	uint64_t *entry = &chip->red[pin];

	if (!(chip->pending & 1ULL << pin) || *entry & RED_MASKED)
		return;
	/* There is no PIC behind the split chip that could supply a vector. */
	if (RED_DELIVERY(*entry) == DELIVERY_EXTINT)
		return;
	if (*entry & RED_LEVEL) {
		if (*entry & RED_REMOTE_IRR)
			return;
		*entry |= RED_REMOTE_IRR;
	} else {
		chip->pending &= ~(1ULL << pin);
	}
	if (kvm_msi_send(chip->vm, message_address(*entry), message_data(*entry)) < 0)
		chip->errors++;
}

/*
 * Tell KVM which vectors are level-triggered, so that their EOI comes here: it reads that from the
 * routes of the reserved pins. Costs an SRCU grace period, so it is left out while every pin is
 * edge-triggered. Called with the lock.
 */
static void routes_update(struct irqchip *chip)
{
	struct kvm_irq_routing_entry routes[IRQCHIP_PINS_MAX];
	unsigned count = 0;

	for (unsigned pin = 0; pin < chip->pins; pin++) {
		uint64_t entry = chip->red[pin];
		uint64_t address = message_address(entry);

		if (entry & RED_MASKED || !(entry & RED_LEVEL))
			continue;
		routes[count++] = (struct kvm_irq_routing_entry){
			.gsi = pin,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (uint32_t)address, .data = message_data(entry)},
		};
	}
	if (!count && !chip->level_routed)
		return;
	if (kvm_routes_set(chip->vm, routes, count) < 0)
		chip->errors++;
	chip->level_routed = count > 0;
}

static uint32_t reg_read(const struct irqchip *chip)
{
	unsigned pin = (chip->select - REG_RED) / 2u;

	switch (chip->select) {
	case REG_ID:
	case REG_ARB:
		return (uint32_t)chip->id << 24;
	case REG_VER:
		return VERSION | (chip->pins - 1) << 16;
	default:
		if (chip->select < REG_RED || pin >= chip->pins)
			return UINT32_MAX;
		return (uint32_t)(chip->select & 1 ? chip->red[pin] >> 32 : chip->red[pin]);
	}
}

static void reg_write(struct irqchip *chip, uint32_t value)
{
	unsigned pin = (chip->select - REG_RED) / 2u;
	uint64_t old, next;

	if (chip->select == REG_ID)
		chip->id = value >> 24 & 0xf;
	if (chip->select < REG_RED || pin >= chip->pins)
		return;
	old = chip->red[pin];
	if (chip->select & 1)
		next = (uint32_t)old | (uint64_t)value << 32;
	else
		next = (old & ~0xffffffffULL) | value;
	next = (next & RED_WRITABLE) | (old & RED_READ_ONLY);
	/* Remote IRR means nothing to an edge-triggered pin; software clears it by this switch. */
	if (!(next & RED_LEVEL))
		next &= ~RED_REMOTE_IRR;
	chip->red[pin] = next;
	if (next & RED_LEVEL && !(chip->lines & 1ULL << pin))
		chip->pending &= ~(1ULL << pin);
	if ((old | next) & RED_LEVEL && old != next)
		routes_update(chip);
	pin_service(chip, pin);
}

static void ioapic_read(void *ctx, uint64_t offset, uint8_t *data, unsigned len)
{
	struct irqchip *chip = ctx;
	uint32_t value = UINT32_MAX;

	pthread_mutex_lock(&chip->lock);
	if (offset == IOREGSEL)
		value = chip->select;
	else if (offset == IOWIN)
		value = reg_read(chip);
	pthread_mutex_unlock(&chip->lock);
	memcpy(data, &value, len < sizeof(value) ? len : sizeof(value));
}

static void ioapic_write(void *ctx, uint64_t offset, const uint8_t *data, unsigned len)
{
	struct irqchip *chip = ctx;
	uint32_t value = 0;

	memcpy(&value, data, len < sizeof(value) ? len : sizeof(value));
	pthread_mutex_lock(&chip->lock);
	if (offset == IOREGSEL)
		chip->select = (uint8_t)value;
	else if (offset == IOWIN)
		reg_write(chip, value);
	pthread_mutex_unlock(&chip->lock);
}

static const struct bus_ops ioapic_ops = {ioapic_read, ioapic_write};

static void ioapic_set(void *ctx, uint32_t gsi, bool level)
{
	struct irqchip *chip = ctx;
	uint64_t bit = 1ULL << gsi;

	pthread_mutex_lock(&chip->lock);
	if (level && !(chip->lines & bit))
		chip->pending |= bit;
	if (!level && chip->red[gsi] & RED_LEVEL)
		chip->pending &= ~bit;
	chip->lines = level ? chip->lines | bit : chip->lines & ~bit;
	pin_service(chip, gsi);
	pthread_mutex_unlock(&chip->lock);
}

static void kernel_set(void *ctx, uint32_t gsi, bool level)
{
	struct irqchip *chip = ctx;

	if (kvm_irq_line(chip->vm, gsi, level) < 0)
		chip->errors++;
}

int irqchip_create(struct irqchip **ret, struct kvm_vm *vm, enum kvm_irqchip_kind kind,
	unsigned pins, struct bus *bus, gpa_t ioapic_base)
{
	struct irqchip *chip = calloc(1, sizeof(*chip));
	int r;

	if (!chip)
		return -ENOMEM;
	chip->vm = vm;
	chip->kind = kind;
	chip->pins = pins;
	for (unsigned pin = 0; pin < pins; pin++)
		chip->red[pin] = RED_MASKED;
	if (kind == KVM_IRQCHIP_SPLIT) {
		r = bus_add_mmio(bus, ioapic_base, REG_BYTES, &ioapic_ops, chip);
		if (r < 0) {
			free(chip);
			return r;
		}
	}
	pthread_mutex_init(&chip->lock, NULL);
	*ret = chip;
	return 0;
}

void irqchip_destroy(struct irqchip *chip)
{
	if (!chip)
		return;
	pthread_mutex_destroy(&chip->lock);
	free(chip);
}

struct irq_line irqchip_line(struct irqchip *chip, uint32_t gsi)
{
	return (struct irq_line){
		.set = chip->kind == KVM_IRQCHIP_SPLIT ? ioapic_set : kernel_set,
		.ctx = chip,
		.gsi = gsi,
	};
}

void irqchip_eoi(struct irqchip *chip, uint8_t vector)
{
	pthread_mutex_lock(&chip->lock);
	for (unsigned pin = 0; pin < chip->pins; pin++) {
		uint64_t *entry = &chip->red[pin];

		if (!(*entry & RED_LEVEL) || RED_VECTOR(*entry) != vector)
			continue;
		*entry &= ~RED_REMOTE_IRR;
		pin_service(chip, pin);
	}
	pthread_mutex_unlock(&chip->lock);
}

uint64_t irqchip_errors(const struct irqchip *chip)
{
	return chip->errors;
}
