/* SPDX-License-Identifier: Apache-2.0 */
#include "x86/aml.h"

#include <string.h>

/* ACPI 6.5 §20.3, table 20.2: AML byte stream byte values. */
enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_EXTENDED = 0x5b,
	OP_DEVICE = 0x82, /* behind OP_EXTENDED */
};

#define NAME_CHARS 4

/* The longest PkgLength, and the longest encoded integer. */
#define LENGTH_BYTES_MAX 4
#define INT_BYTES_MAX	 9

void aml_init(struct aml *aml, void *buf, size_t size)
{
	*aml = (struct aml){.buf = buf, .size = size};
}

size_t aml_finish(const struct aml *aml)
{
	return aml->failed || aml->depth ? 0 : aml->used;
}

/* Put @len bytes at offset @at, moving what is there and behind it. */
static void bytes_insert(struct aml *aml, size_t at, const void *from, size_t len)
{
	if (aml->failed || len > aml->size - aml->used) {
		aml->failed = true;
		return;
	}
	memmove(aml->buf + at + len, aml->buf + at, aml->used - at);
	memcpy(aml->buf + at, from, len);
	aml->used += len;
}

static void bytes_add(struct aml *aml, const void *from, size_t len)
{
	bytes_insert(aml, aml->used, from, len);
}

static void byte_add(struct aml *aml, uint8_t byte)
{
	bytes_add(aml, &byte, 1);
}

/* Little-endian, as all of AML. */
static void number_add(struct aml *aml, uint64_t value, unsigned bytes)
{
	bytes_add(aml, &value, bytes);
}

static void name_add(struct aml *aml, const char *name)
{
	if (strlen(name) != NAME_CHARS) {
		aml->failed = true;
		return;
	}
	bytes_add(aml, name, NAME_CHARS);
}

/* Open a block whose length, put in front when it is closed, counts from here. */
static void block_open(struct aml *aml, bool resources)
{
	if (aml->depth == AML_DEPTH_MAX) {
		aml->failed = true;
		return;
	}
	aml->open[aml->depth++] = (struct aml_block){aml->used, resources};
}

/* §20.2.3 ComputationalData: the shortest form that holds @value. Returns its bytes. */
static unsigned int_encode(uint8_t out[INT_BYTES_MAX], uint64_t value)
{
	unsigned bytes;

	if (value <= 1) {
		out[0] = value ? OP_ONE : OP_ZERO;
		return 1;
	}
	if (value <= UINT8_MAX) {
		out[0] = OP_BYTE;
		bytes = 1;
	} else if (value <= UINT16_MAX) {
		out[0] = OP_WORD;
		bytes = 2;
	} else if (value <= UINT32_MAX) {
		out[0] = OP_DWORD;
		bytes = 4;
	} else {
		out[0] = OP_QWORD;
		bytes = 8;
	}
	memcpy(out + 1, &value, bytes);
	return 1 + bytes;
}

/*
 * §20.2.4 PkgLength of a block with @content bytes; it counts its own bytes too. Up to 63 it is
 * one byte; else that byte has the number of further ones in bits 7:6 and the low four bits.
 */
static unsigned length_encode(uint8_t out[LENGTH_BYTES_MAX], size_t content)
{
	unsigned bytes = 1;
	size_t total;

	if (content + 1 < 1U << 6) {
		out[0] = (uint8_t)(content + 1);
		return 1;
	}
	do {
		bytes++;
		total = content + bytes;
	} while (bytes < LENGTH_BYTES_MAX && total >> (4 + 8 * (bytes - 1)));
	out[0] = (uint8_t)((bytes - 1) << 6 | (total & 0xf));
	for (unsigned i = 1; i < bytes; i++)
		out[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
	return bytes;
}

void aml_end(struct aml *aml)
{
	uint8_t head[INT_BYTES_MAX];
	struct aml_block block;

	if (!aml->depth) {
		aml->failed = true;
		return;
	}
	block = aml->open[--aml->depth];
	if (block.resources) {
		/* §6.4.2.9 end tag; checksum 0 counts as right. Then the buffer's size in front. */
		bytes_add(aml, "\x79\x00", 2);
		bytes_insert(aml, block.start, head, int_encode(head, aml->used - block.start));
	}
	bytes_insert(aml, block.start, head, length_encode(head, aml->used - block.start));
}

void aml_scope(struct aml *aml, const char *name)
{
	byte_add(aml, OP_SCOPE);
	block_open(aml, false);
	name_add(aml, name);
}

void aml_device(struct aml *aml, const char *name)
{
	byte_add(aml, OP_EXTENDED);
	byte_add(aml, OP_DEVICE);
	block_open(aml, false);
	name_add(aml, name);
}

void aml_package(struct aml *aml, uint8_t count)
{
	byte_add(aml, OP_PACKAGE);
	block_open(aml, false);
	byte_add(aml, count);
}

void aml_resources(struct aml *aml)
{
	byte_add(aml, OP_BUFFER);
	block_open(aml, true);
}

void aml_name(struct aml *aml, const char *name)
{
	byte_add(aml, OP_NAME);
	name_add(aml, name);
}

void aml_int(struct aml *aml, uint64_t value)
{
	uint8_t bytes[INT_BYTES_MAX];

	bytes_add(aml, bytes, int_encode(bytes, value));
}

void aml_string(struct aml *aml, const char *text)
{
	byte_add(aml, OP_STRING);
	bytes_add(aml, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

void aml_eisaid(struct aml *aml, const char *id)
{
	uint32_t value = 0;

	if (strlen(id) != 7) {
		aml->failed = true;
		return;
	}
	/* §19.3.4: three letters of five bits, four hex digits, as a big-endian number. */
	for (unsigned i = 0; i < 3; i++)
		value = value << 5 | (uint32_t)(id[i] - 'A' + 1);
	for (unsigned i = 3; i < 7; i++)
		value = value << 4 | hex_digit(id[i]);
	byte_add(aml, OP_DWORD);
	number_add(aml, __builtin_bswap32(value), 4);
}

/* §6.4.2.5 I/O port descriptor. */
void aml_io(struct aml *aml, uint16_t base, uint8_t len)
{
	byte_add(aml, 0x47);
	byte_add(aml, 1);	  /* decodes 16 bits */
	number_add(aml, base, 2); /* lowest base */
	number_add(aml, base, 2); /* highest base */
	byte_add(aml, 1);	  /* alignment */
	byte_add(aml, len);
}

void aml_memory(struct aml *aml, uint64_t base, uint64_t bytes)
{
	if (base <= UINT32_MAX && bytes <= UINT32_MAX - base) {
		/* §6.4.3.4 32-bit fixed memory range descriptor. */
		byte_add(aml, 0x86);
		number_add(aml, 9, 2); /* bytes that follow */
		byte_add(aml, 1);      /* writable */
		number_add(aml, base, 4);
		number_add(aml, bytes, 4);
		return;
	}
	/* §6.4.3.5.1 QWord address space descriptor. */
	byte_add(aml, 0x8a);
	number_add(aml, 43, 2);		      /* bytes that follow */
	byte_add(aml, 0);		      /* memory */
	byte_add(aml, 0x0d);		      /* lowest and highest address fixed, consumer */
	byte_add(aml, 1);		      /* writable, not cacheable */
	number_add(aml, 0, 8);		      /* granularity */
	number_add(aml, base, 8);	      /* lowest address */
	number_add(aml, base + bytes - 1, 8); /* highest address */
	number_add(aml, 0, 8);		      /* translation */
	number_add(aml, bytes, 8);
}

/* §6.4.3.6 extended interrupt descriptor. */
void aml_interrupt(struct aml *aml, uint32_t gsi)
{
	byte_add(aml, 0x89);
	number_add(aml, 6, 2); /* bytes that follow */
	byte_add(aml, 0x03);   /* consumer, edge-triggered, active high, exclusive */
	byte_add(aml, 1);      /* one interrupt */
	number_add(aml, gsi, 4);
}
