"""What the node service says of the volumes that it has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csi_slayer.config.driver import NodeConfig
from csi_slayer.errors import MountFailed
from csi_slayer.node.publishing import Publishing
from csi_slayer.node.turns import Turns


def publishing(*caches: Path) -> Publishing:
    """With a volume of each cache directory."""
    node: Any = SimpleNamespace()
    made = Publishing(NodeConfig(), node, Turns())
    for number, directory in enumerate(caches):
        volume: Any = SimpleNamespace(
            config=SimpleNamespace(cache=SimpleNamespace(directory=directory))
        )
        made.volumes[str(number)] = volume
    return made


def test_a_cache_that_was_moved_away_from_volumes_in_use_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(MountFailed, match=str(gone)):
        publishing(tmp_path, gone).check_caches(tmp_path)


def test_volumes_go_on_with_an_earlier_cache_that_is_there(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    publishing(tmp_path, earlier).check_caches(tmp_path)


def test_the_configured_directory_need_not_be_there(tmp_path: Path) -> None:
    publishing(tmp_path / "new").check_caches(tmp_path / "new")
