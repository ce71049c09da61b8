# SPDX-License-Identifier: Apache-2.0
"""kvick pool: nothing of one lease is in the next, whatever becomes of clients and server; hostile
clients are refused; nothing grows. The clients here speak the protocol of docs/pool.md."""

import array
import ctypes
import json
import mmap
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import time

import pytest

from hugepages import HUGE, some_huge_pages  # noqa: F401 (a fixture)
from nobody import NOBODY, as_user, needs_root, open_kvick, open_path  # noqa: F401 (a fixture)
from pools import (  # noqa: F401 (pool_factory is a fixture)
    ALL_MODES, CHUNK, FETCH, GRANT, GROW, LAZY, LEASE, MIB, MODES, QUIET, RENEW, STATUS, TRUST, WAIT,
    WROTE, Client, Refused, message, pool_factory, punch, zero,
)  # fmt: skip
from vm import until



@pytest.fixture(name="pool", params=list(MODES))
def pool_of_mode(serve, request):
    """A pool that renews, and one that cleans in place."""
    return serve(*MODES[request.param])


@pytest.fixture(name="any_pool", params=list(ALL_MODES))
def pool_of_any_mode(serve, request):
    """Also one that cleans in place and reads everything again."""
    return serve(*ALL_MODES[request.param])


def writer(path, size):
    """A process that leases and writes a pattern over and over, until it is killed."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        # It does not outlive the test, however that ends.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
        client = Client(path).lease(size)
        maps = client.maps()
        pattern = os.urandom(256).replace(b"\0", b"\1") * 256
        while True:
            for m in maps:
                for at in range(0, CHUNK, len(pattern)):
                    m[at : at + len(pattern)] = pattern
    finally:
        os._exit(1)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def disturb(pool, rng):
    """What may happen to a server."""
    what = rng.randrange(8)
    if what == 0:
        pool.kill(signal.SIGSTOP)
        time.sleep(rng.random() * 0.02)
        pool.kill(signal.SIGCONT)
    elif what == 1:
        pool.stop(signal.SIGKILL)
        pool.start()
    elif what == 2:
        assert pool.stop() == 0
        pool.start()


def killed_rounds(pool, rounds, seed=1):
    """Writers are killed at random moments, the server is stopped and restarted; all that is leased
    next is zero."""
    rng = random.Random(seed)
    for _ in range(rounds):
        writers = [writer(pool.path, rng.randrange(1, 6) * CHUNK) for _ in range(2)]
        try:
            time.sleep(rng.random() ** 3 * 0.1)
            kill(writers.pop(rng.randrange(2)))
            disturb(pool, rng)
            # The first leases while others write, the last takes everything.
            with Client(pool.path).lease(rng.randrange(1, 5) * CHUNK) as client:
                assert zero(client.maps())
        finally:
            while writers:
                kill(writers.pop())
        with Client(pool.path).lease(16 * CHUNK) as client:
            maps = client.maps()
            assert len(maps) == 16 and zero(maps)
            # Unmapped, too: a chunk that somebody still has is never cleaned in place.
            for m in maps:
                m[:] = b"\xa5" * CHUNK
                m.close()
    pool.quiet()


def test_killed(any_pool):
    killed_rounds(any_pool, 5)


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.limit(20000)
@pytest.mark.parametrize("mode", ALL_MODES)
def test_killed_huge_pages(serve, mode, request):
    """As above with pages of 2 MiB, N rounds with --soak N; all of them are back in the end."""
    before = int((HUGE / "free_hugepages").read_text())
    pool = serve("--size", "64M", "--chunk", "4M", "--page-size", "2M", *ALL_MODES[mode])
    assert int((HUGE / "free_hugepages").read_text()) == before - 32
    rounds = request.config.getoption("--soak")
    killed_rounds(pool, rounds if rounds > 10 else 5, seed=time.time_ns())
    assert pool.stop() == 0
    assert int((HUGE / "free_hugepages").read_text()) == before


@pytest.mark.usefixtures("huge_pages")
def test_image_info(kvick, flat, serve):
    """Only the pool knows what its pages are; without one they are taken to be small, and that is said."""
    pool = serve("--size", "16M", "--chunk", "4M", "--page-size", "2M")

    def info(backing):
        args = [kvick, "image", "info", "--json", "--memory", f"1G,backing={backing}", flat / "worker.pvh.elf"]
        return subprocess.run(args, capture_output=True, text=True, check=True)

    asked, huge, none = info(f"pool:{pool.path}"), info("hugetlb-2m"), info("pool:/nowhere")
    small = [json.loads(done.stdout)["small_page_bytes"] for done in (asked, huge, none)]
    assert small[0] == small[1] > 0 == small[2]
    assert asked.stderr == "" and "no pool answers at /nowhere" in none.stderr


@pytest.mark.limit(20000)
def test_killed_soak(any_pool, request):
    """As above, N - 10 rounds with --soak N."""
    rounds = max(0, request.config.getoption("--soak") - 10)
    if not rounds:
        pytest.skip("only with --soak over 10")
    killed_rounds(any_pool, rounds, seed=time.time_ns())


def test_memory_outlives_server(pool):
    """A machine goes on with its memory when the server ends or is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        client = Client(pool.path).lease(3 * CHUNK)
        maps = client.maps()
        for i, m in enumerate(maps):
            m[:] = bytes([i + 1]) * CHUNK
        pool.stop(number)
        pool.start()
        with Client(pool.path).lease(16 * CHUNK) as other:
            assert zero(other.maps())
        for i, m in enumerate(maps):
            assert m[:] == bytes([i + 1]) * CHUNK
        client.close()


def test_held(pool):
    """What a process keeps of a lease is nothing of the next one's."""
    client = Client(pool.path).lease(16 * CHUNK)
    kept_fd, kept_map = os.dup(client.fds[0]), mmap.mmap(client.fds[1], CHUNK)
    kept_map[:] = b"\1" * CHUNK
    child_read, parent_write = os.pipe()
    child = os.fork()
    if child == 0:
        # Keeps all descriptors, but not the connection.
        client.sock.close()
        os.close(parent_write)
        os.read(child_read, 1)
        for fd in client.fds:
            if any(os.pread(fd, CHUNK, 0)):
                os._exit(1)
            os.pwrite(fd, b"\2" * CHUNK, 0)
        os._exit(0)
    client.close()
    with Client(pool.path).lease(16 * CHUNK) as other:
        maps = other.maps()
        assert zero(maps)
        for m in maps:
            m[:] = b"\3" * CHUNK
        os.write(parent_write, b"x")
        assert os.waitpid(child, 0)[1] == 0
        assert b"\3" not in kept_map[:] and b"\3" not in os.pread(kept_fd, CHUNK, 0)
        os.pwrite(kept_fd, b"\4" * CHUNK, 0)
        kept_map[:] = b"\4" * CHUNK
        assert all(m[:] == b"\3" * CHUNK for m in maps)
    for fd in (child_read, parent_write, kept_fd):
        os.close(fd)
    pool.quiet()


def test_report_of_no_pages(pool):
    """Who says that it wrote none is believed no more than others, and is no reason to stumble."""
    with Client(pool.path).lease(CHUNK) as client:
        client.maps()[0][:] = b"\1" * CHUNK
        client.send(message(WROTE, count=0))
    pool.quiet()
    with Client(pool.path).lease(16 * CHUNK) as other:
        assert zero(other.maps())


@pytest.mark.parametrize(("args", "flags"), [((), WAIT), (TRUST, WAIT | RENEW)], ids=["renew", "trusted"])
def test_pages_in_pipes(serve, args, flags):
    """splice() puts the file's own pages into a pipe, as a disk's request has them that its process
    did not wait for: they are not the next lease's."""
    pool = serve(*args)
    client = Client(pool.path).lease(16 * CHUNK, flags)
    read, write = os.pipe()
    client.maps()[0][:] = b"\1" * CHUNK
    assert os.splice(client.fds[0], write, 8192, offset_src=0) > 0
    client.close()
    with Client(pool.path).lease(16 * CHUNK) as other:
        for m in other.maps():
            m[:] = b"\3" * CHUNK
        assert set(os.read(read, 8192)) <= {0, 1}
    os.close(read)
    os.close(write)


def test_holes(pool):
    """A client may take pages out of its chunks; the next one has all of them."""
    with Client(pool.path).lease(16 * CHUNK) as client:
        for fd in client.fds:
            punch(fd)
    with Client(pool.path).lease(16 * CHUNK) as client:
        for fd in client.fds:
            assert os.fstat(fd).st_blocks * 512 >= CHUNK
        assert zero(client.maps())


@pytest.mark.plain
@pytest.mark.limit(20000)
@pytest.mark.plain  # a sanitizer's own memory grows
def test_steady(pool, request):
    """Leases and random writes without end: nothing grows. 500 leases with --soak 500."""
    rng = random.Random(2)
    before = None
    for i in range(max(60, request.config.getoption("--soak"))):
        with Client(pool.path).lease(8 * CHUNK) as client:
            for m in client.maps():
                for _ in range(20):
                    m[rng.randrange(CHUNK)] = 255
        if i == 20:
            pool.quiet()
            before = pool.usage()
    after = pool.settled(before)
    # Stacks and the allocator's own, but not a page for each lease.
    assert after[2] - before[2] < 128


def test_waiting(pool):
    """First come, first served, also when some of those who wait give up."""
    waiting = [Client(pool.path) for _ in range(10)]
    with Client(pool.path).lease(16 * CHUNK):
        for client in waiting:
            client.send(message(LEASE, WAIT, size=16 * CHUNK))
        pool.until(lambda i: i["waiting"] == 10)
        with pytest.raises(Refused) as refused, Client(pool.path) as other:
            other.lease(CHUNK, 0)
        assert refused.value.errno == 11  # EAGAIN
        for client in waiting[::2]:
            client.close()
        pool.until(lambda i: i["waiting"] == 5)
    for client in waiting[1::2]:
        client.answer()
        assert zero(client.maps())
        client.close()
    pool.quiet()


def passes(pool, free):
    """Whether a request for one chunk that does not wait is served when FREE chunks are free."""
    pool.until(lambda i: i["free_chunks"] == free)
    client = Client(pool.path)
    try:
        return client.lease(CHUNK, 0)
    except Refused as refused:
        assert refused.errno == 11  # EAGAIN
        client.close()
        return None


def test_waiting_for_much(serve):
    """Who waits for more than is free lets others pass for a while, then not, then again."""
    pool = serve("--size", "16M", "--chunk", "4M")
    holder = Client(pool.path).lease(2 * CHUNK)
    waiting = [Client(pool.path) for _ in range(2)]
    for n, chunks in enumerate((3, 1)):
        waiting[n].send(message(LEASE, WAIT, size=chunks * CHUNK))
        pool.until(lambda i, n=n: i["waiting"] == n + 1)

    def passing():
        if client := passes(pool, 2):
            client.close()
        return client is not None

    for wanted in (True, False, True):
        until(lambda w=wanted: passing() == w, f"passing: {wanted}")
    holder.close()
    # Among themselves they come in order.
    for client in waiting:
        client.answer()
        assert zero(client.maps())
        client.close()
    pool.quiet()


def test_waiting_for_all(serve):
    """Leases that follow each other without a gap do not starve who waits for all."""
    pool = serve("--size", "16M", "--chunk", "4M")
    held = [Client(pool.path).lease(CHUNK) for _ in range(2)]
    waiting = Client(pool.path)
    waiting.send(message(LEASE, WAIT, size=4 * CHUNK))
    pool.until(lambda i: i["waiting"])
    passed, end = 0, time.monotonic() + 60
    while held:
        assert time.monotonic() < end
        if client := passes(pool, 4 - len(held)):
            held.append(client)
            passed += 1
        held.pop(0).close()
    assert passed
    waiting.answer()
    waiting.close()
    pool.quiet()


def test_bad_messages(serve):
    """Each is answered with an error and the end, and counted; descriptors do not stay."""
    pool = serve()
    before = pool.usage()
    good = message(LEASE, size=CHUNK)
    bad = [
        b"x",
        good[:-1],
        good + b"\0",
        b"\0" * 48,
        b"\xff" * 4000,
        b"\xff" * 100000,
        message(LEASE, size=0),
        message(LEASE, flags=8, size=CHUNK),
        message(LEASE, size=CHUNK, magic=1),
        message(LEASE, size=CHUNK, version=2),
        message(0),
        message(QUIET),
        message(QUIET, flags=1),
        message(10),
        message(GRANT, size=CHUNK),
        message(FETCH),
        message(WROTE, count=1) + struct.pack("=II", 0, 1),
        message(STATUS, size=1),
    ]
    rng = random.Random(3)
    bad += [rng.randbytes(rng.randrange(1, 200)) for _ in range(200)]
    for packet in bad:
        with Client(pool.path) as client:
            client.send(packet)
            with pytest.raises((Refused, ConnectionResetError)):
                client.answer()
    # Descriptors that are passed in
    fds = array.array("i", [0, 1, 2])
    with Client(pool.path) as client:
        client.sock.sendmsg([good], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        with pytest.raises(Refused):
            client.answer()
    # Out of place: two leases, a chunk twice, one that is not there, spans outside
    spans = [struct.pack("=II", 0, 0), struct.pack("=II", 1023, 2), b"\xff" * 8]
    for packets in [[message(LEASE, size=CHUNK)], [message(FETCH, index=1)]] + [
        [message(WROTE, count=1) + span] for span in spans
    ]:
        with Client(pool.path).lease(CHUNK) as client:
            client.send(packets[0])
            with pytest.raises(Refused):
                client.answer()
    with Client(pool.path).lease(2 * CHUNK, LAZY) as client:
        client.send(message(FETCH, index=1))
        client.answer()
        client.send(message(FETCH, index=1))
        with pytest.raises(Refused):
            client.answer()
    info = pool.quiet()
    assert info["refused_message"] >= len(bad) + 5
    pool.settled(before)


def test_floods(serve):
    """Connections without end, requests without end, and one who never reads: others are served."""
    pool = serve("--clients", "40")
    before = pool.usage()
    crowd = []
    refused = 0
    for _ in range(100):
        client = Client(pool.path)
        crowd.append(client)
    for client in crowd[30:]:
        try:
            client.send(message(STATUS))
            client.answer()
        except (Refused, ConnectionResetError, BrokenPipeError):
            refused += 1
    assert refused >= 60
    for client in crowd:
        client.close()
    assert pool.quiet()["refused_limit"] >= 60
    deaf = Client(pool.path)
    deaf.sock.settimeout(5)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100000):
            deaf.send(message(STATUS))
    deaf.close()
    with Client(pool.path).lease(16 * CHUNK) as client:
        assert len(client.fds) == 16
    pool.settled(before)


def test_idle_connection(serve):
    """Who asks for nothing is sent away."""
    pool = serve()
    before = pool.usage()
    with Client(pool.path) as client:
        with pytest.raises(Refused) as refused:
            client.answer()
        assert refused.value.errno == 110  # ETIMEDOUT
        assert pool.info()["refused_message"] == 1
    pool.settled(before)


@needs_root
def test_users(serve, open_kvick, tmp_path):  # noqa: F811
    """Users who are not allowed get nothing; those who are cannot rule; memory changes users only by
    way of the kernel."""
    open_path(tmp_path)
    pool = serve("--allow", "65533", "--trust", "0", "--trust", "nobody")
    path = pool.path

    def lease():
        try:
            with Client(path).lease(16 * CHUNK) as client:
                maps = client.maps()
                if not zero(maps):
                    return 1
                for m in maps:
                    m[:] = b"\5" * CHUNK
                try:
                    os.close(os.open(f"/proc/self/fd/{client.fds[0]}", os.O_RDWR))
                    return 3
                except PermissionError:
                    return 0
        except (Refused, ConnectionResetError, BrokenPipeError):
            return 2

    def grow():
        try:
            with Client(path) as client:
                client.send(message(GROW, size=CHUNK))
                client.answer()
            return 0
        except Refused as refused:
            return refused.errno

    assert as_user(65532, lease) == 2
    assert pool.info()["refused_user"] == 1
    assert as_user(65533, grow) == 1  # EPERM
    assert as_user(65534, lease) == 0
    cleaned = pool.quiet()
    assert cleaned["cleaned_bytes"] == 16 * CHUNK
    # Others' chunks are renewed, also those that are clean.
    assert as_user(65533, lease) == 0
    assert pool.quiet()["renewed_bytes"] == cleaned["renewed_bytes"] + 32 * CHUNK


@needs_root
def test_others_who_do_not_wait(serve, tmp_path):
    """A trusted user has touched all chunks and has none: another one who does not wait is refused
    once, and gets the chunks when they are renewed; no more of them than were asked for."""
    open_path(tmp_path)
    pool = serve("--trust", "0", "--allow", "65533")
    with Client(pool.path).lease(16 * CHUNK):
        pass
    before = pool.quiet()

    def lease():
        try:
            with Client(pool.path).lease(3 * CHUNK, 0) as client:
                return len(client.fds)
        except Refused as refused:
            return refused.errno

    assert as_user(65533, lease) == 11  # EAGAIN
    assert pool.quiet()["renewed_bytes"] == before["renewed_bytes"] + 3 * CHUNK
    assert as_user(65533, lease) == 3
    assert pool.quiet()["renewed_bytes"] == before["renewed_bytes"] + 6 * CHUNK


@pytest.mark.parametrize("kind", ["file", "fifo", "symlink", "device"])
def test_socket_is_no_socket(kvick, tmp_path, kind):
    """What is at --socket and is no socket stays as it is, and nothing is left beside it."""
    path, other = tmp_path / "at" / "disk.img", tmp_path / "other"
    path.parent.mkdir()
    if kind == "file":
        path.write_bytes(b"precious")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(other))
        path.symlink_to(other)
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no right to make device nodes")
    before = path.lstat(), sorted(path.parent.iterdir())
    result = subprocess.run(
        [kvick, "pool", "serve", "--size", "4M", "--chunk", "4M", "--socket", path],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert f"{path} exists and is no socket; it is left alone" in result.stderr
    after = path.lstat(), sorted(path.parent.iterdir())
    assert (before[0].st_mode, before[0].st_ino) == (after[0].st_mode, after[0].st_ino)
    assert before[1] == after[1]
    if kind == "file":
        assert path.read_bytes() == b"precious"


def test_socket_of_another(kvick, tmp_path):
    """A socket where another program listens is left alone; a dead one is replaced."""
    path = tmp_path / "sock"
    args = [kvick, "pool", "serve", "--size", "4M", "--chunk", "4M", "--socket", path]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        result = subprocess.run(args, capture_output=True, text=True, timeout=20, check=False)
        assert result.returncode == 1 and "another program's socket" in result.stderr
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
    with subprocess.Popen(args, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: not subprocess.run([*args[:2], "status", "--socket", path],
                                             capture_output=True, check=False).returncode, "a server")
        finally:
            server.terminate()
        assert server.wait(20) == 0


def test_socket_of_the_next(kvick, tmp_path):
    """A server that ends takes away its own socket, not that of who took its place."""
    path = tmp_path / "sock"
    args = [kvick, "pool", "serve", "--size", "4M", "--chunk", "4M", "--socket", path]

    def answering():
        status = [*args[:2], "status", "--json", "--socket", path]
        done = subprocess.run(status, capture_output=True, timeout=20, check=False)
        return json.loads(done.stdout)["pid"] if not done.returncode else None

    with subprocess.Popen(args, stderr=subprocess.DEVNULL) as first:
        until(answering, "a server")
        path.unlink()
        with subprocess.Popen(args, stderr=subprocess.DEVNULL) as second:
            until(lambda: answering() == second.pid, "the second")
            first.terminate()
            assert first.wait(20) == 0
            assert answering() == second.pid
            second.terminate()
            assert second.wait(20) == 0
    assert not path.exists()


@needs_root
def test_ordinary_user(serve, open_kvick, tmp_path):  # noqa: F811
    """The server needs no privileges."""
    open_path(tmp_path)
    os.chown(tmp_path, 65534, 65534)
    pool = serve("--trust", "65534", kvick=open_kvick, **NOBODY)
    with Client(pool.path).lease(16 * CHUNK) as client:
        for m in client.maps():
            m[:] = b"\5" * CHUNK
    with Client(pool.path).lease(16 * CHUNK) as client:
        assert zero(client.maps())
    pool.quiet()


@needs_root
def test_after_another_user(serve, open_kvick, tmp_path):  # noqa: F811
    """What another user's server left beside its socket is named."""
    open_path(tmp_path)
    os.chown(tmp_path, 65534, 65534)
    pool = serve()
    assert pool.stop() == 0
    args = [open_kvick, "pool", "serve", "--size", "4M", "--chunk", "4M", "--socket", pool.path]
    done = subprocess.run(args, capture_output=True, text=True, timeout=20, check=False, **NOBODY)
    assert done.returncode == 1
    assert done.stderr.startswith(f"kvick pool serve: {pool.path}.lock is another user's"), done.stderr


def test_systemd(kvick, tmp_path):
    """Socket activation and the message that it is ready."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(tmp_path / "sock"))
    listening.listen()
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(20)
    pid = os.fork()
    if pid == 0:
        os.dup2(listening.fileno(), 3)
        os.set_inheritable(3, True)
        env = dict(os.environ, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        os.execve(kvick, ["kvick", "pool", "serve", "--size", "16M", "--chunk", "4M"], env)
    assert notify.recv(100) == b"READY=1"
    with Client(str(tmp_path / "sock")).lease(4 * CHUNK) as client:
        assert zero(client.maps())
    os.kill(pid, signal.SIGTERM)
    assert notify.recv(100) == b"STOPPING=1"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    listening.close()
    notify.close()
    assert (tmp_path / "sock").exists()


def figures_of(node):
    """All figures below @node."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return []
    if "values" in node:
        return [node]
    return [figure for child in node.values() for figure in figures_of(child)]


def bench_pool(kvick, path, *args, size="32M"):
    args = [kvick, "bench", "pool", "--size", size, "--json", *args]
    result = subprocess.run(args, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    path.write_text(result.stdout)
    return json.loads(result.stdout)


def test_bench(kvick, tmp_path):
    doc = bench_pool(kvick, tmp_path / "a", "--rounds", "2")
    assert doc["kind"] == "pool"
    assert set(doc) == {"kind", "kvick", "host", "noise", "result"}
    result = doc["result"]
    assert (result["size_bytes"], result["rounds"]) == (32 * MIB, 2)
    assert len(result["chunks"]) == 13
    for figure in result["chunks"].values():
        assert figure["count"] == len(figure["values"]) == 2
        assert 0 < figure["min"] <= figure["median"] <= figure["p99"]
    assert result["leases"][-1]["bytes"] == 32 * MIB
    for figure in figures_of(doc):
        assert set(figure) == {"min", "median", "p99", "mad", "count", "values"}
        assert figure["count"] == len(figure["values"]) > 0
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        machines = result["machines"]
        assert machines["start"]["lease"]["boot_ms"]["min"] > 0
        # What is mapped before the guest runs it need not wait for.
        faults = {kind: row["minor_faults"]["median"] for kind, row in machines["write"].items()}
        assert faults["lease"] > machines["pages"] / 2
        assert faults["lease_mapped"] < machines["pages"] / 10


@pytest.mark.usefixtures("kvm_host")
def test_bench_starts(kvick, tmp_path):
    """Start against size: parts of the pool that are smaller than 128 MiB are left out."""
    doc = bench_pool(kvick, tmp_path / "a", "--rounds", "2", "--only", "starts", size="512M")
    starts = doc["result"]["machines"]["start"]
    assert set(starts) == {"anon_128m", "anon", "lease", "lease_half", "lease_quarter"}
    assert all(figure["count"] == 2 and figure["min"] > 0 for figure in figures_of(starts))


def test_bench_compare(kvick, tmp_path):
    """Two of its documents can be compared: of rates more is better, of times less."""
    args = ("--rounds", "1", "--only", "chunks", "--threads", "3")
    doc = bench_pool(kvick, tmp_path / "as-measured", *args)
    assert "machines" not in doc["result"] and doc["result"]["threads"] == 3
    for name, scale in ("a", 1), ("b", 2):
        for figure in figures_of(doc):
            figure["values"] = [scale * (100 + i) for i in range(9)]
            figure["median"] = scale * 104
        (tmp_path / name).write_text(json.dumps(doc))
    args = [kvick, "bench", "compare", "--json", tmp_path / "a", tmp_path / "b"]
    rows = json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout)
    verdicts = {row["figure"]: row["verdict"] for row in rows}
    assert len(rows) == len(verdicts) == len(figures_of(doc))
    for name, verdict in verdicts.items():
        assert verdict == ("better" if name.endswith("gb_s") else "worse"), name
    assert {"chunks > clean_gb_s", "leases > 32M > lease_us"} < set(verdicts)
