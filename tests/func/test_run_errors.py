# SPDX-License-Identifier: Apache-2.0
"""kvick run refuses what it cannot run: one clear sentence, the documented status, nothing left."""

import os
import resource
import signal
import stat
import struct
import subprocess

import pytest
from images import Elf, PHDR, bzimage, packed
from nobody import NOBODY, open_kvick  # noqa: F401 (a fixture)
from vm import HOST, OK, START, run

MIB = 1 << 20


@pytest.fixture(name="cache", autouse=True)
def own_cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "kvick"


@pytest.fixture(name="pvh")
def pvh_guest(flat):
    return (flat / "signal.pvh.elf").read_bytes()


@pytest.fixture(name="refuse")
def run_refused(kvick, tmp_path):
    """refuse(IMAGE, TEXTS..., args=...): kvick does not start it and says why in one sentence."""

    def refuse(image, *texts, args=(), status=START):
        path = tmp_path / "image"
        path.write_bytes(bytes(image))
        done = run(kvick, *args, path, timeout=20)
        assert done.returncode == status, done
        assert done.stdout == ""
        assert done.stderr.startswith("kvick run: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        for text in texts:
            assert text in done.stderr, f"{text!r} is not in {done.stderr!r}"
        assert "Success" not in done.stderr
        return done.stderr

    return refuse


# ELF kernels. Each case: what is done to a good one, and what the sentence must speak of.


def ident(index, value):
    def change(elf):
        ident_bytes = bytearray(elf.header["ident"])
        ident_bytes[index] = value
        elf.header["ident"] = bytes(ident_bytes)

    return change


def header(**fields):
    return lambda elf: elf.header.update(fields)


def segment(index=0, **fields):
    return lambda elf: elf.of_type(1)[index].update(fields)


def no_segments(elf):
    for phdr in elf.of_type(1):
        phdr["type"] = 0


def all_segments(**fields):
    def change(elf):
        for phdr in elf.of_type(1):
            phdr.update(fields)

    return change


def note_word(index, value):
    """The note's words: name size, content size, type."""

    def change(elf):
        struct.pack_into("<I", elf.data, elf.note + 4 * index, value)

    return change


def note_entry(value):
    def change(elf):
        struct.pack_into("<I", elf.data, elf.note + 16, value)

    return change


def note_header(**fields):
    return lambda elf: elf.of_type(4)[0].update(fields)


ELF_CASES = {
    "class 32-bit": (ident(4, 1), "32-bit"),
    "class nonsense": (ident(4, 9), "class 9"),
    "big endian": (ident(5, 2), "big-endian"),
    "data nonsense": (ident(5, 7), "encoding 7"),
    "machine i386": (header(machine=3), "x86-64"),
    "machine arm64": (header(machine=183), "AArch64"),
    "machine nonsense": (header(machine=0xFFFF), "65535"),
    "relocatable": (header(type=1), "object file"),
    "core dump": (header(type=4), "core dump"),
    "type nonsense": (header(type=99), "99"),
    "no program headers": (header(phnum=0), "no program headers"),
    "too many program headers": (header(phnum=0xFFFF), "65535 program headers"),
    "program header size": (header(phentsize=8), "8 bytes"),
    "program headers beyond the end": (header(phoff=1 << 40), "cut off"),
    "program headers wrap": (header(phoff=2**64 - 16), "cut off"),
    "no segment to load": (no_segments, "no segment"),
    "segments without memory": (all_segments(filesz=0, memsz=0), "no segment"),
    "segment data beyond the end": (segment(filesz=1 << 30, memsz=1 << 30), "cut off"),
    "segment data offset wraps": (segment(offset=2**64 - 4096), "beyond the end"),
    "segment offset beyond the end": (segment(offset=1 << 50), "beyond the end"),
    "more data than memory": (segment(memsz=1), "larger than memory size"),
    "segment below 1 MiB": (segment(paddr=0x7000), "below 0x100000"),
    "segment at 0": (segment(paddr=0), "below 0x100000"),
    "segment address wraps": (segment(paddr=2**64 - 4096), "beyond the 52 bits"),
    "segment address beyond 52 bits": (segment(paddr=1 << 60), "beyond the 52 bits"),
    "segment size wraps": (segment(1, memsz=2**64 - 1), "beyond the 52 bits"),
    "segment outside RAM": (segment(1, paddr=1 << 40), "does not fit into --memory 128M"),
    "segment across the end of RAM": (segment(1, paddr=128 * MIB - 4096, memsz=8192), "does not fit"),
    "segment in the 32-bit hole": (segment(1, paddr=0xD0000000), "does not fit"),
    "huge segment": (segment(1, memsz=1 << 44), "does not fit"),
    "segments overlap": (segment(1, paddr=0x200000), "overlap"),
    "same segment twice": (all_segments(paddr=0x200000), "overlap"),
    "PVH entry outside": (note_entry(0x90000000), "PVH entry point 0x90000000"),
    "PVH entry in bss or beyond": (note_entry(0x100), "PVH entry point 0x100"),
    "PVH entry of 2 bytes": (note_word(1, 2), "4 or 8 bytes"),
    "note name too long": (note_word(0, 0xFFFFFFFF), "note 0", "name"),
    "note content too long": (note_word(1, 0x7FFFFFFF), "note 0", "content"),
    "note cut off": (note_header(filesz=7), "note"),
    "notes beyond the end": (note_header(offset=1 << 33), "beyond the end"),
    "notes of gigabytes": (note_header(filesz=1 << 33), "beyond the end"),
    "a program": (note_header(type=3), "dynamic linker"),
}


@pytest.mark.parametrize("case", ELF_CASES)
def test_malformed_elf(request, refuse, pvh, case):
    change, *texts = ELF_CASES[case]
    if any("does not fit" in text for text in texts):
        # Seen only once there is a machine to fit into.
        request.getfixturevalue("kvm_host")
    elf = Elf(pvh)
    change(elf)
    refuse(elf, "image", *texts)


def test_every_malformed_elf_would_run_unchanged(kvick, kvm_host, pvh, tmp_path):
    """The cases above start from an image that taking apart and putting together does not hurt."""
    path = tmp_path / "image"
    path.write_bytes(bytes(Elf(pvh)))
    assert run(kvick, path).returncode == OK


def test_elf_entries(refuse, pvh, flat):
    plain = Elf((flat / "signal.elf64").read_bytes())
    plain.header["entry"] = 0x90000000
    refuse(plain, "entry point 0x90000000")
    refuse((flat / "signal.elf64").read_bytes(), "PVH", args=("--boot-protocol", "pvh"))
    # The entry of the other protocol does not matter.
    elf = Elf(pvh)
    elf.header["entry"] = 0x90000000
    refuse(elf, "entry point 0x90000000", args=("--boot-protocol", "linux"))


@pytest.mark.parametrize("size", [0, 1, 4, 15, 16, 63, 64, 100, 200, 4095, 4096])
def test_truncated_elf(refuse, pvh, size):
    assert size < len(pvh)
    refuse(pvh[:size])


def test_truncated_anywhere(kvick, pvh, tmp_path):
    """Cut at any place, it is refused, or runs because all that is loaded is still there."""
    path = tmp_path / "image"
    loaded = max(p["offset"] + p["filesz"] for p in Elf(pvh).of_type(1))
    for size in range(0, loaded, max(1, loaded // 60)):
        path.write_bytes(pvh[:size])
        done = run(kvick, path)
        assert done.returncode == START, (size, done)


@pytest.mark.parametrize(
    "data,text",
    [
        (b"\0" * 8192, "neither an ELF file nor a bzImage"),
        (b"#!/bin/sh\nexit\n" + b" " * 4096, "neither an ELF file nor a bzImage"),
        (b"\x7fELF", "ELF header"),
        (bytes(range(256)) * 64, "neither an ELF file nor a bzImage"),
    ],
)
def test_no_kernel_at_all(refuse, data, text):
    refuse(data, text)


def test_a_program_of_this_system(kvick):
    done = run(kvick, "/bin/true")
    assert done.returncode == START
    assert done.stderr.count("\n") == 1


def test_segment_of_32_gigabytes_is_not_read(refuse, kvm_host, pvh):
    """A sparse claim costs nothing before it is refused."""
    elf = Elf(pvh)
    elf.phdrs[-1].update(type=1, offset=0, filesz=0, memsz=32 << 30, paddr=4 << 30, vaddr=0)
    refuse(elf, "does not fit into --memory")


def test_too_many_segments(refuse, pvh):
    elf = Elf(pvh)
    first = dict(elf.of_type(1)[0])
    elf.phdr_at = len(elf.data)
    elf.header["phoff"] = elf.phdr_at
    elf.phdrs = [dict(first, paddr=0x200000 + i * 0x10000) for i in range(60)]
    elf.header["phnum"] = len(elf.phdrs)
    elf.data += bytes(len(elf.phdrs) * PHDR.size)
    refuse(elf, "segments")


# bzImages.

BZ_CASES = {
    "old protocol": ({"version": 0x0205}, "2.05"),
    "zImage": ({"loadflags": 0}, "zImage"),
    "32-bit": ({"xloadflags": 0}, "32-bit"),
    "no payload": ({"payload_length": 0}, "payload_length is 0"),
    "payload beyond the end": ({"payload_length": 1 << 30}, "cut off"),
    "payload offset beyond the end": ({"payload_offset": 0xFFFFFFF0}, "cut off"),
    "payload shorter than it is": ({"payload_length": 600}, "payload"),
    "header too short": ({"jump": 0x10EB}, "header"),
    "unpacks to more than init_size": ({"init_size": 100}, "init_size"),
    "not packed at the offset": ({"payload_offset": 0x141}, "payload"),
}


@pytest.mark.parametrize("case", BZ_CASES)
def test_malformed_bzimage(refuse, pvh, cache, case):
    changes, text = BZ_CASES[case]
    refuse(bzimage(pvh, **changes), text)
    assert leftovers(cache) == []


def leftovers(cache):
    """What is in the cache beside whole entries and their index."""
    return [p.name for p in cache.glob("*") if p.suffix not in (".elf", ".idx")] if cache.exists() else []


@pytest.mark.parametrize("how", ["gzip", "xz", "lzma", "lz4", "zstd"])
def test_damaged_payload(refuse, kvick, pvh, cache, tmp_path, how):
    # Bytes that pack badly, so that damage lands in data.
    kernel = pvh + os.urandom(100_000)
    payload = bytearray(packed(kernel, how))
    payload[len(payload) // 2] ^= 0xFF
    payload[len(payload) // 2 + 1] ^= 0xFF
    image = bzimage(kernel, payload=bytes(payload))
    if how == "lz4":
        # lz4's own format has no checksum: what comes out is another kernel of the same size, or
        # is refused.
        path = tmp_path / "image"
        path.write_bytes(image)
        assert run(kvick, path).returncode in (OK, START, HOST)
    else:
        refuse(image, how)
    assert leftovers(cache) == []


@pytest.mark.parametrize("how", ["gzip", "xz", "lzma", "lz4", "zstd"])
def test_truncated_payload(refuse, pvh, cache, how):
    payload = packed(pvh + os.urandom(50_000), how)
    for size in (len(payload) // 2, len(payload) - 6):
        refuse(bzimage(pvh, payload=payload[:size]))
    assert leftovers(cache) == []


@pytest.mark.parametrize("how", ["gzip", "xz", "lzma", "lz4", "zstd"])
def test_payload_that_lies_about_its_size(refuse, pvh, cache, how):
    payload = bytearray(packed(pvh, how))
    for size in (len(pvh) - 1, len(pvh) + 1, 0, 0xFFFFFFFF):
        struct.pack_into("<I", payload, len(payload) - 4, size)
        refuse(bzimage(pvh, payload=bytes(payload), init_size=0xFFFFFFFF))
    assert leftovers(cache) == []


@pytest.mark.parametrize("magic,text", [(b"BZh9", "bzip2"), (b"\x89LZO", "LZO"), (b"\0\0\0\0", "payload")])
def test_packing_that_kvick_does_not_know(refuse, pvh, magic, text):
    refuse(bzimage(pvh, payload=magic + bytes(1000)), text)


def test_bzimage_around_no_kernel(refuse):
    refuse(bzimage(b"\x7fELF but not really" * 100), "the kernel packed in it")
    refuse(bzimage(b"nothing of the kind" * 100), "the kernel packed in it")


# What does not fit.


def test_initrd_larger_than_memory(kvick, kvm_host, flat, tmp_path):
    initrd = tmp_path / "initrd"
    with open(initrd, "wb") as f:
        f.truncate(200 * MIB)
    done = run(kvick, "--initrd", initrd, flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "initrd" in done.stderr and "--memory" in done.stderr and str(200 * MIB) in done.stderr


def test_initrds_that_fit_only_alone(kvick, kvm_host, flat, tmp_path):
    initrd = tmp_path / "initrd"
    with open(initrd, "wb") as f:
        f.truncate(70 * MIB)
    assert run(kvick, "--initrd", initrd, flat / "signal.pvh.elf").returncode == OK
    assert run(kvick, *("--initrd", initrd) * 2, flat / "signal.pvh.elf").returncode == START


def test_initrd_that_is_none(kvick, flat, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for path, text in ((tmp_path / "empty", "empty"), (tmp_path, "regular file"), ("/no/such", "No such file")):
        done = run(kvick, "--initrd", path, flat / "signal.pvh.elf")
        assert done.returncode == START
        assert str(path) in done.stderr and text in done.stderr, done.stderr


@pytest.mark.parametrize("form,limit", [("elf", 2047), ("bzimage", 2047), ("bzimage", 255)])
def test_command_line_too_long(kvick, kvm_host, pvh, tmp_path, form, limit):
    path = tmp_path / "image"
    path.write_bytes(pvh if form == "elf" else bzimage(pvh, cmdline_size=limit))
    assert run(kvick, "--append", "x" * limit, path).returncode == OK
    done = run(kvick, "--append", "x" * (limit + 1), path)
    assert done.returncode == START
    assert "--append" in done.stderr and str(limit) in done.stderr, done.stderr


@pytest.mark.plain
def test_more_memory_than_the_address_space(kvick, kvm_host, flat):
    """What this host cannot map or its CPU cannot address is an error, not a crash."""
    done = run(kvick, "--memory", "4000T", flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "memory" in done.stderr


@pytest.mark.plain
def test_address_space_limit(kvick, kvm_host, flat):
    limit = 2 << 30

    def confine():
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    assert run(kvick, flat / "signal.pvh.elf", preexec_fn=confine).returncode == OK
    for option, value, where in (
        ("--memory", "4G", "guest memory: 4G of"),
        ("--mem-device", "max=4G,id=data", "mem-device data: guest memory: 4G of"),
    ):
        done = run(kvick, option, value, flat / "signal.pvh.elf", preexec_fn=confine)
        assert (done.returncode, done.stdout) == (START, "")
        assert done.stderr.startswith(f"kvick run: {where} address space is not to be had"), done
        assert "ulimit -v" in done.stderr and done.stderr.count("\n") == 1, done


@pytest.mark.parametrize("count", range(4, 16))
def test_out_of_descriptors(kvick, kvm_host, flat, count):
    """Each step that wants one more descriptor fails by itself, and says so."""

    def confine():
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    done = run(kvick, flat / "signal.pvh.elf", preexec_fn=confine)
    if done.returncode != OK:
        assert done.returncode in (START, HOST), done
        assert "Too many open files" in done.stderr, done.stderr


# Files and permissions.


@pytest.mark.parametrize(
    "path,text",
    [("/no/such/kernel", "No such file"), ("/", "directory"), ("/dev/null", "no regular file")],
)
def test_kernel_that_is_none(kvick, path, text):
    done = run(kvick, path)
    assert done.returncode == START
    assert path in done.stderr and text in done.stderr, done.stderr


def test_kernel_that_is_a_pipe(kvick, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    done = run(kvick, tmp_path / "fifo", timeout=10)
    assert done.returncode == START
    assert "fifo" in done.stderr


def as_nobody():
    return NOBODY if os.geteuid() == 0 else {}


def open_copy(open_kvick, source, mode):  # noqa: F811
    """A copy of a guest beside the kvick that everybody may execute."""
    path = os.path.join(os.path.dirname(open_kvick), "guest")
    with open(path, "wb") as f:
        f.write(source.read_bytes())
    os.chmod(path, mode)
    return path


def test_kernel_without_permission(open_kvick, flat):  # noqa: F811
    path = open_copy(open_kvick, flat / "signal.pvh.elf", 0)
    done = run(open_kvick, path, **as_nobody())
    assert done.returncode == START
    assert path in done.stderr and "Permission denied" in done.stderr, done.stderr


def test_kvm_without_permission(open_kvick, flat, kvm_host):  # noqa: F811
    device = os.stat("/dev/kvm")
    path = open_copy(open_kvick, flat / "signal.pvh.elf", 0o644)
    done = run(open_kvick, path, **as_nobody())
    if device.st_mode & stat.S_IWOTH or os.geteuid():
        assert done.returncode == OK, done
    else:
        assert done.returncode == HOST
        assert "/dev/kvm" in done.stderr and "ermission" in done.stderr, done.stderr


def test_symbols_that_are_not_there(kvick, flat):
    done = run(kvick, "--symbols", "/no/such/System.map", flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "/no/such/System.map" in done.stderr


# The timeline's file.


def test_timeline_of_another_kind(kvick, flat, tmp_path):
    done = run(kvick, "--timeline", tmp_path / "t.png", flat / "signal.pvh.elf")
    assert done.returncode == START
    assert ".json" in done.stderr and ".txt" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_timeline_in_no_folder(kvick, flat):
    done = run(kvick, "--timeline", "/no/such/t.json", flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "/no/such/t.json" in done.stderr


def test_timeline_that_is_a_folder(kvick, flat, tmp_path):
    """What can be known before the run is said before it."""
    (tmp_path / "t.json").mkdir()
    done = run(kvick, "--timeline", tmp_path / "t.json", flat / "print.pvh.elf")
    assert (done.returncode, done.stdout) == (START, "")
    assert done.stderr == f"kvick run: --timeline: {tmp_path}/t.json: cannot be written: Is a directory\n"


@pytest.mark.parametrize("name", ["t.json", "t.txt"])
def test_timeline_on_a_full_disk(kvick, kvm_host, flat, tmp_path, name):
    os.symlink("/dev/full", tmp_path / name)
    done = run(kvick, "--timeline", tmp_path / name, flat / "signal.pvh.elf")
    assert done.returncode == START
    assert name in done.stderr and "No space left" in done.stderr, done.stderr


def test_timeline_that_cannot_be_written_is_not_left_half(kvick, kvm_host, flat, tmp_path):
    """A limit on file sizes in place of a full disk: what was begun is removed again."""

    def confine():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    path = tmp_path / "t.json"
    done = run(kvick, "--timeline", path, flat / "signal.pvh.elf", preexec_fn=confine)
    assert done.returncode == START
    assert "t.json" in done.stderr, done.stderr
    assert not path.exists()


# The cache of unpacked kernels, as a user sees it.


def test_cache_is_used_and_mended(kvick, kvm_host, pvh, cache, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bzimage(pvh, "zstd"))
    assert run(kvick, path).returncode == OK
    (entry,) = cache.glob("*.elf")
    first = entry.stat()
    assert run(kvick, path).returncode == OK
    assert entry.stat().st_ino == first.st_ino
    # Damage is noticed, and the entry made anew.
    entry.chmod(0o600)
    data = bytearray(entry.read_bytes())
    data[0x100:0x200] = bytes(256)
    entry.write_bytes(data)
    done = run(kvick, path)
    assert done.returncode == OK, done
    (entry,) = cache.glob("*.elf")
    assert entry.read_bytes()[: len(pvh)] == pvh
    assert leftovers(cache) == []


def test_two_start_at_once_with_an_empty_cache(kvick, kvm_host, pvh, cache, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bzimage(pvh + os.urandom(3 * MIB), "xz"))
    runs = [
        subprocess.Popen([kvick, "run", path], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    for process in runs:
        _, err = process.communicate(timeout=60)
        assert process.returncode == OK, err
    assert len(list(cache.glob("*.elf"))) == 1
    assert leftovers(cache) == []


def test_killed_while_unpacking(kvick, kvm_host, pvh, cache, tmp_path):
    """Killed at any moment, the next start works and clears up."""
    path = tmp_path / "image"
    for i in range(12):
        path.write_bytes(bzimage(pvh + os.urandom(MIB), "xz"))
        process = subprocess.Popen([kvick, "run", path], stdin=subprocess.DEVNULL)
        try:
            process.wait(0.004 * i)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert run(kvick, path).returncode == OK
        assert leftovers(cache) == []


def test_cache_on_a_full_disk(kvick, kvm_host, pvh, cache, tmp_path):
    """A limit on file sizes in place of a full disk: the kernel is unpacked into memory."""

    def confine():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    path = tmp_path / "image"
    path.write_bytes(bzimage(pvh + os.urandom(MIB), "gzip"))
    done = run(kvick, path, preexec_fn=confine)
    # A memory file is limited in the same way, so here the start fails, and says at what.
    assert done.returncode == START
    assert done.stderr
    assert leftovers(cache) == []
    assert run(kvick, path).returncode == OK


def test_no_place_for_a_cache(kvick, kvm_host, pvh, tmp_path, monkeypatch):
    path = tmp_path / "image"
    path.write_bytes(bzimage(pvh, "gzip"))
    (tmp_path / "file").write_text("")
    for folder in ("/proc/nowhere", str(tmp_path / "file" / "x")):
        monkeypatch.setenv("XDG_CACHE_HOME", folder)
        done = run(kvick, path)
        assert done.returncode == OK
        assert "unpacked into memory" in done.stderr, done.stderr
