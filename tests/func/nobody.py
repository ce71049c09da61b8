# SPDX-License-Identifier: Apache-2.0
"""Running kvick, and code, as a user without privileges."""

import os
import shutil
import tempfile

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be several users")

NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}  # for subprocess.run()


@pytest.fixture
def open_kvick(kvick):
    """A copy of kvick that everybody may execute, wherever the build is."""
    directory = tempfile.mkdtemp(prefix="kvick-test-")
    os.chmod(directory, 0o755)
    copy = os.path.join(directory, "kvick")
    shutil.copyfile(kvick, copy)
    os.chmod(copy, 0o755)
    yield copy
    shutil.rmtree(directory)


def open_path(path):
    """Let everybody go to the folder PATH."""
    os.chmod(path, 0o755)
    for parent in path.parents:
        if os.stat(parent).st_uid == os.geteuid() and str(parent) not in ("/", "/tmp"):
            os.chmod(parent, os.stat(parent).st_mode | 0o055)


def as_user(uid, code):
    """Runs CODE in a process of that user; its status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(uid)
            status = code()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
