"""``csi-slayer node``, ``controller`` and ``keeper``: what they say before they serve."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from csi_slayer.cli import serving
from csi_slayer.cli.main import app
from csi_slayer.errors import ConfigError

runner = CliRunner()


@pytest.mark.parametrize("role", ["node", "controller"])
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("store: {bukket: b}", "did you mean store.bucket?"),
        ("node: {kubelet_dir: /x}", "did you mean node.kubelet_directory?"),
        ("node: {run_directory: x}", "expected an absolute path"),
        ("store: [", "not valid YAML at line 1"),
    ],
)
def test_a_wrong_file_is_explained(role: str, text: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "driver.yaml"
    file.write_text(text)
    result = runner.invoke(app, [role, "--config", str(file)])
    assert result.exit_code == 1
    assert what in result.stderr and str(file) in result.stderr


@pytest.mark.parametrize("role", ["node", "controller"])
def test_a_missing_file_is_named(role: str, tmp_path: Path) -> None:
    result = runner.invoke(app, [role, "-c", str(tmp_path / "absent.yaml")])
    assert result.exit_code == 1 and "absent.yaml" in result.stderr


@pytest.mark.parametrize("role", ["node", "controller", "keeper"])
def test_help_has_examples(role: str) -> None:
    result = runner.invoke(app, [role, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert "Example" in result.stdout and f"csi-slayer {role} -" in result.stdout


def test_keeper_becomes_the_small_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    became: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> NoReturn:
        became.append([program, *arguments])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    result = runner.invoke(app, ["keeper", "--socket", str(tmp_path / "k.sock")])
    assert result.exit_code == 0
    [[program, *arguments]] = became
    assert program == sys.executable and arguments[-1] == str(tmp_path / "k.sock")
    assert Path(arguments[-2]).name == "keeper.py" and Path(arguments[-2]).exists()


@pytest.mark.parametrize("role", ["node", "controller"])
def test_a_file_whose_secrets_others_can_read_is_warned_of(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "driver.yaml"
    file.write_text("store: {access_key_id: AKIA, secret_access_key: hunter2}\n")
    file.chmod(0o644)

    def configured(_config: object) -> NoReturn:
        raise ConfigError("so far and no further")

    monkeypatch.setattr(serving, "configure_logging", configured)
    result = runner.invoke(app, [role, "-c", str(file)])
    warning, *_rest = result.stderr.splitlines()
    assert "store.secret_access_key and can be read by others: chmod 600" in warning
    assert "hunter2" not in result.output
