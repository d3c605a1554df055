"""Which images a cluster gets, and their way into containerd."""

from __future__ import annotations

import tempfile
from pathlib import Path

from e2e.cluster import images, rootfs
from e2e.cluster.components import system_program
from e2e.cluster.config import PAUSE_IMAGE
from e2e.cluster.host import run
from e2e.cluster.images import Image
from e2e.cluster.settings import Settings
from e2e.environment import BUSYBOX_IMAGE, DRIVER_IMAGE, PYTHON_IMAGE
from tests.support import binaries

SIDECARS = (binaries.CSI_PROVISIONER, binaries.CSI_RESIZER, binaries.CSI_SNAPSHOTTER)

# As in the Dockerfile.
DRIVER_ENVIRONMENT = {
    "PATH": "/opt/slayerfs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}
_IMPORT_TIMEOUT = 600
"""Seconds for some hundred megabytes that are unpacked to a disk which others use, too."""
_PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def sidecar_image(program: binaries.GoProgram) -> str:
    return f"localhost/{program.name}:{program.version}"


def driver_image(layers: rootfs.DriverLayers, name: str = DRIVER_IMAGE) -> Image:
    """The driver as the Dockerfile has it."""
    return Image(
        name,
        [layers.base, layers.dependencies, layers.project],
        entrypoint=["csi-slayer"],
        environment=DRIVER_ENVIRONMENT,
        user="0",
    )


def load_basics(settings: Settings) -> None:
    """The images of pods' sandboxes, of test pods that need a shell, and of the sidecars."""
    with tempfile.TemporaryDirectory(dir=settings.root) as directory:
        place = Path(directory)
        busybox = _busybox(place / "busybox.tar")
        found = [
            Image(PAUSE_IMAGE, [busybox], entrypoint=["/bin/busybox", "sleep", "infinity"]),
            Image(BUSYBOX_IMAGE, [busybox], entrypoint=["/bin/sh"], environment=_PATH),
        ]
        for program in SIDECARS:
            layer = images.pack_files(
                place / f"{program.name}.tar", {program.name: program.path}, {}
            )
            found.append(Image(sidecar_image(program), [layer], [f"/{program.name}"]))
        load(settings, found)


def load_driver(settings: Settings, *names: str) -> None:
    """Build the driver from this checkout and load it by one or more names.

    With it Debian with Python, its lowest layer, for test pods.
    """
    with tempfile.TemporaryDirectory(dir=settings.root) as directory:
        layers = rootfs.build(Path(directory) / "project.tar")
        python = Image(PYTHON_IMAGE, [layers.base], ["/usr/bin/python3"], _PATH)
        load(settings, [python, *(driver_image(layers, name) for name in names or [DRIVER_IMAGE])])


def load_directory(settings: Settings, name: str, root: Path) -> None:
    """An image of one layer from a directory."""
    with tempfile.TemporaryDirectory(dir=settings.root) as directory:
        layer = images.pack(Path(directory) / "layer.tar", root)
        load(settings, [Image(name, [layer], environment=_PATH)])


def load(settings: Settings, found: list[Image]) -> None:
    """Raises ClusterError: containerd refuses them."""
    with tempfile.TemporaryDirectory(dir=settings.root) as directory:
        archive = Path(directory) / "images.tar"
        images.write_archive(archive, found)
        run(
            f"{settings.bin}/ctr", f"--address={settings.containerd_socket}",
            "--namespace=k8s.io", "images", "import", "--local", str(archive),
            timeout=_IMPORT_TIMEOUT,
        )  # fmt: skip


def _busybox(layer: Path) -> images.Layer:
    program = Path(system_program("busybox"))
    links = {f"bin/{name}": "busybox" for name in run(str(program), "--list").split()}
    del links["bin/busybox"]
    return images.pack_files(layer, {"bin/busybox": program}, links)
