"""Records on the disk: what is written is read, what is damaged is left out."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import ConfigError
from csi_slayer.node.records import Places, Record, Target, WorkerMark, boot_id, mark, public
from csi_slayer.node.requests import Pod


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "run", tmp_path / "cache")
    made.make()
    return made


def record(name: str = "a" * 16) -> Record:
    return Record(
        mount_id=name,
        volume_id="volume",
        identity="driver",
        config={"store": {"url": "s3://bucket"}},
        labels={"claim": "data"},
        targets={
            "/a": Target(("noexec", "ro"), Pod("pod", "team", "uid")),
            "/b": Target(),
        },
        worker=WorkerMark(42, 4711),
        connection=55,
    )


def test_what_is_written_is_read(places: Places) -> None:
    places.write(record())
    (found,) = places.read()
    assert found == record()
    assert found.boot == boot_id()
    places.forget(found.mount_id)
    places.forget(found.mount_id)
    assert list(places.read()) == []


def test_a_name_is_written_after_its_content(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss may leave the name alone otherwise, and nobody knew whose the uploads are."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    places.write(record())
    assert [(Path(path).suffix, Path(path).exists()) for path in synced] == [(".tmp", False)]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"mount_id": "x"}', json.dumps({**record().to_json(), "targets": 5}),
     json.dumps({**record().to_json(), "mount_id": "../../etc"}),
     json.dumps({**record().to_json(), "worker": {"pid": 1}}),
     json.dumps({**record().to_json(), "changes": "many"})],
)  # fmt: skip
def test_a_damaged_one_is_removed(places: Places, content: str) -> None:
    (places.records / "x.json").write_text(content)
    places.write(record())
    assert [found.mount_id for found in places.read()] == ["a" * 16]
    assert [path.name for path in places.records.iterdir()] == ["a" * 16 + ".json"]


def test_what_cannot_be_read_stays(places: Places) -> None:
    """A descriptor may be short for a moment, or somebody has put a directory there."""
    (places.records / "b.json").mkdir()
    places.write(record())
    assert list(places.read()) == [record()]
    assert (places.records / "b.json").is_dir()


def test_where_one_cannot_be_written_the_earlier_one_stays(places: Places) -> None:
    places.write(record())
    in_the_way = places.records / ("a" * 16 + ".tmp")
    in_the_way.mkdir()
    places.write(dataclasses.replace(record(), connection=56))
    in_the_way.rmdir()
    assert list(places.read()) == [record()]


def test_a_copy_is_its_own() -> None:
    first = record()
    copied = first.copy()
    first.targets.clear()
    assert set(copied.targets) == {"/a", "/b"}


def test_a_process_is_known_by_its_start() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        first = mark(process.pid)
        assert first == mark(process.pid)
        assert first != mark(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert mark(process.pid) is None, "ended, though nobody waited for it"
    assert mark(process.pid) is None


def test_directories_are_private_and_without_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    config = DriverConfig.model_validate(
        {"node": {"run_directory": str(tmp_path / "link"), "name": "n"},
         "cache": {"directory": str(tmp_path / "cache")}}
    )  # fmt: skip
    places = Places.of(config)
    places.make()
    assert places.mountpoint("x") == str(tmp_path / "real/mounts/x")
    assert (tmp_path / "real/mounts").stat().st_mode & 0o777 == 0o700


def config(**store: str) -> MountConfig:
    return MountConfig.model_validate({"store": {"url": "s3://bucket", **store}})


def test_what_is_kept_of_a_configuration_has_no_credentials() -> None:
    full = config(access_key_id="AKIA", secret_access_key="very-secret", region="eu")
    kept = public(full)
    assert "very-secret" not in json.dumps(kept)
    found = MountConfig.understood(kept)
    assert found.store.region == "eu"
    assert found.store.access_key_id is None
    assert found.volume == full.volume


def test_a_configuration_of_a_later_version_is_understood() -> None:
    data = json.loads(config(region="eu").to_spec())
    data["later"] = {"x": 1}
    data["volume"]["later"] = True
    assert MountConfig.understood(json.dumps(data).encode()) == config(region="eu")


def test_what_a_later_version_takes_no_more_of_a_configuration_is_named() -> None:
    data = json.loads(config(region="eu").to_spec())
    data["cache"]["capacity"] = 1000
    data["store"]["region"] = ["secret"]
    with pytest.raises(ConfigError) as refused:
        MountConfig.understood(data)
    text = str(refused.value)
    assert "another version's: cache.capacity: input should be greater" in text
    assert "another version's: store.region" in text
    assert "1000" not in text
    assert "secret" not in text
    with pytest.raises(ConfigError, match="JSONDecodeError"):
        MountConfig.understood(b"no JSON")


def test_a_record_of_a_later_version_is_understood() -> None:
    data = json.loads(json.dumps(record().to_json()))
    data["later"] = data["worker"]["later"] = data["targets"]["/a"]["later"] = 1
    data["targets"]["/a"]["pod"]["later"] = 1
    assert Record.from_json(data) == record()


def test_targets_of_an_earlier_version_have_an_unknown_access_mode() -> None:
    data = record().to_json()
    for target in data["targets"].values():
        del target["exclusive"]
    assert [it.exclusive for it in Record.from_json(data).targets.values()] == [None, None]
