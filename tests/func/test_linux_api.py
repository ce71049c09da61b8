# SPDX-License-Identifier: Apache-2.0
"""The control socket of Linux guests: what it answers, and pausing while they boot and work."""

import re
import time

import pytest
from linux_vm import MIB, PAUSE, RESUME, cycles, linux_vms  # noqa: F401 (a fixture)
from places import text

DISK = "/tmp/api-disk"


@pytest.mark.limit(200)
def test_answers(linux_vm):
    """Every request, of a guest that works; what is refused changes nothing."""
    vm = linux_vm(
        ["echo ready", "memwait 300 384", "memwait 100 128", "echo done", "sleep 3000"],
        "--memory", "128M", "--cpus", "2", "--mem-device", "max=256M", "--mem-device", "id=hotplug,max=1G",
        "--stats=/tmp/api-stats",
    )  # fmt: skip
    vm.expect("ready")
    status, info = vm.ask("GET", "/")
    assert (status, info["id"], info["state"], info["app_name"]) == (200, "vm-1", "Running", "kvick")
    status, config = vm.ask("GET", "/vm/config")
    assert (status, config["machine-config"]["vcpu_count"]) == (200, 2)
    assert config["machine-config"] == vm.ask("GET", "/machine-config")[1]
    assert config["boot-source"]["kernel_image_path"] == "build/guest/vmlinux"
    assert [d["id"] for d in config["kvick"]["mem_devices"]] == ["mem0", "hotplug"]

    # Firecracker's device, and all of them.
    size = "/hotplug/memory"
    empty = {
        "total_size_mib": 1024, "block_size_mib": 2, "slot_size_mib": 1024, "plugged_size_mib": 0,
        "requested_size_mib": 0,
    }  # fmt: skip
    assert vm.ask("GET", size) == (200, empty)
    assert [d["id"] for d in vm.ask("GET", "/kvick/memory")[1]] == ["mem0", "hotplug"]
    for method, path, body, said in (
        ("PATCH", size, {"requested_size_mib": 3}, "is not a multiple of 2M"),
        ("PATCH", size, {"requested_size_mib": 1026}, "is more than max=1G"),
        ("PATCH", size, {"requested_size_mib": -2}, "is not a size"),
        ("PATCH", size, {"requested_bytes": 4096, "requested_size_mib": 2}, "give one of"),
        ("PATCH", size, {"size": 2}, 'unknown field "size"'),
        ("PATCH", size + "/m7", {"requested_size_mib": 2}, 'no memory device "m7"'),
        ("PUT", size, {"total_size_mib": 2048}, "not supported after starting"),
        ("PATCH", "/vm", {"state": "Gone"}, '"Gone" is not allowed'),
        ("PUT", "/actions", {"action_type": "InstanceStart"}, "not supported after starting"),
        ("PUT", "/actions", {"action_type": "SendCtrlAltDel"}, "no keyboard"),
        ("GET", "/nowhere", None, "Invalid request"),
    ):
        status, answer = vm.ask(method, path, body)
        assert status == 400 and said in answer["fault_message"], (method, path, body, answer)
    assert vm.ask("GET", size) == (200, empty)
    assert vm.ask("PUT", "/actions", {"action_type": "FlushMetrics"}) == (204, None)

    # Up, and down again, with the guest asked while it stands still.
    assert vm.ask("PATCH", size, {"requested_size_mib": 256}) == (204, None)
    vm.expect("memwait: ")
    for want in (256, 0):
        for _ in range(100):
            status, now = vm.ask("GET", size)
            if now["plugged_size_mib"] == want:
                break
            time.sleep(0.1)
        assert (now["plugged_size_mib"], now["requested_size_mib"]) == (want, want)
        if want:
            answers = vm.talk(PAUSE, f'PATCH {size} {{"requested_size_mib":0}}', "sleep 500", f"GET {size}/hotplug", RESUME)
            assert [a[0] for a in answers] == [204, 204, 200, 204]
            assert (answers[2][1]["plugged_bytes"], answers[2][1]["requested_bytes"]) == (256 * MIB, 0)
    vm.expect("done")
    vm.end(5)


@pytest.mark.limit(200)
@pytest.mark.parametrize("cpus", ("1", "2"))
def test_paused_while_it_boots(linux_vm, cpus):
    """From the first instruction on, again and again; nothing is lost and no watchdog barks."""
    vm = linux_vm(["cpus", "clock", "uptime"], "--cpus", cpus, "--rng")
    assert vm.talk(*cycles(12, 60, 40)) == [(204, None)] * 24
    assert f"cpus: {cpus}\n" in vm.end(3)


@pytest.mark.limit(200)
def test_paused_for_longer_than_a_watchdog_waits(linux_vm):
    """The guest's soft lockup detector sees a processor that hung for longer than 4 s."""
    vm = linux_vm(
        ["write /proc/sys/kernel/watchdog_thresh 2", "echo ready", "spin 6000", "clock"],
        "--memory", "256M", "--cpus", "2", kernel="debian-vmlinuz", append="",
    )  # fmt: skip
    vm.expect("ready")
    assert vm.talk(*cycles(1, 7000, 0)) == [(204, None)] * 2
    vm.end(4)


@pytest.mark.limit(200)
def test_paused_while_devices_work(testbed, linux_vm):
    """Disk with two queues and a rate limit, and entropy: what is written is read back whole."""
    testbed.run(["truncate", "-s", "32M", DISK], check=True)
    work = ["echo ready"]
    for i in range(4):
        place = f"/dev/vda {i << 22} 4194304 {i}"
        work += [f"fill {place}", "read /dev/hwrng 2048", f"verify {place}"]
    vm = linux_vm(work, "--cpus", "2", "--rng", "--disk", f"{DISK},queues=2,bw=8M/s")
    vm.expect("ready")
    assert vm.talk(*cycles(15, 30, 60)) == [(204, None)] * 30
    said = vm.end(13)
    assert len(re.findall(r"^verify: 4194304 bytes ok$", said, re.M)) == 4
    assert len(re.findall(r"^read: 2048 bytes, ", said, re.M)) == 4


@pytest.mark.limit(200)
def test_nothing_moves_while_it_is_paused(linux_vm):
    vm = linux_vm(["echo ready", "sleep 1000", "echo after"])
    vm.expect("ready")
    vm.state("Paused")
    time.sleep(2)
    assert "after" not in text(vm.job.stdout)
    assert vm.ask("GET", "/")[1]["state"] == "Paused"
    vm.state("Resumed")
    vm.end(3)
