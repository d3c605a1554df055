"""What a supervisor knows of a volume's worker, and what to do when it ends: decisions only.

Both supervisors have it: the one of ``csi-slayer mount``, which is a process that waits for one
worker, and that of the node service, which is a task among many. Standard library only: the first
of them has to stay small.
"""

from __future__ import annotations

import os
from typing import Any

from csi_slayer.worker.channel import UNMOUNTED

BACKOFF_FIRST, BACKOFF_MAX = 0.05, 10.0
"""Pause before a worker is started again, seconds; doubled each time it dies young."""

YOUNG = 30.0
"""A worker that lived longer than this is started again at once."""


class CannotStart(Exception):
    """The worker said why; the text is fit for the user. ``code`` names a gRPC status."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class Lifecycle:
    """``spec`` is what each worker is told, secrets included. It holds the connection to the
    kernel between two workers.

    ``session`` and ``fuse_fd``: of a worker that somebody else has supervised before; then the
    volume counts as mounted, and a worker that cannot start is tried again.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        *,
        bound: bool = False,
        session: dict[str, Any] | None = None,
        fuse_fd: int | None = None,
        restarts: int = 0,
    ) -> None:
        self.spec = spec
        self.session = session
        self.fuse_fd = fuse_fd
        self.restarts = restarts
        self.mounted = session is not None
        self.announced = session is not None
        """Whether somebody has been told that the volume is mounted."""
        self.left: int | None = None
        """Keys that the last worker left to be uploaded, if it ended in good order."""
        self._bound = bound
        self._error: CannotStart | None = None
        self._pause = BACKOFF_FIRST

    def first_message(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        """What the next worker is sent, and the descriptors beside it."""
        self._error, self.left = None, None
        message = {
            "spec": self.spec,
            "session": self.session,
            "restarts": self.restarts,
            "bound": self._bound,
        }
        return message, () if self.fuse_fd is None else (self.fuse_fd,)

    def heard(self, message: dict[str, Any], fds: list[int]) -> None:
        """A message of the worker; its descriptors are taken over, or closed."""
        if "session" in message:
            self.mounted, self.session = True, message["session"]
            if fds:
                self.let_go()
                self.fuse_fd = fds.pop(0)
        if "error" in message:
            self._error = CannotStart(str(message["error"]), str(message.get("code", "INTERNAL")))
        if "ended" in message:
            self.left = int(message["ended"])
        for fd in fds:
            os.close(fd)

    def died(self, status: int | None, lived: float) -> float | None:
        """The worker is gone after ``lived`` seconds: how long to wait before the next one is
        started, in seconds; None if the volume is unmounted.

        ``status`` is that of subprocess, None if nobody knows it. Raises CannotStart if the volume
        never was mounted.
        """
        if self._error is not None and not self.announced:
            raise self._error
        if self.left is not None or status == UNMOUNTED:
            return None
        if not self.mounted:
            if status is None or status < 0:  # by a signal: not its own doing
                raise CannotStart(
                    f"the worker was killed (status {status}) before it mounted: try again",
                    "UNAVAILABLE",
                )
            raise CannotStart(
                f"the worker ended with status {status} before it mounted: see its log"
            )
        self.restarts += 1
        if lived > YOUNG:
            self._pause = BACKOFF_FIRST
        pause = self._pause
        self._pause = min(BACKOFF_MAX, self._pause * 2)
        return pause

    def let_go(self) -> None:
        """Close the connection's descriptor, if there is one."""
        if self.fuse_fd is not None:
            os.close(self.fuse_fd)
            self.fuse_fd = None
