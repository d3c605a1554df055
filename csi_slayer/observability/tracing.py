"""Optional OpenTelemetry spans.

Nothing of OpenTelemetry is imported before an endpoint is configured. The null tracer answers
every call with one shared object: a disabled span costs a method call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

from csi_slayer.config import TracingConfig
from csi_slayer.errors import ConfigError

CLOSE_SECONDS = 5.0
"""Seconds at the end for spans that were not sent yet; the rest is dropped."""

AttributeValue = str | int | float | bool


class Span(Protocol):
    """A piece of work in progress."""

    def set(self, name: str, value: AttributeValue) -> None:
        """Say more about it. Never a secret."""


class Tracer(Protocol):
    """Makes spans; a span started inside another becomes its child."""

    enabled: bool

    def span(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None
    ) -> AbstractContextManager[Span]: ...

    def record(
        self, name: str, seconds: float, attributes: Mapping[str, AttributeValue], failure: str = ""
    ) -> None:
        """A span of work that has just ended after ``seconds``; ``failure`` says why, if it has
        failed."""

    def close(self) -> None:
        """Send what is pending; takes CLOSE_SECONDS at most."""


class _NullSpan:
    __slots__ = ()

    def set(self, name: str, value: AttributeValue) -> None:
        pass

    def __enter__(self) -> _NullSpan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


_NULL_SPAN = _NullSpan()


class NullTracer:
    """Traces nothing."""

    enabled = False

    def span(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None
    ) -> AbstractContextManager[Span]:
        return _NULL_SPAN

    def record(
        self, name: str, seconds: float, attributes: Mapping[str, AttributeValue], failure: str = ""
    ) -> None:
        pass

    def close(self) -> None:
        pass


class _OtelSpan:
    """Adapter: a context manager around OpenTelemetry's, with our small interface."""

    __slots__ = ("_context", "_span")

    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self._context = context

    def set(self, name: str, value: AttributeValue) -> None:
        self._span.set_attribute(name, value)

    def __enter__(self) -> _OtelSpan:
        self._span = self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.__exit__(kind, error, traceback)


class OtelTracer:
    """Spans by an OpenTelemetry provider (``opentelemetry.sdk.trace.TracerProvider``)."""

    enabled = True

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("csi_slayer")

    def span(
        self, name: str, attributes: Mapping[str, AttributeValue] | None = None
    ) -> AbstractContextManager[Span]:
        return _OtelSpan(self._tracer.start_as_current_span(name, attributes=attributes))

    def record(
        self, name: str, seconds: float, attributes: Mapping[str, AttributeValue], failure: str = ""
    ) -> None:
        started = time.time_ns() - int(seconds * 1e9)
        span = self._tracer.start_span(name, start_time=started, attributes=attributes)
        if failure:
            from opentelemetry.trace import StatusCode

            span.set_status(StatusCode.ERROR, failure)
        span.end()

    def close(self) -> None:
        # A collector that takes connections and never answers would hold each batch for as long as
        # its exporter waits.
        shutdown = threading.Thread(target=self._provider.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(CLOSE_SECONDS)


def make_tracer(config: TracingConfig, *, volume: str) -> Tracer:
    """The tracer that the configuration asks for. Raises ConfigError without the extra ``otel``."""
    if config.endpoint is None:
        return NullTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError:
        raise ConfigError(
            "tracing.endpoint: OpenTelemetry is not installed; install csi-slayer[otel]"
        ) from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": "csi-slayer", "slayerfs.volume": volume}),
        sampler=ParentBasedTraceIdRatio(config.sample_ratio),
        shutdown_on_exit=False,
    )
    # Bounded: spans that the collector does not take in time are dropped, never queued for ever.
    exporter = OTLPSpanExporter(endpoint=config.endpoint, timeout=5)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=2048, export_timeout_millis=5000)
    )
    return OtelTracer(provider)
