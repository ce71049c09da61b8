# SPDX-License-Identifier: Apache-2.0
"""What `make install` puts where."""

import re
import subprocess

import pytest


@pytest.fixture(name="root", scope="module")
def installed(build, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    command = ["meson", "install", "--no-rebuild", "-C", build, "--destdir", root]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    return root


def found(root, pattern):
    (path,) = root.rglob(pattern)
    return path


def test_program_and_manual(root):
    program = found(root, "bin/kvick")
    said = subprocess.run([program, "--version"], capture_output=True, timeout=20, check=True).stdout
    assert said.startswith(b"kvick ")
    for page in ("kvick.1", "kvick-run.1", "kvick-pool.1"):
        assert found(root, f"man1/{page}*").stat().st_size > 1000


def test_units(root):
    """systemd's units name the program where it was installed, and each other."""
    service = found(root, "systemd/system/kvick-pool.service").read_text()
    assert "ListenSequentialPacket=" in found(root, "systemd/system/kvick-pool.socket").read_text()
    start = re.search(r"^ExecStart=(\S+) pool serve", service, re.M)[1]
    assert (root / start.lstrip("/")).is_file()
    assert "Requires=kvick-pool.socket" in service
