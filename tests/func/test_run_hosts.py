# SPDX-License-Identifier: Apache-2.0
"""kvick run on hosts in a bad way: what can only be arranged in the emulated host."""

import pytest
from places import Emulated
from vm import HOST, OK, START

SIGNAL = "build/guest/flat/signal.pvh.elf"


@pytest.fixture(name="host")
def emulated_host(testbed):
    return Emulated(testbed)


@pytest.fixture(name="small_disk")
def tiny_file_system(host):
    host.run("sh", "-c", "mkdir -p /tmp/small && mount -t tmpfs -o size=1M tmpfs /tmp/small")
    yield "/tmp/small"
    host.run("umount", "/tmp/small")


def test_no_permission(host):
    host.run("chmod", "0600", "/dev/kvm")
    try:
        done = host.kvick(SIGNAL, user="tester")
    finally:
        host.run("chmod", "0660", "/dev/kvm")
    assert done.returncode == HOST, done
    assert "/dev/kvm" in done.stderr and "ermission" in done.stderr and "kvick doctor" in done.stderr
    assert host.kvick(SIGNAL, user="tester").returncode == OK


def test_no_kvm(host):
    host.run("mv", "/dev/kvm", "/dev/kvm.away")
    try:
        done = host.kvick(SIGNAL)
    finally:
        host.run("mv", "/dev/kvm.away", "/dev/kvm")
    assert done.returncode == HOST, done
    assert "/dev/kvm" in done.stderr


def test_timeline_on_a_full_disk(host, small_disk):
    host.run("sh", "-c", f"dd if=/dev/zero of={small_disk}/fill bs=4k 2>/dev/null")
    for name in ("t.json", "t.txt"):
        done = host.kvick("--timeline", f"{small_disk}/{name}", SIGNAL)
        assert done.returncode == START, done
        assert "No space left" in done.stderr and name in done.stderr
    assert host.run("ls", small_disk).stdout == "fill\n"


def test_cache_on_a_full_disk(host, small_disk):
    """The unpacked kernel does not fit: it is unpacked into memory, and the guest runs."""
    done = host.run(
        "sh",
        "-c",
        f"XDG_CACHE_HOME={small_disk} build/kvick run --initrd build/guest/initrd.cpio "
        "--append 'console=ttyS0 quiet' build/guest/bzImage",
    )
    assert done.returncode == OK, done
    assert "kvick-init: done" in done.stdout
    assert "unpacked into memory" in done.stderr and "No space left" in done.stderr
    assert host.run("sh", "-c", f"ls {small_disk}/kvick | grep -v idx").stdout == ""
