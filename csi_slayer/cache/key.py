"""The name of a segment: whose bytes they are, and of which version of which object."""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

_LENGTH = struct.Struct("<Q").pack


class SegmentKey(NamedTuple):
    """128 bits in hexadecimal, a hash of (tenant, object key, etag, offset).

    A cryptographic hash, not the faster xxh3: whoever may name objects in one bucket must not be
    able to name one whose segment is another tenant's.
    """

    hex: str

    @classmethod
    def of(cls, tenant: str, key: str, etag: str, offset: int = 0) -> SegmentKey:
        """The key of the piece of an object version that begins at the byte ``offset``, for pieces
        are not of the same size everywhere; ``tenant`` is the identity that fetched it (volumes of
        one identity share segments, others never do)."""
        # Object keys may hold anything; the lengths keep ("a", "bc") apart from ("ab", "c").
        first = tenant.encode("utf-8", "surrogatepass")
        second = key.encode("utf-8", "surrogatepass")
        third = etag.encode("utf-8", "surrogatepass")
        data = b"".join(
            (_LENGTH(len(first)), first, _LENGTH(len(second)), second,
             _LENGTH(len(third)), third, _LENGTH(offset))
        )  # fmt: skip
        return cls(hashlib.blake2b(data, digest_size=16).hexdigest())

    @property
    def raw(self) -> bytes:
        """The 16 bytes that ``hex`` spells."""
        return bytes.fromhex(self.hex)
