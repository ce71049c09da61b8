# SPDX-License-Identifier: Apache-2.0
"""Images for tests: the flat guests taken apart, changed and packed; initrds and what goes into them."""

import gzip
import lzma
import re
import struct
import subprocess

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
PT_NULL, PT_LOAD, PT_NOTE = 0, 1, 4
EHDR_FIELDS = (
    "ident type machine version entry phoff shoff flags ehsize phentsize phnum shentsize shnum "
    "shstrndx"
).split()
PHDR_FIELDS = "type flags offset vaddr paddr filesz memsz align".split()


class Elf:
    """A 64-bit ELF file whose headers can be changed. bytes() gives the file."""

    def __init__(self, data):
        self.data = bytearray(data)
        self.header = dict(zip(EHDR_FIELDS, EHDR.unpack_from(data)))
        start, count = self.header["phoff"], self.header["phnum"]
        self.phdr_at = start
        self.phdrs = [
            dict(zip(PHDR_FIELDS, PHDR.unpack_from(data, start + i * PHDR.size)))
            for i in range(count)
        ]

    def of_type(self, kind):
        return [p for p in self.phdrs if p["type"] == kind]

    @property
    def note(self):
        """The PVH note's place in the file."""
        return self.of_type(PT_NOTE)[0]["offset"]

    def __bytes__(self):
        out = bytearray(self.data)
        EHDR.pack_into(out, 0, *(self.header[f] for f in EHDR_FIELDS))
        for i, phdr in enumerate(self.phdrs):
            PHDR.pack_into(
                out, self.phdr_at + i * PHDR.size, *(phdr[f] & (2**64 - 1) for f in PHDR_FIELDS)
            )
        return bytes(out)


def padded(data, size, address=16 << 20, skew=0):
    """A flat guest with `size` more bytes that are not zero, at `address`, by its spare program
    header. With skew, file offset and address disagree by so many bytes modulo the page size."""
    elf = Elf(data)
    offset = -(-len(elf.data) // 4096) * 4096 + skew
    elf.data += bytes(offset - len(elf.data)) + bytes(1 + i % 251 for i in range(4096)) * (size // 4096)
    spare = elf.of_type(PT_NULL)[0]
    spare.update(type=PT_LOAD, flags=4, offset=offset, vaddr=address, paddr=address)
    spare.update(filesz=size, memsz=size, align=4096)
    return bytes(elf)


def packed(data, how):
    """Compressed as Linux's build does it, with the size behind it."""

    def tool(*argv):
        return subprocess.run(argv, input=data, capture_output=True, check=True).stdout

    size = struct.pack("<I", len(data))
    if how == "gzip":
        # The format ends with the size itself.
        return gzip.compress(data, 9)
    if how == "xz":
        return lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32) + size
    if how == "lzma":
        return lzma.compress(data, lzma.FORMAT_ALONE) + size
    if how == "lz4":
        return tool("lz4", "-l", "-9", "-c") + size
    if how == "zstd":
        return tool("zstd", "-19", "-c") + size
    assert how == "none"
    return data


# Where the setup header has what (Linux boot.rst), as struct formats.
SETUP = {
    "setup_sects": (0x1F1, "B"),
    "boot_flag": (0x1FE, "H"),
    "jump": (0x200, "H"),
    "magic": (0x202, "I"),
    "version": (0x206, "H"),
    "loadflags": (0x211, "B"),
    "initrd_addr_max": (0x22C, "I"),
    "kernel_alignment": (0x230, "I"),
    "xloadflags": (0x236, "H"),
    "cmdline_size": (0x238, "I"),
    "payload_offset": (0x248, "I"),
    "payload_length": (0x24C, "I"),
    "pref_address": (0x258, "Q"),
    "init_size": (0x260, "I"),
}


def bzimage(kernel, how="gzip", payload=None, **changes):
    """A bzImage around an ELF kernel. `changes` name setup header fields."""
    payload = packed(kernel, how) if payload is None else payload
    sects = 7  # the real-mode part: 8 sectors, so that the payload can lie on a page
    head = 0 if how == "none" else 0x140
    fields = {
        "setup_sects": sects,
        "boot_flag": 0xAA55,
        "jump": 0x66EB,
        "magic": 0x53726448,
        "version": 0x020F,
        "loadflags": 1,
        "initrd_addr_max": 0x7FFFFFFF,
        "kernel_alignment": 0x200000,
        "xloadflags": 1,
        "cmdline_size": 2047,
        "payload_offset": head,
        "payload_length": len(payload),
        "pref_address": 0x1000000,
        "init_size": len(kernel) + (1 << 20),
        **changes,
    }
    out = bytearray((sects + 1) * 512 + head)
    for field, value in fields.items():
        offset, form = SETUP[field]
        struct.pack_into("<" + form, out, offset, value)
    return bytes(out) + payload


def libraries(program):
    """The paths of what a program of this system loads."""
    loads = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", loads)


# A command of the guest's that starts another kernel; its initrd needs the files of next_kernel().
NEXT = "kexec /next/kernel /next/initrd /next/cmdline"


def next_kernel(guest, cmdline):
    """What NEXT starts: the bzImage in the folder GUEST, with an initrd that has /kvick.next besides."""
    return {
        "next/kernel": (guest / "bzImage").read_bytes(),
        "next/initrd": (guest / "initrd.cpio").read_bytes() + cpio({"kvick.next": b"the second kernel\n"}),
        "next/cmdline": f"{cmdline}\n".encode(),
    }


def cpio(files, links=None):
    """An initrd archive (newc) of files, and links, with the folders that they are in."""
    out = bytearray()
    number = 0

    def entry(name, mode, data):
        nonlocal number
        number += 1
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0")
        out.extend(bytes(-len(out) % 4) + data)
        out.extend(bytes(-len(out) % 4))

    names = [n.split("/") for n in [*files, *(links or {})]]
    for folder in sorted({"/".join(n[:i]) for n in names for i in range(1, len(n))}):
        entry(folder, 0o40755, b"")
    for name, data in files.items():
        entry(name, 0o100755, data)
    for name, target in (links or {}).items():
        entry(name, 0o120777, target.encode())
    entry("TRAILER!!!", 0, b"")
    return bytes(out)
