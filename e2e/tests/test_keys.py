"""Keys are replaced while pods use the volumes: the old ones are refused, nobody restarts a pod."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.install import NAMESPACE, SECRET
from e2e.tests.support import objects
from e2e.tests.support.accounts import Accounts
from e2e.tests.support.api import Api
from e2e.tests.support.driver import Driver
from e2e.tests.support.objects import of_claim, static_volume
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Contents, Space, restarts

# Names stay known while S3 refuses: to look one up after their time would mean to ask S3.
IN_BACKGROUND = {"ioTimeout": "5m", "durability": "writeback", "metadataTtl": "10m"}
RENEWAL = 300.0
"""Seconds until a changed Secret is in use: kubelets look at pods every minute or so."""


@pytest.fixture
def accounts(space: Space) -> Accounts:
    return Accounts(space.environment)


def unharmed(space: Space, api: Api, pod: str) -> bool:
    found = api.get("Pod", pod, space.name)
    return found is not None and restarts(found) == 0


@pytest.mark.timeout(1200)
def test_those_of_a_volume(space: Space, driver: Driver, api: Api, accounts: Accounts) -> None:
    bucket, name = space.unique("bucket"), space.unique("volume")
    space.s3().create_bucket(bucket)
    old = accounts.create(space.unique("old"))
    space.secret("keys", *old)
    attributes = {"bucket": bucket, **IN_BACKGROUND}
    space.apply(*static_volume(name, space.name, attributes, secret="keys"))
    space.running("pod", {"/data": of_claim(name)})
    worker = driver.worker(bucket)["pid"]
    contents = Contents(space.s3(), bucket, "")
    space.sh("pod", "echo before > /data/before")
    contents.wait({"before": b"before\n"})

    accounts.delete(old[0])
    space.sh("pod", "echo refused > /data/refused; cat /data/before")
    message = space.event("pod", "refused", timeout=RENEWAL)
    assert old[1] not in message
    assert contents.keys() == ["before"]

    new = accounts.create(space.unique("new"))
    space.secret("keys", *new)
    contents.wait({"before": b"before\n", "refused": b"refused\n"}, RENEWAL)
    space.sh("pod", "echo after > /data/after")
    contents.wait({"before": b"before\n", "refused": b"refused\n", "after": b"after\n"})
    assert unharmed(space, api, "pod")
    assert driver.worker(bucket)["pid"] == worker
    space.remove("Pod", "pod")
    accounts.delete(new[0])
    space.s3().delete_bucket(bucket)


class OwnKeys:
    """The driver's, in the Secret of its namespace."""

    def __init__(self, space: Space, driver: Driver) -> None:
        self._space = space
        self._driver = driver

    def replace(self, access_key: str, secret: str) -> None:
        """And wait until all pods of the driver see them."""
        self._space.api.apply(
            objects.secret(SECRET, access_key_id=access_key, secret_access_key=secret),
            namespace=NAMESPACE,
        )
        poll(
            self._driver.access_keys,
            lambda seen: all(key == access_key for key in seen),
            "the driver's pods do not see the changed Secret",
            RENEWAL,
        )


@pytest.fixture
def own_keys(space: Space, driver: Driver) -> Iterator[OwnKeys]:
    """Those that were installed are there again afterwards."""
    keys = OwnKeys(space, driver)
    yield keys
    keys.replace(*space.environment.keys())


@pytest.mark.timeout(1200)
def test_those_of_the_driver(space: Space, api: Api, accounts: Accounts, own_keys: OwnKeys) -> None:
    old = accounts.create(space.unique("old"))
    own_keys.replace(*old)
    background = space.storage_class("fast", IN_BACKGROUND)
    space.claim(class_name=background)
    space.running("pod", "data")
    contents = Contents.of(space, space.bound())
    space.sh("pod", "echo before > /data/before")
    contents.wait({"before": b"before\n"})

    new = accounts.create(space.unique("new"))
    accounts.delete(old[0])
    space.sh("pod", "echo refused > /data/refused")
    own_keys.replace(*new)
    contents.wait({"before": b"before\n", "refused": b"refused\n"}, RENEWAL)
    assert unharmed(space, api, "pod")
    space.claim("another", class_name=background)
    space.bound("another", RENEWAL)
    own_keys.replace(*space.environment.keys())
    accounts.delete(new[0])
