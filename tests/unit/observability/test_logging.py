"""Log lines: their form, their context, their secrets, and a writer that never blocks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from csi_slayer.config import LogConfig
from csi_slayer.errors import ConfigError
from csi_slayer.observability import log_writer
from csi_slayer.observability.log_file import LogFile
from csi_slayer.observability.log_writer import LogWriter
from csi_slayer.observability.logging import configure_logging, get_logger, log_context
from csi_slayer.observability.secrets import register_secrets

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Callable[..., Read]]:
    """Configures logging to a file; the answer closes the log and reads it."""
    root = logging.getLogger()
    level = root.level
    writers: list[LogWriter] = []

    def configure(
        level: Literal["debug", "info", "warning", "error"] = "info",
    ) -> Read:
        path = tmp_path / "out.jsonl"
        writer = configure_logging(LogConfig(level=level, file=path))
        writers.append(writer)

        def read() -> list[dict[str, Any]]:
            writer.close()
            return [json.loads(line) for line in path.read_text().splitlines()]

        return read

    yield configure
    _undo(*writers)
    root.setLevel(level)


@contextmanager
def logging_to_stderr(style: Literal["json", "text"]) -> Iterator[None]:
    """All that was logged within is written at the end."""
    writer = configure_logging(LogConfig(format=style))
    try:
        yield
    finally:
        _undo(writer)


def _undo(*writers: LogWriter) -> None:
    for writer in writers:
        writer.close()
        logging.getLogger().removeHandler(writer)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    register_secrets([], only=True)


def test_an_event_is_one_json_object(configured: Callable[..., Read]) -> None:
    read = configured()
    get_logger("csi_slayer.test").info("file_uploaded", key="a/ü\n", size=5, raw=b"\xff")
    (line,) = read()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line["event"] == "file_uploaded"
    assert line["level"] == "info"
    assert line["logger"] == "csi_slayer.test"
    assert (line["key"], line["size"], line["raw"]) == ("a/ü\n", 5, "b'\\xff'")


def test_context_follows_into_tasks_and_ends(configured: Callable[..., Read]) -> None:
    read = configured()
    log = get_logger("x")

    async def task() -> None:
        log.info("inside")

    async def run() -> None:
        with log_context(volume="vol", request=7):
            await asyncio.gather(task(), asyncio.create_task(task()))
            logging.getLogger("foreign").warning("from %s", "outside")
        log.info("after")

    asyncio.run(run())
    *inside, after = read()
    assert len(inside) == 3
    assert all((line["volume"], line["request"]) == ("vol", 7) for line in inside)
    assert inside[2]["event"] == "from outside"
    assert inside[2]["level"] == "warning"
    assert "volume" not in after


def test_levels(configured: Callable[..., Read]) -> None:
    read = configured("warning")
    log = get_logger("x")
    log.debug("no")
    log.info("no")
    log.warning("yes")
    logging.getLogger("foreign").info("no")
    assert [line["event"] for line in read()] == ["yes"]


def test_debug_does_not_reach_the_sdk(configured: Callable[..., Read]) -> None:
    read = configured("debug")
    logging.getLogger("botocore.auth").debug("CanonicalRequest ...")
    get_logger("x").debug("mine")
    assert [line["event"] for line in read()] == ["mine"]


def test_secrets_are_masked_wherever_they_are(configured: Callable[..., Read]) -> None:
    read = configured()
    secret = 'hush"hush\\1'
    register_secrets([secret])
    log = get_logger("x")
    log.info(
        f"event {secret}",
        note=[{"deep": secret}],
        raw=secret.encode(),
        secret_access_key="other",
        **{secret: 1},
    )
    logging.getLogger("foreign").error("failed with %r", secret)
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("boom")
    text = json.dumps(read())
    assert "hush" not in text
    assert "other" not in text
    assert "ValueError: ***" in text


def test_warnings_are_logged(configured: Callable[..., Read]) -> None:
    read = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("take care", stacklevel=1)
    assert any("take care" in line["event"] for line in read())


def test_configuring_again_replaces(configured: Callable[..., Read]) -> None:
    configured()
    read = configured()
    get_logger("x").info("once")
    assert [line["event"] for line in read()] == ["once"]


@pytest.mark.parametrize("style", ["json", "text"])
def test_no_name_gives_a_readers_terminal_commands(
    capfd: pytest.CaptureFixture[str], style: Literal["json", "text"]
) -> None:
    name = "\x1b[2J\x9b31m\u202egpj.exe\u2028x"
    with logging_to_stderr(style):
        get_logger("x").warning("hidden", key=name, keys=[name])
    (line,) = capfd.readouterr().err.splitlines()
    assert r"\u001b[2J\u009b31m\u202egpj.exe\u2028x" in line
    assert line.isprintable()
    if style == "json":
        assert json.loads(line)["key"] == name


def test_text_lines_are_masked_too(capfd: pytest.CaptureFixture[str]) -> None:
    register_secrets(["hush-hush"])
    with logging_to_stderr("text"):
        get_logger("x").warning("something", where="hush-hush", password="pw")
    error = capfd.readouterr().err
    assert "something" in error
    assert "where=***" in error
    assert "pw" not in error
    assert "hush" not in error


@pytest.mark.allow_log("Traceback")
@pytest.mark.parametrize("style", ["json", "text"])
def test_tracebacks_show_no_variables(
    capfd: pytest.CaptureFixture[str], style: Literal["json", "text"]
) -> None:
    """With text they showed all of them, cut where the lines of a frame ended: the first half of a
    session token fitted no mask, and a key that nobody had registered had none."""
    token = "".join(chr(ord("A") + number % 26) for number in range(200))
    register_secrets([token])
    with logging_to_stderr(style):
        sent, key = f"token {token}", "not-registered"
        try:
            raise ValueError(len(sent) + len(key))
        except ValueError:
            get_logger("x").exception("failed")
    error = capfd.readouterr().err
    assert "ValueError: 220" in error
    assert token[:20] not in error
    assert "key =" not in error


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.file: .*absent.*No such file"):
        configure_logging(LogConfig(file=tmp_path / "absent" / "x.log"))


def test_the_file_is_private_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before\n")
    path.chmod(0o600)
    writer = LogWriter(LogFile.open(path))
    writer.handle(logging.makeLogRecord({"msg": "after"}))
    writer.close()
    writer.close()
    assert path.read_text() == "before\nafter\n"


def test_a_full_pipe_drops_lines_and_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_MOST_LINES", 10)
    reader, pipe = os.pipe()
    writer = LogWriter(LogFile(pipe))
    record = logging.makeLogRecord({"msg": "x" * 60_000})
    for _ in range(100):
        writer.handle(record)
    assert writer.dropped >= 50
    output = b""
    while output.count(b"x\n") < 100 - writer.dropped:
        output += os.read(reader, 1 << 20)
    writer.handle(logging.makeLogRecord({"msg": "last"}))
    writer.close()
    os.close(pipe)
    while piece := os.read(reader, 1 << 20):
        output += piece
    os.close(reader)
    assert output.endswith(b"last\n")
    assert b'{"event":"log_lines_dropped","total":%d}\n' % writer.dropped in output


def test_a_broken_output_is_survived() -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    writer = LogWriter(LogFile(pipe))
    for _ in range(3):
        writer.handle(logging.makeLogRecord({"msg": "x"}))
    writer.close()
    os.close(pipe)
