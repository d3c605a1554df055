"""What each refusal of a server means to us."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from csi_slayer.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidRange,
    KeyObstructed,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreUnsupported,
)
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.errors import (
    BucketNameRefused,
    BucketNotEmpty,
    ClockSkewed,
    CredentialsEnded,
    NotImplementedThere,
    UploadNotFound,
    translate,
)


def _answer(status: int, code: str = "", more: str = "", **headers: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>words</Message>{more}</Error>" if code else ""
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()},
                  body.encode())  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", ObjectNotFound),
        (404, "", ObjectNotFound),
        (404, "NoSuchBucket", BucketNotFound),
        (400, "InvalidBucketName", BucketNameRefused),
        (409, "BucketNotEmpty", BucketNotEmpty),
        (404, "NoSuchUpload", UploadNotFound),
        (404, "XAdminUserNotFound", AccessDenied),
        (403, "AccessDenied", AccessDenied),
        (403, "", AccessDenied),
        (401, "", AccessDenied),
        (403, "InvalidAccessKeyId", CredentialsEnded),
        (403, "InvalidTokenId", CredentialsEnded),
        (403, "SignatureDoesNotMatch", AccessDenied),
        (412, "PreconditionFailed", PreconditionFailed),
        (412, "", PreconditionFailed),
        (304, "", PreconditionFailed),
        (416, "InvalidRange", InvalidRange),
        (403, "QuotaExceeded", StoreFull),
        (507, "XMinioStorageFull", StoreFull),
        (400, "XMinioAdminBucketQuotaExceeded", StoreFull),
        (501, "NotImplemented", NotImplementedThere),
        (400, "NotImplemented", NotImplementedThere),
        (501, "", NotImplementedThere),
        (501, "UnsupportedHeader", NotImplementedThere),
        (405, "MethodNotAllowed", StoreUnsupported),
        (400, "KeyTooLongError", StoreUnsupported),
        (409, "ExistingObjectIsDirectory", KeyObstructed),
        (409, "ObjectParentIsFile", KeyObstructed),
        (400, "InvalidPart", StoreError),
        (301, "PermanentRedirect", StoreError),
        (307, "TemporaryRedirect", StoreError),
        (301, "", StoreError),
        (500, "InternalError", Transient),
        (503, "SlowDown", Transient),
        (502, "", Transient),
        (504, "", Transient),
        (429, "", Transient),
        (408, "", Transient),
        (400, "RequestTimeout", Transient),
        (409, "ConditionalRequestConflict", Transient),
        (409, "OperationAborted", Transient),
        (400, "ExpiredToken", CredentialsEnded),
        (400, "", CredentialsEnded),
        (403, "RequestTimeTooSkewed", ClockSkewed),
    ],
)
def test_translation(status: int, code: str, expected: type[Exception]) -> None:
    assert type(translate(_answer(status, code), "Op 'key'", "bucket")) is expected


def test_a_missing_bucket_is_told_by_the_request_too() -> None:
    error = translate(_answer(404), "ListObjectsV2", "bucket", about_object=False)
    assert isinstance(error, BucketNotFound)


@pytest.mark.parametrize(
    ("status", "code", "more", "advice"),
    [
        (403, "InvalidAccessKeyId", "", "check the key id"),
        (403, "SignatureDoesNotMatch", "", "check the secret"),
        (403, "AccessDenied", "", "check its policy"),
        (403, "QuotaExceeded", "", "have the quota raised"),
        (404, "NoSuchBucket", "", "'bucket' does not exist"),
        (301, "PermanentRedirect", "", "check region and endpoint"),
        (
            400,
            "AuthorizationHeaderMalformed",
            "<Region>eu-west-3</Region>",
            "set region to eu-west-3",
        ),
    ],
)
def test_advice(status: int, code: str, more: str, advice: str) -> None:
    error = translate(_answer(status, code, more), "Op", "bucket")
    if isinstance(error, CredentialsEnded):
        error = error.otherwise
    assert advice in str(error)


@pytest.mark.parametrize("code", ["PermanentRedirect", "", "IllegalLocationConstraintException"])
def test_a_redirection_says_where_the_bucket_is(code: str) -> None:
    """AWS names the region in a header; the answer to HEAD has nothing else."""
    error = translate(_answer(301, code, x_amz_bucket_region="eu-west-3"), "Op", "bucket")
    assert "'bucket' is not served here: set region to eu-west-3" in str(error)


def test_a_server_may_ask_for_a_pause() -> None:
    error = translate(_answer(503, "SlowDown", retry_after="7"), "Op", "b")
    assert isinstance(error, Transient)
    assert error.retry_after == 7.0
    error = translate(_answer(503, retry_after="soon"), "Op", "b")
    assert isinstance(error, Transient)
    assert error.retry_after is None


def test_a_bare_403_with_another_clock_is_a_matter_of_the_clock() -> None:
    ahead = formatdate(time.time() + 3600, usegmt=True)
    error = translate(_answer(403, date=ahead), "HeadObject 'key'", "b")
    assert isinstance(error, ClockSkewed)
    assert 3500 < error.offset < 3700
    now = formatdate(time.time(), usegmt=True)
    assert isinstance(translate(_answer(403, date=now), "HeadObject 'key'", "b"), AccessDenied)
