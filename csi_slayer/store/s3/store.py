"""The S3 implementation of the object store: composed here, opened here."""

from __future__ import annotations

from csi_slayer.store.s3.bucket import BucketAdmin
from csi_slayer.store.s3.copies import Copies
from csi_slayer.store.s3.credentials import Credentials
from csi_slayer.store.s3.engine import Engine
from csi_slayer.store.s3.reads import Reads
from csi_slayer.store.s3.uploads import Uploads
from csi_slayer.store.s3.writes import Writes
from csi_slayer.store.write_token import LostWrites

_SMALLEST_PART = 5 << 20
_LONGEST_KEY = 1024


class S3Store(Reads, Writes, Uploads, Copies, BucketAdmin):
    """A bucket and prefix; see the interface. Opened by :func:`open_s3`."""

    def __init__(self, engine: Engine, identity: str, check_deadline: float, region: str) -> None:
        lost = LostWrites()
        Reads.__init__(self, engine, check_deadline)
        Writes.__init__(self, engine, lost)
        Uploads.__init__(self, engine, lost)
        Copies.__init__(self, engine, self, lost)
        BucketAdmin.__init__(self, engine)
        self._identity = identity
        self.region = region

    @property
    def identity(self) -> str:
        """Endpoint, bucket, prefix and a hash of the identity."""
        return self._identity

    @property
    def part_minimum(self) -> int:
        """5 MiB."""
        return _SMALLEST_PART

    @property
    def key_maximum(self) -> int:
        """What of S3's 1,024 bytes the prefix leaves."""
        return _LONGEST_KEY - len(self._engine.address.prefix.encode())

    @property
    def progress(self) -> int:
        """Bytes of bulk transfers, and answers."""
        return self._engine.progress

    async def use(self, credentials: Credentials) -> None:
        """Sign with these from now on, if the bucket accepts them; what has been sent already ends
        with the old ones. The identity's name stays. Raises what :meth:`check` raises."""
        await Reads(self._engine.signed_by(credentials), self._check_deadline).check()
        await self._engine.use(credentials)

    async def close(self) -> None:
        """Close connections and threads; operations under way fail."""
        await self._engine.close()
