# SPDX-License-Identifier: Apache-2.0
"""Virtio devices with real Linux guests."""

import json
import re
import signal

import pytest
from images import cpio
from places import Emulated
from test_run_linux import boot, booted

RNG = "/sys/bus/virtio/drivers/virtio_rng"
NOTIFY = 0xFEB00050

# Kernel and words of its command line: found by ACPI; by the command line, without ACPI in use or built in.
PLACES = {
    "acpi": ("vmlinux", ""),
    "acpi=off": ("vmlinux", "acpi=off reboot=k"),
    "noacpi": ("vmlinux-noacpi", "reboot=k"),
}


def virtio_irqs(done):
    return re.findall(r"^ *\d+: .*\bvirtio\d+$", done.stdout, re.M)


@pytest.mark.parametrize("place", PLACES)
def test_rng(linux, place):
    """The guest finds the device once, and reads what is no constant."""
    kernel, append = PLACES[place]
    commands = "ls /sys/bus/virtio/devices;read /dev/hwrng 4096;irqs;cat /proc/cmdline"
    done = booted(boot(linux, kernel, commands, append, ("--rng",)), 4)
    assert re.findall(r"^virtio\d+$", done.stdout, re.M) == ["virtio0"]
    assert len(virtio_irqs(done)) == 1
    (values,) = re.findall(r"^read: 4096 bytes, (\d+) values$", done.stdout, re.M)
    assert int(values) > 240
    assert ("virtio_mmio.device=512@0xfeb00000:5" in done.stdout) == (place != "acpi")


def test_rng_beside_a_pic(linux):
    done = boot(linux, commands="read /dev/hwrng 512;irqs", args=("--rng", "--legacy", "on"))
    assert "read: 512 bytes" in booted(done, 2).stdout
    assert len(virtio_irqs(done)) == 1


def test_rng_unbound_and_bound_again(linux):
    """The device comes back from a driver that left, many times."""
    again = f"write {RNG}/unbind virtio0;write {RNG}/bind virtio0;read /dev/hwrng 256"
    done = booted(boot(linux, commands=";".join([again] * 5), args=("--rng",)), 15)
    assert done.stdout.count("read: 256 bytes") == 5


def test_no_device_unless_asked_for(linux):
    done = booted(boot(linux, commands="ls /sys/bus/virtio/devices;cat /proc/cmdline"), 2)
    assert "virtio0" not in done.stdout
    assert "virtio_mmio" not in done.stdout


def test_a_busy_queue_costs_no_exits(linux):
    """After some kicks KVM takes them by itself: Linux asks the device for 64 bytes at a time."""
    path = "/tmp/kvick-stats.json"
    args = ("--rng", f"--stats={path}")
    done = booted(boot(linux, commands="read /dev/hwrng 65536", args=args), 1)
    assert "read: 65536 bytes, 256 values" in done.stdout
    (cpu,) = json.loads(linux.read(path))["vcpus"]
    kicks = [p["count"] for p in cpu["places"] if p.get("gpa") == NOTIFY]
    assert len(kicks) == 1
    assert 64 <= kicks[0] < 200


def test_words_behind_the_double_dash(linux):
    """The device's word goes to the kernel, not to init."""
    append = 'acpi=off reboot=k foo="a -- b" -- one two'
    done = booted(boot(linux, commands="", append=append, args=("--rng",)))


def disk_make(linux, path, mib):
    done = linux.run("sh", "-c", f"rm -f {path}; truncate -s {mib}M {path}")
    assert done.returncode == 0, done


@pytest.mark.parametrize("keys", ["", ",queues=2", ",cache=unsafe,direct"])
def test_disk(linux, keys):
    """What one guest writes, the next one reads."""
    path = "/var/kvick-disk" if "direct" in keys else "/tmp/kvick-disk"
    linux.run("mkdir", "-p", "/var")
    disk_make(linux, path, 64)
    args = ("--cpus", "2", "--disk", f"{path}{keys},serial=KV-7")
    commands = "fill /dev/vda 0 4194304 7;fill /dev/vda 67104768 4096 8;verify /dev/vda 0 4194304 7"
    done = booted(boot(linux, commands=commands, args=args), 3)
    assert "fill: 4194304 bytes" in done.stdout
    args = ("--disk", f"{path},ro,serial=KV-7", "--disk", f"{path},ro")
    commands = (
        "verify /dev/vda 0 4194304 7;verify /dev/vdb 67104768 4096 8;cat /sys/block/vda/serial;"
        "cat /sys/block/vda/ro;cat /sys/block/vda/size;ls /sys/bus/virtio/devices"
    )
    done = booted(boot(linux, commands=commands, args=args), 6)
    assert "KV-7\n1\n131072\n" in done.stdout
    assert sorted(re.findall(r"^virtio\d+$", done.stdout, re.M)) == ["virtio0", "virtio1"]
    linux.run("rm", "-f", path)


def test_disk_unbound_and_bound_again(linux):
    path = "/tmp/kvick-disk"
    disk_make(linux, path, 16)
    driver = "/sys/bus/virtio/drivers/virtio_blk"
    again = f"write {driver}/unbind virtio0;write {driver}/bind virtio0;verify /dev/vda 0 65536 3"
    commands = ";".join(["fill /dev/vda 0 65536 3"] + [again] * 3)
    booted(boot(linux, commands=commands, args=("--disk", path)), 10)


def test_many_disks(linux):
    """As many devices as there may be: each finds its own, by ACPI and by the command line."""
    count = 31
    paths = [f"/tmp/kvick-disk{i}" for i in range(count)]
    args = ["--rng"]
    for path in paths:
        disk_make(linux, path, 1)
        args += ["--disk", path]
    names = [f"vd{chr(97 + i)}" if i < 26 else f"vda{chr(97 + i - 26)}" for i in range(count)]
    # The command line has no room for them beside the devices.
    script = "".join(f"fill /dev/{n} 0 4096 {i}\n" for i, n in enumerate(names)) + "irqs\n"
    linux.put("/tmp/kvick-script.cpio", cpio({"kvick.script": script.encode()}))
    args += ["--initrd", "/tmp/kvick-script.cpio"]
    for kernel, append in (PLACES["acpi"], PLACES["noacpi"]):
        done = booted(boot(linux, kernel, "", append, args), count + 1)
        assert len(virtio_irqs(done)) == count + 1
    linux.run("rm", "-f", "/tmp/kvick-script.cpio", *paths)


def test_disk_without_io_uring(testbed):
    """Where the host forbids io_uring the disk works without it, and the log says so once."""
    linux = Emulated(testbed)
    path, forbidden = "/tmp/kvick-disk", "/proc/sys/kernel/io_uring_disabled"
    disk_make(linux, path, 16)
    assert testbed.run(["sh", "-c", f"echo 2 >{forbidden}"], timeout=20).returncode == 0
    try:
        commands = "fill /dev/vda 0 1048576 3;verify /dev/vda 0 1048576 3"
        done = booted(boot(linux, commands=commands, args=("--disk", path)), 2)
    finally:
        testbed.run(["sh", "-c", f"echo 0 >{forbidden}"], timeout=20)
    assert done.stderr.count("io_uring cannot be had") == 1
    linux.run("rm", "-f", path)


def test_disk_for_one_writer(linux):
    path = "/tmp/kvick-disk"
    disk_make(linux, path, 1)
    done = boot(linux, args=("--disk", path, "--disk", f"{path},ro"))
    assert done.returncode == 1, done
    assert f"disk disk1: {path} is in use" in done.stderr


def test_disk_with_limits(linux):
    """2 MiB more than the bucket holds take two seconds of the guest's, at the least."""
    path = "/tmp/kvick-disk"
    disk_make(linux, path, 16)
    commands = "uptime;fill /dev/vda 0 3145728 1;uptime;verify /dev/vda 0 65536 1"
    done = booted(boot(linux, commands=commands, args=("--disk", f"{path},bw=1M/s,ops=2000")), 4)
    before, after = (float(n) for n in re.findall(r"^uptime: ([\d.]+)", done.stdout, re.M))
    assert after - before > 1.9
    done = booted(boot(linux, commands="read /dev/hwrng 4096", args=("--rng=bw=16K/s,ops=300",)), 1)
    assert "read: 4096 bytes" in done.stdout
