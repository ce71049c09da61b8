# SPDX-License-Identifier: Apache-2.0
"""kvick bench: what its figures are made of, and what it does with wrong input. Never absolute times."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from places import Emulated

OK, START, USAGE = 0, 1, 2


def bench(kvick, *args, timeout=120, **kwargs):
    return subprocess.run(
        [kvick, "bench", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **kwargs,
    )


def document(result, kind):
    """The JSON that a benchmark printed, with its envelope checked."""
    assert result.returncode == OK, result.stderr
    return contents(result.stdout, kind)


def contents(text, kind):
    doc = json.loads(text)
    assert doc["kind"] == kind
    assert doc["host"]["cpus"] >= 1
    assert 0 <= doc["noise"]["others_share"] <= 1
    return doc["result"]


def figure(samples, count):
    assert samples["count"] == len(samples["values"]) == count
    assert samples["min"] == min(samples["values"])
    assert samples["min"] <= samples["median"] <= samples["p99"] <= max(samples["values"])
    return samples


@pytest.mark.usefixtures("kvm_host")
def test_halt(kvick):
    rounds = document(bench(kvick, "halt", "--vms", "50", "--json"), "halt")["rounds"]
    assert [r["threads"] for r in rounds] == [1, 2]
    for r in rounds:
        for side in "floor", "kvick":
            steps = r[side]["steps_us"]
            for name in "create", "run to boot byte", "destroy", "total":
                assert figure(steps[name], 50 * r["threads"])["min"] > 0
            assert steps["total"]["min"] >= steps["create"]["min"]
            # The same samples, by where the kernel put the thread.
            places = [r[side]["run_us"][place]["values"] for place in ("same CPU", "another CPU")]
            assert sorted(sum(places, [])) == sorted(steps["run to boot byte"]["values"])
            # In the order in which they were measured.
            assert steps["total"]["values"] != sorted(steps["total"]["values"])


@pytest.mark.plain
@pytest.mark.usefixtures("kvm_host")
def test_halt_beside_the_floor(kvick):
    """Far from what is aimed at, so that a busy machine does not fail it."""
    for r in document(bench(kvick, "halt", "--vms", "50", "--json"), "halt")["rounds"]:
        assert r["kvick"]["cpu_us"]["min"] / r["floor"]["cpu_us"]["min"] < 2


@pytest.mark.usefixtures("kvm_host")
def test_halt_table(kvick):
    result = bench(kvick, "halt", "--vms", "25", "--threads", "1", "--initrd-size", "0")
    assert result.returncode == OK, result.stderr
    assert "1 thread: 25 VMs of each side, 50 dropped before" in result.stdout
    assert "threads at once" not in result.stdout
    assert "(on the CPU that started it: " in result.stdout
    assert "others used" in result.stdout


def test_floors_in_testbed(linux):
    """The floors are there, too, and what they are compared with ends as it should."""
    args = "--vms 25 --threads 1 --kernel-size 1M --initrd-size 0 --json"
    done = linux.run(linux.program, "bench", "halt", *args.split(), timeout=120)
    assert done.returncode == OK, done.stderr
    (halts,) = contents(done.stdout, "halt")["rounds"]
    for side in "floor", "kvick":
        assert figure(halts[side]["steps_us"]["run to boot byte"], 25)["min"] > 0
    args = "--runs 2 --case 1M/0/64M --json"
    done = linux.run(linux.program, "bench", "start", *args.split(), timeout=120)
    assert done.returncode == OK, done.stderr
    (case,) = contents(done.stdout, "start")["cases"]
    assert [s["name"] for s in case["subjects"]] == ["floor", "kvick run", "with timeline"]
    for subject in case["subjects"]:
        assert subject["failed"] == 0
        assert figure(subject["wall_ms"], 2)["min"] > 0


@pytest.mark.parametrize(
    "args",
    [
        ["halt", "--vms", "0"],
        ["halt", "--threads", "17"],
        ["halt", "--memory", "1M"],
        ["halt", "--memory", "16777217"],
        ["halt", "--kernel-size", "big"],
        ["footprint", "--instances", "1,,2"],
        ["footprint", "--instances", "0"],
        ["footprint", "--timeout", "0"],
        ["footprint", "--memory", "4M"],
        ["boot", "--runs", "0", "x"],
        ["boot", "--memory", "17K", "x"],
        ["io", "--runs", "0", "x"],
        ["io", "--memory", "17K", "x"],
        ["io", "--requests", "many", "x"],
        ["start", "--runs", "0"],
        ["start", "--case", "19M"],
        ["pool", "--size", "0"],
        ["pool", "--page-size", "5K"],
        ["pool", "--threads", "65"],
        ["populate", "--size", "129M"],
        ["populate", "--threads", "65"],
    ],
)
def test_wrong_option(kvick, args):
    result = bench(kvick, *args)
    assert result.returncode == USAGE
    assert result.stdout == ""
    assert result.stderr.startswith(f"kvick bench {args[0]}: {args[1]}")
    assert args[2] in result.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--size", "100M", "--chunk", "64M"), "--size: 100M is not a multiple of 64M, the size of a chunk"),
        (("--chunk", "1K"), "--chunk: 1K is not a multiple of 4K, the size of a page"),
        (("--only", "writes", "--size", "16M"), "--size: 16M is too little; VMs that write need 32M"),
    ],
)
def test_wrong_pool(kvick, args, text):
    """Sizes that cannot be together are a mistake of the line, too."""
    if "writes" not in args:
        args = (*args, "--only", "chunks")
    result = bench(kvick, "pool", *args)
    assert (result.returncode, result.stdout) == (USAGE, "")
    assert result.stderr.startswith(f"kvick bench pool: {text}")


def test_size_out_of_range(kvick):
    """A number that is too large is a size all the same."""
    for verb, option in (("halt", "memory"), ("footprint", "kernel-size"), ("pool", "chunk")):
        for size, text in (("99999999T", "is out of range"), ("9X", "is not a size such as")):
            result = bench(kvick, verb, f"--{option}", size)
            assert result.returncode == USAGE
            assert result.stderr.startswith(f'kvick bench {verb}: --{option}: "{size}" {text}')


@pytest.mark.usefixtures("kvm_host")
def test_no_room_for_files(kvick, tmp_path):
    """No folder to put the images in: an error, and nothing left behind."""
    result = bench(kvick, "halt", env={"TMPDIR": str(tmp_path / "missing")})
    assert result.returncode == START
    assert "missing" in result.stderr


@pytest.mark.usefixtures("kvm_host")
def test_nothing_left(kvick, tmp_path):
    result = bench(kvick, "halt", "--vms", "25", env={"TMPDIR": str(tmp_path)})
    assert result.returncode == OK, result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.plain
@pytest.mark.usefixtures("kvm_host")
def test_footprint(kvick, flat, tmp_path):
    """Images are shared: what is a process's own does not grow with them, nor with neighbours."""
    vs = f"{kvick} run --serial none --image-map copy --memory {{memory_mib}}M --initrd {{initrd}} {{kernel}}"
    args = ["--instances", "1,3", "--runs", "1", "--vs", vs, "--json"]
    result = document(
        bench(kvick, "footprint", *args, env={"TMPDIR": str(tmp_path)}), "footprint"
    )
    shared, together, copied = result["subjects"]
    assert together["name"] == "kvick, one process"
    assert together["command"][1:3] == ["bench", "hold"]
    # The program, its libraries' data and the images' descriptors are there once.
    one, three = together["sets"]
    for name in "uss_bytes", "page_tables_bytes", "threads", "fds":
        assert 0 < three[name]["median"] < one[name]["median"]
    assert three["uss_bytes"]["median"] == pytest.approx(three["pss_bytes"]["median"], rel=0.01)
    # A vCPU's thread each, and what the process has.
    assert three["threads"]["median"] < shared["sets"][1]["threads"]["median"]
    assert copied["command"][:3] == [str(kvick), "run", "--serial"]
    assert [s["instances"] for s in shared["sets"]] == [1, 3]
    mib = 1 << 20
    for own, all_own in zip(shared["sets"], copied["sets"]):
        uss = own["uss_bytes"]["median"]
        # One alone has the program's pages for itself.
        assert 0 < uss < (3 if own["instances"] == 1 else 1) * mib
        assert uss <= own["pss_bytes"]["median"] <= own["rss_bytes"]["median"]
        assert all_own["uss_bytes"]["median"] > 22 * mib
        assert own["threads"]["median"] >= 2
        assert own["fds"]["median"] > 3
        assert own["page_tables_bytes"]["median"] > 0
    # Three processes share the program.
    assert shared["sets"][1]["pss_bytes"]["median"] < shared["sets"][1]["rss_bytes"]["median"] / 2
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("kvm_host")
def test_hold(kvick, flat, tmp_path):
    """Ends with the first VM that ends, and says how if that was no orderly end."""
    assert bench(kvick, "hold", "--instances", "3", flat / "signal.pvh.elf").returncode == OK
    result = bench(kvick, "hold", "--instances", "2", tmp_path / "none")
    assert result.returncode == START
    assert f"{tmp_path}/none" in result.stderr
    result = bench(kvick, "hold", "--instances", "0", flat / "halt.pvh.elf")
    assert result.returncode == USAGE
    with subprocess.Popen([kvick, "bench", "hold", "--instances", "3", flat / "halt.pvh.elf"]) as vms:
        names = []
        deadline = time.monotonic() + 20
        while names.count("fc_vcpu 0") < 3:
            assert vms.poll() is None and time.monotonic() < deadline
            names = [p.read_text().strip() for p in Path(f"/proc/{vms.pid}/task").glob("*/comm")]
        vms.kill()


@pytest.mark.usefixtures("kvm_host")
def test_footprint_of_a_guest_that_ends(kvick, flat, tmp_path):
    result = bench(
        kvick, "footprint", "--kernel", flat / "signal.pvh.elf", env={"TMPDIR": str(tmp_path)}
    )
    assert result.returncode == START
    assert "ended with status 0 while its guest should idle" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("kvm_host")
def test_footprint_of_a_guest_that_never_rests(kvick, flat):
    result = bench(
        kvick, "footprint", "--kernel", flat / "spin.pvh.elf", "--timeout", "1", "--instances", "1"
    )
    assert result.returncode == START
    assert "did not come to rest within 1 s" in result.stderr


@pytest.mark.usefixtures("kvm_host")
def test_footprint_names_what_failed(kvick, tmp_path):
    result = bench(kvick, "footprint", "--kernel", tmp_path / "none")
    assert result.returncode == START
    assert f"{tmp_path}/none: No such file" in result.stderr
    result = bench(kvick, "footprint", "--instances", "1", "--vs", "kvick-not-there {kernel}")
    assert result.returncode == START
    assert "kvick-not-there cannot be started" in result.stderr


@pytest.mark.usefixtures("kvm_host")
def test_boot(kvick, flat, tmp_path):
    kernel = flat / "halt.pvh.elf"
    vs = f"sh -c 'sleep 0.2; echo Guest-boot-time {{memory_mib}}; exec sleep 60' {kernel}"
    args = ["--runs", "3", "--vs", vs, "--json", str(kernel)]
    result = document(bench(kvick, "boot", *args, env={"TMPDIR": str(tmp_path)}), "boot")
    own, other = result["subjects"]
    for subject in own, other:
        assert figure(subject["done_ms"], 3)["min"] > 0
        assert subject["first_output_ms"]["min"] <= subject["done_ms"]["min"]
    assert other["done_ms"]["min"] >= 200
    steps = result["phases_ms"]
    boot = figure(steps["exec to boot byte"], 3)
    # The line comes after the byte that it is about.
    assert boot["min"] <= own["done_ms"]["min"]
    assert steps["exec to VMM ready"]["min"] < max(boot["values"])
    best = result["best"]
    assert best["done_ms"] == pytest.approx(own["done_ms"]["min"], rel=1e-3)
    assert set(best["pie_ms"]) == {"memory setup", "VM setup", "boot"}
    assert sum(best["pie_ms"].values()) <= best["done_ms"]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("kvm_host")
def test_boot_that_never_comes(kvick, flat, tmp_path):
    """The error names the last mark reached, and nothing is left behind."""
    args = ["--timeout", "1", "--text", "never", str(flat / "halt.pvh.elf")]
    result = bench(kvick, "boot", *args, env={"TMPDIR": str(tmp_path)})
    assert result.returncode == START
    assert 'no "never" within 1 s' in result.stderr
    assert "the last mark reached is boot_complete" in result.stderr
    assert "Guest-boot-time" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("kvm_host")
def test_boot_that_ends(kvick, flat, tmp_path):
    result = bench(kvick, "boot", "--text", "never", str(flat / "print.pvh.elf"))
    assert result.returncode == START
    assert 'ended with status 0 without "never"' in result.stderr
    assert "hello from the flat guest" in result.stderr
    result = bench(kvick, "boot", str(tmp_path / "none"))
    assert result.returncode == START
    assert "No such file" in result.stderr


def test_boot_in_testbed(linux):
    """Every step of a Linux boot is there, in its order."""
    args = "--runs 2 --json --initrd build/guest/initrd.cpio --append quiet build/guest/vmlinux"
    steps = {}
    # Again when the emulator did not see a first user instruction (testbed/README.md, Pitfalls).
    for _ in range(linux.boots_for_marks):
        done = linux.run(linux.program, "bench", "boot", *args.split(), timeout=120)
        assert done.returncode == OK, done.stderr
        steps = contents(done.stdout, "boot")["phases_ms"]
        if steps["exec to user space"]["count"] == 2:
            break
    for name in "to start_kernel", "kernel", "user space to boot byte", "exec to user space":
        assert figure(steps[name], 2)["min"] > 0
    assert steps["exec to user space"]["median"] < steps["exec to boot byte"]["median"]


@pytest.mark.usefixtures("kvm_host")
def test_io_that_cannot_be_done(kvick, flat, tmp_path):
    """A guest that does not do the work, a monitor that is not there, an initrd that is not."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "initrd").write_bytes(bytes(13))
    env = {"TMPDIR": str(tmp_path / "tmp")}
    kernel = flat / "print.pvh.elf"
    for initrd, more, text in (
        ("initrd", [], "ended with status 0: 0 of 6 pieces of work were done; the last line of output: "),
        ("initrd", ["--disk", tmp_path / "none"], "disk disk0: "),
        ("initrd", ["--disk-keys", "queues=0"], "--disk: "),
        ("initrd", ["--vs", "'"], "--vs: "),
        ("none", [], "--initrd: "),
    ):
        result = bench(kvick, "io", "--initrd", tmp_path / initrd, *more, kernel, env=env)
        assert result.returncode == START
        assert text in result.stderr, result.stderr
        assert not list((tmp_path / "tmp").iterdir())
    result = bench(kvick, "io", kernel, env=env)
    assert result.returncode == USAGE
    assert "--initrd is missing" in result.stderr
    for words in ["--tap-keys", "vhost=off"], ["--vs", "monitor {tap}"]:
        result = bench(kvick, "io", "--initrd", tmp_path / "initrd", *words, kernel, env=env)
        assert result.returncode == USAGE
        assert "without --tap" in result.stderr


def test_io_in_testbed(linux):
    """Figures of all work, of kvick and of another monitor."""
    vs = (
        f"{linux.program} run --memory {{memory_mib}}M --initrd {{initrd}} --append 'console=ttyS0 quiet' "
        "--disk {disk},queues=2 {kernel}"
    )
    disk = "/tmp/kvick-io"
    assert linux.run("truncate", "-s", "1M", disk).returncode == 0
    args = f"--runs 1 --requests 256 --json --disk {disk} --disk-keys cache=unsafe".split()
    args += ["--initrd", linux.guest("initrd.cpio"), "--vs", vs, linux.guest("vmlinux")]
    done = linux.run(linux.program, "bench", "io", *args, timeout=120)
    linux.run("rm", disk)
    io_figures(done)


def test_io_of_a_tap(testbed):
    """With a tap, streams each way too."""
    linux = Emulated(testbed)
    made = "tunctl -t kv0 && ip addr add 10.78.0.1/24 dev kv0 && ip link set kv0 up"
    append = "console=ttyS0 quiet ip=10.78.0.2::10.78.0.1:255.255.255.0::eth0:off"
    vs = (
        f"{linux.program} run --memory {{memory_mib}}M --initrd {{initrd}} --append '{append}' "
        "--disk {disk} --net tap={tap},vhost=on {kernel}"
    )
    args = "--runs 1 --requests 128 --json --tap-keys vhost=off --append".split()
    args += [append, "--initrd", linux.guest("initrd.cpio"), "--vs", vs, "--tap"]
    done = linux.run("sh", "-c", made)
    assert done.returncode == 0, done
    try:
        done = linux.run(linux.program, "bench", "io", *args, "kv0", linux.guest("vmlinux"), timeout=120)
        io_figures(done, [0, 0])
        linux.run("ip", "addr", "del", "10.78.0.1/24", "dev", "kv0")
        for tap, text in (("kv9", "there is no interface kv9"), ("kv0", "kv0 has no IPv4 address")):
            failed = linux.run(linux.program, "bench", "io", *args, tap, linux.guest("vmlinux"))
            assert failed.returncode == START, failed
            assert f"--tap: {text}" in failed.stderr, failed
    finally:
        linux.run("tunctl", "-d", "kv0")


def io_figures(done, more=()):
    """All figures of two subjects are there."""
    assert done.returncode == OK, done.stderr
    result = contents(done.stdout, "io")
    assert len(result["subjects"]) == 2
    for subject in result["subjects"]:
        works = subject["works"]
        assert [w["depth"] for w in works] == [1, 1, 32, 32, 8, 8, *more]
        for work in works:
            assert figure(work["mib_per_s"], 1)["min"] > 0
            figure(work["cpu_ns_per_byte"], 1)
        assert works[0]["cpu_ns_per_byte"]["min"] > 0
        # KVM counts in debugfs, which only root reads. A request alone has a kick, and two
        # accesses to registers when it has ended.
        if works[0]["exits_per_request"]["count"]:
            alone, many = (works[i]["exits_per_request"]["min"] for i in (0, 2))
            assert alone > 2
            assert many < alone


@pytest.fixture(scope="module", name="report")
def quick_report(kvick, flat, kvm_host, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    kernel = ["--kernel", flat / "signal.pvh.elf", "--memory", "64M"]
    result = bench(kvick, "report", "--quick", "--out", folder, *kernel)
    assert result.returncode == OK, result.stderr
    assert result.stdout.strip() == f"{folder}/index.html"
    assert "all that is left: about" in result.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["index.html", "report.json"]
    return folder


def test_report(report):
    doc = json.loads((report / "report.json").read_text())
    assert doc["kind"] == "report" and doc["quick"] is True
    kinds = ["start", "halt", "footprint", "populate", "boot"]
    assert [s["kind"] for s in doc["sections"]] == kinds
    assert all(s["command"].startswith("kvick bench ") for s in doc["sections"])
    page = (report / "index.html").read_text()
    for text in (
        "Start: exec to exit", "Create, run, destroy", "Footprint", "Making memory present",
        "Boot of a real kernel", "bare loop", "Start time against image size",
        "Start time against memory size", "From exec to exit of the first",
        "Memory per instance against the number of instances", "The best run, from exec until",
        "memory setup: ", "(orange: the guest runs)", doc["host"]["cpu"], doc["host"]["kernel"],
    ):  # fmt: skip
        assert text in page or text.replace(": ", "<") in page, text
    assert all(s["command"].replace('"', "&quot;") in page for s in doc["sections"])
    assert "prefers-color-scheme:dark" in page and 'name="viewport"' in page
    # Nothing comes from elsewhere.
    for url in "http:", "https:", "src=", "@import", "url(":
        assert url not in page
    assert "nan" not in page and "inf" not in page.replace("information", "")


def test_report_in_a_browser(report, tmp_path):
    """The page renders without a message on the console."""
    if not (browser := shutil.which("chromium")):
        pytest.skip("chromium is not installed")
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
        --disable-background-networking --disable-component-update --disable-sync
        --enable-logging=stderr --window-size=390,2000"""
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [browser, *flags.split(), f"--user-data-dir={tmp_path}/profile", f"--screenshot={shot}",
         f"file://{report}/index.html"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 20000


@pytest.mark.usefixtures("kvm_host")
def test_report_interrupted(kvick, tmp_path):
    """Nothing is left; not a folder either, unless it was there."""
    folder = tmp_path / "report"
    for there in False, True:
        command = [kvick, "bench", "report", "--quick", "--out", folder]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert "1 of " in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        assert process.returncode == START
        assert "interrupted; nothing was written" in said
        assert folder.exists() == there
        folder.mkdir(exist_ok=True)
        assert not list(folder.iterdir())


def test_report_that_cannot_be_written(kvick, tmp_path):
    """Said before anything is measured, and nothing is left."""
    result = bench(kvick, "report", "--out", tmp_path / "no" / "report")
    assert result.returncode == START
    assert "No such file" in result.stderr
    (tmp_path / "file").write_text("")
    result = bench(kvick, "report", "--out", tmp_path / "file")
    assert result.returncode == START
    assert bench(kvick, "report").returncode == USAGE
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("kvm_host")
def test_report_of_a_kernel_that_fails(kvick, tmp_path):
    args = ["--quick", "--out", tmp_path / "r", "--kernel", tmp_path / "none"]
    result = bench(kvick, "report", *args)
    assert result.returncode == START
    assert "kvick bench boot failed; nothing was written" in result.stderr
    assert not (tmp_path / "r").exists()


def samples_file(path, values, others=0.0):
    doc = {"kind": "halt", "noise": {"others_share": others, "load_average": 0.1},
           "result": {"steps": {"create": {"median": sorted(values)[len(values) // 2],
           "values": values}}}}  # fmt: skip
    path.write_text(json.dumps(doc))
    return path


def compared(kvick, a, b):
    """The only row of a comparison."""
    (row,) = json.loads(bench(kvick, "compare", "--json", a, b).stdout)
    return row


def test_compare(kvick, tmp_path):
    slow = samples_file(tmp_path / "a", [100 + i % 7 for i in range(30)])
    fast = samples_file(tmp_path / "b", [80 + i % 9 for i in range(30)])
    like = samples_file(tmp_path / "c", [100 + i % 6 for i in range(30)])
    few = samples_file(tmp_path / "d", [10, 11, 12])
    for a, b, verdict in (
        (slow, fast, "better"), (fast, slow, "worse"), (slow, like, "within noise"),
        (slow, slow, "within noise"), (slow, few, "too few runs"),
    ):  # fmt: skip
        result = bench(kvick, "compare", a, b)
        assert (result.returncode, result.stderr) == (OK, "")
        line = next(li for li in result.stdout.splitlines() if li.startswith("steps > create"))
        assert line.endswith("  " + verdict), line
        assert "Mann-Whitney" in result.stdout
        assert compared(kvick, a, b)["verdict"] == verdict


def test_compare_few(kvick, tmp_path):
    """5 runs against 5 that are all apart tell a difference, as no normal approximation would."""
    slow = samples_file(tmp_path / "a", [105, 103, 101, 104, 102])
    fast = samples_file(tmp_path / "b", [95, 93, 91, 94, 92])
    row = compared(kvick, slow, fast)
    assert row["verdict"] == "better" and row["p"] == pytest.approx(2 / 252, rel=1e-4)


def test_compare_drift(kvick, tmp_path):
    """Many samples of a session that drifts are not so many independent ones."""
    def session(path, *levels):
        return samples_file(path, [level + i % 7 for level in levels for i in range(500)])

    slower = session(tmp_path / "a", 100, 120, 110)
    faster = session(tmp_path / "b", 120, 100, 104)
    assert compared(kvick, slower, faster)["verdict"] == "within noise"
    steady = session(tmp_path / "c", 100, 100, 100)
    assert compared(kvick, slower, steady)["verdict"] == "better"


def test_compare_noisy(kvick, tmp_path):
    quiet = samples_file(tmp_path / "quiet", [1.0] * 5, 0.1)
    noisy = samples_file(tmp_path / "noisy", [1.0] * 5, 0.4)
    (tmp_path / "report").write_text(json.dumps({"kind": "report", "sections": [
        json.loads(quiet.read_text()), json.loads(noisy.read_text())]}))  # fmt: skip
    assert bench(kvick, "compare", quiet, quiet).stderr == ""
    warning = "kvick bench compare: warning: {}: the machine was NOISY, others used up to 40 % of the CPUs "
    for a, b, named in (
        (quiet, noisy, [noisy]), (noisy, quiet, [noisy]), (noisy, noisy, [noisy] * 2),
        (tmp_path / "report", tmp_path / "report", [tmp_path / "report"] * 2),
    ):  # fmt: skip
        result = bench(kvick, "compare", "--json", a, b)
        assert result.returncode == OK
        lines = result.stderr.splitlines()
        assert len(lines) == len(named)
        for line, path in zip(lines, named, strict=True):
            assert line.startswith(warning.format(path))


def test_compare_rates(kvick, tmp_path):
    """More GB/s is better; what is alike but for its kind of memory or its threads stays apart."""
    def rows(path, scale):
        cells = [
            {"memory": memory, "method": "full", "threads": threads,
             "gb_s": {"median": rate * scale, "values": [(rate + i / 100) * scale for i in range(9)]}}
            for memory, threads, rate in (("4 KiB", 1, 2), ("4 KiB", 2, 3), ("THP", 1, 8))
        ]  # fmt: skip
        path.write_text(json.dumps({"kind": "populate", "result": {"populate": cells}}))
        return path

    slow, fast = rows(tmp_path / "a", 1), rows(tmp_path / "b", 1.5)
    for a, b, verdict in (slow, fast, "better"), (fast, slow, "worse"):
        found = json.loads(bench(kvick, "compare", "--json", a, b).stdout)
        assert [row["verdict"] for row in found] == [verdict] * 3
        assert [round(row["a"] / row["b"], 2) for row in found] == [
            0.67 if verdict == "better" else 1.5
        ] * 3
        assert len({row["figure"] for row in found}) == 3


def test_compare_names_twice(kvick, tmp_path):
    """Two monitors of the same name are compared each with itself."""
    def subject(rate):
        values = [rate + i / 100 for i in range(9)]
        return {"name": "qemu", "mib_per_s": {"median": rate, "values": values}}

    path = tmp_path / "a"
    path.write_text(json.dumps({"kind": "io", "result": {"subjects": [subject(1), subject(5)]}}))
    rows = json.loads(bench(kvick, "compare", "--json", path, path).stdout)
    assert [row["verdict"] for row in rows] == ["within noise"] * 2
    assert [row["a"] for row in rows] == [row["b"] for row in rows] == [1, 5]
    assert len({row["figure"] for row in rows}) == 2


def test_compare_reports(kvick, report):
    result = bench(kvick, "compare", report / "report.json", report / "report.json")
    assert result.returncode == OK
    assert "0 better, 0 worse" in result.stdout
    assert "halt > rounds > threads=1 > kvick > steps_us > create" in result.stdout


def test_compare_wrong(kvick, tmp_path):
    good = samples_file(tmp_path / "a", [1] * 10)
    for text in "", "[]", "{", '{"kind": 1}', '{"kind": "boot", "result": {}}', '{"kind": "halt"}':
        bad = tmp_path / "bad"
        bad.write_text(text)
        result = bench(kvick, "compare", good, bad)
        assert result.returncode == START
        assert result.stderr.startswith("kvick bench compare: ")
        assert result.stderr.count("\n") == 1
    assert bench(kvick, "compare", good).returncode == USAGE
    assert bench(kvick, "compare", good, tmp_path / "none").returncode == START
