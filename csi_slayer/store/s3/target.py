"""Which socket to connect to, and what it means when that fails."""

from __future__ import annotations

import functools
import socket
import ssl
import struct
from dataclasses import dataclass, field

from csi_slayer.errors import ConfigError, DescriptorsUsedUp, StoreUnavailable
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.address import bracketed
from csi_slayer.store.s3.proxy import Proxy, TunnelRefused

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_DATED = (9, 10)
_RESET = struct.pack("@ii", 1, 0)  # struct linger: on, zero seconds


@dataclass(frozen=True, slots=True)
class Target:
    """One server; ``tls`` None for plain HTTP, timeouts in seconds; ``proxy`` where it is reached
    through one."""

    host: str
    port: int
    connect_timeout: float
    silence_timeout: float
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: Proxy | None = None

    @property
    def hop(self) -> tuple[str, int]:
        """Host and port to connect to."""
        return (self.host, self.port) if self.proxy is None else (self.proxy.host, self.proxy.port)

    def __str__(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{bracketed(self.host)}:{self.port}"


def reset_on_close(sock: socket.socket) -> None:
    """Let every end of the connection, also that of a killed process, be a reset.

    A body that stops in good order is a complete object to versitygw, whatever Content-Length
    says: so a body must never stop in good order.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


@functools.cache
def system_tls() -> ssl.SSLContext:
    """A client context that trusts the system's authorities: a megabyte, and tens of milliseconds
    to read, so there is one, which a process that forks workers may ask for before."""
    return ssl.create_default_context()


def make_tls(ca_bundle: str | None, verify: bool) -> ssl.SSLContext:
    """A client context. Raises ConfigError if the bundle cannot be used."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if ca_bundle is None:
        return system_tls()
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca_bundle {ca_bundle}: {error.strerror or error}") from error


def connect_failure(target: Target, error: BaseException) -> Exception:
    """What to raise for a connection that did not come about.

    Names and refused connections may come back, so they are transient; a certificate that does
    not fit stays so and is StoreUnavailable at once.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "check the endpoint's name, or give its authority as ca_bundle"
        if error.verify_code in _DATED:
            advice = "check this machine's clock, or have the certificate renewed"
        return StoreUnavailable(
            f"{target}: the certificate is not trusted ({error.verify_message}): {advice}"
        )
    if isinstance(error, ssl.SSLError):
        return StoreUnavailable(
            f"{target}: no TLS connection ({error.reason or error}): "
            "check that the endpoint speaks https"
        )
    if isinstance(error, TunnelRefused):
        return _tunnel_refused(target, error)
    hop, check = str(target), "the endpoint's address"
    if target.proxy is not None:
        hop, check = f"{target} by {target.proxy}", f"the proxy's address ({target.proxy.setting})"
    if isinstance(error, socket.gaierror):
        check = "endpoint, region and DNS" if target.proxy is None else check
        return Transient(f"{hop}: the name cannot be resolved: check {check}")
    if isinstance(error, TimeoutError):
        return Transient(
            f"{hop}: no connection within {target.connect_timeout:g} s: "
            f"check {check} and the network policy"
        )
    if isinstance(error, ConnectionRefusedError):
        return Transient(f"{hop}: connection refused: check {check} and port")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    own = DescriptorsUsedUp.is_meant_by(error)
    outcome = DescriptorsUsedUp if own else StoreUnavailable
    return Transient(f"{hop}: no connection: {reason}", outcome=outcome)


def _tunnel_refused(target: Target, error: TunnelRefused) -> Exception:
    """A gateway's trouble may pass; that the proxy does not want to stays so."""
    proxy = target.proxy
    assert proxy is not None  # who else would refuse a tunnel
    what = f"{target}: {proxy} gives no way there ({error})"
    if error.status >= 500 or error.status == 429:
        return Transient(what)
    if error.status == 407:
        return StoreUnavailable(f"{what}: give {proxy.setting} the user and password it asks for")
    return StoreUnavailable(
        f"{what}: check the proxy's rules, or name the endpoint in {proxy.exceptions}"
    )
