# SPDX-License-Identifier: Apache-2.0
"""kvick run with real Linux guests: in the emulated host, and here where this host's KVM can."""

import json
import re
from pathlib import Path

import pytest
from images import cpio
from places import Emulated, boot_marks
from vm import CRASH, OK

QUIET = "console=ttyS0 quiet"

BZIMAGES = ("bzImage", "bzImage.xz", "bzImage.lzma", "bzImage.lz4", "bzImage.zst")


def boot(linux, kernel="vmlinux", commands="", append="", args=(), timeout=120):
    """Boots a kernel with the test initrd and the commands for its init."""
    words = QUIET
    if append:
        words += " " + append
    if commands:
        words += f' kvick.run="{commands}"'
    return linux.kvick(
        "--initrd",
        linux.guest("initrd.cpio"),
        "--append",
        words,
        *args,
        linux.guest(kernel),
        timeout=timeout,
    )


def booted(done, ok=None):
    """The guest came up, did all it was told and ended in an orderly way."""
    assert done.returncode == OK, done
    assert "kvick-init: user space" in done.stdout, done
    found = re.search(r"kvick-init: done, (\d+) ok, (\d+) failed", done.stdout)
    assert found and found[2] == "0", done
    if ok is not None:
        assert int(found[1]) == ok, done
    assert "Kernel panic" not in done.stdout
    return done


@pytest.mark.parametrize("protocol", ["auto", "pvh", "linux"])
def test_vmlinux(linux, protocol):
    booted(boot(linux, commands="echo here", args=("--boot-protocol", protocol)), 1)


@pytest.mark.parametrize("kernel", BZIMAGES)
def test_bzimage(linux, kernel):
    """Every compression; the second start takes it from the cache."""
    first = booted(boot(linux, kernel, "echo one"), 1)
    second = booted(boot(linux, kernel, "echo two"), 1)
    assert first.stderr == second.stderr == ""


def test_bzimage_by_the_linux_protocol(linux):
    booted(boot(linux, "bzImage", "echo here", args=("--boot-protocol", "linux")), 1)


def test_distribution_kernel(linux):
    """Debian's cloud kernel, as it comes."""
    done = boot(linux, "debian-vmlinuz", "echo here;cpus;mem", args=("--memory", "256M"))
    booted(done, 3)


@pytest.mark.parametrize("protocol", ["pvh", "linux"])
def test_kernel_without_acpi(linux, protocol):
    """CPUs and interrupts come from the MP table; it cannot power off and is reset."""
    args = ("--cpus", "2", "--boot-protocol", protocol)
    done = booted(boot(linux, "vmlinux-noacpi", "cpus;irqs", "reboot=k", args), 2)
    assert "cpus: 2" in done.stdout
    assert re.search(r"IO-APIC.*ttyS0", done.stdout), done


def test_acpi_switched_off(linux):
    done = booted(boot(linux, "vmlinux", "cpus", "acpi=off reboot=k", ("--cpus", "2")), 1)
    assert "cpus: 2" in done.stdout


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_cpus(linux, cpus):
    done = boot(linux, commands="cpus;clock", args=("--cpus", str(cpus)), timeout=170)
    assert f"cpus: {cpus}\n" in booted(done, 2).stdout
    assert "clock: kvm-clock" in done.stdout


def test_cpus_are_described_once(linux):
    """ACPI and the MP table say the same; the kernel sees each CPU and the serial port once."""
    args = ("--cpus", "2")
    done = booted(boot(linux, commands="cat /proc/cpuinfo;irqs", args=args))
    assert len(re.findall(r"^processor\s*:", done.stdout, re.M)) == 2
    assert re.findall(r"^apicid\s*: (\d+)", done.stdout, re.M) == ["0", "1"]
    assert re.findall(r"^cpu cores\s*: (\d+)", done.stdout, re.M) == ["2", "2"]
    assert "hypervisor" in done.stdout
    assert len(re.findall(r"ttyS\d", done.stdout.split("CPU0")[1])) == 1
    # No PIT and no PIC: the timer interrupt is the local APIC's.
    assert not re.search(r"\b(timer|XT-PIC)\b", done.stdout.split("CPU0")[1].split("LOC")[0])


@pytest.mark.parametrize("legacy", ["on", "off"])
def test_legacy_controllers(linux, legacy):
    booted(boot(linux, commands="clock;irqs", args=("--legacy", legacy)), 2)


@pytest.mark.parametrize("words", ["noapic", "nolapic"])
def test_kernels_that_need_the_pic(linux, words):
    """The command line takes the APIC away: PIC and PIT are there without being asked for."""
    booted(boot(linux, commands="clock", append=words, args=("--cpus", "1")), 1)


# What a kernel keeps for itself, on top of a few per cent for its page structures.
KERNEL_OWN_KIB = 20 << 10


def check_size(done, mib):
    (kib,) = map(int, re.findall(r"^mem: (\d+) kB", done.stdout, re.M))
    whole = mib << 10
    assert whole - whole // 16 - KERNEL_OWN_KIB < kib < whole, f"{kib} kB of {mib} MiB"


@pytest.mark.parametrize("mib", [32, 100, 512])
def test_memory(linux, mib):
    """The guest sees all its memory and can write it."""
    done = boot(linux, commands="mem;memtest all", args=("--memory", f"{mib}M"))
    check_size(booted(done, 2), mib)
    assert re.search(r"memtest: \d+ MiB ok", done.stdout)


@pytest.mark.parametrize("mib", [3072, 3073, 16384])
def test_memory_that_is_not_written(linux, mib):
    """It need not be there: the emulated host has 2 GiB."""
    done = boot(linux, commands="mem;memtest 64", args=("--memory", f"{mib}M"))
    check_size(booted(done, 2), mib)


@pytest.mark.limit(600)
def test_all_of_more_than_4_gib(large_testbed):
    """3 GiB end below the 32-bit hole, the rest is above 4 GiB; the guest writes all of it."""
    linux = Emulated(large_testbed)
    linux.run("sh", "-c", "echo always >/sys/kernel/mm/transparent_hugepage/enabled")
    mib = 4608
    done = boot(linux, commands="mem;memtest all", args=("--memory", f"{mib}M"), timeout=500)
    check_size(booted(done, 2), mib)
    (tested,) = map(int, re.findall(r"memtest: (\d+) MiB ok", done.stdout))
    assert tested > 4096


@pytest.mark.parametrize("way", ["k", "t", "a"])
@pytest.mark.parametrize("end", ["reboot", "poweroff"])
def test_orderly_ends(linux, way, end):
    done = booted(boot(linux, commands="echo x", append=f"reboot={way} kvick.end={end}"), 1)
    assert done.stderr == ""


def test_panic_ends_the_run(linux):
    """With panic=-1 Linux reboots at once: for the monitor that is a reset like any other."""
    done = boot(linux, commands="crash", append="panic=-1 reboot=k")
    assert done.returncode == OK, done
    assert "Kernel panic" in done.stdout


def test_guest_without_init(linux):
    done = linux.kvick("--append", QUIET + " panic=-1 reboot=t", linux.guest("vmlinux"))
    assert done.returncode == OK, done
    assert "Kernel panic" in done.stdout


def test_kernel_that_does_not_fit(linux):
    """16 MiB are too few for this kernel: an error, not a crash of the monitor."""
    done = linux.kvick("--memory", "16M", linux.guest("vmlinux"))
    assert done.returncode == 1, done
    assert "--memory 16M" in done.stderr


def test_boot_timer(linux):
    line = r"^kvick: Guest-boot-time = +(\d+) us (\d+) ms, +(\d+) CPU us (\d+) CPU ms$"
    for address in ("0xd0000000", "0xc0000000"):
        done = booted(boot(linux, append=f"kvick.timer={address}", args=("--boot-timer",)))
        found = re.search(line, done.stderr, re.M)
        assert found, done
        assert int(found[2]) == int(found[1]) // 1000


ORDER = "exec main ready first_entry start_kernel user_space boot_complete shutdown torn_down".split()


def timeline(linux, kernel, *args):
    return boot_marks(
        linux, lambda path: booted(boot(linux, kernel, args=("--timeline", path, *args)))
    )


def test_timeline(linux):
    """start_kernel and user space are timed on an unmodified kernel."""
    marks = timeline(linux, "vmlinux", "--cpus", "2")
    times = [marks[m]["ns"] for m in ORDER]
    assert times == sorted(times)
    assert len(set(times)) == len(times)


def test_timeline_with_a_system_map(linux):
    marks = timeline(linux, "bzImage", "--symbols", linux.guest("System.map"))
    assert [m for m in marks if m in ORDER] == ORDER


def test_timeline_without_symbols(linux):
    """Debian's kernel comes without a symbol table: the marks are absent, not guessed."""
    path = "/tmp/kvick-timeline.json"
    args = "--memory", "256M", "--timeline", path
    booted(boot(linux, "debian-vmlinuz", args=args))
    marks = json.loads(linux.read(path))["marks"]
    assert "start_kernel" not in marks
    assert "user_space" not in marks
    assert "boot_complete" in marks


def test_two_initrds(linux):
    """Each is an archive of its own; both are unpacked."""
    linux.put("/tmp/second.cpio", cpio({"second": b"hello from the second"}))
    done = boot(linux, commands="cat /second", args=("--initrd", "/tmp/second.cpio"))
    assert "hello from the second" in booted(done, 1).stdout


def test_a_shell_on_the_console(testbed):
    """The guest's serial driver gets typed input by interrupt, and a shell answers."""
    shell = cpio({"bin/busybox": Path("/bin/busybox").read_bytes()}, links={"bin/sh": "busybox"})
    testbed.put("/tmp/shell.cpio", shell)
    job = testbed.spawn(
        ["build/kvick", "run", "--initrd", "build/guest/initrd.cpio", "--initrd", "/tmp/shell.cpio"]
        + ["--append", QUIET + " kvick.end=shell", "build/guest/vmlinux"]
    )
    job.wait_for(b"# ", timeout=60)
    job.write(b"echo typed $((6 * 7))\n")
    job.wait_for(b"typed 42", timeout=30)
    # More at once than the FIFO holds.
    job.write(b"echo " + b"long " * 100 + b"end\n")
    job.wait_for(b"long " * 100 + b"end\r\n", timeout=30)
    job.write(b"exit\n")
    done = job.wait(60)
    assert done.returncode == OK, done


def smaps_of_two(linux):
    """Starts two guests that wait; the output has both monitors' smaps and statuses."""
    script = f"""
        for i in 1 2; do
            {linux.program} run --serial file:/tmp/share$i.log --initrd {linux.guest("initrd.cpio")} \\
                --append 'console=ttyS0 quiet kvick.run="echo waiting;sleep 60000"' \\
                {linux.guest("vmlinux")} </dev/null & eval pid$i=$!
        done
        for i in 1 2; do
            n=0
            until grep -q waiting /tmp/share$i.log; do
                sleep 0.2; n=$((n + 1)); [ $n -lt 500 ] || exit 9
            done
        done
        cat /proc/$pid1/smaps; echo =====; cat /proc/$pid2/smaps
        kill $pid1 $pid2; wait $pid1; a=$?; wait $pid2; b=$?
        echo ===== $a $b; rm -f /tmp/share[12].log
    """
    return linux.run("sh", "-c", script, timeout=150)


def kernel_share(smaps):
    """What of the kernel's file is in memory, in KiB: all of it, its share, what was written."""
    found = {"Rss": 0, "Pss": 0, "Private_Dirty": 0}
    inside = False
    for line in smaps.splitlines():
        if m := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ \S+ \d+ *(.*)", line):
            inside = m[1].endswith("/vmlinux")
        elif inside and (m := re.match(r"(\w+): +(\d+) kB", line)) and m[1] in found:
            found[m[1]] += int(m[2])
    return found.values()


def test_two_guests_share_their_kernel(linux):
    done = smaps_of_two(linux)
    assert done.returncode == 0, done
    first, second, statuses = done.stdout.split("=====")
    assert statuses.split() == ["143", "143"]
    for smaps in (first, second):
        rss, pss, written = kernel_share(smaps)
        # Several MiB of kernel are touched; of what was not written each has half.
        assert rss > 4 << 10
        assert abs(pss - written - (rss - written) / 2) < rss * 0.05, (rss, pss, written)


@pytest.mark.limit(900)
@pytest.mark.soak
def test_guest_after_guest(linux, request):
    """Many guests in a row: none hangs, none fails."""
    for i in range(request.config.getoption("--soak")):
        cpus = str(1 + i % 2)
        done = boot(linux, commands="cpus", args=("--cpus", cpus), timeout=60)
        assert f"cpus: {cpus}\n" in booted(done, 1).stdout


@pytest.mark.limit(600)
@pytest.mark.soak
def test_guests_side_by_side(linux, request):
    """Two at a time."""
    rounds = max(1, request.config.getoption("--soak") // 4)
    script = f"""
        for i in 1 2; do
            {linux.program} run --serial file:/tmp/side$i.log --initrd {linux.guest("initrd.cpio")} \\
                --append '{QUIET} kvick.run=clock' {linux.guest("vmlinux")} </dev/null & eval pid$i=$!
        done
        wait $pid1 || exit 11; wait $pid2 || exit 12
        cat /tmp/side1.log /tmp/side2.log
    """
    for _ in range(rounds):
        done = linux.run("sh", "-c", script, timeout=90)
        assert done.returncode == 0, done
        assert done.stdout.count("1 ok, 0 failed") == 2, done


def test_crash_is_told(linux):
    """A triple fault that nobody asked for, on hardware virtualisation."""
    done = linux.kvick(linux.guest("flat/crash.pvh.elf"))
    assert done.returncode == CRASH, done
    assert "triple fault at RIP 0x" in done.stderr
