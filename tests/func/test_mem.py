# SPDX-License-Identifier: Apache-2.0
"""kvick mem: against machines, and against sockets that answer as a test wants it."""

import http.server
import json
import os
import pty
import shutil
import signal
import socketserver
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from vm import OK, START, USAGE, until

MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture(name="folder", autouse=True)
def socket_folder(monkeypatch):
    folder = Path(tempfile.mkdtemp(prefix="kvick-"))
    (folder / "kvick").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder / "kvick"
    shutil.rmtree(folder)


@pytest.fixture(name="mem")
def mem_command(kvick):
    def mem(*args, vm="vm-1", timeout=30):
        command = [kvick, "mem", *(("--id", vm) if vm else ()), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    return mem


def device(plugged, requested, name="m0", **more):
    return {
        "id": name, "max_bytes": 16 * GIB, "block_bytes": 2 * MIB, "requested_bytes": requested * MIB,
        "plugged_bytes": plugged * MIB, "windows": 16, "windows_mapped": 1,
        "driver": True, "refused": 0, "stall_max_ns": 1500000, **more,
    }  # fmt: skip


class Fake(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers GET /kvick/memory with one list after the other, the last one for ever, and GET
    /hotplug/memory/ID out of the same list, with what the host has."""

    daemon_threads = True

    def __init__(self, path, lists, fault=None):
        self.lists, self.fault, self.asked, self.counted = list(lists), fault, [], []
        super().__init__(str(path), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass

    def answer(self, status, body):
        text = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        lists = self.server.lists
        if self.path == "/kvick/memory":
            self.server.last = lists.pop(0) if len(lists) > 1 else lists[0]
            self.answer(200, self.server.last)
            return
        [found] = [d for d in self.server.last if self.path == f"/hotplug/memory/{d['id']}"]
        self.server.counted.append(found["id"])
        self.answer(200, {**found, "host_bytes": found["plugged_bytes"]})

    def do_PATCH(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        if self.server.fault:
            self.answer(400, {"fault_message": self.server.fault})
        else:
            self.answer(204, None)


@pytest.fixture(name="fake")
def fake_vm(folder):
    """fake(LISTS): a socket called vm-1 that answers with them."""
    made = []

    def make(*lists, fault=None):
        made.append(Fake(folder / "vm-1.sock", lists, fault))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()
        each.server_close()


def test_shows_all(fake, mem):
    fake([device(512, 1024), device(0, 0, "m1", driver=False, refused=3)])
    done = mem()
    assert (done.returncode, done.stderr) == (OK, "")
    assert "m0\n  plugged  512M of 1G requested, at most 16G, in blocks of 2M\n" in done.stdout
    assert "windows  1 of 16 mapped; setting them took 1.5 ms" in done.stdout
    assert "host     512M of memory in use" in done.stdout
    assert "has no driver at work; 3 of its requests refused" in done.stdout
    assert [(d["id"], d["host_bytes"]) for d in json.loads(mem("--json").stdout)] == [("m0", 512 * MIB), ("m1", 0)]
    assert mem("m1").stdout.startswith("m1\n")
    assert json.loads(mem("--json", "m1").stdout)["refused"] == 3


def test_waits_until_done(fake, mem):
    steps = [[device(0, 0)], *([device(n, 1024)] for n in (0, 256, 512, 1024))]
    server = fake(*steps)
    done = mem("m0", "requested=1G")
    assert (done.returncode, done.stderr) == (OK, "")
    assert "plugged  1G of 1G" in done.stdout
    assert server.asked == [("/hotplug/memory/m0", {"requested_bytes": GIB})]
    # What takes the machine long is asked for once, in the end.
    assert "host     1G of memory in use" in done.stdout
    assert server.counted == ["m0"]


def test_does_not_wait(fake, mem):
    fake([device(0, 0)], [device(0, 1024)])
    done = mem("--no-wait", "m0", "requested=1G")
    assert (done.returncode, done.stderr) == (OK, "")
    assert "plugged  0 of 1G" in done.stdout


@pytest.mark.parametrize(
    "last,said",
    (
        (device(512, 1024), "512M of 1G plugged, and nothing moved for 1 s; the guest may go on later"),
        (device(512, 1024, refused=2), "the host refused 2 requests of the guest's"),
        (device(512, 2048), "something else asked for 2G meanwhile"),
        (device(512, 1024, driver=False), "the guest has no driver for it at work"),
    ),
)
def test_gives_up(fake, mem, last, said):
    fake([device(0, 0)], [device(0, 1024)], [device(512, 1024)], [last])
    done = mem("--timeout", "1", "m0", "requested=1G")
    assert (done.returncode, done.stdout) == (START, "")
    assert done.stderr.startswith("kvick mem: m0: ")
    assert said in done.stderr


def test_progress_on_a_terminal(fake, kvick):
    fake([device(0, 0)], *([device(n, 1024)] for n in (0, 256, 512, 768, 1024)))
    master, slave = pty.openpty()
    command = [kvick, "mem", "--id", "vm-1", "m0", "requested=1G"]
    with subprocess.Popen(command, stdout=slave, stderr=slave) as process:
        assert process.wait(30) == OK
    os.close(slave)
    said = os.read(master, 65536).decode()
    os.close(master)
    assert "m0: 256M of 1G plugged, about " in said
    assert said.rstrip().split("\r")[-1].strip().startswith("guest")


@pytest.mark.parametrize("fault", ("memory device m0: requested=3M is not a multiple of 2M", "no\x1b[2J"), ids=("words", "keys"))
def test_refusals_are_told(fake, mem, fault):
    fake([device(0, 0)], fault=fault)
    done = mem("m0", "requested=3M")
    assert (done.returncode, done.stdout) == (START, "")
    assert done.stderr == f"kvick mem: {fault}\n".replace("\x1b", "?")


def test_no_such_device(fake, mem):
    fake([device(0, 0), device(0, 0, "m1")])
    done = mem("m2", "requested=1G")
    assert (done.returncode, done.stderr) == (
        START, 'kvick mem: the VM has no memory device "m2"; it has: m0, m1\n'
    )  # fmt: skip


def test_no_such_vm(fake, mem, folder):
    done = mem(vm="vm-7")
    assert (done.returncode, done.stderr) == (
        START, 'kvick mem: there is no VM "vm-7" that answers, nor any other\n'
    )  # fmt: skip
    fake([])
    assert 'there is no VM "vm-7" that answers; there are: vm-1\n' in mem(vm="vm-7").stderr
    assert "the VM has no memory device" in mem().stdout
    assert "no VM answers at /nowhere" in mem("--api-sock", "/nowhere", vm=None).stderr
    assert mem("--api-sock", folder / "vm-1.sock", vm=None).returncode == OK
    assert "at most 107 bytes" in mem("--api-sock", "a" * 108, vm=None).stderr


@pytest.mark.parametrize(
    "text",
    (b"rubbish", b"HTTP/1.1 200 OK\r\n\r\n{}", b"HTTP/1.1 400 Bad\r\n\r\n[]", b"", b"x" * (2 * MIB)),
    ids=("rubbish", "object", "array", "nothing", "much"),
)
def test_an_answer_of_no_vm(mem, folder, text):
    class Raw(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(65536)
            try:
                self.request.sendall(text)
            except OSError:
                pass

    with socketserver.UnixStreamServer(str(folder / "vm-1.sock"), Raw) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = mem()
        server.shutdown()
    assert (done.returncode, done.stdout) == (START, "")
    assert len(done.stderr) < 300


@pytest.mark.parametrize(
    "args,said",
    (
        ((), "name the VM: --id ID, or --api-sock PATH"),
        (("--id", "a", "m0", "wanted=1G"), "give requested=SIZE"),
        (("--id", "a", "m0", "requested=much"), "give requested=SIZE"),
        (("--id", "a", "--timeout", "0"), "give seconds"),
        (("--id", "a", "m0", "requested=1G", "more"), "unexpected"),
    ),
)
def test_usage(mem, args, said):
    done = mem(*args, vm=None)
    assert done.returncode == USAGE
    assert said in done.stderr


def test_a_guest_without_a_driver(start, kvm_host, flat, mem, folder):
    vm = start(
        "--id", "vm-1", "--serial", "none", "--mem-device", "id=m0,max=1G", "--mem-device", "max=4G,block=4M",
        flat / "halt.pvh.elf",
    )  # fmt: skip
    until(lambda: (folder / "vm-1.sock").exists() and mem().returncode == OK, "an answer")
    shown = json.loads(mem("--json").stdout)
    assert [(d["id"], d["total_size_mib"], d["plugged_bytes"]) for d in shown][0] == ("m0", 1024, 0)
    for size, said in (
        ("512M", "the guest has no driver for it at work"),
        ("3M", "requested=3M is not a multiple of 2M"),
        ("2G", "requested=2G is more than max=1G"),
    ):
        done = mem("m0", f"requested={size}")
        assert (done.returncode, done.stdout) == (START, "")
        assert said in done.stderr
    vm.signal(signal.SIGTERM)
    assert vm.wait() == 128 + signal.SIGTERM
