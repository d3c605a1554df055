"""Arguments of the commands, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from csi_slayer import __version__
from csi_slayer.cache import SegmentKey
from csi_slayer.cache.layout import Layout
from csi_slayer.cli import cache as cache_module
from csi_slayer.cli import control as control_module
from csi_slayer.cli import doctor as doctor_module
from csi_slayer.cli import mount as mount_module
from csi_slayer.cli import umount as umount_module
from csi_slayer.cli.environment import with_credentials
from csi_slayer.cli.machine import Finding
from csi_slayer.cli.main import app
from csi_slayer.cli.options import extra
from csi_slayer.cli.output import failing, size
from csi_slayer.config import MountConfig, load_config
from csi_slayer.errors import ConfigError
from csi_slayer.node import registry
from csi_slayer.node.lock import lock_volume
from csi_slayer.node.registry import Mounted


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    monkeypatch.setattr(registry, "run_directory", lambda: directory)
    return directory


def slayer(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    captured = capfd.readouterr()
    return result.exit_code, result.output + captured.out + captured.err


def test_the_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert slayer(capfd, "--version") == (0, f"{__version__}\n")


def test_nothing_is_no_mount_point(capfd: pytest.CaptureFixture[str]) -> None:
    """It was taken for the directory that the command was called in."""
    assert slayer(capfd, "umount", "") == (
        1, "csi-slayer: say what to unmount: csi-slayer umount /mnt\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "args", [["mount"], ["mount", "s3://bucket"], ["mount", "s3://bucket", ""]]
)
def test_mount_needs_a_source_and_a_place(
    capfd: pytest.CaptureFixture[str], args: list[str]
) -> None:
    status, output = slayer(capfd, *args)
    assert status == 1
    assert "say what to mount and where" in output


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("volume.quota", "expected key=value"),
        ("store.secret_access_key=hush", "secrets do not belong on a command line"),
        ("store.session_token=hush", "secrets do not belong on a command line"),
        ("volume.qouta=1GiB", "volume.quota"),
        ("volume.quota=hush", "volume.quota"),
        ("fuse.disable=passthruogh", "passthrough"),
    ],
)
def test_wrong_options_are_explained_and_no_value_is_repeated(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, option: str, complaint: str
) -> None:
    (tmp_path / "mnt").mkdir()
    status, output = slayer(
        capfd, "mount", f"file://{tmp_path}", str(tmp_path / "mnt"), "-o", option
    )
    assert status == 1
    assert complaint in output
    assert "hush" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_mount_point_is_a_directory(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    cache = str(tmp_path / "cache")
    status, output = slayer(
        capfd, "mount", f"file://{tmp_path}", str(tmp_path / name), "--cache-dir", cache
    )
    assert status == 1
    assert str(tmp_path / name) in output
    assert not Path(cache).exists()


def test_a_mount_point_is_text(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(place)
    status, output = slayer(capfd, "mount", f"file://{tmp_path}/x", os.fsdecode(place))
    assert status == 1
    assert "the mount point: expected UTF-8 text" in output


@pytest.mark.parametrize(
    ("objects", "cache", "what"),
    [
        ("objects", "mnt/cache", "the cache directory"),
        ("objects", "mnt", "the cache directory"),
        ("objects", "link/cache", "the cache directory"),
        ("mnt/objects", "cache", "the directory of objects"),
        ("mnt", "cache", "the directory of objects"),
    ],
)
def test_what_the_worker_needs_is_not_below_the_mount(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, objects: str, cache: str, what: str
) -> None:
    (tmp_path / "mnt" / "objects").mkdir(parents=True)
    (tmp_path / "link").symlink_to("mnt")
    place = str(tmp_path / "mnt")
    where = ("--cache-dir", str(tmp_path / cache))
    status, output = slayer(capfd, "mount", f"file://{tmp_path / objects}", place, *where)
    assert status == 1
    assert what in output
    assert "is below the mount point" in output.replace("\n", " ")


@pytest.mark.parametrize("place", ["/proc", "/dev", "/sys", "{run}", sys.prefix])
def test_what_every_process_needs_is_not_below_the_mount(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, run_directory: Path, place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Over /proc nothing worked any more on the whole machine, umount included."""

    def start(*_: object) -> None:
        raise AssertionError("mounted")

    monkeypatch.setattr(mount_module, "_start", start)
    where = ("--cache-dir", str(tmp_path / "cache"))
    place = place.format(run=run_directory)
    status, output = slayer(capfd, "mount", f"file://{tmp_path}", place, *where)
    assert status == 1
    assert f"is below the mount point {os.path.realpath(place)}" in output.replace("\n", " ")


@pytest.mark.parametrize("mountpoint", ["objects/mnt", "link/deep/mnt"])
def test_the_mount_point_is_not_among_the_objects(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, mountpoint: str
) -> None:
    (tmp_path / "link").symlink_to("objects")
    (tmp_path / "objects").mkdir()
    place = tmp_path / mountpoint
    place.mkdir(parents=True)
    where = ("--cache-dir", str(tmp_path / "cache"))
    status, output = slayer(capfd, "mount", f"file://{tmp_path}/objects", str(place), *where)
    assert status == 1
    assert "is below the directory of objects" in output.replace("\n", " ")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("log.file", "{}/worker.log"),
        ("metrics.listen", "unix:{}/metrics.sock"),
        ("store.ca_bundle", "{}/ca.pem"),
        ("store.web_identity_token_file", "{}/token"),
        ("AWS_CA_BUNDLE", "{}/ca.pem"),
    ],
)
def test_files_that_a_worker_opens_are_not_below_the_mount(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, setting: str, value: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The one that took over after a kill waited for itself when it opened its log."""
    place = tmp_path / "mnt"
    place.mkdir()
    value = value.format(place)
    options = ["-o", f"{setting}={value}", "-o", "store.role_arn=r"]
    if setting.startswith("AWS"):
        monkeypatch.setenv(setting, value)
        options = []
    where = ("--cache-dir", str(tmp_path / "cache"))
    status, output = slayer(capfd, "mount", "s3://bucket", str(place), *where, *options)
    assert status == 1
    assert f"{setting} {place}/" in output.replace("\n", " ")
    assert "is below the mount point" in output.replace("\n", " ")


@pytest.mark.parametrize("cache", ["objects/cache", "objects", "link/cache"])
def test_the_cache_is_not_among_the_objects(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, cache: str
) -> None:
    """Reading all files cached the cache's own, again and again; deleting them took what was
    staged."""
    (tmp_path / "link").symlink_to("objects")
    (tmp_path / "objects").mkdir()
    (tmp_path / "mnt").mkdir()
    where = ("--cache-dir", str(tmp_path / cache))
    objects = f"file://{tmp_path}/objects"
    status, output = slayer(capfd, "mount", objects, str(tmp_path / "mnt"), *where)
    assert status == 1
    output = output.replace("\n", " ")
    assert "the cache directory" in output
    assert "is below the directory of objects" in output


def test_extra_options_are_dotted_keys() -> None:
    assert extra(["volume.quota=1=2", "fuse.disable=splice,xattr"]) == {
        "volume.quota": "1=2",
        "fuse.disable": ["splice", "xattr"],
    }
    assert extra(["fuse.disable=", "store.web_identity_token_file=/t"]) == {
        "fuse.disable": [],
        "store.web_identity_token_file": "/t",
    }
    for key in ("secret_access_key", "session_token", "web_identity_token"):
        with pytest.raises(typer.Exit):
            extra([f"store.{key}=hush"])
    with pytest.raises(typer.Exit):
        extra(["novalue"])


def test_doctor_takes_the_options_of_mount(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = f"file://{tmp_path}"
    _, output = slayer(capfd, "doctor", url, "-o", f"cache.directory={tmp_path}/here")
    assert f"cache directory {tmp_path}/here: " in output
    status, output = slayer(capfd, "doctor", url, "-o", "volume.qouta=1GiB")
    assert status == 1
    assert "did you mean volume.quota?" in output
    status, output = slayer(capfd, "doctor", url, "-o", "fuse.disable=passthru")
    assert status == 1
    assert "did you mean passthrough?" in output
    _, output = slayer(capfd, "doctor", "s3://bucket", "--profile", "nobodys", "--region", "x")
    assert "AWS configuration: " in output
    assert "nobodys" in output


def test_doctor_has_the_credentials_that_mount_has(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key pair in the environment no profile counts, nor the endpoint in it."""
    (tmp_path / "aws").write_text("[default]\nendpoint_url = http://127.0.0.1:1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    tried = []

    async def check(config: MountConfig) -> list[Finding]:
        tried.append(config.store)
        return []

    monkeypatch.setattr(doctor_module, "check_store", check)
    slayer(capfd, "doctor", "s3://bucket", "--cache-dir", str(tmp_path / "cache"))
    (store,) = tried
    assert store.access_key_id == "id"
    assert store.secret_access_key is not None
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ


def test_credentials_leave_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of this user can read the environment of a process."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"value-of-{name}")
    config = with_credentials(load_config(None, {"store.url": "s3://bucket"}))
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    assert "AWS_SESSION_TOKEN" not in os.environ
    assert config.store.access_key_id == "value-of-AWS_ACCESS_KEY_ID"
    secret, token = config.store.secret_access_key, config.store.session_token
    assert secret is not None and token is not None
    assert secret.get_secret_value() == "value-of-AWS_SECRET_ACCESS_KEY"
    assert token.get_secret_value() == "value-of-AWS_SESSION_TOKEN"


def test_files_of_the_environment_are_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    around = {"AWS_CA_BUNDLE": "ca.pem", "AWS_CONFIG_FILE": "~/aws", "SSL_CERT_FILE": "/ca.pem"}
    mount_module._make_absolute(around)
    assert around == {
        "AWS_CA_BUNDLE": f"{tmp_path}/ca.pem",
        "AWS_CONFIG_FILE": "~/aws",
        "SSL_CERT_FILE": "/ca.pem",
    }


def test_what_a_process_began_with_shows_no_credentials() -> None:
    """The process of ``mount --foreground`` stays."""
    script = (
        "from pathlib import Path\n"
        "from csi_slayer.cli.environment import with_credentials\n"
        "from csi_slayer.config import load_config\n"
        "config = with_credentials(load_config(None, {'store.url': 's3://bucket'}))\n"
        "print(config.store.secret_access_key.get_secret_value())\n"
        "print(Path('/proc/self/environ').read_text())\n"
    )
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    around = {**os.environ, **{name: f"value-of-{name}" for name in names}}
    done = subprocess.run(
        [sys.executable, "-c", script], env=around, capture_output=True, text=True, check=True
    )
    secret, _, environment = done.stdout.partition("\n")
    assert secret == "value-of-AWS_SECRET_ACCESS_KEY"
    assert "value-of-AWS_ACCESS_KEY_ID" in environment
    assert "value-of-AWS_SE" not in environment


@pytest.mark.parametrize("name", ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"])
def test_credentials_of_the_environment_are_checked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{each}", "hush\n" if each == name else "fine")
    with pytest.raises(ConfigError, match=f"^AWS_{name}: expected printable ASCII") as caught:
        with_credentials(load_config(None, {"store.url": "s3://bucket"}))
    assert "hush" not in str(caught.value)


def test_configured_credentials_are_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    config = load_config(None, {"store.url": "s3://bucket", "store.profile": "mine"})
    assert with_credentials(config) == config


def test_umount_of_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, output = slayer(capfd, "umount", str(tmp_path))
    assert status == 1
    assert f"{tmp_path} is not mounted" in output


def test_umount_of_what_somebody_else_has_mounted_says_that_it_has_not_waited(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmounted: list[str] = []
    monkeypatch.setattr(umount_module, "is_mounted", lambda path: True)
    monkeypatch.setattr(umount_module.mounts, "unmount", lambda path, lazy: unmounted.append(path))
    status, output = slayer(capfd, "umount", str(tmp_path))
    assert (status, unmounted) == (0, [str(tmp_path)])
    assert "nobody has waited for uploads" in " ".join(output.split())


@pytest.mark.parametrize("seconds", ["-1", "3601"])
def test_no_wait_is_longer_than_a_worker_takes_part_in(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, seconds: str
) -> None:
    assert slayer(capfd, "umount", str(tmp_path), "--timeout", seconds)[0] == 2


def test_status_without_volumes(capfd: pytest.CaptureFixture[str]) -> None:
    assert slayer(capfd, "status") == (0, "no volume is mounted\n")
    assert slayer(capfd, "status", "--json") == (0, "[]\n")


def test_status_of_a_worker_that_does_not_answer(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = str(tmp_path / "state")
    registry.write(
        Mounted("v", "s3://bucket", "/some/where", 1, str(tmp_path / "none"), state, "/cache")
    )
    lock = lock_volume(state)
    status, output = slayer(capfd, "status", "--json")
    assert status == 0
    (volume,) = json.loads(output)
    assert volume["mountpoint"] == "/some/where"
    assert "does not answer" in volume["error"]
    status, output = slayer(capfd, "status", "/some/where/below")
    assert status == 0
    assert "does not answer" in output.replace("\n", "")
    os.close(lock)
    assert slayer(capfd, "status") == (0, "no volume is mounted\n"), "nobody serves it any more"
    assert registry.find("/some/where") is None


@pytest.mark.parametrize("command", ["warm", "status"])
def test_a_path_outside_of_all_volumes(capfd: pytest.CaptureFixture[str], command: str) -> None:
    status, output = slayer(capfd, command, "/some/where")
    assert status == 1
    assert "/some/where is not in a mounted volume" in output


def test_warm_of_more_than_the_cache_keeps(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"files": 3, "bytes": 6 << 20, "failed": 0, "total_files": 3, "total_bytes": 6 << 20}
    registry.write(Mounted("v", "s3://b", "/mnt", 1, "/control", "/state", "/cache"))
    for capacity, wanted in ((4 << 20, 1), (6 << 20, 0)):
        answers = [{**done, "capacity": capacity}]
        monkeypatch.setattr(control_module, "ask", lambda *_, told=answers, **__: iter(told))
        status, output = slayer(capfd, "warm", "/mnt")
        assert status == wanted
        assert ("6.0 MiB are in the cache" in output) != wanted
        assert ("of which the cache keeps no more than 4.0 MiB" in output) == wanted


def test_cache_commands(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ("--cache-dir", str(tmp_path / "cache"))
    Layout(tmp_path / "cache")
    status, output = slayer(capfd, "cache", "usage", "--json", *where)
    assert status == 0
    assert json.loads(output)["segments"] == 0
    assert slayer(capfd, "cache", "evict", *where)[0] == 0
    assert slayer(capfd, "cache", "verify", *where)[0] == 0


@pytest.mark.parametrize("command", ["usage", "evict", "verify"])
def test_a_cache_that_does_not_exist_is_not_made(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    status, output = slayer(capfd, "cache", command, "--cache-dir", str(tmp_path / "mistyped"))
    assert status == 1
    assert "does not exist" in output
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize("command", ["usage", "evict", "verify"])
def test_a_cache_that_cannot_be_looked_at(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """As below a home directory that is another user's: any error but that nothing is there."""
    monkeypatch.setattr(cache_module, "default_cache_directory", lambda: tmp_path / ("n" * 300))
    status, output = slayer(capfd, "cache", command)
    assert status == 1
    assert output.endswith("n: File name too long\n")


@pytest.mark.parametrize("command", ["usage", "evict", "verify"])
def test_an_empty_directory_does_not_become_a_cache(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "empty").mkdir()
    status, output = slayer(capfd, "cache", command, "--cache-dir", str(tmp_path / "empty"))
    assert status == 1
    assert "is empty: no volume has cached anything there" in output
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_foreign_directory_is_no_cache(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").touch()
    status, output = slayer(capfd, "cache", "evict", "--cache-dir", str(tmp_path / "foreign"))
    assert status == 1
    assert "thesis.txt" in output
    assert (tmp_path / "foreign" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("wrong"), 1), (KeyboardInterrupt(), 130)]
)
def test_failures_are_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    with pytest.raises(typer.Exit) as caught, failing():
        raise error
    assert caught.value.exit_code == status
    assert len(capsys.readouterr().err.splitlines()) == 1


@given(st.integers(0, 1 << 60))
def test_sizes_are_short(number: int) -> None:
    text, unit = size(number).split()
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert abs(float(text) * factor - number) <= 0.051 * factor
    assert unit == "TiB" or float(text) <= 1024


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_whose_secrets_others_can_read_is_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: int
) -> None:
    file = tmp_path / "my volume.yaml"
    file.write_text(
        f"store: {{url: 'file://{tmp_path}', access_key_id: AKIA, secret_access_key: hunter2}}\n"
    )
    file.chmod(mode)
    _status, said = slayer(capfd, "doctor", "--config", str(file))
    assert "answers and can be listed" in said  # the warning is no reason to stop
    lines = [line for line in said.splitlines() if "warning" in line]
    assert lines == [] if mode == 0o600 else len(lines) == 1
    for line in lines:
        assert f"{file} holds store.secret_access_key and can be read by others" in line
        assert line.endswith(f"chmod 600 '{file}'")
    assert "hunter2" not in said


def test_a_cache_that_takes_too_long_to_count_is_said_to_be_larger(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "COUNT_TIME", 0.0)
    cache = cache_module.Cache(tmp_path / "cache", 1 << 30)
    assert cache.store_small(SegmentKey("0" * 32), b"x")
    cache.close()
    status, said = slayer(capfd, "cache", "usage", "--cache-dir", str(tmp_path / "cache"))
    assert status == 0
    assert "at least 0 B cached in 0 segments (counted for 0 s)" in said
