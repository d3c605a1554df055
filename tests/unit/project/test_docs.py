"""The documents say what the code does: generated parts, commands, links."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from csi_slayer.cache.layout import Layout
from csi_slayer.cli.main import app
from tests.support.reference import commands, documents, renewed

ROOT = Path(__file__).resolve().parents[3]

_FENCE = re.compile(r"(?:<!-- test: ([\w-]+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


class Block(NamedTuple):
    """A fenced block; ``test`` is its mark, or empty."""

    document: str
    test: str
    language: str
    text: str


def blocks() -> list[Block]:
    return [
        Block(path.name, *(group or "" for group in match.groups()))
        for path in documents()
        for match in _FENCE.finditer(path.read_text(encoding="utf-8"))
    ]


def invocations() -> Iterator[tuple[str, list[str]]]:
    """Every ``csi-slayer ...`` line of the documents, with its words."""
    for block in blocks():
        if block.language != "sh":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "|" in words:
                words = words[: words.index("|")]
            if words and words[0] == "csi-slayer":
                yield f"{block.document}: {line}", words[1:]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_generated_parts_are_what_the_code_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == renewed(text), "run: make docs"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize(("line", "words"), list(invocations()), ids=lambda value: str(value)[:60])
def test_documented_invocations_exist(line: str, words: list[str]) -> None:
    known: dict[str, Any] = {
        name.removeprefix("csi-slayer").strip(): command for name, command in commands()
    }
    name = next((x for x in (" ".join(words[:2]), words[0]) if x in known), None)
    assert name is not None, line
    options = {option for parameter in known[name].params for option in parameter.opts}
    used = [word.partition("=")[0] for word in words if word.startswith("-")]
    assert set(used) <= options | {"--help"}, line


@pytest.mark.parametrize("name", [name for name, _command in commands()])
def test_every_command_has_a_help_text(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split()[1:], "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_each_command_is_documented_with_an_example() -> None:
    shown = {" ".join(words[:2]) for _, words in invocations()}
    shown |= {words[0] for _, words in invocations()}
    missing = {
        name.removeprefix("csi-slayer ")
        for name, command in commands()
        if not getattr(command, "commands", None)
    } - shown
    assert missing == set()


@pytest.mark.integration
@pytest.mark.parametrize("block", [b for b in blocks() if b.test], ids=lambda block: block.test)
def test_marked_blocks_run(block: Block, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    (tmp_path / "objects").mkdir()
    Layout(tmp_path / "cache")
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env=env, cwd=ROOT, text=True, capture_output=True, timeout=90,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_blocks_are_marked_for_running() -> None:
    assert {block.test for block in blocks()} >= {"mount", "quick", "doctor", "bench-list"}
