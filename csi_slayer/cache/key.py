"""The name of a segment: whose bytes they are, and of which version of which object."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class SegmentKey(NamedTuple):
    """128 bits in hexadecimal, a hash of (tenant, object key, etag, span).

    A cryptographic hash, not the faster xxh3: whoever may name objects in one bucket must not be
    able to name one whose segment is another tenant's.
    """

    hex: str

    @classmethod
    def of(cls, tenant: str, key: str, etag: str, span: int = 0) -> SegmentKey:
        """The key of the ``span``-th piece of an object version; ``tenant`` is the identity that
        fetched it (volumes of one identity share segments, others never do)."""
        digest = hashlib.blake2b(digest_size=16)
        for field in (tenant, key, etag):
            # Object keys may hold anything; the length keeps ("a", "bc") apart from ("ab", "c").
            data = field.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        digest.update(span.to_bytes(8, "little"))
        return cls(digest.hexdigest())

    @property
    def raw(self) -> bytes:
        """The 16 bytes that ``hex`` spells."""
        return bytes.fromhex(self.hex)
