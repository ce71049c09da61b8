/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files: whatever the bytes, reading them ends in a configuration or in a sentence,
 * and a configuration that passes the check survives being written and read again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Write @config, read it again, write that: the same text. */
static void round_trip(const struct vm_config *config)
{
	struct vm_config again;
	struct kv_err err = {0};
	char *first, *second;

	/* A string of JSON is UTF-8, so this cannot be refused. */
	if (vm_config_dump(config, &first) || vm_config_init(&again))
		abort();
	if (config_json_parse(&again, "again", first, strlen(first), &err) ||
		vm_config_check(&again, &err) || vm_config_dump(&again, &second) ||
		strcmp(first, second))
		abort();
	vm_config_free(&again);
	free(first);
	free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vm_config config;
	struct kv_err err = {0};
	char *text = malloc(size + 1);
	int r;

	if (!text || vm_config_init(&config))
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	r = config_json_parse(&config, "fuzz", text, size, &err);
	if (r < 0 && !err.text[0])
		abort();
	if (!r && !vm_config_check(&config, &err))
		round_trip(&config);
	vm_config_free(&config);
	free(text);
	return 0;
}
