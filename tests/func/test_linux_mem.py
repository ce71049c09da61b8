# SPDX-License-Identifier: Apache-2.0
"""kvick mem with real Linux guests: growing, shrinking while at work, what is refused, drivers that go."""

import json
import re
import signal

import pytest
from hugepages import emulated_huge_pages
from images import NEXT, next_kernel
from linux_vm import MIB, MOVABLE, PAUSE, RESUME, cycles, large_linux_vms  # noqa: F401 (a fixture)
from places import Emulated, text
from vm import until

# The most that the host keeps of memory that was given back, MiB.
KEPT = 64

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"


def emptied(vm, device):
    """Waits until the host has nothing present for DEVICE: what is unplugged goes in turns."""
    until(lambda: vm.device(device)["host_bytes"] == 0, f"the end of {device}'s memory", 30)


def round_trips(large_vm, sizes, max_gib=64):
    """256 MiB and as much again as SIZES say, one after the other: all of it is written, and they shrink
    back, beside a process at work."""
    script = []
    for mib in sizes:
        script += [f"memwait {mib + 200} {mib + 256}", "memtest all", "memwork 48", "echo tested"]
        script += ["memwait 200 256", "memwork stop", "echo shrunk"]
    script += ["memwait 300 384"]
    vm = large_vm(script, "--memory", "256M", "--cpus", "2", "--mem-device", f"id=m0,max={max_gib}G")
    vm.expect("kvick-init: user space")
    for i, mib in enumerate(sizes, 1):
        vm.resize("m0", mib)
        vm.expect("tested", i)
        info = vm.device("m0")
        assert info["plugged_bytes"] == mib * MIB
        assert info["windows_mapped"] == -(-mib // 1024)
        assert info["host_bytes"] > (mib - 200) * MIB
        # What is plugged and RAM, and little of its own.
        assert vm.rss_mib() < mib + 256 + KEPT
        vm.resize("m0", 0)
        vm.expect("shrunk", i)
        emptied(vm, "m0")
        info = vm.device("m0")
        assert (info["plugged_bytes"], info["windows_mapped"], info["host_bytes"]) == (0, 0, 0)
        assert vm.rss_mib() < 256 + KEPT
    vm.release("m0", 128)
    out = vm.end()
    tested = [int(n) for n in re.findall(r"memtest: (\d+) MiB ok", out)]
    assert len(tested) == len(sizes)
    # All that is free, less what page tables and the kernel may need.
    assert all(got > mib - 64 for got, mib in zip(tested, sizes, strict=True)), tested
    assert len(re.findall(r"memwork: \d+ rounds of 48 MiB ok", out)) == len(sizes)
    assert vm.job.stderr == b""


@pytest.mark.limit(300)
def test_grows_and_shrinks(large_vm):
    """To 3 GiB once, and a few times to less."""
    round_trips(large_vm, [2816, 256])


@pytest.mark.soak
@pytest.mark.limit(7200)
def test_grows_and_shrinks_soak(large_vm, request):
    """To 3 GiB, N - 10 times with --soak N."""
    rounds = max(0, request.config.getoption("--soak") - 10)
    if not rounds:
        pytest.skip("only with --soak over 10")
    round_trips(large_vm, [2816] * rounds)


def shmem_mib(tb):
    """What the emulated host has in memfds and the like."""
    return int(re.search(r"Shmem:\s+(\d+) kB", text(tb.run(["cat", "/proc/meminfo"]).stdout))[1]) >> 10


@pytest.mark.limit(200)
def test_two_devices(large_testbed, large_vm):
    """Each by itself, and what one gives back the other does not lose."""
    vm = large_vm(
        ["memwait 400 512", "memtest all", "echo tested", "memwait 300 384", "memtest all", "echo again",
         "memwait 200 256", "memwait 300 384"],
        "--memory", "256M", "--mem-device", "id=a,max=2G", "--mem-device",
        "id=b,max=8G,dynamic-memslots=off,backing=memfd,node=1",
    )  # fmt: skip
    vm.expect("kvick-init: user space")
    before = shmem_mib(large_testbed)
    vm.resize("a", 128)
    vm.resize("b", 128)
    vm.expect("tested")
    assert vm.rss_mib() > 300
    vm.resize("a", 0)
    vm.expect("again")
    emptied(vm, "a")
    assert vm.device("b")["host_bytes"] > 96 * MIB
    assert shmem_mib(large_testbed) > before + 96
    vm.resize("b", 0)
    emptied(vm, "b")
    assert shmem_mib(large_testbed) < before + 4
    vm.release("a", 128)
    vm.end(8)
    assert vm.job.stderr == b""


@pytest.mark.limit(200)
def test_huge_pages(large_testbed, large_vm):
    """Huge pages are taken when blocks are plugged; when there are none, the guest goes on without. They
    come back, and none stays reserved, while the guest runs."""
    linux = Emulated(large_testbed)
    with emulated_huge_pages(linux, 2048, 160) as free:
        vm = large_vm(
            ["memwait 360 420", "memtest all", "echo tested", "memwait 100 128", "memwait 200 256"],
            "--memory", "128M", "--mem-device", "id=m0,max=1G,requested=512M,backing=hugetlb-2m",
        )  # fmt: skip
        vm.expect("tested")
        assert free() < 160 - 64
        vm.resize("m0", 0)
        emptied(vm, "m0")
        pages = "/sys/kernel/mm/hugepages/hugepages-2048kB"
        assert (free(), int(linux.run("cat", f"{pages}/resv_hugepages").stdout)) == (160, 0)
        vm.release("m0", 128)
        vm.end(5)


@pytest.mark.limit(200)
def test_refused(large_vm):
    """What cannot be is said in one sentence with status 1, and nothing has changed."""
    vm = large_vm(
        ["memwait 300 400", "memwait 100 128", f"write {DRIVER}/unbind virtio0", "echo gone", "sleep 20000"],
        "--memory", "128M", "--mem-device", "id=m0,max=1G",
    )  # fmt: skip
    vm.expect("kvick-init: user space")

    def refused(device, size, why):
        done = vm.mem(device, f"requested={size}")
        assert (done.returncode, done.stdout) == (1, b""), done
        assert why in text(done.stderr) and done.stderr.count(b"\n") == 1, done

    refused("m0", "3M", "requested=3M is not a multiple of 2M")
    refused("m0", "2G", "requested=2G is more than max=1G")
    refused("m1", "2M", 'no memory device "m1"')
    assert vm.device("m0")["requested_bytes"] == 0
    vm.resize("m0", 256)
    vm.resize("m0", 0)
    vm.expect("gone")
    # The driver went.
    refused("m0", "256M", "the guest has no driver for it at work")
    info = vm.device("m0")
    assert (info["driver"], info["requested_bytes"]) == (False, 0)


@pytest.mark.limit(200)
def test_ended_meanwhile(large_vm):
    """A guest that powers off while it is waited for."""
    vm = large_vm(["memwait 140 4096"], "--memory", "128M", "--mem-device", "id=m0,max=4G", append="")
    vm.expect("kvick-init: user space")
    done = vm.mem("m0", "requested=4G")
    assert done.returncode == 1, done
    assert "the VM ended" in text(done.stderr), done
    vm.end(1)


@pytest.mark.limit(200)
def test_driver_comes_again(large_vm):
    """What it had plugged stays so and in use while it is gone; Linux does not take it back until that
    is given back, and what the next one is asked for comes."""
    vm = large_vm(
        ["memwait 600 640", "memtest 400", f"write {DRIVER}/unbind virtio0", "memtest 400", "echo gone",
         "sleep 1000", f"write {DRIVER}/bind virtio0", "memtest 400", "echo again", "sleep 3000"],
        "--memory", "128M", "--mem-device", "id=m0,max=64G",
    )  # fmt: skip
    vm.expect("kvick-init: user space")
    vm.resize("m0", 512)
    vm.expect("gone")
    info = vm.device("m0")
    assert (info["driver"], info["plugged_bytes"]) == (False, 512 * MIB)
    done = vm.mem("m0", "requested=0")
    assert done.returncode == 1 and "no driver for it at work" in text(done.stderr), done
    vm.expect("again")
    assert vm.device("m0")["plugged_bytes"] == 512 * MIB
    done = vm.job.wait(60)
    assert done.returncode == 0 and text(done.stdout).count("memtest: 400 MiB ok") == 3, done


@pytest.mark.limit(200)
def test_driver_comes_again_to_nothing(large_vm):
    """Unplugged, left, bound again, and plugged."""
    again = [f"write {DRIVER}/unbind virtio0", f"write {DRIVER}/bind virtio0"]
    vm = large_vm(
        ["memwait 600 640", "memwait 100 128", "sleep 1000", *again * 5, "echo again", "memwait 300 384", "memtest 200",
         "memwait 500 640"],
        "--memory", "128M", "--mem-device", "id=m0,max=64G",
    )  # fmt: skip
    vm.expect("kvick-init: user space")
    vm.resize("m0", 512)
    vm.resize("m0", 0)
    vm.expect("again")
    vm.resize("m0", 256)
    vm.release("m0", 512)
    vm.end(17)


@pytest.mark.limit(200)
def test_kexec(large_testbed, large_vm):
    """A kernel that another one started finds its blocks plugged, gives them back, and begins anew."""
    again = "cat /kvick.next;memwait 300 384;sleep 1000;memtest 160;echo tested;memwait 100 128;memwait 200 256"
    cmdline = f'console=ttyS0 quiet {MOVABLE} kvick.run="{again}"'
    vm = large_vm(
        ["memwait 300 384", "memtest 200", NEXT],
        "--memory", "128M", "--cpus", "2", "--mem-device", "id=m0,max=64G",
        files=next_kernel(large_testbed.build / "guest", cmdline),
    )  # fmt: skip
    vm.expect("kvick-init: user space")
    vm.resize("m0", 256)
    vm.expect("\nthe second kernel\n")
    vm.expect("\ntested\n")
    info = vm.device("m0")
    assert (info["plugged_bytes"], info["windows_mapped"]) == (256 * MIB, 1)
    assert info["host_bytes"] <= 256 * MIB
    vm.resize("m0", 0)
    vm.release("m0", 128)
    vm.end(7)


@pytest.mark.limit(200)
def test_paused_while_it_changes(large_vm):
    """Paused and resumed again and again while the guest plugs, works and unplugs."""
    vm = large_vm(
        ["memwork 48", "memwait 1300 1408", "memtest 900", "memwait 100 128", "memwork stop",
         "memwait 200 256"],
        "--memory", "128M", "--cpus", "2", "--mem-device", "id=m0,max=8G",
    )  # fmt: skip
    vm.expect("kvick-init: user space")
    for mib in (1280, 0):
        assert vm.mem("--no-wait", "m0", f"requested={mib}M").returncode == 0
        assert set(vm.talk(*cycles(25, 20, 20))) == {(204, None)}
        done = vm.mem("--timeout", "100", "m0", f"requested={mib}M")
        assert done.returncode == 0, done
        if mib:
            vm.expect("memtest: 900 MiB ok")
            # With memory plugged and nobody at work, for longer.
            assert set(vm.talk(PAUSE, "sleep 2000", RESUME)) == {(204, None)}
    vm.release("m0", 128)
    vm.end(6)
    assert vm.job.stderr == b""


@pytest.mark.limit(200)
def test_lent_by_a_pool(large_testbed, large_vm):
    """Chunks are leased where something is plugged, and go back; a pool that has no more is waited for.
    They are renewed: a disk may still read into what is unplugged."""
    tb, path, disk = large_testbed, "/tmp/mem-pool", "/tmp/mem-disk"

    def info(name):
        done = tb.run(["build/kvick", "pool", "status", "--json", "--socket", path])
        return json.loads(done.stdout)[name] if done.returncode == 0 else None

    def leased():
        return info("leased_chunks")

    args = ["--socket", path, "--size", "256M", "--chunk", "32M", "--trust", "0"]
    assert tb.run(["truncate", "-s", "1M", disk]).returncode == 0
    pool = tb.spawn(["build/kvick", "pool", "serve", *args])
    try:
        until(lambda: leased() == 0, "the pool", 30)
        vm = large_vm(
            ["memwait 200 256", "memtest 160", "echo tested", "memwait 320 384", "memtest 300", "echo full",
             "memwait 100 128", "memwait 200 256"],
            "--memory", "128M", "--mem-device", f"id=m0,max=2G,backing=pool:{path}", "--disk", disk,
        )  # fmt: skip
        vm.expect("kvick-init: user space")
        assert leased() == 0
        vm.resize("m0", 128)
        vm.expect("tested")
        assert leased() == 4
        assert vm.device("m0")["host_bytes"] == 128 * MIB
        done = vm.mem("--timeout", "2", "m0", "requested=384M")
        assert done.returncode == 1, done
        assert "m0: 256M of 384M plugged; the host refused" in text(done.stderr), done
        vm.expect("full")
        assert leased() == 8
        vm.resize("m0", 0)
        assert leased() == 0
        vm.release("m0", 128)
        vm.end(8)
        until(lambda: info("free_chunks") == 8, "cleaning", 30)
        assert info("renewed_bytes") >= 8 * 32 * MIB
        assert info("cleaned_bytes") == 0
    finally:
        tb.run(["rm", "-f", disk])
        pool.kill(signal.SIGTERM)
        pool.wait(20)


@pytest.mark.limit(100)
def test_signals_end_it(large_vm):
    """With memory plugged and changing."""
    vm = large_vm(["memtest all", "sleep 20000"], "--memory", "128M", "--mem-device", "id=m0,max=4G")
    vm.expect("kvick-init: user space")
    assert vm.mem("--no-wait", "m0", "requested=2G").returncode == 0
    vm.expect("memtest: ")
    vm.job.kill(signal.SIGTERM)
    assert vm.job.wait(20).returncode == 128 + signal.SIGTERM
