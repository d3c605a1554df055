"""Kubernetes events about volumes that need attention: what ``kubectl describe pod`` shows.

One POST each, by the service account of the node's pod; the ``kubernetes`` package would cost more
memory than all the rest of the node service. Bounded: few wait, the same thing is said of the same
object once in a while only, and few different ones meanwhile.
"""

from __future__ import annotations

import asyncio
import datetime
import http.client
import json
import os
import re
import ssl
import time
from pathlib import Path
from typing import Any, Final

import structlog

from csi_slayer.config.driver import DRIVER_NAME
from csi_slayer.content.tasks import end_task
from csi_slayer.node.records import Record

log = structlog.get_logger(__name__)

WAITING: Final = 64
"""Events that wait to be sent; more are dropped and counted."""

AGAIN: Final = 600.0
"""Seconds within which the same reason is not sent again for the same object with the same message,
whatever numbers are in it."""

DIFFERENT: Final = 5
"""Messages of the same reason and object within that time: what is wrong may become something else,
but those which name what was written last differ all the time."""

TIMEOUT: Final = 5.0
"""Seconds for one attempt to send an event."""

ATTEMPTS: Final = 4
"""For one event, which the others wait for. One that is refused is not sent again."""

PAUSE: Final = 5.0
"""Seconds between attempts: an API server is away that long when it is replaced."""

LONGEST: Final = 1000
"""Characters of a message: Kubernetes accepts 1024."""

_NUMBER = re.compile(r"\d+")
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Events:
    """``node``: the node's name. ``account``: directory with the token and the authorities."""

    def __init__(self, node: str, *, enabled: bool, account: Path = _ACCOUNT) -> None:
        self.sent = 0
        self.dropped = 0
        self._node = node
        self._account = account
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{it}") for it in ("HOST", "PORT"))
        self._server = (host, int(port)) if enabled and host and port else None
        self._said: dict[tuple[str, str], dict[str, float]] = {}
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._server is not None:
            self._task = asyncio.create_task(self._send_all())

    async def close(self) -> None:
        await end_task(self._task)

    def warn(self, record: Record, reason: str, message: str) -> None:
        """Say something of a volume, to its pods, or to its claim where none is known."""
        for target in _objects(record) or [{"volume": record.volume_id}]:
            if not self._is_news((json.dumps(target), reason), message):
                continue
            log.warning("event", reason=reason, message=message, volume=record.volume_id)
            if self._server is None or "kind" not in target:
                continue
            try:
                self._queue.put_nowait(self._event(target, reason, message))
            except asyncio.QueueFull:
                self.dropped += 1

    def _is_news(self, about: tuple[str, str], message: str) -> bool:
        """Whether to say it; it is taken to be said then. ``about``: object and reason."""
        now = time.monotonic()
        known = self._said.get(about, {})
        lately = {text: said for text, said in known.items() if now - said < AGAIN}
        text = _NUMBER.sub("", message[:LONGEST])
        if text in lately or len(lately) >= DIFFERENT:
            return False
        self._said = {k: it for k, it in self._said.items() if now - max(it.values()) < AGAIN}
        self._said[about] = lately | {text: now}
        return True

    def _event(self, target: dict[str, str], reason: str, message: str) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "slayerfs-", "namespace": target["namespace"]},
            "involvedObject": {"apiVersion": "v1", **target},
            "reason": reason,
            "message": message[:LONGEST],
            "type": "Warning",
            "source": {"component": DRIVER_NAME, "host": self._node},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    async def _send_all(self) -> None:
        while True:
            problem = await self._send(await self._queue.get())
            if problem is None:
                self.sent += 1
            else:
                self.dropped += 1
                log.warning("event_not_sent", reason=problem)

    async def _send(self, event: dict[str, Any]) -> str | None:
        """What has kept the event from the API server at last, or None. One that was taken without
        an answer is there twice."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE)
            try:
                status = await asyncio.to_thread(self._post, event)
            except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
                # RuntimeError: there was no thread to be had.
                problem = str(error) or type(error).__name__
                continue
            if status < 300:
                return None
            problem = f"the API server says {status}"
            if status < 500 and status != 429:
                break
        return problem

    def _post(self, event: dict[str, Any]) -> int:
        """The status of the answer."""
        assert self._server is not None
        # Read each time: the kubelet replaces the token.
        token = (self._account / "token").read_text().strip()
        context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        connection = http.client.HTTPSConnection(*self._server, timeout=TIMEOUT, context=context)
        try:
            connection.request(
                "POST",
                f"/api/v1/namespaces/{event['metadata']['namespace']}/events",
                json.dumps(event),
                {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


def _objects(record: Record) -> list[dict[str, str]]:
    pods = {target.pod for target in record.targets.values() if target.pod is not None}
    if pods:
        return [
            {"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid}
            for pod in sorted(pods, key=lambda pod: (pod.namespace, pod.name))
        ]
    claim, namespace = record.labels.get("claim"), record.labels.get("namespace")
    if claim and namespace:
        return [{"kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim}]
    return []
