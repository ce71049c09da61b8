# SPDX-License-Identifier: Apache-2.0
"""Manual pages: every verb has one, it names every option of the verb's help, and it is well-formed."""

import re
import subprocess

import pytest
from source import ROOT

MAN = ROOT / "man"
OPTION = re.compile(r"^  (--[a-z][a-z0-9-]*)", re.M)


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module", name="kvick")
def kvick_path(build):
    return build / "kvick"


def verbs(kvick):
    """The verbs that `kvick help` lists."""
    lines = output(kvick, "help").split("verbs:\n", 1)[1].splitlines()
    return [line.split()[0] for line in lines if re.match(r"  \S", line)]


def page(verb):
    return MAN / f"kvick-{verb}.1.scd"


def test_every_verb_has_a_page(kvick):
    assert len(verbs(kvick)) > 3
    assert [v for v in verbs(kvick) if not page(v).is_file()] == []


def test_the_main_page_names_every_verb(kvick):
    text = (MAN / "kvick.1.scd").read_text(encoding="utf-8")
    assert [v for v in verbs(kvick) if f"kvick-{v}" not in text] == []


def test_pages_name_every_option(kvick):
    wrong, seen = [], 0
    for verb in verbs(kvick):
        text = page(verb).read_text(encoding="utf-8") if page(verb).is_file() else ""
        for option in OPTION.findall(output(kvick, "help", verb)):
            seen += 1
            if option != "--help" and not re.search(rf"\*{option}(?![\w-])", text):
                wrong.append(f"{page(verb).name} lacks {option}")
    assert not wrong, "\n".join(wrong)
    assert seen > 15


def test_pages_name_no_other_option(kvick):
    """What was taken out of the program is taken out of the manual."""
    wrong = []
    for verb in verbs(kvick):
        there = set(OPTION.findall(output(kvick, "help", verb)))
        text = page(verb).read_text(encoding="utf-8") if page(verb).is_file() else ""
        for option in re.findall(r"^\*(--[a-z][a-z0-9-]*)\*", text, re.M):
            if option not in there:
                wrong.append(f"{page(verb).name} has {option}, which kvick {verb} has not")
    assert not wrong, "\n".join(wrong)


def test_pages_are_built():
    listed = re.findall(r"'(kvick[\w-]*\.\d)'", (MAN / "meson.build").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(p.name.removesuffix(".scd") for p in MAN.glob("*.scd"))


@pytest.mark.parametrize("source", sorted(MAN.glob("*.scd")), ids=lambda p: p.name)
def test_pages_are_sound(source, tmp_path):
    text = source.read_bytes()
    done = subprocess.run(["scdoc"], input=text, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = tmp_path / source.name.removesuffix(".scd")
    built.write_bytes(done.stdout)
    lint = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "error", built], capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout


def test_the_manual_explains_every_exit_status(kvick):
    text = page("run").read_text(encoding="utf-8")
    statuses = re.findall(r"^  (\d+|128\+N) +\S", output(kvick, "help", "run"), re.M)
    assert len(statuses) >= 8
    section = text.split("# EXIT STATUS", 1)[1].split("\n# ", 1)[0]
    assert [s for s in statuses if not re.search(rf"\b{re.escape(s)}(?!\d)", section)] == []
