"""What is found around a process of the way to its store."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from csi_slayer.errors import ConfigError
from csi_slayer.store.options import CredentialOptions, StoreOptions
from csi_slayer.store.s3.open import open_s3
from csi_slayer.store.s3.surroundings import Way, find_way

CONFIG = """
[default]
region = eu-west-1
[profile both]
region = eu-north-1
endpoint_url = https://all.example
ca_bundle = /all.pem
services = mine
[profile lost]
services = missing
[services mine]
s3 =
  endpoint_url = https://s3.example
"""

NOTHING = Way(None, "us-east-1", None)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return path


def _with_profile(name: str) -> StoreOptions:
    return StoreOptions(credentials=CredentialOptions(profile=name))


def test_nothing_around() -> None:
    assert find_way(StoreOptions(), {}) == NOTHING


def test_variables() -> None:
    around = {
        "AWS_ENDPOINT_URL": "http://all",
        "AWS_DEFAULT_REGION": "eu-south-1",
        "AWS_CA_BUNDLE": "/around.pem",
    }
    assert find_way(StoreOptions(), around) == Way("http://all", "eu-south-1", "/around.pem")
    around |= {"AWS_ENDPOINT_URL_S3": "http://s3", "AWS_REGION": "eu-south-2"}
    assert find_way(StoreOptions(), around) == Way("http://s3", "eu-south-2", "/around.pem")
    given = StoreOptions(endpoint="http://given", region="here", ca_bundle="/given.pem")
    assert find_way(given, around) == Way("http://given", "here", "/given.pem")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_a_wrong_endpoint_is_called_by_the_name_of_its_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "minio:9000")
    with pytest.raises(ConfigError, match=rf"^{name}: expected an http:// or https:// URL"):
        asyncio.run(open_s3("s3://bucket", StoreOptions(anonymous=True)))


def test_a_profile(config: Path) -> None:
    config.write_text(CONFIG)
    around = {"AWS_CONFIG_FILE": str(config)}
    assert find_way(StoreOptions(), around) == Way(None, "eu-west-1", None)
    both = Way("https://s3.example", "eu-north-1", "/all.pem")
    assert find_way(_with_profile("both"), around) == both
    assert find_way(_with_profile("lost"), around) == NOTHING
    with pytest.raises(ConfigError, match=r"AWS configuration: .*absent"):
        find_way(_with_profile("absent"), around)


def test_a_key_pair_has_no_profile(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(CONFIG)
    monkeypatch.setitem(sys.modules, "botocore.session", None)  # not even loaded
    around = {"AWS_CONFIG_FILE": str(config)}
    keys = StoreOptions(credentials=CredentialOptions(access_key="a", secret_key="b"))
    assert find_way(keys, around) == NOTHING
    assert find_way(StoreOptions(anonymous=True), around) == NOTHING
