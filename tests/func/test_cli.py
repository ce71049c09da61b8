# SPDX-License-Identifier: Apache-2.0
"""The frame of the command line: verbs, help, options, configuration files and their errors."""

import json
import os
import subprocess

import pytest

from nobody import NOBODY, open_kvick  # noqa: F401 (a fixture)

OK, START, USAGE = 0, 1, 2


def run(kvick, *args, **kwargs):
    """Run kvick to its end, without input."""
    return subprocess.run(
        [kvick, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **kwargs,
    )


def fails(result, status, *texts):
    """The command failed with this status and one line on stderr that has these texts."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("kvick")
    for text in texts:
        assert text in result.stderr
    return result.stderr


def verbs(kvick):
    """The verbs that the help lists."""
    lines = run(kvick, "help").stdout.split("verbs:\n", 1)[1].splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]


def test_version(kvick):
    result = run(kvick, "--version")
    assert result.returncode == OK
    name, version = result.stdout.split()
    assert name == "kvick"
    assert [part.isdigit() for part in version.split(".")] == [True] * 3


def test_no_verb(kvick):
    fails(run(kvick), USAGE, "kvick: a verb is missing", "kvick help")


@pytest.mark.parametrize("spelling", ["help", "--help", "-h"])
def test_help(kvick, spelling):
    result = run(kvick, spelling)
    assert result.returncode == OK
    assert result.stderr == ""
    assert result.stdout.startswith("usage: kvick VERB")
    for verb in ("run", "image", "doctor", "bench"):
        assert verb in verbs(kvick)


def test_help_of_verbs(kvick):
    for verb in verbs(kvick):
        result = run(kvick, "help", verb)
        assert result.returncode == OK, verb
        assert result.stderr == ""
        assert f"usage: kvick {verb}" in result.stdout
        assert "--help" in result.stdout
        assert result.stdout == run(kvick, verb, "--help").stdout
        assert max(len(line) for line in result.stdout.splitlines()) <= 100


def test_help_of_part(kvick):
    """A verb made of verbs shows all of them; each can be asked for alone."""
    whole = run(kvick, "help", "image")
    part = run(kvick, "help", "image", "info")
    assert part.returncode == OK
    assert part.stdout.startswith("usage: kvick image info")
    assert part.stdout in whole.stdout


def test_help_of_run(kvick):
    text = run(kvick, "help", "run").stdout
    for option in (
        "append boot-protocol boot-timer config-file cpus id image-map initrd legacy memory "
        "serial symbols timeline"
    ).split():
        assert f"--{option}" in text
    for status in ("128+N", "  6 ", "  5 ", "  4 ", "  3 "):
        assert status in text


def test_help_cannot_be_written(kvick):
    for args in (["help"], ["help", "run"], ["--version"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = subprocess.run(
                [kvick, *args], stdout=full, stderr=subprocess.PIPE, timeout=20, check=False
            )
        assert result.returncode == START, args
        assert result.stderr == f"kvick {args[0]}: cannot write to standard output\n".encode()


def test_unknown_verb(kvick):
    fails(run(kvick, "docter"), USAGE, 'unknown verb "docter"; did you mean "doctor"?')
    fails(run(kvick, "help", "rnu"), USAGE, 'did you mean "run"?')
    assert "did you mean" not in fails(run(kvick, "teleport"), USAGE, 'unknown verb "teleport"')
    fails(run(kvick, "image", "inof"), USAGE, "kvick image:", 'did you mean "info"?')
    fails(run(kvick, "image"), USAGE, "kvick image: a verb is missing")
    fails(run(kvick, "--memory", "1G"), USAGE, "unknown option --memory")
    fails(run(kvick, "help", "image", "info", "now"), USAGE, 'unexpected argument "now"')
    fails(run(kvick, ""), USAGE, 'unknown verb ""')


RUN_BAD = [
    (["--memroy", "1G", "k"], "unknown option --memroy; did you mean --memory?"),
    (["--memroy=1G", "k"], "unknown option --memroy; did you mean --memory?"),
    (["--cpu", "1", "k"], "unknown option --cpu; did you mean --cpus?"),
    (["--mem", "1G", "k"], "unknown option --mem"),
    (["--frobnicate", "k"], "unknown option --frobnicate (see"),
    (["-m", "1G", "k"], "unknown option -m"),
    (["--" + "x" * 3000, "k"], "unknown option --xxx"),
    (["--", "--memory"], None),
    (["k", "--memory"], "option --memory needs an argument: --memory SIZE"),
    (["--boot-timer=on", "k"], "option --boot-timer takes no argument"),
    (["--cpus", "1", "--cpus", "2", "k"], "option --cpus is given more than once"),
    (["k", "l"], 'unexpected argument "l"'),
    (["--memory", "12Q", "k"], '--memory: "12Q" is not a size; give a number with K, M, G'),
    (["--memory=8M", "k"], '--memory: "8M" is out of range; give from 16M to'),
    (["--memory=", "k"], '--memory: "" is not a size'),
    (["--memory", "20000001", "k"], "is not a multiple of 4K"),
    (["--cpus", "0", "k"], '--cpus: "0" is not a number of CPUs; give 1 to 254'),
    (["--cpus", "-1", "k"], '--cpus: "-1" is not a number of CPUs'),
    (["--image-map", "steal", "k"], '"steal" is not allowed; give share or copy'),
    (["--boot-protocol", "bios", "k"], '"bios" is not allowed; give auto, pvh or linux'),
    (["--legacy", "maybe", "k"], '"maybe" is not allowed; give auto, off or on'),
    (["--serial", "com1", "k"], '"com1" is not allowed; give stdio, none, file:PATH'),
    (["--serial", "unix:" + "x" * 108, "k"], "at most 107 bytes are allowed"),
    (["--id", "a b", "k"], '"a b" is not an id'),
    (["--id", "x" * 65, "k"], "1 to 64 letters"),
    (["--append", "x" * 65536, "k"], "65536 bytes is too long; at most 65535 are allowed"),
    (["--initrd", "", "k"], "--initrd: the path is empty"),
    ([*["--initrd=i"] * 17, "k"], "one file too many; at most 16 are allowed"),
    ([], "no kernel is given"),
]


@pytest.mark.parametrize("args, text", RUN_BAD, ids=range(len(RUN_BAD)))
def test_run_usage(kvick, args, text):
    result = run(kvick, "run", *args)
    if text is None:
        # "--memory" is the kernel's name here.
        fails(result, START, "kvick run: ", "--memory", "No such file")
    else:
        fails(result, USAGE, "kvick run: ", text)


def test_options_in_any_place(kvick, tmp_path):
    """Options may follow the kernel, and both ways of giving a value work."""
    kernel = str(tmp_path / "no-kernel")
    for args in (
        [kernel, "--memory", "64M", "--cpus=2"],
        ["--memory=64M", kernel, "--cpus", "2"],
        ["--memory=64M", "--cpus", "2", "--", kernel],
    ):
        fails(run(kvick, "run", *args), START, kernel, "No such file")


def test_line_is_checked_before_files(kvick, tmp_path):
    """A wrong option is told even when a file named before it is missing."""
    fails(
        run(kvick, "run", "--config-file", str(tmp_path / "none"), "--oops", "k"),
        USAGE,
        "unknown option --oops",
    )


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return str(path)


def test_config_overridden(kvick, tmp_path):
    """Options go on top of the file wherever they stand."""
    config = write(
        tmp_path / "vm.json", {"boot-source": {"kernel_image_path": str(tmp_path / "from-file")}}
    )
    kernel = str(tmp_path / "from-line")
    fails(run(kvick, "run", "--config-file", config), START, "from-file", "No such file")
    for args in ([kernel, "--config-file", config], [f"--config-file={config}", kernel]):
        fails(run(kvick, "run", *args), START, "from-line", "No such file")


def test_config_without_kernel(kvick, tmp_path):
    config = write(tmp_path / "vm.json", {"machine-config": {"vcpu_count": 1, "mem_size_mib": 64}})
    fails(run(kvick, "run", "--config-file", config), USAGE, "no kernel is given")


def test_config_against_itself(kvick, tmp_path):
    """Fields that do not go together are the file's mistake, or the line's that brought one of them."""
    memory = {"size": "64M", "backing": "memfd"}
    own = {"memory": memory, "mem_devices": [{"max": "128M"}]}
    content = {"boot-source": {"kernel_image_path": str(tmp_path)}, "kvick": own}
    good = write(tmp_path / "good.json", content)
    memory["mlock"] = True
    bad = write(tmp_path / "bad.json", content)
    text = "mem-device: it does not go with mlock=on of memory"
    fails(run(kvick, "run", "--config-file", bad), START, f"{bad}: {text}")
    fails(run(kvick, "run", "--config-file", bad, "--memory", "64M,mlock=off"), START, "a directory")
    line = ("--memory", "64M,mlock=on")
    assert good not in fails(run(kvick, "run", "--config-file", good, *line), USAGE, text)


def test_config_memory_against_itself(kvick, tmp_path):
    """What the file says of memory must go together as it stands, whatever the line adds."""
    bad = write(
        tmp_path / "bad.json",
        f'{{"boot-source": {{"kernel_image_path": "{tmp_path}"}},\n'
        '"kvick": {\n"memory": {"size": "64M", "backing": "memfd", "merge": true}}}',
    )
    text = f"{bad}:3: kvick.memory: merge=on needs private memory"
    fails(run(kvick, "run", "--config-file", bad), START, text)
    fails(run(kvick, "run", "--config-file", bad, "--memory", "64M,backing=anon"), START, text)


def test_config_memory_kept(kvick, tmp_path):
    """--memory replaces the size and the keys that it has; huge pages that the file wants stay wanted."""
    source = {"kernel_image_path": str(tmp_path)}
    machine = {"vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "2M"}
    own = {"memory": {"size": "64M", "backing": "hugetlb-2m"}}
    for name, content in (
        ("machine.json", {"boot-source": source, "machine-config": machine}),
        ("own.json", {"boot-source": source, "kvick": own}),
    ):
        config = write(tmp_path / name, content)
        for memory in ("65M", "65M,populate=full"):
            text = "memory: with backing=hugetlb-2m the size must be a multiple of 2M"
            fails(run(kvick, "run", "--config-file", config, "--memory", memory), USAGE, text)
        for memory in ("66M", "65M,backing=anon", "64M,numa=0"):
            fails(run(kvick, "run", "--config-file", config, "--memory", memory), START, "a directory")


CONFIG_BAD = [
    ("", [":1:"]),
    ("{", [":1:"]),
    ('{"boot-source": {}}', [":1: boot-source: the field kernel_image_path is missing"]),
    (
        '{"boot-source":\n {"kernel_image_path": "k",\n  "kernel_args": "x"}}',
        [":3: boot-source.kernel_args: unknown field", "boot_args"],
    ),
    (
        '{"machine-config": {"vcpu_count": 1,\n "mem_size_mib": 8}}',
        [":2: machine-config.mem_size_mib: 8 MiB is out of range; give from 16M"],
    ),
    (
        '{"drives": [{"drive_id": "root", "is_root_device": true}]}',
        ["drives[0]: the field path_on_host is missing"],
    ),
    (
        '{"vsock": {"guest_cid": 3}}',
        ["vsock: this version of kvick does not offer 'vsock'"],
    ),
    ('{"kvick": {"memory": "much"}}', ['kvick.memory: "much" is not a size']),
    ('{"kvick": {"id": "a"},\n "kvick": {}}', [":2:", "duplicate object key"]),
    ('{"kvick": {"serial": "\x1b[2J"}}', [":1:"]),
    ('{"kvick": {"serial": "\\u001b[2J"}}', ['kvick.serial: "?[2J" is not allowed']),
    ("[" * 100000, [":1:"]),
    (" " * (1024 * 1024 + 1), ["larger than 1 MiB"]),
]


@pytest.mark.parametrize("content, texts", CONFIG_BAD, ids=range(len(CONFIG_BAD)))
def test_config_bad(kvick, tmp_path, content, texts):
    config = write(tmp_path / "vm.json", content)
    text = fails(run(kvick, "run", "--config-file", config), START, config, *texts)
    assert "\x1b" not in text


def test_config_not_readable(kvick, tmp_path):
    missing = str(tmp_path / "none.json")
    fails(run(kvick, "run", "--config-file", missing), START, missing, "No such file")
    fails(run(kvick, "run", "--config-file", str(tmp_path)), START, "Is a directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_config_permission(open_kvick, tmp_path):
    config = write(tmp_path / "vm.json", "{}")
    os.chmod(config, 0o600)
    fails(
        run(open_kvick, "run", "--config-file", config, **NOBODY),
        START,
        config,
        "Permission denied",
    )


def test_missing_initrd(kvick, tmp_path):
    """Errors name the file that they are about."""
    kernel = write(tmp_path / "kernel", "not a kernel")
    fails(run(kvick, "run", kernel), START, kernel)
    fails(run(kvick, "run", str(tmp_path)), START, str(tmp_path))
