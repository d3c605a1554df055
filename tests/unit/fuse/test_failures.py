"""What a request that fails is answered with, and which failures the log explains."""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict

import pytest
from structlog.testing import capture_logs

from csi_slayer.errors import AccessDenied, FsError, ObjectNotFound, StoreUnavailable
from csi_slayer.fuse import failures
from csi_slayer.fuse.failures import errno_of
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.observability.ration import LINES, Ration


@pytest.fixture(autouse=True)
def _fresh_ration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other tests had refused in the last minute."""
    monkeypatch.setattr(failures, "_rations", defaultdict(Ration))


@pytest.mark.parametrize(
    ("error", "number"),
    [(StoreUnavailable("away"), errno.EIO), (AccessDenied("no permission"), errno.EACCES)],
)
def test_what_the_store_refuses_is_explained(error: Exception, number: int) -> None:
    with capture_logs() as lines:
        assert errno_of(error, Opcode.OPEN, 7) == number
    (line,) = lines
    assert line["op"] == "open"
    assert line["error"] == f"{type(error).__name__}: {error}"


def test_a_program_that_repeats_what_fails_does_not_fill_the_disk_with_lines() -> None:
    with capture_logs() as lines:
        for _ in range(10 * LINES):
            assert errno_of(StoreUnavailable("away"), Opcode.READ) == errno.EIO
            assert errno_of(ValueError("boom"), Opcode.LOOKUP) == errno.EIO
        assert len(lines) == 2 * LINES
        errno_of(StoreUnavailable("away"), Opcode.FSYNC)
        errno_of(ValueError("boom"), Opcode.READ)
    assert [line["op"] for line in lines[2 * LINES :]] == ["fsync", "read"], "hides nothing else"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FsError(errno.EACCES), errno.EACCES),
        (ObjectNotFound("gone"), errno.ENOENT),
        (FsError(errno.ENOSYS), errno.EOPNOTSUPP),
        (asyncio.CancelledError(), errno.EINTR),
    ],
)
def test_what_programs_expect_is_not(error: BaseException, number: int) -> None:
    with capture_logs() as lines:
        assert errno_of(error, Opcode.OPEN) == number
    assert lines == []


def test_what_no_handler_should_raise_leaves_a_traceback() -> None:
    with capture_logs() as lines:
        assert errno_of(ValueError("boom"), Opcode.OPEN) == errno.EIO
    (line,) = lines
    assert "ValueError: boom" in line["traceback"]
