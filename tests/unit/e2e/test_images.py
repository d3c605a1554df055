"""Images made by hand: the same files give the same bytes, and the archive says what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from e2e.cluster import images
from e2e.cluster.images import Image, Layer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "tool").write_bytes(b"#!/bin/sh\n")
    (root / "usr" / "bin" / "tool").chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    os.link(root / "usr" / "bin" / "tool", root / "usr" / "bin" / "same")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    return root


def members(layer: Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(layer.path) as archive:
        return {info.name: info for info in archive.getmembers()}


def test_a_layer_has_modes_links_and_content(root: Path, tmp_path: Path) -> None:
    layer = images.pack(tmp_path / "layer.tar", root)
    found = members(layer)
    assert sorted(found) == ["bin", "tmp", "usr", "usr/bin", "usr/bin/same", "usr/bin/tool"]
    assert found["bin"].issym() and found["bin"].linkname == "usr/bin"
    assert found["tmp"].mode == 0o1777
    assert found["usr/bin/tool"].islnk() and found["usr/bin/tool"].linkname == "usr/bin/same"
    with tarfile.open(layer.path) as archive:
        extracted = archive.extractfile("usr/bin/same")
        assert extracted is not None and extracted.read() == b"#!/bin/sh\n"


def test_a_layer_depends_on_the_files_and_not_on_when_they_were_written(
    root: Path, tmp_path: Path
) -> None:
    first = images.pack(tmp_path / "first.tar", root)
    os.utime(root / "usr" / "bin" / "tool", (1, 1))
    second = images.pack(tmp_path / "second.tar", root)
    assert first.digest == second.digest
    (root / "usr" / "bin" / "tool").chmod(0o700)
    assert images.pack(tmp_path / "third.tar", root).digest != first.digest


def test_a_layer_of_a_part_has_the_directories_above_it_and_nothing_beside(
    root: Path, tmp_path: Path
) -> None:
    found = members(images.pack(tmp_path / "layer.tar", root, ["usr/bin/tool", "absent"]))
    assert sorted(found) == ["usr", "usr/bin", "usr/bin/tool"]


def test_programs_and_links_make_a_layer_where_any_user_can_write_to_tmp(tmp_path: Path) -> None:
    program = tmp_path / "busybox"
    program.write_bytes(b"ELF")
    layer = images.pack_files(
        tmp_path / "layer.tar", {"bin/busybox": program}, {"bin/sh": "busybox"}
    )
    found = members(layer)
    assert found["bin/busybox"].mode == 0o755 and found["bin/busybox"].size == 3
    assert found["bin/sh"].linkname == "busybox"
    assert found["tmp"].mode == 0o1777


def test_an_archive_has_each_layer_once_and_an_image_s_digests_are_those_of_its_layers(
    root: Path, tmp_path: Path
) -> None:
    base = images.pack(tmp_path / "base.tar", root)
    above = images.pack_files(tmp_path / "above.tar", {}, {"link": "target"})
    found = [
        Image("localhost/base:e2e", [base]),
        Image("localhost/above:e2e", [base, above], ["run"], {"B": "2", "A": "1"}, "0"),
    ]
    images.write_archive(tmp_path / "images.tar", found)
    with tarfile.open(tmp_path / "images.tar") as archive:
        names = archive.getnames()
        assert len(names) == len(set(names)) == 2 + 2 + 1

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        manifest = json.loads(read("manifest.json"))
        assert [entry["RepoTags"] for entry in manifest] == [[image.name] for image in found]
        config = json.loads(read(manifest[1]["Config"]))
        digests = [hashlib.sha256(read(name)).hexdigest() for name in manifest[1]["Layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in digests]
    assert config["config"] == {"Entrypoint": ["run"], "Env": ["A=1", "B=2"], "User": "0"}
