# SPDX-License-Identifier: Apache-2.0
"""The emulated AMD-V host, for tests: one boot serves many commands.

    from testbed import Testbed

    with Testbed(cpus=2, memory_mib=2048) as tb:
        done = tb.run(["kvick", "run", "build/guest/vmlinux"], timeout=60)
        assert done.returncode == 0, done.stderr

Commands start in /kvick, where build/kvick and build/guest/ are those of the build folder; kvick
is also on the PATH. A Testbed may be used from several threads. README.md has the whole story.
"""

import os
import shutil
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import tb_parts
from tb_machine import WINDOW_BYTES, Config, Machine
from tb_parts import TestbedError, notice

HELLO, RUN, STDIN, KILL, PUT, GET = range(1, 7)
READY, STDOUT, STDERR, STDIN_ACK, EXIT, DONE = range(16, 22)
HEAD = struct.Struct("<III")
EXIT_REPORT = struct.Struct("<IIQQQQ")
DONE_REPORT = struct.Struct("<IIQQ")
FRAME_MAX = 64 << 10
STDIN_WINDOW = 256 << 10

BOOT_S = 120
RESTORE_S = 20
ANSWER_S = 30  # for what the agent does itself

BUILD = Path(__file__).resolve().parent.parent / "build"
HOME = "/kvick"


class TestbedTimeout(TestbedError):
    """The command took too long and was killed; stdout and stderr hold what it had written."""

    def __init__(self, text, stdout, stderr):
        super().__init__(text)
        self.stdout = stdout
        self.stderr = stderr


class Result:
    """How a command ended. returncode is the exit status, or 128+N after signal N."""

    def __init__(self, argv, returncode, sig, stdout, stderr, report):
        self.argv = argv
        self.returncode = returncode
        self.signal = sig
        self.stdout = stdout
        self.stderr = stderr
        self.leftovers = report[1]  # processes that outlived the command (they were killed)
        self.duration = report[2] / 1e9  # seconds, of the emulated host's clock
        self.user_s = report[3] / 1e6
        self.system_s = report[4] / 1e6
        self.maxrss_kib = report[5]

    def __repr__(self):
        return (
            f"Result({self.argv}, returncode={self.returncode}, duration={self.duration:.3f}, "
            f"stdout={self.stdout!r}, stderr={self.stderr!r})"
        )


class Job:
    """A command that runs. Its output is collected as it comes."""

    def __init__(self, link, number, argv, on_output):
        self.link = link
        self.id = number
        self.argv = argv
        self.on_output = on_output
        self.out = {STDOUT: bytearray(), STDERR: bytearray()}
        self.report = None
        self.credit = STDIN_WINDOW

    # The link's thread calls these; take() with the link's condition held, relay() without, for
    # it may block.
    def relay(self, kind, data):
        if kind not in self.out or not self.on_output:
            return False
        self.on_output("stdout" if kind == STDOUT else "stderr", data)
        return True

    def take(self, kind, data):
        if kind in self.out:
            self.out[kind] += data
        elif kind == STDIN_ACK:
            self.credit += struct.unpack("<I", data)[0]
        elif kind == EXIT:
            self.report = EXIT_REPORT.unpack(data)

    @property
    def stdout(self):
        with self.link.cond:
            return bytes(self.out[STDOUT])

    @property
    def stderr(self):
        with self.link.cond:
            return bytes(self.out[STDERR])

    def result(self):
        status = self.report[0]
        sig = status & 0x7F
        code = 128 + sig if sig else status >> 8 & 0xFF
        return Result(self.argv, code, sig, self.stdout, self.stderr, self.report)

    def poll(self):
        """The Result when the command has ended, else None."""
        with self.link.cond:
            self.link.check()
            return self.result() if self.report else None

    def wait(self, timeout=None):
        """Waits for the end and returns the Result; after TIMEOUT seconds raises TestbedTimeout
        and leaves the command running."""
        if not self.link.wait(lambda: self.report, timeout):
            raise TestbedTimeout(
                f"{self.argv[0]} still runs after {timeout} s", self.stdout, self.stderr
            )
        return self.result()

    def wait_for(self, text, timeout=60, stream="stdout"):
        """Waits until the command has written TEXT (bytes); returns all of that stream so far."""
        kind = STDOUT if stream == "stdout" else STDERR
        if not self.link.wait(lambda: text in self.out[kind] or self.report, timeout):
            raise TestbedTimeout(
                f"{self.argv[0]} has not written {text!r} after {timeout} s",
                self.stdout,
                self.stderr,
            )
        seen = self.stdout if stream == "stdout" else self.stderr
        if text not in seen:
            raise TestbedError(f"{self.argv[0]} ended without writing {text!r}: {self.result()}")
        return seen

    def kill(self, sig=signal.SIGTERM):
        """Sends a signal to the command."""
        self.link.send(KILL, self.id, struct.pack("<II", int(sig), 0))

    def kill_all(self):
        """Kills the command and all that it started."""
        self.link.send(KILL, self.id, struct.pack("<II", int(signal.SIGKILL), 1))

    def write(self, data, timeout=60):
        """Gives the command input; waits while it reads more slowly than it is written to."""
        view = memoryview(data)
        while view:
            if not self.link.wait(lambda: self.credit > 0 or self.report, timeout):
                raise TestbedTimeout(
                    f"{self.argv[0]} has not read its input for {timeout} s",
                    self.stdout,
                    self.stderr,
                )
            with self.link.cond:
                if self.report:
                    return
                n = min(len(view), self.credit, FRAME_MAX)
                self.credit -= n
            self.link.send(STDIN, self.id, view[:n])
            view = view[n:]

    def close_stdin(self):
        """Ends the command's input."""
        self.link.send(STDIN, self.id, b"")


class Link:
    """The frames to and from the agent: one thread reads, any thread may write."""

    def __init__(self, machine):
        self.machine = machine
        self.sock = machine.port
        seconds = struct.pack("@ll", ANSWER_S, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self.cond = threading.Condition(threading.RLock())
        self.send_lock = threading.Lock()
        self.jobs = {}
        self.answers = {}
        self.seen = set()
        self.release = None
        self.number = 0
        self.dead = None
        self.thread = threading.Thread(target=self.pump, daemon=True)
        self.thread.start()

    def send(self, kind, number, payload=b""):
        if len(payload) > FRAME_MAX:
            raise TestbedError(f"a command line of {len(payload)} bytes is too long")
        frame = HEAD.pack(len(payload), kind, number) + bytes(payload)
        with self.send_lock:
            try:
                self.sock.sendall(frame)
            except BlockingIOError as e:
                self.fail(f"the emulated host takes no input for {ANSWER_S} s")
                raise TestbedError(self.dead) from e
            except OSError:
                self.machine.ended.wait(2)
                self.fail("the emulated host is gone")
        with self.cond:
            self.check()

    def receive(self, size):
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                return None
            data += piece
        return bytes(data)

    def pump(self):
        try:
            while head := self.receive(HEAD.size):
                size, kind, number = HEAD.unpack(head)
                data = self.receive(size) if size else b""
                if data is None:
                    break
                self.take(kind, number, data)
        except OSError:
            pass
        self.machine.ended.wait(2)
        self.fail("the emulated host is gone")

    def take(self, kind, number, data):
        job = self.jobs.get(number)
        if job and job.relay(kind, data):
            return
        with self.cond:
            if kind == DONE:
                self.answers[number] = DONE_REPORT.unpack(data)
            elif kind in (READY, HELLO):
                self.seen.add(kind)
                self.release = data.decode()
            elif job:
                job.take(kind, data)
                if kind == EXIT:
                    del self.jobs[number]
            self.cond.notify_all()

    def fail(self, text):
        with self.cond:
            if not self.dead:
                self.shut(f"{text}: {self.machine.describe()}")

    def shut(self, text):
        with self.cond:
            self.dead = self.dead or text
            self.cond.notify_all()

    def check(self):
        if self.dead:
            raise TestbedError(self.dead)

    def wait(self, ready, timeout):
        """Waits until ready() is true, or the machine is dead, or TIMEOUT seconds have passed."""
        with self.cond:
            ok = self.cond.wait_for(lambda: ready() or self.dead, timeout)
            if not ready():
                self.check()
            return ok

    def ask(self, kind, payload):
        """Sends a request and returns the agent's DONE report."""
        with self.cond:
            self.number += 1
            number = self.number
        self.send(kind, number, payload)
        if not self.wait(lambda: number in self.answers, ANSWER_S):
            self.fail(f"the emulated host does not answer for {ANSWER_S} s")
            self.check()
        return self.answers.pop(number)

    def hello(self, timeout):
        """Sets the clock, stirs the random numbers, and sees that the agent answers."""
        self.send(HELLO, 0, struct.pack("<Q", time.time_ns()) + os.urandom(32))
        return self.wait(lambda: HELLO in self.seen, timeout)


class Testbed:
    """An emulated host. Parameters:

    cpus, memory_mib    of the emulated host
    hugepages           "640", "2M=640" or "2M=640,1G=1": reserved at boot
    devices             of "edu", "nvme", "nvme=FILE", "blk=FILE", "e1000e", "virtio-net"
    build               the folder with kvick and guest/ (default: build/ of this working tree);
                        False puts nothing into the host
    append              more kernel arguments
    saved               False: boot plainly instead of loading a saved state
    qemu                another emulator's path
    extra               more emulator arguments (a string); these prevent saved states
    """

    __test__ = False

    def __init__(
        self,
        cpus=2,
        memory_mib=2048,
        hugepages=None,
        devices=(),
        build=None,
        append="",
        saved=True,
        qemu=None,
        extra="",
    ):
        self.options = (cpus, memory_mib, hugepages, tuple(devices), append, qemu, extra)
        self.build = BUILD if build is None else build
        self.use_saved = saved
        self.config = None
        self.machine = None
        self.link = None
        self.window_lock = threading.Lock()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.close()

    @property
    def alive(self):
        """False when the emulated host is not there, or no longer answers."""
        return bool(self.link and not self.link.dead and not self.machine.ended.is_set())

    @property
    def kernel_release(self):
        return self.link.release

    @property
    def host_kernel(self):
        """The folder (on this side) of Debian's kernel that the emulated host runs: vmlinuz (a
        bzImage), vmlinux (the ELF in it)."""
        return tb_parts.kernel()

    def start(self):
        """Starts the emulated host and puts the build into it. Raises TestbedError."""
        if self.machine:
            raise TestbedError("this testbed has been started already")
        try:
            self.config = Config(*self.options)
            if not (self.use_saved and self.config.saves and self.restore()):
                self.boot()
                self.put_guests()
            if self.build:
                self.put_kvick()
        except BaseException:
            self.close()
            raise

    def attach(self, machine):
        self.machine = machine
        self.link = Link(machine)

    def boot(self):
        """Boots the host plainly."""
        self.attach(Machine(self.config))
        if not self.link.wait(lambda: READY in self.link.seen, BOOT_S):
            text = self.machine.describe()
            raise TestbedError(f"the emulated host has not come up in {BOOT_S} s: {text}")
        if not self.link.hello(ANSWER_S):
            raise TestbedError("the emulated host does not greet: " + self.machine.describe())

    def detach(self):
        """Ends the emulator and the thread that listens to it."""
        if self.link:
            self.link.shut("the testbed has been closed")
        if self.machine:
            self.machine.close()
        if self.link:
            self.link.thread.join()
        self.machine = None
        self.link = None

    def save(self, path):
        """Boots the host, puts the guests into it, and saves it to a file."""
        try:
            self.boot()
            self.put_guests()
            self.machine.save(path)
        finally:
            self.detach()

    def restore(self):
        """True when the host runs from a saved state, which is made if it is not there."""
        state = self.config.saved(self.guests(), self.save)
        try:
            self.attach(Machine(self.config, state))
            if self.link.hello(RESTORE_S):
                return True
            why = self.machine.describe()
        except TestbedError as e:
            why = str(e)
        notice(f"a saved state does not load, so the host is booted: {why}")
        self.detach()
        shutil.rmtree(state.parent, ignore_errors=True)
        return False

    def close(self):
        """Ends the emulated host. Nothing of it stays behind."""
        self.detach()
        if self.config:
            self.config.close()

    def console(self):
        """What the emulated host's kernel has said."""
        return self.machine.console()

    def spawn(self, argv, user="root", env=None, cwd=HOME, spread=False, on_output=None):
        """Starts a command in the background and returns its Job. `user` is root or tester. `env`
        adds to a small standard environment. It runs on the host's last CPU; on all with `spread`,
        which is for commands without Linux guests (README.md, Pitfalls). on_output(stream, data), if
        given, gets the output as it comes, on another thread, instead of the Job."""
        uid, gid, groups, home = tb_parts.USERS[user]
        variables = {
            "PATH": "/bin:/sbin:/usr/bin:/usr/sbin",
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **(env or {}),
        }
        argv = [os.fsencode(a) for a in argv]
        strings = [os.fsencode(cwd), *argv]
        strings += [f"{k}={v}".encode() for k, v in variables.items()]
        if not argv or any(b"\0" in s for s in strings):
            raise TestbedError(f"{argv} is no command")
        payload = struct.pack("<6I", uid, gid, len(groups), len(argv), len(variables), int(spread))
        payload += struct.pack(f"<{len(groups)}I", *groups)
        payload += b"".join(s + b"\0" for s in strings)
        link = self.link
        with link.cond:
            link.number += 1
            job = Job(link, link.number, [os.fsdecode(a) for a in argv], on_output)
            link.jobs[job.id] = job
        link.send(RUN, job.id, payload)
        return job

    def run(self, argv, timeout=60, stdin=b"", check=False, **kw):
        """Runs a command to its end and returns the Result. After `timeout` seconds it, and all
        that it started, is killed and TestbedTimeout raised. check=True raises TestbedError for
        any other status than 0. The rest as for spawn()."""
        end = time.monotonic() + timeout if timeout else None

        def left():
            return max(0, end - time.monotonic()) if end else None

        job = self.spawn(argv, **kw)
        try:
            job.write(stdin, left())
            job.close_stdin()
            done = job.wait(left())
        except TestbedTimeout:
            job.kill_all()
            try:
                job.wait(ANSWER_S)
            except TestbedTimeout:
                job.link.fail("the emulated host does not answer")
                job.link.check()
            raise TestbedTimeout(
                f"{argv[0]} was killed after {timeout} s", job.stdout, job.stderr
            ) from None
        if check and done.returncode:
            raise TestbedError(f"{done}")
        return done

    def put(self, path, data, mode=0o644):
        """Writes a file of the emulated host, and the folders above it: from bytes, or from a Path
        of this side (whose own mode is kept)."""
        if isinstance(data, Path):
            with open(data, "rb") as f:
                self.put_parts(path, f.readinto, os.fstat(f.fileno()).st_mode & 0o7777)
            return
        view = memoryview(data)

        def fill(window):
            nonlocal view
            n = min(len(window), len(view))
            window[:n] = view[:n]
            view = view[n:]
            return n

        self.put_parts(path, fill, mode)

    def put_parts(self, path, fill, mode):
        if not str(path).startswith("/"):
            raise TestbedError(f"{path}: a path in the emulated host must start with /")
        first, last = 1, 0
        name = os.fsencode(path) + b"\0"
        with self.window_lock, memoryview(self.machine.window) as window:
            while not last:
                n = fill(window)
                last = 2 if n < WINDOW_BYTES else 0
                head = struct.pack("<IIQ", mode, first | last, n)
                self.moved(self.link.ask(PUT, head + name), "put", path)
                first = 0

    def put_tree(self, source, path):
        """Copies a folder of this side, with all regular files in it."""
        for file in sorted(Path(source).rglob("*")):
            if file.is_file():
                self.put(f"{path}/{file.relative_to(source)}", file)

    def guests(self):
        """The build's guest files, and the floors that benchmarks compare with: what seldom
        changes, and therefore is part of the saved state."""
        if not self.build:
            return []
        files = [*Path(self.build, "guest").rglob("*")]
        files += [Path(self.build, "bench", name) for name in ("floor", "floor-loop")]
        return sorted(p for p in files if p.is_file())

    def put_guests(self):
        for file in self.guests():
            self.put(f"{HOME}/build/{file.relative_to(self.build)}", file)

    def put_kvick(self):
        kvick = Path(self.build) / "kvick"
        if kvick.is_file():
            if not tb_parts.is_static(kvick):
                notice(f"{kvick} is not static and will not run in the emulated host")
            self.put(f"{HOME}/build/kvick", kvick)

    def get(self, path):
        """The contents of a file of the emulated host, as bytes."""
        out = bytearray()
        name = os.fsencode(path) + b"\0"
        while True:
            with self.window_lock:
                head = struct.pack("<QQ", len(out), WINDOW_BYTES)
                n = self.moved(self.link.ask(GET, head + name), "get", path)
                out += self.machine.window[:n]
            if n < WINDOW_BYTES:
                return bytes(out)

    @staticmethod
    def moved(report, verb, path):
        if report[0]:
            raise TestbedError(f"cannot {verb} {path}: {os.strerror(report[0])}")
        return report[2]


def missing():
    """A sentence that says why no testbed can run on this machine, or None."""
    tools = ("apt-get", "dpkg", "gcc", "setpriv", "strip", "zstd")
    lacking = [tool for tool in tools if not shutil.which(tool)]
    if lacking:
        return f"the testbed needs {', '.join(lacking)}: install {' '.join(tb_parts.PACKAGES)}"
    return None
