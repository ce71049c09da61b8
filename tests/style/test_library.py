# SPDX-License-Identifier: Apache-2.0
"""Library code, which is all of src/ but cli/: it neither prints nor ends the process, and keeps
no state of its own. Only kvm/ talks to KVM."""

import re
import subprocess

import pytest
from source import bare, module, name, src_files

LIBRARY = [p for p in src_files() if module(p) != "cli"]

ENDS = r"exit|_exit|_Exit|quick_exit|abort|err|errx|warn|warnx|perror"
PRINTS = r"printf|vprintf|puts|putchar|psignal|syslog"
STATE = r"strtok|setlocale|getenv_r|rand|srand|strerror|localtime|gmtime|setenv|putenv|chdir|umask"


def calls(paths, pattern):
    found = []
    for p in paths:
        for i, line in enumerate(bare(p.read_text()).split("\n"), 1):
            if m := re.search(rf"(?<![\w.>])(?:{pattern})\s*\(", line):
                found.append(f"{name(p)}:{i}: {m.group()}")
    return found


def test_there_is_a_library():
    assert len(LIBRARY) > 40


def test_library_does_not_end_the_process():
    assert not calls(LIBRARY, ENDS)


def test_library_does_not_print():
    assert not calls(LIBRARY, PRINTS)
    words = re.compile(r"\b(stdout|stderr|STDOUT_FILENO|STDERR_FILENO)\b")
    # The serial port on stdio is the one thing whose business these descriptors are.
    paths = [p for p in LIBRARY if not p.name.startswith("chardev")]
    wrong = [name(p) for p in paths if words.search(bare(p.read_text()))]
    assert not wrong


def test_library_uses_no_process_wide_state():
    assert not calls(LIBRARY, STATE)


def test_only_kvm_talks_to_kvm():
    wrong = []
    for p in src_files():
        if module(p) == "kvm":
            continue
        text = bare(p.read_text())
        wrong += [f"{name(p)}: {m}" for m in re.findall(r"\bioctl\s*\([^;]*?\bKVM_\w+", text)]
        # Requests are the names that the kernel's header defines with _IO*(KVMIO, ...).
        wrong += [f"{name(p)}: {m}" for m in re.findall(r"\bKVM_(?:CREATE|RUN|GET|SET)_\w+", text)]
    assert not wrong, "\n".join(wrong)


def test_memory_is_mapped_where_it_belongs():
    """Guest RAM in gmem/, the kernel's shared pages in kvm/, files in image/, chunks in pool/."""
    paths = [p for p in LIBRARY if module(p) not in ("gmem", "kvm", "image", "pool")]
    assert not calls(paths, r"mmap|mremap|munmap")


@pytest.fixture(scope="module", name="symbols")
def archive_symbols(build):
    """What the library's objects define: (file, section, name)."""
    archive = build / "libkvick-core.a"
    out = subprocess.run(["objdump", "-t", archive], capture_output=True, text=True, check=True)
    found, member = [], ""
    for line in out.stdout.splitlines():
        if m := re.match(r"(\S+):\s+file format", line):
            member = m[1]
        elif m := re.match(r"[0-9a-f]{16} .{7} (\S+)\s+[0-9a-f]+ (?:\.hidden )?(\S+)$", line):
            found.append((member, m[1], m[2]))
    assert len(found) > 300
    return found


def test_no_mutable_state(symbols):
    mutable = re.compile(r"^(\.(data(?!\.rel\.ro)|bss|tdata|tbss)|\*COM\*)")
    wrong = [
        f"{member}: {symbol} in {section}"
        for member, section, symbol in symbols
        if mutable.match(section) and not symbol.startswith(".") and symbol != section
    ]
    assert not wrong, "\n".join(wrong)


def test_no_constructors(symbols):
    wrong = [m for m, section, _ in symbols if re.match(r"\.(init_array|fini_array|ctors)", section)]
    assert not wrong
