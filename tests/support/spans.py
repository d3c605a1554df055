"""OpenTelemetry spans kept in memory."""

from __future__ import annotations

from typing import Any

import pytest

from csi_slayer.observability.tracing import OtelTracer


def recording() -> tuple[OtelTracer, Any]:
    """A tracer, and the exporter that has its finished spans; skips where the SDK is missing."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    return OtelTracer(provider), exporter
