"""What the doctor finds out about kernel, FUSE, permissions and what is installed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from csi_slayer.cli import machine
from csi_slayer.cli.machine import Finding
from csi_slayer.config import load_config
from csi_slayer.fuse import fusermount

SETUID = 0o104755
PLAIN = 0o100755


def levels(findings: list[Finding]) -> list[str]:
    for finding in findings:
        assert finding.level == "ok" or finding.mend, f"nothing to do about: {finding.text}"
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("release", "level"),
    [
        ("6.9.0", "ok"),
        ("6.18.3-amd64", "ok"),
        ("10.0-rc1", "ok"),
        ("6.8.12-generic", "note"),
        ("5.15.0-101-generic", "note"),
        ("5.4.0-216-generic", "note"),
        ("5.3.18", "bad"),
        ("4.19.0", "bad"),
    ],
)
def test_kernels(release: str, level: str) -> None:
    assert levels(list(machine.check_kernel(release))) == [level]


def test_the_device_is_missing(tmp_path: Path) -> None:
    assert levels(list(machine.check_fuse(str(tmp_path / "fuse")))) == ["bad"]
    (tmp_path / "there").touch()
    assert levels(list(machine.check_fuse(str(tmp_path / "there")))) == ["ok"]


def test_privileges_are_found() -> None:
    assert len(levels(list(machine.check_privileges()))) == 1


class Machine:
    """What the checks of privileges look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.capabilities = "0000000000000000"
        self.no_new_privileges = 0
        self.users: str | None = "0 0 4294967295"
        self.user = 1000
        self.helper: int | None = SETUID
        conf = directory / "fuse.conf"
        conf.write_text("#user_allow_other\n")
        self.conf = conf
        read_text, stat = Path.read_text, os.stat

        def read(path: Path, **how: str) -> str:
            if str(path) == "/proc/self/status":
                nnp = self.no_new_privileges
                return f"Name:\tpython\nCapEff:\t{self.capabilities}\nNoNewPrivs:\t{nnp}\n"
            if str(path) == "/proc/self/uid_map":
                if self.users is None:
                    raise FileNotFoundError
                return self.users
            return read_text(path, **how)

        def find(_name: str) -> str | None:
            return None if self.helper is None else "/bin/true"

        def look(path: str, **how: bool) -> os.stat_result:
            found = stat(path, **how)
            if path != "/bin/true" or self.helper is None:
                return found
            return os.stat_result((self.helper, *found[1:4], 0, *found[5:]))

        monkeypatch.setattr(Path, "read_text", read)
        monkeypatch.setattr(shutil, "which", find)
        monkeypatch.setattr(os, "stat", look)
        monkeypatch.setattr(os, "geteuid", lambda: self.user)
        monkeypatch.setattr(fusermount, "CONFIGURATION", str(conf))


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_root_may_mount(around: Machine) -> None:
    around.user, around.capabilities = 0, "000001ffffffffff"
    assert levels(list(machine.check_privileges())) == ["ok"]
    around.users = None  # a kernel without user namespaces
    assert levels(list(machine.check_privileges())) == ["ok"]


def test_root_of_a_user_namespace_has_no_passthrough(around: Machine) -> None:
    """The kernel asks for the machine's own CAP_SYS_ADMIN when a file is backed by another."""
    around.user, around.capabilities, around.users = 0, "000001ffffffffff", "0 1000 1"
    (finding,) = machine.check_privileges()
    assert levels([finding]) == ["note"]
    assert "user namespace" in finding.text


def test_root_without_the_capability_is_not_told_to_become_root(around: Machine) -> None:
    around.user = 0
    (finding,) = machine.check_privileges()
    assert levels([finding]) == ["bad"]
    assert "sudo" not in finding.mend
    assert "CAP_SYS_ADMIN" in finding.mend


def test_a_user_needs_a_helper(around: Machine) -> None:
    (finding,) = machine.check_privileges()
    assert levels([finding]) == ["note"]
    assert "fusermount3 mounts" in finding.text
    around.helper = None
    (finding,) = machine.check_privileges()
    assert levels([finding]) == ["bad"]
    assert "install fuse3" in finding.mend


def test_a_helper_without_rights_mounts_nothing(around: Machine) -> None:
    around.helper = PLAIN
    (finding,) = machine.check_privileges()
    assert levels([finding]) == ["bad"]
    assert "not set-uid" in finding.text
    assert "chmod u+s" in finding.mend


def test_a_helper_that_may_get_no_rights_mounts_nothing(around: Machine) -> None:
    around.no_new_privileges = 1
    (finding,) = machine.check_privileges()
    assert levels([finding]) == ["bad"]
    assert "no_new_privs" in finding.text


def test_letting_others_in_needs_a_line(around: Machine) -> None:
    assert levels(list(machine.check_privileges(allow_other=True))) == ["note", "bad"]
    around.conf.unlink()
    assert levels(list(machine.check_privileges(allow_other=True))) == ["note", "bad"]
    around.conf.write_text("mount_max = 10\n user_allow_other \n")
    assert levels(list(machine.check_privileges(allow_other=True))) == ["note"]


@pytest.mark.parametrize(
    ("number", "user", "mend"),
    [
        (errno.ENODEV, 0, "modprobe fuse"),
        (errno.ENXIO, 1000, "modprobe fuse"),
        (errno.EPERM, 0, "--device"),
        (errno.EACCES, 1000, "chmod 666"),
    ],
)
def test_a_device_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, number: int, user: int, mend: str
) -> None:
    def refuse(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    (finding,) = machine.check_fuse("/dev/fuse")
    assert levels([finding]) == ["bad"]
    assert mend in finding.mend


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [
        ({"fuse.engine": "pyfuse3"}, "pyfuse3", "[pyfuse3]"),
        ({"tracing.endpoint": "http://127.0.0.1:4318/v1/traces"}, "opentelemetry", "[otel]"),
    ],
)
def test_what_the_configuration_asks_for_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], module: str, extra: str
) -> None:
    def find(name: str) -> None:
        assert name.partition(".")[0] == module
        if "." in name:
            raise ModuleNotFoundError(module)

    monkeypatch.setattr(machine, "find_spec", find)
    config = load_config(None, {"store.url": "file:///srv"} | options)
    (finding,) = machine.check_parts(config)
    assert levels([finding]) == ["bad"]
    assert extra in finding.mend
    assert list(machine.check_parts(load_config(None, {"store.url": "file:///srv"}))) == []
