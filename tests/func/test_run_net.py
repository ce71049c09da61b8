# SPDX-License-Identifier: Apache-2.0
"""Network devices with real Linux guests: what arrives is what was sent, each way."""

import json
import re
import time
from pathlib import Path

import pytest
from images import NEXT, cpio, libraries, next_kernel
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
SHORT_MIB, LONG_MIB, SOAKS = 16, 1024, 10


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


both = pytest.mark.parametrize("vhost", ("on", "off"))
ways = pytest.mark.parametrize("vhost", ("on", "off", "on,iothread", "off,iothread"))


@both
def test_tap(host, tap, vhost):
    """A TCP stream each way over a tap; the guest has the address and the MTU it was given."""
    args = ("--net", f"tap={tap},mac=02:00:00:00:77:02,mtu=1400,id=lan,vhost={vhost}")
    commands = "cat /sys/class/net/eth0/address;cat /sys/class/net/eth0/mtu"
    done = transfer(host, 4, commands, args=args)
    assert "02:00:00:00:77:02\n1400\n" in done.stdout


@both
def test_tap_handed_over(host, tap, vhost):
    """A TCP stream each way over a tap that another program opened and left to kvick."""
    before = (host.put_program("tap"), tap)
    transfer(host, 4, args=("--net", f"fd=7,vhost={vhost}"), before=before)


@ways
def test_tap_unbound_and_bound_again(host, tap, vhost):
    """The device comes back from a driver that left, and works."""
    again = f"write {DRIVER}/unbind virtio0;write {DRIVER}/bind virtio0;sleep 100"
    up = f"exec /bin/ip addr add {GUEST}/24 dev eth0;exec /bin/ip link set eth0 up"
    done = net_boot(
        host,
        ";".join([f"{again};{up};exec /bin/ping -c 1 -W 20 {HOST}"] * 3),
        args=("--net", f"tap={tap},vhost={vhost}"),
    )
    assert booted(done).stdout.count(" 0% packet loss") == 3


def second_kernel(host, command, append, args, before=()):
    """Has a kernel and another one that it starts do the same."""
    files = next_kernel(host.tb.build / "guest", f'console=ttyS0 quiet {append} kvick.run="{command}"')
    files["next/initrd"] += host.tb.get("/tmp/net.cpio")
    host.put("/tmp/next.cpio", cpio(files))
    args = ("--initrd", "/tmp/next.cpio", "--memory", "256M", *args)
    done = booted(net_boot(host, f"{command};{NEXT}", append, args, before))
    assert done.stdout.count("kvick-init: user space") == 2, done
    assert not done.stderr, done
    return done


@both
def test_tap_of_a_second_kernel(host, tap, vhost):
    """A kernel that another one started finds the device as it was at first."""
    ping = f"exec /bin/ping -c 1 -W 20 {HOST}"
    done = second_kernel(host, ping, ADDRESS, ("--net", f"tap={tap},vhost={vhost}"))
    assert done.stdout.count(" 0% packet loss") == 2, done


def test_vhost_queues(host):
    """What a guest cannot show: rules broken, queues taken away, pauses between two packets."""
    program = host.tb.build / "tests" / "unit" / "test_vhost"
    for name in libraries(program):
        host.put(name, Path(name).resolve())
    host.put("/tmp/test_vhost", program)
    done = host.run("/tmp/test_vhost")
    assert done.returncode == 0, done
    assert (done.stdout + done.stderr).count("vhost-net serves the queues") == 6, done


@both
def test_many_queues(host, vhost):
    """Two CPUs of the guest with a pair of queues each."""
    made = f"{host.put_program('tap')} kv2 && ip addr add {HOST}/24 dev kv2 && ip link set kv2 up"
    done = host.run("sh", "-c", made)
    assert done.returncode == 0, done
    counter = "/sys/class/net/kv2/statistics/rx_packets"
    args = ("--cpus", "2", "--net", f"tap=kv2,queues=2,vhost={vhost}")
    try:
        threads = pausing_transfer(host, 8, ADDRESS, args, HOST, counter=counter)
    finally:
        host.run("ip", "link", "del", "kv2")
    # One for each pair.
    assert threads.count("vhost-") == (2 if vhost == "on" else 0), threads


def test_vhost_windows(host, tap):
    """Memory devices have as many windows as vhost takes; with more, auto does without vhost."""

    def started(vm, *args):
        args = ("--id", vm, "--net", f"tap={tap},vhost=auto", *args)
        job = host.tb.spawn(net_arguments(host, "sleep 60000", "", args))
        try:
            job.wait_for(b"user space", timeout=60)
            mem = json.loads(host.run(host.program, "mem", "--id", vm, "--json").stdout)
            threads = host.run("sh", "-c", "cat /proc/[0-9]*/task/*/comm").stdout
        finally:
            # The next one wants the tap.
            job.kill_all()
            job.wait(30)
        return mem, "vhost-" in threads

    pieces = int(host.read("/sys/module/vhost/parameters/max_mem_regions"))
    mem, vhost = started("win-vm-0", "--mem-device", "id=m0,max=256G")
    assert vhost and 16 <= mem[0]["windows"] <= pieces, mem
    mem, vhost = started("win-vm-1", "--mem-device", "id=m0,max=256G,slots=200")
    assert not vhost and mem[0]["windows"] > pieces, mem
    net = ("--net", f"tap={tap},vhost=on", "--mem-device", "id=m0,max=256G,slots=200")
    done = host.run(host.program, "run", *net, host.guest("vmlinux"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert "pieces that this host's vhost takes" in done.stderr, done


def test_vhost_in_plugged_memory(host, tap):
    """Queues and packets lie in memory that was plugged; it is unplugged where they do not."""
    driver = f"cd {DRIVER}; d=$(echo virtio?); echo $d >unbind; echo $d >bind"
    commands = (
        f"memwait 1100 1300;exec /bin/sh -c '{driver}';sleep 100;"
        f"exec /bin/ip addr add {GUEST}/24 dev eth0;exec /bin/ip link set eth0 up;echo ready;"
        f"memwait 100 900;exec /bin/transfer guest 4 {HOST}"
    )
    device = ("--mem-device", "id=m0,max=4G,requested=1G", "--net", f"tap={tap},vhost=on")
    argv = net_arguments(host, commands, "memhp_default_state=online", ("--id", "net-vm", *device))
    job = host.tb.spawn(["/tmp/transfer", "host", "4", *argv])
    try:
        job.wait_for(b"ready", timeout=90)
        done = host.run(host.program, "mem", "--id", "net-vm", "m0", "requested=512M")
        assert done.returncode == 0, done
        done = job.wait(90)
    finally:
        job.kill_all()
    sums(booted(Done(done.returncode, text(done.stdout), text(done.stderr))))


@both
def test_tap_that_goes(host, vhost):
    """The guest's link is down when the tap is gone, which is said once."""
    assert host.run("sh", "-c", "tunctl -t kv1 && ip link set kv1 up").returncode == 0
    commands = (
        "exec /bin/ip link set eth0 up;echo up;"
        "exec /bin/sh -c 'while grep -q 1 /sys/class/net/eth0/carrier; do sleep 0.1; done';echo down"
    )
    job = host.tb.spawn([*net_arguments(host, commands, "", ("--net", f"tap=kv1,vhost={vhost}"))])
    try:
        job.wait_for(b"up", timeout=90)
        assert host.run("ip", "link", "del", "kv1").returncode == 0
        done = job.wait(60)
    finally:
        job.kill_all()
    assert b"down" in done.stdout and done.stderr.count(b"the link is down") == 1, done


def test_tap_limited(host, tap):
    """What the guest sends passes at the rate it is given, and arrives."""
    done = transfer(host, 1, args=("--net", f"tap={tap},tx-bw=512K/s,rx-ops=400/s"))
    assert done.returncode == 0


def pausing_transfer(host, mib, append, args, peer, before=(), counter=None):
    """A transfer during which the machine is paused and resumed, at least thrice; `counter` is a file
    that does not change while it is paused. Returns the names of kvick's threads."""
    sock = "/tmp/kvick-net.sock"
    argv = net_arguments(
        host, f"exec /bin/transfer guest {mib} {peer}", append, ("--api-sock", sock, *args)
    )

    client = host.put_program("talk")

    def state(name):
        return host.run(client, sock, f'PATCH /vm {{"state":"{name}"}}').stdout.startswith("204 ")

    job = host.tb.spawn([*before, "/tmp/transfer", "host", str(mib), *argv])
    rounds = 0
    threads = ""
    try:
        job.wait_for(b"user space", timeout=60)
        while state("Paused"):
            first = counter and host.read(counter)
            threads = host.run("sh", "-c", "cat /proc/[0-9]*/task/*/comm").stdout
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
    return threads


@ways
def test_tap_paused(host, tap, vhost):
    """Nothing is lost by pauses, and nothing is sent in them."""
    counter = f"/sys/class/net/{tap}/statistics/rx_packets"
    args = ("--net", f"tap={tap},vhost={vhost}")
    threads = pausing_transfer(host, 8, ADDRESS, args, HOST, counter=counter)
    assert ("vhost-" in threads) == vhost.startswith("on"), threads


def test_vhost_auto(host, tap):
    """Used where it can be, done without where it cannot."""
    counter = f"/sys/class/net/{tap}/statistics/rx_packets"
    assert "vhost-" in pausing_transfer(host, 4, ADDRESS, ("--net", f"tap={tap}"), HOST, counter=counter)
    assert host.run("mv", "/dev/vhost-net", "/dev/vhost-gone").returncode == 0
    try:
        transfer(host, 1, args=("--net", f"tap={tap}"))
        done = host.run(host.program, "run", "--net", f"tap={tap},vhost=on", host.guest("vmlinux"))
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done
        assert "/dev/vhost-net cannot be opened: No such file or directory" in done.stderr
    finally:
        host.run("mv", "/dev/vhost-gone", "/dev/vhost-net")
    for value in (f"tap={tap},vhost=on,tx-ops=5/s", "user,vhost=on"):
        done = host.run(host.program, "run", "--net", value, host.guest("vmlinux"))
        assert done.returncode == 2 and "net net0: vhost: " in done.stderr, done


@both
@pytest.mark.soak
@pytest.mark.limit(1800)
def test_tap_soak(host, tap, mib, vhost):
    """Much each way."""
    transfer(host, mib, args=("--net", f"tap={tap},vhost={vhost}"), timeout=1700)


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
