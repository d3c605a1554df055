"""The driver's pods, and the workers in the node pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kubernetes.client.exceptions import ApiException
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from e2e.install import NAMESPACE, RELEASE
from e2e.tests.support.api import WAIT, Api, Object
from e2e.tests.support.objects import DRIVER
from e2e.tests.support.polling import poll

# Runs in the node pod, which has the driver's Python: asks every worker's control socket.
_STATUS = """
import glob, json, socket, sys
for path in glob.glob(sys.argv[1] + "/run/*.sock"):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        try:
            client.connect(path)
            client.sendall(b'{"op": "status"}\\n')
            print(client.makefile().readline().strip())
        except OSError as error:
            print(path, error, file=sys.stderr)
"""
_KILL = "import os, sys; [os.kill(int(pid), 9) for pid in sys.argv[1:]]"
_SECRETS = "/run/secrets/slayerfs/s3"
"""Where the chart mounts the driver's own keys."""
_NOWHERE = "slayerfs.io/nowhere"
"""Label that no node has."""


class Driver:
    """``run_directory``: as the node pod sees it."""

    def __init__(self, api: Api, run_directory: str) -> None:
        self._api = api
        self._run_directory = run_directory

    def pods(self, component: str) -> list[Object]:
        """``node``, ``keeper`` or ``controller``; those that end are left out."""
        selector = f"app.kubernetes.io/name={RELEASE},app.kubernetes.io/component={component}"
        found = self._api.list_all("Pod", NAMESPACE, selector)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def delete_pods(self, component: str) -> None:
        """Delete all of a component and wait until others are ready in their place."""
        old = self.pods(component)
        for pod in old:
            self._api.delete("Pod", pod["metadata"]["name"], NAMESPACE)
        for pod in old:
            name = pod["metadata"]["name"]
            self._api.wait("Pod", name, NAMESPACE, lambda seen: seen is None, "gone")
        self.wait_ready(component)

    def wait_ready(self, component: str, timeout: float = 2 * WAIT) -> None:
        """Until as many pods as wanted are up to date and ready."""
        kind = "Deployment" if component == "controller" else "DaemonSet"

        def complete(seen: Object | None) -> bool:
            if seen is None:
                return False
            status = seen["status"]
            current = status.get("observedGeneration") == seen["metadata"]["generation"]
            if kind == "Deployment":
                wanted = seen["spec"]["replicas"]
                names: tuple[str, ...] = ("readyReplicas", "updatedReplicas", "replicas")
            else:
                wanted = status["desiredNumberScheduled"]
                names = ("numberReady",)
                if seen["spec"]["updateStrategy"]["type"] != "OnDelete":
                    names = ("numberReady", "updatedNumberScheduled")
            return current and all(status.get(name, 0) == wanted for name in names)

        self._api.wait(
            kind, f"{RELEASE}-{component}", NAMESPACE, complete, "complete and ready", timeout
        )

    @contextmanager
    def without_keeper(self) -> Iterator[None]:
        """No keeper runs inside the block, and none is started."""
        old = self.pods("keeper")
        self._keep_on({_NOWHERE: "true"})
        try:
            for pod in old:
                name = pod["metadata"]["name"]
                self._api.wait("Pod", name, NAMESPACE, lambda seen: seen is None, "gone")
            yield
        finally:
            self._keep_on({_NOWHERE: None})
            self.wait_ready("keeper")
            self.wait_for_keeper()

    def _keep_on(self, labels: dict[str, str | None]) -> None:
        change = {"spec": {"template": {"spec": {"nodeSelector": labels}}}}
        self._api.patch("DaemonSet", f"{RELEASE}-keeper", change, NAMESPACE)

    def ask(self, component: str, path: str) -> str:
        """What a pod of a component serves on its metrics port."""
        pod = self.pods(component)[0]
        (port,) = (
            port["containerPort"]
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
            if port["name"] == "metrics"
        )
        return self._api.ask_pod(NAMESPACE, f"{pod['metadata']['name']}:{port}", path)

    def problem(self, component: str) -> str | None:
        """What a pod of a component says that keeps it from its work, or why it says nothing."""
        if not self.pods(component):
            return "there is no pod"
        try:
            self.ask(component, "readyz")
        except ApiException as error:
            return str(error.body)
        return None

    def scrape(self, component: str) -> list[Metric]:
        """The metrics of a pod of a component. Volumes whose worker is busy are left out, and all
        where the pod does not answer: whoever wants them asks again."""
        with suppress(ApiException, IndexError):
            return list(text_string_to_metric_families(self.ask(component, "metrics")))
        return []

    def wait_for_keeper(self, timeout: float = WAIT) -> None:
        """Until the keeper has been given everything: no mount outlives the node pod before."""
        poll(
            lambda: [
                family.samples[0].value
                for family in self.scrape("node")
                if family.name == "slayerfs_node_keeper_connected"
            ],
            lambda seen: 1 in seen,
            "the node service is not connected to its keeper",
            timeout,
        )

    def workers(self) -> list[dict[str, Any]]:
        """The status of each worker that answers."""
        out = self._python(_STATUS, self._run_directory)
        return [json.loads(line) for line in out.splitlines() if line]

    def worker(self, prefix: str, timeout: float = WAIT) -> dict[str, Any]:
        """The status of the one whose URL ends with ``prefix`` (the last slash does not count)."""
        return poll(
            lambda: [
                s for s in self.workers() if s["url"].rstrip("/").endswith(f"/{prefix}".rstrip("/"))
            ],
            bool,
            f"no worker of {prefix}",
            timeout,
        )[0]

    def wait_without_volumes(self, timeout: float = 2 * WAIT) -> None:
        """Until no worker runs and no volume of the driver is left."""

        def left() -> list[str]:
            volumes = [
                volume["metadata"]["name"]
                for volume in self._api.list_all("PersistentVolume")
                if (volume["spec"].get("csi") or {}).get("driver") == DRIVER
            ]
            return [*volumes, *(status["url"] for status in self.workers())]

        poll(left, lambda seen: not seen, "left after the tests", timeout)

    def kill_workers(self) -> list[int]:
        """SIGKILL to each; their pids."""
        pids = [int(status["pid"]) for status in self.workers()]
        self._python(_KILL, *map(str, pids))
        return pids

    def access_keys(self) -> list[str]:
        """The one that each pod of the driver has for itself."""
        return [
            self._api.exec(
                NAMESPACE, pod["metadata"]["name"], "cat", f"{_SECRETS}/access_key_id",
                container=component,
            )
            for component in ("node", "controller")
            for pod in self.pods(component)
        ]  # fmt: skip

    def _python(self, script: str, *arguments: str) -> str:
        (pod,) = self.pods("node")
        name = pod["metadata"]["name"]
        return self._api.exec(
            NAMESPACE, name, "/opt/slayerfs/bin/python", "-c", script, *arguments, container="node"
        )


def run_directory(kubelet_directory: str) -> str:
    return f"{kubelet_directory}/plugins/{DRIVER}"
