# SPDX-License-Identifier: Apache-2.0
"""The control socket: who finds it, what it answers, pausing, and clients that misbehave."""

import http.client
import json
import os
import pty
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
from vm import OK, START, connected, run, until

pytestmark = pytest.mark.usefixtures("kvm_host")


class Client(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout=20):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = connected(self.path)
        self.sock.settimeout(self.timeout)

    def ask(self, method, path, body=None):
        """(status, answer); the answer is what its JSON says, or None."""
        self.request(method, path, None if body is None else json.dumps(body))
        response = self.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None


@pytest.fixture(name="sockets", autouse=True)
def socket_folder(monkeypatch):
    """The folder of the control sockets; its path is short enough for a socket's."""
    folder = Path(tempfile.mkdtemp(prefix="kvick-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder / "kvick"
    left = [p.name for p in (folder / "kvick").glob("*")]
    shutil.rmtree(folder)
    assert left in ([], ["left.sock"])


@pytest.fixture(name="vm")
def started_vm(start, flat, sockets):
    """vm(GUEST, ARGS...): a VM called vm-1, and a client of it."""

    def make(guest, *args):
        vm = start("--id", "vm-1", *args, flat / f"{guest}.pvh.elf")
        until(lambda: (sockets / "vm-1.sock").exists(), "the socket")
        return vm, Client(sockets / "vm-1.sock")

    yield make


def end(vm, status=128 + signal.SIGTERM):
    vm.signal(signal.SIGTERM)
    assert vm.wait() == status


def cpu_ticks(vm):
    fields = Path(f"/proc/{vm.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def set_state(client, state):
    assert client.ask("PATCH", "/vm", {"state": state}) == (204, None)


def test_instance(vm, sockets):
    one, client = vm("spin", "--serial", "none")
    mode = (sockets / "vm-1.sock").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    status, info = client.ask("GET", "/")
    assert (status, info["id"], info["state"]) == (200, "vm-1", "Running")
    status, config = client.ask("GET", "/vm/config")
    assert status == 200
    assert config["machine-config"]["vcpu_count"] == 1
    assert config["boot-source"]["kernel_image_path"].endswith("spin.pvh.elf")
    end(one)


@pytest.mark.parametrize(
    ("keys", "slot_mib"),
    [("max=3G,slots=2", 2048), ("max=512M", 512), ("max=3G,dynamic-memslots=off", 3072)],
)
def test_memory_slots(vm, keys, slot_mib):
    """What a whole slot has; the last one may be shorter."""
    one, client = vm("spin", "--serial", "none", "--mem-device", keys)
    status, info = client.ask("GET", "/hotplug/memory")
    assert (status, info["slot_size_mib"]) == (200, slot_mib)
    end(one)


@pytest.mark.parametrize("cpus", ("1", "3"))
def test_pause_stops_the_guest(vm, cpus):
    one, client = vm("spin", "--serial", "none", "--cpus", cpus)
    for _ in range(3):
        set_state(client, "Paused")
        assert client.ask("GET", "/")[1]["state"] == "Paused"
        before = cpu_ticks(one)
        time.sleep(0.3)
        assert cpu_ticks(one) - before <= 3
        set_state(client, "Resumed")
        before = cpu_ticks(one)
        until(lambda b=before: cpu_ticks(one) > b + 3, "the guest going on")
    end(one)


def test_pause_many_times(vm):
    """Also twice in a row, and resumed without having been paused."""
    one, client = vm("spin", "--serial", "none")
    for state in ["Resumed"] + ["Paused", "Paused", "Resumed"] * 200:
        set_state(client, state)
    before = cpu_ticks(one)
    until(lambda: cpu_ticks(one) > before + 3, "the guest going on")
    end(one)


def test_what_is_typed_meanwhile_is_not_lost(vm):
    one, client = vm("echo")
    one.expect("echo ready")
    one.send("abc")
    one.expect("abc")
    set_state(client, "Paused")
    one.send("def")
    time.sleep(0.2)
    assert "def" not in one.out
    set_state(client, "Resumed")
    one.expect("def")
    one.send("q")
    one.expect("echo done")
    assert one.wait() == OK


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
def test_a_paused_vm_can_be_ended(vm, number):
    one, client = vm("spin", "--serial", "none", "--cpus", "2")
    set_state(client, "Paused")
    one.signal(number)
    assert one.wait() == 128 + number


def test_a_paused_vm_can_be_ended_at_its_console(start, flat, sockets):
    master, slave = pty.openpty()
    one = start("--id", "vm-1", flat / "spin.pvh.elf", stdin=slave, stdout=slave, stderr=slave)
    until((sockets / "vm-1.sock").exists, "the socket")
    set_state(Client(sockets / "vm-1.sock"), "Paused")
    os.write(master, b"\x01x")
    assert one.wait() == OK
    os.close(master)
    os.close(slave)


def test_the_socket_goes_with_the_vm(kvick, flat, sockets):
    """However it ends; the fixture looks."""
    for guest, status in (("signal", 0), ("acpi-off", 0), ("crash", 4)):
        assert run(kvick, "--id", "vm-1", "--serial", "none", flat / f"{guest}.pvh.elf").returncode == status
    assert run(kvick, "--id", "vm-1", "/nowhere/vmlinux").returncode == START
    assert run(kvick, "--id", "vm-1", "--disk", "/nowhere", flat / "halt.pvh.elf").returncode == START
    assert sockets.is_dir()


def test_what_a_killed_vm_left_is_replaced(vm, start, flat, sockets):
    one, _ = vm("spin", "--serial", "none")
    one.signal(signal.SIGKILL)
    assert one.wait() == 128 + signal.SIGKILL
    assert (sockets / "vm-1.sock").exists()
    two = start("--id", "vm-1", "--serial", "none", flat / "spin.pvh.elf")
    client = Client(sockets / "vm-1.sock")

    def answers():
        try:
            return client.ask("GET", "/")[0] == 200
        except ConnectionRefusedError:  # still the old one
            client.close()
            return False

    until(answers, "an answer")
    end(two)


def test_a_running_vms_id_is_refused(vm, kvick, flat):
    one, client = vm("spin", "--serial", "none")
    done = run(kvick, "--id", "vm-1", flat / "print.pvh.elf")
    assert done.returncode == START
    assert "a running VM answers at" in done.stderr
    assert done.stdout == ""
    assert client.ask("GET", "/")[0] == 200
    end(one)


def test_two_at_once_do_not_both_get_the_id(start, flat, sockets):
    sockets.mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(sockets / "vm-1.sock"))
    left.close()
    vms = [start("--id", "vm-1", "--serial", "none", flat / "spin.pvh.elf") for _ in range(8)]
    until(lambda: sum(vm.process.poll() is None for vm in vms) == 1, "seven refusals")
    (one,) = [vm for vm in vms if vm.process.poll() is None]
    assert all(vm.wait() == START for vm in vms if vm is not one)
    end(one)


def test_only_who_is_named_has_a_socket(kvick, flat, sockets):
    guest = flat / "signal.pvh.elf"
    assert run(kvick, "--serial", "none", guest).returncode == OK
    assert run(kvick, "--serial", "none", "--no-api", "--id", "vm-1", guest).returncode == OK
    assert not sockets.exists()


def test_a_path_of_ones_own(start, flat, sockets, tmp_path):
    path = sockets.parent / "left.sock"
    config = tmp_path / "vm.json"
    config.write_text(json.dumps({"kvick": {"api_sock": str(path), "serial": "none"}}))
    one = start("--config-file", config, "--id", "vm-1", flat / "spin.pvh.elf")
    until(path.exists, "the socket")
    assert Client(path).ask("GET", "/")[1]["id"] == "vm-1"
    end(one)
    assert not path.exists()
    assert not sockets.exists()


@pytest.mark.parametrize("path,said", (("/nowhere/a.sock", "/nowhere"), ("/dev/null", "is no socket")))
def test_no_place_for_the_socket(kvick, flat, path, said):
    done = run(kvick, "--api-sock", path, flat / "print.pvh.elf")
    assert (done.returncode, done.stdout) == (START, "")
    assert said in done.stderr
    assert os.path.exists("/dev/null")


@pytest.mark.parametrize(
    "text,status",
    (
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"\0" * 9000, 431),
        (b"PUT /vm HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", 413),
        (b"PUT /vm HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"PUT /vm HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PATCH /vm HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{]", 400),
        (b"PATCH /vm HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\"\xff\xfe\"", 400),
        (b"PATCH /vm HTTP/1.1\r\nContent-Length: 20000\r\nConnection: close\r\n\r\n" + b"[" * 20000, 400),
        (b"DELETE /drives/a HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    ),
)
def test_malformed(vm, sockets, text, status):
    one, client = vm("spin", "--serial", "none")
    with connected(sockets / "vm-1.sock") as raw:
        raw.sendall(text)
        said = b""
        try:
            while data := raw.recv(65536):
                said += data
        except ConnectionResetError:
            pass  # it had not read all that was sent
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert "fault_message" in json.loads(said.split(b"\r\n\r\n", 1)[1])
    assert client.ask("GET", "/")[0] == 200
    end(one)


def test_many_clients(vm, sockets):
    """A hundred at once, beside connections that say nothing or half of something."""
    one, _ = vm("spin", "--serial", "none")
    path = sockets / "vm-1.sock"
    idle = []
    for i in range(30):
        idle.append(connected(path))
        if i % 2:
            idle[-1].send(b"GET / HT")
    answers = []

    def ask(i):
        client = Client(path)
        for j in range(5):
            state = "Paused" if (i + j) % 2 else "Resumed"
            answers.append(client.ask("PATCH", "/vm", {"state": state})[0])
            answers.append(client.ask("GET", "/")[0])
        client.close()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answers) == [200] * 500 + [204] * 500
    for each in idle:
        each.close()
    set_state(Client(path), "Paused")
    end(one)


def test_statistics_on_demand(vm, tmp_path):
    stats = tmp_path / "stats.json"
    one, client = vm("halt", "--serial", "none", f"--stats={stats}")
    assert client.ask("PUT", "/actions", {"action_type": "FlushMetrics"}) == (204, None)
    assert json.loads(stats.read_text())
    status, answer = client.ask("PUT", "/actions", {"action_type": "InstanceStart"})
    assert (status, list(answer)) == (400, ["fault_message"])
    end(one)


def test_statistics_nobody_reads(vm, tmp_path):
    """A FIFO holds up neither the machine nor its end."""
    stats = tmp_path / "stats"
    os.mkfifo(stats)
    one, client = vm("halt", "--serial", "none", f"--stats={stats}")
    flush = {"action_type": "FlushMetrics"}
    status, answer = client.ask("PUT", "/actions", flush)
    assert (status, answer["fault_message"].split(": ")[-1]) == (400, "No such device or address")
    reader = os.open(stats, os.O_RDONLY | os.O_NONBLOCK)
    assert client.ask("PUT", "/actions", flush) == (204, None)
    assert json.loads(os.read(reader, 1 << 16))
    while (answer := client.ask("PUT", "/actions", flush)) == (204, None):
        pass
    assert answer[0] == 400
    assert client.ask("GET", "/")[0] == 200
    os.close(reader)
    end(one)


def test_drives(vm, tmp_path):
    """A disk's size is looked at again, its limits change, and nothing else does."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    machine, client = vm("halt", "--disk", f"{disk},id=a,bw=1M")
    # The socket is there before the machine; who answers has the disk.
    assert client.ask("GET", "/")[0] == 200
    os.truncate(disk, 2 << 20)
    body = {"drive_id": "a", "path_on_host": str(disk)}
    assert client.ask("PATCH", "/drives/a", body) == (204, None)
    machine.expect("disk a has now 2M", "err")
    limiter = {"bandwidth": {"size": 0, "refill_time": 0}, "ops": {"size": 5, "refill_time": 10}}
    assert client.ask("PATCH", "/drives/a", {"drive_id": "a", "rate_limiter": limiter}) == (204, None)
    for path, body, text in (
        ("b", {"drive_id": "b"}, "there is no disk b"),
        ("a", {"drive_id": "b"}, "another one than the path's"),
        ("a", {"drive_id": "a", "path_on_host": "/other"}, "another file is not offered"),
        ("a", {"drive_id": "a", "rate_limiter": {"ops": 4}}, "rate_limiter: ops: give an object"),
        ("a", {"drive_id": "a", "is_read_only": True}, "unknown field"),
    ):
        status, answer = client.ask("PATCH", f"/drives/{path}", body)
        assert status == 400
        assert text in answer["fault_message"]
    os.truncate(disk, 1 << 20)
    status, answer = client.ask("PATCH", "/drives/a", {"drive_id": "a", "path_on_host": str(disk)})
    assert (status, answer["fault_message"]) == (400, "disk a shrank to 1M; the guest's does not")
    end(machine)
