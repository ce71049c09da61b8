/* SPDX-License-Identifier: Apache-2.0 */
/* kvick image info: what a kernel file is and how each part of it will get into a guest. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "cli/cli.h"
#include "config/config.h"
#include "gmem/backing.h"
#include "gmem/place.h"
#include "image/image.h"
#include "image/initrd.h"
#include "machine/machine.h"
#include "pool/client.h"
#include "x86/layout.h"

/* One part of a file and what gmem_overlay() will do with it. */
struct part {
	uint64_t offset, file_bytes, mem_bytes;
	gpa_t gpa; /* of an initrd file: from the start of the first one */
	struct gmem_split split;
	const char *whole; /* why it is copied whole, or NULL */
};

struct info {
	struct vm_config config;
	bool memory_backed; /* it says what RAM is made of */
	bool memory_given;  /* then everything fits, and initrd_gpa is known */
	gpa_t initrd_gpa;
	bool json;
	struct kv_log log;
	struct image *image;
	struct initrd *initrd;
	struct part segments[IMAGE_SEGMENTS_MAX];
	struct part initrds[INITRD_FILES_MAX];
	struct gmem_placed total;
	bool backing_given;		/* by --backing */
	enum gmem_backing_kind backing; /* there */
	uint64_t page_bytes;		/* of the memory's backing */
	uint64_t small_bytes;		/* of huge pages that the images turn into small ones */
	bool has_start_kernel;
	uint64_t start_kernel;
};

static void line_print(void *ctx, enum log_level level, const char *line)
{
	fprintf(stderr, "kvick image info: %s%s\n", level <= LOG_LEVEL_WARN ? "warning: " : "",
		line);
}

/* As gmem_overlay() finds out: some file systems cannot map files. */
static bool file_maps(int fd)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	if (page == MAP_FAILED)
		return false;
	munmap(page, PAGE_BYTES);
	return true;
}

/* Why nothing of the file @fd is mapped, as gmem_overlay() finds it; NULL: it is. */
static const char *copied_because(const struct info *info, int fd)
{
	if (info->config.image_map == GMEM_IMAGE_COPY)
		return "--image-map copy";
	/* Private pages are not what another process maps. */
	if (info->config.memory.shared)
		return "shared=on";
	return file_maps(fd) ? NULL : "its file system cannot map files";
}

/* @copied: why nothing of the file @fd is mapped, or NULL. */
static void part_make(struct part *part, int fd, const char *copied, struct gmem_placed *total)
{
	struct stat st;
	bool ends_file = !fstat(fd, &st) && (uint64_t)st.st_size == part->offset + part->file_bytes;
	struct gmem_split *split = &part->split;

	gmem_split_make(split, part->gpa, part->mem_bytes, part->offset, part->file_bytes,
		ends_file, copied ? GMEM_IMAGE_COPY : GMEM_IMAGE_SHARE);
	if (part->file_bytes && !split->map_bytes) {
		if (copied)
			part->whole = copied;
		else if (!split->aligned)
			part->whole = "file offset and address differ inside a page";
		else
			part->whole = "it fills no page";
	}
	total->mapped_bytes += split->map_bytes;
	total->copied_bytes += split->head_bytes + split->tail_bytes;
	total->zeroed_bytes += split->zero_bytes;
}

static void parts_make(struct info *info)
{
	const struct image_plan *plan = image_plan(info->image);
	int fd = image_fd(info->image);
	const char *copied = copied_because(info, fd);

	for (unsigned i = 0; i < plan->segment_count; i++) {
		const struct image_segment *seg = &plan->segments[i];

		info->segments[i] = (struct part){
			.offset = seg->offset,
			.file_bytes = seg->file_bytes,
			.mem_bytes = seg->mem_bytes,
			.gpa = seg->gpa,
		};
		part_make(&info->segments[i], fd, copied, &info->total);
	}
	for (unsigned i = 0; i < info->initrd->count; i++) {
		const struct initrd_file *file = &info->initrd->files[i];

		info->initrds[i] = (struct part){
			.file_bytes = file->bytes,
			.mem_bytes = align_up(file->bytes, PAGE_BYTES),
			.gpa = file->offset,
		};
		part_make(
			&info->initrds[i], file->fd, copied_because(info, file->fd), &info->total);
	}
}

struct span {
	gpa_t start, end;
};

static int span_compare(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* Whether a pool's huge pages, which only it knows, go with the size and the other keys. */
static int chunk_check(const struct info *info, struct kv_err *err)
{
	/* A file of such pages, even an empty one, is what a chunk is to the check. */
	unsigned flags = MFD_CLOEXEC | MFD_HUGETLB |
			 (unsigned)__builtin_ctzll(info->page_bytes) << MAP_HUGE_SHIFT;
	FD_SCOPED int fd = memfd_create("kvick-page", flags);
	struct gmem_chunk chunk = {.fd = fd};
	struct gmem_backing backing = {
		.kind = GMEM_POOL,
		.thp = info->config.memory.thp,
		.chunks = &chunk,
		.chunk_count = 1,
	};

	if (fd < 0)
		return err_set(err, -errno, "memory: backing=pool: %s", err_text(errno));
	return gmem_backing_valid(&backing, info->config.memory_bytes, err);
}

/* The size of the pages that RAM would be made of. */
static int page_find(struct info *info, struct kv_err *err)
{
	const struct vm_memory *memory = &info->config.memory;
	struct gmem_backing backing = {.kind = memory->backing};
	struct kv_err why = {0};
	struct pool_info pool;

	info->page_bytes = gmem_page_bytes(&backing);
	if (memory->backing != GMEM_POOL)
		return 0;
	if (pool_status(memory->path, &pool, &why) < 0) {
		log_msg(&info->log, LOG_LEVEL_WARN,
			"backing=pool: %s; its pages are taken to be small", why.text);
		return 0;
	}
	info->page_bytes = pool.msg.page_bytes;
	return info->memory_given && info->page_bytes > PAGE_BYTES ? chunk_check(info, err) : 0;
}

/* As gmem_overlay() does it: huge pages under mapped ones become small, each of them once. */
static void small_count(struct info *info)
{
	struct span spans[IMAGE_SEGMENTS_MAX + INITRD_FILES_MAX];
	uint64_t page = info->page_bytes;
	unsigned count = 0, segments = image_plan(info->image)->segment_count;
	/* Where an initrd goes is only known once the size of RAM is. */
	unsigned initrds = info->memory_given ? info->initrd->count : 0;
	gpa_t done = 0;

	for (unsigned i = 0; page > PAGE_BYTES && i < segments + initrds; i++) {
		const struct part *part =
			i < segments ? &info->segments[i] : &info->initrds[i - segments];
		gpa_t start = part->gpa + part->split.head_bytes;

		if (i >= segments)
			start += info->initrd_gpa;
		if (part->split.map_bytes)
			spans[count++] = (struct span){align_down(start, page),
				align_up(start + part->split.map_bytes, page)};
	}
	qsort(spans, count, sizeof(*spans), span_compare);
	for (unsigned i = 0; i < count; i++) {
		gpa_t start = spans[i].start > done ? spans[i].start : done;

		if (spans[i].end <= start)
			continue;
		info->small_bytes += spans[i].end - start;
		done = spans[i].end;
	}
}

/* Whether all segments lie in RAM, below or above the 32-bit hole, and where the initrd goes. */
static int memory_check(struct info *info, struct kv_err *err)
{
	const struct image_plan *plan = image_plan(info->image);
	uint64_t bytes = info->config.memory_bytes;
	uint64_t low = bytes < LAYOUT_HOLE ? bytes : LAYOUT_HOLE;
	char size[24];

	for (unsigned i = 0; i < plan->segment_count; i++) {
		const struct image_segment *seg = &plan->segments[i];
		uint64_t end = seg->gpa + seg->mem_bytes;

		if (end <= low ||
			(seg->gpa >= LAYOUT_HOLE_END && end - LAYOUT_HOLE_END <= bytes - low))
			continue;
		return err_set(err, -EFAULT,
			"%s: its segment %u at 0x%" PRIx64 "-0x%" PRIx64
			" does not fit into --memory %s",
			image_path(info->image), i, seg->gpa, end,
			size_format(bytes, size, sizeof(size)));
	}
	if (!info->initrd->count)
		return 0;
	return machine_initrd_at(plan, bytes, info->initrd->bytes, &info->initrd_gpa, err);
}

static int info_open(struct info *info, struct kv_err *err)
{
	const struct vm_config *config = &info->config;
	struct image_opts opts = {
		.protocol = config->protocol,
		.symbols_path = config->symbols,
		.log = &info->log,
	};
	int r = image_open(&info->image, config->kernel, &opts, err);

	if (!r)
		r = initrd_open(&info->initrd, (const char *const *)config->initrds,
			config->initrd_count, err);
	if (!r)
		r = page_find(info, err);
	if (!r && info->memory_given)
		r = memory_check(info, err);
	if (r < 0)
		return r;
	parts_make(info);
	small_count(info);
	r = image_symbol(info->image, "start_kernel", &info->start_kernel);
	if (r < 0 && r != -ENOENT)
		log_msg(&info->log, LOG_LEVEL_WARN, "symbols: %s",
			r == -ENOEXEC ? "the symbol table is malformed" : err_text(r));
	info->has_start_kernel = !r;
	return 0;
}

static void placement_print(const struct part *part)
{
	const struct gmem_split *split = &part->split;
	const char *comma = "";

	if (split->map_bytes) {
		printf("mapped %llu pages", split->map_bytes / PAGE_BYTES);
		comma = ", ";
		if (split->head_bytes)
			printf("%scopied %" PRIu64 " bytes at its start", comma, split->head_bytes);
		if (split->tail_bytes)
			printf("%scopied %" PRIu64 " bytes at its end", comma, split->tail_bytes);
	} else if (part->file_bytes) {
		printf("copied whole: %s", part->whole);
		comma = ", ";
	}
	if (split->zero_bytes)
		printf("%szero %" PRIu64 " bytes", comma, split->zero_bytes);
	putchar('\n');
}

/* Whether initrds are mapped where nobody knows yet: small_count() left their huge pages out. */
static bool small_more(const struct info *info)
{
	bool mapped = false;

	for (unsigned i = 0; i < info->initrd->count; i++)
		mapped |= info->initrds[i].split.map_bytes > 0;
	return mapped && !info->memory_given;
}

static void text_print(const struct info *info)
{
	const struct image_plan *plan = image_plan(info->image);
	const char *path = image_path(info->image), *data = image_data_path(info->image);

	printf("file          %s\n", path);
	printf("format        %s\n", image_format_name(plan->format));
	printf("compression   %s\n", image_packing_name(plan->packing));
	if (strcmp(path, data))
		printf("data file     %s\n", data);
	printf("PVH entry     %s\n", plan->has_pvh ? "offered" : "not offered");
	printf("protocol      %s\n", image_protocol_name(plan->protocol));
	printf("entry         0x%" PRIx64 "\n", plan->entry);
	printf("memory        0x%" PRIx64 "-0x%" PRIx64 "\n", plan->low, plan->high);
	printf("command line  up to %u bytes\n", plan->cmdline_max);
	if (info->has_start_kernel)
		printf("start_kernel  0x%" PRIx64 "\n", info->start_kernel);
	else
		printf("start_kernel  unknown (no symbol table; --symbols System.map helps)\n");

	printf("\nsegment  file offset   guest address   file bytes  memory bytes\n");
	for (unsigned i = 0; i < plan->segment_count; i++) {
		const struct part *part = &info->segments[i];

		printf("%7u  0x%-10" PRIx64 "  0x%-12" PRIx64 " %11" PRIu64 " %13" PRIu64 "\n%9s",
			i, part->offset, part->gpa, part->file_bytes, part->mem_bytes, "");
		placement_print(part);
	}
	if (info->initrd->count)
		printf("\n initrd  %-15s   file bytes  file\n",
			info->memory_given ? "guest address" : "from its start");
	for (unsigned i = 0; i < info->initrd->count; i++) {
		const struct part *part = &info->initrds[i];

		printf("%7u  0x%-12" PRIx64 "  %11" PRIu64 "  %s\n%9s", i,
			info->initrd_gpa + part->gpa, part->file_bytes, info->initrd->files[i].path,
			"");
		placement_print(part);
	}
	printf("\ntotal: mapped %" PRIu64 " bytes (%llu pages), copied %" PRIu64
	       " bytes, zero %" PRIu64 " bytes\n",
		info->total.mapped_bytes, info->total.mapped_bytes / PAGE_BYTES,
		info->total.copied_bytes, info->total.zeroed_bytes);
	if (info->page_bytes > PAGE_BYTES)
		printf("backing=%s: %" PRIu64 " bytes (%" PRIu64
		       " huge pages) become small pages%s\n",
			gmem_backing_name(info->config.memory.backing), info->small_bytes,
			info->small_bytes / info->page_bytes,
			small_more(info) ? "; more for the initrd (--memory tells)" : "");
}

/* Addresses are strings: JSON readers keep only 53 bits of a number. */
static json_t *json_hex(uint64_t n)
{
	return json_sprintf("0x%" PRIx64, n);
}

static json_t *part_json(const struct part *part)
{
	const struct gmem_split *split = &part->split;

	return json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:s?}", "file_offset",
		json_hex(part->offset), "guest_address", json_hex(part->gpa), "file_bytes",
		(json_int_t)part->file_bytes, "memory_bytes", (json_int_t)part->mem_bytes,
		"mapped_bytes", (json_int_t)split->map_bytes, "copied_start_bytes",
		(json_int_t)split->head_bytes, "copied_end_bytes", (json_int_t)split->tail_bytes,
		"zero_bytes", (json_int_t)split->zero_bytes, "copied_whole_because", part->whole);
}

static json_t *initrd_json(const struct info *info, unsigned i)
{
	json_t *object = part_json(&info->initrds[i]);
	gpa_t offset = info->initrds[i].gpa;

	/* Where an initrd goes is only known once the VM's memory is. */
	json_object_set_new(object, "guest_address",
		info->memory_given ? json_hex(info->initrd_gpa + offset) : json_null());
	json_object_set_new(object, "initrd_offset", json_hex(offset));
	json_object_set_new(object, "file", json_string(info->initrd->files[i].path));
	return object;
}

static int json_print(const struct info *info)
{
	const struct image_plan *plan = image_plan(info->image);
	json_t *segments = json_array(), *initrds = json_array();
	json_t *root;
	int r;

	for (unsigned i = 0; i < plan->segment_count; i++)
		json_array_append_new(segments, part_json(&info->segments[i]));
	for (unsigned i = 0; i < info->initrd->count; i++)
		json_array_append_new(initrds, initrd_json(info, i));
	root = json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:o, s:o, s:o, s:I, s:o?, s:o, s:o, s:I, "
			 "s:I, s:I, s:s, s:I}",
		"file", image_path(info->image), "format", image_format_name(plan->format),
		"compression", image_packing_name(plan->packing), "data_file",
		image_data_path(info->image), "pvh", plan->has_pvh, "protocol",
		image_protocol_name(plan->protocol), "entry", json_hex(plan->entry), "low_address",
		json_hex(plan->low), "high_address", json_hex(plan->high), "cmdline_max_bytes",
		(json_int_t)plan->cmdline_max, "start_kernel",
		info->has_start_kernel ? json_hex(info->start_kernel) : NULL, "segments", segments,
		"initrds", initrds, "mapped_bytes", (json_int_t)info->total.mapped_bytes,
		"copied_bytes", (json_int_t)info->total.copied_bytes, "zero_bytes",
		(json_int_t)info->total.zeroed_bytes, "backing",
		gmem_backing_name(info->config.memory.backing), "small_page_bytes",
		(json_int_t)info->small_bytes);
	/* A path that is not UTF-8 has no place in JSON. */
	r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
	json_decref(root);
	putchar('\n');
	return r;
}

static int field_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct info *info = ctx;

	if (!strcmp(option->name, "memory")) {
		info->memory_given = true;
		info->memory_backed = config_memory_has(value, "backing");
	}
	return vm_config_set(&info->config, option->name, value, err);
}

static int backing_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct info *info = ctx;

	for (int i = 0; i < GMEM_BACKING_KINDS; i++)
		if (!strcmp(gmem_backing_name((enum gmem_backing_kind)i), value)) {
			info->backing = (enum gmem_backing_kind)i;
			info->backing_given = true;
			return 0;
		}
	return err_set(err, -EINVAL,
		"--backing: \"%.40s\" is not allowed; give anon, memfd, hugetlb-2m, hugetlb-1g, "
		"file or pool",
		value);
}

static int json_set(
	void *ctx, const struct cli_option *option, const char *value, struct kv_err *err)
{
	struct info *info = ctx;

	info->json = true;
	return 0;
}

static int file_set(void *ctx, const char *value, struct kv_err *err)
{
	struct info *info = ctx;

	return vm_config_set(&info->config, "kernel", value, err);
}

static const struct cli_option info_options[] = {
	{"initrd", "FILE", "an initial RAM disk that would go with it; repeatable", field_set,
		CLI_OPT_REPEAT},
	{"memory", "SIZE[,KEY=VALUE...]", "as for kvick run: check that everything fits, and where",
		field_set, 0},
	{"backing", "KIND",
		"what RAM would be made of, unless --memory says it: anon, memfd,\n"
		"hugetlb-2m, hugetlb-1g, file or pool",
		backing_set, 0},
	{"image-map", "share|copy", "placement to show (default share)", field_set, 0},
	{"boot-protocol", "auto|pvh|linux",
		"protocol to show the entry of (default auto: PVH where offered)", field_set, 0},
	{"symbols", "FILE", "System.map, for kernels without a symbol table", field_set, 0},
	{"json", NULL, "print JSON", json_set, 0},
};

static const struct cli_usage info_usage = {
	.verb = "image info",
	.synopsis = "[OPTION...] FILE",
	.about = "Show what a kernel file is, where it is entered, and how each segment will be\n"
		 "placed in guest memory: mapped (shared by all VMs until written) or copied.\n"
		 "FILE is an x86-64 ELF (vmlinux) or a bzImage, which is unpacked into the cache\n"
		 "($XDG_CACHE_HOME/kvick or ~/.cache/kvick) as at its first start.\n",
	.options = info_options,
	.option_count = ARRAY_LEN(info_options),
	.operand = "FILE",
	.operands_min = 1,
	.operands_max = 1,
	.operand_set = file_set,
	.more = "Exit status: 0 the file can be started, 1 it cannot, 2 wrong command line.\n",
};

/* What `kvick run` checks of such a VM, as far as the line says enough of it. */
static int config_check(struct info *info, struct kv_err *err)
{
	struct vm_memory *memory = &info->config.memory;

	if (info->backing_given && info->memory_backed && memory->backing != info->backing)
		return err_set(err, -EINVAL,
			"--backing %s contradicts --memory, which says backing=%s",
			gmem_backing_name(info->backing), gmem_backing_name(memory->backing));
	if (info->backing_given)
		memory->backing = info->backing;
	/* How large a VM without --memory would be nobody said. */
	return info->memory_given ? vm_config_check(&info->config, err) : 0;
}

static int cli_image_info(int argc, char **argv)
{
	struct info info = {.log = {.level = LOG_LEVEL_WARN, .sink = line_print}};
	struct kv_err err = {0};
	int status;

	if (vm_config_init(&info.config) < 0) {
		cli_error("image info", "out of memory");
		return CLI_EXIT_START;
	}
	status = cli_parse(&info_usage, argc, argv, &info);
	if (status != CLI_GO_ON)
		goto out;
	if (config_check(&info, &err) < 0) {
		status = cli_usage_error("image info", "%s", err.text);
		goto out;
	}
	status = CLI_EXIT_START;
	if (info_open(&info, &err) < 0) {
		cli_error("image info", "%s", err.text);
		goto out;
	}
	if (info.json && json_print(&info) < 0) {
		cli_error("image info", "it cannot be written as JSON (a path that is not UTF-8?)");
		goto out;
	}
	if (!info.json)
		text_print(&info);
	if (fflush(stdout) || ferror(stdout))
		cli_error("image info", "cannot write to standard output");
	else
		status = CLI_EXIT_OK;
out:
	initrd_destroy(info.initrd);
	image_destroy(info.image);
	vm_config_free(&info.config);
	return status;
}

int cli_image(int argc, char **argv)
{
	static const struct cli_verb verbs[] = {
		{"info", cli_image_info, "show what a kernel file is and how it will be placed"},
	};
	static const struct cli_group group = {
		.name = "image",
		.about = "Look at kernel and initrd files.\n",
		.verbs = verbs,
		.verb_count = ARRAY_LEN(verbs),
	};

	return cli_group(&group, argc, argv);
}
