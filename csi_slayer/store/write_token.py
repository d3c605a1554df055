"""How a conditional write whose answer was lost recognises its own work.

A PUT with ``If-None-Match: *`` may be done although its answer never came; repeated, it gets 412
from the very object it made. Sizes and checksums cannot tell this from another writer's equal
bytes (two creators of an empty lock file would both win). So each conditional write carries a
token in the user metadata of its object, and after a refusal the object that is there is asked:

* it has the token of this write: the write is done, its answer is what HEAD says;
* it has the token of an earlier write of this process whose outcome its caller never learned
  (reported as StoreUnavailable): for the caller that object does not exist, so the write is
  repeated with If-Match on exactly that object;
* anything else: PreconditionFailed.

A caller that wants this across its own restarts passes a token it has journalled, as metadata
:data:`WRITE_TOKEN`; a repeated write with the same token is answered by what the first one made.
The token is never part of the metadata that a store returns.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping

WRITE_TOKEN = "slayerfs-write"

# Keys with an unknown outcome that are remembered; the oldest are forgotten first.
_MOST_KEYS = 10_000
_MOST_PER_KEY = 8


def choose_token(metadata: Mapping[str, str] | None) -> str:
    """The caller's token, or a new one."""
    given = metadata.get(WRITE_TOKEN) if metadata else None
    return given or secrets.token_hex(8)


class LostWrites:
    """Tokens of writes whose outcome this process never learned, by key."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, list[str]] = OrderedDict()

    def add(self, key: str, token: str) -> None:
        """The write's outcome is unknown and its caller has been told that it failed."""
        tokens = self._tokens.setdefault(key, [])
        self._tokens.move_to_end(key)
        if token not in tokens:
            tokens.append(token)
            del tokens[:-_MOST_PER_KEY]
        if len(self._tokens) > _MOST_KEYS:
            self._tokens.popitem(last=False)

    def knows(self, key: str) -> bool:
        """Whether there are such writes of this key."""
        return key in self._tokens

    def holds(self, key: str, token: str | None) -> bool:
        """Whether ``token`` is one of those."""
        return token is not None and token in self._tokens.get(key, ())

    def settle(self, key: str) -> None:
        """The key's state is known again: a write on it has been answered."""
        self._tokens.pop(key, None)
