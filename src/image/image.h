/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_IMAGE_IMAGE_H
#define KV_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "base/num.h"

/*
 * A kernel file read into a plan: which bytes of which file belong where in guest RAM, where to
 * enter, and by what protocol. Made once per process and file; a plan is constant afterwards and
 * may serve any number of VMs. Files are parsed as hostile input.
 */
struct image;

enum image_format { IMAGE_ELF, IMAGE_BZIMAGE };

enum image_packing {
	IMAGE_PLAIN, /* not compressed */
	IMAGE_GZIP,
	IMAGE_XZ,
	IMAGE_LZMA,
	IMAGE_LZ4,
	IMAGE_ZSTD,
};

/* How the kernel is entered. */
enum image_protocol {
	IMAGE_AUTO,  /* PVH where the image offers it, else Linux; never in a finished plan */
	IMAGE_PVH,   /* 32-bit protected mode, hvm_start_info in ebx */
	IMAGE_LINUX, /* 64-bit long mode, boot_params in rsi */
};

#define IMAGE_SEGMENTS_MAX 32

/* Below lie the monitor's boot structures and the BIOS area: no segment may start there. */
#define IMAGE_GPA_MIN 0x100000ULL

/* An ELF does not say how long a command line its kernel takes; x86 Linux takes 2,047 bytes. */
#define IMAGE_ELF_CMDLINE_MAX 2047

struct image_segment {
	uint64_t offset;     /* bytes from the start of image_fd() */
	uint64_t file_bytes; /* taken from the file */
	uint64_t mem_bytes;  /* >= file_bytes, > 0; the rest is zero */
	gpa_t gpa;	     /* where it goes */
};

struct image_plan {
	enum image_format format;
	enum image_packing packing;
	enum image_protocol protocol; /* IMAGE_PVH or IMAGE_LINUX */
	bool has_pvh;		      /* the ELF carries a PVH note */
	gpa_t entry;		      /* by @protocol; inside a segment's file-backed bytes */
	unsigned segment_count;
	/* Ascending by gpa, overlapping nothing. */
	struct image_segment segments[IMAGE_SEGMENTS_MAX];
	gpa_t low, high; /* lowest address and end of all segments */
	/* The bzImage's setup header from offset 0x1f1 (boot.rst), to be handed to the kernel. */
	unsigned setup_header_bytes; /* 0 for an ELF */
	uint8_t setup_header[256];
	uint32_t cmdline_max; /* longest command line without NUL, bytes */
};

struct image_opts {
	enum image_protocol protocol; /* asked for */
	const char *cache_dir;	      /* for decompressed kernels; NULL: image_cache_dir() */
	const char *symbols_path;     /* System.map, or NULL: the ELF's own symbol table */
	const struct kv_log *log;     /* or NULL */
};

/*
 * Open @path and make its plan. A bzImage's payload is decompressed into the cache unless it is
 * there already; from then on it is an ELF like any other. When the cache cannot be used (disk
 * full, read-only, no HOME, another user's), the log says so and the payload is unpacked into
 * memory, again at each start.
 * Returns 0; -errno of open(2); -ENOEXEC (no kernel of a known kind; malformed); -ENOTSUP (a
 * kernel that cannot be used: 32-bit, other machine, protocol asked for not offered, unknown
 * compression); -ENOMEM and friends when memory has no room for it either. The sentence names the
 * file.
 * Owns: the caller destroys it after the last VM that was built from it has been created.
 * Context: any thread; two processes may open the same bzImage at once.
 */
int image_open(
	struct image **ret, const char *path, const struct image_opts *opts, struct kv_err *err);
void image_destroy(struct image *img);

/* The plan, which lives as long as @img. */
const struct image_plan *image_plan(const struct image *img);

/* The file that the segments' offsets refer to (the cache's for a bzImage); owned by @img. */
int image_fd(const struct image *img);

/*
 * The path given to image_open(), and the path of the file behind image_fd(): that one's, the cache
 * entry's, or "memfd:..." when there is no cache.
 */
const char *image_path(const struct image *img);
const char *image_data_path(const struct image *img);

/* Symbol tables (their names, or all of a System.map) larger than this are refused. */
#define IMAGE_SYMBOLS_MAX (256 * MIB)

/*
 * The guest-virtual address of a symbol: from --symbols if given, else from the ELF's .symtab;
 * read at the first call, nothing is paid otherwise.
 * Returns 0 and *@ret; -ENOENT when there are no symbols or not this one; -ENOEXEC when the symbol
 * table is malformed; -EFBIG when it is larger than IMAGE_SYMBOLS_MAX bytes; -ENOMEM; -errno.
 * Context: one thread at a time.
 */
int image_symbol(struct image *img, const char *name, uint64_t *ret);

/*
 * "$XDG_CACHE_HOME/kvick" or "$HOME/.cache/kvick" in @buf.
 * Returns 0; -ENOENT when neither variable is usable; -ENAMETOOLONG.
 */
int image_cache_dir(char *buf, size_t buf_bytes);

/* Stable names: "elf", "bzimage"; "none", "gzip", ...; "auto", "pvh", "linux". */
const char *image_format_name(enum image_format format);
const char *image_packing_name(enum image_packing packing);
const char *image_protocol_name(enum image_protocol protocol);

#endif
