# SPDX-License-Identifier: Apache-2.0
"""Where Linux guests run: the emulated host or this one, behind the same methods."""

import json
import subprocess
from pathlib import Path


class Done:
    """How a command ended."""

    def __init__(self, returncode, stdout, stderr):
        self.returncode, self.stdout, self.stderr = returncode, stdout, stderr

    def __repr__(self):
        return f"status {self.returncode}\n--- output\n{self.stdout}\n--- errors\n{self.stderr}"


class Emulated:
    """The emulated host as a place for Linux guests."""

    program = "build/kvick"
    # So many boots may be needed to see one's first user instruction: the emulator masks the
    # breakpoint there when an interrupt comes just before it (testbed/README.md, Pitfalls).
    boots_for_marks = 4

    def __init__(self, tb):
        self.tb = tb

    @staticmethod
    def guest(name):
        return f"build/guest/{name}"

    def run(self, *argv, timeout=120, **kwargs):
        done = self.tb.run(argv, timeout=timeout, **kwargs)
        assert done.leftovers == 0
        return Done(done.returncode, text(done.stdout), text(done.stderr))

    def kvick(self, *args, timeout=120, **kwargs):
        return self.run(self.program, "run", *args, timeout=timeout, **kwargs)

    def read(self, path):
        return text(self.tb.get(path))

    def put(self, path, data):
        self.tb.put(path, data)

    def put_program(self, name):
        """The program made of tests/func/NAME.c; returns its path there."""
        self.tb.put(f"/tmp/{name}", self.tb.build / "tests" / name)
        return f"/tmp/{name}"


class Here:
    """This host as a place for Linux guests."""

    boots_for_marks = 1

    def __init__(self, build):
        self.build = build
        self.program = str(build / "kvick")

    def guest(self, name):
        return str(self.build / "guest" / name)

    def run(self, *argv, timeout=120, stdin=b""):
        done = subprocess.run(
            argv, input=stdin, capture_output=True, timeout=timeout, cwd=self.build.parent, check=False
        )
        status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return Done(status, text(done.stdout), text(done.stderr))

    def kvick(self, *args, timeout=120, **kwargs):
        return self.run(self.program, "run", *args, timeout=timeout, **kwargs)

    @staticmethod
    def read(path):
        return Path(path).read_text(encoding="utf-8", errors="replace")

    @staticmethod
    def put(path, data):
        Path(path).write_bytes(data)


def boot_marks(linux, boot):
    """The marks of a boot up to user space: boot(path) boots and writes a timeline to the path."""
    path = "/tmp/kvick-marks.json"
    marks = {}
    for _ in range(linux.boots_for_marks):
        linux.run("rm", "-f", path)
        boot(path)
        marks = json.loads(linux.read(path))["marks"]
        if "user_space" in marks:
            break
    return marks


def text(data):
    """A console's output as text with plain newlines."""
    return data.decode(errors="replace").replace("\r", "")
