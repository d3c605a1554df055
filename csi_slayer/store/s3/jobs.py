"""What transfer threads do: receive a range into a sink, send a file's range as a body."""

from __future__ import annotations

from csi_slayer.errors import PreconditionFailed, StoreError, StoreIntegrityError
from csi_slayer.store.base import RangeSink
from csi_slayer.store.retry import MOST_WRONG_ANSWERS, Transient
from csi_slayer.store.s3.answer import Answer, AnswerReader
from csi_slayer.store.s3.headers import content_length, content_range, normal_etag
from csi_slayer.store.s3.transfers import Lane

_MOST_ANSWER_BYTES = 1 << 20


def wrong_answer(message: str, outcome: type[StoreError] = StoreIntegrityError) -> Transient:
    """An answer that contradicts the request: repeated a few times, then ``outcome``."""
    return Transient(message, limit=MOST_WRONG_ANSWERS, outcome=outcome)


class Download:
    """Receives ``[position, end)`` of one object version; survives from attempt to attempt.

    ``position`` is where the sink stopped: all bytes before it have been written, none after it.
    """

    def __init__(self, offset: int, length: int, etag: str, sink: RangeSink) -> None:
        self.position = offset
        self.end = offset + length
        self._etag = etag
        self._sink = sink

    def run(self, lane: Lane, head: bytes) -> Answer:
        """One attempt. The answer, without its body if that went into the sink."""
        channel = lane.channel
        channel.send(head)
        reader = AnswerReader(_MOST_ANSWER_BYTES)
        channel.read_head(reader)
        if reader.status not in (200, 206):
            return read_answer(lane, reader)
        self._check(reader)
        self._receive(lane)
        if not reader.keep_alive:
            channel.close()
        return Answer(reader.status, reader.headers, b"")

    def _check(self, reader: AnswerReader) -> None:
        """Everything that can be known before the first byte of the body."""
        headers = reader.headers
        wanted = self.end - self.position
        try:
            length = content_length(headers)
            if reader.status == 206:
                first, count, _ = content_range(headers)
            else:
                first, count = 0, length
        except StoreIntegrityError as error:
            raise wrong_answer(str(error)) from error
        if (first, count, length) != (self.position, wanted, wanted):
            raise wrong_answer(
                f"asked for {wanted} bytes at {self.position}, the server sent {count} at {first} "
                f"in a body of {length}"
            )
        etag = normal_etag(headers.get("etag", ""))
        if etag != self._etag:
            raise wrong_answer(
                f"asked for version {self._etag}, the server sent {etag}", PreconditionFailed
            )

    def _receive(self, lane: Lane) -> None:
        piece = self._sink.piece
        while self.position < self.end:
            size = min(piece - self.position % piece, self.end - self.position)
            view = self._sink.room(size)
            if view is None:
                view = lane.buffer(piece)[:size]
            lane.channel.fill(view)
            lane.halt.check()
            self._sink.write(self.position, view)
            self.position += size


class Upload:
    """Sends ``length`` bytes of a file from ``offset`` as the body of a request.

    ``ask_first``: the head says ``Expect: 100-continue``, so that a condition which does not hold
    is known before gigabytes are sent for nothing.
    """

    def __init__(self, fd: int, offset: int, length: int, ask_first: bool) -> None:
        self._fd = fd
        self._offset = offset
        self._length = length
        self._ask_first = ask_first

    def run(self, lane: Lane, head: bytes) -> Answer:
        """One attempt; the answer whatever its status."""
        channel = lane.channel
        channel.send(head)
        reader = AnswerReader(_MOST_ANSWER_BYTES)
        complete = not self._ask_first or channel.may_send(reader)
        if complete:
            complete = channel.send_file(self._fd, self._offset, self._length, reader)
        channel.read_head(reader)
        answer = read_answer(lane, reader)
        if not complete:
            channel.close()  # the rest of the body was not sent: nothing can follow
            if answer.status < 300:
                raise wrong_answer("the server acknowledged a body that it had not received")
        return answer


def read_answer(lane: Lane, reader: AnswerReader) -> Answer:
    """The rest of an answer that is kept in memory."""
    answer = lane.channel.read_rest(reader)
    if not reader.keep_alive:
        lane.channel.close()
    return answer
