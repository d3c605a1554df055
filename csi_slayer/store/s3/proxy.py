"""The way to an https service through an HTTP proxy: CONNECT (RFC 9110, 9.3.6).

Which proxy is said by the options, or by HTTPS_PROXY and NO_PROXY as with curl and the AWS tools.
"""

from __future__ import annotations

import ipaddress
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from csi_slayer.errors import ConfigError
from csi_slayer.store.options import StoreOptions
from csi_slayer.store.s3.address import bracketed

MOST_HEAD_BYTES = 16 << 10
"""Bytes of the longest answer to CONNECT."""

OPTION, VARIABLE = "store.proxy", "HTTPS_PROXY"
"""Where a proxy can be given."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r\n")


class TunnelRefused(OSError):
    """The proxy gives no way to the server; ``status`` 0 where its answer is no HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status = status


@dataclass(frozen=True, slots=True)
class Proxy:
    """``authorization`` is the value of Proxy-Authorization, None for none; ``setting`` where it
    was given."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    setting: str = field(default=OPTION, compare=False)

    def __str__(self) -> str:
        return f"http://{bracketed(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        """With user and password, for whoever speaks to it by itself: a secret."""
        if self.authorization is None:
            return str(self)
        given = b64decode(self.authorization.removeprefix("Basic "))
        user, _, password = given.partition(b":")
        at = f"{quote(user, safe='')}:{quote(password, safe='')}@"
        return str(self).replace("http://", f"http://{at}", 1)

    @property
    def exceptions(self) -> str:
        """Where those are listed that are not reached through it."""
        return "store.no_proxy" if self.setting == OPTION else "NO_PROXY"

    def request(self, host: str, port: int) -> bytes:
        """What asks for a way to a server."""
        place = f"{bracketed(host)}:{port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def check_answer(head: bytes) -> bool:
    """Whether the answer to CONNECT is complete; the server speaks only when it is spoken to, so
    nothing follows. Raises TunnelRefused if it is not that there is a way."""
    if b"\r\n\r\n" not in head:
        if len(head) >= MOST_HEAD_BYTES:
            raise TunnelRefused(0, "its answer has no end")
        return False
    status = _STATUS.match(head)
    if status is None:
        raise TunnelRefused(0, "its answer is no HTTP")
    if not 200 <= int(status[1]) < 300:
        reason = (status[2] or b"").decode("ascii", "replace")
        raise TunnelRefused(int(status[1]), reason[:100])
    return True


def find_proxy(
    options: StoreOptions, host: str, port: int, environment: Mapping[str, str] = os.environ
) -> Proxy | None:
    """The proxy for an https service; None for one that is asked directly: what is listed, and
    without a proxy in the options this machine itself. Raises ConfigError for what is no proxy's
    URL."""
    url, setting = options.proxy, OPTION
    if url is None:
        url, setting = environment.get("https_proxy") or environment.get(VARIABLE), VARIABLE
        if not url or _is_here(host):
            return None
    listed = options.no_proxy
    if listed is None:
        listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return None if is_listed(host, port, listed) else parse_proxy(url, setting)


def parse_proxy(url: str, setting: str) -> Proxy:
    """``http://[user:password@]host[:port]``; curl takes it without the scheme, too. Raises
    ConfigError, which does not repeat it."""
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
        valid = parts.scheme == "http" and host and host.isascii()
    except ValueError:
        valid = False
    if not valid or host is None:
        raise ConfigError(
            f"{setting}: expected http://host:port, of a proxy that is spoken to without TLS"
        )
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode()
    return Proxy(host, port, authorization, setting)


def _is_here(host: str) -> bool:
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def is_listed(host: str, port: int, listed: str) -> bool:
    """As Go and curl read NO_PROXY: names with all below them, addresses, networks, ``*``; each
    may have a port."""
    name = host.lower().rstrip(".")
    address = _address(name)
    for entry in re.split(r"[,\s]+", listed.lower()):
        rule, number = _split_port(entry)
        if not rule or number not in (None, port):
            continue
        if rule == "*":
            return True
        if address is not None:
            if _covers(rule, address):
                return True
            continue
        suffix = rule.removeprefix("*").lstrip(".").rstrip(".")
        if name == suffix or name.endswith("." + suffix):
            return True
    return False


def _split_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", entry)
    rule, number = (match[1], int(match[2])) if match else (entry, None)
    return rule.strip("[]"), number


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _covers(rule: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return False
