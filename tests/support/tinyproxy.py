"""A real HTTP proxy (Debian's tinyproxy-bin) on loopback."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import wait_for
from tests.support.servers import free_port


@dataclass(frozen=True, slots=True)
class TinyProxy:
    """``url`` without credentials."""

    url: str
    log: Path

    def ways(self) -> int:
        """How often a way to a server was asked for."""
        return self.log.read_text().count(": CONNECT ")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def tinyproxy(directory: Path, *, to: int, user: str = "") -> Iterator[TinyProxy]:
    """Lets clients through to the port ``to`` alone; asks for ``user`` (name, blank, password)."""
    port, log, config = free_port(), directory / "tinyproxy.log", directory / "tinyproxy.conf"
    lines = [
        f"Port {port}", "Listen 127.0.0.1", "Allow 127.0.0.1", "Timeout 60", "MaxClients 100",
        f'LogFile "{log}"', "LogLevel Connect", f"ConnectPort {to}",
    ]  # fmt: skip
    if user:
        lines.append(f"BasicAuth {user}")
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen(
        ["tinyproxy", "-d", "-c", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _answers(port), what="tinyproxy")
        yield TinyProxy(f"http://127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()
