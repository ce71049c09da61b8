# SPDX-License-Identifier: Apache-2.0
"""kvick image info, on the flat guests and on the real kernels."""

import json
import os
import re
import subprocess

import pytest

OK, START, USAGE = 0, 1, 2
PAGE = 4096
PACKINGS = {
    "bzImage": "gzip",
    "bzImage.xz": "xz",
    "bzImage.lzma": "lzma",
    "bzImage.lz4": "lz4",
    "bzImage.zst": "zstd",
}


@pytest.fixture(name="info")
def image_info(kvick, tmp_path):
    """info(ARGS...): run kvick image info, with a cache of the test's own."""
    env = dict(os.environ, XDG_CACHE_HOME=str(tmp_path / "cache"))

    def run(*args):
        return subprocess.run(
            [kvick, "image", "info", *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=env,
        )

    return run


@pytest.fixture(name="report")
def json_report(info):
    """report(ARGS...): the JSON that kvick image info prints; whatever it says must be sound."""

    def run(*args):
        result = info("--json", *args)
        assert result.returncode == OK, result.stderr
        assert result.stderr == ""
        answer = json.loads(result.stdout)
        check(answer)
        return answer

    return run


def check(answer):
    parts = answer["segments"] + answer["initrds"]
    for part in parts:
        placed = (
            part["copied_start_bytes"]
            + part["mapped_bytes"]
            + part["copied_end_bytes"]
            + part["zero_bytes"]
        )
        assert placed == part["memory_bytes"]
        assert part["mapped_bytes"] % PAGE == 0
        if part["copied_whole_because"]:
            assert part["mapped_bytes"] == 0
        if part["mapped_bytes"] and part["guest_address"]:
            assert (int(part["file_offset"], 16) - int(part["guest_address"], 16)) % PAGE == 0
            assert part["copied_start_bytes"] < PAGE
            assert part["copied_end_bytes"] < PAGE
    for name in ("mapped_bytes", "zero_bytes"):
        assert answer[name] == sum(part[name] for part in parts)
    entry = int(answer["entry"], 16)
    assert int(answer["low_address"], 16) <= entry < int(answer["high_address"], 16)


def test_flat_guests(report, info, flat):
    guests = sorted(flat.glob("*.elf")) + sorted(flat.glob("*.elf64"))
    assert len(guests) > 4
    for guest in guests:
        answer = report(guest)
        assert answer["format"] == "elf"
        assert answer["compression"] == "none"
        assert answer["data_file"] == answer["file"] == str(guest)
        assert answer["pvh"] == (".pvh." in guest.name)
        assert answer["protocol"] == ("pvh" if answer["pvh"] else "linux")
        text = info(guest).stdout
        assert f"file          {guest}\n" in text
        assert f"entry         {answer['entry']}\n" in text
        for segment in answer["segments"]:
            assert segment["guest_address"] in text


def test_protocol(report, info, flat):
    guest = flat / "signal.pvh.elf"
    assert report(guest, "--boot-protocol", "pvh")["protocol"] == "pvh"
    assert report(guest, "--boot-protocol", "linux")["protocol"] == "linux"
    result = info(flat / "signal.elf64", "--boot-protocol", "pvh")
    assert result.returncode == START
    assert "no PVH entry" in result.stderr
    assert result.stderr.count("\n") == 1


def test_copy(report, testbed_build):
    """--image-map copy copies every byte that share would map or copy."""
    vmlinux = testbed_build / "guest" / "vmlinux"
    answer = report(vmlinux, "--image-map", "copy")
    assert answer["mapped_bytes"] == 0
    assert answer["copied_bytes"] == sum(s["file_bytes"] for s in answer["segments"])
    for segment in answer["segments"]:
        assert segment["copied_whole_because"] == "--image-map copy"


def test_shared_memory(report, info, testbed_build):
    """What another process maps gets copies, which leave huge pages as they are."""
    vmlinux, initrd = (testbed_build / "guest" / name for name in ("vmlinux", "initrd.cpio"))
    for memory in ("1G,shared=on", "1G,backing=memfd,shared=on", "1G,shared=on,backing=hugetlb-2m"):
        args = (vmlinux, "--initrd", initrd, "--memory", memory)
        answer = report(*args)
        assert answer["mapped_bytes"] == answer["small_page_bytes"] == 0
        for part in answer["segments"] + answer["initrds"]:
            assert part["copied_whole_because"] == "shared=on"
    assert "copied whole: shared=on\n" in info(*args).stdout
    assert report(*args, "--image-map", "copy")["segments"][0]["copied_whole_because"] != "shared=on"
    assert report(vmlinux, "--memory", "1G,backing=hugetlb-2m")["small_page_bytes"]


def test_memory_as_run(kvick, info, flat):
    """Memory that kvick run refuses is refused in the same words."""
    guest = flat / "signal.pvh.elf"
    for memory, text in (
        ("64M,backing=hugetlb-1g", "with backing=hugetlb-1g the size must be a multiple of 1G"),
        ("64M,backing=hugetlb-2m,thp=on", "thp=on does not go with backing=hugetlb-2m"),
        ("64M,wait=on", "wait=on goes with backing=pool only"),
        ("64M,threads=3", "threads=3 goes with populate=full"),
    ):
        result = info(guest, "--memory", memory)
        assert (result.returncode, result.stdout) == (USAGE, "")
        ran = subprocess.run(
            [kvick, "run", "--memory", memory, guest], capture_output=True, text=True, timeout=20, check=False
        )
        assert ran.returncode == USAGE
        assert text in ran.stderr
        assert result.stderr == ran.stderr.replace("kvick run", "kvick image info").replace(
            "kvick help run", "kvick help image info"
        )
    result = info(guest, "--memory", "64M", "--backing", "hugetlb-1g")
    assert result.returncode == USAGE
    assert "the size must be a multiple of 1G" in result.stderr
    # Without a size there is nothing that it could not be a multiple of.
    assert info(guest, "--backing", "hugetlb-1g").returncode == OK


def test_small_pages_of_initrd(info, report, flat, tmp_path):
    """Where an initrd would go is not known without a size; that it would be copied is."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"x" * 8192)
    args = (flat / "signal.pvh.elf", "--initrd", initrd)
    huge = (*args, "--backing", "hugetlb-2m")
    more = "; more for the initrd (--memory tells)\n"
    assert info(*huge).stdout.endswith(" become small pages" + more)
    for known in (("--image-map", "copy"), ("--memory", "64M")):
        assert info(*huge, *known).stdout.endswith(" become small pages\n")
    small = [report(*huge, *known)["small_page_bytes"] for known in ((), ("--memory", "64M"))]
    assert small[1] - small[0] == 2 << 20


def test_two_backings(info, flat):
    guest = flat / "signal.pvh.elf"
    for args in (
        ("--memory", "64M,backing=memfd", "--backing", "hugetlb-2m"),
        ("--backing", "hugetlb-2m", "--memory", "64M,backing=memfd"),
        ("--backing", "hugetlb-2m", "--memory", "64M,backing=anon"),
    ):
        result = info(guest, *args)
        assert result.returncode == USAGE
        assert "--backing hugetlb-2m contradicts --memory, which says backing=" in result.stderr


def test_kernels(report, testbed_build):
    """vmlinux and each bzImage made of it: the same segments, nearly all mapped."""
    guest = testbed_build / "guest"
    plain = report(guest / "vmlinux")
    assert plain["format"] == "elf"
    assert int(plain["start_kernel"], 16) > 1 << 63
    assert plain["mapped_bytes"] > 100 * plain["copied_bytes"]

    def shape(answer):
        return [(s["guest_address"], s["file_bytes"], s["memory_bytes"]) for s in answer["segments"]]

    for name, packing in PACKINGS.items():
        answer = report(guest / name, "--symbols", guest / "System.map")
        assert answer["format"] == "bzimage"
        assert answer["compression"] == packing
        assert answer["data_file"].endswith(".elf")
        assert shape(answer) == shape(plain)
        assert answer["entry"] == plain["entry"]
        assert answer["start_kernel"] == plain["start_kernel"]
        assert answer["mapped_bytes"] == plain["mapped_bytes"]
        # Without symbols it is not known, rather than guessed.
        assert report(guest / name)["start_kernel"] is None


def test_debian_kernel(report, testbed_build):
    answer = report(testbed_build / "guest" / "debian-vmlinuz")
    assert answer["format"] == "bzimage"
    assert answer["pvh"]
    assert answer["mapped_bytes"] > 100 * answer["copied_bytes"]


def test_cache_is_used(report, testbed_build, tmp_path):
    """The second look takes what the first one left."""
    report(testbed_build / "guest" / "bzImage.xz")
    files = sorted(p.name for p in (tmp_path / "cache" / "kvick").iterdir())
    assert len([name for name in files if name.endswith(".elf")]) == 1
    report(testbed_build / "guest" / "bzImage.xz")
    assert sorted(p.name for p in (tmp_path / "cache" / "kvick").iterdir()) == files


def test_initrd(report, info, flat, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x" * 5000)
    two.write_bytes(b"y" * 8192)
    args = (flat / "signal.pvh.elf", "--initrd", one, "--initrd", two)
    first, second = report(*args)["initrds"]
    assert (first["initrd_offset"], first["mapped_bytes"]) == ("0x0", 8192)
    assert (second["initrd_offset"], second["mapped_bytes"]) == ("0x2000", 8192)
    assert first["guest_address"] is None
    first, second = report(*args, "--memory", "32M")["initrds"]
    assert int(first["guest_address"], 16) == (32 << 20) - 16384
    assert int(second["guest_address"], 16) == (32 << 20) - 8192
    assert f"0x{(32 << 20) - 8192:x}" in info(*args, "--memory", "32M").stdout


def test_does_not_fit(info, flat, tmp_path, testbed_build):
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(64 << 20)
    result = info(flat / "signal.pvh.elf", "--initrd", initrd, "--memory", "64M")
    assert result.returncode == START
    assert re.search(r"67108864 bytes do not fit between the kernel's end", result.stderr)
    result = info(testbed_build / "guest" / "vmlinux", "--memory", "16M")
    assert result.returncode == START
    assert re.search(r"vmlinux: its segment \d at .* does not fit into --memory 16M", result.stderr)


@pytest.mark.parametrize(
    "args, status, says",
    [
        ((), USAGE, "FILE is missing"),
        (("/nowhere/vmlinux",), START, "kernel /nowhere/vmlinux: cannot open it: No such file"),
        (("/etc/passwd",), START, "neither an ELF file nor a bzImage"),
        (("/dev/zero",), START, "not a kernel file"),
        (("/bin/sh",), START, "not a kernel"),
        (("/etc/passwd", "--memory", "12X"), USAGE, "12X"),
        (("/etc/passwd", "--image-map", "steal"), USAGE, "steal"),
    ],
)
def test_errors(info, args, status, says):
    result = info(*args)
    assert result.returncode == status
    assert result.stdout == ""
    assert says in result.stderr
    assert result.stderr.startswith("kvick image info: ")
    assert result.stderr.count("\n") == 1


def test_cache_that_cannot_be(kvick, testbed_build):
    """Without a place for the cache the kernel is usable all the same, with a word of why."""
    result = subprocess.run(
        [kvick, "image", "info", testbed_build / "guest" / "bzImage"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert result.returncode == OK
    assert "memfd:kvick-kernel" in result.stdout
    assert "warning: " in result.stderr
    assert "there is no cache directory" in result.stderr
