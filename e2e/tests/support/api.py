"""The API server for tests: objects as plain dictionaries, waiting by watching."""

from __future__ import annotations

import contextlib
import gc
import json
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.stream import stream

Object = dict[str, Any]

WAIT = 180.0
"""Seconds until what a test waits for must have happened, a command's end among it. Whoever waits
goes on as soon as it has: so many are for a machine that is busy with other work."""

_MANAGER = "slayerfs-e2e"
_WATCH = 5
"""Seconds of one watch: what was deleted just before it began is not in it."""
_AGAIN = 0.5
"""Seconds before a watch that broke is begun again."""

_DEFAULT_VERSIONS = {
    "CSIDriver": "storage.k8s.io/v1",
    "CSINode": "storage.k8s.io/v1",
    "DaemonSet": "apps/v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "StorageClass": "storage.k8s.io/v1",
    "VolumeAttributesClass": "storage.k8s.io/v1",
    "VolumeSnapshot": "snapshot.storage.k8s.io/v1",
    "VolumeSnapshotContent": "snapshot.storage.k8s.io/v1",
}


class Api:
    """An administrator's hold on the cluster. ``kind`` is that of an object (``Pod``)."""

    def __init__(self, kubeconfig: Path) -> None:
        self._rest = self._client(kubeconfig)
        self.core = client.CoreV1Api(self._rest)
        self._dynamic = DynamicClient(self._rest)
        # Its methods are replaced by those of a web socket while a command runs.
        self._exec_core = client.CoreV1Api(self._client(kubeconfig))
        self._exec_lock = threading.Lock()

    @staticmethod
    def _client(kubeconfig: Path) -> client.ApiClient:
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        settings.proxy = None
        return client.ApiClient(settings)

    def _resource(self, kind: str) -> Any:
        return self._dynamic.resources.get(api_version=_DEFAULT_VERSIONS.get(kind, "v1"), kind=kind)

    def apply(self, *objects: Object, namespace: str | None = None) -> None:
        """Create or change (server-side apply). Raises ApiException: refused."""
        for item in objects:
            resource = self._dynamic.resources.get(
                api_version=item["apiVersion"], kind=item["kind"]
            )
            self._dynamic.server_side_apply(
                resource,
                body=item,
                name=item["metadata"]["name"],
                namespace=item["metadata"].get("namespace", namespace),
                field_manager=_MANAGER,
                force_conflicts=True,
            )

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        try:
            found: Object = self._resource(kind).get(name=name, namespace=namespace).to_dict()
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    def list_all(
        self, kind: str, namespace: str | None = None, selector: str | None = None
    ) -> list[Object]:
        answer = self._resource(kind).get(namespace=namespace, label_selector=selector)
        items: list[Object] = answer.to_dict()["items"]
        return items

    def patch(self, kind: str, name: str, change: Object, namespace: str | None = None) -> None:
        """A merge patch."""
        self._resource(kind).patch(
            name=name,
            namespace=namespace,
            body=change,
            content_type="application/merge-patch+json",
        )

    def delete(self, kind: str, name: str, namespace: str | None = None) -> None:
        """Does not wait until it is gone; no error if it is already."""
        try:
            self._resource(kind).delete(name=name, namespace=namespace)
        except ApiException as error:
            if error.status != 404:
                raise

    def wait(
        self,
        kind: str,
        name: str,
        namespace: str | None,
        enough: Callable[[Object | None], bool],
        what: str,
        timeout: float = WAIT,
    ) -> Object | None:
        """Watch an object until ``enough`` of it (None: it is not there); returns it.

        Raises AssertionError with ``what`` and the object as it was last.
        """
        end = time.monotonic() + timeout
        while True:
            seen = self.get(kind, name, namespace)
            if enough(seen):
                return seen
            with contextlib.closing(
                self._changes(kind, name, namespace, end - time.monotonic())
            ) as changes:
                for seen in changes:
                    if enough(seen):
                        return seen
            if time.monotonic() > end:
                state = json.dumps(seen and (seen.get("status") or seen), default=str)[:1500]
                raise AssertionError(f"{kind} {name}: not {what} after {timeout:.0f} s: {state}")
            time.sleep(_AGAIN)

    def _changes(
        self, kind: str, name: str, namespace: str | None, seconds: float
    ) -> Generator[Object | None]:
        if seconds <= 0:
            return
        try:
            with contextlib.closing(
                self._resource(kind).watch(
                    namespace=namespace, name=name, timeout=max(1, min(_WATCH, round(seconds)))
                )
            ) as events:
                for event in events:
                    deleted = event["type"] == "DELETED"
                    yield None if deleted else event["object"].to_dict()
        except (ApiException, urllib3.exceptions.HTTPError):
            return  # begun again by the caller, who has a limit

    def events(self, namespace: str, name: str) -> list[Object]:
        """Those about one object."""
        return [
            event
            for event in self.list_all("Event", namespace)
            if event["involvedObject"].get("name") == name
        ]

    def wait_event(self, namespace: str, name: str, *fragments: str, timeout: float = WAIT) -> str:
        """The message of an event about ``name`` that contains all ``fragments`` in any case."""
        end = time.monotonic() + timeout
        while True:
            messages = [event.get("message") or "" for event in self.events(namespace, name)]
            for message in messages:
                if all(fragment.lower() in message.lower() for fragment in fragments):
                    return str(message)
            if time.monotonic() > end:
                raise AssertionError(f"no event about {name} says {fragments}: {messages}")
            time.sleep(_AGAIN)

    def logs(self, namespace: str, pod: str, container: str | None = None, **options: Any) -> str:
        # The client's own decoding makes a text such as "b'...'" of it.
        response = self.core.read_namespaced_pod_log(
            pod, namespace, container=container, _preload_content=False, **options
        )
        return str(response.data.decode(errors="replace"))

    def close(self) -> None:
        """Its connections."""
        for each in (self._rest, self._exec_core.api_client):
            each.rest_client.pool_manager.clear()
            each.close()
        # Watches that were left leave sockets in cycles of references.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def follow(self, namespace: str, pod: str) -> Iterator[bytes]:
        """The lines of a pod's log, from its beginning until it ends."""
        response = self.core.read_namespaced_pod_log(
            pod, namespace, follow=True, _preload_content=False
        )
        buffer = b""
        for part in response.stream():
            *lines, buffer = (buffer + part).split(b"\n")
            yield from lines

    def exec(
        self,
        namespace: str,
        pod: str,
        *command: str,
        container: str | None = None,
        timeout: float = WAIT,
    ) -> str:
        """What a command in a pod prints. Raises AssertionError: it failed, with its stderr."""
        options: dict[str, Any] = {"container": container} if container else {}
        with self._exec_lock:
            channel = stream(
                self._exec_core.connect_get_namespaced_pod_exec, pod, namespace,
                command=list(command), stdin=False, stdout=True, stderr=True, tty=False,
                _preload_content=False, **options,
            )  # fmt: skip
        try:
            channel.run_forever(timeout=timeout)
            if channel.is_open():
                raise AssertionError(f"{pod}: {command} has not ended after {timeout:.0f} s")
            out, err = channel.read_stdout(timeout=0), channel.read_stderr(timeout=0)
            status = channel.returncode
        finally:
            channel.close()
        if status != 0:
            raise AssertionError(f"{pod}: {command} ended with {status}: {err or out}")
        return str(out or "")

    def ask_pod(self, namespace: str, address: str, path: str) -> str:
        """What a pod (``name:port``) serves over HTTP."""
        response = self.core.connect_get_namespaced_pod_proxy_with_path(
            address, namespace, path, _preload_content=False
        )
        return str(response.data.decode())

    def node_metrics(self, node: str) -> str:
        """What the kubelet serves at /metrics."""
        response = self.core.connect_get_node_proxy_with_path(
            node, "metrics", _preload_content=False
        )
        return str(response.data.decode())
