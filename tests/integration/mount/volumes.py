"""S3 volumes for the tests of this directory: configuration files, and the search for secrets."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.servers import S3Server


def write_config(path: Path, server: S3Server, **store: Any) -> Path:
    """A configuration file with the server's credentials; ``store`` replaces keys of it."""
    values: dict[str, Any] = {
        "endpoint": server.endpoint,
        "region": server.region,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
    }
    values |= store
    path.write_text(json.dumps({"store": {k: v for k, v in values.items() if v is not None}}))
    return path


def processes_with(text: str, *, but: Iterable[int] = ()) -> dict[int, str]:
    """Processes whose command line or environment has ``text`` in it, and where."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in but:
            continue
        for name in ("cmdline", "environ"):
            try:
                if text.encode() in (entry / name).read_bytes():
                    found[int(entry.name)] = name
            except OSError:
                continue  # it ended, or is a kernel thread
    return found


def files_with(text: str, *directories: Path) -> list[Path]:
    """Files below the directories that have ``text`` in them; those that go away meanwhile, of
    volumes of other tests, are left out."""
    found = []
    for directory in directories:
        for folder, _folders, names in os.walk(directory):
            for name in names:
                path = Path(folder, name)
                try:
                    if stat.S_ISREG(path.lstat().st_mode) and text.encode() in path.read_bytes():
                        found.append(path)
                except FileNotFoundError:
                    continue
    return found
