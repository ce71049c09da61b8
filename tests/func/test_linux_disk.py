# SPDX-License-Identifier: Apache-2.0
"""What Linux guests keep on disks: file systems, fio's patterns, writes that were acknowledged."""

import re
import shutil
import signal
import subprocess
import time
from itertools import takewhile
from pathlib import Path

import pytest
from images import NEXT, cpio, libraries, next_kernel
from linux_vm import cycles, linux_vms, vms_made  # noqa: F401 (a fixture)
from places import Emulated, text
from test_run_linux import QUIET, boot, booted
from testbed import Testbed
from vm import START

DISK = "/tmp/kvick-disk"

# Served by the machine's thread, and by one of their own.
THREADS = pytest.mark.parametrize("own", ["", ",iothread"])

# fio keeps its state in System V shared memory, which the small guest kernel does not have.
SHM = """
#include <sys/mman.h>
#include <sys/shm.h>
static size_t size;
int shmget(key_t key, size_t bytes, int flags)
{
	size = bytes;
	return 1;
}
void *shmat(int id, const void *at, int flags)
{
	return mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}
int shmdt(const void *at)
{
	return 0;
}
int shmctl(int id, int op, struct shmid_ds *buf)
{
	return 0;
}
"""


def with_libraries(*programs, extra=None):
    """An initrd of programs of this system and what they load."""
    files = dict(extra or {})
    for program in programs:
        path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert path, f"{program} is not installed; see tools/packages"
        files[f"bin/{program}"] = Path(path).read_bytes()
        for name in libraries(path):
            files[name.lstrip("/")] = Path(name).read_bytes()
    return cpio(files)


def made_disk(linux):
    assert linux.run("truncate", "-s", "64M", DISK).returncode == 0
    yield DISK
    linux.run("rm", "-f", DISK, "/tmp/kvick-tools.cpio")


@pytest.fixture(name="disk")
def disk_of_64_mib(linux):
    yield from made_disk(linux)


@pytest.fixture(name="emulated_disk")
def disk_in_the_emulated_host(testbed):
    """The same for tests that speak to the guest while it runs."""
    yield from made_disk(Emulated(testbed))


@THREADS
def test_file_system(linux, disk, own):
    """Made, written to and checked by the guest, over a driver that went and came back."""
    linux.put("/tmp/kvick-tools.cpio", with_libraries("mke2fs", "e2fsck"))
    driver = "/sys/bus/virtio/drivers/virtio_blk"
    commands = ";".join(
        [
            "exec /bin/mke2fs -q -t ext4 /dev/vda",
            "mount ext4 /dev/vda /mnt",
            "write /mnt/file hello-disk",
            "mkdir /mnt/folder",
            "write /mnt/folder/other x",
            "umount /mnt",
            f"write {driver}/unbind virtio0",
            f"write {driver}/bind virtio0",
            "exec /bin/e2fsck -fn /dev/vda",
        ]
    )
    tools = ("--initrd", "/tmp/kvick-tools.cpio")
    args = ("--memory", "256M", *tools, "--disk", f"{disk},queues=2{own}", "--cpus", "2")
    booted(boot(linux, commands=commands, args=args), 9)
    # Another machine finds it, without a write to a disk that is read-only.
    commands = "exec /bin/e2fsck -fn /dev/vda;mount ext4 /dev/vda /mnt ro;cat /mnt/file"
    done = booted(boot(linux, commands="mkdir /mnt/x;" + commands, args=(*args[:4], "--disk", disk)), 4)
    assert "hello-disk\n" in done.stdout


@THREADS
def test_fio(linux, disk, tmp_path, own):
    """Random writes of all sizes, many at a time, each verified by checksum."""
    source, library = tmp_path / "shm.c", tmp_path / "shm.so"
    source.write_text(SHM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    extra = {"lib/shm.so": library.read_bytes(), "etc/ld.so.preload": b"/lib/shm.so\n"}
    linux.put("/tmp/kvick-tools.cpio", with_libraries("fio", extra=extra))
    fio = (
        "exec /bin/fio --name=mix --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=32 --size=16M "
        "--bsrange=512-64k --blockalign=512 --rw=randwrite --verify=crc32c --verify_fatal=1 --thread "
        "--output-format=terse --terse-version=3"
    )
    args = ("--memory", "512M", "--initrd", "/tmp/kvick-tools.cpio", "--disk", f"{disk},queues=2{own}")
    booted(boot(linux, commands=fio, args=args), 1)


def test_killed_while_writing(testbed, linux_vm, emulated_disk):
    """What the guest was told is stored is there after the monitor was killed."""
    for seed in range(1, 4):
        vm = linux_vm([f"acks /dev/vda 0 67108864 {seed}"], "--no-api", "--disk", emulated_disk)
        vm.expect(f"stored: {40960 * seed}\n")
        vm.job.kill(signal.SIGKILL)
        done = vm.job.wait(20)
        assert done.signal == signal.SIGKILL
        stored = int(re.findall(r"stored: (\d+)\n", text(done.stdout))[-1])
        # The lock went with the process, and the next machine finds everything.
        args = ("--disk", f"{emulated_disk},ro")
        booted(boot(Emulated(testbed), commands=f"verify /dev/vda 0 {stored} {seed}", args=args), 1)


def test_ended_while_writing(testbed, linux_vm, emulated_disk):
    """A thread of a disk is no reason not to end at once, nor to lose what the guest was told."""
    vm = linux_vm(["acks /dev/vda 0 67108864 7"], "--no-api", "--disk", f"{emulated_disk},iothread")
    vm.expect("stored: 81920\n")
    vm.job.kill(signal.SIGTERM)
    done = vm.job.wait(20)
    assert done.returncode == 128 + signal.SIGTERM, done
    stored = int(re.findall(r"stored: (\d+)\n", text(done.stdout))[-1])
    args = ("--disk", f"{emulated_disk},ro")
    booted(boot(Emulated(testbed), commands=f"verify /dev/vda 0 {stored} 7", args=args), 1)


def test_memory_goes_while_disks_work(linux_vm, emulated_disk):
    """Disks with threads of their own read and write memory that others plug and take away."""
    work = [f"{verb} /dev/vda 0 8388608 {n}" for n in range(4) for verb in ("fill", "verify")]
    disks = ("--disk", f"{emulated_disk},iothread,queues=2", "--rng")
    memory = ("--memory", "256M", "--cpus", "2", "--mem-device", "max=2G,id=m0")
    vm = linux_vm(["echo begin", *work, "memwait 540 640"], *disks, *memory)
    vm.expect("begin\n")
    for mib in (256, 0) * 3:
        vm.resize("m0", mib)
    # More than it ever had so far: a guest that is done early must not take what passes by for it.
    vm.release("m0", 384)
    assert vm.end(10).count("verify: 8388608 bytes ok") == 4


def test_growth(testbed, linux_vm, emulated_disk):
    """The guest sees the new size, and can use it, without looking for it."""
    vm = linux_vm(
        ["fill /dev/vda 0 65536 1", "echo grow", "sleep 4000", "cat /sys/block/vda/size",
         "fill /dev/vda 134213632 4096 5", "verify /dev/vda 134213632 4096 5"],
        "--disk", emulated_disk,
    )  # fmt: skip
    vm.expect("grow\n")
    assert testbed.run(["truncate", "-s", "128M", emulated_disk]).returncode == 0
    vm.job.kill(signal.SIGUSR2)
    out = vm.end(6)
    assert "\n262144\n" in out
    assert "verify: 4096 bytes ok" in out
    assert b"disk disk0 has now 128M" in vm.job.stderr


# Block devices of the emulated host: of sectors of 512 bytes, and of 4096.
BLOCK_MIB = 16
LARGE_SECTORS = "drive=large,logical_block_size=4096,physical_block_size=4096"


@pytest.fixture(name="block_testbed")
def testbed_with_block_devices(testbed_server, tmp_path):
    """An emulated host that has them as /dev/vda and /dev/vdb."""
    testbed_server.close()
    small, large = tmp_path / "small", tmp_path / "large"
    for path in small, large:
        path.write_bytes(bytes(BLOCK_MIB << 20))
    extra = f"-drive file={large},format=raw,if=none,id=large -device virtio-blk-pci,{LARGE_SECTORS}"
    with Testbed(devices=[f"blk={small}"], extra=extra, build=testbed_server.build) as tb:
        yield tb


@pytest.fixture(name="block_vm")
def linux_vms_with_block_devices(block_testbed):
    yield from vms_made(block_testbed)


def test_block_devices(block_testbed, block_vm):
    """Written and verified, discarded and zeroed, growing, and nobody else's meanwhile."""
    linux = Emulated(block_testbed)
    linux.put("/tmp/kvick-tools.cpio", with_libraries("blkdiscard"))
    work = []
    # The ranges begin a sector before a MiB: no block of the second one begins there.
    for disk in "/dev/vda", "/dev/vdb":
        work += [
            f"fill {disk} 0 4194304 1",
            f"exec /bin/blkdiscard -o 1048064 -l 1049088 {disk}",
            f"exec /bin/blkdiscard -z -o 3145216 -l 1049088 {disk}",
            f"verify {disk} 0 1048064 1",
            f"verify {disk} 2097152 1048064 1",
        ]
    grown = f"/dev/vda {BLOCK_MIB << 20} 65536 2"
    grow = ["echo grow", "sleep 4000", f"fill {grown}", f"verify {grown}"]
    disks = ("--disk", "/dev/vda,iothread", "--disk", "/dev/vdb,direct")
    vm = block_vm([*work, *grow], "--initrd", "/tmp/kvick-tools.cpio", *disks)
    vm.expect("grow\n")
    # The emulated host's own driver is told of the size as the guest's is.
    block_testbed.machine.monitor.call("block_resize", device="drive0", size=2 * BLOCK_MIB << 20)
    wait = f"until [ $(cat /sys/block/vda/size) = {4096 * BLOCK_MIB} ]; do usleep 10000; done"
    assert linux.run("sh", "-c", wait, timeout=20).returncode == 0
    vm.job.kill(signal.SIGUSR2)
    done = linux.kvick("--disk", "/dev/vda", linux.guest("vmlinux"))
    assert (done.returncode, done.stderr) == (
        START,
        "kvick run: disk disk0: /dev/vda is in use by another disk or process; "
        "only read-only disks are shared\n",
    )
    assert vm.end(14).count("verify: 1048064 bytes ok") == 4
    assert f"disk disk0 has now {2 * BLOCK_MIB}M" in text(vm.job.stderr)
    zeroes = linux.run("sh", "-c", "head -c 1048576 /dev/zero | md5sum").stdout
    for disk in "/dev/vda", "/dev/vdb":
        for mib, zero in enumerate((False, True, False, True)):
            found = linux.run("sh", "-c", f"dd if={disk} bs=1M skip={mib} count=1 | md5sum").stdout
            assert (found == zeroes) == zero, (disk, mib)


def test_kexec(linux, testbed_build, disk):
    """A kernel that another one started finds the devices as they were at first."""
    again = "cat /kvick.next;verify /dev/vda 0 65536 4;fill /dev/vdb 65536 65536 5;read /dev/hwrng 512;irqs"
    first = "fill /dev/vda 0 65536 4;fill /dev/vdb 0 512 1;read /dev/hwrng 512;"
    first += NEXT
    files = next_kernel(testbed_build / "guest", f'{QUIET} kvick.run="{again}"')
    linux.put("/tmp/kvick-tools.cpio", cpio(files))
    disks = ("--disk", f"{disk},queues=2", "--disk", f"{disk}2")
    assert linux.run("truncate", "-s", "1M", f"{disk}2").returncode == 0
    args = ("--initrd", "/tmp/kvick-tools.cpio", "--memory", "256M", "--cpus", "2", "--rng", *disks)
    done = booted(boot(linux, commands=first, args=args), 5)
    linux.run("rm", f"{disk}2")
    assert done.stdout.count("kvick-init: user space") == 2
    assert "the second kernel" in done.stdout
    assert done.stdout.count("read: 512 bytes") == 2
    assert "verify: 65536 bytes ok" in done.stdout
    assert len(re.findall(r"^ *\d+: .*\bvirtio\d+$", done.stdout, re.M)) == 3
    assert "needs a reset" not in done.stderr


@THREADS
def test_paused_with_requests_under_way(testbed, linux_vm, emulated_disk, own):
    """A machine that is stopped over and over while it writes and reads loses nothing."""
    work = [f"{verb} /dev/vda 0 16777216 {n}" for n in (1, 2) for verb in ("fill", "verify")]
    vm = linux_vm(["echo begin", *work], "--disk", emulated_disk + own, "--rng", "--memory", "256M")
    vm.expect("begin\n")
    vm.state("Paused")
    time.sleep(0.5)
    before = testbed.run(["md5sum", emulated_disk]).stdout
    time.sleep(0.5)
    assert testbed.run(["md5sum", emulated_disk]).stdout == before
    vm.state("Resumed")
    # The guest may be done before all of them are.
    answers = list(takewhile((204, None).__eq__, vm.talk(*cycles(30, 30, 30))))
    assert len(answers) % 2 == 0 and len(answers) // 2 > 2
    assert vm.end(5).count("verify: 16777216 bytes ok") == 2


def test_driver_of_the_transport(linux, disk):
    """The transport's driver goes and comes back, with all devices behind it."""
    driver = "/sys/bus/platform/drivers/virtio-mmio"
    again = (
        f"write {driver}/unbind LNRO0005:00;write {driver}/unbind LNRO0005:01;"
        f"write {driver}/bind LNRO0005:00;write {driver}/bind LNRO0005:01;"
        "verify /dev/vda 0 65536 3;read /dev/hwrng 256"
    )
    commands = ";".join(["fill /dev/vda 0 65536 3"] + [again] * 3)
    done = booted(boot(linux, commands=commands, args=("--disk", disk, "--rng")), 19)
    assert done.stdout.count("verify: 65536 bytes ok") == 3
    assert done.stdout.count("read: 256 bytes") == 3
