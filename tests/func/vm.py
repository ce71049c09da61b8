# SPDX-License-Identifier: Apache-2.0
"""Running kvick from tests: to its end, or beside the test."""

import os
import socket
import subprocess
import threading
import time

OK, START, USAGE, HOST, CRASH, KVM, SHRANK = range(7)


def run(kvick, *args, timeout=30, **kwargs):
    """Runs `kvick run ARGS` to its end, without input unless input= is given."""
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [kvick, "run", *args],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        **kwargs,
    )


class Vm:
    """A `kvick run ARGS` that goes on beside the test. Its output is collected as it comes."""

    def __init__(self, kvick, *args, **kwargs):
        kwargs.setdefault("stdin", subprocess.PIPE)
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        self.process = subprocess.Popen([kvick, "run", *args], **kwargs)
        self.pid = self.process.pid
        self.texts = {"out": "", "err": ""}
        self.cond = threading.Condition()
        self.threads = [
            threading.Thread(target=self.collect, args=(name, stream), daemon=True)
            for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))
            if stream
        ]
        for thread in self.threads:
            thread.start()

    def collect(self, name, stream):
        while data := os.read(stream.fileno(), 65536):
            with self.cond:
                self.texts[name] += data.decode(errors="replace")
                self.cond.notify_all()
        with self.cond:
            self.cond.notify_all()

    @property
    def out(self):
        with self.cond:
            return self.texts["out"]

    @property
    def err(self):
        with self.cond:
            return self.texts["err"]

    def expect(self, text, stream="out", timeout=20):
        """Waits until kvick has written the text; returns all of that stream so far."""
        with self.cond:
            if not self.cond.wait_for(lambda: text in self.texts[stream], timeout):
                raise AssertionError(
                    f"no {text!r} within {timeout} s; status {self.process.poll()}, "
                    f"output {self.texts['out']!r}, errors {self.texts['err']!r}"
                )
            return self.texts[stream]

    def send(self, text):
        """Types on kvick's standard input."""
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=20):
        """Waits for the end. Returns the exit status as a shell has it: 128 + N for signal N."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise AssertionError(
                f"still running after {timeout} s; output {self.out!r}, errors {self.err!r}"
            ) from e
        for thread in self.threads:
            thread.join(timeout)
        return status if status >= 0 else 128 - status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


def until(ready, what, timeout=20):
    """Waits until ready() gives something true, and returns that."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {timeout} s")


def connected(path):
    """A connection to the socket at PATH, which is there a moment before somebody listens."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)

    def answered():
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        return client

    return until(answered, f"a connection to {path}")
