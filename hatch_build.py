"""Makes the Python modules of protos/ when a wheel or an editable install is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "csi_slayer/csi/proto"


def generate(root: Path) -> None:
    """Write ``*_pb2.py`` and their type stubs into the package, from the checkout at ``root``.

    The virtual directory (``-IPACKAGE=protos``) makes names and imports in them those of the
    package. Raises CalledProcessError, after the compiler's own output.
    """
    names = [f"{PACKAGE}/{path.name}" for path in sorted((root / "protos").glob("*.proto"))]
    options = [f"-I{PACKAGE}=protos", "--python_out=.", "--pyi_out=."]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *names],
                   cwd=root, check=True)  # fmt: skip


class ProtoBuildHook(BuildHookInterface[Any]):
    """Named ``custom`` in pyproject.toml."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))
        # They are in .gitignore, and what is there is left out unless named here.
        build_data["artifacts"].append(f"/{PACKAGE}/*_pb2.py*")
