"""How a volume behaves as a file system."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from csi_slayer.config.base import Section
from csi_slayer.config.units import Duration, Mode, Size


class Durability(StrEnum):
    """When written data is in the store: see docs of each policy's acknowledgement."""

    CLOSE = "close"
    FSYNC = "fsync"
    WRITEBACK = "writeback"


def _metadata_ttl(data: dict[str, Any]) -> float:
    return 3600.0 if data.get("read_only") else 10.0


class VolumeConfig(Section):
    """POSIX semantics, consistency and limits of one volume."""

    read_only: bool = Field(default=False, description="refuse every change")
    durability: Durability = Field(
        default=Durability.CLOSE,
        description="close: close and fsync return when the store has the file; fsync: fsync does,"
        " close uploads in the background; writeback: everything uploads in the background",
    )
    metadata_ttl: Duration = Field(
        default_factory=_metadata_ttl,
        description="how long names and attributes are trusted before the store is asked again",
        json_schema_extra={"default_text": "10s; 1h when read_only"},
    )
    negative_ttl: Duration = Field(
        default=1.0,
        description="how long an absent name is trusted to be absent, in a directory that was not"
        " listed within metadata_ttl",
    )
    close_to_open: bool = Field(
        default=False, description="ask the store for the file's version at each open"
    )
    attributes: Literal["native", "posix"] = Field(
        default="native",
        description="native: where mode or owner differ from the defaults they and the mtime go"
        " into object metadata when a file is written, other changes stay in this node's catalog;"
        " posix: every change is written to the object, and each object's metadata is read at its"
        " first lookup",
    )
    uid: int = Field(
        default_factory=os.getuid,
        ge=0,
        le=0xFFFFFFFE,
        description="owner of objects that do not say",
        json_schema_extra={"default_text": "the mounting user"},
    )
    gid: int = Field(
        default_factory=os.getgid,
        ge=0,
        le=0xFFFFFFFE,
        description="group of objects that do not say",
        json_schema_extra={"default_text": "the mounting user's group"},
    )
    file_mode: Mode = Field(
        default=0o644,
        description="permissions of files that do not say, as an octal string",
        json_schema_extra={"default_text": '"0644"'},
    )
    dir_mode: Mode = Field(
        default=0o755,
        description="permissions of directories that do not say, as an octal string",
        json_schema_extra={"default_text": '"0755"'},
    )
    quota: Size | None = Field(
        default=None,
        gt=0,
        description="most bytes the volume may hold, shown by df; none: no limit",
    )
    zero_upcall: bool = Field(
        default=True,
        description="read-only volumes: the kernel opens files without asking the worker; off:"
        " passthrough opens, better for few huge files",
    )
    prefetch: bool = Field(
        default=True,
        description="fetch ahead of sequential readers and directory scans; off: only what is asked"
        " for, in whole blocks, and small files whole",
    )
    open_wait: Duration | None = Field(
        default=None,
        description="how long the first open of a file over 1 MiB waits for all of it to be in the"
        " cache, so that the kernel reads it by itself (passthrough) from the first byte: for files"
        " that are read whole; 0: opens do not wait; none: those of files from 512 MiB on, where"
        " all of it comes within 3 seconds and such files are read whole",
    )
    io_timeout: Duration = Field(
        default=60.0,
        gt=0,
        description="how long an uncached read, and with durability close a close, waits for a"
        " store with which nothing gets on before EIO (and at most as long again for a request"
        " under way); what was written stays queued, names and attributes that are known are served"
        " beyond their metadata_ttl meanwhile",
    )
    part_size: Size = Field(
        default=16 * 2**20,
        ge=5 * 2**20,
        le=5 * 2**30,
        description="size of the parts of a multipart upload",
    )
    hydrate_max: Size = Field(
        default=64 * 2**20,
        description="largest existing object that is fetched whole when opened for writing; of a"
        " larger one only the changed ranges are kept",
    )
