"""boto3 as an independent oracle: looks into buckets and changes them behind a mount's back.

It shares no code with the S3 client of the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


class S3Admin:
    """A few calls by the names that tests think in; ``client`` is boto3's for everything else."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str, region: str) -> None:
        # A session of its own: boto3's default one is shared state and not safe across threads.
        self.client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=region,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"mode": "standard", "total_max_attempts": 3},
                connect_timeout=5,
                read_timeout=60,
            ),
        )

    def create_bucket(self, bucket: str) -> None:
        self.client.create_bucket(Bucket=bucket)

    def put(
        self, bucket: str, key: str, body: bytes = b"", metadata: dict[str, str] | None = None
    ) -> str:
        """Write an object; returns its etag as the server sends it."""
        answer = self.client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=metadata or {})
        etag: str = answer["ETag"]
        return etag

    def get(self, bucket: str, key: str) -> bytes:
        """An object's bytes. Raises KeyError if there is none."""
        try:
            body: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise KeyError(key) from None
            raise
        return body

    def head(self, bucket: str, key: str) -> dict[str, Any] | None:
        """The head answer (ContentLength, ETag, Metadata...), or None if there is no object."""
        try:
            answer: dict[str, Any] = self.client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return answer

    def delete(self, bucket: str, key: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=key)

    def objects(self, bucket: str, prefix: str = "") -> Iterator[dict[str, Any]]:
        """All objects below a prefix (Key, Size, ETag), in key order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            yield from page.get("Contents", ())

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        return [item["Key"] for item in self.objects(bucket, prefix)]

    def uploads(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that are neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=bucket)
        return [item["Key"] for item in answer.get("Uploads", ())]

    def delete_bucket(self, bucket: str) -> None:
        """Remove a bucket with everything in it; no error if it is gone already."""
        try:
            for key in self.keys(bucket):
                self.delete(bucket, key)
            for item in self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
                self.client.abort_multipart_upload(
                    Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"]
                )
            self.client.delete_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise
