# SPDX-License-Identifier: Apache-2.0
"""kvick run --stats: exits counted by reason, port and address."""

import json
import re
import signal
import subprocess
import time

import pytest
from vm import OK, START, USAGE, run

pytestmark = pytest.mark.usefixtures("kvm_host")


def places(doc):
    return {
        (place.get("port", place.get("gpa")), place["write"]): place["count"]
        for place in doc["vcpus"][0]["places"]
    }


def test_table(kvick, flat):
    result = run(kvick, "--stats", flat / "print.pvh.elf")
    assert result.returncode == OK
    lines = [line.removeprefix("kvick: ") for line in result.stderr.splitlines()]
    assert re.match(r"vCPU 0: \d+ exits, [\d.]+ ms handling them", lines[0])
    counts = {m[1]: int(m[2]) for line in lines if (m := re.match(r"  (\S.*?) +(\d+) ", line))}
    # Each character is written once, with CR before LF, and the port's state asked for before.
    assert counts["port 0x3f8 out"] == len(result.stdout) + result.stdout.count("\n")
    assert counts["port 0x3fd in"] >= counts["port 0x3f8 out"]
    assert counts["port 0x64 out"] == 1
    assert counts["io"] == sum(n for name, n in counts.items() if name.startswith("port"))


def test_json(kvick, flat, tmp_path):
    path = tmp_path / "stats"
    result = run(kvick, f"--stats={path}", "--cpus", "2", flat / "signal.pvh.elf")
    assert result.returncode == OK
    assert result.stderr == ""
    doc = json.loads(path.read_text())
    assert [cpu["vcpu"] for cpu in doc["vcpus"]] == [0, 1]
    assert places(doc) == {(0xD0000000, True): 1, (0xF4, True): 1, (0x64, True): 1}
    boot = doc["vcpus"][0]
    assert {r["name"]: r["count"] for r in boot["reasons"]} == {"io": 2, "mmio": 1}
    for figure in "count", "handled_ns", "before_ns":
        whole = {"count": "exits"}.get(figure, figure)
        assert boot[whole] == sum(r[figure] for r in boot["reasons"])
        assert boot[whole] == sum(p[figure] for p in boot["places"])
    assert [p.name for p in tmp_path.iterdir()] == ["stats"]


def test_devices(kvick, flat, tmp_path):
    """What virtio devices counted, in the guest's order, is told after the run too."""
    path, disk = tmp_path / "stats", tmp_path / "disk"
    disk.write_bytes(bytes(512))
    args = ("--rng", "--disk", disk, flat / "signal.pvh.elf")
    assert run(kvick, f"--stats={path}", *args).returncode == OK
    devices = json.loads(path.read_text())["devices"]
    assert sorted(d["name"] for d in devices) == ["virtio-blk", "virtio-rng"]
    assert [d["gpa"] for d in devices] == [0xFEB00000, 0xFEB01000]
    assert [d["violations"] for d in devices] == [0, 0]
    lines = run(kvick, "--stats", *args).stderr.splitlines()
    assert sum(line.endswith(": its driver broke the rules 0 times") for line in lines) == 2


def test_while_it_runs(start, flat, tmp_path):
    path = tmp_path / "stats.json"
    vm = start(f"--stats={path}", "--boot-timer", flat / "halt.pvh.elf")
    vm.expect("Guest-boot-time", "err")
    def seen():
        try:
            return places(json.loads(path.read_text()))
        except (FileNotFoundError, ValueError):
            return None  # not yet, or half-way

    deadline = time.monotonic() + 10
    # The line is printed while the exit is served, which is counted when it has been served.
    while seen() != {(0xD0000000, True): 1}:
        assert time.monotonic() < deadline
        vm.signal(signal.SIGUSR1)
        time.sleep(0.05)
    vm.signal(signal.SIGTERM)
    assert vm.process.wait(20) == 128 + signal.SIGTERM
    assert places(json.loads(path.read_text())) == {(0xD0000000, True): 1}


def test_signal_without_it(start, flat):
    vm = start("--boot-timer", flat / "halt.pvh.elf")
    vm.expect("Guest-boot-time", "err")
    vm.signal(signal.SIGUSR1)
    time.sleep(0.2)
    assert vm.process.poll() is None


def test_wrong_file(kvick, flat, tmp_path):
    for path in tmp_path, tmp_path / "no" / "stats":
        result = run(kvick, f"--stats={path}", flat / "signal.pvh.elf")
        assert result.returncode == START
        assert f"kvick run: --stats: {path}: cannot be written" in result.stderr
    assert run(kvick, "--stats=", flat / "signal.pvh.elf").returncode == USAGE
    assert not list(tmp_path.iterdir())


def test_full_disk(kvick, flat):
    result = run(kvick, "--stats=/dev/full", flat / "signal.pvh.elf")
    assert result.returncode == START
    assert "No space left" in result.stderr


def test_links(kvick, flat, tmp_path):
    """What links lead to is replaced, not the links; what is not there yet is made where they lead."""
    folder, there = tmp_path / "d", tmp_path / "d" / "there"
    folder.mkdir()
    there.write_text("old")
    there.chmod(0o640)
    links = {"a": "d/there", "b": "a", "c": tmp_path / "b", "new": "d/new"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for name, target in ("c", there), ("new", folder / "new"):
        done = run(kvick, f"--stats={tmp_path / name}", flat / "signal.pvh.elf")
        assert (done.returncode, done.stderr) == (OK, "")
        assert json.loads(target.read_text())["vcpus"]
    assert there.stat().st_mode & 0o777 == 0o640
    assert all((tmp_path / name).is_symlink() for name in links)
    assert sorted(p.name for p in folder.iterdir()) == ["new", "there"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "d", "new"]


def test_link_to_itself(kvick, flat, tmp_path):
    path = tmp_path / "loop"
    path.symlink_to("loop")
    done = run(kvick, f"--stats={path}", flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "cannot be written: Too many levels of symbolic links" in done.stderr
    assert path.is_symlink()


def test_stdout(kvick, flat, tmp_path):
    """A link as /dev/stdout is one stays, and the file behind it keeps what it holds."""
    log, stdout, link = (tmp_path / name for name in ("log", "stdout", "link"))
    stdout.symlink_to("/proc/self/fd/1")
    link.symlink_to("stdout")
    for path in stdout, link:
        with open(log, "w", encoding="ascii") as f:
            print("before", file=f, flush=True)
            args = [kvick, "run", "--serial", "none", f"--stats={path}", flat / "signal.pvh.elf"]
            assert subprocess.run(args, stdout=f, timeout=60, check=False).returncode == OK
        first, rest = log.read_text().split("\n", 1)
        assert first == "before" and json.loads(rest)["vcpus"]
        assert stdout.is_symlink() and link.is_symlink()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "log", "stdout"]
    args = [kvick, "run", "--serial", "none", f"--stats={link}", flat / "signal.pvh.elf"]
    done = subprocess.run(args, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["vcpus"]
