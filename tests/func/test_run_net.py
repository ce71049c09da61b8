# SPDX-License-Identifier: Apache-2.0
"""Network devices with real Linux guests: what arrives is what was sent, each way."""

import re
import time

import pytest
from images import cpio
from places import Done, Emulated, text
from test_run_linux import booted

GUEST = "10.77.0.2"
HOST = "10.77.0.1"
ADDRESS = f"ip={GUEST}::{HOST}:255.255.255.0::eth0:off"
DRIVER = "/sys/bus/virtio/drivers/virtio_net"

# Both ends run this, under four names: "stream MIB" is MiB made of a random one that is read again
# and again. Behind `nc -e` the other program has the connection, so that neither end closes early.
PROGRAM = """#!/bin/sh
random=${RANDOM_FILE:-/tmp/random}
make() { dd if=/dev/urandom of=$random bs=65536 count=16 2>/dev/null; }
stream() {
    i=0
    while [ $i -lt $1 ]; do cat $random; i=$((i + 1)); done
}
case $1 in
send) stream $2 ;;
receive) md5sum >/tmp/received ;;
# The host speaks first: docs/net.md says what passt does to one that never does.
send-to-host)
    read -r ready
    stream $2
    ;;
receive-in-host)
    echo ready
    md5sum >/tmp/received
    ;;
sum)
    while ! [ -s /tmp/received ]; do sleep 0.1; done
    cat /tmp/received
    ;;
guest)
    make
    nc $3 5000 -e $0 send-to-host $2
    echo "guest sent $(stream $2 | md5sum)"
    echo "host received $(nc $3 5002)"
    nc $3 5001 -e $0 receive
    echo "guest received $(cat /tmp/received)"
    ;;
host)
    mib=$2
    shift 2
    make
    rm -f /tmp/received
    nc -l -p 5000 -e $0 receive-in-host &
    nc -l -p 5001 -e $0 send $mib &
    nc -l -p 5002 -e $0 sum &
    "$@"
    status=$?
    kill $(jobs -p) 2>/dev/null
    wait
    echo "host sent $(stream $mib | md5sum)"
    exit $status
    ;;
esac
"""


# Bytes in MiB each way, and with --soak N for more than the usual ones.
SHORT_MIB, LONG_MIB, SOAKS = 32, 1024, 10


@pytest.fixture(name="host")
def emulated_host(testbed):
    """The emulated host with an initrd of busybox and the guest's script, and room for taps."""
    host = Emulated(testbed)
    busybox = testbed.get("/bin/busybox")
    names = "sh cat dd echo nc md5sum ip ping nslookup sleep grep".split()
    links = {f"bin/{name}": "busybox" for name in names}
    links["etc/resolv.conf"] = "/proc/net/pnp"
    archive = cpio({"bin/busybox": busybox, "bin/transfer": PROGRAM.encode()}, links)
    host.put("/tmp/net.cpio", archive)
    host.put("/tmp/transfer", PROGRAM.encode())
    host.run("chmod", "755", "/tmp/transfer")
    # Others than root may be next.
    host.run("rm", "-f", "/tmp/random", "/tmp/received")
    return host


@pytest.fixture(name="mib")
def transfer_size(request):
    """MiB of a long transfer, which are many with --soak."""
    return SHORT_MIB if request.config.getoption("--soak") <= SOAKS else LONG_MIB


@pytest.fixture(name="tap")
def tap_interface(host):
    """A tap with an address, gone afterwards."""
    done = host.run(
        "sh", "-c", f"tunctl -t kv0 && ip addr add {HOST}/24 dev kv0 && ip link set kv0 up"
    )
    assert done.returncode == 0, done
    yield "kv0"
    host.run("tunctl", "-d", "kv0")


def net_arguments(host, commands, append="", args=()):
    """The command that boots Linux with busybox."""
    return (
        host.program,
        "run",
        "--initrd",
        host.guest("initrd.cpio"),
        "--initrd",
        "/tmp/net.cpio",
        "--append",
        f'console=ttyS0 quiet {append} kvick.run="mount tmpfs t /tmp;{commands}"',
        *args,
        host.guest("vmlinux"),
    )


def net_boot(host, commands, append="", args=(), before=(), timeout=150):
    """Boots Linux with busybox, perhaps by another command."""
    return host.run(*before, *net_arguments(host, commands, append, args), timeout=timeout)


def sums(done):
    """Both ways' checksums are equal at both ends."""
    found = dict(re.findall(r"^((?:guest|host) (?:sent|received)) ([0-9a-f]{32})", done.stdout, re.M))
    assert len(found) == 4, done
    assert found["guest sent"] == found["host received"], done
    assert found["host sent"] == found["guest received"], done


def transfer(host, mib, commands="", append=ADDRESS, args=(), peer=HOST, before=(), timeout=150):
    """A TCP stream each way; the guest finds the host at `peer`."""
    done = net_boot(
        host,
        f"exec /bin/transfer guest {mib} {peer};{commands}",
        append,
        args,
        (*before, "/tmp/transfer", "host", str(mib)),
        timeout,
    )
    sums(booted(done))
    return done


def test_tap(host, tap):
    """A TCP stream each way over a tap; the guest has the address and the MTU it was given."""
    args = ("--net", f"tap={tap},mac=02:00:00:00:77:02,mtu=1400,id=lan")
    commands = "cat /sys/class/net/eth0/address;cat /sys/class/net/eth0/mtu"
    done = transfer(host, 4, commands, args=args)
    assert "02:00:00:00:77:02\n1400\n" in done.stdout


def test_tap_unbound_and_bound_again(host, tap):
    """The device comes back from a driver that left, and works."""
    again = f"write {DRIVER}/unbind virtio0;write {DRIVER}/bind virtio0;sleep 100"
    up = f"exec /bin/ip addr add {GUEST}/24 dev eth0;exec /bin/ip link set eth0 up"
    done = net_boot(
        host,
        ";".join([f"{again};{up};exec /bin/ping -c 1 -W 20 {HOST}"] * 3),
        args=("--net", f"tap={tap}"),
    )
    assert booted(done).stdout.count(" 0% packet loss") == 3


def test_tap_limited(host, tap):
    """What the guest sends passes at the rate it is given, and arrives."""
    done = transfer(host, 1, args=("--net", f"tap={tap},tx-bw=512K/s,rx-ops=400/s"))
    assert done.returncode == 0


def pausing_transfer(host, mib, append, args, peer, before=(), counter=None):
    """A transfer during which the machine is paused and resumed, at least thrice; `counter` is a file
    that does not change while it is paused."""
    sock = "/tmp/kvick-net.sock"
    argv = net_arguments(
        host, f"exec /bin/transfer guest {mib} {peer}", append, ("--api-sock", sock, *args)
    )

    client = host.put_program("talk")

    def state(name):
        return host.run(client, sock, f'PATCH /vm {{"state":"{name}"}}').stdout.startswith("204 ")

    job = host.tb.spawn([*before, "/tmp/transfer", "host", str(mib), *argv])
    rounds = 0
    try:
        job.wait_for(b"user space", timeout=60)
        while state("Paused"):
            first = counter and host.read(counter)
            time.sleep(0.15)
            assert not job.poll()
            assert not counter or host.read(counter) == first
            assert state("Resumed")
            time.sleep(0.3)
            rounds += 1
        done = job.wait(60)
    finally:
        job.kill_all()
    assert rounds >= 3, done
    done = Done(done.returncode, text(done.stdout), text(done.stderr))
    sums(booted(done))


def test_tap_paused(host, tap):
    """Nothing is lost by pauses, and nothing is sent in them."""
    counter = f"/sys/class/net/{tap}/statistics/rx_packets"
    pausing_transfer(host, 8, ADDRESS, ("--net", f"tap={tap}"), HOST, counter=counter)


@pytest.mark.soak
@pytest.mark.limit(1800)
def test_tap_soak(host, tap, mib):
    """Much each way."""
    transfer(host, mib, args=("--net", f"tap={tap}"), timeout=1700)


def test_errors(host, tap):
    """A tap that is not there, or not for this user: the sentence says what to do."""
    cases = (
        ("tap=kv9", "root", "ip tuntap add kv9 mode tap user 0; ip link set kv9 up"),
        (f"tap={tap}", "tester", f"tap {tap} is not for this user"),
        ("tap=lo", "root", "lo is no tap"),
        (f"tap={tap},queues=2", "root", "multi_queue"),
        ("fd=77", "root", "no open descriptor 77"),
    )
    for value, user, text in cases:
        done = host.run(host.program, "run", "--net", value, host.guest("vmlinux"), user=user)
        assert done.returncode == 1, done
        assert "net net0: " in done.stderr and text in done.stderr, done
        assert done.stderr.count("\n") == 1, done
