"""What may change in a running worker."""

from __future__ import annotations

import pytest

from csi_slayer.config import MountConfig, load_config
from csi_slayer.worker.changes import Changes, compare

BASE: dict[str, object] = {
    "store.url": "s3://bucket/prefix", "cache.directory": "/cache", "cache.capacity": "1GiB",
    "store.access_key_id": "key", "store.secret_access_key": "secret", "volume.uid": 1,
}  # fmt: skip


def _config(**changes: object) -> MountConfig:
    keys = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(None, {**BASE, **keys})


def test_equal_configurations_have_no_differences() -> None:
    assert compare(_config(), _config()) == Changes()
    assert compare(_config(), MountConfig.from_spec(_config().to_spec())) == Changes()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"volume__quota": "1GiB"}, "live"),
        ({"volume__durability": "writeback"}, "live"),
        ({"volume__metadata_ttl": 99}, "live"),
        ({"volume__negative_ttl": 99}, "live"),
        ({"volume__close_to_open": True}, "live"),
        ({"volume__prefetch": False}, "live"),
        ({"volume__open_wait": 9}, "live"),
        ({"store__secret_access_key": "other"}, "credentials"),
        ({"store__session_token": "token"}, "credentials"),
        ({"store__sts_endpoint": "http://sts"}, "credentials"),
        ({"store__request_timeout": 7}, "later"),
        ({"volume__part_size": "32MiB"}, "later"),
        ({"store__ambient": False}, "later"),
        ({"store__proxy": "http://proxy:3128"}, "later"),
        ({"store__no_proxy": ".svc"}, "later"),
        ({"store__storage_class": "STANDARD_IA"}, "later"),
        ({"store__encryption": "AES256"}, "later"),
        ({"store__requester_pays": True}, "later"),
        ({"store__bucket_owner": "123456789012"}, "later"),
        ({"cache__capacity": "2GiB"}, "later"),
        ({"log__level": "debug"}, "later"),
        ({"metrics__listen": "127.0.0.1:1"}, "later"),
        ({"cache__directory": "/elsewhere"}, "fixed"),
        ({"store__url": "s3://other"}, "fixed"),
        ({"store__endpoint": "http://other"}, "fixed"),
        ({"volume__uid": 2}, "fixed"),
        ({"volume__read_only": True, "volume__metadata_ttl": 10}, "fixed"),
        ({"volume__attributes": "posix"}, "fixed"),
    ],
)
def test_each_difference_is_of_one_kind(changes: dict[str, object], kind: str) -> None:
    found = compare(_config(), _config(**changes))
    key = next(iter(changes)).replace("__", ".")
    assert found == Changes(**{kind: (key,)})


def test_all_differences_are_named() -> None:
    found = compare(_config(), _config(volume__uid=3, volume__gid=4, volume__quota="1MiB"))
    assert found.live == ("volume.quota",)
    assert set(found.fixed) >= {"volume.uid", "volume.gid"}
