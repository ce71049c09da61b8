# SPDX-License-Identifier: Apache-2.0
"""kvick run with flat guests on this host's KVM: every protocol and format, and how runs end."""

import json
import re
import signal
import subprocess
import time

import pytest
from images import bzimage, padded
from vm import CRASH, HOST, OK, run

pytestmark = pytest.mark.usefixtures("kvm_host")

FORMATS = {
    "pvh.elf": ("auto", "pvh", "linux"),
    "elf64": ("auto", "linux"),
}
PACKINGS = ("none", "gzip", "xz", "lzma", "lz4", "zstd")


def kernel(flat, tmp_path, name, form):
    """A guest in one of the formats, among them bzimage-PACKING."""
    if not form.startswith("bzimage-"):
        return flat / f"{name}.{form}"
    path = tmp_path / f"{name}.bzImage"
    path.write_bytes(bzimage((flat / f"{name}.pvh.elf").read_bytes(), form[8:]))
    return path


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "form,protocol",
    [(f, p) for f, ps in FORMATS.items() for p in ps]
    + [(f"bzimage-{packing}", p) for packing in PACKINGS for p in FORMATS["pvh.elf"]],
)
def test_every_format_and_protocol(kvick, flat, tmp_path, form, protocol):
    initrds = [tmp_path / "initrd1", tmp_path / "initrd2"]
    initrds[0].write_bytes(b"\x01" * 5000)
    initrds[1].write_bytes(b"\x02" * 100)
    done = run(
        kvick,
        "--boot-protocol",
        protocol,
        "--initrd",
        initrds[0],
        "--initrd",
        initrds[1],
        "--append",
        "a=1 b='two words'",
        "--memory",
        "64M",
        kernel(flat, tmp_path, "info", form),
    )
    assert done.returncode == OK, done.stderr
    expected = "linux" if protocol == "linux" or form == "elf64" else "pvh"
    lines = done.stdout.splitlines()
    assert lines[0] == f"protocol {expected}"
    assert lines[-1] == "info done"
    assert "cmdline a=1 b='two words'" in lines
    # The second starts on a page of its own, the gap is zero.
    (initrd,) = [line.split() for line in lines if line.startswith("initrd")]
    assert int(initrd[1], 16) % 4096 == 0
    assert int(initrd[2], 16) == 8192 + 100
    assert int(initrd[3], 16) == 5000 + 200
    assert [line.split()[1] for line in lines if line.startswith(("data", "bss"))] == ["ok", "ok"]
    assert any(re.fullmatch(r"rsdp 0x[1-9a-f][0-9a-f]*", line) for line in lines)


@pytest.mark.parametrize("form", ["pvh.elf", "elf64", "bzimage-zstd"])
def test_copied_images_are_the_same(kvick, flat, tmp_path, form):
    path = kernel(flat, tmp_path, "info", form)
    both = [run(kvick, "--image-map", how, path).stdout for how in ("share", "copy")]
    assert both[0] == both[1]
    assert both[0].endswith("info done\n")


@pytest.mark.parametrize(
    "size,ranges",
    [
        ("16M", [(0x100000, 15 << 20)]),
        ("3G", [(0x100000, (3 << 30) - (1 << 20))]),
        ("3073M", [(0x100000, (3 << 30) - (1 << 20)), (1 << 32, 1 << 20)]),
        ("64G", [(0x100000, (3 << 30) - (1 << 20)), (1 << 32, 61 << 30)]),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_memory_map(kvick, flat, size, ranges, form):
    done = run(kvick, "--memory", size, flat / f"info.{form}")
    assert done.returncode == OK, done.stderr
    found = [
        (int(m[1], 16), int(m[2], 16))
        for m in re.finditer(r"^map (0x\w+) (0x\w+) 1$", done.stdout, re.M)
    ]
    assert found[0][0] == 0
    assert found[1:] == ranges


@pytest.mark.parametrize("guest", ["touch", "worker"])
@pytest.mark.parametrize("start", ["16M", "3071M", "4G", "6G"])
def test_memory_can_be_written(kvick, flat, guest, start):
    args = ("--memory", "5200M", "--append", f"{guest}={start},200")
    done = run(kvick, *args, flat / f"{guest}.pvh.elf")
    assert done.returncode == OK, done.stderr
    assert re.search(r"^(touched|worker done) 200$", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("cpus", [1, 2, 8, 254])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.limit(120)
def test_every_cpu_starts(kvick, flat, cpus, form):
    done = run(kvick, "--cpus", str(cpus), flat / f"smp.{form}", timeout=100)
    assert done.returncode == OK, done.stderr
    assert f"smp online {cpus}\n" in done.stdout


def test_interrupts_arrive(kvick, flat):
    done = run(kvick, "--append", "irq=100", flat / "irq.pvh.elf")
    assert done.returncode == OK, done.stderr
    assert done.stdout.endswith("irq ok\n")


@pytest.mark.parametrize("guest", ["pio", "mmio"])
def test_every_width_of_access(kvick, flat, guest):
    done = run(kvick, flat / f"{guest}.pvh.elf")
    assert done.returncode == OK, done.stderr
    assert done.stdout.endswith(f"{guest} ok\n")


def test_debug_port_reaches_the_log(kvick, flat):
    done = run(kvick, flat / "pio.pvh.elf")
    assert re.search(r"^kvick: .*\S", done.stderr, re.M)


@pytest.mark.parametrize("legacy", ["auto", "on", "off"])
@pytest.mark.parametrize("guest", ["print", "irq"])
def test_legacy_controllers(kvick, flat, legacy, guest):
    done = run(kvick, "--legacy", legacy, flat / f"{guest}.pvh.elf")
    assert done.returncode == OK, done.stderr


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("guest", ["signal", "signal-c0", "print", "acpi-off", "triple"])
def test_orderly_ends(kvick, flat, guest, form):
    done = run(kvick, flat / f"{guest}.{form}")
    assert (done.returncode, done.stderr) == (OK, "")
    assert "still running" not in done.stdout


def test_a_crash_says_where(kvick, flat):
    done = run(kvick, flat / "crash.pvh.elf")
    assert done.returncode == CRASH
    assert re.match(
        r"kvick run: the guest crashed: triple fault at RIP 0x[0-9a-f]+ \(64-bit mode.*\), "
        r"instruction bytes 0f 0b( [0-9a-f]{2})+\n$",
        done.stderr,
    ), done.stderr


def test_a_triple_fault_that_was_asked_for_is_a_reset(kvick, flat):
    for words, status in (
        ("reboot=t", OK),
        ("quiet reboot=k,t panic=1", OK),
        ("reboot=k", CRASH),
        ("xreboot=t", CRASH),
        ("reboot=t reboot=k", CRASH),
    ):
        done = run(kvick, "--append", words, flat / "crash.pvh.elf")
        assert done.returncode == status, (words, done.stderr)


def test_an_instruction_that_kvm_cannot_emulate(kvick, flat, doctor):
    done = run(kvick, flat / "badinsn.pvh.elf")
    if doctor["kvm"].startswith("software"):
        assert done.returncode == HOST
        for text in ("cannot run on this host", "RIP 0x", "instruction bytes f3 0f b8 c0", "testbed/run"):
            assert text in done.stderr, done.stderr
    else:
        # Hardware runs it, and the guest goes on to a triple fault without an IDT.
        assert done.returncode == OK, done.stderr


@pytest.mark.parametrize("guest", ["signal", "signal-c0"])
def test_boot_timer(kvick, flat, guest):
    done = run(kvick, "--boot-timer", flat / f"{guest}.pvh.elf")
    assert done.returncode == OK
    found = re.fullmatch(
        r"kvick: Guest-boot-time = +(\d+) us (\d+) ms, +(\d+) CPU us (\d+) CPU ms\n", done.stderr
    )
    assert found, done.stderr
    us, ms, cpu_us, cpu_ms = map(int, found.groups())
    assert (ms, cpu_ms) == (us // 1000, cpu_us // 1000)
    assert 0 < us < 10_000_000
    assert cpu_us > 0
    assert "Guest-boot-time" not in run(kvick, flat / f"{guest}.pvh.elf").stderr


MARKS = (
    "exec main config image memory vm devices vcpu ready first_entry first_exit first_serial "
    "start_kernel user_space boot_complete shutdown torn_down"
).split()


def test_timeline_json(kvick, flat, tmp_path):
    path = tmp_path / "t.json"
    done = run(kvick, "--timeline", path, flat / "signal.pvh.elf")
    assert (done.returncode, done.stderr) == (OK, "")
    report = json.loads(path.read_text())
    marks = report["marks"]
    # No symbols that Linux has, no serial output: these were not reached, and are not guessed.
    assert list(marks) == [m for m in MARKS if m not in ("first_serial", "start_kernel", "user_space")]
    times = [m["ns"] for m in marks.values()]
    assert times[0] == 0
    assert times == sorted(times)
    assert all(m["cpu_ns"] <= marks["torn_down"]["cpu_ns"] for m in marks.values())
    events = report["traceEvents"]
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    assert "port 0xf4: 123" in [e["name"] for e in events]


def test_timeline_knows_when_it_was_started(kvick, flat, tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    run(kvick, "--timeline", path, flat / "signal.pvh.elf")
    assert json.loads(path.read_text())["otherData"]["exec"] == "derived"
    monkeypatch.setenv("KVICK_EXEC_NS", str(time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
    run(kvick, "--timeline", path, flat / "signal.pvh.elf")
    assert json.loads(path.read_text())["otherData"]["exec"] == "measured"


def test_timeline_of_trace_ports(kvick, flat, tmp_path):
    path = tmp_path / "t.json"
    run(kvick, "--timeline", path, flat / "pio.pvh.elf")
    names = [e["name"] for e in json.loads(path.read_text())["traceEvents"]]
    for port, codes in (("0x80", (0x40, 0x41, 0x60)), ("0xf4", (6, 7, 42)), ("0xf5", (1,))):
        assert [n for n in names if port in n] == [f"port {port}: {c}" for c in codes]
    # These codes mean start_kernel and user space.
    assert {"start_kernel", "user_space"} <= set(json.loads(path.read_text())["marks"])


@pytest.mark.parametrize("target", ["-", "t.txt"])
def test_timeline_text(kvick, flat, tmp_path, target):
    path = target if target == "-" else tmp_path / target
    done = run(kvick, "--timeline", path, flat / "print.pvh.elf")
    text = done.stderr if target == "-" else path.read_text()
    rows = [line.split(maxsplit=3) for line in text.splitlines() if re.match(r" *\d", line)]
    assert [r[3] for r in rows][:2] == ["exec", "main() entered"]
    assert {"VMM ready", "first guest instruction", "first serial byte"} <= {r[3] for r in rows}
    assert [float(r[0]) for r in rows] == sorted(float(r[0]) for r in rows)


def test_large_kernel_in_every_placement(kvick, flat, tmp_path):
    data = (flat / "signal.pvh.elf").read_bytes()
    for skew in (0, 512):
        path = tmp_path / f"kernel{skew}"
        path.write_bytes(padded(data, 8 << 20, skew=skew))
        assert run(kvick, path).returncode == OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("guest", ["spin", "halt", "echo"])
def test_signals_end_the_run(start, flat, tmp_path, number, guest):
    path = tmp_path / "t.json"
    vm = start("--timeline", path, "--cpus", "2", "--boot-timer", flat / f"{guest}.pvh.elf")
    if guest == "echo":
        vm.expect("echo ready")
    else:
        vm.expect("Guest-boot-time", "err")
    # Making the file is no part of the start.
    assert not path.exists()
    vm.signal(number)
    assert vm.wait(5) == 128 + number
    # It was taken down in order.
    assert "torn_down" in json.loads(path.read_text())["marks"]


def test_a_signal_before_the_guest_runs(kvick, flat):
    """Wherever in its start the signal hits, the run ends and is not lost."""
    import subprocess
    for delay in range(0, 60, 2):
        process = subprocess.Popen(
            [kvick, "run", flat / "spin.pvh.elf"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(delay / 10000)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(10) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            process.kill()
            process.wait()


def test_two_vms_at_once(start, flat):
    vms = [start("--id", f"vm{i}", flat / "echo.pvh.elf") for i in range(4)]
    for vm in vms:
        vm.expect("echo ready")
    for i, vm in enumerate(vms):
        vm.send(f"hello {i}")
        vm.expect(f"hello {i}")
    for vm in vms:
        vm.send("q")
        assert vm.wait() == OK
