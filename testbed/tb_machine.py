# SPDX-License-Identifier: Apache-2.0
"""One emulator process: its arguments, its monitor (QMP), and the saved state it starts from."""

import contextlib
import json
import mmap
import os
import re
import shlex
import socket
import subprocess
import threading
import time

import tb_parts
from tb_parts import TestbedError

WINDOW_BYTES = 32 << 20
SAVED_KEEP = 6
BASE_KEEP = 4
SAVED_QEMU = (9, 0)  # the first with the mapped-ram format
TROUBLE = re.compile(r"testbed agent: |Kernel panic|Oops|BUG:|soft lockup|blocked for more than")
STATE_FORMAT = "1"  # part of every saved state's key: raise it when what is saved changes

APPEND = (
    "console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off tsc=reliable "
    "no_timer_check intel_iommu=on iommu=pt"
)

# Each kind's arguments, and whether the emulator can save it; {n} numbers the devices.
DEVICES = {
    "edu": (["-device", "edu"], False),
    "nvme": (
        ["-drive", "file={file},format=raw,if=none,id=drive{n}"]
        + ["-device", "nvme,drive=drive{n},serial=testbed{n}"],
        False,
    ),
    "blk": (
        ["-drive", "file={file},format=raw,if=none,id=drive{n}"]
        + ["-device", "virtio-blk-pci,drive=drive{n}"],
        False,
    ),
    "e1000e": (["-device", "e1000e,romfile="], True),
    "virtio-net": (
        ["-device", "virtio-net-pci,romfile=,iommu_platform=on,disable-legacy=on"],
        True,
    ),
}
SCRATCH_BYTES = 64 << 20


def device_args(spec, n, files):
    """Arguments for one "KIND" or "KIND=FILE", and whether it can be saved. A disk without a file
    gets an empty one without a name, held open in FILES."""
    kind, _, file = spec.partition("=")
    if kind not in DEVICES:
        raise TestbedError(f"no device {kind!r}: there are {', '.join(sorted(DEVICES))}")
    args, saves = DEVICES[kind]
    wants_file = any("{file}" in a for a in args)
    if file and not wants_file:
        raise TestbedError(f"the device {kind} takes no file")
    if wants_file and not file:
        fd = os.memfd_create(f"testbed-{kind}{n}")
        os.ftruncate(fd, SCRATCH_BYTES)
        files.append(fd)
        file = f"/proc/self/fd/{fd}"
    elif wants_file and not os.path.exists(file):
        raise TestbedError(f"{spec}: there is no file {file}")
    return [a.format(n=n, file=file.replace(",", ",,")) for a in args], saves


def hugepage_append(spec):
    """Kernel arguments for "640", "2M=640" or "2M=640,1G=1"."""
    out = []
    for item in filter(None, (spec or "").split(",")):
        size, _, count = item.rpartition("=")
        if size not in ("", "2M", "1G") or not count.isdecimal():
            raise TestbedError(f"huge pages {item!r}: expected 2M=COUNT or 1G=COUNT")
        out.append(f"hugepagesz={size or '2M'} hugepages={count}")
    return " ".join(out)


class Monitor:
    """QEMU's machine protocol over a socket."""

    def __init__(self, sock):
        self.sock = sock
        self.file = sock.makefile("rb")
        self.read()
        self.call("qmp_capabilities")

    def close(self):
        self.file.close()
        self.sock.close()

    def read(self):
        try:
            line = self.file.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise TestbedError("the emulator ended")
        return json.loads(line)

    def call(self, command, **arguments):
        line = json.dumps({"execute": command, "arguments": arguments})
        # One that has ended says so where its answer is read.
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(line.encode() + b"\n")
        while True:
            answer = self.read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise TestbedError(f"the emulator refuses {command}: {answer['error']['desc']}")

    def migrated(self, seconds=120):
        """Waits until saving or loading is complete."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self.call("query-migrate")
            if status.get("status") == "completed":
                return
            if status.get("status") in ("failed", "cancelled"):
                raise TestbedError(f"saved state: {status.get('error-desc', status['status'])}")
            time.sleep(0.005)
        raise TestbedError(f"the emulator's saved state took more than {seconds} s")


class Machine:
    """A running emulator. The agent's end of the port is `port`; `window` is the shared memory."""

    def __init__(self, config, state=None):
        self.config = config
        self.monitor = None
        self.window_fd = os.memfd_create("testbed-window")
        os.ftruncate(self.window_fd, WINDOW_BYTES)
        self.window = mmap.mmap(self.window_fd, WINDOW_BYTES)
        self.console_fd = os.memfd_create("testbed-console")
        self.stderr_fd = os.memfd_create("testbed-stderr")
        self.port, port = socket.socketpair()
        ours, qmp = socket.socketpair()
        fds = [self.window_fd, self.console_fd, port.fileno(), qmp.fileno(), *config.files]
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *config.qemu.command, *config.args]
        argv += self.channel_args(port.fileno(), qmp.fileno())
        argv += ["-incoming", "defer"] if state else []
        self.ended = threading.Event()
        self.returncode = None
        started = threading.Event()
        self.proc = None
        self.failure = None
        # The kernel kills a child whose parent-death signal is set when the thread that made it
        # ends: this thread lives as long as the emulator.
        self.thread = threading.Thread(target=self.keep, args=(argv, fds, started), daemon=True)
        self.thread.start()
        started.wait()
        port.close()
        qmp.close()
        if self.failure:
            self.close()
            raise TestbedError(f"cannot start the emulator: {self.failure}")
        try:
            self.monitor = Monitor(ours)
            if state:
                self.load(state)
        except (TestbedError, OSError, ValueError) as e:
            self.ended.wait(1)
            text = self.stderr()
            self.close()
            raise TestbedError(f"{e}: {text}" if text else str(e)) from e

    def keep(self, argv, fds, started):
        try:
            self.proc = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self.stderr_fd,
                stderr=self.stderr_fd,
                env=self.config.qemu.env,
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as e:
            self.failure = f"{argv[0]}: {e.strerror}"
            self.ended.set()
        started.set()
        if self.proc:
            self.returncode = self.proc.wait()
            self.ended.set()

    def channel_args(self, port, qmp):
        return [
            *("-chardev", f"file,id=console,path=/proc/self/fd/{self.console_fd}"),
            *("-serial", "chardev:console"),
            *("-chardev", f"socket,id=agent,fd={port}"),
            *("-device", "virtio-serial-pci,id=vserial"),
            *("-device", "virtserialport,bus=vserial.0,chardev=agent,name=kvick.agent"),
            "-object",
            f"memory-backend-file,id=window,mem-path=/proc/self/fd/{self.window_fd},"
            f"size={WINDOW_BYTES},share=on",
            *("-device", "ivshmem-plain,memdev=window,master=on"),
            *("-chardev", f"socket,id=qmp,fd={qmp}"),
            *("-mon", "chardev=qmp,mode=control"),
        ]

    def capabilities(self):
        self.monitor.call(
            "migrate-set-capabilities",
            capabilities=[{"capability": "mapped-ram", "state": True}],
        )

    def save(self, path):
        self.capabilities()
        self.monitor.call("stop")
        self.monitor.call("migrate", uri=f"file:{path}")
        self.monitor.migrated()

    def load(self, path):
        self.capabilities()
        self.monitor.call("migrate-incoming", uri=f"file:{path}")
        self.monitor.migrated()
        self.monitor.call("cont")

    def console(self):
        """What the emulated host's kernel has written to its console."""
        return read_all(self.console_fd)

    def stderr(self):
        return read_all(self.stderr_fd).strip()

    def describe(self):
        """For an error: how the emulator ended and what was said last."""
        text = [f"status {self.returncode}" if self.ended.is_set() else "running"]
        text += self.stderr().splitlines()[-3:]
        lines = self.console().splitlines()
        trouble = [n for n, line in enumerate(lines) if TROUBLE.search(line)]
        text += lines[trouble[0] :][:30] if trouble else lines[-10:]
        return "\n  ".join(text)

    def close(self):
        if self.proc and not self.ended.is_set():
            with contextlib.suppress(OSError):
                self.proc.kill()
            self.ended.wait()
        self.thread.join()
        self.port.close()
        if self.monitor:
            self.monitor.close()
        if self.window:
            self.window.close()
            for fd in (self.window_fd, self.console_fd, self.stderr_fd):
                os.close(fd)
            self.window = None


def read_all(fd):
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).decode(errors="replace").replace("\r", "")


class Config:
    """What makes one kind of emulated host, and the key of its saved state."""

    def __init__(self, cpus, memory_mib, hugepages, devices, append, qemu, extra):
        self.files = []
        self.qemu = tb_parts.qemu(qemu)
        kernel = tb_parts.kernel()
        initrd = tb_parts.base(kernel)
        self.append = " ".join(filter(None, (APPEND, hugepage_append(hugepages), append)))
        self.args = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        # README.md (Pitfalls) says what goes wrong with the other choice of each.
        threads = "multi" if self.qemu.version >= SAVED_QEMU else "single"
        self.args += ["-machine", "q35", "-accel", f"tcg,thread={threads}"]
        # The emulator runs `rep movsb` byte by byte: without these two L1 copies in words.
        self.args += ["-cpu", "max,phys-bits=48,-erms,-fsrm"]
        self.args += ["-smp", str(cpus), "-m", f"{memory_mib}M"]
        self.args += ["-device", "intel-iommu", "-append", self.append]
        self.args += ["-kernel", str(kernel / "vmlinux"), "-initrd", str(initrd)]
        self.saves = self.qemu.version >= SAVED_QEMU and not extra
        for n, spec in enumerate(devices):
            args, saves = device_args(spec, n, self.files)
            self.args += args
            self.saves = self.saves and saves
        self.args += shlex.split(extra)
        self.key = (STATE_FORMAT, self.qemu.identity, repr(self.args), str(WINDOW_BYTES))
        self.key += (kernel / "version", initrd)

    def saved(self, guests, save):
        """The file of the saved state with these guest files in it; save(path) makes one."""
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in guests]
        name = "saved-" + tb_parts.digest(*self.key, repr(stats))
        path = tb_parts.part(name, lambda out: save(out / "state"))
        tb_parts.prune("saved", SAVED_KEEP)
        tb_parts.prune("base", BASE_KEEP)
        return path / "state"

    def close(self):
        for fd in self.files:
            os.close(fd)
        self.files = []
