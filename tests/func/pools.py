# SPDX-License-Identifier: Apache-2.0
"""A pool's server beside a test, and clients that speak the protocol of docs/pool.md."""

import array
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import time

import pytest

MIB = 1 << 20
CHUNK = 4 * MIB
MSG = struct.Struct("=IHHIIIIQQQ")
MAGIC = 0x6B76706F
LEASE, FETCH, WROTE, END, STATUS, GROW, SHRINK, DRAIN, QUIET = range(1, 10)
GRANT, INFO, DONE, ERROR = range(64, 68)
WAIT, LAZY, RENEW = 1, 2, 4

# How memory comes back to a pool that this user leases from. Without --verify, as users have it: what
# cleaning misses is in the next lease, where a test finds it. With it, it is counted and renewed.
TRUST = ("--trust", str(os.geteuid()))
MODES = {"renew": (), "clean": TRUST}
ALL_MODES = {**MODES, "verify": (*TRUST, "--verify", "all")}


def message(kind, flags=0, index=0, count=0, size=0, magic=MAGIC, version=1, error=0, chunk=0, page=0):
    return MSG.pack(magic, version, kind, flags, index, count, error, size, chunk, page)


class Refused(Exception):
    """The pool answered with this errno."""

    def __init__(self, number, size):
        super().__init__(os.strerror(number))
        self.errno, self.size = number, size


class Client:
    """A connection. lease() keeps the chunks' descriptors in fds."""

    def __init__(self, path, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.fds = []

    def send(self, packet):
        self.sock.send(packet)

    def answer(self):
        data, control, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(253 * 4))
        for _, kind, payload in control:
            assert kind == socket.SCM_RIGHTS
            fds = array.array("i")
            fds.frombytes(payload)
            self.fds.extend(fds)
        if not data:
            raise EOFError
        fields = MSG.unpack(data[: MSG.size])
        if fields[2] == ERROR:
            raise Refused(fields[6], fields[7])
        return fields

    def lease(self, size, flags=WAIT):
        self.send(message(LEASE, flags, size=size))
        fields = self.answer()
        assert fields[2] == GRANT
        while not flags & LAZY and len(self.fds) * fields[8] < fields[7]:
            self.answer()
        return self

    def maps(self):
        return [mmap.mmap(fd, 0) for fd in self.fds]

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def zero(maps):
    """Every byte is zero."""
    nothing = bytes(len(maps[0]))
    return all(m[:] == nothing for m in maps)


def punch(fd):
    """Takes all pages out of a chunk."""
    libc = ctypes.CDLL(None, use_errno=True)
    # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    assert libc.fallocate64(fd, 3, 0, ctypes.c_long(CHUNK)) == 0


class Pool:
    """A server in the background."""

    def __init__(self, kvick, path, *args, **kwargs):
        self.kvick, self.path, self.args, self.kwargs = kvick, str(path), args, kwargs
        self.start()

    def start(self):
        args = self.args
        if "--size" not in args:
            args = ("--size", "64M", "--chunk", "4M", *args)
        self.process = subprocess.Popen(
            [self.kvick, "pool", "serve", "--socket", self.path, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            **self.kwargs,
        )
        self.pid = self.process.pid
        # A client of the last server may have been quick.
        self.until(lambda info: info["free_chunks"] + info["leased_chunks"] == info["target_chunks"])

    def do(self, *args):
        return subprocess.run(
            [self.kvick, "pool", *args, "--socket", self.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def info(self):
        result = self.do("status", "--json")
        return json.loads(result.stdout) if result.returncode == 0 else None

    def until(self, wanted, seconds=30):
        end = time.monotonic() + seconds
        while True:
            info = self.info()
            if info and wanted(info):
                return info
            assert time.monotonic() < end, info
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.01)

    def quiet(self):
        """Nothing is leased, and everything is clean."""
        info = self.until(lambda i: not i["leases"] and i["free_chunks"] == i["target_chunks"])
        assert info["verify_failed"] == 0
        return info

    def usage(self):
        """Descriptors, threads and anonymous memory in KiB."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        try:
            fds = len(os.listdir(f"/proc/{self.pid}/fd"))
        except PermissionError:
            # The server is not dumpable: only root may count them.
            assert os.geteuid()
            fds = 0
        return (
            fds,
            int(fields["Threads"]),
            int(fields["RssAnon"].split()[0]),
        )

    def settled(self, before):
        """The usage once nothing is leased, with no more descriptors and threads than BEFORE.
        The end of the last connection may be on its way to the server, as it may have been BEFORE."""
        self.quiet()
        end = time.monotonic() + 10
        while (after := self.usage())[0] > before[0] or after[1] > before[1]:
            assert time.monotonic() < end, (before, after)
            time.sleep(0.05)
        return after

    def kill(self, number):
        os.kill(self.pid, number)

    def stop(self, number=signal.SIGTERM):
        """Ends it. Its counts go with it: where it verifies, they are looked at before. Elsewhere it ends
        at once, while it cleans."""
        self.kill(signal.SIGCONT)
        try:
            if "--verify" in self.args:
                assert self.info()["verify_failed"] == 0
        finally:
            self.kill(number)
        self.process.stderr.close()
        return self.process.wait(20)


@pytest.fixture(name="serve")
def pool_factory(kvick, tmp_path):
    """serve(ARGS...): a pool of 16 chunks of 4 MiB that cleans by renewing, or as ARGS say."""
    pools = []

    def start(*args, kvick=kvick, **kwargs):
        pool = Pool(kvick, tmp_path / "sock", *args, **kwargs)
        pools.append(pool)
        return pool

    yield start
    for pool in pools:
        if pool.process.poll() is None:
            pool.stop(signal.SIGKILL)
