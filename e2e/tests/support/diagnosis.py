"""What is kept of a failed test: its pods and events, the driver's logs meanwhile."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

from kubernetes.client.exceptions import ApiException

from e2e.install import NAMESPACE
from e2e.tests.support.space import Space

_TAIL = 40
"""Lines of each log in pytest's report; the files have all."""


def collect(space: Space, test: str, began: float) -> Iterator[tuple[str, str]]:
    """Write files below the state directory; yields titles and tails for the report.

    ``began``: when the test did, seconds of ``time.monotonic``.
    """
    place = space.environment.state / "failures" / re.sub(r"[^\w.-]+", "-", test)
    place.mkdir(parents=True, exist_ok=True)
    seconds = int(time.monotonic() - began) + 5
    for name, text in (*_space(space), *_driver(space, seconds)):
        (place / f"{name}.txt").write_text(text)
        yield f"{name} ({place}/{name}.txt)", "\n".join(text.splitlines()[-_TAIL:])


def _space(space: Space) -> Iterator[tuple[str, str]]:
    events = [
        f"{e.get('lastTimestamp') or e.get('eventTime')} {e['involvedObject'].get('kind')}"
        f"/{e['involvedObject'].get('name')} {e.get('reason')}: {e.get('message')}"
        for e in space.api.list_all("Event", space.name)
    ]
    yield "events", "\n".join(sorted(events))
    for kind in ("Pod", "PersistentVolumeClaim", "VolumeSnapshot"):
        found = space.api.list_all(kind, space.name)
        if found:
            text = json.dumps([{i["metadata"]["name"]: i.get("status")} for i in found], indent=1)
            yield f"{kind.lower()}s", text
    for pod in space.api.list_all("Pod", space.name):
        name = pod["metadata"]["name"]
        if text := _log(space, space.name, name, None, None):
            yield f"log-{name}", text


def _driver(space: Space, seconds: int) -> Iterator[tuple[str, str]]:
    for pod in space.api.list_all("Pod", NAMESPACE):
        name = pod["metadata"]["name"]
        for container in pod["spec"]["containers"]:
            if text := _log(space, NAMESPACE, name, container["name"], seconds):
                yield f"driver-{name}-{container['name']}", text


def _log(space: Space, namespace: str, pod: str, container: str | None, seconds: int | None) -> str:
    options = {"since_seconds": seconds} if seconds else {}
    try:
        return space.api.logs(namespace, pod, container, **options)
    except ApiException as error:
        return f"no log: {error.reason}"
