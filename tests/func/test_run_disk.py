# SPDX-License-Identifier: Apache-2.0
"""Disks of a running machine."""

import fcntl
import os
import signal
import struct
import time
from pathlib import Path

import pytest
from vm import START, USAGE, run

pytestmark = pytest.mark.usefixtures("kvm_host")


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return path


def test_growth(start, flat, disk):
    """Told on SIGUSR2; a disk that shrank is reported and stays as it is."""
    vm = start("--boot-timer", "--disk", f"{disk},id=data", flat / "halt.pvh.elf")
    vm.expect("Guest-boot-time", "err")
    vm.signal(signal.SIGUSR2)
    os.truncate(disk, 3 << 20)
    vm.signal(signal.SIGUSR2)
    assert vm.expect("disk data has now 3M", "err").count("has now") == 1
    os.truncate(disk, 2 << 20)
    vm.signal(signal.SIGUSR2)
    vm.expect("disk data shrank to 2M; the guest's does not", "err")
    vm.signal(signal.SIGTERM)
    assert vm.wait() == 128 + signal.SIGTERM


def threads(vm):
    """The names of a machine's threads, but those of KVM's own."""
    names = (path.read_text().strip() for path in Path(f"/proc/{vm.pid}/task").glob("*/comm"))
    return sorted(name for name in names if not name.startswith("kvm-"))


def test_thread_of_its_own(start, flat, disk, tmp_path):
    """Only the disk that asks for one has a thread."""
    (tmp_path / "other").write_bytes(bytes(512))
    disks = ("--disk", f"{disk},iothread,id=data-of-the-guest", "--disk", tmp_path / "other")
    vm = start("--boot-timer", *disks, flat / "halt.pvh.elf")
    vm.expect("Guest-boot-time", "err")
    assert threads(vm) == ["fc_vcpu 0", "kvick", "kvick data-of-t"]
    os.truncate(disk, 3 << 20)
    vm.signal(signal.SIGUSR2)
    vm.expect("disk data-of-the-guest has now 3M", "err")
    vm.signal(signal.SIGTERM)
    assert vm.wait() == 128 + signal.SIGTERM


def test_one_writer(start, kvick, flat, disk):
    """Two machines, one disk: two that read, or one that writes."""
    first = start("--boot-timer", "--disk", disk, flat / "halt.pvh.elf")
    first.expect("Guest-boot-time", "err")
    for keys in "", ",ro":
        second = run(kvick, "--disk", f"{disk}{keys}", flat / "halt.pvh.elf")
        assert second.returncode == START
        assert f"disk disk0: {disk} is in use by another disk or process" in second.stderr
    first.signal(signal.SIGKILL)
    first.wait()
    reader = start("--boot-timer", "--disk", f"{disk},ro", flat / "halt.pvh.elf")
    reader.expect("Guest-boot-time", "err")
    other = start("--boot-timer", "--disk", f"{disk},ro", flat / "halt.pvh.elf")
    other.expect("Guest-boot-time", "err")
    assert run(kvick, "--disk", disk, flat / "halt.pvh.elf").returncode == START


def test_lock_left_behind(start, flat, disk):
    """The lock of a machine that was killed may outlive it for a moment: the next one waits."""
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with disk.open("r+b") as held:
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, lock)
        vm = start("--boot-timer", "--disk", disk, flat / "halt.pvh.elf")
        time.sleep(0.2)
        assert vm.process.poll() is None
    vm.expect("Guest-boot-time", "err")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("iothread=2", 'iothread: "2" is not allowed'),
        ("ro,iothread,ro=off", '"ro" is given twice'),
        ("ops-burst=5", "ops-burst says nothing without ops"),
        ("bw=1M/0s", 'bw: "1M/0s" is out of range'),
        ("bw=fast", 'bw: "fast" is not a rate; give a number, or NUMBER/TIME'),
        ("partuuid=sda1", 'partuuid: "sda1" is not a partition\'s UUID'),
    ],
)
def test_bad_values(kvick, flat, disk, value, text):
    done = run(kvick, "--disk", f"{disk},{value}", flat / "halt.pvh.elf")
    assert done.returncode == USAGE
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/no/such/disk", "cannot be opened for writing: No such file or directory"),
        ("/no/such/disk,ro", "cannot be opened: No such file or directory"),
        ("/", "cannot be opened for writing: Is a directory"),
        ("/,ro", "is neither a file nor a block device"),
        ("/dev/null", "is neither a file nor a block device"),
    ],
)
def test_no_disk(kvick, flat, path, text):
    done = run(kvick, "--disk", path, flat / "halt.pvh.elf")
    assert (done.returncode, done.stdout) == (START, "")
    assert done.stderr == f"kvick run: disk disk0: {path.split(',')[0]} {text}\n"


@pytest.mark.parametrize("size", [0, 1000])
def test_no_multiple_of_512(kvick, flat, tmp_path, size):
    path = tmp_path / "disk"
    path.write_bytes(bytes(size))
    done = run(kvick, "--disk", path, flat / "halt.pvh.elf")
    assert done.returncode == START
    assert f"has {size} bytes; a disk has a multiple of 512, and not 0" in done.stderr
