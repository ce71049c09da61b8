# SPDX-License-Identifier: Apache-2.0
"""What RAM is made of and when it becomes present: every backing and population with flat guests on
this host and with Linux on huge pages in the emulated one; and memory that is not to be had."""

import contextlib
import json
import os
import pty
import re
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hugepages import HUGE, emulated_huge_pages, some_huge_pages  # noqa: F401 (a fixture)
from images import padded
from places import Emulated
from pools import pool_factory  # noqa: F401 (a fixture)
from vm import KVM, OK, SHRANK, START, USAGE, run, until

MIB = 1 << 20
PAGES = 8192  # that the guest writes: 32 MiB
POPULATES = ("none", "full", "background", "vcpu")


def works(kvick, flat, memory, *args, protocol="pvh"):
    """A guest writes memory in user mode and reads it back. Returns the run."""
    done = run(
        kvick,
        "--memory",
        memory,
        "--append",
        f"worker=16M,{PAGES}",
        *args,
        flat / f"worker.{protocol}{'.elf' if protocol == 'pvh' else ''}",
        timeout=120,
    )
    assert done.returncode == OK, done.stderr
    assert f"worker done {PAGES}" in done.stdout
    return done


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("populate", POPULATES)
@pytest.mark.parametrize("backing", ["anon", "anon,thp=on", "anon,thp=off", "anon,shared=on", "memfd"])
def test_backings(kvick, flat, backing, populate):
    works(kvick, flat, f"128M,backing={backing},populate={populate}")


@pytest.mark.usefixtures("kvm_host", "huge_pages")
@pytest.mark.parametrize("populate", POPULATES)
def test_hugetlb(kvick, flat, populate):
    for more in ("", ",shared=on", ",mlock=on,numa=0"):
        works(kvick, flat, f"128M,backing=hugetlb-2m,populate={populate}{more}")
    works(kvick, flat, f"128M,backing=hugetlb-2m,populate={populate}", "--image-map", "copy")
    assert int((HUGE / "free_hugepages").read_text()) >= 96


@pytest.mark.usefixtures("kvm_host", "huge_pages")
def test_firecrackers_huge_pages(flat, start, tmp_path):
    path = tmp_path / "vm.json"
    path.write_text(
        json.dumps({
            "boot-source": {"kernel_image_path": str(flat / "echo.pvh.elf")},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128, "huge_pages": "2M"},
        })
    )  # fmt: skip
    free = int((HUGE / "free_hugepages").read_text())
    vm = start("--config-file", path)
    vm.expect("echo ready")
    # Not all of the pages: those below the images became small.
    assert int((HUGE / "free_hugepages").read_text()) < free
    assert int((HUGE / "resv_hugepages").read_text()) > 0
    vm.send("q")
    assert vm.wait() == OK


@pytest.mark.usefixtures("kvm_host")
def test_across_the_hole(kvick, flat):
    """The second region of a backing begins where the first one ends."""
    for backing in ("anon", "memfd", "file:/dev/shm/kvick-test-ram"):
        try:
            done = run(
                kvick, "--memory", f"3200M,backing={backing}", "--append", f"worker=4G,{PAGES}",
                flat / "worker.pvh.elf", timeout=120,
            )  # fmt: skip
            assert f"worker done {PAGES}" in done.stdout, (backing, done)
        finally:
            Path("/dev/shm/kvick-test-ram").unlink(missing_ok=True)


@pytest.mark.usefixtures("kvm_host")
def test_file(kvick, flat, tmp_path):
    ram = tmp_path / "ram"
    for populate in POPULATES:
        works(kvick, flat, f"64M,backing=file:{ram},populate={populate}")
        assert ram.stat().st_size == 64 * MIB
        # What the guest wrote is in the file; the next VM begins with zeros.
        assert (16 * MIB).to_bytes(8, "little") == ram.read_bytes()[16 * MIB : 16 * MIB + 8]
    ram.write_text("precious")
    done = run(kvick, "--memory", f"64M,backing=file:{ram}", flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "would be overwritten" in done.stderr
    assert ram.read_text() == "precious"


@pytest.mark.usefixtures("kvm_host")
def test_file_of_a_start_that_fails(kvick, flat, tmp_path):
    """Memory is there, but the rest is not: nothing is left in the way of the next start."""
    ram, big = tmp_path / "ram", tmp_path / "initrd"
    big.write_bytes(bytes(65 * MIB))
    args = ["--memory", f"64M,backing=file:{ram}", flat / "signal.pvh.elf"]
    for before in None, 0:
        done = run(kvick, "--initrd", big, *args)
        refused(done, "give the VM more --memory or a smaller initrd")
        assert ram.exists() == (before is not None)
        ram.touch()
    assert ram.stat().st_size == 0


@pytest.mark.usefixtures("kvm_host")
def test_file_of_a_start_that_is_killed(kvick, flat, start):
    """While the space of both of its regions is reserved: the same command works again."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ram = Path(folder, "ram")
        args = ["--memory", f"3200M,backing=file:{ram}", flat / "signal.pvh.elf"]
        # On a busy machine it may be over before it is killed.
        for _ in range(5):
            vm = start(*args)
            until(lambda: ram.exists() and ram.stat().st_blocks * 512 > 64 * MIB, "the reservation")
            vm.signal(signal.SIGKILL)
            status = vm.wait()
            if status != OK:
                break
            ram.unlink()
        assert status == 128 + signal.SIGKILL
        assert ram.stat().st_size == 3200 * MIB
        assert run(kvick, *args).returncode == OK


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("disk", [True, False])
def test_file_that_shrinks(flat, start, tmp_path, disk):
    """Nothing can give the guest its memory back: the file is named, and nothing is left behind."""
    with tempfile.TemporaryDirectory(dir=tmp_path if disk else "/dev/shm") as folder:
        ram, sock = Path(folder, "ram"), tmp_path / "sock"
        memory = f"64M,backing=file:{ram}"
        vm = start("--memory", memory, "--cpus", "2", "--api-sock", sock, flat / "pages.pvh.elf")
        vm.expect("pages ready")
        assert sock.exists()
        os.truncate(ram, 0)
        # The guest's code is gone, too.
        assert vm.wait() == SHRANK
        assert re.fullmatch(rf"kvick( run)?: (error: )?{ram}\W.*became shorter while the VM was using it.*\n", vm.err)
        assert not sock.exists()


@pytest.mark.usefixtures("kvm_host")
def test_file_of_another_vm(flat, start, kvick, tmp_path):
    memory = f"64M,backing=file:{tmp_path / 'ram'}"
    vm = start("--memory", memory, flat / "echo.pvh.elf")
    vm.expect("echo ready")
    done = run(kvick, "--memory", memory, flat / "signal.pvh.elf")
    assert done.returncode == START
    assert "the RAM of another VM" in done.stderr
    vm.send("q")
    assert vm.wait() == OK


@pytest.mark.usefixtures("kvm_host")
def test_guest_sees_all_memory(kvick, flat):
    seen = set()
    for memory in ("128M", "128M,backing=memfd", "128M,thp=on,populate=full"):
        done = run(kvick, "--memory", memory, flat / "info.pvh.elf")
        assert "info done" in done.stdout
        seen.add("\n".join(re.findall(r"map .*", done.stdout)))
    assert len(seen) == 1


def present(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("populate", ["full", "vcpu"])
def test_all_present_at_the_guests_start(flat, start, populate):
    vm = start("--memory", f"128M,populate={populate}", flat / "echo.pvh.elf")
    vm.expect("echo ready")
    assert present(vm.pid) > 127 * MIB
    vm.send("q")
    assert vm.wait() == OK


@pytest.mark.usefixtures("kvm_host")
def test_slices_of_several_vcpus(flat, start):
    """A guest that runs on one CPU only: the others' slices are populated all the same."""
    vm = start("--memory", "128M,populate=vcpu", "--cpus", "3", flat / "echo.pvh.elf")
    vm.expect("echo ready")
    until(lambda: present(vm.pid) > 127 * MIB, "population")
    vm.send("q")
    assert vm.wait() == OK


def priorities(pid):
    """Policy and nice value of the threads that populate in the background; proc_pid_stat(5)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            name, fields = path.read_text().rsplit(") ", 1)
            if name.endswith("(kvick populate"):
                found.append((int(fields.split()[38]), int(fields.split()[16])))
    return found


@pytest.mark.usefixtures("kvm_host")
def test_background(flat, start):
    vm = start("--memory", "1G,thp=off,populate=background,threads=2", flat / "echo.pvh.elf")
    # SCHED_IDLE and as nice as can be, before they have done anything.
    assert set(until(lambda: priorities(vm.pid), "threads that populate")) == {(5, 19)}
    vm.expect("echo ready")
    until(lambda: present(vm.pid) > 1023 * MIB, "population", timeout=60)
    vm.send("q")
    assert vm.wait() == OK


@pytest.mark.usefixtures("kvm_host")
def test_images_stay_shared(flat, start, tmp_path):
    """Population maps an image's pages in, but never copies them."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(padded((flat / "echo.pvh.elf").read_bytes(), 4 * MIB))
    vm = start("--memory", "128M,populate=full", kernel)
    vm.expect("echo ready")
    smaps = Path(f"/proc/{vm.pid}/smaps").read_text()
    parts = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps)
    mapped = [p for p in parts if p and str(kernel) in p.splitlines()[0]]
    largest = max(mapped, key=lambda p: int(re.search(r"Size:\s+(\d+)", p)[1]))
    assert int(re.search(r"Rss:\s+(\d+)", largest)[1]) >= 4000
    assert int(re.search(r"Anonymous:\s+(\d+)", largest)[1]) == 0
    vm.send("q")
    assert vm.wait() == OK


@pytest.mark.usefixtures("kvm_host")
def test_timeline_tells_the_rate(kvick, flat, tmp_path):
    path = tmp_path / "t.json"
    run(kvick, "--memory", "128M,populate=full", "--timeline", path, flat / "signal.pvh.elf")
    timeline = json.loads(path.read_text())
    marks = timeline["marks"]
    assert marks["memory"]["ns"] <= marks["populate_begin"]["ns"] < marks["populate_end"]["ns"]
    assert marks["populate_end"]["ns"] <= marks["first_entry"]["ns"]
    took = (marks["populate_end"]["ns"] - marks["populate_begin"]["ns"]) / 1e9
    assert 120 * MIB < timeline["populate"]["bytes"] <= 128 * MIB
    rate = timeline["populate"]["bytes"] / took
    assert timeline["populate"]["bytes_per_second"] == pytest.approx(rate, rel=0.01)
    text = run(kvick, "--memory", "64M,populate=vcpu", "--timeline", "-", flat / "signal.pvh.elf").stderr
    assert re.search(r"guest memory present: [\d.]+ MiB at [\d.]+ GB/s", text)


@pytest.mark.usefixtures("kvm_host")
def test_timeline_of_background(flat, start, tmp_path):
    path = tmp_path / "t.json"
    vm = start("--memory", "128M,populate=background", "--timeline", path, flat / "echo.pvh.elf")
    vm.expect("echo ready")
    until(lambda: present(vm.pid) > 127 * MIB, "population", timeout=60)
    # The threads, which run when no one else wants to, still have to say that they are done.
    until(lambda: "kvick populate" not in names(vm.pid), "the end of population", timeout=60)
    vm.send("q")
    assert vm.wait() == OK
    timeline = json.loads(path.read_text())
    assert 120 * MIB < timeline["populate"]["bytes"] <= 128 * MIB
    assert timeline["populate"]["bytes_per_second"] > 0


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("populate", ["full", "vcpu", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_population(flat, start, populate, number):
    vm = start("--memory", f"3G,populate={populate},thp=off", flat / "spin.pvh.elf")
    until(lambda: present(vm.pid) > 64 * MIB, "population")
    begun = time.monotonic()
    vm.signal(number)
    assert vm.wait(10) == 128 + number
    # The machine may be busy; alone this takes some 50 ms, most of it for giving memory back.
    assert time.monotonic() - begun < 5
    assert vm.err == ""


@pytest.mark.usefixtures("kvm_host")
def test_progress_on_a_terminal(flat, start):
    reader, terminal = pty.openpty()
    vm = start("--memory", "4G,populate=full,thp=off", flat / "spin.pvh.elf", stderr=terminal)
    os.close(terminal)
    shown = b""
    end = time.monotonic() + 30
    while b"GB/s" not in shown and time.monotonic() < end:
        shown += os.read(reader, 4096)
    assert re.search(rb"\rkvick: memory: \d\.\d of 4\.0 GiB, \d+\.\d\d GB/s", shown), shown
    vm.signal(signal.SIGINT)
    assert vm.wait(10) == 130
    os.close(reader)


@pytest.mark.plain  # a sanitizer has memory of its own
@pytest.mark.usefixtures("kvm_host")
def test_small_vm_stays_small(flat, start):
    """By default nothing is cleared that nobody asked for, whatever the host's policy is."""
    vm = start("--memory", "128M", flat / "halt.pvh.elf")
    until(lambda: "fc_vcpu 0" in names(vm.pid), "the guest's start")
    time.sleep(0.3)
    rollup = Path(f"/proc/{vm.pid}/smaps_rollup").read_text()
    assert int(re.search(r"AnonHugePages:\s+(\d+)", rollup)[1]) == 0
    assert int(re.search(r"Anonymous:\s+(\d+)", rollup)[1]) < 512, rollup


def names(pid):
    """Of the threads; one may end while this looks."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            found.append(path.read_text().strip())
    return found


def flags(pid, size):
    """What the kernel says of the mapping of RAM, the largest one; and its kB of locked memory."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    parts = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps)
    largest = max(parts[1:], key=lambda p: int(re.search(r"Size:\s+(\d+)", p)[1]))
    assert int(re.search(r"Size:\s+(\d+)", largest)[1]) > size // 1024 * 0.9, largest
    return set(re.search(r"VmFlags: (.*)", largest)[1].split())


@pytest.mark.plain  # the largest mapping is RAM, not a sanitizer's
@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize(
    ("more", "there", "absent"),
    [
        ("", "dd", "mg lo sh"),
        (",dump=on,merge=on,mlock=on", "mg lo", "dd sh"),
        (",shared=on,thp=on", "dd sh hg", "mg lo"),
        (",backing=memfd,mlock=on,thp=off", "dd sh lo nh", "mg"),
    ],
)
def test_options_reach_the_kernel(flat, start, more, there, absent):
    """dump, merge, mlock, shared and thp, as /proc/PID/smaps names them (proc(5), VmFlags)."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if "mlock" in more and os.geteuid() and 0 <= limit < 128 * MIB:
        pytest.skip("this user may not lock 128 MiB (ulimit -l)")
    vm = start("--memory", f"128M{more}", flat / "echo.pvh.elf")
    vm.expect("echo ready")
    found = flags(vm.pid, 128 * MIB)
    if "mg" in there and not Path("/sys/kernel/mm/ksm").exists():
        there = there.replace("mg", "")
    assert set(there.split()) <= found and not set(absent.split()) & found, found
    vm.send("q")
    assert vm.wait() == OK


def refused(done, *texts):
    assert done.returncode == START, done
    assert done.stderr.count("\n") == 1, done.stderr
    for text in texts:
        assert text in done.stderr


@pytest.mark.usefixtures("kvm_host")
def test_huge_pages_short(kvick, flat):
    done = run(kvick, "--memory", "4000G,backing=hugetlb-2m", flat / "signal.pvh.elf")
    refused(done, "memory: 2048000 huge pages of 2M are needed", "are missing; reserve them: cd /sys")


@pytest.mark.usefixtures("kvm_host", "huge_pages")
@pytest.mark.parametrize("populate", POPULATES)
def test_huge_pages_of_another_vm(kvick, flat, start, populate):
    """What another VM has set aside, touched or not, is not there; and it loses none of it."""
    free, memory = HUGE / "free_hugepages", "backing=hugetlb-2m"
    before = int(free.read_text())
    # Copied images, so that no huge page becomes small ones.
    args = ("--image-map", "copy", flat / "echo.pvh.elf")
    vm = start("--memory", f"{2 * (before - 32)}M,{memory}", *args)
    vm.expect("echo ready")
    done = run(kvick, "--memory", f"128M,{memory},populate={populate}", flat / "signal.pvh.elf")
    refused(done, "memory: 64 huge pages of 2M are needed, 32 are free", ": 32 are missing; reserve them: ")
    assert works(kvick, flat, f"64M,{memory},populate={populate}")
    vm.send("q")
    assert vm.wait() == OK
    until(lambda: int(free.read_text()) == before, "the pages")


@pytest.mark.usefixtures("kvm_host", "huge_pages")
def test_huge_pages_of_a_vm_and_doctor(kvick, flat, start):
    """What a VM has set aside is not free, whether it has touched it or not."""

    def free():
        out = subprocess.run([kvick, "doctor", "--json"], capture_output=True, timeout=20, check=False).stdout
        (found,) = [f for f in json.loads(out)["findings"] if f["name"] == "huge-pages"]
        return found["values"]["free_2m"]

    before = free()
    vm = start("--memory", "64M,backing=hugetlb-2m", "--image-map", "copy", flat / "echo.pvh.elf")
    vm.expect("echo ready")
    assert int((HUGE / "resv_hugepages").read_text()) > 0
    assert free() == before - 32
    vm.send("q")
    assert vm.wait() == OK


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("populate", ["none", "full"])
def test_locked_memory(kvick, flat, populate):
    """RLIMIT_MEMLOCK binds who lacks CAP_IPC_LOCK, root too."""
    weak = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"] if os.geteuid() == 0 else []
    for lock, status in (("on", START), ("off", OK)):
        memory = f"64M,mlock={lock},populate={populate}"
        done = subprocess.run(
            ["prlimit", f"--memlock={MIB}", *weak, kvick, "run", "--memory", memory, flat / "signal.pvh.elf"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == status, done
        if status == START:
            refused(done, "memory: mlock=on: 64M cannot be locked", "; the limit is 1M)", "ulimit -l")


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("backing", ["memfd", "file"])
def test_limit_of_file_sizes(kvick, flat, tmp_path, backing):
    """RLIMIT_FSIZE; a memfd is a file, too."""
    ram = tmp_path / "ram"
    memory = "64M,backing=memfd" if backing == "memfd" else f"64M,backing=file:{ram}"
    done = subprocess.run(
        ["prlimit", f"--fsize={MIB}", kvick, "run", "--memory", memory, flat / "signal.pvh.elf"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    refused(done, f"memory: 64M of backing={backing} cannot be one file", "; the limit is 1M)", "ulimit -f")
    assert not ram.exists()


@pytest.mark.usefixtures("kvm_host")
def test_merge_without_ksm(kvick, flat):
    """Pages that nobody merges are no error, but not what was asked for either."""
    run_file = Path("/sys/kernel/mm/ksm/run")
    if not run_file.exists():
        done = run(kvick, "--memory", "64M,merge=on", flat / "signal.pvh.elf")
        assert done.returncode == OK and "this kernel has no KSM" in done.stderr
        return
    before = run_file.read_text().strip()
    try:
        for state in ["0", "1"] if os.access(run_file, os.W_OK) else [before]:
            if state != before:
                run_file.write_text(state)
            done = run(kvick, "--memory", "64M,merge=on", flat / "signal.pvh.elf")
            assert done.returncode == OK, done
            said = "kvick: warning: memory: merge=on: KSM is off, and no page will be merged until"
            assert (done.stderr == "") == (state == "1") and (state == "1" or said in done.stderr), done
            assert state == "1" or f"echo 1 > {run_file}\n" in done.stderr
    finally:
        if os.access(run_file, os.W_OK):
            run_file.write_text(before)


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize("populate", ["full", "background", "vcpu"])
def test_more_than_the_host_has(kvick, flat, populate):
    done = run(kvick, "--memory", f"4000G,populate={populate}", flat / "signal.pvh.elf")
    refused(done, "memory: populate: 4000G are needed, but the host has")


@pytest.mark.plain  # a sanitizer needs the address space itself
@pytest.mark.usefixtures("kvm_host")
def test_more_than_addresses(kvick, flat):
    """What lies above the 32-bit hole fails, and is not what was asked for."""
    done = run(kvick, "--memory", "4095T", flat / "signal.pvh.elf")
    refused(done, "guest memory: 4095T of address space is not to be had")


@pytest.mark.usefixtures("kvm_host")
@pytest.mark.parametrize(
    ("numa", "said"),
    [
        ("numa=63", "numa=63: memory cannot be bound to it"),
        # The kernel binds to those that are there, and says nothing of the others.
        ("numa=0,numa=61", "numa=61: memory cannot be bound to it"),
        ("numa=0,numa=60-62", "numa=60-62: memory cannot be bound to them"),
        ("backing=hugetlb-2m,numa=63", "numa=63: memory cannot be bound to it"),
    ],
)
def test_no_such_node(kvick, flat, numa, said):
    nodes = Path("/sys/devices/system/node/has_memory").read_text().strip()
    done = run(kvick, "--memory", f"64M,{numa}", flat / "signal.pvh.elf")
    refused(done, f"memory: {said}; this host has memory on node {nodes}")


@contextlib.contextmanager
def mounted(folder, kind, options="rw"):
    """A file system of this kind at the folder; skips where this user may not mount one."""
    mount = ["mount", "-t", kind, "-o", options, "none", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip(f"this user may not mount a {kind}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("kvm_host")
def test_full_file_system(kvick, flat, tmp_path):
    with mounted(tmp_path, "tmpfs", "size=32M"):
        ram = tmp_path / "ram"
        for size in "64M", "3200M":
            done = run(kvick, "--memory", f"{size},backing=file:{ram}", flat / "signal.pvh.elf")
            refused(done, f"has no room for {size} of RAM")
            assert not ram.exists()
        # Less memory is what the sentence asks for.
        assert run(kvick, "--memory", f"16M,backing=file:{ram}", flat / "signal.pvh.elf").returncode == OK
        assert ram.stat().st_size == 16 * MIB


@pytest.mark.usefixtures("kvm_host")
def test_file_system_without_holes(kvick, flat, tmp_path):
    """A file system that can neither make holes nor reserve space: nothing of one VM is left to the
    next."""
    with mounted(tmp_path, "ramfs"):
        for append in "worker=16M,100", "worker=16M,100,1 zero":
            memory = f"32M,backing=file:{tmp_path / 'ram'}"
            done = run(kvick, "--memory", memory, "--append", append, flat / "worker.pvh.elf")
            assert "worker done 100" in done.stdout, done


@contextlib.contextmanager
def control_group(controller, *limits):
    """A control group of this controller, of either version. Yields its folder and the one of these
    files of it that there is, its limit."""
    group = next(
        (p for p in (f"/sys/fs/cgroup/{controller}", "/sys/fs/cgroup") if Path(p, "cgroup.procs").exists()), None
    )
    path = Path(group or "/nonexistent", "kvick-test")
    try:
        path.mkdir()
    except OSError as e:
        pytest.skip(f"no control group can be made: {e}")
    try:
        limit = next((path / name for name in limits if (path / name).exists()), None)
        if not limit:
            pytest.skip(f"the {controller} controller is not enabled")
        yield path, limit
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        until(lambda: not (path / "cgroup.procs").read_text(), "the end of all in the group")
        path.rmdir()


@pytest.fixture(name="in_group")
def limited_control_group(kvick, flat):
    """Runs a machine with the memory given in a control group that has a limit, of 64 MiB if nothing
    else is said."""
    with control_group("memory", "memory.limit_in_bytes", "memory.max") as (path, limit):
        script = f'echo $$ > {path}/cgroup.procs && exec "$@"'

        def go(memory, mib=64):
            limit.write_text(str(mib * MIB))
            return subprocess.run(
                ["sh", "-c", script, "sh", kvick, "run", "--memory", memory, flat / "signal.pvh.elf"],
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip

        yield go


@pytest.mark.usefixtures("kvm_host")
def test_short_of_threads(flat, start):
    """Threads that were asked for and cannot be had are an error before the guest begins; without
    threads= the VM runs, and what threads there are populate everything."""
    with control_group("pids", "pids.max") as (path, limit):

        def confined(memory):
            return start(
                *("--memory", memory, flat / "echo.pvh.elf"),
                preexec_fn=lambda: (path / "cgroup.procs").write_text(str(os.getpid())),
            )

        vm = confined("256M")
        vm.expect("echo ready")
        # KVM's own thread is among them.
        needed = int((path / "pids.current").read_text())
        vm.send("q")
        assert vm.wait() == OK
        limit.write_text(str(needed + 1))
        vm = confined("256M,populate=background")
        vm.expect("echo ready")
        until(lambda: present(vm.pid) > 255 * MIB, "population", timeout=60)
        vm.send("q")
        assert vm.wait() == OK
        assert vm.err == ""
        vm = confined("256M,populate=background,threads=8")
        assert vm.wait() == START
        assert "memory: populate: 8 threads cannot be started" in vm.err and vm.err.count("\n") == 1
        assert vm.out == ""
        # Without the last one: from Linux 6.14 on it is KVM's, which asks for it as the guest begins.
        limit.write_text(str(needed - 1))
        vm = confined("256M")
        assert vm.wait() in (START, KVM)
        assert re.search("cannot start its thread|more threads must be allowed", vm.err), vm.err
        assert vm.out == "" and vm.err.count("\n") == 1


@pytest.mark.usefixtures("kvm_host")
def test_control_group(in_group):
    """A limit of the group is an error of ours and not the kernel's killing."""
    refused(in_group("256M,populate=full"), "the control group", "kvick-test has room for", "limit of 64 MiB")


@pytest.mark.usefixtures("kvm_host")
def test_control_group_and_tmpfs(in_group, tmp_path):
    """Space on tmpfs is memory: reserving it for a file kills nobody, and a file that is too large is
    none. What a file had before is given back first, and is no reason to refuse it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ram = Path(folder, "ram")
        done = in_group(f"256M,backing=file:{ram}")
        refused(done, f"memory: {ram}: pages of tmpfs: 256M are needed, but the control group")
        refused(done, "kvick-test has room for", "limit of 64 MiB", "a file on a disk")
        assert not ram.exists()
        for _ in range(2):
            assert in_group(f"40M,backing=file:{ram}").returncode == OK
            assert ram.stat().st_blocks * 512 == 40 * MIB
        # All of it counts, and nothing is taken before: 3 GiB below the 32-bit hole would fit.
        done = in_group(f"3200M,backing=file:{folder}/large", mib=3100)
        refused(done, "pages of tmpfs: 3200M are needed, but the control group", "limit of 3100 MiB")
        assert os.listdir(folder) == ["ram"]
    # Space on a disk is no memory.
    on_disk = tmp_path / "ram"
    if subprocess.run(["stat", "-fc", "%T", tmp_path], capture_output=True, check=True).stdout != b"tmpfs\n":
        assert in_group(f"256M,backing=file:{on_disk}").returncode == OK


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        ("1G,threads=2", "goes with populate=full"),
        ("1025M,backing=hugetlb-1g", "multiple of 1G"),
        ("1G,backing=hugetlb-2m,thp=on", "thp=on"),
        ("1G,backing=nothing", "give anon, memfd"),
        ("1G,populate", "KEY=VALUE"),
    ],
)
def test_wrong_keys(kvick, memory, text):
    done = run(kvick, "--memory", memory, "kernel")
    assert done.returncode == USAGE
    assert text in done.stderr


@pytest.mark.usefixtures("kvm_host")
def test_configuration_file(kvick, flat, tmp_path):
    path = tmp_path / "vm.json"
    memory = {"size": "128M", "backing": f"file:{tmp_path}/a,b", "populate": "full", "threads": 2}
    path.write_text(
        json.dumps({
            "boot-source": {"kernel_image_path": str(flat / "worker.pvh.elf"), "boot_args": "worker=16M,64"},
            "kvick": {"memory": memory},
        })
    )  # fmt: skip
    done = run(kvick, "--config-file", path)
    assert "worker done 64" in done.stdout, done
    assert (tmp_path / "a,b").stat().st_size == 128 * MIB


@pytest.mark.parametrize("memory", [["1G", "--backing", "hugetlb-2m"], ["1G,backing=hugetlb-2m"]])
def test_image_info_backing(kvick, flat, memory):
    out = subprocess.run(
        [kvick, "image", "info", "--json", "--memory", *memory, flat / "worker.pvh.elf"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    info = json.loads(out)
    assert info["backing"] == "hugetlb-2m"
    assert info["small_page_bytes"] == 2 * MIB


@pytest.mark.usefixtures("kvm_host", "huge_pages")
def test_image_info_huge_pool(kvick, flat, serve):
    """What goes with a pool's pages only its server knows; where the pool is, kvick run says the same."""
    guest, pool = flat / "worker.pvh.elf", serve("--size", "64M", "--chunk", "16M", "--page-size", "2M")

    def info(memory):
        args = [kvick, "image", "info", "--json", "--memory", f"{memory},backing=pool:{pool.path}", guest]
        return subprocess.run(args, capture_output=True, text=True, timeout=20, check=False)

    done = info("32M")
    assert done.returncode == OK, done
    assert json.loads(done.stdout)["small_page_bytes"] == 2 * MIB
    for memory, text in (("31M", "the size must be a multiple of 2M"), ("32M,thp=on", "thp=on does not go")):
        done = info(memory)
        refused(run(kvick, "--memory", f"{memory},backing=pool:{pool.path}", guest), text)
        assert (done.returncode, done.stdout) == (START, ""), done
        assert done.stderr.startswith("kvick image info: memory: ") and text in done.stderr, done


def bench_populate(figures):
    """What must be in the figures of bench populate; the kinds of memory that it measured."""
    rows = figures["result"]["populate"]
    assert all(row["gb_s"]["median"] > 0 and row["x_bare"]["median"] > 0 for row in rows)
    assert {row["method"] for row in rows} == {"full", "background", "vcpu", "bare loop", "touch"}
    assert all(n >= 1 for n in figures["result"]["default_threads"].values())
    return {row["memory"] for row in rows}


@pytest.mark.usefixtures("kvm_host")
def test_bench_populate(kvick):
    args = ("--size", "128M", "--rounds", "1", "--threads", "2", "--only", "4k", "--only", "memfd", "--json")
    out = subprocess.run([kvick, "bench", "populate", *args], capture_output=True, timeout=60, check=True)
    figures = json.loads(out.stdout)
    assert bench_populate(figures) == {"anon, 4 KiB", "memfd"}
    assert {row["start"] for row in figures["result"]["start"]} == {f"populate={p}" for p in POPULATES}
    wrong = subprocess.run(
        [kvick, "bench", "populate", "--only", "5k"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == USAGE and "none of 4k, thp" in wrong.stderr


def test_bench_populate_file(kvick, tmp_path):
    """Its file lies where temporary files do, and goes."""
    args = ("--size", "128M", "--rounds", "1", "--threads", "1", "--only", "file", "--no-start", "--json")
    out = subprocess.run(
        [kvick, "bench", "populate", *args],
        capture_output=True, timeout=60, check=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert bench_populate(json.loads(out.stdout)) == {"file"}
    assert not list(tmp_path.iterdir())


def test_bench_populate_huge_pages(fresh_testbed):
    linux = Emulated(fresh_testbed)
    with emulated_huge_pages(linux, 2048, 64), emulated_huge_pages(linux, 1048576, 1):
        for kind, size in (("hugetlb-2m", "128M"), ("hugetlb-1g", "1G")):
            done = linux.run(
                "build/kvick", "bench", "populate", "--size", size, "--rounds", "1", "--threads", "1",
                "--no-start", "--only", kind, "--json",
            )  # fmt: skip
            assert done.returncode == OK, done
            assert bench_populate(json.loads(done.stdout)) == {kind}


@pytest.mark.parametrize(
    ("size", "kib", "count", "memory"), [("2m", 2048, 160, "256M"), ("1g", 1048576, 1, "1G")]
)
def test_linux_on_huge_pages(fresh_testbed, size, kib, count, memory):
    """Linux checks all of its memory, populated or not, with kernel and initrd mapped or copied."""
    linux = Emulated(fresh_testbed)
    with emulated_huge_pages(linux, kib, count) as free:
        for populate, how in (("none", "share"), ("full", "share"), ("vcpu", "copy")):
            done = linux.kvick(
                "--memory", f"{memory},backing=hugetlb-{size},populate={populate}", "--image-map", how,
                "--cpus", "2", "--initrd", linux.guest("initrd.cpio"),
                "--append", 'console=ttyS0 quiet kvick.run="memtest 128"', linux.guest("vmlinux"),
            )  # fmt: skip
            assert done.returncode == OK, done
            assert "memtest: 128 MiB ok" in done.stdout, done
        assert free() == count
