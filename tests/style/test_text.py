# SPDX-License-Identifier: Apache-2.0
"""Documents: links lead somewhere, and nothing names where the project was made or fetched from."""

import re

from source import ROOT, files, name

DOCUMENTS = [p for p in files("text") if p.suffix == ".md"]


def test_links_lead_somewhere():
    wrong = []
    for p in DOCUMENTS:
        for target in re.findall(r"\]\(([^)\s]+)\)", p.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            there = (p.parent / file).resolve() if file else p
            if not there.exists():
                wrong.append(f"{name(p)}: {target} does not exist")
            elif anchor and there.suffix == ".md" and anchor not in anchors(there):
                wrong.append(f"{name(p)}: {target}: no such heading")
    assert not wrong, "\n".join(wrong)


def anchors(path):
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


def test_no_hosts_of_registries_or_mirrors():
    """Packages come from wherever the machine is set up to get them."""
    hosts = re.compile(
        r"\b((deb|security|snapshot|ftp)\.debian\.org|registry\.npmjs\.org|pypi\.org"
        r"|proxy\.golang\.org|crates\.io|[a-z.]*packages\.[a-z]+\.com)\b"
    )
    wrong = []
    for p in files("text"):
        if p.name == "test_text.py":
            continue
        for i, line in enumerate(p.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            if hosts.search(line):
                wrong.append(f"{name(p)}:{i}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_the_documents_are_there():
    for wanted in (
        "LICENSE",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "docs/design.md",
        "docs/testing.md",
        "docs/performance.md",
    ):
        assert (ROOT / wanted).is_file(), wanted


def test_readme_names_every_document():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for p in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{p.name})" in text, f"README.md does not lead to docs/{p.name}"


def test_changelog_has_the_version():
    version = (ROOT / "VERSION").read_text(encoding="utf-8").strip()
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(version)})\]", text, re.M)
