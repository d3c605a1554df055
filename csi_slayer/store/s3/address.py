"""Where a bucket is: server, host header and path of its objects; and the URL of a volume."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from csi_slayer.errors import ConfigError
from csi_slayer.store.s3.sign import encode_path

_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """``host_header`` as sent and signed; ``root`` the path of the bucket, ending in a slash."""

    secure: bool
    host: str
    port: int
    host_header: str
    root: str
    bucket: str
    prefix: str

    def path(self, key: str) -> str:
        """The encoded path of an object; ``..`` and ``//`` stay as they are."""
        return self.root + encode_path(self.prefix + key)

    @property
    def bucket_path(self) -> str:
        """The path of requests about the bucket."""
        return self.root if self.root == "/" else self.root[:-1]

    def copy_source(self, key: str) -> str:
        """The value of ``x-amz-copy-source``."""
        return encode_path(f"{self.bucket}/{self.prefix}{key}")


def bracketed(host: str) -> str:
    """As hosts stand in URLs and before ports: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def split_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of ``s3://bucket/prefix``; the prefix is empty or ends in a slash.

    Raises ConfigError. Nothing is decoded: the prefix is text as the keys are.
    """
    scheme, separator, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not separator or not bucket:
        raise ConfigError(f"{url!r} is no store: expected s3://bucket/prefix")
    if "@" in bucket:
        raise ConfigError("credentials do not belong in the URL of a store")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return bucket, prefix


def locate(
    bucket: str,
    prefix: str,
    endpoint: str | None,
    region: str,
    path_style: bool | None,
    *,
    setting: str = "endpoint",
) -> BucketAddress:
    """The address of a bucket. Raises ConfigError, which names ``setting``, for an endpoint that is
    no URL.

    ``path_style`` None: virtual-host style on AWS where the name allows it (a dot would not fit
    the certificate), path style on an endpoint of its own.
    """
    own = endpoint is not None
    if endpoint is None:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = f"https://s3.{region}.{domain}"
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ConfigError(f"{setting}: expected an http:// or https:// URL with a host name")
    secure = parts.scheme == "https"
    dns_name = _DNS_BUCKET.fullmatch(bucket) is not None
    if path_style is None:
        path_style = own or not dns_name or (secure and "." in bucket)
    elif not path_style and not dns_name:
        raise ConfigError(f"bucket {bucket!r} cannot be part of a host name: use path_style")
    base = encode_path(parts.path.rstrip("/"))
    if path_style:
        root = f"{base}/{encode_path(bucket)}/"
    else:
        host, root = f"{bucket}.{host}", f"{base}/"
    default = 443 if secure else 80
    shown = bracketed(host)
    return BucketAddress(
        secure=secure,
        host=host,
        port=port or default,
        host_header=shown if port in (None, default) else f"{shown}:{port}",
        root=root,
        bucket=bucket,
        prefix=prefix,
    )
