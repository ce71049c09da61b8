# SPDX-License-Identifier: Apache-2.0
"""Huge pages for tests: of 2 MiB on this host, of any size in the emulated one."""

from contextlib import contextmanager
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


@pytest.fixture(name="huge_pages")
def some_huge_pages():
    """96 free pages of 2 MiB, given back afterwards."""
    try:
        before = int((HUGE / "nr_hugepages").read_text())
        (HUGE / "nr_hugepages").write_text(str(before + 96))
    except OSError as e:
        pytest.skip(f"huge pages cannot be reserved here: {e}")
    try:
        if int((HUGE / "free_hugepages").read_text()) < 96:
            pytest.skip("this host cannot free 96 huge pages of 2 MiB")
        yield
    finally:
        (HUGE / "nr_hugepages").write_text(str(before))


@contextmanager
def emulated_huge_pages(linux, kib, count):
    """COUNT free pages of KIB KiB in the emulated host, given back afterwards; skips without them. Its
    value tells how many are free."""
    pages = f"/sys/kernel/mm/hugepages/hugepages-{kib}kB"

    def free():
        return int(linux.run("cat", f"{pages}/free_hugepages").stdout)

    linux.run("sh", "-c", f"echo {count} >{pages}/nr_hugepages")
    try:
        if free() < count:
            pytest.skip(f"the emulated host cannot free {count} pages of {kib} KiB")
        yield free
    finally:
        linux.run("sh", "-c", f"echo 0 >{pages}/nr_hugepages")
