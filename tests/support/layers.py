"""The architecture as a check: imports point down, modules form no cycle, files stay small.

``python -m tests.support.layers`` prints what is wrong and fails if anything is.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "csi_slayer"

# From the top to the bottom; packages of one row may not import each other both ways (no cycle).
ROWS = (
    ("cli", "csi"),
    ("node", "volumes"),
    ("worker",),
    ("fuse",),
    ("vfs",),
    ("content", "scheduling"),
    ("catalog", "cache", "store"),
    ("observability",),
    ("config",),
    ("errors",),
)

# Speaks the kernel's protocol and the vocabulary of the VFS, and knows nothing below that.
VOCABULARY = frozenset({"csi_slayer.vfs.types", "csi_slayer.vfs.operations"})
# Plain values that lower layers make and the vocabulary passes on; they depend on nothing.
VALUES = frozenset({"csi_slayer.content.ranges"})
_FUSE_MAY_SEE = frozenset({"fuse", "observability", "config", "errors"})

MOST_LINES = 400
MANY_LINES = 250


@dataclass(frozen=True, slots=True)
class Import:
    """``module`` imports ``target`` (a module of this package) at ``line``.

    ``typing_only``: under ``if TYPE_CHECKING``, so that it is no import when the program runs.
    """

    module: str
    target: str
    line: int
    typing_only: bool = False


def module_name(root: Path, path: Path) -> str:
    """Dotted name of a file below ``root``, the directory that holds the package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path) -> dict[str, Path]:
    """What people wrote: not what the build makes from protos/."""
    paths = sorted((root / PACKAGE).rglob("*.py"))
    return {module_name(root, path): path for path in paths if not path.stem.endswith("_pb2")}


def imports(module: str, path: Path, known: Iterable[str]) -> Iterator[Import]:
    """Imports of this package's modules, anywhere in the file."""
    names = set(known)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(path.read_text(), str(path))
    for_types = {
        below
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for below in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from package import submodule` depends on the submodule.
            below = (f"{base}.{alias.name}" for alias in node.names)
            targets = [name if name in names else base for name in below]
        else:
            continue
        for target in dict.fromkeys(targets):
            if target == PACKAGE or target.startswith(PACKAGE + "."):
                yield Import(module, target, node.lineno, node in for_types)


def layer(module: str) -> str | None:
    """The package below ``csi_slayer`` that a module belongs to; None for ``csi_slayer`` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def _rank(name: str) -> int | None:
    return next((rank for rank, row in enumerate(ROWS) if name in row), None)


def violation(item: Import) -> str | None:
    """What an import does wrong, or None."""
    source, target = layer(item.module), layer(item.target)
    if source is None or target is None:
        return None
    above, below = _rank(source), _rank(target)
    if above is None or below is None:
        unknown = source if above is None else target
        return f"{unknown} is in no layer: add it to ROWS"
    if item.module in VOCABULARY | VALUES:
        seen = VOCABULARY | VALUES if item.module in VOCABULARY else frozenset[str]()
        if item.target in seen or target == "errors":
            return None
        return f"the vocabulary of fuse depends on {item.target}"
    if source == "fuse" and item.target not in VOCABULARY and target not in _FUSE_MAY_SEE:
        return f"fuse sees {item.target}; of what is below it may see types and operations of vfs"
    if below < above:
        return f"{source} imports {target}, which is above it"
    return None


def cycle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """A cycle of a graph as a path that ends where it began, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return None


def problems(root: Path) -> tuple[list[str], list[str]]:
    """Errors and warnings for the package in ``root``."""
    errors: list[str] = []
    warnings: list[str] = []
    known = modules(root)
    by_module: dict[str, set[str]] = {}
    by_package: dict[str, set[str]] = {}
    for module, path in known.items():
        place = path.relative_to(root)
        for item in imports(module, path, known):
            wrong = violation(item)
            if wrong:
                errors.append(f"{place}:{item.line}: {wrong}")
            if item.target != module and not item.typing_only:
                by_module.setdefault(module, set()).add(item.target)
            source, target = layer(module), layer(item.target)
            if source and target and source != target and item.target not in VOCABULARY:
                by_package.setdefault(source, set()).add(target)
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES:
            errors.append(f"{place}: {lines} lines, more than {MOST_LINES}")
        elif lines > MANY_LINES:
            warnings.append(f"{place}: {lines} lines, more than {MANY_LINES}")
    for what, graph in (("modules", by_module), ("packages", by_package)):
        found = cycle(graph)
        if found:
            errors.append(f"import cycle of {what}: {' -> '.join(found)}")
    return errors, warnings


def main() -> int:
    errors, warnings = problems(Path(__file__).resolve().parents[2])
    for line in warnings:
        print(f"warning: {line}")
    for line in errors:
        print(f"error: {line}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
