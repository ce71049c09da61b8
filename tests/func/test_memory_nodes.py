# SPDX-License-Identifier: Apache-2.0
"""Memory of chosen NUMA nodes and under the limit of a hugetlb control group, in an emulated host of
two nodes."""

import re
import sys
from pathlib import Path

import pytest
from places import Emulated
from vm import OK, START, until

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testbed"))

import testbed as emulated  # noqa: E402

MIB = 1 << 20
NODES = " ".join(
    f"-object memory-backend-ram,id=m{n},size=1G -numa node,nodeid={n},memdev=m{n},cpus={n}" for n in (0, 1)
)
HUGE = "hugepages/hugepages-2048kB"
GROUP = "/sys/fs/cgroup/kvick-huge"


@pytest.fixture(scope="module", name="nodes")
def host_of_two_nodes(testbed_build):
    """An emulated host with 1 GiB and a CPU in each of two nodes, and 64 pages of 2 MiB in node 1."""
    if why := emulated.missing():
        pytest.skip(why)
    with emulated.Testbed(cpus=2, memory_mib=2048, build=testbed_build, extra=NODES) as tb:
        linux = Emulated(tb)
        pages = f"/sys/devices/system/node/node1/{HUGE}"
        linux.run("sh", "-c", f"echo 64 >{pages}/nr_hugepages")
        assert linux.run("cat", f"{pages}/free_hugepages").stdout.strip() == "64"
        yield linux


def pages_by_node(linux, pid, kind):
    """Pages of a process's mappings that numa_maps calls so, on nodes 0 and 1; in units of 4 KiB."""
    sums = [0, 0]
    for line in linux.run("cat", f"/proc/{pid}/numa_maps").stdout.splitlines():
        # Pages of images are the page cache's, wherever that has them.
        if kind not in line or "file=" in line:
            continue
        size = int(re.search(r"kernelpagesize_kB=(\d+)", line)[1]) // 4
        for node, count in re.findall(r" N(\d)=(\d+)", line):
            sums[int(node)] += int(count) * size
    return sums


@pytest.mark.parametrize("populate", ["full", "vcpu"])
@pytest.mark.parametrize("node", [0, 1])
def test_small_pages(nodes, node, populate):
    """All pages come from the node that was asked for."""
    memory = f"64M,thp=off,numa={node},populate={populate}"
    job = nodes.tb.spawn(["build/kvick", "run", "--memory", memory, "build/guest/flat/echo.pvh.elf"])
    job.wait_for(b"echo ready", timeout=60)
    pid = nodes.run("sh", "-c", "pidof kvick").stdout.split()[0]
    until(lambda: sum(pages_by_node(nodes, pid, f"bind:{node}")) > 60 * MIB // 4096, "population", 60)
    assert pages_by_node(nodes, pid, f"bind:{node}")[1 - node] == 0
    job.write(b"q")
    assert job.wait(60).returncode == OK


@pytest.mark.parametrize("node", [0, 1])
def test_file_on_tmpfs(nodes, node):
    """Pages of a file on tmpfs are allocated when its space is reserved, on the node that was asked for."""
    file = "/dev/shm/ram"
    memory = f"64M,backing=file:{file},numa={node},populate=full"
    job = nodes.tb.spawn(["build/kvick", "run", "--memory", memory, "build/guest/flat/echo.pvh.elf"])
    try:
        job.wait_for(b"echo ready", timeout=60)
        pid = nodes.run("sh", "-c", "pidof kvick").stdout.split()[0]
        maps = [m for m in nodes.run("cat", f"/proc/{pid}/numa_maps").stdout.splitlines() if f"file={file}" in m]
        assert sum(int(n) for m in maps for n in re.findall(rf" N{node}=(\d+)", m)) > 60 * MIB // 4096, maps
        assert not [m for m in maps if f" N{1 - node}=" in m]
        job.write(b"q")
        assert job.wait(60).returncode == OK
    finally:
        nodes.run("rm", file)


# Until a thread that populates is seen, with the CPUs that it may run on.
CPUS_OF_FILLING = """
build/kvick run --memory 512M,thp=off,numa=$1,populate=background,threads=2 build/guest/flat/spin.pvh.elf &
while kill -0 $! && [ -z "$found" ]; do
	for task in /proc/$!/task/*; do
		read -r name <$task/comm && [ "$name" = "kvick populate" ] &&
			found=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $task/status)
	done
done
kill $!
wait
echo "cpus $found"
"""


@pytest.mark.parametrize("node", ["0", "1"])
def test_threads_on_their_node(nodes, node):
    """Threads that populate memory of a node run on its CPUs."""
    done = nodes.run("sh", "-c", CPUS_OF_FILLING, "sh", node, spread=True)
    assert f"cpus {node}\n" in done.stdout, done


def test_huge_pages(nodes):
    """Huge pages are counted, and taken, on the chosen node alone."""
    for memory, missing in (("128M,numa=0", 64), ("256M,numa=1", 64), ("256M,numa=0-1", 64)):
        done = nodes.kvick("--memory", f"{memory},backing=hugetlb-2m", "build/guest/flat/signal.pvh.elf")
        assert done.returncode == START
        assert f": {missing} are missing; reserve them: " in done.stderr, done.stderr
        assert "node 1: 64" in done.stderr or memory.endswith("=0")
    for memory in ("128M,numa=1", "128M,numa=1,populate=full", "128M,numa=0-1,populate=full", "128M"):
        done = nodes.kvick("--memory", f"{memory},backing=hugetlb-2m", "build/guest/flat/signal.pvh.elf")
        assert done.returncode == OK, done


def free_pages(linux, node):
    return int(linux.run("cat", f"/sys/devices/system/node/node{node}/{HUGE}/free_hugepages").stdout)


@pytest.fixture(name="both")
def pages_on_both_nodes(nodes):
    """64 pages of 2 MiB in node 0 too: the kernel's reservations, which know no nodes, are not what is
    short in node 1."""
    pages = f"/sys/devices/system/node/node0/{HUGE}/nr_hugepages"
    nodes.run("sh", "-c", f"echo 64 >{pages}")
    assert free_pages(nodes, 0) == 64
    yield nodes
    nodes.run("sh", "-c", f"echo 0 >{pages}")


ECHO = ("--image-map", "copy", "build/guest/flat/echo.pvh.elf")
BOUND = "128M,backing=hugetlb-2m,numa=1"


@pytest.mark.parametrize("populate", ["none", "vcpu", "background"])
def test_huge_pages_of_another_vm(both, populate):
    """Pages of a node are a VM's own from its start, whatever it has touched of them."""
    job = both.tb.spawn(["build/kvick", "run", "--memory", f"{BOUND},populate={populate}", *ECHO])
    job.wait_for(b"echo ready", timeout=60)
    assert free_pages(both, 1) == 0
    done = both.kvick("--memory", f"{BOUND},populate={populate}", *ECHO)
    assert done.returncode == START, done
    assert "memory: 64 huge pages of 2M are needed, 0 are free (node 1: 0): 64 are missing; " in done.stderr
    assert "reserve them: cd /sys/devices/system/node/node1/hugepages/" in done.stderr
    job.write(b"q")
    assert job.wait(60).returncode == OK
    assert free_pages(both, 1) == 64


def test_huge_pages_reserved_anywhere(both):
    """What a VM without numa= has set aside is free on some node, but not to be had."""
    job = both.tb.spawn(["build/kvick", "run", "--memory", "128M,backing=hugetlb-2m", *ECHO])
    job.wait_for(b"echo ready", timeout=60)
    done = both.kvick("--memory", "256M,backing=hugetlb-2m,numa=0-1", *ECHO)
    assert done.returncode == START, done
    assert "128 huge pages of 2M are needed, 64 are free and not reserved by others (node 0: " in done.stderr
    job.write(b"q")
    assert job.wait(60).returncode == OK
    assert free_pages(both, 0) + free_pages(both, 1) == 128


def test_two_starts_at_once(both):
    """Each may find all pages free and then lose some to the other: an error, and all is given back. Who
    gives back first keeps the other from telling what is missing."""
    one = f"build/kvick run --memory {BOUND} build/guest/flat/signal.pvh.elf >/dev/null"
    for _ in range(4):
        done = both.run("sh", "-c", f"{one} 2>/tmp/a & {one} 2>/tmp/b; echo $?; wait $!; echo $?", spread=True)
        errors = [both.read("/tmp/b"), both.read("/tmp/a")]
        for status, error in zip(done.stdout.split(), errors, strict=True):
            assert int(status) in (OK, START), (done, errors)
            assert (error == "") == (int(status) == OK), error
            said = r"64 huge pages of 2M are needed, .* missing; reserve (them|it): |could not give more than \d+M of"
            assert not error or re.search(said, error), error
        assert free_pages(both, 1) == 64


def test_pool(nodes):
    """A pool of one node."""
    pool = ["build/kvick", "pool", "serve", "--socket", "/run/nodes.sock", "--size", "64M"]
    done = nodes.run(*pool, "--node", "0", "--page-size", "2M")
    assert done.returncode == 1
    assert "32 huge pages of 2M are missing on node 0; reserve them: " in done.stderr
    job = nodes.tb.spawn([*pool, "--node", "1", "--page-size", "2M"])
    try:
        status = ("build/kvick", "pool", "status", "--socket", "/run/nodes.sock")
        until(lambda: "4 free" in nodes.run(*status).stdout, "the pool's memory", 60)
        free = nodes.run("cat", f"/sys/devices/system/node/node1/{HUGE}/free_hugepages").stdout
        assert int(free) == 32
        done = nodes.kvick("--memory", "64M,backing=pool:/run/nodes.sock", "build/guest/flat/signal.pvh.elf")
        assert done.returncode == OK, done
    finally:
        job.kill(15)
        job.wait(30)


def test_full_node(nodes):
    """A node that has not enough is an error at the start or something to wait for, and nobody is
    killed, though the host as a whole has enough."""
    done = nodes.kvick("--memory", "1100M,numa=1,populate=full", "build/guest/flat/signal.pvh.elf")
    assert done.returncode == START
    assert "the NUMA nodes of numa= have " in done.stderr, done.stderr
    pool = ["build/kvick", "pool", "serve", "--socket", "/run/full.sock", "--chunk", "64M"]
    done = nodes.run(*pool, "--size", "64M", "--node", "5")
    assert done.returncode == 1
    assert "--node 5: memory cannot be bound to it: Invalid argument; this host has memory on node 0-1" in done.stderr
    done = nodes.run(*pool, "--size", "1088M", "--node", "1")
    assert done.returncode == 1 and "NUMA node 1 has only " in done.stderr
    total = int(nodes.run("awk", "/MemTotal/{print $4}", "/sys/devices/system/node/node1/meminfo").stdout) // 1024
    job = nodes.tb.spawn([*pool, "--size", f"{total // 64 * 64}M", "--node", "1"])
    try:
        job.wait_for(b"goes on trying: a chunk of 64M: NUMA node 1 has only ", stream="stderr")
        status = ("build/kvick", "pool", "status", "--socket", "/run/full.sock")
        until(lambda: " free" in nodes.run(*status).stdout, "the server's answer", 60)
    finally:
        job.kill(15)
        job.wait(30)
    assert "oom" not in nodes.run("dmesg").stdout.lower()


def test_control_group(nodes):
    """A limit of the group is an error of ours, not a SIGBUS, and nothing stays allocated."""
    nodes.run("sh", "-c", f"echo +hugetlb >/sys/fs/cgroup/cgroup.subtree_control; mkdir {GROUP}")
    free = f"/sys/devices/system/node/node1/{HUGE}/free_hugepages"
    try:
        for control in ("hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"):
            if nodes.run("sh", "-c", f"echo {64 * MIB} >{GROUP}/{control}").returncode:
                pytest.skip("the emulated host's kernel has no hugetlb control groups")
            for populate in ("none", "full", "vcpu"):
                done = in_group(nodes, f"128M,backing=hugetlb-2m,populate={populate}")
                assert done.returncode == START, (control, done)
                assert f"{GROUP} has room for 64 MiB below its limit of 64 MiB; raise its {control}" in done.stderr
                assert int(nodes.run("cat", free).stdout) == 64
                assert in_group(nodes, f"64M,backing=hugetlb-2m,populate={populate}").returncode == OK
            nodes.run("sh", "-c", f"echo max >{GROUP}/{control}")
    finally:
        nodes.run("rmdir", GROUP)


@pytest.mark.parametrize("populate", ["full", "vcpu", "background"])
def test_short_half_way(nodes, populate):
    """Memory that ends while it is populated, here by a limit that is hidden from kvick: a sentence
    that says how far it came, and everything is given back."""
    nodes.run("sh", "-c", f"echo +hugetlb >/sys/fs/cgroup/cgroup.subtree_control; mkdir {GROUP}")
    try:
        nodes.run("sh", "-c", f"echo {32 * MIB} >{GROUP}/hugetlb.2MB.max")
        hidden = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
        memory = f"128M,backing=hugetlb-2m,populate={populate}"
        job = nodes.tb.spawn([
            "sh", "-c", f'echo $$ >{GROUP}/cgroup.procs; exec "$@"', "sh",
            "unshare", "-m", "sh", "-c", hidden, "sh", "build/kvick", "run", "--memory", memory, *ECHO,
        ])  # fmt: skip
        if populate == "background":
            job.wait_for(b"populate=background: only ", stream="stderr")
            job.write(b"q")
        done = job.wait(60)
        assert done.returncode == (OK if populate == "background" else START), done
        if populate != "background":
            said = re.search(rb"populate: the host could not give more than (\d+)M of 128M: ", done.stderr)
            assert said and 16 <= int(said[1]) <= 32, done
            assert b"Cannot allocate memory" in done.stderr and done.stderr.count(b"\n") == 1
        assert free_pages(nodes, 1) == 64
    finally:
        nodes.run("rmdir", GROUP)


def in_group(nodes, memory):
    """Runs a machine in the group with the limit."""
    return nodes.run(
        "sh", "-c", f'echo $$ >{GROUP}/cgroup.procs; exec "$@"', "sh", "build/kvick", "run",
        "--memory", memory, "build/guest/flat/signal.pvh.elf",
    )  # fmt: skip


def test_nodes_of_a_cpuset(nodes):
    """A node that the control group leaves out is refused like one that is not there; the kernel would take
    the other one without a word."""
    nodes.run("sh", "-c", f"echo +cpuset >{Path(GROUP).parent}/cgroup.subtree_control; mkdir {GROUP}")
    try:
        nodes.run("sh", "-c", f"echo 0 >{GROUP}/cpuset.mems")
        assert in_group(nodes, "64M,numa=0").returncode == OK
        done = in_group(nodes, "64M,numa=0-1")
        assert done.returncode == START
        assert "memory: numa=1: memory cannot be bound to it; " in done.stderr, done.stderr
        assert "cpuset.mems" in done.stderr and done.stderr.endswith(" of node 0\n"), done.stderr
    finally:
        nodes.run("rmdir", GROUP)
