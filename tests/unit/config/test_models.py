"""Defaults and rules of the configuration models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from csi_slayer.config import (
    CacheConfig,
    Durability,
    MountConfig,
    StoreConfig,
    VolumeConfig,
    describe_fields,
    load_config,
)
from csi_slayer.config.node import default_cache_capacity, default_cache_directory
from csi_slayer.errors import ConfigError

SECRET = "hush/Hush+hush"


def _problem(**options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"store.url": "s3://bucket"} | options)
    return str(caught.value)


def test_only_the_url_is_required() -> None:
    config = load_config(None, {"store.url": "s3://bucket"})
    assert config.volume.durability is Durability.CLOSE
    assert (config.volume.metadata_ttl, config.volume.zero_upcall) == (10.0, True)
    assert (config.volume.file_mode, config.volume.dir_mode) == (0o644, 0o755)
    assert config.volume.uid == os.getuid()
    assert config.volume.part_size == 16 * 2**20
    assert config.metrics.listen is None
    assert _problem(**{"store.url": None}) == "option: store.url: required, but not set"


def test_readers_trust_names_longer_unless_told_otherwise() -> None:
    assert VolumeConfig(read_only=True).metadata_ttl == 3600.0
    assert VolumeConfig(read_only=True, metadata_ttl=5).metadata_ttl == 5.0


@pytest.mark.parametrize(
    ("url", "scheme", "bucket", "prefix"),
    [
        ("s3://bucket", "s3", "bucket", ""),
        ("s3://bucket/", "s3", "bucket", ""),
        ("s3://bucket/a/b", "s3", "bucket", "a/b/"),
        ("s3://bucket/a/", "s3", "bucket", "a/"),
        ("s3://bucket/a?b#c%20", "s3", "bucket", "a?b#c%20/"),
        ("file:///srv/data", "file", "", ""),
    ],
)
def test_urls(url: str, scheme: str, bucket: str, prefix: str) -> None:
    store = StoreConfig(url=url)
    assert (store.scheme, store.bucket, store.prefix) == (scheme, bucket, prefix)
    if scheme == "file":
        assert store.directory == Path("/srv/data")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("bucket", "expected s3://bucket/prefix or file:///directory"),
        ("http://host/bucket", "expected s3://bucket/prefix or file:///directory"),
        ("s3:///key", "the bucket is missing"),
        ("file://relative", "expected an absolute directory"),
        ("s3://bucket//", "the prefix: expected names with single slashes"),
        ("s3://bucket//data", "the prefix: expected names with single slashes"),
        ("s3://bucket/a//b", "the prefix: expected names with single slashes"),
        ("s3://bucket/a/../b", "the prefix: expected names with single slashes"),
        ("s3://bucket/./b/", "the prefix: expected names with single slashes"),
        ("s3://bucket/\0", "a NUL character cannot be part of it"),
        ("s3://bucket/\udcff", "expected UTF-8 text"),
        (f"s3://AKIA:{SECRET}@bucket", "a bucket's name has letters"),
        (f"s3://{SECRET.replace('/', '')}@bucket", "credentials do not belong in the URL"),
    ],
)
def test_bad_urls(url: str, expected: str) -> None:
    message = _problem(**{"store.url": url})
    assert message.startswith("option: store.url: ")
    assert expected in message
    assert "ush" not in message


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://ho\nst",
        "http://h\u0430",
        "host:9000",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://u:p@host",
        "http://h?x=1",
    ],
)
def test_bad_endpoints(endpoint: str) -> None:
    assert "option: store.endpoint: expected" in _problem(**{"store.endpoint": endpoint})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"access_key_id": "a"}, "belong together"),
        ({"secret_access_key": SECRET}, "belong together"),
        ({"session_token": SECRET}, "session_token needs"),
        ({"web_identity_token_file": "/t"}, "needs role_arn"),
        ({"web_identity_token": SECRET}, "needs role_arn"),
        ({"web_identity_token": SECRET, "web_identity_token_file": "/t", "role_arn": "r"}, "excl"),
        ({"anonymous": True, "web_identity_token": SECRET, "sts_endpoint": "http://s"}, "excl"),
        ({"anonymous": True, "profile": "p"}, "anonymous excludes"),
        ({"region": "eu/1"}, "store.region: expected letters"),
        ({"kms_key_id": "k"}, "kms_key_id needs encryption"),
        ({"kms_key_id": "k", "encryption": "AES256"}, "kms_key_id needs encryption"),
        ({"kms_key_id": "k\n", "encryption": "aws:kms"}, "store.kms_key_id: expected print"),
        ({"encryption": "rot13"}, "store.encryption"),
        ({"storage_class": "cold"}, "store.storage_class: expected a name"),
        ({"storage_class": "DEEP_ARCHIVE"}, "cannot be read before they are restored"),
        ({"bucket_owner": "me"}, "store.bucket_owner: expected the twelve digits"),
        ({"proxy": "https://h:1"}, "store.proxy: expected an http:// URL"),
        ({"proxy": "http://u:p@h:1"}, "store.proxy: expected just scheme"),
        (
            {"access_key_id": "A\u0410", "secret_access_key": SECRET},
            "access_key_id: expected print",
        ),
        ({"access_key_id": "A", "secret_access_key": SECRET + "\n"}, "secret_access_key: expected"),
        (
            {"access_key_id": "A", "secret_access_key": SECRET, "session_token": "a b"},
            "_token: exp",
        ),
    ],
)
def test_identities_that_make_no_sense(options: dict[str, object], expected: str) -> None:
    message = _problem(**{f"store.{name}": value for name, value in options.items()})
    assert expected in message
    assert SECRET not in message


def test_secrets_show_nowhere_but_in_the_spec() -> None:
    config = load_config(
        None,
        {
            "store.url": "s3://bucket",
            "store.access_key_id": "a",
            "store.secret_access_key": SECRET,
            "store.session_token": SECRET + "2",
        },
    )
    for text in (repr(config), str(config), config.model_dump_json(), str(config.model_dump())):
        assert SECRET not in text
    assert config.secrets() == [SECRET, SECRET + "2"]
    assert SECRET.encode() in config.to_spec()


def test_a_spec_reads_back(tmp_path: Path) -> None:
    config = load_config(
        None,
        {
            "store.url": "s3://bucket/x",
            "store.access_key_id": "a",
            "store.secret_access_key": SECRET,
            "volume.file_mode": "0600",
            "volume.metadata_ttl": "1m",
            "fuse.disable": ["passthrough"],
            "cache.directory": str(tmp_path),
        },
    )
    assert MountConfig.from_spec(config.to_spec()) == config
    with pytest.raises(ConfigError, match="spec: "):
        MountConfig.from_spec(b'{"store": {}}')


def test_the_default_cache_fits_its_disk(tmp_path: Path) -> None:
    state = os.statvfs(tmp_path)
    capacity = default_cache_capacity(tmp_path / "not" / "yet")
    assert 0 < capacity <= 10 * 2**30
    # Others write to this disk, too: no exact number.
    assert capacity <= state.f_blocks * state.f_frsize
    assert CacheConfig(directory=tmp_path, capacity=2**20).capacity == 2**20


def test_a_cache_without_room_is_refused(tmp_path: Path) -> None:
    for capacity in (0, "1023KiB"):
        with pytest.raises(ValidationError, match="capacity"):
            CacheConfig(directory=tmp_path, capacity=capacity)


def test_a_worker_is_told_the_default_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refused what nobody had asked for, and the volumes of a node with a full disk with it."""
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:3], 0, 0, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    config = MountConfig(store={"url": "s3://b"}, cache={"directory": tmp_path})  # type: ignore[arg-type]
    assert MountConfig.from_spec(config.to_spec()).cache.capacity == config.cache.capacity


def test_the_default_capacity_where_the_directory_cannot_be_looked_at(tmp_path: Path) -> None:
    assert 0 < default_cache_capacity(tmp_path / ("n" * 300)) <= 10 * 2**30


def test_the_default_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_cache_directory() == Path("/var/cache/slayerfs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert default_cache_directory() == Path("/x/cache/slayerfs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache_directory() == Path("/home/me/.cache/slayerfs")


def test_without_a_home_a_cache_directory_has_to_be_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    options = {"store.url": "s3://bucket"}
    with pytest.raises(ConfigError, match=r"^cache\.directory: this user has no home directory"):
        load_config(None, options)
    load_config(None, {**options, "cache.directory": "/x"})


@pytest.mark.parametrize("key", ["log.file", "store.ca_bundle", "cache.directory"])
def test_what_is_no_text(key: str) -> None:
    assert _problem(**{key: "/a\0b"}).startswith(f"option: {key}: a NUL character")
    assert _problem(**{key: "/a\udcffb"}) == f"option: {key}: expected UTF-8 text"


@pytest.mark.parametrize("key", ["log.file", "store.ca_bundle", "cache.directory"])
def test_the_home_of_nobody(key: str) -> None:
    assert _problem(**{key: "~nobody-has-this-name/x"}) == (
        f"option: {key}: ~ stands for a home directory that is not known"
    )


@pytest.mark.parametrize("url", ["http://u:p@collector/v1/traces", "https://collector/?token=t"])
def test_a_collector_may_want_to_know_who_sends(url: str) -> None:
    config = load_config(None, {"store.url": "s3://b", "tracing.endpoint": url})
    assert config.tracing.endpoint == url


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:9090", "unix:/run/x.sock"])
def test_listen_addresses(listen: str) -> None:
    assert load_config(None, {"store.url": "s3://bkt", "metrics.listen": listen}).metrics.listen


@pytest.mark.parametrize("listen", ["9090", ":9090", "host:", "host:x", "host:70000", "unix:rel"])
def test_bad_listen_addresses(listen: str) -> None:
    assert "option: metrics.listen: " in _problem(**{"metrics.listen": listen})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("volume.part_size", "1MiB"),
        ("volume.quota", 0),
        ("volume.uid", -1),
        ("volume.durability", "never"),
        ("store.max_connections", 0),
        ("store.request_timeout", 0),
        ("cache.directory", "relative"),
        ("tracing.sample_ratio", 2),
        ("tracing.endpoint", "collector:4318"),
        ("volume.read_only", "perhaps"),
    ],
)
def test_values_out_of_range(key: str, value: object) -> None:
    assert _problem(**{key: value}).startswith(f"option: {key}: ")


@pytest.mark.parametrize("key", ["log.file", "store.ca_bundle", "store.web_identity_token_file"])
def test_relative_files_are_where_the_command_runs(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, {"store.url": "s3://bucket", "store.role_arn": "role", key: "file"})
    section, _, name = key.partition(".")
    assert getattr(getattr(config, section), name) == tmp_path / "file"


def test_every_field_is_described_and_its_default_is_valid() -> None:
    fields = describe_fields()
    assert [field.path for field in fields if field.required] == ["store.url"]
    for field in fields:
        assert field.description, field.path
        assert field.type, field.path
        assert field.required or field.default, field.path
    by_path = {field.path: field for field in fields}
    assert (by_path["volume.part_size"].type, by_path["volume.part_size"].default) == (
        "size",
        "16MiB",
    )
    assert by_path["volume.durability"].type == "close | fsync | writeback"
    assert by_path["volume.durability"].default == "close"
    assert by_path["store.retry_deadline"].default == "1m"
    assert by_path["store.secret_access_key"].type == "secret"
    assert by_path["volume.metadata_ttl"].default == "10s; 1h when read_only"
    assert by_path["volume.quota"].type == "size"
