"""Container images made by hand: layers as tar files, and the archive that ``ctr`` imports."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Layer:
    """An uncompressed tar file; the digest is of its bytes."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> Layer:
        with path.open("rb") as file:
            return cls(path, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True, slots=True)
class Image:
    """``entrypoint`` and ``environment`` as in a Dockerfile. ``name`` with host and tag."""

    name: str
    layers: Sequence[Layer]
    entrypoint: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""

    def config(self) -> bytes:
        """The image's configuration (OCI image specification, config.md)."""
        values: dict[str, Any] = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "config": {
                "Entrypoint": list(self.entrypoint),
                "Env": [f"{name}={value}" for name, value in sorted(self.environment.items())],
                "User": self.user,
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{layer.digest}" for layer in self.layers],
            },
        }
        return json.dumps(values, sort_keys=True).encode()


def pack(layer: Path, root: Path, under: Sequence[str] = (".",)) -> Layer:
    """A layer of what is in ``root``, or only below some paths in it.

    The same files give the same bytes: sorted, owned as they are, without times. Devices and
    sockets are left out. Raises ValueError: a deletion of the overlay file system, which no layer
    here should need.
    """
    temporary = layer.with_suffix(".partial")
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        names: dict[tuple[int, int], str] = {}
        for path in _sorted_paths(root, under):
            _add(archive, root, path, names)
    temporary.replace(layer)
    return Layer.of(layer)


def _sorted_paths(root: Path, under: Iterable[str]) -> list[Path]:
    found: set[Path] = set()
    for start in under:
        top = root / start
        if not os.path.lexists(top):
            continue
        found.add(top)
        found.update(parent for parent in top.parents if parent.is_relative_to(root))
        for directory, directories, files in os.walk(top):
            found.update(Path(directory, name) for name in (*directories, *files))
    return sorted(found - {root})


def _add(
    archive: tarfile.TarFile, root: Path, path: Path, names: dict[tuple[int, int], str]
) -> None:
    status = path.lstat()
    name = path.relative_to(root).as_posix()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        raise ValueError(f"{name} deletes a file of a lower layer")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or path.is_symlink()):
        return
    # By hand: TarFile.gettarinfo remembers the names of links over all archives' sources.
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    if path.is_symlink():
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
    elif path.is_dir():
        info.type = tarfile.DIRTYPE
    elif (first := names.setdefault((status.st_dev, status.st_ino), name)) != name:
        info.type, info.linkname = tarfile.LNKTYPE, first
    else:
        info.size = status.st_size
        with path.open("rb") as file:
            archive.addfile(info, file)
        return
    archive.addfile(info)


def pack_files(layer: Path, files: Mapping[str, Path], links: Mapping[str, str]) -> Layer:
    """A layer of some programs (name in the image: file here) and symbolic links to them."""
    temporary = layer.with_suffix(".partial")
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        # Writable by all, as everywhere: pods may run as any user.
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(directory)
        for name, path in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(info, file)
        for name, target in sorted(links.items()):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    temporary.replace(layer)
    return Layer.of(layer)


def write_archive(path: Path, images: Sequence[Image]) -> None:
    """All images in one archive of Docker's format; layers that they share are in it once."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for layer in {layer.digest: layer for image in images for layer in image.layers}.values():
            info = tarfile.TarInfo(f"{layer.digest}.tar")
            info.size = layer.path.stat().st_size
            with layer.path.open("rb") as file:
                archive.addfile(info, file)
        manifest = []
        for image in images:
            config = image.config()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add_bytes(archive, name, config)
            layers = [f"{layer.digest}.tar" for layer in image.layers]
            manifest.append({"Config": name, "RepoTags": [image.name], "Layers": layers})
        _add_bytes(archive, "manifest.json", json.dumps(manifest).encode())


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
