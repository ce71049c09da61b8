/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_X86_AML_H
#define KV_X86_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Writes ACPI Machine Language: the byte code in which a DSDT describes devices. Calls follow the
 * source text that one would write in ASL, one call a term, each opened block closed by aml_end():
 *
 *	aml_scope(&aml, "_SB_");		Scope (_SB) {
 *	aml_device(&aml, "COM1");		    Device (COM1) {
 *	aml_name(&aml, "_UID");			        Name (_UID, 1)
 *	aml_int(&aml, 1);
 *	aml_end(&aml);				    }
 *	aml_end(&aml);				}
 *
 * Errors (no room, blocks nested too deeply or not closed) are kept and come out of aml_finish().
 * Source: ACPI 6.5 §20 (AML), §6.4 (resource descriptors).
 */

#define AML_DEPTH_MAX 8

struct aml_block {
	size_t start;	/* of its content in the buffer */
	bool resources; /* a resource template: a buffer of descriptors */
};

struct aml {
	uint8_t *buf;
	size_t size, used; /* bytes */
	bool failed;
	unsigned depth;
	struct aml_block open[AML_DEPTH_MAX];
};

/* Write into @buf of @size bytes, borrowed until aml_finish(). Context: as all here, one thread. */
void aml_init(struct aml *aml, void *buf, size_t size);

/*
 * Returns the bytes written, or 0 when something went wrong.
 */
size_t aml_finish(const struct aml *aml);

/*
 * Blocks: Scope (@name) {, Device (@name) {, Package (@count) {, ResourceTemplate () {. Names are
 * four characters, padded with '_'.
 */
void aml_scope(struct aml *aml, const char *name);
void aml_device(struct aml *aml, const char *name);
void aml_package(struct aml *aml, uint8_t count);
void aml_resources(struct aml *aml);

/* The closing brace of the innermost open block. */
void aml_end(struct aml *aml);

/* Name (@name, ...): the object that the next call writes gets this name. */
void aml_name(struct aml *aml, const char *name);

/* Objects: an integer, a string, and EISAID ("PNP0501"): @id is 3 capitals, 4 hex digits. */
void aml_int(struct aml *aml, uint64_t value);
void aml_string(struct aml *aml, const char *text);
void aml_eisaid(struct aml *aml, const char *id);

/*
 * Descriptors inside aml_resources(): @len ports from @base; memory [@base, @base + @bytes), not
 * cacheable, writable; an edge-triggered, active-high, exclusive interrupt.
 */
void aml_io(struct aml *aml, uint16_t base, uint8_t len);
void aml_memory(struct aml *aml, uint64_t base, uint64_t bytes);
void aml_interrupt(struct aml *aml, uint32_t gsi);

#endif
