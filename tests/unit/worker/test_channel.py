"""Messages between supervisor and worker."""

from __future__ import annotations

import os
import socket

import pytest

from csi_slayer.worker import channel
from tests.support.descriptors import none_left


def test_a_message_arrives_with_its_descriptors() -> None:
    ours, theirs = channel.pair()
    with ours, theirs, open(os.devnull, "rb") as file:
        channel.send(ours, {"spec": {"text": "ä"}}, (file.fileno(),))
        received = channel.receive(theirs)
        assert received is not None
        message, fds = received
        assert message == {"spec": {"text": "ä"}}
        assert os.fstat(fds[0]).st_rdev == os.fstat(file.fileno()).st_rdev
        assert not os.get_inheritable(fds[0])
        os.close(fds[0])


@pytest.mark.parametrize("room", [0, 1])
def test_a_message_whose_descriptors_cannot_be_taken_is_an_error(room: int) -> None:
    """It would look like one that had none: as if nothing were mounted."""
    ours, theirs = channel.pair()
    with ours, theirs, open(os.devnull, "rb") as file:
        channel.send(ours, {"session": {}}, (file.fileno(), file.fileno()))
        channel.send(ours, {"next": 1})
        with none_left(but=room):
            with pytest.raises(OSError, match="Too many open files"):
                channel.receive(theirs)
            if room:  # what was taken was given back
                os.close(os.dup(file.fileno()))
        assert channel.receive(theirs) == ({"next": 1}, [])


def test_messages_keep_their_bounds() -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        channel.send(ours, {"n": 1})
        channel.send(ours, {"n": 2, "text": "x" * (channel.LIMIT - 100)})
        assert channel.receive(theirs) == ({"n": 1}, [])
        second = channel.receive(theirs)
        assert second is not None and second[0]["n"] == 2


def test_a_message_that_is_too_large_is_refused_by_the_sender() -> None:
    ours, theirs = channel.pair()
    with ours, theirs, pytest.raises(ValueError, match="bytes"):
        channel.send(ours, {"text": "x" * channel.LIMIT})


def test_the_other_end_gone() -> None:
    ours, theirs = channel.pair()
    theirs.close()
    with ours:
        assert channel.receive(ours) is None
        with pytest.raises(OSError, match=r"[Bb]roken pipe"):
            channel.send(ours, {})


@pytest.mark.parametrize("data", [b"not json", b"[1]", b"\xff"])
def test_a_malformed_message_is_an_error(data: bytes) -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        ours.send(data)
        with pytest.raises(ValueError):
            channel.receive(theirs)


def test_the_ends_are_not_inherited_unasked() -> None:
    for end in channel.pair():
        assert end.family == socket.AF_UNIX
        assert not end.get_inheritable()
        end.close()
