"""What the layers report, as spans."""

from __future__ import annotations

import pytest

from csi_slayer.observability import Metrics
from csi_slayer.store.observe import GIVEN_UP
from csi_slayer.worker.events import Events
from tests.support.spans import recording


@pytest.mark.parametrize(
    ("status", "failure"),
    [(200, None), (404, None), (412, None), (503, "HTTP 503"), (None, "no answer")],
)
def test_a_request_that_failed_is_a_span_that_failed(
    status: int | None, failure: str | None
) -> None:
    events = Events(Metrics(volume="v"))
    events.tracer, exporter = recording()
    events.on_request("GetObject", status, 0.5, 0, 7)
    (span,) = exporter.get_finished_spans()
    assert span.name == "s3.GetObject"
    assert span.end_time - span.start_time >= 0.49e9
    assert span.status.description == failure
    assert (span.status.status_code.name == "ERROR") is (failure is not None)
    assert span.attributes.get("http.response.status_code") == status
    assert span.attributes["received"] == 7


def test_a_request_that_we_gave_up_is_no_failure_and_no_answer() -> None:
    events = Events(Metrics(volume="v"))
    events.tracer, exporter = recording()
    events.on_failure("away")
    events.on_request("GetObject", GIVEN_UP, 0.5, 0, 7)
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "UNSET"
    assert span.attributes["given_up"] is True
    assert "http.response.status_code" not in span.attributes
    assert not events.store.answers
