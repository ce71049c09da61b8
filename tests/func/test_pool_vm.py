# SPDX-License-Identifier: Apache-2.0
"""Machines that lease their memory from a pool: nothing of one is in the next, however they end;
the pool cleans what they wrote; nothing grows. Huge pages in the emulated host."""

import errno
import fcntl
import os
import random
import re
import signal
import socket
import termios
import time

import pytest
from hugepages import emulated_huge_pages
from places import Emulated
from pools import (  # noqa: F401 (pool_factory is a fixture)
    ALL_MODES, ERROR, GRANT, MIB, MODES, TRUST, Client, message, pool_factory, zero,
)  # fmt: skip
from vm import OK, START, Vm, run, until

PAGE = 4096
# Guests write from here on.
FIRST = 16 * MIB


def memory(pool, size="64M", more=""):
    return f"{size},backing=pool:{pool.path},wait=on{more}"


def clean_guest(kvick, flat, pool, size="64M"):
    """A guest leases and finds nothing but zeros, byte for byte, and writes to every page."""
    pages = (int(size[:-1]) * MIB - FIRST) // PAGE
    done = run(
        kvick, "--memory", memory(pool, size), "--append", f"worker={FIRST},{pages} zero",
        flat / "worker.pvh.elf", timeout=60,
    )  # fmt: skip
    assert done.returncode == OK, done
    assert f"worker done {pages}" in done.stdout, done
    return pages


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("kvm_host")
def test_signals_while_waiting(kvick, flat, serve, tmp_path, how):
    """Who waits for the pool ends at a signal that ends a run, in order, and at no other."""
    pool = serve("--size", "64M", "--chunk", "64M")
    sock = tmp_path / "api.sock"
    with Client(pool.path).lease(64 * MIB):
        vm = Vm(kvick, "--memory", memory(pool), "--api-sock", sock, flat / "signal.pvh.elf")
        try:
            pool.until(lambda i: i["waiting"] == 1)
            until(sock.exists, "the socket")
            for other in (signal.SIGUSR1, signal.SIGUSR2):
                vm.signal(other)
            time.sleep(0.2)
            assert vm.process.poll() is None
            vm.signal(how)
            assert vm.wait() == 128 + how
            assert vm.err == "" and not sock.exists()
        finally:
            vm.close()
        pool.until(lambda i: i["waiting"] == 0)


@pytest.fixture(name="fake")
def a_server_that_does_as_it_likes(tmp_path):
    """A listening socket where a pool would be."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(30)
        sock.bind(str(tmp_path / "fake"))
        sock.listen(5)
        yield sock


def unsent(sock):
    """Bytes that the other end has not read."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), "little")


@pytest.mark.parametrize("wait", ["on", "off"])
@pytest.mark.usefixtures("kvm_host")
def test_signals_between_packets(kvick, flat, fake, tmp_path, wait):
    """A server that stalls in the middle of a grant holds nobody."""
    sock = tmp_path / "api.sock"
    where = f"32M,backing=pool:{fake.getsockname()},wait={wait}"
    vm = Vm(kvick, "--memory", where, "--api-sock", sock, flat / "signal.pvh.elf")
    try:
        with fake.accept()[0] as server, open(os.memfd_create("chunk", os.MFD_ALLOW_SEALING)) as file:
            os.ftruncate(file.fileno(), 16 * MIB)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            server.recv(4096)
            grant = message(GRANT, count=1, size=32 * MIB, chunk=16 * MIB, page=PAGE)
            socket.send_fds(server, [grant], [file.fileno()])
            until(lambda: not unsent(server), "the packet was taken")
            vm.signal(signal.SIGINT)
            assert vm.wait() == 130
        assert vm.err == "" and not sock.exists()
    finally:
        vm.close()


@pytest.mark.usefixtures("kvm_host")
def test_refusal_of_who_does_not_read(kvick, flat, fake):
    """A server may say why and close before the request is read: it is heard all the same."""
    vm = Vm(kvick, "--memory", f"32M,backing=pool:{fake.getsockname()}", flat / "signal.pvh.elf")
    try:
        with fake.accept()[0] as server:
            server.recv(1, socket.MSG_PEEK)
            server.send(message(ERROR, error=errno.EACCES))
        assert vm.wait() == START
        assert vm.err == "kvick run: memory: backing=pool: the pool does not serve this user\n"
    finally:
        vm.close()


@pytest.mark.usefixtures("kvm_host")
def test_only_what_was_written_is_cleaned(kvick, flat, serve):
    """The program tells the pool, and a full clean is the fallback."""
    pool = serve("--size", "256M", "--chunk", "64M", *TRUST)

    def cleaned(arg, *more):
        before = pool.quiet()["cleaned_bytes"]
        done = run(kvick, "--memory", memory(pool, "256M"), "--append", arg, *more, flat / "worker.pvh.elf")
        assert done.returncode == OK and "worker done" in done.stdout, done
        bytes_cleaned = pool.quiet()["cleaned_bytes"] - before
        with Client(pool.path).lease(256 * MIB) as client:
            assert zero(client.maps())
        return bytes_cleaned

    some = (256 * MIB - FIRST) // PAGE // 100
    part = cleaned(f"worker={FIRST},{some},100")
    assert cleaned(f"worker={FIRST},{(256 * MIB - FIRST) // PAGE}") > 256 * MIB - FIRST
    if part == 256 * MIB:
        pytest.skip("this kernel or host cannot tell what was written")
    assert some * PAGE <= part < (some + 64) * PAGE
    # An image that was copied is among it, and one that was mapped may be.
    assert cleaned(f"worker={FIRST},{some},100", "--image-map", "copy") < (some + 64) * PAGE
    clean_guest(kvick, flat, pool, "256M")


@pytest.mark.usefixtures("kvm_host")
def test_killed_vm_is_cleaned_whole(start, flat, serve):
    """Who was killed told nothing."""
    pool = serve(*TRUST)
    vm = start("--memory", memory(pool), "--append", f"pages={FIRST},16", flat / "pages.pvh.elf")
    vm.expect("pages ready")
    vm.signal(signal.SIGKILL)
    vm.wait()
    assert pool.quiet()["cleaned_bytes"] == 64 * MIB


@pytest.mark.usefixtures("kvm_host")
def test_killed_vm_with_disk(start, flat, serve, tmp_path):
    """What a disk may still read into is renewed, though this user is trusted; an end in order
    has waited for the disk, and nothing is renewed."""
    pool = serve(*TRUST)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    args = ("--memory", memory(pool), "--disk", f"{disk},direct", flat / "echo.pvh.elf")
    for _ in range(2):
        vm = start(*args)
        vm.expect("echo ready")
        vm.send("q")
        assert vm.wait() == OK
        before = pool.quiet()
        assert before["renewed_bytes"] == 0 and before["cleaned_bytes"] > 0
    vm = start(*args)
    vm.expect("echo ready")
    vm.signal(signal.SIGKILL)
    vm.wait()
    after = pool.quiet()
    assert after["renewed_bytes"] == 64 * MIB
    assert after["cleaned_bytes"] == before["cleaned_bytes"]
    assert after["refused_message"] == 0


@pytest.mark.usefixtures("kvm_host")
def test_stopped_server_is_not_waited_for(start, flat, serve):
    """A machine ends though the pool takes no report; everything is cleaned then."""
    pool = serve(*TRUST)
    vm = start("--memory", memory(pool), flat / "echo.pvh.elf")
    vm.expect("echo ready")
    pool.kill(signal.SIGSTOP)
    vm.send("q")
    assert vm.wait(10) == OK
    pool.kill(signal.SIGCONT)
    pool.quiet()


@pytest.mark.usefixtures("kvm_host")
def test_no_lease(kvick, flat, serve, tmp_path):
    pool = serve()
    for more, text in (
        (f"32M,backing=pool:{tmp_path}/none", "no pool answers"),
        (f"128M,backing=pool:{pool.path}", "the pool has only 64M"),
    ):
        done = run(kvick, "--memory", more, flat / "signal.pvh.elf")
        assert done.returncode == START
        assert "memory: backing=pool: " in done.stderr and text in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1
    with Client(pool.path).lease(16 << 22):
        done = run(kvick, "--memory", f"32M,backing=pool:{pool.path}", flat / "signal.pvh.elf")
        assert done.returncode == START
        assert "short of free chunks at the moment; with wait=on they are waited for" in done.stderr
    pool.quiet()


def disturb(pool, rng):
    what = rng.randrange(8)
    if what == 0:
        pool.kill(signal.SIGSTOP)
        time.sleep(rng.random() * 0.05)
        pool.kill(signal.SIGCONT)
    elif what == 1:
        pool.stop(signal.SIGKILL)
        pool.start()


def killed_rounds(pool, start, flat, rounds, seed):
    """Machines die at random moments: before and during population, while the guest writes, while
    they end; the server is stopped and killed. All that is leased next is zero."""
    rng = random.Random(seed)
    for _ in range(rounds):
        populate = rng.choice(("none", "full", "background", "vcpu"))
        vm = start(
            "--memory", memory(pool, "64M", f",populate={populate}"), "--append", f"worker={FIRST},12000",
            flat / "worker.pvh.elf",
        )  # fmt: skip
        time.sleep(rng.random() ** 2 * 0.2)
        vm.signal(signal.SIGKILL)
        disturb(pool, rng)
        vm.wait()
        vm.close()
        with Client(pool.path).lease(64 * MIB) as client:
            assert zero(client.maps())
    pool.quiet()


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("mode", ALL_MODES)
def test_killed_vms(kvick, start, flat, serve, mode):
    pool = serve(*ALL_MODES[mode])
    killed_rounds(pool, start, flat, 5, seed=4)
    clean_guest(kvick, flat, pool)


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.limit(20000)
@pytest.mark.parametrize("mode", ALL_MODES)
def test_killed_vms_soak(start, flat, serve, mode, request):
    """As above, N rounds with --soak N."""
    rounds = request.config.getoption("--soak")
    if rounds <= 10:
        pytest.skip("only with --soak over 10")
    killed_rounds(serve(*ALL_MODES[mode]), start, flat, rounds, seed=time.time_ns())


@pytest.mark.plain  # a sanitizer's own memory grows
@pytest.mark.usefixtures("kvm_host")
@pytest.mark.limit(20000)
@pytest.mark.parametrize("mode", MODES)
def test_steady_vms(kvick, flat, serve, mode, request):
    """Machine after machine, each writing pages here and there: the server does not grow. 500 leases
    of 256 MiB with --soak 500."""
    rounds = max(24, request.config.getoption("--soak"))
    size = 256 if rounds >= 500 else 32
    pool = serve("--size", f"{size}M", *MODES[mode])
    rng = random.Random(5)
    before = None
    for i in range(rounds):
        stride = rng.randrange(1, 400)
        pages = rng.randrange(1, (size * MIB - FIRST) // PAGE // stride)
        done = run(
            kvick, "--memory", memory(pool, f"{size}M"), "--append", f"worker={FIRST},{pages},{stride} zero",
            flat / "worker.pvh.elf",
        )  # fmt: skip
        assert f"worker done {pages}" in done.stdout, done
        if i == 11:
            pool.quiet()
            before = pool.usage()
    info = pool.quiet()
    assert info["granted"] >= rounds
    after = pool.settled(before)
    # Stacks and the allocator's own, but not a page for each lease.
    assert after[2] - before[2] < 128


class EmulatedPool:
    """A pool in the emulated host."""

    path = "/run/pool.sock"

    def __init__(self, tb, page, size, trust, verify="none"):
        self.linux = Emulated(tb)
        self.tb = tb
        self.argv = [
            "build/kvick", "pool", "serve", "--socket", self.path, "--size", size, "--page-size", page,
            "--chunk", page if page == "1G" else "16M", "--verify", verify,
        ]  # fmt: skip
        self.argv += ["--trust", "0"] if trust else []
        self.start()

    def start(self):
        self.job = self.tb.spawn(self.argv)
        until(lambda: self.info("target_chunks") == self.info("free_chunks"), "the pool's memory", 60)

    def info(self, name):
        done = self.linux.run("build/kvick", "pool", "status", "--json", "--socket", self.path)
        found = re.search(rf'"{name}": (\d+)', done.stdout)
        return int(found[1]) if found else name

    def stop(self, number=signal.SIGTERM):
        self.job.kill(number)
        self.job.wait(30)


@pytest.mark.parametrize("trust", [False, True], ids=["renew", "clean"])
@pytest.mark.parametrize(
    ("page", "kib", "count", "size"), [("2M", 2048, 64, "128M"), ("1G", 1048576, 1, "1G")]
)
def test_huge_pages(fresh_testbed, page, kib, count, size, trust, request):
    """As the tests above with huge pages: guests find zeros after guests that were killed while they
    wrote, with the server killed in between; and all pages are back in the end."""
    linux = Emulated(fresh_testbed)
    rng = random.Random(6)
    # The guest's own first 16 MiB are not looked at.
    worker = f"worker={FIRST},{(128 * MIB - FIRST) // PAGE}"
    args = ("--memory", f"{size},backing=pool:{EmulatedPool.path},wait=on", "--append")
    with emulated_huge_pages(linux, kib, count) as free:
        pool = EmulatedPool(fresh_testbed, page, size, trust)
        try:
            for i in range(max(2, request.config.getoption("--soak") // 10)):
                vm = fresh_testbed.spawn(
                    ["build/kvick", "run", *args, worker, "build/guest/flat/worker.pvh.elf"]
                )
                time.sleep(rng.random() * 0.5)
                vm.kill(signal.SIGKILL)
                vm.wait(30)
                if i % 2:
                    pool.stop(signal.SIGKILL)
                    pool.start()
                done = linux.kvick(*args, f"{worker} zero", "build/guest/flat/worker.pvh.elf")
                assert done.returncode == OK and "worker done" in done.stdout, done
            if page == "2M":
                # Of 64 pages it has all: what is missing for others is said.
                other = fresh_testbed.spawn([*pool.argv[:4], "/run/other.sock", *pool.argv[5:]])
                other.wait_for(b"a chunk of 16M: 8 huge pages of 2M are missing; reserve them: echo 72 > ",
                               stream="stderr")  # fmt: skip
                other.kill()
                other.wait(30)
            until(lambda: pool.info("free_chunks") == pool.info("target_chunks"), "cleaning", 60)
        finally:
            pool.stop()
        assert free() == count


# Settings of a host that let pages leave page tables unseen: path, such a value, the usual one.
LEAVING = [
    ("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise", "never"),
    ("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/shmem_enabled", "always", "never"),
    ("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled", "within_size", "inherit"),
    ("/sys/kernel/mm/numa/demotion_enabled", "true", "false"),
]


def test_hosts_that_hide_what_was_written(testbed):
    """There all is cleaned, since page tables do not tell all that was written; elsewhere, what they
    tell is all that is to be cleaned."""
    linux = Emulated(testbed)
    pool = EmulatedPool(testbed, "4K", "64M", trust=True, verify="all")

    def cleaned(more=""):
        before = pool.info("cleaned_bytes")
        done = linux.kvick(
            "--memory", f"64M,backing=pool:{pool.path},wait=on{more}", "--append", f"worker={FIRST},16",
            "build/guest/flat/worker.pvh.elf",
        )  # fmt: skip
        assert done.returncode == OK and "worker done" in done.stdout, done
        until(lambda: pool.info("free_chunks") == pool.info("target_chunks"), "cleaning", 60)
        return pool.info("cleaned_bytes") - before

    def setting(path, value):
        done = linux.run("sh", "-c", f"echo {value} > {path}")
        assert done.returncode == OK, (path, done)

    try:
        part = cleaned()
        assert 16 * PAGE <= part < 80 * PAGE
        for path, bad, good in LEAVING:
            try:
                setting(path, bad)
                assert cleaned() == 64 * MIB, path
                # Reclaim leaves locked memory alone; making and splitting large pages does not.
                locked = cleaned(",mlock=on")
                assert (locked < 64 * MIB) == ("demotion" in path), path
            finally:
                setting(path, good)
        # Some of it may consist of large pages now.
        assert cleaned() < 64 * MIB
        assert pool.info("verify_failed") == 0
    finally:
        pool.stop()
