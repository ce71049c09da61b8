/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "image/bzimage.h"
#include "image/cache.h"
#include "image/elf.h"
#include "image/symbols.h"
#include "image/unpack.h"

#define MEMFD_NAME "kvick-kernel"

struct image {
	struct image_plan plan;
	int fd;		   /* what the plan's offsets refer to */
	uint64_t elf_base; /* the ELF in it, bytes */
	uint64_t elf_bytes;
	char *path;
	char *data_path;
	char *symbols_path;	 /* or NULL */
	struct symbols *symbols; /* NULL before the first image_symbol() */
};

const struct image_plan *image_plan(const struct image *img)
{
	return &img->plan;
}

int image_fd(const struct image *img)
{
	return img->fd;
}

const char *image_path(const struct image *img)
{
	return img->path;
}

const char *image_data_path(const struct image *img)
{
	return img->data_path;
}

const char *image_format_name(enum image_format format)
{
	return format == IMAGE_ELF ? "elf" : "bzimage";
}

const char *image_packing_name(enum image_packing packing)
{
	static const char *const names[] = {
		[IMAGE_PLAIN] = "none",
		[IMAGE_GZIP] = "gzip",
		[IMAGE_XZ] = "xz",
		[IMAGE_LZMA] = "lzma",
		[IMAGE_LZ4] = "lz4",
		[IMAGE_ZSTD] = "zstd",
	};

	return names[packing];
}

const char *image_protocol_name(enum image_protocol protocol)
{
	static const char *const names[] = {
		[IMAGE_AUTO] = "auto",
		[IMAGE_PVH] = "pvh",
		[IMAGE_LINUX] = "linux",
	};

	return names[protocol];
}

/* A kernel file while it is being opened. */
struct opening {
	int fd; /* the file that was named; -1 when it has become img->fd */
	struct stat stat;
	uint8_t head[ELF_HEAD_BYTES];
	size_t head_bytes;
	const struct image_opts *opts;
	struct kv_err *err;
};

/* Let the image's segments come from the ELF of @bytes at @base of @fd, which is consumed. */
static int data_set(struct image *img, int fd, uint64_t base, uint64_t bytes, const char *path)
{
	img->fd = fd;
	img->elf_base = base;
	img->elf_bytes = bytes;
	img->data_path = strdup(path);
	return img->data_path ? 0 : -ENOMEM;
}

/* Read the start of the @bytes at @offset of @fd. */
static int head_read(int fd, uint64_t offset, uint64_t bytes, uint8_t *head, size_t *ret_bytes,
	struct kv_err *err)
{
	size_t n = bytes < ELF_HEAD_BYTES ? bytes : ELF_HEAD_BYTES;
	int r = fd_pread_all(fd, head, n, offset);

	if (r < 0)
		return err_set(err, r, "cannot read it: %s", err_text(r));
	*ret_bytes = n;
	return 0;
}

static int elf_load(
	struct image *img, const uint8_t *head, size_t head_bytes, const struct opening *o)
{
	struct elf_file elf = {
		.fd = img->fd,
		.base = img->elf_base,
		.bytes = img->elf_bytes,
		.head = head,
		.head_bytes = head_bytes,
	};

	return elf_plan(&img->plan, &elf, o->opts->protocol, o->err);
}

static int memfd_write(void *ctx, const void *data, size_t len)
{
	return fd_write_all(*(int *)ctx, data, len);
}

/* Unpack into memory that belongs to this process alone. */
static int memfd_load(struct image *img, const struct cache_source *source, struct kv_err *err)
{
	int fd = memfd_create(MEMFD_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct unpack_sink sink = {.write = memfd_write, .ctx = &fd};
	int r;

	if (fd < 0)
		return err_set(
			err, -errno, "no memory file to unpack it into: %s", err_text(errno));
	r = unpack_run(source->packing, source->payload, source->payload_bytes, source->elf_bytes,
		&sink, NULL, err);
	if (r < 0) {
		fd_close(&fd);
		return r;
	}
	/* Against our own mistakes only: what is mapped stays as it is. */
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
	img->plan.packing = source->packing;
	return data_set(img, fd, 0, source->elf_bytes, "memfd:" MEMFD_NAME);
}

static int entry_load(struct image *img, const struct cache *cache, const struct cache_entry *entry)
{
	/* Not on the stack, whose pages a start that needs no cache would touch. */
	const size_t bytes = PATH_MAX + CACHE_NAME_BYTES;
	MEM_SCOPED char *path = malloc(bytes);

	if (!path) {
		close(entry->fd);
		return -ENOMEM;
	}
	cache_path(cache, entry, path, bytes);
	img->plan.packing = entry->packing;
	return data_set(img, entry->fd, 0, entry->elf_bytes, path);
}

/*
 * Read the payload, and find or make what it unpacks to. @cache may be NULL, then @why_not says
 * why.
 */
static int payload_unpack(struct image *img, const struct opening *o, const struct bzimage *bz,
	const struct cache *cache, const struct kv_err *why_not)
{
	bool quiet = cache_quiet(&o->stat), unusable = true;
	MEM_SCOPED uint8_t *payload = malloc(bz->payload_bytes);
	struct cache_source source = {
		.payload = payload,
		.payload_bytes = bz->payload_bytes,
		.elf_bytes = bz->payload_bytes,
	};
	struct kv_err cache_err = *why_not;
	struct cache_entry entry;
	int r;

	if (!payload)
		return err_set(o->err, -ENOMEM, "no memory for its payload of %" PRIu64 " bytes",
			bz->payload_bytes);
	r = fd_pread_all(o->fd, payload, bz->payload_bytes, bz->payload_offset);
	if (r < 0)
		return err_set(o->err, r, "cannot read its payload: %s", err_text(r));
	r = bz_packing(&source.packing, payload, bz->payload_bytes, o->err);
	if (!r && source.packing != IMAGE_PLAIN)
		r = bz_unpacked(&source.elf_bytes, bz, payload, o->err);
	if (r < 0)
		return r;

	if (cache) {
		r = cache_fetch(cache, &source, &entry, &unusable, o->opts->log, &cache_err);
		if (!r) {
			if (quiet)
				cache_note(cache, o->fd, &o->stat, &entry);
			return entry_load(img, cache, &entry);
		}
		if (!unusable)
			return err_set(o->err, r, "%s", cache_err.text);
	}
	log_msg(o->opts->log, LOG_LEVEL_WARN,
		"%s is unpacked into memory at every start, because it cannot be kept: %s",
		img->path, cache_err.text);
	return memfd_load(img, &source, o->err);
}

static int payload_load(struct image *img, const struct opening *o, const struct bzimage *bz)
{
	struct kv_err why = {""};
	struct cache_entry entry;
	struct cache cache;
	int r;

	if (cache_open(&cache, o->opts->cache_dir, &why) < 0)
		return payload_unpack(img, o, bz, NULL, &why);
	r = cache_find(&cache, &o->stat, &entry);
	if (!r)
		r = entry_load(img, &cache, &entry);
	else
		r = payload_unpack(img, o, bz, &cache, &why);
	cache_close(&cache);
	return r;
}

/* True when the payload is a plain ELF on a page boundary: it can be mapped where it is. */
static bool payload_in_place(const struct opening *o, const struct bzimage *bz)
{
	char magic[SELFMAG];

	return bz->payload_offset % PAGE_BYTES == 0 && bz->payload_bytes >= SELFMAG &&
	       !fd_pread_all(o->fd, magic, SELFMAG, bz->payload_offset) &&
	       !memcmp(magic, ELFMAG, SELFMAG);
}

static int bzimage_load(struct image *img, struct opening *o)
{
	struct image_plan *plan = &img->plan;
	struct bzimage bz;
	int r;

	r = bz_parse(&bz, o->head, o->head_bytes, (uint64_t)o->stat.st_size, o->err);
	if (r < 0)
		return r;
	if (payload_in_place(o, &bz)) {
		r = data_set(img, o->fd, bz.payload_offset, bz.payload_bytes, img->path);
		o->fd = -1;
	} else {
		r = payload_load(img, o, &bz);
	}
	if (r < 0)
		return r;

	/* The setup header is in @bz: the buffer is free for the ELF's headers. */
	r = head_read(img->fd, img->elf_base, img->elf_bytes, o->head, &o->head_bytes, o->err);
	if (!r)
		r = elf_load(img, o->head, o->head_bytes, o);
	if (r < 0)
		return err_prefix(o->err, r, "the kernel packed in it");
	plan->format = IMAGE_BZIMAGE;
	plan->cmdline_max = bz.cmdline_max;
	plan->setup_header_bytes = bz.header_bytes;
	memcpy(plan->setup_header, bz.header, bz.header_bytes);
	return 0;
}

static int file_load(struct image *img, struct opening *o)
{
	const uint8_t *h = o->head;
	uint64_t bytes;
	int r;

	if (fstat(o->fd, &o->stat))
		return err_set(o->err, -errno, "%s", err_text(errno));
	if (!S_ISREG(o->stat.st_mode))
		return err_set(o->err, -ENOEXEC, "it is %s, not a kernel file",
			S_ISDIR(o->stat.st_mode) ? "a directory" : "no regular file");
	bytes = (uint64_t)o->stat.st_size;
	if (!bytes)
		return err_set(o->err, -ENOEXEC, "the file is empty");
	r = head_read(o->fd, 0, bytes, o->head, &o->head_bytes, o->err);
	if (r < 0)
		return r;
	if (o->head_bytes >= SELFMAG && !memcmp(h, ELFMAG, SELFMAG)) {
		img->plan.format = IMAGE_ELF;
		img->plan.packing = IMAGE_PLAIN;
		r = data_set(img, o->fd, 0, bytes, img->path);
		o->fd = -1;
		return r ? r : elf_load(img, o->head, o->head_bytes, o);
	}
	if (bz_detect(h, o->head_bytes))
		return bzimage_load(img, o);
	return err_set(o->err, -ENOEXEC,
		"it is neither an ELF file nor a bzImage (it starts with %02x %02x %02x %02x)",
		h[0], h[1], h[2], h[3]);
}

/* A wrong --symbols is told at the start, not when the first symbol is looked up. */
static int symbols_check(struct image *img, const char *path, struct kv_err *err)
{
	if (access(path, R_OK))
		return err_set(err, -errno, "symbols file %s: %s", path, err_text(errno));
	img->symbols_path = strdup(path);
	return img->symbols_path ? 0 : -ENOMEM;
}

int image_open(
	struct image **ret, const char *path, const struct image_opts *opts, struct kv_err *err)
{
	struct kv_err why = {""};
	struct opening o = {.fd = -1, .opts = opts, .err = &why};
	struct image *img = calloc(1, sizeof(*img));
	int r = -ENOMEM;

	if (!img)
		return err_set(err, -ENOMEM, "kernel %s: no memory", path);
	img->fd = -1;
	img->path = strdup(path);
	if (!img->path)
		goto err_destroy;
	/* Without O_NONBLOCK a pipe would wait for its other end. */
	o.fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (o.fd < 0) {
		r = err_set(&why, -errno, "cannot open it: %s", err_text(errno));
		goto err_destroy;
	}
	r = file_load(img, &o);
	if (!r && opts->symbols_path)
		r = symbols_check(img, opts->symbols_path, &why);
	fd_close(&o.fd);
	if (r < 0)
		goto err_destroy;
	*ret = img;
	return 0;

err_destroy:
	fd_close(&o.fd);
	image_destroy(img);
	return err_set(err, r, "kernel %s: %s", path, why.text[0] ? why.text : err_text(r));
}

void image_destroy(struct image *img)
{
	if (!img)
		return;
	fd_close(&img->fd);
	symbols_destroy(img->symbols);
	free(img->path);
	free(img->data_path);
	free(img->symbols_path);
	free(img);
}

int image_symbol(struct image *img, const char *name, uint64_t *ret)
{
	if (!img->symbols) {
		struct elf_file elf = {
			.fd = img->fd, .base = img->elf_base, .bytes = img->elf_bytes};
		int r = img->symbols_path ? symbols_open_map(&img->symbols, img->symbols_path)
					  : symbols_open_elf(&img->symbols, &elf);

		if (r < 0)
			return r;
	}
	return symbols_find(img->symbols, name, ret);
}
