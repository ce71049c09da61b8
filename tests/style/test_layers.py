# SPDX-License-Identifier: Apache-2.0
"""The tree keeps to the table of layers in docs/design.md."""

import re

import pytest
from source import ROOT, declarations, module, name, src_files


def table():
    """The table of layers: folder -> (row, folders beside, prefixes)."""
    found = {}
    for line in (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) != 5 or not cells[0].isdigit():
            continue
        (folder,) = re.findall(r"`(\w+)/`", cells[1])
        found[folder] = (
            int(cells[0]),
            re.findall(r"`(\w+)/`", cells[2]),
            re.findall(r"`(\w+_)`", cells[3]),
        )
    return found


LAYERS = table()


def test_the_table_is_the_tree():
    assert set(LAYERS) == {p.name for p in (ROOT / "src").iterdir() if p.is_dir()}


@pytest.mark.parametrize("folder", sorted(LAYERS))
def test_includes_go_down(folder):
    row, beside, _ = LAYERS[folder]
    wrong = []
    for path in src_files():
        if module(path) != folder:
            continue
        for target in re.findall(r'^#\s*include\s+"([^"]+)"', path.read_text(), re.M):
            other = target.split("/")[0]
            if other not in LAYERS or not (ROOT / "src" / target).is_file():
                wrong.append(f"{name(path)}: {target} is not a header under src/")
            elif other != folder and other not in beside and LAYERS[other][0] >= row:
                wrong.append(f"{name(path)}: {folder} (row {row}) may not include {target}")
    assert not wrong, "\n".join(wrong)


def test_what_is_beside_is_in_the_same_row_and_makes_no_circle():
    for folder, (row, beside, _) in LAYERS.items():
        for other in beside:
            assert LAYERS[other][0] == row, f"{folder} beside {other}: another row"
            assert folder not in LAYERS[other][1], f"{folder} and {other} stand beside each other"


def test_internal_headers_stay_inside():
    wrong = []
    for path in src_files():
        for target in re.findall(r'^#\s*include\s+"([^"]*internal\.h)"', path.read_text(), re.M):
            if target.split("/")[0] != module(path):
                wrong.append(f"{name(path)} includes {target}")
    assert not wrong, "\n".join(wrong)


def test_function_names():
    wrong = []
    for path in src_files():
        if path.suffix != ".h":
            continue
        prefixes = tuple(LAYERS[module(path)][2])
        for f in declarations(path.read_text()):
            where = f"{name(path)}:{f.line}: {f.name}"
            if len(f.name) > 20:
                wrong.append(f"{where} has {len(f.name)} characters; 20 are allowed")
            if not f.name.startswith(prefixes):
                wrong.append(f"{where} starts with none of {' '.join(prefixes)}")
    assert not wrong, "\n".join(wrong)
