"""The self-checking load on a published volume, and what the objects must be afterwards."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.servers import S3Server

SECONDS = 10.0


def run_load(
    path: Path, seed: int, disturb: Callable[[], None], seconds: float = SECONDS
) -> dict[str, str]:
    """Run the load while ``disturb`` is called again and again; fails if it sees any error.

    Returns the files that must be there afterwards. Nothing here touches the mount: while no
    worker serves it that would wait.
    """
    rng = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.load", str(path), str(seconds), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    times = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end - 1 and process.poll() is None:
        time.sleep(rng.uniform(0.05, 1.2))
        disturb()
        times += 1
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert times > 0
    files: dict[str, str] = json.loads(out)["files"]
    return files


def hashes(objects: Path) -> dict[str, str]:
    """What a local store holds, by key."""
    return {
        str(path.relative_to(objects)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in objects.rglob("*")
        if path.is_file() and not path.relative_to(objects).parts[0].startswith(".slayerfs")
    }


def s3_store(server: S3Server, **values: Any) -> dict[str, Any]:
    """The ``store`` section for a server; ``values`` replace keys of it."""
    return {
        "endpoint": server.endpoint,
        "region": server.region,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        **values,
    }
