"""What a worker is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi_slayer.config import MountConfig, load_config
from csi_slayer.content.options import Live
from csi_slayer.errors import ConfigError
from csi_slayer.observability.metrics import Metrics
from csi_slayer.worker.events import Events
from csi_slayer.worker.spec import (
    WorkerSpec,
    content_options,
    live_options,
    state_directory,
    store_options,
    vfs_options,
    volume_id,
)

BASE = {"store.url": "s3://bucket/prefix", "cache.directory": "/cache"}


def test_a_spec_survives_its_message() -> None:
    spec = WorkerSpec("volume", "/mnt", "/run/x.sock", "{}")
    assert WorkerSpec.from_message(spec.to_message()) == spec
    with pytest.raises(ConfigError):
        WorkerSpec.from_message({})


def test_a_spec_of_a_later_version_is_understood() -> None:
    """Its supervisor starts the next worker with the program that is then installed."""
    spec = WorkerSpec("volume", "/mnt", "/run/x.sock", "{}")
    assert WorkerSpec.from_message({**spec.to_message(), "more": 1}) == spec


def test_a_volume_is_known_again_by_its_place() -> None:
    config = load_config(None, BASE)
    volume = volume_id(config, "/mnt")
    assert volume == volume_id(load_config(None, {**BASE, "volume.durability": "fsync"}), "/mnt")
    slash = load_config(None, {**BASE, "store.url": "s3://bucket/prefix/"})
    assert volume == volume_id(slash, "/mnt")
    others = {
        volume_id(config, "/mnt2"),
        volume_id(load_config(None, {**BASE, "store.url": "s3://bucket/prefix/deep"}), "/mnt"),
        volume_id(load_config(None, {**BASE, "store.url": "s3://bucket"}), "/mnt"),
        volume_id(load_config(None, {**BASE, "store.endpoint": "http://localhost:1"}), "/mnt"),
    }
    assert volume not in others
    assert len(others) == 4
    assert state_directory(config, volume) == Path("/cache/volumes") / volume


def test_only_read_only_volumes_do_without_upcalls() -> None:
    config = load_config(None, BASE)
    assert not vfs_options(config, live_options(config)).zero_upcall
    config = load_config(None, {**BASE, "volume.read_only": True})
    assert vfs_options(config, live_options(config)).zero_upcall
    for name, value in (("close_to_open", True), ("open_wait", "5s"), ("zero_upcall", False)):
        config = load_config(None, {**BASE, "volume.read_only": True, f"volume.{name}": value})
        assert not vfs_options(config, live_options(config)).zero_upcall


def test_an_empty_secret_is_not_the_wish_to_have_another_identity() -> None:
    keys = {"store.access_key_id": "AKIA", "store.secret_access_key": ""}
    token = {"store.web_identity_token": "", "store.role_arn": "arn:r"}
    for wrong in (keys, token):
        with pytest.raises(ConfigError, match="empty"):
            store_options(load_config(None, {**BASE, **wrong}), Events(Metrics()))
    given = {**keys, "store.secret_access_key": "x", "store.session_token": ""}
    options = store_options(load_config(None, {**BASE, **given}), Events(Metrics()))
    assert options.credentials.session_token is None


def test_the_worker_knows_whose_credentials_are_not_for_it() -> None:
    for ambient in (True, False):
        config = load_config(None, {**BASE, "store.ambient": ambient})
        config = MountConfig.from_spec(config.to_spec())
        assert store_options(config, Events(Metrics())).credentials.ambient is ambient


def test_no_wait_of_the_store_is_longer_than_that_of_a_reader() -> None:
    config = load_config(None, {**BASE, "volume.io_timeout": 7, "store.retry_deadline": 60})
    assert store_options(config, Events(Metrics())).retry_deadline == 7
    assert content_options(config, "v", "t", Live()).write_timeout == 7
