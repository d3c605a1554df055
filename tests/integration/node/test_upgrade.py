"""From one build to another, and back, under load."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.support.disturb import hashes, run_load
from tests.support.load import big_file
from tests.support.nodes import ROOT, TestNode

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def other_build(directory: Path) -> Path:
    """A copy of the package with another version, and a worker's option that this one lacks."""
    for name in ("csi_slayer", "tests"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = directory / "csi_slayer/__init__.py"
    text, changes = re.subn(r'__version__ = "[^"]*"', '__version__ = "99.0.0"', init.read_text())
    assert changes == 1
    init.write_text(text)
    volume = directory / "csi_slayer/config/volume.py"
    field = "    prefetch: bool = Field("
    text = volume.read_text().replace(field, f'    later: str = Field(default="x")\n{field}')
    assert text != volume.read_text()
    volume.write_text(text)
    return directory


def test_upgrade_and_downgrade_under_load(
    node: TestNode, objects: Path, url: str, tmp_path: Path, disabled: list[str]
) -> None:
    (objects / "big").write_bytes(big_file())
    builds = [ROOT, other_build(tmp_path / "build")]
    path = node.publish("volume", "a", url, fuse={"disable": disabled})
    replaced = []

    def replace() -> None:
        node.stop()
        node.package = builds[(len(replaced) + 1) % 2]
        node.start()
        replaced.append(node.package)

    files = run_load(path, 9, replace, times=4, serving=node.workers)
    assert replaced == builds[::-1] * 2
    assert node.release("volume", "a") == ["volume"]
    assert hashes(objects) == files
    assert "cannot_take_over" not in node.log.read_text()
