"""A local directory with buckets, provisioners on it, and stores that fail or die."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import StoreUnavailable, VolumeBusy
from csi_slayer.store.base import ObjectStore
from csi_slayer.volumes import lease as lease_module
from csi_slayer.volumes import options
from csi_slayer.volumes.jobs import Jobs
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.session import Session
from csi_slayer.volumes.stores import StorePool

HOME = "home"
LEASE = 0.1
"""Seconds for which a dead process is waited for, in tests of crashes."""


def fast_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory in memory where there is one: the local store syncs each write."""
    shm = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None, prefix="slayer-test-")


class Faults:
    """Decides which operation of a process's stores fails.

    ``fail_at``: the operation with this number (from 1) raises StoreUnavailable, done or not.
    ``die_at``: the process dies at it, done or not: it and all later ones never answer.
    ``buried``: they fail instead, so that what remains of the process can be cleared away.
    """

    def __init__(self) -> None:
        self.count = 0
        self.fail_at: int | None = None
        self.die_at: int | None = None
        self.done_before = False
        self.dead = asyncio.Event()
        self.buried = False

    def reset(self) -> None:
        self.count, self.fail_at, self.die_at = 0, None, None

    async def around(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.buried:
            raise StoreUnavailable("this process is dead")
        if self.dead.is_set():
            await asyncio.get_running_loop().create_future()
        self.count += 1
        if self.count == self.fail_at:
            if self.done_before:
                await call()
            raise StoreUnavailable("injected")
        if self.count == self.die_at:
            if self.done_before:
                await call()
            self.dead.set()
            await asyncio.get_running_loop().create_future()
        return await call()


class Pause(Faults):
    """Holds its process at operation ``at``, done or not, until ``go`` is set."""

    def __init__(self, at: int, done_before: bool) -> None:
        super().__init__()
        self.at = at
        self.done_before = done_before
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def around(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.buried:
            raise StoreUnavailable("this process is dead")
        self.count += 1
        if self.count != self.at:
            return await call()
        done = await call() if self.done_before else None
        self.reached.set()
        await self.go.wait()
        return done if self.done_before else await call()

    async def hold(self, calling: asyncio.Future[Any]) -> None:
        """Until the operation is reached, or the call ends without it."""
        reaching = asyncio.ensure_future(self.reached.wait())
        await asyncio.wait((calling, reaching), return_when=asyncio.FIRST_COMPLETED)
        reaching.cancel()
        await asyncio.gather(reaching, return_exceptions=True)


class Meanwhile(Faults):
    """Does something before the operation with the number ``at``."""

    def __init__(self, at: int, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._left = at
        self._act = act

    async def around(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._left -= 1
        if self._left == 0:
            await self._act()
        return await super().around(call)


class FaultyStore:
    """A store whose operations go through :class:`Faults`."""

    def __init__(self, inner: ObjectStore, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "close" or not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **rest: Any) -> Any:
            plain = [arg._inner if isinstance(arg, FaultyStore) else arg for arg in args]
            return await self._faults.around(lambda: found(*plain, **rest))

        return call


def driver_config(root: Path, **more: Any) -> DriverConfig:
    fields: dict[str, Any] = {
        "store": {"local": str(root), "bucket": HOME},
        "cache": {"directory": str(root / ".cache"), "capacity": "1GiB"},
    }
    return DriverConfig.model_validate(fields | more)


def make_session(
    config: DriverConfig,
    faults: Faults | None = None,
    *,
    wait: float = 20.0,
    lease: float = lease_module.LEASE,
) -> Session:
    defaults = options.parse(config.volumes, "driver")
    if faults is None:
        pool = StorePool(retry_deadline=wait)
    else:
        pool = StorePool(wrap=lambda store: FaultyStore(store, faults))  # type: ignore[arg-type]
    return Session(config, pool, Jobs(wait), defaults, lease_seconds=lease)


async def persistently(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """The outcome of a call that is repeated while it says so, as the sidecars do."""
    for _ in range(200):
        try:
            return await make()
        except VolumeBusy:
            await asyncio.sleep(LEASE / 10)
    return await make()


async def until_dead(call: Coroutine[Any, Any, Any], p: Provisioner, faults: Faults) -> Any:
    """The outcome of a call; None if its process died meanwhile, which is then cleared away."""
    calling = asyncio.ensure_future(call)
    death = asyncio.ensure_future(faults.dead.wait())
    await asyncio.wait((calling, death), return_when=asyncio.FIRST_COMPLETED)
    died = not calling.done()
    death.cancel()
    faults.buried = faults.buried or died
    if died:
        calling.cancel()
        await asyncio.gather(calling, death, return_exceptions=True)
        await p.close()
        return None
    await asyncio.gather(death, return_exceptions=True)
    return await calling


class World:
    """Buckets in a directory; ``provisioner`` works on them, and ``store`` looks into them."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.root = root
        (root / HOME).mkdir(parents=True, exist_ok=True)
        self.config = driver_config(root, **more)
        self.session = make_session(self.config)
        self.provisioner = Provisioner(self.config, self.session)

    async def close(self) -> None:
        await self.provisioner.close()

    async def open(self, bucket: str, prefix: str = "") -> AbstractAsyncContextManager[ObjectStore]:
        access = await self.session.driver_access()
        return access.store(bucket, prefix)

    async def keys(self, bucket: str = HOME, prefix: str = "") -> dict[str, bytes]:
        """All objects of a bucket or prefix, without what nested local stores keep."""
        found: dict[str, bytes] = {}
        async with await self.open(bucket, prefix) as store:
            token = None
            while True:
                page = await store.list_page("", delimiter=False, token=token)
                for info in page.objects:
                    if ".slayerfs-tmp/" not in info.key:
                        found[info.key] = (await store.get(info.key))[1] if info.size else b""
                token = page.token
                if token is None:
                    return found

    async def put(
        self, bucket: str, prefix: str, objects: Mapping[str, bytes], **rest: Any
    ) -> None:
        async with await self.open(bucket, prefix) as store:
            for key, body in objects.items():
                await store.put(key, body, **rest)


async def create(provisioner: Provisioner, name: str, **changes: Any) -> Any:
    """CreateVolume with nothing said but what ``changes`` say."""
    fields: dict[str, Any] = {
        "parameters": {},
        "mutable": {},
        "secrets": {},
        "required_bytes": 0,
        "limit_bytes": 0,
        "source": None,
        "labels": {},
    }
    fields |= changes
    return await provisioner.create_volume(
        name,
        fields.pop("parameters"),
        fields.pop("mutable"),
        fields.pop("secrets"),
        **fields,
    )
