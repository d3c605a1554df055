"""From an S3 error answer to one of ours: the only place that knows S3's error codes.

Source: "Error Responses" of the S3 API reference, and what MinIO and versitygw send.
"""

from __future__ import annotations

import time
from errno import EINVAL

from csi_slayer.errors import (
    AccessDenied,
    BucketNotFound,
    InvalidRange,
    KeyObstructed,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreFull,
    StoreIntegrityError,
    StoreUnsupported,
)
from csi_slayer.store.retry import MOST_WRONG_ANSWERS, Transient
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.headers import http_time
from csi_slayer.store.s3.xml import parse_error

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
_TRANSIENT_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
# Of temporary credentials; MinIO knows nothing of those that have ended.
_ENDED_CODES = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken",
    "InvalidTokenId", "TokenRefreshRequired",
})  # fmt: skip
# Ceph and versitygw, with status 403; MinIO; Storj.
_FULL_CODES = frozenset({
    "ExceedsUsageLimit", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull",
})  # fmt: skip
# The body was changed, or cut, on its way.
_DAMAGED_CODES = frozenset({"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})
_ELSEWHERE_CODES = frozenset({
    "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect",
})  # fmt: skip
_UNKNOWN_KEY = "the access key is not known there: check the key id and the endpoint"
_ARCHIVED = "the object is archived: restore it first"
# Codes of a 404 that are about the object; none other may be taken for an object that is gone.
_ABSENT_CODES = frozenset({"", "NoSuchKey", "NoSuchVersion", "NotFound"})
# versitygw, MinIO
_OBSTRUCTED_CODES = frozenset(
    {
        "ExistingObjectIsDirectory",
        "ObjectParentIsFile",
        "XMinioObjectExistsAsDirectory",
        "XMinioParentIsObject",
    }
)
_ADVICE = {
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "XAdminUserNotFound": _UNKNOWN_KEY,  # versitygw, with status 404
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check the secret",
    "InvalidToken": "the session token is not valid: check it, or leave it out",
    "AccessDenied": "the identity may not do this: check its policy and the bucket's",
    "AccountProblem": "the account has a problem",
    "AllAccessDisabled": "access to the bucket is disabled",
    "InvalidObjectState": _ARCHIVED,
    "ObjectNotInActiveTierError": _ARCHIVED,
    "ExpiredToken": "the session token has ended: give new credentials",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's: set it",
}
# A difference of clocks that servers may not accept (seconds); they allow 15 minutes.
SKEW = 300.0


class UploadNotFound(ObjectNotFound):
    """The multipart upload is not there: completed, aborted or never begun."""


class BucketNameRefused(BucketNotFound):
    """The service allows no bucket of that name: there is none, and will be none."""

    errno = EINVAL
    grpc_code = "INVALID_ARGUMENT"


class BucketNotEmpty(StoreError):
    """The bucket cannot be deleted as long as something is in it."""

    grpc_code = "FAILED_PRECONDITION"


class CredentialsEnded(Exception):
    """The credentials have ended; ``otherwise`` is the error if they cannot be renewed.

    ``certain`` False: an answer to HEAD has no text, so this is only the likeliest reason.
    """

    def __init__(self, otherwise: StoreError, certain: bool) -> None:
        super().__init__("the credentials have ended")
        self.otherwise = otherwise
        self.certain = certain


class NotImplementedThere(StoreUnsupported):
    """The service does not know an operation, or a header that came with it."""


class DigestWanted(Exception):
    """Bodies need a Content-MD5 there, as in buckets with object lock; ``otherwise`` as above."""

    def __init__(self, otherwise: StoreError) -> None:
        super().__init__(str(otherwise))
        self.otherwise = otherwise


class ExpectationRefused(Transient):
    """Something on the way knows no ``Expect``: the request is to be sent without."""


class ClockSkewed(Exception):
    """The server's clock is ``offset`` seconds ahead of ours."""

    def __init__(self, offset: float) -> None:
        super().__init__(f"clock differs by {offset:.0f} s")
        self.offset = offset


def translate(
    answer: Answer, what: str, bucket: str, about_object: bool = True, *, clock: float = 0.0
) -> Exception:
    """The exception for an answer that is no success; ``what`` names operation and object,
    ``clock`` is the offset that the request was signed with.

    Besides StoreErrors: Transient, CredentialsEnded, DigestWanted and ClockSkewed, which the
    caller handles.
    """
    code, message, fields = parse_error(answer.body)
    status = answer.status
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return Transient(f"HTTP {status} {code}".rstrip(), retry_after=_seconds(answer.headers))
    if status == 417:
        return ExpectationRefused(
            f"{what}: HTTP 417", immediate=True, limit=2, kind="expect", outcome=StoreError
        )
    offset = clock_offset(answer.headers.get("date", ""))
    bodiless = not answer.body
    skewed = status == 403 and bodiless and abs(offset - clock) > SKEW
    if code == "RequestTimeTooSkewed" or skewed:
        return ClockSkewed(offset)
    region = fields.get("Region") or answer.headers.get("x-amz-bucket-region", "")
    if code in _ELSEWHERE_CODES or (300 <= status < 400 and region):
        return _served_elsewhere(bucket, region, code or f"HTTP {status}")
    error = _by_code(code, message, what, bucket)
    if error is None:
        error = _by_status(answer, code, message, what, about_object)
    if code in _ENDED_CODES or (status == 400 and bodiless):
        return CredentialsEnded(error, certain=code in _ENDED_CODES)
    if code in _DAMAGED_CODES:
        return Transient(str(error), limit=MOST_WRONG_ANSWERS, outcome=StoreIntegrityError)
    if code == "InvalidRequest" and "Content-MD5" in message:
        return DigestWanted(error)
    return error


def denied(what: str, code: str, message: str = "") -> AccessDenied:
    """AccessDenied with the advice for a code."""
    advice = _ADVICE.get(code, message or _ADVICE["AccessDenied"])
    return AccessDenied(f"{what}: {code or 'HTTP 403'}: {advice}")


def _served_elsewhere(bucket: str, region: str, code: str) -> StoreError:
    advice = f"set region to {region}" if region else "check region and endpoint"
    return StoreError(f"bucket {bucket!r} is not served here: {advice} ({code})")


def _by_code(code: str, message: str, what: str, bucket: str) -> StoreError | None:
    if code == "NoSuchBucket":
        return BucketNotFound(f"bucket {bucket!r} does not exist: check its name and the endpoint")
    if code == "InvalidBucketName":
        return BucketNameRefused(
            f"bucket {bucket!r}: the service allows no such name: choose another"
        )
    if code == "BucketNotEmpty":
        return BucketNotEmpty(
            f"bucket {bucket!r} is not empty: something writes there, or its versioning is on and"
            " old versions and delete markers are left, which the driver does not delete: remove"
            " them, or let a lifecycle rule do it; then ask again"
        )
    if code in _FULL_CODES:
        return StoreFull(
            f"{what}: the store has no room, or a quota there is used up: remove something, or have"
            f" the quota raised ({code})"
        )
    if code == "NoSuchUpload":
        return UploadNotFound(f"{what}: there is no such multipart upload")
    if code in _ADVICE:
        return denied(what, code, message)
    if code in _OBSTRUCTED_CODES:
        return KeyObstructed(
            f"{what}: the store cannot hold an object and others below its key ({code})"
        )
    if code == "NotImplemented":
        return NotImplementedThere(f"{what}: the store cannot do that ({code}: {message})")
    if code in ("KeyTooLongError", "XMinioInvalidObjectName"):
        return StoreUnsupported(f"{what}: the store cannot do that ({code}: {message})")
    return None


def _by_status(
    answer: Answer, code: str, message: str, what: str, about_object: bool
) -> StoreError:
    status = answer.status
    detail = f"HTTP {status} {code}".rstrip() + (f": {message[:200]}" if message else "")
    if status == 404 and not about_object:
        return BucketNotFound(f"{what}: {detail}: check bucket and endpoint")
    if status == 404 and code in _ABSENT_CODES:
        return ObjectNotFound(f"{what}: there is no such object")
    if status in (304, 412):  # 304: MinIO until 2024, of a PUT that was to make an object
        return PreconditionFailed(f"{what}: the object is not the expected version")
    if status == 416:
        return InvalidRange(f"{what}: the range is not within the object")
    if status in (401, 403):
        return denied(what, code, message)
    if status == 501:
        return NotImplementedThere(f"{what}: the store cannot do that ({detail})")
    if status == 405:
        return StoreUnsupported(f"{what}: the store cannot do that ({detail})")
    if 300 <= status < 400:
        return StoreError(f"{what}: redirected ({detail}): check endpoint and region")
    return StoreError(f"{what}: {detail}")


def _seconds(headers: dict[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None


def clock_offset(date: str) -> float:
    """Seconds that the server whose Date this is is ahead of us; 0 if it is none."""
    seconds = http_time(date)
    return seconds - time.time() if seconds else 0.0
