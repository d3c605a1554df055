"""Copies under a condition on their target, as AWS has them, and services that have none."""

from __future__ import annotations

from typing import Any

import pytest

from csi_slayer.errors import KeyObstructed, PreconditionFailed
from csi_slayer.store.base import ABSENT, ANY, Condition
from csi_slayer.store.write_token import WRITE_TOKEN
from tests.unit.store.quirky import Asked, error, quirky
from tests.unit.store.scripted import answer
from tests.unit.store.test_quirks import BEGUN, runs

SOURCE, TARGET = "/bucket/a", "/bucket/b"
SUM = "5d41402abc4b2a76b9719d911017c592"
TOKEN = f"x-amz-meta-{WRITE_TOKEN}"
COPIED = (
    b'<CopyObjectResult><ETag>"%s"</ETag>'
    b"<LastModified>2026-11-30T12:00:00.000Z</LastModified></CopyObjectResult>"
) % SUM.encode()
PART = COPIED.replace(b"CopyObject", b"CopyPart")
DONE = b'<CompleteMultipartUploadResult><ETag>"parts"</ETag></CompleteMultipartUploadResult>'
REFUSED = error("PreconditionFailed", "412 Precondition Failed")


def _object(etag: str = SUM, size: int = 5, **metadata: str) -> bytes:
    """The answer to HEAD."""
    lines = [f"x-amz-meta-{name}: {value}" for name, value in metadata.items()]
    given = answer(b"", "200 OK", f'ETag: "{etag}"', *lines)
    return given.replace(b"Length: 0", b"Length: %d" % size)


class Service:
    """What is at the source, and what at the target; the first ``lost`` copies are answered by an
    error of the server. ``knows``: whether it knows conditions, and looks at them."""

    def __init__(self, source: bytes = _object(mode="1"), *, knows: bool = True) -> None:
        self.objects = {SOURCE: source}
        self.knows, self.lost = knows, 0
        self.unknown = error("NotImplemented", "501 Not Implemented")
        self.after: bytes | None = None
        """What is at the target after a copy of which nobody was told."""
        self.asked: list[Asked] = []

    def __call__(self, asked: Asked) -> bytes:
        self.asked.append(asked)
        if asked.kind == "HeadObject":
            return self.objects.get(asked.path) or answer(b"", "404 Not Found")
        if asked.kind == "CreateMultipartUpload":
            return answer(BEGUN)
        if asked.kind == "UploadPartCopy":
            return answer(PART)
        conditions = {"if-match", "if-none-match"} & asked.headers.keys()
        if conditions and not self.knows:
            return self.unknown
        if self.lost:
            self.lost -= 1
            token = asked.headers.get(TOKEN, "")
            self.objects[TARGET] = (self.after or b"").replace(b"OURS", token.encode())
            return error("InternalError", "500 Internal Server Error")
        if conditions and TARGET in self.objects:
            return REFUSED
        if asked.kind == "CopyObject":
            return answer(COPIED)
        self.objects[TARGET] = _object("parts")
        return answer(DONE)

    def sent(self, kind: str) -> list[dict[str, str]]:
        """The conditions, and the token, of these requests."""
        names = ("if-match", "if-none-match", TOKEN)
        return [
            {name: asked.headers[name] for name in names if name in asked.headers}
            for asked in self.asked
            if asked.kind == kind
        ]


@pytest.mark.parametrize(
    ("condition", "headers"),
    [
        (ANY, {}),
        (ABSENT, {"if-none-match": "*"}),
        (Condition(if_match='"e"'), {"if-match": '"e"'}),
    ],
)
@runs
async def test_the_condition_is_sent_with_no_further_request(
    condition: Condition, headers: dict[str, str]
) -> None:
    service = Service()
    async with quirky(service) as store:
        await store.copy("a", "b", condition=condition)
        await store.copy("a", "b", condition=condition, metadata={"mode": "2"})
        assert [asked.kind for asked in service.asked] == ["HeadObject", "CopyObject"] * 2
        kept, given = service.sent("CopyObject")
        assert kept == headers
        assert given.pop(TOKEN, None) is not None or condition == ANY
        assert given == headers
        store._largest = 1
        await store.copy("a", "b", condition=condition)
        assert service.sent("CompleteMultipartUpload") == [headers]


@runs
async def test_a_lost_race_is_told() -> None:
    service = Service()
    service.objects[TARGET] = _object("theirs")
    async with quirky(service) as store:
        for more in ({}, {"metadata": {"mode": "2"}}):
            options: dict[str, Any] = {"condition": ABSENT, **more}
            with pytest.raises(PreconditionFailed):
                await store.copy("a", "b", **options)
            store._largest = 1
            with pytest.raises(PreconditionFailed):
                await store.copy("a", "b", **options)
            store._largest = 5 << 30


@pytest.mark.parametrize(
    ("after", "ours"),
    [
        (_object(mode="1"), True),
        (_object("another", mode="1", **{WRITE_TOKEN: "token"}), True),
        (_object("another", mode="1"), False),
        (_object("another", mode="1", **{WRITE_TOKEN: "other"}), False),
        (_object(size=6, mode="1"), False),
        (_object(mode="2"), False),
    ],
)
@runs
async def test_a_copy_whose_answer_was_lost_is_known_by_what_it_made(
    after: bytes, ours: bool
) -> None:
    """It keeps the metadata, so that it can have no token of its own."""
    service = Service(_object(mode="1", **{WRITE_TOKEN: "token"}))
    service.lost, service.after = 1, after
    async with quirky(service) as store:
        if ours:
            info = await store.copy("a", "b", condition=ABSENT)
            assert (info.key, info.size, info.metadata) == ("b", 5, {"mode": "1"})
        else:
            with pytest.raises(PreconditionFailed):
                await store.copy("a", "b", condition=ABSENT)
    assert len(service.sent("CopyObject")) == 1


@pytest.mark.parametrize("ours", [True, False])
@runs
async def test_a_copy_with_other_metadata_is_known_by_its_token(ours: bool) -> None:
    service = Service()
    service.lost = 1
    service.after = _object(mode="2", **{WRITE_TOKEN: "OURS" if ours else "theirs"})
    async with quirky(service) as store:
        if ours:
            info = await store.copy("a", "b", condition=ABSENT, metadata={"mode": "2"})
            assert (info.key, info.metadata) == ("b", {"mode": "2"})
        else:
            with pytest.raises(PreconditionFailed):
                await store.copy("a", "b", condition=ABSENT, metadata={"mode": "2"})
    assert len(service.sent("CopyObject")) == 1


@pytest.mark.parametrize("source", [f"{SUM}-2", SUM, "0x8DCEA1B7D4F3A6C"])
@pytest.mark.parametrize("ours", [True, False])
@runs
async def test_a_copy_of_what_others_sent_is_known_though_its_etag_is_another(
    source: str, ours: bool
) -> None:
    """The etag of parts, of what a key of KMS encrypts, or of some services is no sum of bytes."""
    there = _object(source, mode="1")
    if source == SUM:
        there = there.replace(b"\r\n\r\n", b"\r\nx-amz-server-side-encryption: aws:kms\r\n\r\n")
    service = Service(there)
    service.lost = 1
    service.after = _object("another", mode="1", **({WRITE_TOKEN: "OURS"} if ours else {}))
    async with quirky(service) as store:
        if ours:
            info = await store.copy("a", "b", condition=ABSENT)
            assert (info.key, info.metadata) == ("b", {"mode": "1"})
        else:
            with pytest.raises(PreconditionFailed):
                await store.copy("a", "b", condition=ABSENT)
    (copy,) = [asked for asked in service.asked if asked.kind == "CopyObject"]
    assert copy.headers["x-amz-meta-mode"] == "1"


@runs
async def test_a_token_takes_no_room_of_what_others_have_given() -> None:
    full = {"mode": "1" * 2020}
    service = Service(_object(f"{SUM}-2", **full))
    async with quirky(service) as store:
        assert (await store.copy("a", "b", condition=ABSENT)).metadata == full
    assert service.asked[-1].headers["x-amz-metadata-directive"] == "COPY"


@runs
async def test_a_copy_that_was_not_made_is_repeated() -> None:
    service = Service()
    service.lost = 2

    def respond(asked: Asked) -> bytes:
        given = service(asked)
        service.objects.pop(TARGET, None)
        return given

    async with quirky(respond) as store:
        assert (await store.copy("a", "b", condition=ABSENT)).etag == f'"{SUM}"'
    assert service.sent("CopyObject") == [{"if-none-match": "*"}] * 3


@pytest.mark.parametrize("text", [True, False])
@runs
async def test_a_service_that_knows_no_conditions_is_not_asked_again(
    capsys: pytest.CaptureFixture[str], text: bool
) -> None:
    """Some say so by the status alone."""
    service = Service(knows=False)
    if not text:
        service.unknown = answer(b"", "501 Not Implemented")
    async with quirky(service) as store:
        await store.copy("a", "b", condition=ABSENT)
        await store.copy("a", "b", condition=Condition(if_match='"e"'))
        assert service.sent("CopyObject") == [{"if-none-match": "*"}, {}, {}]
        store._largest = 1
        await store.copy("a", "b", condition=ABSENT)
        await store.copy("a", "b", condition=ABSENT)
        assert service.sent("CompleteMultipartUpload") == [{"if-none-match": "*"}, {}, {}]
    assert capsys.readouterr().out.count("copies without conditions") == 2


@runs
@pytest.mark.parametrize("largest", [1 << 20, 1])
async def test_what_is_refused_for_another_reason_is_not_asked_for_without_the_condition(
    largest: int,
) -> None:
    service = Service()

    def respond(asked: Asked) -> bytes:
        given = service(asked)
        last = asked.kind in ("CopyObject", "CompleteMultipartUpload")
        return error("ObjectParentIsFile", "409 Conflict") if last else given

    async with quirky(respond) as store:
        store._largest = largest
        with pytest.raises(KeyObstructed):
            await store.copy("a", "b", condition=ABSENT)
    last = "CopyObject" if largest > 1 else "CompleteMultipartUpload"
    assert service.sent(last) == [{"if-none-match": "*"}]
