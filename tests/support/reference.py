"""The parts of docs/ that are made from the code, between ``<!-- begin: X -->`` and ``end: X``.

``python -m tests.support.reference`` writes them (``make docs``); tests/unit/project/test_docs.py
fails when they are out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer.main

from csi_slayer.cli.main import app
from csi_slayer.config import describe_fields
from csi_slayer.fuse.init import Capabilities
from csi_slayer.observability.instruments import LATENCY_BOUNDS
from tests.support import chart, cluster_reference
from tests.support.families import family_rows, of_volume
from tests.support.limits import limits
from tests.support.tables import table

DOCS = Path(__file__).resolve().parents[2] / "docs"

_BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
_DOCUMENTED = re.compile(r'^    (\w+): bool = True\n    """(.*?)"""', re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the program by its full name, groups before what is in them.

    Their class is click's, which typer brings along under one name or another.
    """

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield name, command
        for below, child in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {below}", child)

    return walk("csi-slayer", typer.main.get_command(app))


def configuration() -> str:
    """A table for each section of the configuration."""
    parts: dict[str, list[list[str]]] = {}
    for field in describe_fields():
        section, _dot, key = field.path.rpartition(".")
        default = "(required)" if field.required else f"`{field.default}`"
        parts.setdefault(section, []).append([f"`{key}`", field.type, default, field.description])
    return "\n".join(
        f"### {section}\n\n" + table(["key", "type", "default", "meaning"], rows)
        for section, rows in parts.items()
    )


def usage() -> str:
    """Arguments and options of each command."""
    texts = []
    for name, command in commands():
        if getattr(command, "commands", None):
            continue
        rows = [_parameter(parameter) for parameter in command.params]
        summary = (command.help or "").split("\n\n")[0]
        texts.append(f"### {name}\n\n{summary}\n\n" + table(["argument", "meaning"], rows))
    return "\n".join(texts)


def _parameter(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        name = parameter.name.upper()
        shown = f"`{name}`" if parameter.required else f"`[{name}]`"
    else:
        takes = "" if parameter.is_flag else " " + parameter.opts[0].lstrip("-").upper()
        shown = ", ".join(f"`{option}{takes}`" for option in parameter.opts)
    default = parameter.default
    shows_default = isinstance(default, float | str)
    return [shown, (parameter.help or "") + (f" (default {default})" if shows_default else "")]


def metrics() -> str:
    """Every family that a mount serves, as the registry describes it."""
    bounds = ", ".join(f"{bound:g}" for bound in LATENCY_BOUNDS)
    return (
        table(["metric", "type", "labels", "meaning"], family_rows(of_volume()))
        + f"\nBuckets of the histograms, seconds: {bounds}.\n"
    )


def capabilities() -> str:
    """Names that ``fuse.disable`` takes."""
    module = sys.modules[Capabilities.__module__].__file__
    assert module is not None
    rows = [
        [f"`{name}`", text]
        for name, text in _DOCUMENTED.findall(Path(module).read_text(encoding="utf-8"))
    ]
    return table(["capability", "what it is"], rows)


def limit_table() -> str:
    """Bounds of queues, caches, retries and waits, with the values the code has."""
    return table(["what", "limit"], [[text, value] for text, value in limits()])


PARTS: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "usage": usage,
    "metrics": metrics,
    "capabilities": capabilities,
    "limits": limit_table,
    "parameters": cluster_reference.parameters,
    "driver_configuration": cluster_reference.driver_configuration,
    "values": cluster_reference.values,
    "alerts": cluster_reference.alerts,
    "driver_metrics": cluster_reference.driver_metrics,
    "driver_limits": cluster_reference.driver_limit_table,
}


def renewed(text: str) -> str:
    """A document with its generated parts as the code has them now."""
    return _BLOCK.sub(
        lambda match: f"{match[1]}{PARTS[match[2]]()}{match[3]}",
        text,
    )


def documents() -> list[Path]:
    """All documents, README first."""
    root = DOCS.parent
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def main() -> int:
    chart.main()
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"written: {path.relative_to(DOCS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
