# SPDX-License-Identifier: Apache-2.0
"""The text of the sources: licence lines, sizes, form, no loose ends."""

import re
import subprocess

from source import ROOT, bare, files, functions, name, src_files

LICENCE = "SPDX-License-" + "Identifier: Apache-2.0"


def head(path):
    return path.read_text(encoding="utf-8").split("\n", 2)[:2]


def test_licence_lines():
    wrong = [name(p) for p in files("c") if head(p)[0] != f"/* {LICENCE} */"]
    for p in files("shell") + files("python") + list(ROOT.rglob("meson.build")):
        if not any(line == f"# {LICENCE}" for line in head(p)):
            wrong.append(name(p))
    assert not wrong, "no licence line in: " + " ".join(wrong)


def test_file_length():
    wrong = []
    for p in files("c") + files("shell") + files("python"):
        count = p.read_text(encoding="utf-8").count("\n")
        if count > 900:
            wrong.append(f"{name(p)}: {count} lines; 900 are allowed")
    assert not wrong, "\n".join(wrong)


def test_function_length():
    wrong, seen = [], 0
    for p in files("c"):
        for function, first, last in functions(p.read_text(encoding="utf-8")):
            seen += 1
            if last - first + 1 > 80:
                wrong.append(f"{name(p)}:{first}: {function} has {last - first + 1} lines, not <= 80")
    assert not wrong, "\n".join(wrong)
    assert seen > 200


def test_nothing_before_main():
    """Every start pays for it: the compiler's check of the CPU executes CPUID, which in a VM is an exit each."""
    early = re.compile(r"__builtin_cpu_\w+|\bconstructor\b|\bifunc\b|\btarget_clones\b")
    wrong = [f"{name(p)}: {found[0]}" for p in src_files() if (found := early.search(bare(p.read_text())))]
    assert not wrong, "\n".join(wrong)


def test_c_is_formatted():
    done = subprocess.run(
        ["clang-format", "--dry-run", "-Werror", *files("c")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    shown = re.sub(rf"^{ROOT}/", "", done.stderr, flags=re.M)
    assert done.returncode == 0, f"run make format\n{shown}"


def test_shell_scripts_are_sound():
    done = subprocess.run(
        ["shellcheck", *files("shell")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_no_loose_ends():
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b")
    wrong = []
    for p in files("text"):
        for i, line in enumerate(p.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            if words.search(line):
                wrong.append(f"{name(p)}:{i}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_no_blanks_at_line_ends():
    wrong = []
    for p in files("text"):
        text = p.read_text(encoding="utf-8", errors="replace")
        wrong += [
            f"{name(p)}:{i}" for i, line in enumerate(text.split("\n"), 1) if line != line.rstrip()
        ]
        if text and not text.endswith("\n"):
            wrong.append(f"{name(p)}: no newline at the end")
    assert not wrong, "\n".join(wrong)


def test_packed_structures_have_their_size_checked():
    wrong = []
    for p in src_files():
        text = bare(p.read_text())
        for found in re.finditer(r"struct (\w+) \{(?:(?!\n\}).)*\n\} __attribute__\(\(packed", text, re.S):
            if f"_Static_assert(sizeof(struct {found[1]})" not in text:
                wrong.append(f"{name(p)}: struct {found[1]}")
    assert not wrong, "\n".join(wrong)
