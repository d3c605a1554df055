"""``s3fs`` with its disk cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import BenchError
from bench.rows import S3FS
from bench.targets.base import Mounted, MountOptions, Place
from bench.targets.daemon import daemon
from bench.targets.scratch import scratch

_REMEMBERED = 300_000  # entries of its stat cache: more than any row has files


class S3fs:
    """Metadata is trusted for an hour, as by the others. It always uploads at close."""

    name = S3FS
    uploads_at_close = True

    def __init__(self, place: Place) -> None:
        self._place = place

    @contextmanager
    def mounted(self, options: MountOptions) -> Iterator[Mounted]:
        place = self._place
        binary = shutil.which("s3fs")
        if binary is None:
            raise BenchError("s3fs is not installed (package s3fs)")
        environment = {
            "AWSACCESSKEYID": place.access_key,
            "AWSSECRETACCESSKEY": place.secret_key,
        }
        with scratch(place.work, self.name) as paths:
            settings = [
                f"url={place.endpoint}",
                f"endpoint={place.region}",
                "use_path_request_style",
                f"use_cache={paths.cache}",
                "stat_cache_expire=3600",
                f"max_stat_cache_size={_REMEMBERED}",
                "complement_stat",
                "multireq_max=20",
                "parallel_count=8",
                *(["ro"] if options.read_only else []),
            ]
            source = f"{place.bucket}:/{options.prefix}"
            command = [binary, source, str(paths.point), "-f", "-o", ",".join(settings)]
            with daemon(command, environment, paths) as mounted:
                yield mounted
