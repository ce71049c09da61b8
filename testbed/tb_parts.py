# SPDX-License-Identifier: Apache-2.0
"""The parts of the emulated host: where they come from, how they are made and cached.

Everything lies under ${XDG_CACHE_HOME:-~/.cache}/kvick/testbed. A part is a folder that is written
beside its place and renamed, so that it is whole or not there, and it is made under a lock, so
that two that start at once make it once. Packages come from this machine's own apt sources and are
unpacked privately: the machine itself is not changed.
"""

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

PACKAGES = (
    "binutils",
    "busybox-static",
    "gcc",
    "libc6-dev",
    "python3",
    "qemu-system-x86",
    "util-linux",
    "zstd",
)
"""Debian packages that the testbed needs installed (`testbed/run --packages`)."""

KERNEL_METAS = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64")
KERNEL_SERIES = "6.12"

QEMU_GOOD = (10, 0)
"""Older ones lose wakeups and ignore hardware breakpoints in a nested guest (both in VMRUN) and,
before 8.1, run stale translations of patched code with several CPUs."""
QEMU_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")

MODULES = (
    "kvm-amd",
    "vfio_iommu_type1",
    "vfio-pci",
    "virtio_blk",
    "virtio_net",
    "tun",
    "vhost_net",
    "vhost_vsock",
)
"""Loaded in this order, each after the modules it depends on."""

CFLAGS = ("-std=gnu17", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror")


class TestbedError(Exception):
    """The testbed itself failed; the text is one sentence (and what the emulator said)."""

    __test__ = False


def notice(text):
    """Tells a person what takes time or falls short."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "kvick" / "testbed"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(name):
    """Holds the cache's lock of that name."""
    with open(cache_dir() / f"{name}.lock", "w", encoding="ascii") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def digest(*parts):
    """A key made of texts, bytes and files' contents."""
    h = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        h.update(struct.pack("<Q", len(data)))
        h.update(data)
    return h.hexdigest()[:16]


def part(name, make):
    """The folder NAME of the cache; make(folder) fills it when it is not there."""
    path = cache_dir() / name
    if not path.is_dir():
        with locked(name.split("-")[0]):
            if not path.is_dir():
                # With the lock held, what lies half made is what a crash has left.
                for old in cache_dir().glob(f".{name.split('-')[0]}-*"):
                    shutil.rmtree(old, ignore_errors=True)
                tmp = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache_dir()))
                try:
                    make(tmp)
                    tmp.chmod(0o755)
                    tmp.rename(path)
                finally:
                    shutil.rmtree(tmp, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def prune(kind, keep):
    """Forgets all but the KEEP parts of a kind that were used last."""
    with locked(kind):
        found = []
        for path in cache_dir().glob(f"{kind}-*"):
            if path.is_dir():
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found, reverse=True)[keep:]:
            shutil.rmtree(path, ignore_errors=True)


def call(argv, what, **kw):
    """Runs a tool; its failure is the testbed's."""
    try:
        done = subprocess.run(argv, capture_output=True, check=False, **kw)
    except OSError as e:
        raise TestbedError(f"cannot {what}: {argv[0]}: {e.strerror}") from e
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise TestbedError(f"cannot {what}: {argv[0]}: {' / '.join(last) or done.returncode}")
    return done.stdout


class Apt:
    """This machine's apt sources, read with private state when the system's lists are of no use."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::http::Timeout=30"]

    def tool(self, name, *args, what="ask apt", cwd=None):
        env = dict(os.environ, LC_ALL="C")
        return call([name, *self.options, *args], what, cwd=cwd, env=env).decode()

    def private(self):
        """Fetches the package lists of the system's sources into a folder of our own."""
        lists = self.tmp / "lists"
        (lists / "partial").mkdir(parents=True)
        self.options += ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={self.tmp}/cache"]
        notice("fetching package lists")
        self.tool("apt-get", "update", what="fetch package lists")

    def unpack_some(self, choose, root):
        """Unpacks the packages that choose() names, from fresh lists if the system's are too old
        or missing; returns the names."""
        try:
            names = choose()
            self.unpack(names, root)
        except TestbedError:
            self.private()
            names = choose()
            self.unpack(names, root)
        return names

    def suite(self, suffix):
        """Turns to the suite that the system's Debian mirror calls by this release and SUFFIX."""
        release = os_release().get("VERSION_CODENAME", "")
        form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
        rows = self.tool("apt-get", "indextargets", "--format", form, "Created-By: Packages")
        for row in rows.splitlines():
            uri, name, component = row.split()
            if name == release and component == "main":
                break
        else:
            raise TestbedError(f"no apt source of this machine has the suite {release}")
        parts = self.tmp / f"sources{suffix}"
        (self.tmp / f"lists{suffix}" / "partial").mkdir(parents=True)
        parts.mkdir()
        text = f"Types: deb\nURIs: {uri}\nSuites: {release}{suffix}\nComponents: main\n"
        keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
        if keyring.exists():
            text += f"Signed-By: {keyring}\n"
        (parts / "testbed.sources").write_text(text, encoding="ascii")
        self.options += ["-o", "Dir::Etc::sourcelist=/dev/null"]
        self.options += ["-o", f"Dir::Etc::sourceparts={parts}"]
        self.options += ["-o", f"Dir::State::lists={self.tmp}/lists{suffix}"]
        self.options += ["-o", f"Dir::Cache={self.tmp}/cache{suffix}"]
        self.tool("apt-get", "update", what=f"fetch the package list of {release}{suffix}")
        return release + suffix

    def field(self, package, name):
        """A field of a package's newest version, or None."""
        with contextlib.suppress(TestbedError):
            text = self.tool("apt-cache", "show", "--no-all-versions", package)
            found = re.search(rf"^{name}: (.*)$", text, re.M)
            return found and found[1]
        return None

    def unpack(self, packages, root):
        """Downloads packages and unpacks them below ROOT."""
        debs = Path(tempfile.mkdtemp(dir=self.tmp))
        self.tool("apt-get", "download", *packages, what=f"fetch {packages[0]}", cwd=debs)
        for deb in sorted(debs.glob("*.deb")):
            call(["dpkg", "-x", str(deb), str(root)], f"unpack {deb.name}")


def os_release():
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    return {k: v.strip('"') for k, v in re.findall(r"^(\w+)=(.*)$", text, re.M)}


@contextlib.contextmanager
def apt():
    with tempfile.TemporaryDirectory(prefix="kvick-testbed-") as tmp:
        yield Apt(Path(tmp))


def kernel_packages(source):
    """The newest kernel of the series."""
    for meta in KERNEL_METAS:
        depends = source.field(meta, "Depends") or ""
        found = re.match(r"(linux-image-([\d.]+)\S*-cloud-amd64) \(= (\S+)\)", depends)
        if found and found[2].startswith(KERNEL_SERIES + "."):
            notice(f"fetching {found[1]} {found[3]}")
            return [f"{found[1]}={found[3]}"]
    raise TestbedError(
        f"this machine's apt sources have no {KERNEL_METAS[0]}: the testbed needs that kernel"
    )


def unpack_bzimage(data):
    """The ELF in a bzImage that is compressed by zstd or xz."""
    setup_sects = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = data[start : start + length - 4]
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        elf = call(["zstd", "-dc"], "decompress the kernel", input=payload)
    else:
        elf = lzma.decompress(payload)
    if elf[:4] != b"\x7fELF":
        raise TestbedError("the host kernel's payload is no ELF file")
    return elf


def make_kernel(out):
    with apt() as source:
        root = source.tmp / "root"
        (package,) = source.unpack_some(lambda: kernel_packages(source), root)
        (vmlinuz,) = (root / "boot").glob("vmlinuz-*")
        data = vmlinuz.read_bytes()
        (out / "vmlinuz").write_bytes(data)
        (out / "vmlinux").write_bytes(unpack_bzimage(data))
        (out / "version").write_text(f"{package}\n", encoding="ascii")
        (out / "modules").mkdir()
        builtin = next(root.glob("**/modules.builtin")).read_text(encoding="ascii")
        files = {p.name.split(".")[0].replace("-", "_"): p for p in root.glob("**/*.ko*")}
        order = []
        for name in MODULES:
            add_module(out / "modules", files, builtin, name, order)
        (out / "modules" / "order").write_text("".join(f"{m}\n" for m in order), encoding="ascii")


def add_module(out, files, builtin, name, order):
    """Unpacks a module after those it depends on, which its own .modinfo names."""
    name = name.replace("-", "_")
    file = f"{name}.ko"
    if file in order or re.search(rf"/{name}\.ko$", builtin.replace("-", "_"), re.M):
        return
    if name not in files:
        raise TestbedError(f"the host kernel has no module {name}")
    data = files[name].read_bytes()
    if files[name].suffix == ".xz":
        data = lzma.decompress(data)
    elif files[name].suffix == ".zst":
        data = call(["zstd", "-dc"], f"decompress {file}", input=data)
    found = re.search(rb"\0depends=([^\0]*)\0", data)
    for needed in filter(None, (found[1].decode() if found else "").split(",")):
        add_module(out, files, builtin, needed, order)
    (out / file).write_bytes(data)
    call(["strip", "--strip-debug", str(out / file)], f"strip {file}")
    order.append(file)


def kernel():
    """The folder with vmlinux, vmlinuz, version and modules/ of the emulated host's kernel."""
    return part(f"kernel-{KERNEL_SERIES}-{digest(repr(MODULES))[:8]}", make_kernel)


class Qemu:
    """An emulator: its command, environment, version, and what it can be trusted with."""

    def __init__(self, binary, folders=(), modules=None):
        self.binary = str(binary)
        self.command = [self.binary]
        for folder in folders:
            self.command += ["-L", str(folder)]
        self.env = dict(os.environ)
        if modules:
            self.env["QEMU_MODULE_DIR"] = str(modules)
        text = call([self.binary, "--version"], "run the emulator", env=self.env).decode()
        found = re.search(r"version (\d+)\.(\d+)", text)
        if not found:
            raise TestbedError(f"{self.binary} --version says no version")
        self.version = (int(found[1]), int(found[2]))
        st = os.stat(self.binary)
        self.identity = f"{text} {st.st_size} {st.st_mtime_ns}"

    @property
    def good(self):
        return self.version >= QEMU_GOOD


def make_qemu(out):
    with apt() as source:
        if not source.tool("apt-get", "indextargets", "Created-By: Packages"):
            source.private()
        suite = source.suite("-backports")
        version = source.field("qemu-system-x86", "Version")
        if not version or int(re.match(r"(?:\d+:)?(\d+)", version)[1]) < QEMU_GOOD[0]:
            raise TestbedError(f"{suite} has no QEMU {QEMU_GOOD[0]}")
        notice(f"fetching QEMU {version} from {suite}")
        source.unpack([f"{p}/{suite}" for p in QEMU_PACKAGES], out)
    for folder in ("usr/share/doc", "usr/share/man"):
        shutil.rmtree(out / folder, ignore_errors=True)
    unpacked_qemu(out)


def unpacked_qemu(root):
    share = root / "usr/share"
    return Qemu(
        root / "usr/bin/qemu-system-x86_64",
        (share / "qemu", share / "seabios"),
        root / "usr/lib/x86_64-linux-gnu/qemu",
    )


def qemu(binary=None):
    """The emulator: the one asked for, the system's if it is new enough, or one from backports."""
    binary = binary or os.environ.get("KVICK_TESTBED_QEMU")
    if binary:
        return Qemu(binary)
    system = shutil.which("qemu-system-x86_64")
    if system:
        found = Qemu(system)
        if found.good:
            return found
    try:
        return unpacked_qemu(part(f"qemu-{QEMU_GOOD[0]}", make_qemu))
    except TestbedError as e:
        if not system:
            raise
        version = ".".join(map(str, found.version))
        notice(f"{e}; QEMU {version} it is, which is slower and may lose wakeups")
        return found


def cpio_entry(name, mode, data=b"", uid=0, gid=0, ino=0):
    """One file of an initramfs ("newc" format); name without a leading slash."""
    path = name.encode() + b"\0"
    fields = (ino, mode, uid, gid, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + path
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


PASSWD = "root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000:tester:/home/tester:/bin/sh\n"
GROUP = "root:x:0:\ntty:x:5:\nkvm:x:104:tester\ntester:x:1000:\n"
GROUP_IDS = {"kvm": 104}
USERS = {"root": (0, 0, (), "/root"), "tester": (1000, 1000, (104,), "/home/tester")}
FOLDERS = "bin dev etc home kvick kvick/build lib lib/modules proc root run sys tmp usr var"


def static_busybox():
    """The machine's static busybox, or the one of the package, fetched."""
    path = shutil.which("busybox")
    if path and is_static(Path(path)):
        return Path(path)

    def make(out):
        with apt() as source:
            source.unpack_some(lambda: ["busybox-static"], source.tmp / "root")
            (found,) = source.tmp.glob("root/**/bin/busybox")
            shutil.copy2(found, out / "busybox")

    return part("busybox-1", make) / "busybox"


def is_static(path):
    """True for an executable that asks for no dynamic linker."""
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return False
    (phoff,) = struct.unpack_from("<Q", data, 32)
    phentsize, phnum = struct.unpack_from("<HH", data, 54)
    types = (struct.unpack_from("<I", data, phoff + i * phentsize)[0] for i in range(phnum))
    return 3 not in types


def make_base(out, modules, busybox):
    entries = []

    def add(name, mode, data=b"", uid=0, gid=0):
        entries.append(cpio_entry(name, mode, data, uid, gid, len(entries) + 1))

    for folder in FOLDERS.split():
        add(folder, stat.S_IFDIR | (0o1777 if folder == "tmp" else 0o755))
    add("home/tester", stat.S_IFDIR | 0o755, b"", 1000, 1000)
    for name, target in (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")):
        add(name, stat.S_IFLNK | 0o777, target.encode())
    add("bin/kvick", stat.S_IFLNK | 0o777, b"../kvick/build/kvick")
    add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    applets = call([str(busybox), "--list"], "list busybox's applets").decode().split()
    for applet in applets:
        if applet != "busybox":
            add(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    for name in ("agent", "steady"):
        program = out / name
        source = str(HERE / f"{name}.c")
        call(["gcc", *CFLAGS, "-o", str(program), source], f"compile testbed/{name}.c")
        add(f"bin/testbed-{name}", stat.S_IFREG | 0o755, program.read_bytes())
        program.unlink()
    add("bin/vfio-bind", stat.S_IFREG | 0o755, (HERE / "vfio-bind").read_bytes())
    add("init", stat.S_IFREG | 0o755, (HERE / "init").read_bytes())
    add("etc/passwd", stat.S_IFREG | 0o644, PASSWD.encode())
    add("etc/group", stat.S_IFREG | 0o644, GROUP.encode())
    for file in sorted(modules.iterdir()):
        add(f"lib/modules/{file.name}", stat.S_IFREG | 0o644, file.read_bytes())
    entries.append(cpio_entry("TRAILER!!!", 0))
    (out / "initrd").write_bytes(b"".join(entries))


def base(kernel_dir):
    """The emulated host's initramfs: busybox, modules, init, agent and what keeps it steady."""
    busybox = static_busybox()
    names = ("agent.c", "agent.h", "steady.c", "init", "vfio-bind", "tb_parts.py")
    sources = [HERE / name for name in names]
    key = digest(str(kernel_dir), (kernel_dir / "version"), busybox, *sources)
    found = part(f"base-{key}", lambda out: make_base(out, kernel_dir / "modules", busybox))
    return found / "initrd"


def refresh():
    """Forgets everything fetched and made."""
    for path in cache_dir().iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
