"""Spans: free when off, real when on."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from csi_slayer.config import TracingConfig
from csi_slayer.errors import ConfigError
from csi_slayer.observability import tracing
from csi_slayer.observability.tracing import NullTracer, make_tracer
from tests.support.spans import recording


def test_off_imports_nothing_of_opentelemetry() -> None:
    code = (
        "import sys; from csi_slayer.observability import make_tracer;"
        "from csi_slayer.config import TracingConfig;"
        "t = make_tracer(TracingConfig(), volume='v'); assert not t.enabled;"
        "assert not any(m.startswith('opentelemetry') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_off_makes_no_objects() -> None:
    tracer = NullTracer()
    with tracer.span("a", {"x": 1}) as span:
        span.set("y", 2)
    assert tracer.span("a") is tracer.span("b")
    tracer.close()


def test_a_missing_package_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"install csi-slayer\[otel\]"):
        make_tracer(TracingConfig(endpoint="http://127.0.0.1:4318/v1/traces"), volume="v")


def test_spans_nest_and_record_errors() -> None:
    tracer, exporter = recording()

    def work() -> None:
        with tracer.span("outer", {"ino": 1}) as outer:
            outer.set("bytes", 5)
            with tracer.span("inner"):
                raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        work()
    inner_span, outer_span = exporter.get_finished_spans()
    assert (inner_span.name, outer_span.name) == ("inner", "outer")
    assert inner_span.parent.span_id == outer_span.context.span_id
    assert dict(outer_span.attributes) == {"ino": 1, "bytes": 5}
    assert not outer_span.status.is_ok
    tracer.close()


def test_on_makes_a_real_tracer() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    tracer = make_tracer(
        TracingConfig(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=0), volume="v"
    )
    assert tracer.enabled
    with tracer.span("dropped by the sampler"):
        pass
    tracer.close()


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        tracer = make_tracer(
            TracingConfig(endpoint=f"http://127.0.0.1:{port}/v1/traces", sample_ratio=1), volume="v"
        )
        with tracer.span("nobody takes it"):
            pass
        before = set(threading.enumerate())
        tracer.close()
        waiting = set(threading.enumerate()) - before
        assert waiting  # the exporter has five seconds
        # It is answered now: otherwise it would go on, and log that it failed, during other tests.
        connection, _ = silent.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            for thread in waiting:
                thread.join()
