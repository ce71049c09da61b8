# SPDX-License-Identifier: Apache-2.0
"""What Linux guests keep on disks: file systems, fio's patterns, writes that were acknowledged."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from images import cpio
from test_run_linux import QUIET, boot, booted

DISK = "/tmp/kvick-disk"


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


# Says "PATCH /vm" to a control socket: PATH STATE. Exits with 0 for a 204.
ASK = """
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	char body[64], answer[64] = "";
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(to.sun_path, sizeof(to.sun_path), "%s", argv[1]);
	snprintf(body, sizeof(body), "{\\"state\\": \\"%s\\"}", argv[2]);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return 1;
	dprintf(fd, "PATCH /vm HTTP/1.1\\r\\nConnection: close\\r\\nContent-Length: %zu\\r\\n\\r\\n%s",
		strlen(body), body);
	if (read(fd, answer, sizeof(answer) - 1) <= 0)
		return 2;
	return strstr(answer, " 204 ") ? 0 : 3;
}
"""

# Stops the machine again and again, and looks once whether it still writes.
STOP = """
set -e
ask=/tmp/kvick-ask
$ask $1 Paused; sleep 0.5
before=$(md5sum <$2); sleep 0.5
test "$before" = "$(md5sum <$2)"
$ask $1 Resumed
i=0
while [ $i -lt 30 ] && $ask $1 Paused; do
	sleep 0.03
	$ask $1 Resumed
	sleep 0.03
	i=$((i + 1))
done
echo stopped $i times
"""


def with_libraries(*programs, extra=None):
    """An initrd of programs of this system and what they load."""
    files = dict(extra or {})
    for program in programs:
        path = shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert path, f"{program} is not installed; see tools/packages"
        files[f"bin/{program}"] = Path(path).read_bytes()
        loads = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for name in re.findall(r"(?:=> )?(/\S+) \(0x", loads):
            files[name.lstrip("/")] = Path(name).read_bytes()
    return cpio(files)


@pytest.fixture
def disk(linux):
    assert linux.run("truncate", "-s", "64M", DISK).returncode == 0
    yield DISK
    linux.run("rm", "-f", DISK, "/tmp/kvick-tools.cpio")


def test_file_system(linux, disk):
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
    args = ("--memory", "256M", *tools, "--disk", f"{disk},queues=2", "--cpus", "2")
    booted(boot(linux, commands=commands, args=args), 9)
    # Another machine finds it, without a write to a disk that is read-only.
    commands = "exec /bin/e2fsck -fn /dev/vda;mount ext4 /dev/vda /mnt ro;cat /mnt/file"
    done = booted(boot(linux, commands="mkdir /mnt/x;" + commands, args=(*args[:4], "--disk", disk)), 4)
    assert "hello-disk\n" in done.stdout


def test_fio(linux, disk, tmp_path):
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
    args = ("--memory", "512M", "--initrd", "/tmp/kvick-tools.cpio", "--disk", f"{disk},queues=2")
    booted(boot(linux, commands=fio, args=args), 1)


def test_killed_while_writing(testbed, linux, disk):
    """What the guest was told is stored is there after the monitor was killed."""
    for seed in range(3):
        commands = f"acks /dev/vda 0 67108864 {seed + 1}"
        job = testbed.spawn(
            [
                linux.program, "run", "--disk", disk, "--initrd", linux.guest("initrd.cpio"),
                "--append", f'{QUIET} kvick.run="{commands}"', linux.guest("vmlinux"),
            ]
        )  # fmt: skip
        try:
            job.wait_for(f"stored: {40960 * (seed + 1)}\r".encode(), timeout=110)
            job.kill(signal.SIGKILL)
            done = job.wait(20)
        finally:
            job.kill_all()
        assert done.signal == signal.SIGKILL
        stored = int(re.findall(rb"stored: (\d+)\r", done.stdout)[-1])
        # The lock went with the process, and the next machine finds everything.
        args = ("--disk", f"{disk},ro")
        booted(boot(linux, commands=f"verify /dev/vda 0 {stored} {seed + 1}", args=args), 1)


def test_growth(testbed, linux, disk):
    """The guest sees the new size, and can use it, without looking for it."""
    commands = (
        "fill /dev/vda 0 65536 1;echo grow;sleep 4000;cat /sys/block/vda/size;"
        "fill /dev/vda 134213632 4096 5;verify /dev/vda 134213632 4096 5"
    )
    job = testbed.spawn(
        [
            linux.program, "run", "--disk", disk, "--initrd", linux.guest("initrd.cpio"),
            "--append", f'{QUIET} kvick.run="{commands}"', linux.guest("vmlinux"),
        ]
    )  # fmt: skip
    try:
        job.wait_for(b"grow\r", timeout=110)
        assert linux.run("truncate", "-s", "128M", disk).returncode == 0
        job.kill(signal.SIGUSR2)
        done = job.wait(100)
    finally:
        job.kill_all()
    assert b"\n262144\r" in done.stdout
    assert b"verify: 4096 bytes ok" in done.stdout
    assert b"disk disk0 has now 128M" in done.stderr


def test_kexec(linux, testbed_build, disk):
    """A kernel that another one started finds the devices as they were at first."""
    again = "cat /kvick.next;verify /dev/vda 0 65536 4;fill /dev/vdb 65536 65536 5;read /dev/hwrng 512;irqs"
    first = "fill /dev/vda 0 65536 4;fill /dev/vdb 0 512 1;read /dev/hwrng 512;"
    first += "kexec /next/kernel /next/initrd /next/cmdline"
    guest = testbed_build / "guest"
    initrd = (guest / "initrd.cpio").read_bytes()
    linux.put(
        "/tmp/kvick-tools.cpio",
        cpio(
            {
                "next/kernel": (guest / "bzImage").read_bytes(),
                "next/initrd": initrd + cpio({"kvick.next": b"the second kernel\n"}),
                "next/cmdline": f'{QUIET} kvick.run="{again}"\n'.encode(),
            }
        ),
    )
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


def test_paused_with_requests_under_way(testbed, linux, disk, tmp_path):
    """A machine that is stopped over and over while it writes and reads loses nothing."""
    source, program, socket = tmp_path / "ask.c", tmp_path / "ask", "/tmp/kvick-disk.sock"
    source.write_text(ASK)
    subprocess.run(["cc", "-static", "-o", program, source], check=True)
    linux.put("/tmp/kvick-ask", program.read_bytes())
    linux.run("chmod", "755", "/tmp/kvick-ask")
    commands = "echo begin;" + ";".join(
        f"fill /dev/vda 0 16777216 {n};verify /dev/vda 0 16777216 {n}" for n in (1, 2)
    )
    job = testbed.spawn(
        [
            linux.program, "run", "--api-sock", socket, "--disk", disk, "--rng", "--memory", "256M",
            "--initrd", linux.guest("initrd.cpio"), "--append", f'{QUIET} kvick.run="{commands}"',
            linux.guest("vmlinux"),
        ]
    )  # fmt: skip
    try:
        job.wait_for(b"begin\r", timeout=110)
        stopped = linux.run("sh", "-c", STOP, "sh", socket, disk)
        done = job.wait(110)
    finally:
        job.kill_all()
    assert stopped.returncode == 0, stopped
    assert int(re.search(r"stopped (\d+) times", stopped.stdout)[1]) > 2
    assert done.returncode == 0
    assert done.stdout.count(b"verify: 16777216 bytes ok") == 2


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
