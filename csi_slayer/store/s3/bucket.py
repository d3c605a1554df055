"""The bucket itself: made, looked for, deleted."""

from __future__ import annotations

from csi_slayer.errors import AccessDenied, BucketNotFound, StoreError
from csi_slayer.store.s3.engine import Engine
from csi_slayer.store.s3.errors import BucketNotEmpty
from csi_slayer.store.s3.request import S3Request

# Has no LocationConstraint of its own (CreateBucket, S3 API reference).
_FIRST_REGION = "us-east-1"


class BucketAdmin:
    """Administration of the engine's bucket."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_bucket(self, region: str) -> bool:
        """Make it; False if it is there already and open to this identity.

        Raises AccessDenied if it is somebody else's, or may not be made.
        """
        body = b""
        if region != _FIRST_REGION:
            body = (
                '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ).encode()
        if await self.bucket_exists():
            return False
        try:
            await self._engine.call(
                S3Request("CreateBucket", "PUT", None, (), (), body), lambda _: None
            )
        except AccessDenied:
            raise
        except StoreError:
            # Its codes for "exists" differ from server to server; what counts is that it does.
            if not await self.bucket_exists():
                raise
            return False
        return True

    async def bucket_exists(self) -> bool:
        """Whether it is there. Raises AccessDenied if it is, but closed to this identity."""
        try:
            await self._engine.call(S3Request("HeadBucket", "HEAD", None), lambda _: None)
        except BucketNotFound:
            return False
        except AccessDenied as error:
            bucket = self._engine.address.bucket
            raise AccessDenied(
                f"bucket {bucket!r}: it belongs to somebody else, or the identity may not see it"
                f" ({error})"
            ) from None
        return True

    async def delete_bucket(self) -> None:
        """Delete it; it must be empty, and need not exist."""
        try:
            await self._engine.call(S3Request("DeleteBucket", "DELETE", None), lambda _: None)
        except BucketNotFound:
            return
        except (AccessDenied, BucketNotEmpty):
            raise
        except StoreError as error:
            bucket = self._engine.address.bucket
            raise StoreError(f"bucket {bucket!r} cannot be deleted: {error}") from None
