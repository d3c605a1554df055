"""Which target paths are accepted, without any mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.errors import ConfigError, MountFailed
from csi_slayer.node import binding
from csi_slayer.node.binding import Binder


@given(st.text(alphabet="/.ab\0", max_size=30))
def test_only_paths_below_the_kubelet_are_real(text: str) -> None:
    binder = Binder(Path("/var/lib/kubelet"))
    for path in (text, f"/var/lib/kubelet/{text}", f"/var/lib/kubelet{text}"):
        try:
            real = binder.real(path)
        except ConfigError:
            continue
        assert real.startswith("/var/lib/kubelet/")
        assert os.path.normpath(real) == real
        assert ".." not in real.split("/")
        assert "\0" not in real


def test_a_kubelet_directory_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "kubelet").symlink_to("data")
    binder = Binder(tmp_path / "kubelet")
    assert binder.real(str(tmp_path / "kubelet/pods/x")) == str(tmp_path / "data/pods/x")


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    binder = Binder(tmp_path)
    assert binder.remove(str(tmp_path / "pods/x/mount"))
    (tmp_path / "mount").mkdir()
    assert binder.remove(str(tmp_path / "mount"))
    assert not (tmp_path / "mount").exists()


def test_a_directory_with_something_in_it_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount/file").touch()
    assert not Binder(tmp_path).remove(str(tmp_path / "mount"))
    assert (tmp_path / "mount/file").exists()


def test_what_is_not_mounted_is_not_bound(tmp_path: Path) -> None:
    binder = Binder(tmp_path)
    (tmp_path / "private").mkdir()
    with pytest.raises(MountFailed, match="nothing is mounted"):
        binder.bind(str(tmp_path / "private"), str(tmp_path / "target"), 55)
    assert not (tmp_path / "target").exists()


def test_a_directory_with_something_in_it_is_not_covered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/file").touch()
    private = str(tmp_path / "private")
    monkeypatch.setattr(binding, "shown", lambda path, connection: path == private)
    with pytest.raises(MountFailed, match="move its content") as refused:
        Binder(tmp_path).bind(private, str(tmp_path / "target"), 55)
    assert refused.value.grpc_code == "FAILED_PRECONDITION"


def test_no_target_is_in_or_over_the_driver_s_directories(tmp_path: Path) -> None:
    own = ("kubelet/plugins/csi", "kubelet/plugins_registry", "kubelet/var/cache")
    binder = Binder(tmp_path / "kubelet", [tmp_path / path for path in own])
    for refused in (
        *("plugins", "plugins/csi", "plugins/csi/x", "plugins_registry", "plugins_registry/x"),
        *("var", "var/cache", "var/cache/staging", "pods"),
    ):
        with pytest.raises(ConfigError, match="own directory"):
            binder.real(str(tmp_path / "kubelet" / refused))
    for accepted in ("pods/x/mount", "plugins/other", "plugins/csi2", "variable"):
        path = str(tmp_path / "kubelet" / accepted)
        assert binder.real(path) == path


def test_a_slash_at_the_end_is_of_no_meaning(tmp_path: Path) -> None:
    binder = Binder(tmp_path)
    assert binder.real(f"{tmp_path}/pods/x/") == f"{tmp_path}/pods/x"
    with pytest.raises(ConfigError):
        binder.real(f"{tmp_path}/")


def test_a_name_that_no_file_system_takes_is_refused(tmp_path: Path) -> None:
    binder = Binder(tmp_path)
    assert binder.real(f"{tmp_path}/pods/{'x' * 255}/y")
    for name in ("x" * 256, "é" * 128):
        with pytest.raises(ConfigError, match="255 bytes"):
            binder.real(f"{tmp_path}/pods/{name}/y")


def test_a_parent_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = str(tmp_path / "private")
    monkeypatch.setattr(binding, "shown", lambda path, connection: path == private)
    with pytest.raises(MountFailed, match="parent directory") as refused:
        Binder(tmp_path).bind(private, str(tmp_path / "pods/x/mount"), 55)
    assert refused.value.grpc_code == "FAILED_PRECONDITION"


def test_what_is_no_directory_is_not_removed(tmp_path: Path) -> None:
    binder = Binder(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        assert not binder.remove(str(tmp_path / name))
        assert os.path.lexists(tmp_path / name)


def test_a_connection_without_a_descriptor_is_dead() -> None:
    assert not binding.alive(None)
