# SPDX-License-Identifier: Apache-2.0
"""What all pytest tests share: the build folder, and a limit on how long a test may take."""

import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 180


def pytest_addoption(parser):
    parser.addoption("--build", type=Path, default=ROOT / "build", help="the build folder to test")


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long the test and its set-up may take")
    config.addinivalue_line("markers", "soak: the same again and again; --soak says how often")
    config.addinivalue_line("markers", "testbed: runs in the emulated host")
    config.addinivalue_line("markers", "plain: makes no sense in a sanitizer's build")


class TookTooLong(Exception):
    """A test went over its limit."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """No test hangs: whatever it waits for is interrupted, and its clean-up still runs."""
    mark = item.get_closest_marker("limit")
    seconds = mark.args[0] if mark else LIMIT_S

    def over(_number, _frame):
        raise TookTooLong(f"over its limit of {seconds} s")

    signal.signal(signal.SIGALRM, over)
    # A second one, should the clean-up hang too.
    signal.setitimer(signal.ITIMER_REAL, seconds, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture(scope="session", name="build")
def build_folder(request):
    """The build folder; its kvick must be there."""
    folder = request.config.getoption("--build").resolve()
    if not (folder / "kvick").is_file():
        pytest.fail(f"{folder}/kvick is not there; run make", pytrace=False)
    return folder
