"""What is loaded before workers are forked."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, threading
from csi_slayer.worker.preload import preload
preload()
import gc
print(json.dumps([sorted(sys.modules), threading.active_count(), gc.get_freeze_count()]))
"""


def test_a_preloaded_process_has_all_that_a_worker_needs_and_no_more() -> None:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    ).stdout
    modules, threads, frozen = json.loads(output)
    assert threads == 1
    assert frozen > 10_000
    needed = {"csi_slayer.worker.__main__", "csi_slayer.store.s3.open", "uvloop", "encodings.idna"}
    assert needed <= set(modules)
    packages = {name.partition(".")[0] for name in modules}
    # Large ones, which a worker with explicit keys has no use for, and one that no fork survives.
    assert not packages & {"botocore", "boto3", "grpc", "typer", "kubernetes", "pyfuse3"}
