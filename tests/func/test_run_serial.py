# SPDX-License-Identifier: Apache-2.0
"""kvick run --serial: a terminal, pipes, a file, a pseudo-terminal, a socket."""

import fcntl
import os
import pty
import re
import select
import signal
import stat
import subprocess
import termios
import time

import pytest
from vm import CRASH, HOST, OK, START, connected, run, until

pytestmark = pytest.mark.usefixtures("kvm_host")

CTRL_A = "\x01"


class Terminal:
    """A pseudo-terminal with kvick in the foreground of its other side."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        self.text = ""
        self.before = termios.tcgetattr(self.slave)

    def settings(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.settings()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, timeout=20):
        end = time.monotonic() + timeout
        while text not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} on the terminal, only {self.text!r}"
            self.text += os.read(self.master, 65536).decode(errors="replace")
        return self.text

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture(name="terminal")
def new_terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def take_terminal():
    """In the new process: a session of its own with standard input as its terminal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(name="on_terminal")
def start_on_terminal(start, terminal):
    def start_there(*args):
        side = terminal.slave
        return start(*args, stdin=side, stdout=side, stderr=side, preexec_fn=take_terminal)

    return start_there


def test_pipes(kvick, flat):
    done = run(kvick, flat / "echo.pvh.elf", input="hello q")
    assert done.returncode == OK
    assert done.stdout.endswith("hello \necho done\n")


def test_end_of_input_is_no_end_of_the_run(start, flat):
    vm = start(flat / "echo.pvh.elf")
    vm.expect("echo ready")
    vm.send("last words")
    vm.process.stdin.close()
    vm.expect("last words")
    time.sleep(0.3)
    assert vm.process.poll() is None
    vm.signal(signal.SIGTERM)
    assert vm.wait() == 128 + signal.SIGTERM


def test_escape_is_data_where_there_is_no_terminal(start, flat):
    vm = start(flat / "echo.pvh.elf")
    vm.expect("echo ready")
    vm.send(CTRL_A + "x!")
    vm.expect(CTRL_A + "x!")
    vm.send("q")
    assert vm.wait() == OK


def test_terminal_is_raw_and_comes_back(on_terminal, terminal, flat):
    vm = on_terminal(flat / "echo.pvh.elf")
    terminal.expect("echo ready")
    assert terminal.is_raw()
    # Ctrl-C, Ctrl-Z and a carriage return reach the guest and are no signals.
    terminal.type("a\x03b\x1ac\r")
    terminal.expect("a\x03b\x1ac\r")
    terminal.type("q")
    assert vm.wait() == OK
    assert terminal.settings() == terminal.before


def test_escape_ends_the_run(on_terminal, terminal, flat):
    for guest in ("echo", "spin"):
        vm = on_terminal("--boot-timer", flat / f"{guest}.pvh.elf")
        terminal.expect("echo ready" if guest == "echo" else "Guest-boot-time")
        terminal.type(CTRL_A + "x")
        assert vm.wait() == OK
        assert terminal.settings() == terminal.before


def test_other_escapes(on_terminal, terminal, flat):
    vm = on_terminal(flat / "echo.pvh.elf")
    terminal.expect("echo ready")
    terminal.type("[" + CTRL_A + CTRL_A + "]")
    terminal.expect("[" + CTRL_A + "]")
    terminal.type(CTRL_A + "h")
    terminal.expect("Ctrl-A X")
    assert vm.process.poll() is None
    terminal.type("q")
    assert vm.wait() == OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_terminal_comes_back_after_a_signal(on_terminal, terminal, flat, number):
    vm = on_terminal(flat / "echo.pvh.elf")
    terminal.expect("echo ready")
    vm.signal(number)
    assert vm.wait() == 128 + number
    assert terminal.settings() == terminal.before


@pytest.mark.parametrize("guest", ["badinsn", "crash"])
def test_terminal_comes_back_after_a_failure(on_terminal, terminal, flat, doctor, guest):
    vm = on_terminal(flat / f"{guest}.pvh.elf")
    software = doctor["kvm"].startswith("software")
    assert vm.wait() == (CRASH if guest == "crash" else HOST if software else OK)
    assert terminal.settings() == terminal.before


def test_terminal_comes_back_when_the_start_fails(on_terminal, terminal, flat):
    # The serial port is opened before the command line is found too long for this kernel.
    vm = on_terminal("--append", "x" * 3000, flat / "echo.pvh.elf")
    assert vm.wait() == START
    assert terminal.settings() == terminal.before
    terminal.expect("command line")


def test_a_job_in_the_background(kvick, terminal, flat):
    """Another job has the terminal: kvick must not be stopped for touching it."""
    side = terminal.slave
    script = 'set -m; "$0" run "$1" & job=$!; wait $job; echo status $?'
    with subprocess.Popen(
        ["bash", "-c", script, kvick, flat / "print.pvh.elf"],
        stdin=side,
        stdout=side,
        stderr=side,
        preexec_fn=take_terminal,
    ) as process:
        try:
            terminal.expect("status 0")
            assert "hello from the flat guest" in terminal.text
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert terminal.settings() == terminal.before


def test_reader_that_does_not_read_does_not_stop_the_guest(start, flat):
    """Nobody reads the pipe: output is dropped, the guest goes on and ends."""
    read_end, write_end = os.pipe()
    try:
        vm = start("--append", "y" * 2000, flat / "print.pvh.elf", stdout=write_end)
        # Fill what the pipe takes, so that kvick itself can write nothing.
        os.set_blocking(write_end, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(write_end, b"x" * 4096)
        assert vm.wait(10) == OK
    finally:
        os.close(read_end)
        os.close(write_end)


def test_reader_that_goes_away(kvick, flat):
    done = subprocess.run(
        ["sh", "-c", '"$0" run "$1" </dev/null | true', kvick, flat / "print.pvh.elf"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stderr == b""


def test_none(kvick, flat):
    done = run(kvick, "--serial", "none", flat / "print.pvh.elf")
    assert (done.returncode, done.stdout, done.stderr) == (OK, "", "")


def test_file(kvick, flat, tmp_path):
    path = tmp_path / "console.log"
    for words in ("the first run", "2nd"):
        done = run(kvick, "--serial", f"file:{path}", "--append", words, flat / "print.pvh.elf")
        assert (done.returncode, done.stdout) == (OK, "")
        text = path.read_text().replace("\r", "")
        assert text == f"cmdline: {words}\nhello from the flat guest\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("path,text", [("/no/such/folder/x", "No such file"), ("/", "directory")])
def test_file_that_cannot_be_opened(kvick, flat, path, text):
    done = run(kvick, "--serial", f"file:{path}", flat / "print.pvh.elf")
    assert done.returncode == START
    assert path in done.stderr and text in done.stderr, done.stderr


def test_full_disk_does_not_stop_the_guest(kvick, flat):
    done = run(kvick, "--serial", "file:/dev/full", flat / "print.pvh.elf")
    assert done.returncode == OK


def test_pty(start, flat):
    vm = start("--serial", "pty", flat / "echo.pvh.elf")
    line = vm.expect("serial port: /dev/pts/", "err")
    path = re.search(r"serial port: (/dev/pts/\d+)", line)[1]
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(fd, b"xyz")
        seen = b""
        end = time.monotonic() + 20
        while b"xyz" not in seen and time.monotonic() < end:
            if select.select([fd], [], [], 1)[0]:
                seen += os.read(fd, 4096)
        # What was said before anybody listened is there too.
        assert b"echo ready" in seen
        assert b"xyz" in seen
        os.write(fd, b"q")
    finally:
        os.close(fd)
    assert vm.wait() == OK


def read_until(client, text):
    seen = b""
    while text not in seen:
        data = client.recv(4096)
        assert data, f"closed after {seen!r}"
        seen += data
    return seen


def test_unix_socket(start, flat, tmp_path):
    path = tmp_path / "console"
    vm = start("--serial", f"unix:{path}", flat / "echo.pvh.elf")
    until(path.exists, "the socket")
    with connected(path) as client:
        read_until(client, b"echo ready")
        client.sendall(b"one")
        read_until(client, b"one")
    # The next client goes on where the guest is.
    with connected(path) as client:
        client.sendall(b"two")
        read_until(client, b"two")
        client.sendall(b"q")
        read_until(client, b"echo done")
    assert vm.wait() == OK
    assert not path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_unix_socket_is_gone_after_a_signal(start, flat, tmp_path, number):
    path = tmp_path / "console"
    vm = start("--serial", f"unix:{path}", flat / "echo.pvh.elf")
    until(path.exists, "the socket")
    vm.signal(number)
    assert vm.wait() == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_unix_socket_of_a_killed_run_is_replaced(start, flat, tmp_path):
    path = tmp_path / "console"
    vm = start("--serial", f"unix:{path}", flat / "echo.pvh.elf")
    until(path.exists, "the socket")
    vm.signal(signal.SIGKILL)
    assert vm.wait() == 128 + signal.SIGKILL
    vm = start("--serial", f"unix:{path}", flat / "echo.pvh.elf")

    with connected(path) as client:
        read_until(client, b"echo ready")
        client.sendall(b"q")
    assert vm.wait() == OK


def test_unix_socket_in_use(start, kvick, flat, tmp_path):
    path = tmp_path / "console"
    vm = start("--serial", f"unix:{path}", flat / "echo.pvh.elf")
    until(path.exists, "the socket")
    done = run(kvick, "--serial", f"unix:{path}", flat / "echo.pvh.elf")
    assert done.returncode == START
    assert str(path) in done.stderr
    # The first one is not disturbed.
    with connected(path) as client:
        client.sendall(b"q")
        read_until(client, b"echo done")
    assert vm.wait() == OK


def test_unix_socket_does_not_replace_a_file(kvick, flat, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    done = run(kvick, "--serial", f"unix:{path}", flat / "echo.pvh.elf")
    assert done.returncode == START
    assert str(path) in done.stderr
    assert path.read_text() == "data"
