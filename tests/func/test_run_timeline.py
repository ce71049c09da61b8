# SPDX-License-Identifier: Apache-2.0
"""kvick run --timeline: what its files hold, and what is left when they cannot be written."""

import json
import os
import xml.etree.ElementTree as ET

import pytest
from places import boot_marks
from vm import OK, START, USAGE, run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.usefixtures("kvm_host")
def test_chart(kvick, flat, tmp_path):
    path = tmp_path / "run.svg"
    assert run(kvick, "--timeline", path, flat / "pio.pvh.elf").returncode == OK
    root = ET.parse(path).getroot()
    assert root.tag == SVG + "svg"
    texts = ["".join(text.itertext()) for text in root.iter(SVG + "text")]
    for step in "configuration read", "VMM ready", "first exit", "port 0x80: 64", "torn down":
        assert any(text.startswith(step) for text in texts), step
    # A bar a step, inside the picture, in order.
    width, height = map(float, root.get("viewBox").split()[2:])
    bars = list(root.iter(SVG + "rect"))
    assert len(bars) == sum("(+" in text for text in texts)
    ends = [float(bar.get("x")) + float(bar.get("width")) for bar in bars]
    assert all(0 <= float(bar.get("x")) for bar in bars)
    assert max(ends) <= width
    assert float(bars[-1].get("y")) < height
    starts = [float(bar.get("x")) for bar in bars]
    assert starts == sorted(starts)
    style = root.find(SVG + "style").text
    assert "prefers-color-scheme:dark" in style


def tracks(doc):
    """The spans by the names of their tracks."""
    names = {e["tid"]: e["args"]["name"] for e in doc["traceEvents"] if e["ph"] == "M"}
    spans = {name: [] for name in names.values()}
    for event in doc["traceEvents"]:
        if event["ph"] == "X":
            spans[names[event["tid"]]].append(event)
    return spans


@pytest.mark.usefixtures("kvm_host")
def test_detail(kvick, flat, tmp_path):
    path = tmp_path / "run.json"
    args = ["--timeline", path, "--timeline-detail", "--cpus", "2", flat / "print.pvh.elf"]
    result = run(kvick, *args)
    assert result.returncode == OK
    spans = tracks(json.loads(path.read_text()))
    assert set(spans) == {"vCPU 0", "vCPU 1", "loop 0"}
    names = [span["name"] for span in spans["vCPU 0"]]
    # Each character, CR before LF, is an exit; between two of them the guest runs.
    assert names.count("port 0x3f8 out") == len(result.stdout) + result.stdout.count("\n")
    assert names[0] == names[2] == "guest"
    assert names[-1] == "port 0x64 out"
    ends = 0
    for span in spans["vCPU 0"]:
        assert span["ts"] >= ends - 0.01
        ends = span["ts"] + span["dur"]
    assert spans["loop 0"]


@pytest.mark.usefixtures("kvm_host")
def test_detail_of_threads(kvick, flat, tmp_path):
    """Each thread of a device has a track of its own."""
    path, disks = tmp_path / "run.json", []
    for name, keys in ("a", ""), ("b", ",iothread"), ("c", ",iothread"):
        (tmp_path / name).write_bytes(bytes(4096))
        disks += ["--disk", f"{tmp_path / name}{keys}"]
    args = ["--timeline", path, "--timeline-detail", *disks, flat / "print.pvh.elf"]
    assert run(kvick, *args).returncode == OK
    assert set(tracks(json.loads(path.read_text()))) == {"vCPU 0", "loop 0", "loop 1", "loop 2"}


@pytest.mark.usefixtures("kvm_host")
def test_no_detail(kvick, flat, tmp_path):
    path = tmp_path / "run.json"
    assert run(kvick, "--timeline", path, flat / "print.pvh.elf").returncode == OK
    doc = json.loads(path.read_text())
    assert {event["ph"] for event in doc["traceEvents"]} == {"i"}
    assert doc["marks"]["ready"]["ns"] < doc["marks"]["first_exit"]["ns"]


def test_wrong(kvick, flat, tmp_path):
    kernel = flat / "print.pvh.elf"
    for args in [], ["--timeline", "-"], ["--timeline", tmp_path / "t.svg"]:
        result = run(kvick, "--timeline-detail", *args, kernel)
        assert result.returncode == USAGE
        assert "--timeline-detail needs --timeline FILE.json" in result.stderr
    result = run(kvick, "--timeline", tmp_path / "t.png", kernel)
    assert result.returncode == START
    assert ".json, .svg or .txt" in result.stderr
    assert not list(tmp_path.iterdir())


def test_linux(linux):
    """An unmodified kernel passes every mark, in its order."""

    def boot(path):
        done = linux.kvick(
            "--initrd", linux.guest("initrd.cpio"), "--append", "quiet", "--cpus", "2",
            "--timeline", path, linux.guest("vmlinux"),
        )  # fmt: skip
        assert done.returncode == OK

    marks = boot_marks(linux, boot)
    order = ["ready", "first_entry", "start_kernel", "run_init", "user_space", "boot_complete"]
    times = [marks[name]["ns"] for name in order + ["shutdown", "torn_down"]]
    assert times == sorted(times)


@pytest.mark.usefixtures("kvm_host")
def test_fifo(kvick, flat, tmp_path):
    """One that nobody reads does not keep kvick from ending."""
    path = tmp_path / "run.txt"
    os.mkfifo(path)
    result = run(kvick, "--timeline", path, flat / "print.pvh.elf")
    assert result.returncode == START
    assert result.stderr.endswith(f"{path}: cannot be written: nobody reads from it\n")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert run(kvick, "--timeline", path, flat / "print.pvh.elf").returncode == OK
    assert b"VMM ready" in os.read(reader, 1 << 16)
    os.close(reader)


@pytest.mark.usefixtures("kvm_host")
def test_links(kvick, flat, tmp_path):
    """One to nothing makes a file where it leads; one to itself is refused before the run."""
    (tmp_path / "to.txt").symlink_to(tmp_path / "made.txt")
    assert run(kvick, "--timeline", tmp_path / "to.txt", flat / "print.pvh.elf").returncode == OK
    assert "VMM ready" in (tmp_path / "made.txt").read_text()
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    for name in "loop.txt", "n" * 300 + ".txt":
        result = run(kvick, "--timeline", tmp_path / name, "no-such-kernel")
        assert result.returncode == START
        assert "cannot be written" in result.stderr
        assert "no-such-kernel" not in result.stderr
