"""The layer check finds what it should, and finds nothing in this tree."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.layers import MOST_LINES, problems


def _tree(root: Path, files: dict[str, str]) -> tuple[list[str], list[str]]:
    for name, text in files.items():
        path = root / "csi_slayer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return problems(root)


def test_this_tree_keeps_its_layers() -> None:
    errors, _ = problems(Path(__file__).resolve().parents[3])
    assert errors == []


@pytest.mark.parametrize(
    ("module", "statement", "expected"),
    [
        ("store/s3.py", "import csi_slayer.vfs.handles", "store imports vfs, which is above it"),
        ("store/s3.py", "from csi_slayer.vfs import handles", "store imports vfs"),
        ("store/s3.py", "from ..vfs.handles import x", "store imports vfs"),
        ("store/s3.py", "def f():\n    from csi_slayer import worker", "store imports worker"),
        ("errors/x.py", "from csi_slayer.config import y", "errors imports config"),
        (
            "fuse/loop.py",
            "from csi_slayer.vfs.handles import x",
            "fuse sees csi_slayer.vfs.handles",
        ),
        ("fuse/loop.py", "import csi_slayer.store.base", "fuse sees csi_slayer.store.base"),
        ("vfs/types.py", "import csi_slayer.catalog", "the vocabulary of fuse depends on"),
        ("content/ranges.py", "import csi_slayer.store", "the vocabulary of fuse depends on"),
        ("novel/x.py", "import csi_slayer.errors", "novel is in no layer"),
    ],
)
def test_refuses(tmp_path: Path, module: str, statement: str, expected: str) -> None:
    existing = ("vfs/__init__.py", "vfs/handles.py", "worker/__init__.py")
    errors, _ = _tree(tmp_path, dict.fromkeys(existing, "") | {module: statement})
    assert len(errors) == 1
    assert expected in errors[0]
    assert errors[0].startswith(f"csi_slayer/{module}:")


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("fuse/loop.py", "from csi_slayer.vfs.types import Attr\nimport csi_slayer.errors"),
        ("vfs/operations.py", "from csi_slayer.vfs.types import Attr"),
        ("vfs/types.py", "from csi_slayer.content.ranges import FileRange"),
        ("vfs/handles.py", "import csi_slayer.content.read, csi_slayer.catalog.inode"),
        ("content/read.py", "from csi_slayer.scheduling import window"),
        ("cli/main.py", "import csi_slayer\nfrom csi_slayer import __version__, worker"),
        ("store/s3.py", "import os, csi_slayerish"),
    ],
)
def test_allows(tmp_path: Path, module: str, statement: str) -> None:
    assert _tree(tmp_path, {module: statement}) == ([], [])


def test_finds_a_cycle_of_modules(tmp_path: Path) -> None:
    errors, _ = _tree(
        tmp_path,
        {
            "store/a.py": "import csi_slayer.store.b",
            "store/b.py": "from csi_slayer.store import c",
            "store/c.py": "from . import a",
        },
    )
    assert len(errors) == 1
    assert errors[0].startswith("import cycle of modules: csi_slayer.store.")


def test_a_back_reference_for_types_is_no_cycle_but_keeps_the_layers(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import csi_slayer."
    files = {"store/a.py": "import csi_slayer.store.b", "store/b.py": guarded + "store.a"}
    assert _tree(tmp_path, files) == ([], [])
    errors, _ = _tree(tmp_path, {"store/c.py": guarded + "vfs.types"})
    assert errors == ["csi_slayer/store/c.py:3: store imports vfs, which is above it"]


def test_finds_a_cycle_of_packages_without_one_of_modules(tmp_path: Path) -> None:
    errors, _ = _tree(
        tmp_path,
        {
            "store/a.py": "import csi_slayer.cache.b",
            "cache/c.py": "import csi_slayer.store.d",
        },
    )
    assert len(errors) == 1
    assert errors[0].startswith("import cycle of packages: ")


def test_measures_files(tmp_path: Path) -> None:
    errors, warnings = _tree(
        tmp_path, {"store/big.py": "#\n" * (MOST_LINES + 1), "store/long.py": "#\n" * 251}
    )
    assert errors == [f"csi_slayer/store/big.py: 401 lines, more than {MOST_LINES}"]
    assert warnings == ["csi_slayer/store/long.py: 251 lines, more than 250"]
