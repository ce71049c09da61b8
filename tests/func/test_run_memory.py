# SPDX-License-Identifier: Apache-2.0
"""Images in guest memory: mapped and not copied, shared between machines, and what happens when a
file shrinks under one."""

import os
import re
import shutil
from pathlib import Path

import pytest
from images import bzimage, padded
from vm import OK, SHRANK, run, until

pytestmark = pytest.mark.usefixtures("kvm_host")

MIB = 1 << 20
PADDING = 4 * MIB
PAGES = PADDING // 4096
INITRD = 2 * MIB


@pytest.fixture(name="kernel")
def large_kernel(flat, tmp_path):
    """A guest that reads and writes on demand, with 4 MiB of data at 16 MiB."""
    path = tmp_path / "kernel"
    path.write_bytes(padded((flat / "pages.pvh.elf").read_bytes(), PADDING))
    return path


@pytest.fixture(name="initrd")
def some_initrd(tmp_path):
    path = tmp_path / "initrd"
    path.write_bytes(bytes(1 + i % 255 for i in range(4096)) * (INITRD // 4096))
    return path


def mappings(pid, path):
    """The parts of a process's smaps that map a file: dicts in bytes, with offset and size."""
    found, current = [], None
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="ascii").splitlines():
        if m := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ \d+ *(.*)", line):
            current = None
            if m[5] == str(path):
                size = int(m[2], 16) - int(m[1], 16)
                current = {"size": size, "offset": int(m[4], 16), "mode": m[3]}
                found.append(current)
        elif current is not None and (m := re.match(r"(\w+): +(\d+) kB", line)):
            current[m[1]] = int(m[2]) * 1024
    return found


def total(parts, field):
    return sum(p[field] for p in parts)


def start_ready(start, kernel, *args, start_at="16M", pages=PAGES):
    vm = start("--append", f"pages={start_at},{pages}", *args, kernel)
    vm.expect("pages ready")
    return vm


def command(vm, letter, answer):
    seen = vm.out.count(answer)
    vm.send(letter)
    until(lambda: vm.out.count(answer) > seen, answer)


def test_images_are_mapped(start, kernel, initrd):
    vm = start_ready(start, kernel, "--initrd", initrd)
    parts = mappings(vm.pid, kernel)
    assert all(p["mode"] == "rw-p" for p in parts)
    assert max(p["size"] for p in parts) == PADDING
    assert total(mappings(vm.pid, initrd), "size") == INITRD
    # Mapped is not read: only what the guest touched is there.
    assert total(parts, "Rss") < PADDING // 4
    vm.send("q")
    assert vm.wait() == OK


def test_the_initrd_is_mapped_to_its_last_page(start, kernel, tmp_path):
    """A ragged end is followed by zeros in the page cache, so even that page is mapped."""
    initrds = [tmp_path / "one", tmp_path / "two"]
    for path in initrds:
        path.write_bytes(b"x" * (64 * 1024 + 1))
    vm = start_ready(start, kernel, "--initrd", initrds[0], "--initrd", initrds[1])
    for path in initrds:
        assert total(mappings(vm.pid, path), "size") == 68 * 1024


def test_copy_maps_nothing(start, kernel, initrd):
    vm = start_ready(start, kernel, "--initrd", initrd, "--image-map", "copy")
    assert mappings(vm.pid, kernel) == []
    assert mappings(vm.pid, initrd) == []
    command(vm, "r", "pages read, sum ")
    vm.send("q")
    assert vm.wait() == OK


def test_a_segment_that_cannot_be_mapped_is_copied(start, flat, tmp_path):
    path = tmp_path / "kernel"
    path.write_bytes(padded((flat / "pages.pvh.elf").read_bytes(), PADDING, skew=512))
    vm = start_ready(start, path)
    assert total(mappings(vm.pid, path), "size") < PADDING
    command(vm, "r", f"pages read, sum {PAGES}")


def test_two_vms_share_until_they_write(start, kernel):
    vms = [start_ready(start, kernel) for _ in range(2)]
    for vm in vms:
        # Each page of the padding starts with a byte of 1.
        command(vm, "r", f"pages read, sum {PAGES}")

    def shares():
        parts = [
            [p for p in mappings(vm.pid, kernel) if p["size"] == PADDING] for vm in vms
        ]
        return [total(p, "Rss") for p in parts], [total(p, "Pss") for p in parts]

    rss, pss = shares()
    assert rss == [PADDING, PADDING]
    for value in pss:
        assert abs(value - PADDING / 2) < PADDING / 16
    command(vms[0], "w", "pages written")
    command(vms[0], "r", f"pages read, sum {PAGES * 0x5A}")
    # The other one, and the file, do not see it.
    command(vms[1], "r", f"pages read, sum {PAGES}")
    (part,) = [p for p in mappings(vms[0].pid, kernel) if p["size"] == PADDING]
    assert part["Private_Dirty"] == PADDING
    assert kernel.read_bytes().count(b"\x5a" * 4096) == 0
    for vm in vms:
        vm.send("q")
        assert vm.wait() == OK


def test_a_packed_kernel_is_shared_too(start, flat, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(padded((flat / "pages.pvh.elf").read_bytes(), PADDING), "zstd"))
    vms = [start_ready(start, path) for _ in range(2)]
    (entry,) = (tmp_path / "cache" / "kvick").glob("*.elf")
    for vm in vms:
        command(vm, "r", f"pages read, sum {PAGES}")
    for vm in vms:
        (part,) = [p for p in mappings(vm.pid, entry) if p["size"] == PADDING]
        assert part["Rss"] == PADDING
        assert abs(part["Pss"] - PADDING / 2) < PADDING / 16


def test_memory_that_is_not_touched_costs_nothing(start, kernel):
    def rss_kib(memory):
        vm = start_ready(start, kernel, "--memory", memory)
        return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{vm.pid}/status").read_text())[1])

    assert rss_kib("64G") - rss_kib("64M") < 1024


@pytest.mark.parametrize("which", ["kernel", "initrd"])
def test_a_file_that_shrinks_is_named(start, kernel, initrd, which):
    vm = start_ready(start, kernel, "--initrd", initrd)
    os.truncate(kernel if which == "kernel" else initrd, 8192)
    if which == "initrd":
        # The initrd lies at the end of memory; the kernel's data are read, so nothing is lost.
        command(vm, "r", f"pages read, sum {PAGES}")
        vm.send("q")
        assert vm.wait() == OK
        return
    vm.send("r")
    assert vm.wait() == SHRANK
    assert str(kernel) in vm.err and "shorter" in vm.err, vm.err
    assert vm.err.count("\n") == 1


def test_an_initrd_that_shrinks_is_named(start, kernel, initrd):
    # The last page below 128 MiB is the initrd's.
    vm = start_ready(
        start, kernel, "--initrd", initrd, "--memory", "128M", start_at="127M", pages=200
    )
    os.truncate(initrd, 4096)
    vm.send("r")
    assert vm.wait() == SHRANK
    assert str(initrd) in vm.err and "shorter" in vm.err, vm.err


def test_a_file_that_shrinks_does_not_hurt_others(start, kernel, tmp_path):
    other = tmp_path / "other"
    shutil.copyfile(kernel, other)
    vms = [start_ready(start, path) for path in (kernel, other)]
    os.truncate(kernel, 8192)
    vms[0].send("r")
    assert vms[0].wait() == SHRANK
    command(vms[1], "r", f"pages read, sum {PAGES}")
    vms[1].send("q")
    assert vms[1].wait() == OK


def test_a_file_that_is_replaced_does_not_matter(start, kernel, tmp_path):
    """The way to put a new kernel in place: the running machine keeps the old one."""
    vm = start_ready(start, kernel)
    (tmp_path / "new").write_bytes(b"something else")
    os.rename(tmp_path / "new", kernel)
    command(vm, "r", f"pages read, sum {PAGES}")
    kernel.unlink()
    command(vm, "w", "pages written")
    vm.send("q")
    assert vm.wait() == OK


def test_a_file_that_shrinks_with_copied_images_does_not_matter(start, kernel):
    vm = start_ready(start, kernel, "--image-map", "copy")
    os.truncate(kernel, 0)
    command(vm, "r", f"pages read, sum {PAGES}")
    vm.send("q")
    assert vm.wait() == OK


def test_a_file_system_that_cannot_map_files(kvick, flat):
    """What cannot be mapped is copied, and kvick says so once."""
    path = Path("/sys/kernel/notes")
    data = path.read_bytes()
    done = run(kvick, *("--initrd", path) * 2, flat / "info.pvh.elf")
    assert done.returncode == OK, done
    (initrd,) = [line.split() for line in done.stdout.splitlines() if line.startswith("initrd")]
    assert int(initrd[3], 16) == 2 * sum(data)
    assert done.stderr.count("cannot map files") == 1, done.stderr
