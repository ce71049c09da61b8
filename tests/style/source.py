# SPDX-License-Identifier: Apache-2.0
"""What the style tests share: the tree's files, and just enough C to look at them."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def files(kind):
    """The project's own files of a kind that tools/sources knows, as paths."""
    out = subprocess.run(
        [ROOT / "tools" / "sources", kind], capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in out.stdout.splitlines()]


def src_files():
    """C files of the monitor itself."""
    return [p for p in files("c") if (ROOT / "src") in p.parents]


def name(path):
    return str(path.relative_to(ROOT))


def module(path):
    """The folder under src/ that a file belongs to."""
    return path.relative_to(ROOT / "src").parts[0]


TOKENS = re.compile(
    r"""(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.S | re.X,
)


def bare(text):
    """C text without what is in comments and quotes; every line stays where it was."""

    def blank(m):
        lines = "\n" * m.group().count("\n")
        return lines if m["comment"] else m.group()[0] + lines + m.group()[0]

    return TOKENS.sub(blank, text)


def functions(text):
    """The functions defined in C text, in the kernel's style: (name, first line, last line)."""
    lines = bare(text).split("\n")
    for i, line in enumerate(lines):
        if line != "{":
            continue
        start = i - 1
        while start > 0 and lines[start - 1].strip() and not lines[start - 1].startswith("#"):
            if re.search(r"[;}]\s*$", lines[start - 1]):
                break
            start -= 1
        end = next((j for j in range(i, len(lines)) if lines[j] == "}"), len(lines) - 1)
        head = " ".join(lines[start:i])
        if found := re.search(r"(\w+)\s*\(", head):
            yield found[1], start + 1, end + 1


class Declaration:
    """A function that a header declares."""

    def __init__(self, line, text, comment):
        self.line = line
        self.text = re.sub(r"\s+", " ", text).strip()
        self.comment = comment  # of the group it stands in, or None
        self.inline = " inline " in f" {self.text} "
        self.name = re.search(r"(\w+)\s*\(", re.sub(r"__attribute__\s*\(.*", "", self.text))[1]


def declarations(text):
    """The functions declared or defined inline in a header.

    A group is a run of declarations without a blank line between them; the comment above its first
    belongs to all, and a comment inside it to those that follow."""
    lines = text.split("\n")
    plain = bare(text).split("\n")
    comment = None
    i = 0
    while i < len(lines):
        if not lines[i].strip():
            comment = None
        elif lines[i].startswith("/*"):
            last = next(j for j in range(i, len(lines)) if "*/" in lines[j])
            comment = "\n".join(lines[i : last + 1])
            i = last
        elif lines[i].startswith("#"):
            while lines[i].endswith("\\"):
                i += 1
        elif re.match(r"\w", plain[i]):
            last, text_ = statement(plain, i)
            if is_function(text_):
                yield Declaration(i + 1, text_, comment)
            i = last
        i += 1


def statement(lines, start):
    """The statement that starts on a line: its last line, and its text up to ; or {."""
    depth, text = 0, ""
    for i in range(start, len(lines)):
        text += lines[i] + " "
        depth += lines[i].count("{") - lines[i].count("}")
        if depth == 0 and re.search(r"[;}]\s*(__attribute__.*)?$", lines[i].rstrip()):
            return i, text.split("{")[0]
    return len(lines) - 1, text


def is_function(text):
    if re.match(r"typedef|extern|_Static_assert", text) or "=" in text:
        return False
    return bool(re.match(r"\w[\w\s*]*[\s*]\w+\s*\((?!\s*\*)", text))
