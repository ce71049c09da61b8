# SPDX-License-Identifier: Apache-2.0
"""The testbed does what its users rely on: statuses, streams, files, kills, clean ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "testbed" / "run"
sys.path.insert(0, str(ROOT / "testbed"))

import testbed  # noqa: E402
from tb_machine import Monitor  # noqa: E402
from testbed import Testbed, TestbedError, TestbedTimeout  # noqa: E402

pytestmark = pytest.mark.skipif(bool(testbed.missing()), reason=str(testbed.missing()))


@pytest.fixture(scope="module", name="tb")
def running_testbed():
    with Testbed(build=False) as tb:
        yield tb


def emulators(pid):
    """The emulators that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = status.read_text(encoding="utf-8").split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name.startswith("qemu") and int(rest.split()[1]) == pid:
            found.append(int(status.parent.name))
    return found


def cli(*args, **kw):
    return subprocess.run([RUN, *args], capture_output=True, timeout=120, check=False, **kw)


def test_status_and_streams(tb):
    done = tb.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.returncode, done.signal) == (7, 0)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert 0 < done.duration < 30


def test_signal_death_is_128_plus_n(tb):
    done = tb.run(["sh", "-c", "kill -SEGV $$"])
    assert (done.returncode, done.signal) == (128 + signal.SIGSEGV, signal.SIGSEGV)


def test_a_command_that_is_not_there(tb):
    done = tb.run(["no-such-command"])
    assert done.returncode == 127
    assert b"no-such-command" in done.stderr
    assert tb.run(["/etc/passwd"]).returncode == 126
    assert tb.run(["true"], cwd="/no/such/folder").returncode == 126


def test_it_is_an_amd_v_host(tb):
    assert b"svm" in tb.run(["grep", "-m1", "^flags", "/proc/cpuinfo"]).stdout.split()
    assert b"kvm_amd" in tb.run(["lsmod"]).stdout
    assert tb.run(["cat", "/sys/module/kvm_amd/parameters/npt"]).stdout in (b"1\n", b"Y\n")
    assert tb.run(["test", "-c", "/dev/kvm"]).returncode == 0
    assert tb.run(["ls", "/sys/kernel/iommu_groups"]).stdout


def test_no_module_failed(tb):
    assert "did not load" not in tb.console()


def test_commands_run_on_one_cpu(tb):
    allowed = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    assert tb.run(allowed).stdout.split()[1] == b"1"
    assert tb.run(allowed, spread=True).stdout.split()[1] == b"0-1"


def test_users(tb):
    assert tb.run(["id", "-u"]).stdout == b"0\n"
    done = tb.run(["sh", "-c", "id -un; id -Gn; exec 3<>/dev/kvm && echo kvm"], user="tester")
    assert done.stdout.split() == [b"tester", b"tester", b"kvm", b"kvm"], done
    assert tb.run(["touch", "/root/x"], user="tester").returncode == 1
    done = tb.run(["sh", "-c", "touch ~/x && echo $HOME"], user="tester")
    assert done.stdout == b"/home/tester\n"


def test_environment_and_folder(tb):
    done = tb.run(["sh", "-c", 'echo "$A"; pwd'], env={"A": "b c"}, cwd="/tmp")
    assert done.stdout == b"b c\n/tmp\n"


def test_stdin(tb):
    data = os.urandom(3 << 20)
    assert tb.run(["cat"], stdin=data).stdout == data
    # One that never reads must not stop the channel for others.
    assert tb.run(["true"], stdin=data).returncode == 0
    assert tb.run(["echo", "still there"]).stdout == b"still there\n"


def test_much_output_on_both_streams(tb):
    script = "dd if=/dev/zero bs=64k count=80; dd if=/dev/zero bs=64k count=80 >&2"
    done = tb.run(["sh", "-c", script + " 2>/dev/null"])
    assert len(done.stdout) == 80 << 16
    both = tb.run(["sh", "-c", "(yes o | head -c 2000000) & (yes e | head -c 2000000) >&2; wait"])
    assert both.stdout == b"o\n" * 1000000
    assert both.stderr == b"e\n" * 1000000


def test_output_comes_as_it_is_written(tb):
    job = tb.spawn(["sh", "-c", "echo first; read x; echo second $x"])
    assert job.wait_for(b"first\n") == b"first\n"
    assert job.poll() is None
    job.write(b"go\n")
    assert job.wait(20).stdout == b"first\nsecond go\n"


def test_no_output_is_lost_when_the_channel_is_full(tb):
    slow = threading.Semaphore(0)
    flood = tb.spawn(["yes"], on_output=lambda *_: slow.acquire())
    time.sleep(2)
    # This one ends while the agent can only send when the flood's reader takes something.
    job = tb.spawn(["head", "-c", "262144", "/dev/zero"])
    for _ in range(10):
        time.sleep(1)
        slow.release()
    flood.kill(signal.SIGKILL)
    slow.release(1 << 20)
    assert len(job.wait(60).stdout) == 262144
    assert flood.wait(60).signal == signal.SIGKILL


def test_kill(tb):
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    job = tb.spawn(["sh", "-c", script])
    job.wait_for(b"ready\n")
    job.kill()
    done = job.wait(20)
    assert (done.returncode, done.stdout) == (9, b"ready\ncaught\n")
    job = tb.spawn(["sleep", "1000"])
    job.kill(signal.SIGKILL)
    assert job.wait(20).returncode == 128 + signal.SIGKILL


def test_timeout_kills_everything(tb):
    script = "setsid sh -c 'echo $$ >/tmp/escaped; exec sleep 1001' & echo out; sleep 1002"
    with pytest.raises(TestbedTimeout) as e:
        tb.run(["sh", "-c", script], timeout=2)
    assert e.value.stdout == b"out\n"
    pid = tb.get("/tmp/escaped").decode().strip()
    assert pid
    assert tb.run(["test", "-d", f"/proc/{pid}"]).returncode == 1


def test_what_outlives_a_command_is_counted_and_killed(tb):
    done = tb.run(["sh", "-c", "sleep 1003 & echo $!"])
    assert (done.returncode, done.leftovers) == (0, 1)
    assert tb.run(["test", "-d", f"/proc/{done.stdout.decode().strip()}"]).returncode == 1
    assert tb.run(["true"]).leftovers == 0


def test_put_and_get(tb, tmp_path):
    for size in (0, 1, 4096, 40 << 20):
        data = os.urandom(size)
        tb.put("/tmp/a/b/file", data)
        assert tb.get("/tmp/a/b/file") == data
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho run\n", encoding="ascii")
    script.chmod(0o755)
    tb.put("/tmp/script", script)
    assert tb.run(["/tmp/script"]).stdout == b"run\n"
    assert tb.get("/proc/version").startswith(b"Linux version")
    with pytest.raises(TestbedError, match="No such file"):
        tb.get("/no/such/file")
    with pytest.raises(TestbedError, match="/proc/x"):
        tb.put("/proc/x", b"data")
    assert tb.run(["true"]).returncode == 0


def test_a_running_program_can_be_replaced(tb):
    busybox = tb.get("/bin/busybox")
    tb.put("/tmp/bb/sleep", busybox, 0o755)
    job = tb.spawn(["/tmp/bb/sleep", "1000"])
    tb.put("/tmp/bb/sleep", busybox, 0o755)
    job.kill()
    assert job.wait(20).signal == signal.SIGTERM


def test_many_at_once(tb):
    results = {}

    def worker(n):
        for i in range(5):
            results[n, i] = tb.run(["sh", "-c", f"echo {n}-{i}; exit {n}"])

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 40
    for (n, i), done in results.items():
        assert (done.returncode, done.stdout) == (n, f"{n}-{i}\n".encode())


def test_more_commands_than_the_agent_takes_are_refused(tb):
    jobs = [tb.spawn(["sleep", "1000"]) for _ in range(64)]
    refused = tb.run(["true"])
    for job in jobs:
        job.kill()
    assert refused.returncode == 126
    assert b"cannot run the command" in refused.stderr
    assert {job.wait(60).signal for job in jobs} == {signal.SIGTERM}
    assert tb.run(["ls", "/sys/fs/cgroup"]).stdout.count(b"job-") == 1


def test_a_hundred_commands(tb):
    for i in range(100):
        assert tb.run(["echo", str(i)]).stdout == f"{i}\n".encode()


def test_the_clock_is_right(tb):
    assert abs(int(tb.run(["date", "+%s"]).stdout) - time.time()) < 60


def test_a_host_that_dies_is_noticed(tb):
    with Testbed(build=False) as other:
        assert other.alive
        start = time.monotonic()
        with pytest.raises(TestbedError, match="the emulated host is gone"):
            other.run(["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100"], timeout=90)
        assert time.monotonic() - start < 60
        assert not other.alive
        with pytest.raises(TestbedError):
            other.run(["true"])
    assert tb.run(["true"]).returncode == 0


def test_an_agent_that_dies_is_noticed():
    with Testbed(build=False) as other:
        # Process 1 ignores signals that it does not handle, so it is made to read nonsense.
        other.machine.port.sendall(b"\xff" * 64)
        with pytest.raises(TestbedError, match="testbed agent: a frame of"):
            other.run(["sleep", "100"], timeout=60)


def test_nothing_stays_behind():
    before = emulators(os.getpid())
    fds = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    other = Testbed(build=False, devices=["nvme"])
    other.start()
    other.spawn(["sleep", "1000"])
    assert len(emulators(os.getpid())) == len(before) + 1
    other.close()
    assert emulators(os.getpid()) == before
    assert set(os.listdir("/proc/self/fd")) == fds
    assert threading.active_count() == threads


def test_saved_and_booted_hosts_are_alike(tb):
    with Testbed(build=False, saved=False) as booted:
        for command in (["lsmod"], ["mount"], ["id"], ["ls", "/dev"]):
            one, two = (t.run(command).stdout.decode().splitlines() for t in (tb, booted))
            strip = [" ".join(sorted(line.split()[:1])) for line in one]
            assert strip == [" ".join(sorted(line.split()[:1])) for line in two]


def test_devices_and_huge_pages():
    options = {"devices": ["edu", "blk"], "hugepages": "2M=16", "append": "kvicktest=1"}
    with Testbed(build=False, **options) as tb2:
        assert b"HugePages_Total:      16" in tb2.run(["cat", "/proc/meminfo"]).stdout
        assert b"kvicktest=1" in tb2.run(["cat", "/proc/cmdline"]).stdout
        assert tb2.run(["test", "-b", "/dev/vda"]).returncode == 0
        found = tb2.run(["sh", "-c", "grep -l 0x11e8 /sys/bus/pci/devices/*/device"]).stdout
        done = tb2.run(["vfio-bind", found.decode().split("/")[5]])
        assert done.stdout.startswith(b"/dev/vfio/"), done
        assert tb2.run(["test", "-c", done.stdout.decode().strip()]).returncode == 0
        assert tb2.run(["vfio-bind", "0000:99:00.0"]).returncode == 1
    with pytest.raises(TestbedError, match="no device 'toaster'"):
        Testbed(devices=["toaster"]).start()


def test_cpus_wake_each_other(tb):
    """Without, an interrupt that the emulator loses stops a CPU (README.md, Pitfalls)."""
    pids = tb.run(["pidof", "testbed-steady"]).stdout.split()
    assert len(pids) == int(tb.run(["grep", "-c", "^processor", "/proc/cpuinfo"]).stdout)


def test_an_emulator_that_ends_between_two_commands():
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"QMP": {}}\n{"return": {}}\n')
    monitor = Monitor(ours)
    theirs.close()
    with pytest.raises(TestbedError, match="the emulator ended"):
        monitor.call("query-migrate")
    monitor.close()


def test_a_damaged_saved_state_is_replaced(tmp_path, monkeypatch, capfd):
    shared = testbed.tb_parts.cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine = testbed.tb_parts.cache_dir()
    for name in ("kernel-", "qemu-", "base-", "busybox-"):
        for path in shared.glob(name + "*"):
            os.symlink(path, mine / path.name)
    with Testbed(build=False) as tb2:
        assert tb2.run(["true"]).returncode == 0
    (state,) = mine.glob("saved-*/state")
    os.truncate(state, 1 << 20)
    with Testbed(build=False) as tb2:
        assert tb2.run(["true"]).returncode == 0
    assert "a saved state does not load" in capfd.readouterr().err
    with Testbed(build=False) as tb2:
        assert tb2.run(["true"]).returncode == 0
    assert capfd.readouterr().err == ""


def test_cli():
    done = cli("--", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"out\n", b"err\n")
    assert cli("--", "sh", "-c", "kill -9 $$").returncode == 137
    assert cli("--", "cat", input=b"some input").stdout == b"some input"
    assert cli("--user", "tester", "--", "id", "-un").stdout == b"tester\n"


def test_cli_timeout_is_124():
    done = cli("--timeout", "1", "--", "sleep", "1000")
    assert done.returncode == 124
    assert done.stderr == b"testbed: sleep was killed after 1 s\n"


@pytest.mark.parametrize(
    "args, text",
    [
        (["--no-such"], b"unrecognized arguments"),
        ([], b"which command?"),
        (["--memory", "lots", "--", "true"], b"expected a size"),
        (["--cpus", "0", "--", "true"], b"expected a number above 0"),
        (["--hugepages", "4M=1", "--", "true"], b"expected 2M=COUNT"),
        (["--devices", "edu=x", "--", "true"], b"takes no file"),
        (["--devices", "nvme=/no/such", "--", "true"], b"no file /no/such"),
        (["--qemu", "/no/such", "--", "true"], b"cannot run the emulator"),
        (["--qemu-args=-no-such", "--", "true"], b"-no-such"),
        (["--put", "/no/such:/x", "--", "true"], b"/no/such"),
        (["--", "poweroff", "-f"], b"the emulated host is gone"),
    ],
)
def test_cli_failures_of_the_testbed_are_125(args, text):
    done = cli(*args)
    assert done.returncode == 125
    assert text in done.stderr
    assert b"Traceback" not in done.stderr


def test_cli_files(tmp_path):
    (tmp_path / "in").write_bytes(b"to and fro")
    script = "rev </x >/y; cat /x"
    put, get = f"{tmp_path}/in:/x", f"/y:{tmp_path}/out"
    assert cli("--put", put, "--get", get, "--", "sh", "-c", script).stdout == b"to and fro"
    assert (tmp_path / "out").read_bytes().strip() == b"orf dna ot"


def test_cli_file_of_a_command_that_failed(tmp_path):
    """What a command did not come to writing is not another failure."""
    get = f"/none:{tmp_path}/out"
    failed = cli("--get", get, "--", "sh", "-c", "echo why >&2; exit 3")
    assert (failed.returncode, failed.stderr) == (3, b"why\n")
    done = cli("--get", get, "--", "true")
    assert done.returncode == 125 and b"/none" in done.stderr


def test_cli_packages():
    assert b"qemu-system-x86\n" in cli("--packages").stdout


@pytest.mark.parametrize("sig, status", [("INT", 130), ("TERM", 143), ("KILL", -9)])
def test_cli_stopped_leaves_no_emulator(sig, status):
    number = getattr(signal, "SIG" + sig)
    argv = [RUN, "--", "sh", "-c", "echo here; sleep 1000"]
    proc = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert proc.stdout.readline() == b"here\n"
        (qemu,) = emulators(proc.pid)
        proc.send_signal(number)
        assert proc.wait(20) == status
        end = time.monotonic() + 10
        while os.path.exists(f"/proc/{qemu}") and time.monotonic() < end:
            time.sleep(0.05)
        assert not os.path.exists(f"/proc/{qemu}")
    finally:
        proc.kill()
        proc.wait()
        proc.stdout.close()
