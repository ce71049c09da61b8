# SPDX-License-Identifier: Apache-2.0
"""kvick doctor: the report in both forms, and what it says on hosts that lack something."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nobody import NOBODY, open_kvick  # noqa: F401 (a fixture)

NAMES = [
    "kvm",
    "kvm-device",
    "kvm-caps",
    "kvm-limits",
    "nx-huge-pages",
    "cgroup-moves",
    "cgroup-memory",
    "overcommit",
    "memlock",
    "huge-pages",
    "thp",
    "thp-shmem",
    "ksm",
    "iommu",
    "vfio",
    "tap",
    "userfaultfd",
]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change what kvick sees")


def run(*args, **kwargs):
    return subprocess.run(
        args, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False,
        **kwargs,
    )


def report(*args, **kwargs):
    """The report as JSON, its shape checked, by name of the probe."""
    result = run(*args, "doctor", "--json", **kwargs)
    assert result.stderr == ""
    whole = json.loads(result.stdout)
    assert set(whole) == {"kvick", "kvm", "linux_guests", "flat_guests", "findings"}
    assert isinstance(whole["kvick"], str)
    assert isinstance(whole["kvm"], str)
    assert isinstance(whole["linux_guests"], bool)
    assert isinstance(whole["flat_guests"], bool)
    for finding in whole["findings"]:
        assert set(finding) == {"name", "level", "text", "fix", "values"}
        assert finding["level"] in ("ok", "warn", "fail")
        assert finding["text"]
        assert finding["fix"] is None or finding["fix"]
        assert all(type(value) is int for value in finding["values"].values())
    assert [finding["name"] for finding in whole["findings"]] == NAMES
    assert result.returncode == (0 if whole["linux_guests"] else 1)
    if whole["linux_guests"]:
        assert whole["flat_guests"]
        assert all(finding["level"] != "fail" for finding in whole["findings"])
    else:
        assert any(finding["level"] == "fail" for finding in whole["findings"])
    return whole, {finding["name"]: finding for finding in whole["findings"]}


def test_text(kvick):
    """The text has the same findings as the JSON, in the same order."""
    whole, _ = report(kvick)
    result = run(kvick, "doctor")
    assert result.stderr == ""
    assert result.returncode == (0 if whole["linux_guests"] else 1)
    lines = result.stdout.splitlines()
    for finding in whole["findings"]:
        line = lines.pop(0)
        assert re.match(r"(ok  |warn|fail)  [a-z0-9-]+: .", line), line
        assert line == f"{finding['level']:<4}  {finding['name']}: {finding['text']}"
        if finding["fix"]:
            assert lines.pop(0) == "      fix: " + finding["fix"]
    assert "guests" in lines[0]


def test_kind(kvick):
    """What kvick says of KVM agrees with what the kernel says of itself."""
    whole, findings = report(kvick)
    if not Path("/dev/kvm").exists():
        assert not whole["flat_guests"]
        pytest.skip("no /dev/kvm here")
    if Path("/sys/module/kvm_pvm").exists():
        assert whole["kvm"] == "software (kvm_pvm)"
        assert not whole["linux_guests"]
        assert findings["kvm"]["level"] == "fail"
        assert "testbed/run" in findings["kvm"]["fix"]
    elif os.access("/dev/kvm", os.R_OK | os.W_OK):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        assert whole["linux_guests"] == ("svm" in flags or "vmx" in flags)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert whole["flat_guests"]
        assert findings["kvm-device"]["values"]["api_version"] == 12
        assert findings["kvm-caps"]["values"]["split_irqchip"] == 1
        assert findings["kvm-limits"]["values"]["max_vcpus"] >= 1


def test_huge_pages(kvick):
    """The figures are the kernel's."""
    _, findings = report(kvick)
    values = findings["huge-pages"]["values"]
    for size, kib in (("2m", 2048), ("1g", 1048576)):
        path = Path(f"/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages")
        if path.exists():
            assert values[f"total_{size}"] == int(path.read_text(encoding="utf-8"))


def test_usage(kvick):
    for args, text in (
        (["--jsno"], "unknown option --jsno; did you mean --json?"),
        (["--json", "--json"], "option --json is given more than once"),
        (["now"], 'unexpected argument "now"'),
    ):
        result = run(kvick, "doctor", *args)
        assert result.returncode == 2
        assert result.stdout == ""
        assert text in result.stderr


@pytest.mark.parametrize("args", [["doctor"], ["doctor", "--json"]])
def test_cannot_be_written(kvick, args):
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(
            [kvick, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False
        )
    assert result.returncode == 1
    assert "the report could not be written" in result.stderr


@needs_root
def test_no_permission(open_kvick):
    """A user who may not open /dev/kvm is told how to change that."""
    status = os.stat("/dev/kvm") if Path("/dev/kvm").exists() else None
    if not status or status.st_mode & 0o006:
        pytest.skip("no /dev/kvm here, or it is everybody's")
    whole, findings = report(open_kvick, **NOBODY)
    assert not whole["flat_guests"]
    device = findings["kvm-device"]
    assert device["level"] == "fail"
    assert f"{status.st_mode & 0o777:03o}" in device["text"]
    assert "usermod -aG" in device["fix"]


@needs_root
def test_no_device(kvick):
    """Without /dev/kvm (as in a container) nothing runs; the report is complete all the same."""
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"]
    if run(*hide, "true").returncode:
        pytest.skip("mount namespaces are not allowed here")
    whole, findings = report(*hide, kvick)
    assert not whole["flat_guests"]
    assert findings["kvm-device"]["level"] == "fail"
    assert "No such file" in findings["kvm-device"]["text"]
    assert findings["kvm-caps"]["level"] == "fail"
    assert findings["tap"]["level"] == "warn"


UNDO = {
    "cgroup-moves": "mount -o remount,nofavordynmods /sys/fs/cgroup",
    "huge-pages": "echo 0 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
}


def test_hardware_and_fixes(testbed):
    """On a host that runs Linux the status is 0, and the commands that doctor gives mend things."""

    def findings():
        done = testbed.run(["kvick", "doctor", "--json"], timeout=60)
        whole = json.loads(done.stdout)
        assert done.returncode == 0
        assert whole["linux_guests"]
        assert whole["kvm"] == "hardware (AMD-V)"
        return {finding["name"]: finding for finding in whole["findings"]}

    before = findings()
    assert before["iommu"]["values"]["groups"] > 0
    try:
        for name in UNDO:
            assert before[name]["level"] == "warn", name
            command = before[name]["fix"].split(" (")[0]
            script = 'sudo() { "$@"; }; ' + command
            assert testbed.run(["sh", "-c", script], timeout=60).returncode == 0, command
        after = findings()
        for name in UNDO:
            assert after[name]["level"] == "ok", after[name]
            assert after[name]["fix"] is None
    finally:
        for command in UNDO.values():
            testbed.run(["sh", "-c", command], timeout=60)
    assert findings()["huge-pages"]["level"] == "warn"
