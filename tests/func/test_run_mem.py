# SPDX-License-Identifier: Apache-2.0
"""Memory devices: memory that a guest plugs and unplugs while it runs."""

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from linux_vm import MOVABLE
from pools import pool_factory  # noqa: F401 (a fixture)
from test_run_linux import boot, booted
from vm import OK, START, USAGE, run

MODES = {"windows": "dynamic-memslots=on", "one slot": "dynamic-memslots=off"}


def rss_kib(pid):
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])


@pytest.mark.parametrize("backing", ["anon", "memfd", "hugetlb-2m"])
@pytest.mark.parametrize("mode", MODES)
def test_starts(kvick, kvm_host, flat, backing, mode):
    """A guest that knows nothing of it: nothing is plugged, no huge page is needed."""
    done = run(
        kvick, "--mem-device", f"id=a,max=16G,backing={backing},{MODES[mode]}",
        "--mem-device", "max=1G,requested=512M,node=1", flat / "signal.pvh.elf",
    )  # fmt: skip
    assert done.returncode == OK, done.stderr
    assert done.stderr == ""


@pytest.mark.plain
def test_costs_nothing(start, kvm_host, flat):
    """1 TiB of which nothing is plugged: not two MiB of memory."""
    sizes = []
    for args in ((), ("--mem-device", "max=1T")):
        vm = start(*args, "--append", "rounds=0", flat / "echo.pvh.elf")
        vm.expect("echo")
        sizes.append(rss_kib(vm.pid))
        vm.signal(signal.SIGTERM)
        assert vm.wait() == 128 + signal.SIGTERM
    assert sizes[1] - sizes[0] < 2048


@pytest.mark.parametrize(
    ("status", "text", "devices", "more"),
    [
        (USAGE, "--mem-device: max=100M is not a multiple of 128M", ["max=100M"], ()),
        (USAGE, "requested=3M is not a multiple of 2M", ["max=1G,requested=3M"], ()),
        (USAGE, '"max" is given twice', ["max=1G,id=a,max=2G"], ()),
        (USAGE, "requested=2G is more than max=1G", ["max=1G,requested=2G"], ()),
        (USAGE, 'two devices have the id "m"', ["id=m,max=1G", "id=m,max=1G"], ()),
        (USAGE, "does not go with mlock=on", ["max=1G"], ("--memory", "64M,mlock=on")),
        (USAGE, "at most 8 are allowed", ["max=1G"] * 9, ()),
        (START, "more than this CPU's", ["max=4095T,block=1G"], ()),
        (START, "max=16T is more than", ["max=16T,block=1G,dynamic-memslots=off"], ()),
        (START, "--memory: 9T is more than", [], ("--memory", "9T")),
        (START, "more than the 256 memory slots", ["max=256G,slots=256"] * 2, ()),
    ],
)
def test_refused(kvick, kvm_host, flat, status, text, devices, more):
    """One sentence before the VM starts, that names the device."""
    args = [word for device in devices for word in ("--mem-device", device)]
    done = run(kvick, *args, *more, flat / "signal.pvh.elf")
    assert done.returncode == status, done.stderr
    assert text in done.stderr and "mem" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.plain
@pytest.mark.limit(120)
def test_books_follow_what_is_plugged(kvick, kvm_host, doctor):
    """Where KVM keeps book of each page, windows spare what is not plugged."""
    done = subprocess.run(
        [kvick, "bench", "memslots", "--json", "--max", "32G", "--rounds", "1", "--starts", "1"],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)["result"]
    kib = {(b["plugged_bytes"] >> 30, b["told_as"]): b["vmalloc_kib"]["median"] for b in result["books"]}
    slots = {(b["plugged_bytes"] >> 30, b["told_as"]): b["slots"] for b in result["books"]}
    assert slots == {
        (0, "windows"): 0, (1, "windows"): 1, (4, "windows"): 4,
        (0, "one slot"): 1, (1, "one slot"): 1, (4, "one slot"): 1,
    }  # fmt: skip
    assert {s["told_as"] for s in result["start"]} == {"windows", "one slot"}
    # Shadow paging: 8 bytes for each of 8,388,608 pages, and half as much for huge ones.
    if "software" in doctor["kvm"]:
        assert kib[1, "one slot"] > 65536
        assert kib[1, "windows"] < kib[1, "one slot"] / 20


def test_pool(kvick, kvm_host, flat, serve):
    """Nothing is leased before something is plugged; without a pool there is no start."""
    pool = serve()
    device = f"max=1G,backing=pool:{pool.path}"
    done = run(kvick, "--mem-device", device, flat / "signal.pvh.elf")
    assert (done.returncode, done.stderr) == (OK, "")
    assert pool.info()["granted"] == 0
    pool.stop()
    done = run(kvick, "--mem-device", device, flat / "signal.pvh.elf")
    assert done.returncode == START
    assert f"mem-device mem0: backing=pool: no pool answers at {pool.path}" in done.stderr


# With real Linux.


@pytest.mark.parametrize("mode", MODES)
def test_plugged_at_boot(linux, mode):
    """Two devices, found once each, and all of their memory is written."""
    commands = "memwait 860 1000;memtest all;cat /proc/iomem"
    args = (
        "--memory", "192M", "--cpus", "2",
        "--mem-device", f"id=a,max=64G,requested=512M,{MODES[mode]}",
        "--mem-device", "id=b,max=2G,requested=256M,block=4M,backing=memfd,populate=full",
    )  # fmt: skip
    done = booted(boot(linux, commands=commands, append=MOVABLE, args=args), 3)
    # Above RAM, on multiples of 2 GiB, and apart: Linux makes one buffer of memory side by side, and a
    # device looks for it in one area. Linux adds 128 MiB at a time, from below.
    assert "100000000-10ffffffff : virtio0" in done.stdout
    assert "100000000-11fffffff : System RAM (virtio_mem)" in done.stdout
    assert "1180000000-11ffffffff : virtio1" in done.stdout
    assert "1180000000-118fffffff : System RAM (virtio_mem)" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("place", ["acpi=off reboot=k", ""])
def test_found_without_acpi(linux, place):
    args = ("--memory", "128M", "--mem-device", "max=1G,requested=128M,node=1")
    booted(boot(linux, commands="memwait 200 256", append=place, args=args), 1)
