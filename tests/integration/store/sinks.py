"""A sink that remembers, and checks, what it was given."""

from __future__ import annotations


class MemorySink:
    """Holds what was written; a byte written twice or out of place fails the test.

    Every other piece is received into memory of the sink's own.
    """

    def __init__(self, offset: int = 0, piece: int = 256 << 10) -> None:
        self.piece = piece
        self._room: memoryview | None = None
        self.offset = offset
        self.content = bytearray()
        self.sizes: list[int] = []

    def room(self, size: int) -> memoryview | None:
        given = len(self.sizes) % 2 == 0
        self._room = memoryview(bytearray(size)) if given else None
        return self._room

    def write(self, offset: int, data: memoryview) -> None:
        assert self._room is None or data is self._room
        assert offset == self.offset + len(self.content)
        assert not self.content or offset % self.piece == 0
        assert len(data) <= self.piece - offset % self.piece
        self.content += data
        self.sizes.append(len(data))
