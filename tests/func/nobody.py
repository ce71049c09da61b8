# SPDX-License-Identifier: Apache-2.0
"""Running kvick as a user without privileges."""

import os
import shutil
import tempfile

import pytest

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
