# SPDX-License-Identifier: Apache-2.0
"""What headers promise: every function says what it does and what it returns."""

import re

from source import declarations, name, src_files

HEADERS = [p for p in src_files() if p.suffix == ".h"]

# Or the comment begins with what the value is, or with the function that this one is like.
SAYS_RESULT = re.compile(r"\bReturns?\b|-E[A-Z]{2,}|-errno|^/\*[\s*]*((The|True) |(As )?\w+\(\)[ ,])", re.M)


def convention(text):
    """True when one comment of the header speaks for several functions."""
    return bool(re.search(r"\b[Rr]eturn\s(\*\s)?(0 or|the exit status)", text))


def test_there_are_headers():
    assert len(HEADERS) > 10
    assert sum(1 for p in HEADERS for f in declarations(p.read_text())) > 80


def test_every_function_is_documented():
    wrong = [
        f"{name(p)}:{f.line}: {f.name} has no comment above it or its group"
        for p in HEADERS
        for f in declarations(p.read_text())
        if not f.comment
    ]
    assert not wrong, "\n".join(wrong)


def test_results_are_documented():
    wrong = []
    for p in HEADERS:
        text = p.read_text()
        for f in declarations(text):
            if f.inline or not re.match(r"(int|ssize_t) (?!\*)", f.text):
                continue
            if f.comment and not SAYS_RESULT.search(f.comment) and not convention(text):
                wrong.append(f"{name(p)}:{f.line}: {f.name} does not say what it returns")
    assert not wrong, "\n".join(wrong)


def test_include_guards():
    for p in HEADERS:
        guard = "KV_" + "_".join(p.with_suffix("").parts[-2:]).upper() + "_H"
        text = p.read_text()
        assert f"#ifndef {guard}\n#define {guard}\n" in text, f"{name(p)}: guard is not {guard}"
        assert text.endswith("\n#endif\n"), f"{name(p)}: does not end with its guard's #endif"
