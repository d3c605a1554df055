"""Logs, metrics and traces."""

from csi_slayer.observability.logging import configure_logging, get_logger, log_context
from csi_slayer.observability.metrics import Metrics, OperationMeter, RequestMeter
from csi_slayer.observability.secrets import register_secrets
from csi_slayer.observability.serve import MetricsServer, serve_metrics
from csi_slayer.observability.tracing import NullTracer, Span, Tracer, make_tracer

__all__ = [
    "Metrics",
    "MetricsServer",
    "NullTracer",
    "OperationMeter",
    "RequestMeter",
    "Span",
    "Tracer",
    "configure_logging",
    "get_logger",
    "log_context",
    "make_tracer",
    "register_secrets",
    "serve_metrics",
]
