"""The driver's processes, and S3, go and come back under a pod that reads, writes and checks
itself: it sees no error and no restart, and S3 holds exactly what it wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from e2e import install
from e2e.tests.support.api import WAIT, Api
from e2e.tests.support.driver import Driver
from e2e.tests.support.objects import of_claim
from e2e.tests.support.plot import plot
from e2e.tests.support.polling import poll
from e2e.tests.support.samples import DURABLE, KIND, Samples
from e2e.tests.support.servers import load_next_image, stopped
from e2e.tests.support.space import Contents, Space, is_ready, restarts

LOAD = Path(__file__).parent / "load" / "load.py"
RESULTS = install.PROJECT / "e2e" / "results"
OUTAGE = 60.0
"""Seconds without S3."""
CALM = 4.0
"""Seconds of undisturbed load before and after each disruption, so that the plot shows its rate."""


class Timeline:
    """Disruptions one after the other; each ends when durable writes succeed again."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.marks: list[tuple[str, float, float]] = []

    @contextmanager
    def disruption(self, name: str) -> Iterator[None]:
        self.calm()
        begin = time.time()
        yield
        undone = time.time()
        self._samples.wait(DURABLE, 5, undone, WAIT)
        self.marks.append((name, begin, time.time()))

    def calm(self) -> None:
        begin = time.time()
        self._samples.wait(DURABLE, 1, begin + CALM, WAIT)


@pytest.fixture
def load_files(space: Space) -> None:
    """The load's program, as a ConfigMap."""
    space.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "load"},
            "data": {LOAD.name: LOAD.read_text()},
        }
    )


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("load_files", "restored")
def test_nobody_notices_the_driver_or_s3_going_and_coming_back(
    space: Space, driver: Driver, api: Api, next_image: str, record: Callable[..., None]
) -> None:
    # Within 1 GiB of its quota a volume does not let the kernel write by itself.
    space.claim(class_name=space.storage_class("patient", {"ioTimeout": "5m"}), size="10Gi")
    space.pod(
        "load",
        {"/data": of_claim("data"), "/load": {"configMap": {"name": "load"}}},
        image="python",
        command=("python3", f"/load/{LOAD.name}", "/data", "7"),
        restartPolicy="Never",
    )
    space.ready("load")
    contents = Contents.of(space, space.bound())
    samples = Samples(api, space.name, "load")
    timeline = Timeline(samples)
    capabilities = driver.worker(contents.prefix)["capabilities"]

    with timeline.disruption("node pod deleted"):
        driver.delete_pods("node")
    with timeline.disruption("all workers killed (-9)"):
        assert driver.kill_workers()
    with timeline.disruption("new version rolled out"):
        changed = space.environment.images | {"driver": next_image}
        install.install(replace(space.environment, images=changed))
        driver.wait_ready("node")
    with timeline.disruption("keeper pod deleted"):
        driver.delete_pods("keeper")
    driver.wait_for_keeper()
    with timeline.disruption("node pod deleted again"):
        driver.delete_pods("node")
    with timeline.disruption("controller restarted"):
        driver.delete_pods("controller")
    with timeline.disruption(f"S3 stopped for {OUTAGE:.0f} s"), stopped(space.environment):
        time.sleep(OUTAGE)
    timeline.calm()
    record(samples.lines, timeline.marks, capabilities)

    pod = api.get("Pod", "load", space.name)
    assert is_ready(pod), f"the load has ended: {samples.other}"
    api.exec(space.name, "load", "sh", "-c", "kill -TERM 1")
    samples.join(WAIT)
    assert samples.other == []
    pod = api.wait(
        "Pod", "load", space.name,
        lambda seen: seen is not None and seen["status"]["phase"] in ("Succeeded", "Failed"),
        "over",
    )  # fmt: skip
    assert pod is not None
    assert pod["status"]["phase"] == "Succeeded"
    assert restarts(pod) == 0
    assert samples.result is not None
    files = samples.result["files"]
    # What is unlinked and renamed is in the journal first, and in S3 a little later.
    poll(contents.digests, lambda found: found == files, f"not {files} is in S3")
    if "passthrough" in capabilities:
        for name, begin, end in timeline.marks:
            assert samples.count(KIND, begin, end), f"I/O in open files stood still: {name}"


@pytest.fixture
def next_image(space: Space) -> str:
    """The same code as another image."""
    return load_next_image(space.environment)


@pytest.fixture
def record() -> Callable[..., None]:
    """Keeps the measured rate, as JSON and as a picture, in e2e/results."""

    def write(
        samples: list[dict[str, object]],
        marks: list[tuple[str, float, float]],
        capabilities: list[str],
    ) -> None:
        RESULTS.mkdir(exist_ok=True)
        values = {"capabilities": capabilities, "marks": marks, "samples": samples}
        (RESULTS / "disruption.json").write_text(json.dumps(values, indent=1) + "\n")
        plot(samples, marks, RESULTS / "disruption.png")

    return write
