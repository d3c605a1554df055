"""Versions of the peers, for the head of the table."""

from __future__ import annotations

from bench.errors import BenchError
from bench.machine import first_line
from bench.targets.rclone import Rclone


def rclone_version() -> str:
    try:
        return first_line(Rclone.binary(), "version")
    except BenchError as error:
        return str(error)


def s3fs_version() -> str:
    return first_line("s3fs", "--version")
