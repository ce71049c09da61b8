# SPDX-License-Identifier: Apache-2.0
"""Huge pages of 2 MiB for tests on this host."""

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
