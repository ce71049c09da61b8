/* SPDX-License-Identifier: Apache-2.0 */
#include "image/symbols.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"

struct symbols {
	char *text; /* a System.map, or an ELF's string table */
	size_t text_bytes;
	Elf64_Sym *syms; /* of an ELF, else NULL */
	size_t sym_count;
	size_t first_global; /* <= sym_count */
};

void symbols_destroy(struct symbols *symbols)
{
	if (!symbols)
		return;
	free(symbols->text);
	free(symbols->syms);
	free(symbols);
}

int symbols_open_map(struct symbols **ret, const char *path)
{
	struct symbols *symbols;
	struct stat st;
	ssize_t bytes;
	char *text;

	/* Asked first because opening a pipe would wait for its other end. */
	if (stat(path, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	bytes = file_read_all(path, IMAGE_SYMBOLS_MAX, &text);
	if (bytes < 0)
		return (int)bytes;
	symbols = calloc(1, sizeof(*symbols));
	if (!symbols) {
		free(text);
		return -ENOMEM;
	}
	symbols->text = text;
	symbols->text_bytes = (size_t)bytes;
	*ret = symbols;
	return 0;
}

/* Read @bytes at @offset of @elf into fresh memory; the caller frees *@ret. */
static int read_table(const struct elf_file *elf, uint64_t offset, uint64_t bytes, void *ret)
{
	uint64_t end;
	void *table;
	int r;

	/* Before memory is asked for: the size is the file's claim. */
	if (!bytes || !range_end(offset, bytes, &end) || end > elf->bytes)
		return -ENOEXEC;
	if (bytes > IMAGE_SYMBOLS_MAX)
		return -EFBIG;
	table = malloc(bytes);
	if (!table)
		return -ENOMEM;
	r = elf_read(elf, offset, table, bytes);
	if (r < 0) {
		free(table);
		return r;
	}
	*(void **)ret = table;
	return 0;
}

static int sections_read(const struct elf_file *elf, Elf64_Shdr **ret, unsigned *ret_count)
{
	Elf64_Ehdr eh;
	int r = elf_read(elf, 0, &eh, sizeof(eh));

	if (r < 0)
		return r == -ENODATA ? -ENOEXEC : r;
	if (!eh.e_shoff || !eh.e_shnum)
		return -ENOENT;
	if (eh.e_shentsize != sizeof(Elf64_Shdr))
		return -ENOEXEC;
	*ret_count = eh.e_shnum;
	return read_table(elf, eh.e_shoff, eh.e_shnum * sizeof(Elf64_Shdr), ret);
}

static const Elf64_Shdr *symtab_find(const Elf64_Shdr *sections, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (sections[i].sh_type == SHT_SYMTAB)
			return &sections[i];
	return NULL;
}

int symbols_open_elf(struct symbols **ret, const struct elf_file *elf)
{
	MEM_SCOPED Elf64_Shdr *sections = NULL;
	const Elf64_Shdr *symtab, *strtab;
	struct symbols *symbols;
	unsigned count = 0;
	int r;

	r = sections_read(elf, &sections, &count);
	if (r < 0)
		return r;
	symtab = symtab_find(sections, count);
	if (!symtab)
		return -ENOENT;
	if (symtab->sh_entsize != sizeof(Elf64_Sym) || symtab->sh_link >= count)
		return -ENOEXEC;
	strtab = &sections[symtab->sh_link];
	if (strtab->sh_type != SHT_STRTAB)
		return -ENOEXEC;

	symbols = calloc(1, sizeof(*symbols));
	if (!symbols)
		return -ENOMEM;
	symbols->text_bytes = strtab->sh_size;
	symbols->sym_count = symtab->sh_size / sizeof(Elf64_Sym);
	/* sh_info of a symbol table: the index of the first symbol that is not local. */
	symbols->first_global =
		symtab->sh_info < symbols->sym_count ? symtab->sh_info : symbols->sym_count;
	r = read_table(elf, strtab->sh_offset, strtab->sh_size, &symbols->text);
	if (!r)
		r = read_table(elf, symtab->sh_offset, symtab->sh_size, &symbols->syms);
	if (r < 0) {
		symbols_destroy(symbols);
		return r;
	}
	*ret = symbols;
	return 0;
}

static int elf_find(const struct symbols *symbols, size_t from, size_t to, const char *name,
	size_t name_bytes, uint64_t *ret)
{
	for (size_t i = from; i < to; i++) {
		const Elf64_Sym *sym = &symbols->syms[i];

		if (sym->st_shndx == SHN_UNDEF || sym->st_name >= symbols->text_bytes ||
			symbols->text_bytes - sym->st_name < name_bytes ||
			memcmp(symbols->text + sym->st_name, name, name_bytes))
			continue;
		*ret = sym->st_value;
		return 0;
	}
	return -ENOENT;
}

/*
 * Parse "<hexadecimal digits> <letter> " that ends at @end and starts at @from or behind a newline.
 */
static bool map_address(const char *from, const char *end, uint64_t *ret)
{
	const char *at = end - 3;
	unsigned shift = 0;
	uint64_t n = 0;

	if (end - from < 4 || end[-1] != ' ' || end[-2] == ' ' || *at != ' ')
		return false;
	while (at > from && at[-1] != '\n') {
		char c = *--at;
		unsigned digit;

		if (c >= '0' && c <= '9')
			digit = (unsigned)(c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			digit = (unsigned)((c | 32) - 'a') + 10;
		else
			return false;
		if (shift >= 64)
			return false;
		n |= (uint64_t)digit << shift;
		shift += 4;
	}
	*ret = n;
	return shift > 0;
}

static int map_find(const struct symbols *symbols, const char *name, uint64_t *ret)
{
	const char *from = symbols->text, *all_end = from + symbols->text_bytes;
	size_t len = strlen(name);
	const char *at = from;

	while ((at = memmem(at, (size_t)(all_end - at), name, len))) {
		const char *end = at + len;

		/* A module's symbol goes on with a tab and the module's name. */
		if ((end == all_end || *end == '\n' || *end == '\r' || *end == '\t') &&
			map_address(from, at, ret))
			return 0;
		at++;
	}
	return -ENOENT;
}

int symbols_find(const struct symbols *symbols, const char *name, uint64_t *ret)
{
	size_t name_bytes = strlen(name) + 1;

	if (name_bytes == 1)
		return -ENOENT;
	if (!symbols->syms)
		return map_find(symbols, name, ret);
	if (!elf_find(symbols, symbols->first_global, symbols->sym_count, name, name_bytes, ret))
		return 0;
	return elf_find(symbols, 0, symbols->first_global, name, name_bytes, ret);
}
