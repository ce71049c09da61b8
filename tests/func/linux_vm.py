# SPDX-License-Identifier: Apache-2.0
"""A Linux guest in the emulated host that is spoken to while it runs, through its control socket."""

import json
import re
import signal

import pytest
from images import cpio
from places import Emulated, text

SOCKET = "/run/kvick/vm-1.sock"
MIB = 1 << 20

PAUSE, RESUME = 'PATCH /vm {"state":"Paused"}', 'PATCH /vm {"state":"Resumed"}'

# What came while the guest ran is given back whole when its kernel keeps nothing of its own there.
MOVABLE = "memhp_default_state=online_movable"

# Where no VM's kernel may have been.
ALARMS = ("Kernel panic", "soft lockup", "rcu_sched", "blocked for more", "BUG:", "Call Trace", "Oops")


def cycles(count, paused_ms, running_ms):
    """Steps of talk() that pause and resume the machine."""
    return [PAUSE, f"sleep {paused_ms}", RESUME, f"sleep {running_ms}"] * count


class LinuxVm:
    """`kvick run --id vm-1 ARGS`, its init at work on SCRIPT, with FILES, beside the test."""

    def __init__(self, tb, script, *args, append=MOVABLE, kernel="vmlinux", files=None):
        self.tb = tb
        linux = Emulated(tb)
        tb.put("/tmp/script.cpio", cpio({"kvick.script": "\n".join(script).encode(), **(files or {})}))
        self.client = linux.put_program("talk")
        self.job = tb.spawn(
            [
                linux.program, "run", "--id", "vm-1", *args,
                "--initrd", linux.guest("initrd.cpio"), "--initrd", "/tmp/script.cpio",
                "--append", f"console=ttyS0 quiet {append}", linux.guest(kernel),
            ]
        )  # fmt: skip

    def expect(self, what, count=1, timeout=110):
        """Waits until the guest has said it COUNT times; returns all that it said."""

        def said():
            return text(bytes(self.job.stdout)).count(what) >= count

        self.tb.link.wait(lambda: self.job.report or said(), timeout)
        seen = text(self.job.stdout)
        assert said(), seen + text(self.job.stderr)
        return seen

    def talk(self, *steps, timeout=100):
        """The answers as (status, JSON or None); waits until the socket is there. See talk.c."""
        wait = f"i=0; while [ ! -S {SOCKET} ] && [ $i -lt 1000 ]; do usleep 10000; i=$((i+1)); done"
        steps = " ".join(f"'{s}'" for s in steps)
        done = self.tb.run(["sh", "-c", f"{wait}; exec {self.client} {SOCKET} {steps}"], timeout=timeout)
        answers = []
        for line in text(done.stdout).splitlines():
            status, _, body = line.partition(" ")
            answers.append((int(status), json.loads(body) if body else None))
        return answers

    def ask(self, method, path, body=None):
        [answer] = self.talk(f"{method} {path} {json.dumps(body) if body is not None else ''}")
        return answer

    def state(self, state):
        assert self.ask("PATCH", "/vm", {"state": state}) == (204, None)

    def mem(self, *args, timeout=150):
        """kvick mem."""
        return self.tb.run(["build/kvick", "mem", "--id", "vm-1", *args], timeout=timeout)

    def resize(self, device, mib):
        done = self.mem("--timeout", "100", device, f"requested={mib}M")
        assert (done.returncode, done.stderr) == (0, b""), done

    def release(self, device, mib):
        """Plugs what the script's last memwait waits for: until then the guest is there to be asked."""
        done = self.mem("--no-wait", device, f"requested={mib}M")
        assert done.returncode == 0, done

    def device(self, name):
        done = self.mem("--json", name)
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def rss_mib(self):
        """The host's memory that the machine has."""
        script = "cat /proc/$(pidof kvick)/status"
        found = re.search(r"VmRSS:\s+(\d+) kB", text(self.tb.run(["sh", "-c", script]).stdout))
        return int(found[1]) >> 10

    def end(self, ok=None, timeout=110):
        """Waits for the end, which must be an orderly one, and returns what the guest said."""
        done = self.job.wait(timeout)
        out = text(done.stdout)
        found = re.search(r"kvick-init: done, (\d+) ok, 0 failed", out)
        assert done.returncode == 0 and found, (out, done.stderr)
        assert ok is None or int(found[1]) == ok, out
        assert not [a for a in ALARMS if a in out], out
        assert self.tb.run(["test", "-e", SOCKET]).returncode == 1
        return out


def vms_made(tb):
    vms = []

    def make(*args, **kwargs):
        vms.append(LinuxVm(tb, *args, **kwargs))
        return vms[-1]

    yield make
    for vm in vms:
        if tb.alive and vm.job.poll() is None:
            vm.job.kill(signal.SIGKILL)
            vm.job.wait(20)


@pytest.fixture(name="linux_vm")
def linux_vms(testbed):
    """linux_vm(SCRIPT, ARGS...): a LinuxVm that is gone when the test ends."""
    yield from vms_made(testbed)


@pytest.fixture(name="large_vm")
def large_linux_vms(large_testbed):
    """The same for guests of up to 4 GiB."""
    yield from vms_made(large_testbed)
