# SPDX-License-Identifier: Apache-2.0
"""How much a pool may be and may give: its size, the host's memory, control groups, users' limits, and what
`kvick pool serve` refuses."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nobody import as_user, needs_root, open_path
from pools import (  # noqa: F401 (pool_factory is a fixture)
    CHUNK, LEASE, MIB, TRUST, WAIT, Client, Refused, message, pool_factory, punch, zero,
)  # fmt: skip
from vm import until


def test_sizes(serve):
    """grow, shrink and drain, by the program."""
    pool = serve()
    assert pool.do("grow", "6M").returncode == 0
    assert pool.until(lambda i: i["free_chunks"] == 18)["size_bytes"] == 18 * CHUNK
    client = Client(pool.path).lease(10 * CHUNK)
    assert pool.do("shrink", "40M").returncode == 0
    pool.until(lambda i: i["free_chunks"] == 0 and not i["cleaning_chunks"])
    assert pool.info()["leased_chunks"] == 10
    client.close()
    assert pool.until(lambda i: i["free_chunks"] == 8)["target_chunks"] == 8
    assert pool.do("drain").returncode == 0
    pool.until(lambda i: not i["free_chunks"] and not i["cleaning_chunks"])
    with pytest.raises(Refused) as refused, Client(pool.path) as client:
        client.lease(CHUNK)
    assert refused.value.errno == 28  # ENOSPC
    assert pool.do("grow", "4M").returncode == 0
    pool.until(lambda i: i["free_chunks"] == 1)
    status = pool.do("status")
    assert "1 free" in status.stdout
    second = pool.do("serve", "--size", "4M", "--chunk", "4M")
    assert second.returncode == 1 and "already" in second.stderr
    assert pool.stop() == 0
    assert not os.path.exists(pool.path)
    late = pool.do("status")
    assert late.returncode == 1 and pool.path in late.stderr


def test_growing_too_far(serve):
    """What the host can never hold, or the server not open, is refused, and nothing changes."""
    files = 1024 + 64 + 2 * 4
    pool = serve(
        *("--size", "64M", "--chunk", "64M"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    for size, text in ((f"{host}M", "the pool's host has"), ("256M", "enough descriptors")):
        done = pool.do("grow", size)
        assert done.returncode == 1 and text in done.stderr, done
        assert done.stderr.count("\n") == 1
    done = pool.do("grow", "99999999T")
    assert done.returncode == 2 and "SIZE 99999999T: out of range" in done.stderr, done
    assert pool.do("grow", "192M").returncode == 0
    assert pool.until(lambda i: i["free_chunks"] == 4)["target_chunks"] == 4


def test_asked_of_a_server_that_is_stopped(serve):
    """It is said that what was asked may still come, as it then does."""
    pool = serve()
    pool.kill(signal.SIGSTOP)
    done = pool.do("grow", "4M")
    assert done.returncode == 1 and "does what was asked when it goes on" in done.stderr, done
    pool.kill(signal.SIGCONT)
    pool.until(lambda i: i["free_chunks"] == 17)


@pytest.fixture(name="group")
def memory_group():
    """A control group of 96 MiB: its folder and the file with the limit."""
    tops = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")
    path = Path(next((p for p in tops if Path(p, "cgroup.procs").exists()), "/none"), "kvick-test-pool")
    try:
        path.mkdir()
    except OSError as e:
        pytest.skip(f"no control group can be made: {e}")
    try:
        limit = next((path / n for n in ("memory.limit_in_bytes", "memory.max") if (path / n).exists()), None)
        if not limit:
            pytest.skip("the memory controller is not enabled")
        limit.write_text(str(96 * MIB))
        yield path, limit
    finally:
        path.rmdir()


def entering(group):
    """For preexec_fn: puts the process into the control group."""
    return lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


@pytest.mark.plain  # a sanitizer has memory of its own
def test_control_group(kvick, group, tmp_path):
    """What the server's group may not have is missing; nobody is killed, and the rest serves."""
    path, limit = group
    script = f'echo $$ > {path}/cgroup.procs && exec "$@"'
    args = ["--socket", tmp_path / "sock", "--size", "256M", "--chunk", "16M", "--threads", "2"]
    with subprocess.Popen(
        ["sh", "-c", script, "sh", kvick, "pool", "serve", *args], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            said = server.stderr.readline()
            assert "the pool is short of memory and goes on trying: a chunk" in said, said
            assert "kvick-test-pool has room for" in said and "limit of 96 MiB" in said, said

            def free():
                done = subprocess.run(
                    [kvick, "pool", "status", "--json", "--socket", tmp_path / "sock"],
                    capture_output=True, check=True,
                )  # fmt: skip
                info = json.loads(done.stdout)
                return info["free_chunks"] if not info["filling_chunks"] else 0

            until(lambda: 1 <= free() <= 6, "chunks")
            chunks = free()
            with Client(str(tmp_path / "sock")).lease(16 * MIB) as client:
                assert len(client.fds) == 1
            until(lambda: free() == chunks, "the lease's end")
            # A smaller pool gives up first what it does not have.
            subprocess.run([kvick, "pool", "shrink", "160M", *args[:2]], check=True)
            with Client(str(tmp_path / "sock")).lease(chunks * 16 * MIB, 0) as client:
                assert len(client.fds) == chunks
            subprocess.run([kvick, "pool", "grow", "160M", *args[:2]], check=True)
            limit.write_text(str(512 * MIB))
            until(lambda: free() == 16, "all chunks", 20)
        finally:
            server.terminate()
        assert server.wait(20) == 0


def one_chunk():
    """What as_user() runs: a lease of one chunk without waiting for it; 0 or errno."""
    try:
        with Client(one_chunk.path).lease(CHUNK, 0):
            return 0
    except Refused as refused:
        return refused.errno


@pytest.mark.plain  # a sanitizer has memory of its own
def test_holes_that_others_filled(group, serve):
    """Memory that a client gave back, and somebody has taken, is not taken away again: it is missing."""
    enter = entering(group[0])
    pool = serve(*TRUST, preexec_fn=enter)
    client = Client(pool.path).lease(16 * CHUNK)
    for fd in client.fds:
        punch(fd)
    script = f"memory = b'x' * {64 * MIB}; print('there', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=enter
    ) as other:
        assert other.stdout.readline() == b"there\n"
        client.close()
        pool.until(lambda i: i["missing_chunks"] and not i["cleaning_chunks"])
        assert other.poll() is None
        other.stdin.write(b"\n")
        other.stdin.close()
        assert other.wait(20) == 0
    pool.quiet()
    with Client(pool.path).lease(16 * CHUNK) as client:
        assert zero(client.maps())
    assert pool.stop() == 0


@needs_root
@pytest.mark.plain  # a sanitizer has memory of its own
def test_chunks_that_do_not_return(group, serve, tmp_path):
    """Chunks for which the kernel has no memory after a lease count for who had them: that user gets no
    others instead, and waits for them without being in the way of other users."""
    path, limit = group
    used = next(n for n in ("memory.usage_in_bytes", "memory.current") if (path / n).exists())
    open_path(tmp_path)
    pool = serve(
        *("--size", "16M", "--chunk", "4M", "--user-limit", "8M", "--allow", "65533"),
        preexec_fn=entering(path),
    )
    one_chunk.path = pool.path
    holder = Client(pool.path).lease(2 * CHUNK)
    # Room for neither of the two, not even when both have been given back.
    stat_lines = (line.split() for line in (path / "memory.stat").read_text().splitlines())
    files = sum(int(n) for name, n in stat_lines if name in ("active_file", "inactive_file"))
    limit.write_text(str(int((path / used).read_text()) - files + 2 * MIB))
    holder.close()
    pool.until(lambda i: i["missing_chunks"] == 2)
    assert pool.info()["free_chunks"] == 2
    assert one_chunk() == 11  # EAGAIN
    assert as_user(65533, one_chunk) == 0
    waiting = Client(pool.path)
    waiting.send(message(LEASE, WAIT, size=2 * CHUNK))
    pool.until(lambda i: i["waiting"] == 1)
    # Its turn to keep others out would begin now, if what it waits for were the pool's to give.
    time.sleep(2.2)
    assert as_user(65533, one_chunk) == 0
    limit.write_text(str(96 * MIB))
    waiting.answer()
    waiting.close()
    pool.quiet()
    assert pool.stop() == 0


def test_user_limit(serve):
    pool = serve("--user-limit", "16M")
    with Client(pool.path).lease(3 * CHUNK):
        with pytest.raises(Refused) as refused, Client(pool.path) as other:
            other.lease(2 * CHUNK)
        assert refused.value.errno == 122  # EDQUOT
        assert refused.value.size == 16 * MIB
        assert pool.info()["refused_limit"] == 1
        with Client(pool.path).lease(CHUNK):
            pass
    info = pool.quiet()
    assert (info["refused_limit"], info["refused_message"]) == (1, 0)


@pytest.mark.parametrize(
    "args,status,text",
    [
        (("--size", "64M", "--page-size", "8K"), 1, "4K, 2M or 1G"),
        (("--size", "5M", "--chunk", "4M"), 1, "multiple"),
        (("--size", "900G"), 1, "the host has only"),
        (("--size", "900G", "--page-size", "2M"), 1, "nr_hugepages"),
        (("--size", "4M", "--chunk", "4M", "--node", "1000"), 1, "--node 1000: memory cannot be bound"),
        (("--size", "2M", "--chunk", "2M", "--page-size", "2M", "--node", "1000"), 1, "memory on node 0"),
        (("--size", "64M", "--user-limit", "3M", "--chunk", "4M"), 1, "user limit 3M: at least a chunk of 4M"),
        (("--size", "64M", "--user-limit", "0"), 2, "--user-limit 0"),
        (("--size", "64M", "--chunk", "0"), 2, "--chunk 0"),
        (("--size", "x"), 2, '--size: "x" is not a size'),
        (("--size", "99999999T"), 2, '--size: "99999999T" is out of range'),
        (("--size", "64M", "--allow", "no-such-user"), 2, "no such user"),
        (("--size", "64M", "--threads", "0"), 2, "1 to 64"),
        ((), 2, "--size is missing"),
    ],
)
def test_serve_errors(kvick, tmp_path, args, status, text):
    result = subprocess.run(
        [kvick, "pool", "serve", "--socket", str(tmp_path / "sock"), *args],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == status
    assert text in result.stderr
    assert not (tmp_path / "sock").exists()


def test_descriptors(kvick, tmp_path):
    """Too few descriptors: what they are for is said, and fewer clients help."""
    script = 'ulimit -n 1024; exec "$@"'
    argv = ["sh", "-c", script, "sh", kvick, "pool", "serve", "--socket", str(tmp_path / "sock")]
    argv += ["--size", "4M", "--chunk", "4M"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1 and "for 1 chunks (2 each) and 1024 clients" in done.stderr, done
    with subprocess.Popen([*argv, "--clients", "900"]) as server:
        try:
            until((tmp_path / "sock").exists, "the socket")
        finally:
            server.terminate()
        assert server.wait(20) == 0


@pytest.mark.parametrize("verb", [("serve", "--size", "4M"), ("status",), ("drain",)])
def test_no_path(kvick, verb):
    done = subprocess.run(
        [kvick, "pool", *verb, "--socket", ""], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2 and "--socket: the path is empty" in done.stderr, done
