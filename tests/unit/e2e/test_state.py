"""The state directory of a cluster: whatever is killed meanwhile, `down` can finish it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from e2e.cluster import cluster
from e2e.cluster.processes import ClusterError
from e2e.cluster.settings import MARKER, PARTIAL, Settings


class Killed(BaseException):
    """Ends a removal as SIGKILL does."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "state"
    root.mkdir()
    Settings(root, {"etcd": 20000}, "access", "secret").save()
    for name in ("etcd/wal", "logs", "bin"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    (root / "bin" / "link").symlink_to(root / "logs", target_is_directory=True)
    (root / "link").symlink_to(tmp_path, target_is_directory=True)
    (root / "env.json").write_text("{}")
    return root


def test_settings_are_there_as_a_whole_and_for_their_owner(root: Path) -> None:
    assert Settings.load(root).s3_secret == "secret"
    assert (root / MARKER).stat().st_mode & 0o777 == 0o600
    assert not (root / PARTIAL).exists()


@pytest.mark.parametrize("steps", range(16))
def test_a_removal_that_is_killed_can_be_repeated(
    root: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = steps

    def count(*_arguments: object) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1

    with monkeypatch.context() as patched:
        for module, name in ((os, "unlink"), (os, "rmdir"), (shutil, "rmtree")):
            real = getattr(module, name)

            def counted(*arguments: object, real: object = real, **options: object) -> object:
                count()
                return real(*arguments, **options)  # type: ignore[operator]

            patched.setattr(module, name, counted)
        try:
            cluster.remove_state(root)
        except Killed:
            assert (root / MARKER).exists() or os.listdir(root) == []
    if root.exists() and os.listdir(root):
        assert Settings.load(root).root == root
        cluster.remove_state(root)
    elif root.exists():
        cluster.down(root)
    assert not root.exists()


@pytest.mark.parametrize("left", [(), (PARTIAL,)])
def test_what_a_killed_start_leaves_is_removed(tmp_path: Path, left: tuple[str, ...]) -> None:
    root = tmp_path / "state"
    root.mkdir()
    for name in left:
        (root / name).touch()
    cluster.down(root)
    assert not root.exists()


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="left as it is"):
        cluster.down(tmp_path)
    assert os.listdir(tmp_path) == ["file"]
