"""Which socket to connect to, and what it means when that fails."""

from __future__ import annotations

import functools
import socket
import ssl
import struct
from dataclasses import dataclass, field

from csi_slayer.errors import ConfigError, StoreUnavailable
from csi_slayer.store.retry import Transient

_RESET = struct.pack("@ii", 1, 0)  # struct linger: on, zero seconds


@dataclass(frozen=True, slots=True)
class Target:
    """One server; ``tls`` None for plain HTTP, timeouts in seconds."""

    host: str
    port: int
    connect_timeout: float
    silence_timeout: float
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        scheme = "http" if self.tls is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


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
        return StoreUnavailable(
            f"{target}: the certificate is not trusted ({error.verify_message}): "
            "check the endpoint's name, or give its authority as ca_bundle"
        )
    if isinstance(error, ssl.SSLError):
        return StoreUnavailable(
            f"{target}: no TLS connection ({error.reason or error}): "
            "check that the endpoint speaks https"
        )
    if isinstance(error, socket.gaierror):
        return Transient(f"{target}: the name cannot be resolved: check endpoint, region and DNS")
    if isinstance(error, TimeoutError):
        return Transient(
            f"{target}: no connection within {target.connect_timeout:g} s: "
            "check the endpoint's address and the network policy"
        )
    if isinstance(error, ConnectionRefusedError):
        return Transient(f"{target}: connection refused: check the endpoint's address and port")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Transient(f"{target}: no connection: {reason}")
