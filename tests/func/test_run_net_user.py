# SPDX-License-Identifier: Apache-2.0
"""Networks for users without rights, by passt: with a stand-in for it here, itself in the emulated host."""

import shutil
import signal
import socket
from pathlib import Path

import pytest
from images import libraries
from places import Done
from test_run_linux import booted
from test_run_net import (  # noqa: F401
    DRIVER,
    emulated_host,
    net_arguments,
    net_boot,
    pausing_transfer,
    second_kernel,
    sums,
    transfer,
    transfer_size,
)
from vm import OK, START, run, until

# The emulated host's own address, the router behind it that passt takes the place of, and an address
# that the guest reaches through it.
HERE = "10.99.0.1"
ROUTER = "10.99.0.2"
OUTSIDE = "10.98.0.1"

UPLINK = f"""
tunctl -t up0
ip addr add {HERE}/24 dev up0
ip addr add {OUTSIDE}/32 dev up0
ip link set up0 up
ip route add default via {ROUTER}
echo nameserver 127.0.0.53 >/etc/resolv.conf
chmod 1777 /tmp
"""

# passt leaves its root folder by pivot_root(2), which cannot leave an initramfs itself, but what is
# mounted over it.
IN_ROOT = """#!/bin/sh
user=$1
shift
mkdir -p /run/root
mount --rbind / /run/root
cd /run/root
(cat etc/passwd; echo nobody:x:65534:65534::/:/bin/sh) >/run/passwd
mount --bind /run/passwd etc/passwd
mount --move . /
exec chroot . su -s /bin/sh -c 'cd /kvick; exec "$0" "$@"' -- $user "$@"
"""


@pytest.fixture(name="stand_in")
def passt_stand_in(tmp_path, monkeypatch):
    """Makes a script take passt's place; without one there is no passt."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(script):
        (tmp_path / "passt").write_text(f"#!/bin/bash\nPATH=/usr/bin:/bin\n{script}\n")
        (tmp_path / "passt").chmod(0o755)

    return make


def failed(done, text):
    """kvick run did not start, and said why in one sentence."""
    assert done.returncode == START, done
    assert done.stderr.startswith("kvick run: net net0: ") and done.stderr.count("\n") == 1, done
    assert text in done.stderr, done


def test_no_passt(kvm_host, kvick, flat, stand_in):
    done = run(kvick, "--net", "user", flat / "print.pvh.elf")
    failed(done, "passt, which is not in PATH; install it: apt-get install passt")


def test_passt_that_fails(kvm_host, kvick, flat, stand_in):
    stand_in("echo 'External interface not usable' >&2; exit 1")
    done = run(kvick, "--net", "user", flat / "print.pvh.elf")
    failed(done, "passt does not start: External interface not usable")


@pytest.mark.parametrize("kind", ("tcp", "udp"))
def test_port_taken(kvm_host, kvick, flat, stand_in, kind):
    """Said before passt is there."""
    stand_in("exit 1")
    with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        done = run(kvick, "--net", f"user,forward={kind}:{port}:80", flat / "print.pvh.elf")
    failed(done, f"forward: {kind.upper()} port {port} of this host is taken")


@pytest.mark.parametrize("end", (signal.SIGTERM, signal.SIGKILL))
def test_ends_with_the_vm(kvm_host, start, flat, stand_in, tmp_path, end):
    """passt gets what it needs to run, and however the VM ends, the end of its socket."""
    pid = tmp_path / "pid"
    stand_in(
        f"""echo "$@" >{tmp_path}/args
while [ "$1" != -F ]; do shift; done
echo $$ >{pid}
echo $$
exec cat <&$2"""
    )
    vm = start("--net", "user,mtu=1400", "--serial", "none", flat / "spin.pvh.elf")
    until(pid.exists, "passt's start")
    until(lambda: cmdline(pid) == b"cat\0", "passt being ready")
    words = (tmp_path / "args").read_text(encoding="ascii").split()
    assert words[words.index("-m") + 1] == "1400" and "-f" in words
    vm.signal(end)
    assert vm.wait() == 128 + end
    until(lambda: not cmdline(pid), "passt's end")


def cmdline(pid):
    """Of a process, whose number is in a file; empty when it has ended."""
    try:
        number = int(pid.read_text(encoding="ascii") or 0)
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


@pytest.fixture(name="passt")
def host_with_passt(host):
    """passt in the emulated host, and an interface for it to take after; as_user(NAME): what to put
    in front of a command for it to run as that user where passt can work."""
    program = shutil.which("passt")
    assert program, "passt is not installed; see tools/packages"
    for name in libraries(program):
        host.put(name, Path(name).resolve())
    # passt runs another of these where the processor has AVX2.
    for file in Path(program).parent.glob("passt*"):
        host.put(f"/bin/{file.name}", file)
    host.put("/tmp/in-root", IN_ROOT.encode())
    done = host.run("sh", "-c", "set -e" + UPLINK)
    assert done.returncode == 0, done
    yield host
    host.run("sh", "-c", "ip route del default; tunctl -d up0; rm /etc/resolv.conf")


def as_user(user):
    return ("unshare", "-m", "sh", "/tmp/in-root", user)


@pytest.mark.parametrize("user", ("root", "tester"))
def test_network(passt, user):
    """An address by DHCP, names by DNS, connections out and in, as root and as somebody."""
    server = passt.tb.spawn([passt.put_program("dns"), "127.0.0.53"])
    commands = (
        "cat /proc/net/pnp;cat /sys/class/net/eth0/mtu;exec /bin/ip addr show eth0;"
        "exec /bin/nslookup -type=a kvick.example;exec /bin/transfer guest 1 " + OUTSIDE
        + ";echo listening;exec /bin/nc -l -p 80 -e /bin/transfer receive;cat /tmp/received"
    )
    args = ("--net", "user,forward=8080:80,forward=80:81")
    if user != "root":
        args = ("--net", "user,forward=8080:80")
    job = passt.tb.spawn(
        [*as_user(user), "/tmp/transfer", "host", "1", *net_arguments(passt, commands, "ip=dhcp", args)]
    )
    try:
        job.wait_for(b"listening", timeout=90)
        send = (
            "export RANDOM_FILE=/tmp/forwarded; dd if=/dev/urandom of=$RANDOM_FILE bs=65536 count=16 && "
            "md5sum <$RANDOM_FILE && nc 127.0.0.1 8080 -e /tmp/transfer send 1"
        )
        sent = passt.run("sh", "-c", send)
        assert sent.returncode == 0, sent
        done = job.wait(60)
    finally:
        job.kill_all()
        server.kill()
        server.wait(20)
    assert done.leftovers == 0
    out = done.stdout.decode().replace("\r", "")
    assert done.returncode == OK and "done, 9 ok, 0 failed" in out, done
    assert "#PROTO: DHCP" in out and f"nameserver {ROUTER}" in out, done
    assert "\n65520\n" in out and f"inet {HERE}/" in out, done
    assert "Address: 192.0.2.53" in out, done
    sums(Done(0, out, ""))
    assert sent.stdout.split()[0] in out[out.index("listening") :], (sent, done)


def test_ends(passt):
    """passt ends with a monitor that is killed; without passt the guest's link is down."""
    commands = "echo up;exec /bin/sh -c 'until ! grep -q 1 /sys/class/net/eth0/carrier; do sleep 0.1; done'"
    for what in ("kvick", "passt"):
        argv = net_arguments(passt, commands + ";echo down", "ip=dhcp", ("--net", "user"))
        job = passt.tb.spawn([*as_user("tester"), *argv])
        job.wait_for(b"up", timeout=90)
        if what == "kvick":
            job.kill(signal.SIGKILL)
            assert job.wait(20).leftovers == 0
            continue
        assert passt.run("sh", "-c", "kill $(pidof passt passt.avx2)").returncode == 0
        done = job.wait(60)
        assert done.returncode == OK and b"\ndown" in done.stdout.replace(b"\r", b""), done
        assert done.stderr.count(b"the link is down") == 1, done


def test_unbound_and_bound_again(passt):
    """The device comes back from a driver that left, and what waits in the socket does no harm."""
    again = f"write {DRIVER}/unbind virtio0;write {DRIVER}/bind virtio0;sleep 100"
    up = f"exec /bin/ip addr add {HERE}/24 dev eth0;exec /bin/ip link set eth0 up"
    route = f"exec /bin/ip route add default via {ROUTER};exec /bin/nc {OUTSIDE} 5000 -e /bin/echo hello"
    listen = "i=0; while [ $i -lt 3 ]; do nc -l -p 5000; i=$((i + 1)); done"
    listener = passt.tb.spawn(["sh", "-c", listen])
    try:
        done = net_boot(
            passt, ";".join([f"{again};{up};{route}"] * 3), "", ("--net", "user"), as_user("tester")
        )
        booted(done)
        assert listener.wait(20).stdout == b"hello\n" * 3, done
    finally:
        listener.kill_all()


def test_second_kernel(passt):
    """A kernel that another one started finds device and passt as they were at first."""
    hello = f"exec /bin/nc {OUTSIDE} 5000 -e /bin/echo hello"
    listener = passt.tb.spawn(["sh", "-c", "nc -l -p 5000; nc -l -p 5000"])
    try:
        second_kernel(passt, hello, "ip=dhcp", ("--net", "user"), as_user("tester"))
        assert listener.wait(20).stdout == b"hello\n" * 2
    finally:
        listener.kill_all()


@pytest.mark.parametrize("own", ["", ",iothread"])
def test_paused(passt, own):
    """Nothing is lost by pauses."""
    pausing_transfer(passt, 4, "ip=dhcp", ("--net", f"user{own}"), OUTSIDE, as_user("tester"))


@pytest.mark.soak
@pytest.mark.limit(1800)
def test_soak(passt, mib):
    """Much each way."""
    args = ("--net", "user")
    transfer(passt, mib, "", "ip=dhcp", args, OUTSIDE, as_user("tester"), 1700)
