# SPDX-License-Identifier: Apache-2.0
"""The stages of ./check: builds, tests and analysis, each with a time limit, all counted."""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
LOGS = BUILD / "check"
SKIPS = ROOT / "tests" / "skips.txt"
MINUTE = 60
FUZZ_S = 20
# Told apart from every status of kvick's own.
SANITIZER_STATUS = 99
SANITIZER_ENV = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_STATUS}:detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_STATUS}:halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": f"exitcode={SANITIZER_STATUS}:halt_on_error=1",
}


class Counts:
    """What a stage, or all of them, found. Skips are (test, reason), failures a text each."""

    def __init__(self):
        self.passed = 0
        self.failures = []
        self.skips = []

    def add(self, other):
        self.passed += other.passed
        self.failures += other.failures
        self.skips += other.skips

    def step(self, ok, text):
        """A step that counts as one test."""
        if ok:
            self.passed += 1
        else:
            self.failures.append(text)
        return ok

    def __str__(self):
        return f"{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped"


class Stage:
    """What the function of a stage works with."""

    def __init__(self, name):
        self.name = name
        self.counts = Counts()
        self.folder = LOGS / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def run(self, argv, log, timeout, env=None):
        """Runs a command with its output in a log file. Returns its status, or None when it took
        too long and was killed with all that it started."""
        path = self.folder / f"{log}.log"
        with open(path, "ab") as f:
            f.write(f"$ {shlex.join(map(str, argv))}\n".encode())
            f.flush()
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=f,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                f.write(f"\nkilled after {timeout} s\n".encode())
                return None
            finally:
                end_group(process)

    def show(self, log, lines=80):
        """Prints the end of a log."""
        path = self.folder / f"{log}.log"
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        print(f"--- {path.relative_to(ROOT)}" + (f", last {lines} lines" if len(text) > lines else ""))
        print("\n".join(text[-lines:]))
        print("---", flush=True)

    def step(self, argv, log, timeout, env=None):
        """A command that counts as one test: it must end with status 0."""
        status = self.run(argv, log, timeout, env)
        why = "took too long" if status is None else f"status {status}"
        if not self.counts.step(status == 0, f"{self.name}: {log}: {why}"):
            self.show(log)
        return status == 0


def end_group(process):
    """Kills what is left of a command that has a process group of its own."""
    for number, grace in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + grace
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
    process.wait()


WERROR = "-Dwerror=true"
# No WERROR: gcc warns of what is only there in instrumented code.
SANITIZED = ("-Dbuildtype=debugoptimized", "-Db_lundef=false")


def make(stage, folder, *flags, cc="gcc"):
    """Builds a folder."""
    args = ["make", f"BUILD={folder}", f"CC={cc}", "MESON_FLAGS=" + " ".join(flags)]
    return stage.step(args, "make", 10 * MINUTE)


# Unit tests: each program is run by itself and leaves what it found as XML.


def unit(stage, folder, env=None, prefix=()):
    if not stage.step(["ninja", "-C", folder, "meson-test-prereq"], "build-tests", 10 * MINUTE):
        return
    out = subprocess.run(
        ["meson", "introspect", "--tests", folder], capture_output=True, text=True, check=True
    )
    for test in json.loads(out.stdout):
        if "kvick:unit" in test["suite"]:
            unit_program(stage, test, env or {}, prefix)


def unit_program(stage, test, env, prefix):
    name = test["name"]
    report = stage.folder / f"unit-{name}"
    report.mkdir()
    env = {
        **test["env"],
        **env,
        "CMOCKA_MESSAGE_OUTPUT": "XML",
        "CMOCKA_XML_FILE": f"{report}/%g.xml",
    }
    status = stage.run([*prefix, *test["cmd"]], name, 5 * MINUTE, env)
    counts = Counts()
    try:
        for path in report.glob("*.xml"):
            take_report(counts, path, f"{stage.name}:{name}")
    except ET.ParseError as e:
        counts.failures.append(f"{stage.name}:{name}: its report is broken: {e}")
    if status != 0 and not counts.failures:
        why = "took too long" if status is None else f"status {status}"
        counts.failures.append(f"{stage.name}:{name}: {why}")
    if status == 0 and not counts.passed and not counts.skips:
        counts.failures.append(f"{stage.name}:{name}: it reports no test")
    if counts.failures:
        stage.show(name)
        for path in report.glob("*.xml"):
            print(path.read_text(encoding="utf-8", errors="replace"))
    stage.counts.add(counts)


def take_report(counts, path, prefix):
    """Counts the test cases of a JUnit report."""
    for case in ET.parse(path).iter("testcase"):
        file = case.get("classname", "").replace(".", "/")
        name = f"{prefix}:{file + '.py::' if file else ''}{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failures.append(name)
        elif skipped is not None:
            counts.skips.append((name, skipped.get("message") or ""))
        else:
            counts.passed += 1


def pytest(stage, folder, paths, timeout, *args, env=None):
    report = stage.folder / "pytest.xml"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    argv += [f"--junitxml={report}", "--durations=10", f"--build={folder}", *args, *paths]
    status = stage.run(argv, "pytest", timeout, {"PYTHONDONTWRITEBYTECODE": "1", **(env or {})})
    counts = Counts()
    if report.exists():
        take_report(counts, report, stage.name)
    if status is None:
        counts.failures.append(f"{stage.name}: pytest took longer than {timeout} s")
    elif status != 0 and not counts.failures:
        counts.failures.append(f"{stage.name}: pytest ended with status {status}")
    if counts.failures:
        stage.show("pytest", 300)
    stage.counts.add(counts)


# The stages.


def stage_build(stage):
    """kvick with gcc, warnings as errors, in build/"""
    make(stage, BUILD, WERROR)


def stage_guest(stage):
    """guest kernels and initrd, from the cache or built anew"""
    stage.step(["make", "guest"], "guest", 40 * MINUTE)


def stage_style(stage):
    """layers, headers, form, documents"""
    pytest(stage, BUILD, ["tests/style"], 5 * MINUTE)


def stage_unit(stage):
    """unit tests, gcc"""
    unit(stage, BUILD)


def stage_host(stage):
    """functional tests on this host's KVM"""
    pytest(stage, BUILD, ["tests/func"], 20 * MINUTE, "-m", "not testbed")


def stage_testbed(stage):
    """functional tests in the emulated host, with Linux guests"""
    pytest(stage, BUILD, ["tests/func"], 40 * MINUTE, "-m", "testbed")


def stage_demo(stage):
    """./demo from its first line to its table"""
    if stage.step(["./demo"], "demo", 20 * MINUTE):
        text = (stage.folder / "demo.log").read_text(encoding="utf-8", errors="replace")
        rows = ("VMM ready", "first guest instruction", "start_kernel", "user space", "boot complete")
        at = [text.rfind(row) for row in rows]
        if not stage.counts.step(-1 < at[0] and at == sorted(at), "demo: its table is not complete"):
            stage.show("demo")


def stage_clang(stage):
    """kvick with clang, warnings as errors; unit tests"""
    folder = LOGS / "build-clang"
    if make(stage, folder, WERROR, cc="clang"):
        unit(stage, folder)


def leak_env(stage, folder):
    """The environment of sanitized programs. LeakSanitizer traces the process that it looks at,
    which some containers forbid; then leaks are not looked for, and that is said."""
    program = [folder / "kvick", "--version"]
    if stage.run(program, "leaks", MINUTE, SANITIZER_ENV) == 0:
        return SANITIZER_ENV
    env = dict(SANITIZER_ENV, ASAN_OPTIONS=SANITIZER_ENV["ASAN_OPTIONS"] + ":detect_leaks=0")
    if stage.run(program, "leaks", MINUTE, env) == 0:
        print("asan: LeakSanitizer cannot work here (ptrace is forbidden): leaks are not looked for")
        return env
    return SANITIZER_ENV


def stage_asan(stage):
    """unit and host tests with AddressSanitizer and UBSan"""
    folder = LOGS / "build-asan"
    if make(stage, folder, "-Db_sanitize=address,undefined", *SANITIZED):
        env = leak_env(stage, folder)
        unit(stage, folder, env)
        pytest(
            stage,
            folder,
            ["tests/func"],
            30 * MINUTE,
            "-m",
            "not testbed and not plain",
            env=env,
        )


def stage_tsan(stage):
    """unit tests with ThreadSanitizer"""
    folder = LOGS / "build-tsan"
    if not make(stage, folder, "-Db_sanitize=thread", *SANITIZED):
        return
    # Its shadow memory wants an address space that is laid out as it expects. Containers may not
    # allow to ask for one, and may do without.
    fixed = ("setarch", "-R")
    allowed = stage.run([*fixed, "true"], "setarch", MINUTE) == 0
    unit(stage, folder, SANITIZER_ENV, fixed if allowed else ())


def scoped_leak(folder, line):
    """Whether a finding is a leak in a function with MEM_SCOPED memory: the analyzer does not know
    the cleanup attribute. (Real leaks are LeakSanitizer's to find, in the stage asan.)"""
    found = re.match(r"(\S+?):(\d+):\d+: warning: Potential leak of memory ", line)
    if not found:
        return False
    before = (Path(folder) / found[1]).read_text(encoding="utf-8").splitlines()[: int(found[2])]
    start = max((n for n, text in enumerate(before) if text == "{"), default=0)
    return any("MEM_SCOPED" in text for text in before[start:])


def stage_analysis(stage):
    """clang's static analyzer over src/"""
    commands = json.loads((BUILD / "compile_commands.json").read_text(encoding="utf-8"))
    sources = [c for c in commands if "/src/" in c["file"] and c["file"].endswith(".c")]

    def analyze(command):
        argv = shlex.split(command["command"])
        keep = [a for a in argv[1:] if a.startswith(("-I", "-D", "-std"))]
        done = subprocess.run(
            ["clang", "--analyze", "--analyzer-output", "text", *keep, command["file"]],
            cwd=command["directory"],
            capture_output=True,
            text=True,
            timeout=5 * MINUTE,
            check=False,
        )
        findings = [
            line
            for line in done.stderr.splitlines()
            if re.search(r": (warning|error): ", line) and not scoped_leak(command["directory"], line)
        ]
        if done.returncode and not findings:
            findings.append(f"{command['file']}: clang ended with status {done.returncode}")
        return findings, done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = [r for r in pool.map(analyze, sources) if r[0]]
    findings = [f for r in results for f in r[0]]
    log = "".join(r[1] for r in results) + "\nfindings:\n" + "\n".join(findings) + "\n"
    (stage.folder / "analysis.log").write_text(log, encoding="utf-8")
    if not stage.counts.step(sources and not findings, f"analysis: {len(findings)} findings"):
        stage.show("analysis", 60)


def stage_fuzz(stage):
    """each fuzz target for a bounded time"""
    folder = LOGS / "build-fuzz"
    flags = ("-Dfuzzers=true", "-Db_sanitize=address,undefined")
    if not make(stage, folder, *flags, *SANITIZED, cc="clang"):
        return
    targets = sorted(p for p in (folder / "tests" / "fuzz").glob("fuzz_*") if p.is_file())
    if not stage.counts.step(targets, "fuzz: there is no target"):
        return
    for target in targets:
        name = target.name.removeprefix("fuzz_")
        found = stage.folder / f"corpus-{name}"
        found.mkdir()
        argv = [target, f"-max_total_time={FUZZ_S}", "-timeout=10", "-rss_limit_mb=4096"]
        argv += ["-print_final_stats=1", f"-artifact_prefix={stage.folder}/{name}-", found]
        corpus = ROOT / "tests" / "fuzz" / "corpus" / name
        argv += [corpus] if corpus.is_dir() else []
        stage.step(argv, target.name, FUZZ_S + 5 * MINUTE, SANITIZER_ENV)


STAGES = {
    name.removeprefix("stage_"): function
    for name, function in list(globals().items())
    if name.startswith("stage_")
}
FAST = ("build", "style", "unit", "host")


# Skips that are expected.


def environment():
    """What kind of KVM this host has decides what can run on it."""
    try:
        out = subprocess.run(
            [BUILD / "kvick", "doctor", "--json"], capture_output=True, timeout=MINUTE, check=False
        )
        report = json.loads(out.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return "none"
    return "none" if not report["flat_guests"] else report["kvm"].split()[0]


def unexpected_skips(skips):
    """The skips that tests/skips.txt does not allow in this environment."""
    here = {"any", environment(), "root" if os.geteuid() == 0 else "user"}
    rules = []
    for line in SKIPS.read_text(encoding="utf-8").splitlines():
        words = line.split(None, 3)
        if words and not line.startswith("#") and words[0] in here:
            rules.append([None if words[1] == "all" else int(words[1]), words[2]])
    wrong = []
    for name, reason in skips:
        for rule in rules:
            if fnmatch.fnmatchcase(name, rule[1]) and rule[0] != 0:
                if rule[0]:
                    rule[0] -= 1
                break
        else:
            wrong.append(f"{name} ({reason or 'no reason given'})")
    return wrong


def arguments():
    p = argparse.ArgumentParser(prog="./check", add_help=False)
    p.add_argument("--fast", action="store_true")
    p.add_argument("--only", action="append", choices=STAGES, metavar="STAGE")
    p.add_argument("--no-install", action="store_true")
    p.add_argument("--list", action="store_true")
    return p.parse_args()


def run_stage(name, total):
    print(f"=== {name}: {STAGES[name].__doc__}", flush=True)
    start = time.monotonic()
    stage = Stage(name)
    try:
        STAGES[name](stage)
    except Exception as e:  # pylint: disable=broad-except
        # A stage that breaks must not take the others with it.
        stage.counts.failures.append(f"{name}: {type(e).__name__}: {e}")
    total.add(stage.counts)
    for text in stage.counts.failures:
        print(f"FAILED {text}")
    for test, reason in stage.counts.skips:
        print(f"skipped {test}: {reason}")
    print(f"=== {name}: {stage.counts}, {time.monotonic() - start:.0f} s\n", flush=True)
    return not stage.counts.failures


def main():
    args = arguments()
    if args.list:
        for name, function in STAGES.items():
            print(f"{name:10} {'(fast) ' if name in FAST else '       '}{function.__doc__}")
        return 0
    if args.only:
        wanted = ["build", *(n for n in STAGES if n in args.only and n != "build")]
    else:
        wanted = [n for n in STAGES if not args.fast or n in FAST]
    total = Counts()
    start = time.monotonic()
    for name in wanted:
        if not run_stage(name, total) and name == "build":
            break
    wrong = unexpected_skips(total.skips)
    for text in wrong[:20]:
        print(f"FAILED unexpected skip: {text}")
    if wrong:
        print(f"{len(wrong)} skips are not allowed by tests/skips.txt where KVM is: {environment()}")
    if total.skips:
        total.step(not wrong, "unexpected skips")
    print(f"all stages: {time.monotonic() - start:.0f} s")
    for text in total.failures:
        print(f"FAILED {text}")
    print(total, flush=True)
    return 1 if total.failures else 0


if __name__ == "__main__":
    try:
        STATUS = main()
    except KeyboardInterrupt:
        print("check: interrupted", file=sys.stderr)
        STATUS = 130
    sys.exit(STATUS)
