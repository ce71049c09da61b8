# SPDX-License-Identifier: Apache-2.0
"""Measurements that cannot be written: one sentence says so, and nothing half-written is left."""

import os
import subprocess

import pytest
from vm import START, run

pytestmark = pytest.mark.usefixtures("kvm_host")

# In a mount namespace of its own: $1 is the folder, $2 how much room it has, then the command. What
# it left behind is said at the end.
SCRIPT = """
mount -t tmpfs -o size=1m none "$1" && cd "$1" || exit 99
head -c "$2" /dev/zero | tee filling >/dev/null
shift 2
"$@" >&2
status=$?
rm filling
echo left: *
exit $status
"""


@pytest.fixture(name="in_little_room")
def fixture_in_little_room(tmp_path):
    """Runs a command in a folder on a file system of which @filled bytes of 1 MiB are taken."""
    space = ["unshare", "--mount"] + (["--map-root-user"] if os.geteuid() else [])
    if subprocess.run([*space, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user has no mount namespaces")

    def little(filled, *command, **env):
        done = subprocess.run(
            [*space, "sh", "-c", SCRIPT, "sh", tmp_path, str(filled), *command],
            capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **env},
        )  # fmt: skip
        assert done.stdout == "left: *\n", done.stdout + done.stderr
        return done

    return little


def lines(text):
    return [line for line in text.splitlines() if line.startswith("kvick")]


@pytest.mark.parametrize("kind", ["json", "svg", "txt"])
def test_timeline(in_little_room, kvick, flat, kind):
    args = ["--timeline", f"t.{kind}", flat / "signal.pvh.elf"]
    done = in_little_room(1 << 20, kvick, "run", *args)
    assert done.returncode == START
    said = f"kvick run: --timeline: t.{kind}: cannot be written: No space left on device"
    assert lines(done.stderr) == [said]


def test_stats(in_little_room, kvick, flat):
    done = in_little_room(1 << 20, kvick, "run", "--stats=s.json", flat / "signal.pvh.elf")
    assert done.returncode == START
    said = "kvick: error: --stats: s.json: cannot be written: No space left on device"
    assert lines(done.stderr) == [said]


def test_report(in_little_room, kvick, tmp_path_factory):
    """The folder was there, and is empty as before."""
    other = str(tmp_path_factory.mktemp("other"))
    done = in_little_room(1000 << 10, kvick, "bench", "report", "--quick", "--out", ".", TMPDIR=other)
    assert done.returncode == START
    said = "kvick bench report: ./report.json: cannot be written: No space left on device"
    assert lines(done.stderr)[-1] == said
    assert not os.listdir(other)


def test_images(in_little_room, kvick):
    """A benchmark's own images find no room."""
    done = in_little_room(1 << 20, kvick, "bench", "halt", TMPDIR=".")
    assert done.returncode == START
    (said,) = lines(done.stderr)
    assert said.startswith("kvick bench halt: ./kvick-bench-") and "No space left" in said


def test_compare(kvick, tmp_path):
    """What nobody could read is no success."""
    bench = [kvick, "bench", "halt", "--vms", "25", "--threads", "1", "--json"]
    figures = subprocess.run(bench, stdout=subprocess.PIPE, timeout=60, check=True).stdout
    (tmp_path / "a").write_bytes(figures)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [kvick, "bench", "compare", tmp_path / "a", tmp_path / "a"],
            stdout=full, stderr=subprocess.PIPE, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == START
    assert lines(done.stderr.decode())[-1] == "kvick bench: cannot write to standard output"


def test_no_folder(kvick, flat, tmp_path):
    done = run(kvick, "--timeline", tmp_path / "no" / "t.txt", flat / "signal.pvh.elf")
    assert done.returncode == START
    path = f"{tmp_path}/no/t.txt"
    said = f"kvick run: --timeline: {path}: cannot be written: No such file or directory"
    assert done.stderr.splitlines() == [said]
