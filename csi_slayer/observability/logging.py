"""Structured logs: one line an event, JSON or text, from structlog and the standard library alike.

``configure_logging`` is called once in a process (after a fork, not before it: a thread writes).
Whoever logs asks for ``get_logger(__name__)``; the volume and request are bound to the context and
appear on every line that is logged below.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.typing import FilteringBoundLogger, Processor

from csi_slayer.config import LogConfig
from csi_slayer.errors import ConfigError
from csi_slayer.observability.log_file import LogFile
from csi_slayer.observability.log_writer import LogWriter
from csi_slayer.observability.printable import printable
from csi_slayer.observability.secrets import mask_event, mask_text

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger: ``log.info("file_uploaded", key=..., bytes=...)``, events in snake case."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


@contextmanager
def log_context(**values: object) -> Iterator[None]:
    """Bind values (``volume=``, ``request=``) to every line logged in this block and its tasks."""
    with bound_contextvars(**values):
        yield


REQUEST = "request-"
"""Tasks whose name begins so serve the kernel's request of that number."""


def _add_request(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mark a line with the request during which it is logged, for nothing while none is."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # in a thread
        return event
    if task is not None and (name := task.get_name()).startswith(REQUEST):
        event.setdefault("request", int(name.removeprefix(REQUEST)))
    return event


def _mask(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    # Time, severity and event first, where a reader of raw lines looks.
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return mask_event(first | dict(event))


def _text_of(value: object) -> str:
    return mask_text(repr(value))


class _MaskingFormatter(structlog.stdlib.ProcessorFormatter):
    """Masks the finished line once more: what a renderer added, names of keys. What logs are read
    with is a terminal: no name of a file gives it commands."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(mask_text(super().format(record)))


def _formatter(style: Literal["json", "text"]) -> logging.Formatter:
    steps: list[Processor]
    if style == "json":
        steps = [
            structlog.processors.format_exc_info,
            _mask,
            structlog.processors.JSONRenderer(default=_text_of, ensure_ascii=False),
        ]
    else:
        # The default shows all local variables, in a frame that cuts secrets where no mask fits.
        plain = structlog.dev.plain_traceback
        steps = [_mask, structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)]
    return _MaskingFormatter(
        foreign_pre_chain=_COMMON,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *steps],
    )


_COMMON: list[Processor] = [
    merge_contextvars,
    _add_request,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logging(config: LogConfig | None = None) -> LogWriter:
    """Route all logging of this process to the configured file or to standard error.

    Replaces an earlier configuration. The answer's ``close`` writes what is pending; after it
    nothing is logged any more. Raises ConfigError if the file cannot be opened.
    """
    config = config or LogConfig()
    file, level = config.file, _LEVELS[config.level]
    try:
        opened = LogFile(sys.stderr.fileno()) if file is None else LogFile.open(file)
    except OSError as error:
        raise ConfigError(f"log.file: {file}: {error.strerror}") from error
    writer = LogWriter(opened)
    writer.setFormatter(_formatter(config.format))
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, LogWriter):
            root.removeHandler(handler)
            handler.close()
    root.addHandler(writer)
    root.setLevel(level)
    # Debug output of the SDK contains signed requests, and of others is of no use here.
    for name in ("botocore", "urllib3", "asyncio", "grpc"):
        logging.getLogger(name).setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return writer
