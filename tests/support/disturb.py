"""The self-checking load of :mod:`tests.support.load` on a volume, while something is killed."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.support.mounts import wait_for

LONGEST = 0.8
"""Seconds that a worker lives at most before the next disturbance: some die while they start,
some while they serve."""


def run_load(
    path: Path,
    seed: int,
    disturb: Callable[[], object],
    *,
    times: int,
    serving: Callable[[], object],
) -> dict[str, str]:
    """Run the load until it was disturbed so many times; fails if it sees any error.

    ``serving`` tells that a process is there again that can be disturbed. Returns the files that
    must be there afterwards. Nothing here touches the mount: while no worker serves it that would
    wait.
    """
    rng = random.Random(seed)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.load", str(path), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "under way\n"
            for _ in range(times):
                if process.poll() is not None:
                    break  # it failed
                wait_for(serving, what="a process to disturb")
                time.sleep(rng.uniform(0, LONGEST))
                disturb()
            out, err = process.communicate(timeout=150)
        finally:
            process.kill()
    assert process.returncode == 0, err
    files: dict[str, str] = json.loads(out)["files"]
    return files


def left_names(keys: Iterable[str]) -> list[str]:
    """Of a bucket's keys those where the load removes everything that it makes."""
    return [key for key in keys if key.startswith("names/") and key != "names/"]


def hashes(objects: Path) -> dict[str, str]:
    """What a local store holds, by key."""
    return {
        str(path.relative_to(objects)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in objects.rglob("*")
        if path.is_file() and not path.relative_to(objects).parts[0].startswith(".slayerfs")
    }
