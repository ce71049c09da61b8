# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the functional tests: kvick, guests, this host's KVM, the emulated host.

Tests of flat guests run on this host's KVM (fixture kvm_host). Tests of Linux guests take the fixture
linux: they run in the emulated host, and once more on this one where its KVM can run Linux."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import Emulated, Here
from vm import Vm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "testbed"))

import testbed as emulated  # noqa: E402

# Commands of several tests run in one emulated host of this size.
TESTBED_CPUS = 2
TESTBED_MIB = 2048
LARGE_MIB = 6144


def pytest_addoption(parser):
    parser.addoption("--soak", type=int, default=10, help="how often the soak tests repeat")


def pytest_generate_tests(metafunc):
    if "linux" in metafunc.fixturenames:
        places = ["testbed"]
        if linux_runs_here(metafunc.config):
            places.append("here")
        metafunc.parametrize("linux", places, indirect=True)


def pytest_collection_modifyitems(items):
    for item in items:
        place = getattr(item, "callspec", None) and item.callspec.params.get("linux")
        fixtures = {"testbed_server", "testbed_build"} & set(item.fixturenames)
        if place == "testbed" or fixtures or item.path.name == "test_testbed.py":
            item.add_marker(pytest.mark.testbed)


def linux_runs_here(config):
    kvick = config.getoption("--build") / "kvick"
    if not kvick.is_file():
        return False
    return subprocess.run([kvick, "doctor"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session", name="kvick")
def kvick_path(build):
    return build / "kvick"


@pytest.fixture(scope="session", name="flat")
def flat_folder(build):
    """The folder of the flat guests, each as NAME.pvh.elf and NAME.elf64."""
    return build / "guest" / "flat"


@pytest.fixture(scope="session", name="doctor")
def doctor_report(kvick):
    """What kvick doctor says of this host."""
    out = subprocess.run([kvick, "doctor", "--json"], capture_output=True, check=False).stdout
    return json.loads(out)


@pytest.fixture(scope="session", name="kvm_host")
def this_hosts_kvm(doctor):
    """Skips where flat guests cannot run on this host."""
    if not os.path.exists("/dev/kvm"):
        pytest.skip("this host has no /dev/kvm")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm is not for this user")
    if not doctor["flat_guests"]:
        pytest.skip("this host's KVM lacks what kvick needs")


@pytest.fixture(name="start")
def start_vms(kvick):
    """start(ARGS...): a Vm that is gone when the test ends, however it ends."""
    vms = []

    def start(*args, **kwargs):
        vms.append(Vm(kvick, *args, **kwargs))
        return vms[-1]

    yield start
    for vm in vms:
        vm.close()


@pytest.fixture(scope="session", name="testbed_build")
def static_build(request, build):
    """A build whose kvick is static: what runs in the emulated host."""
    if not (build / "guest" / "vmlinux").is_file():
        pytest.fail(f"{build}/guest/vmlinux is not there; run make guest", pytrace=False)
    return build


@pytest.fixture(scope="session", name="testbed_server")
def lasting_testbed(testbed_build):
    if why := emulated.missing():
        pytest.skip(why)
    server = Server(testbed_build)
    yield server
    server.close()


class Server:
    """Keeps one emulated host at a time; makes another when it died, or another size is wanted."""

    def __init__(self, build):
        self.build = build
        self.host = None
        self.memory_mib = 0

    def get(self, memory_mib=TESTBED_MIB):
        if self.host and not (self.host.alive and self.memory_mib == memory_mib):
            self.close()
        if not self.host:
            host = emulated.Testbed(cpus=TESTBED_CPUS, memory_mib=memory_mib, build=self.build)
            host.start()
            self.host, self.memory_mib = host, memory_mib
        return self.host

    def close(self):
        if self.host:
            self.host.close()
        self.host = None


@pytest.fixture(name="testbed")
def shared_testbed(testbed_server):
    """The emulated host, started once for all tests. Skips where it cannot run."""
    return testbed_server.get()


@pytest.fixture(name="large_memory")
def memory_for_large_testbed():
    """Skips where an emulated host for large guests does not fit."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:") and int(line.split()[1]) < (LARGE_MIB + 2048) << 10:
            pytest.skip(f"less than {LARGE_MIB + 2048} MiB of memory are free")


@pytest.fixture(name="large_testbed")
def testbed_for_large_guests(testbed_server, large_memory):
    """An emulated host with memory for a guest of more than 4 GiB."""
    return testbed_server.get(LARGE_MIB)


@pytest.fixture(name="fresh_testbed")
def testbed_just_started(testbed_server, large_memory):
    """A large_testbed that has done nothing yet: later there is no whole GiB in one piece."""
    testbed_server.close()
    return testbed_server.get(LARGE_MIB)


@pytest.fixture(name="linux")
def linux_place(request):
    """A place where kvick runs Linux guests: run(), kvick(), guest()."""
    if request.param == "testbed":
        return Emulated(request.getfixturevalue("testbed"))
    return Here(request.getfixturevalue("testbed_build"))
