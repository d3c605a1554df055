"""The cluster itself: pods run, have logs, take commands, reach the API server and S3."""

from __future__ import annotations

from typing import Any

from e2e.environment import Environment
from e2e.tests.kubernetes import Kubectl
from e2e.tests.support.api import WAIT
from e2e.tests.support.polling import poll

CONNECT = """
import os, socket, sys
addresses = [(os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])]
addresses += [argument.removeprefix("http://").split(":") for argument in sys.argv[1:]]
for host, port in addresses:
    socket.create_connection((host, int(port)), timeout=10).close()
print("reached", len(addresses))
"""


def pod(name: str, image: str, *command: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": list(command),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


def logs(kubectl: Kubectl, namespace: str, pod: str, text: str) -> None:
    """Until the pod's log is the text: what a container prints gets there on its own time."""
    poll(
        lambda: kubectl("logs", "-n", namespace, pod),
        lambda found: found == text,
        f"the log of {pod} is not {text!r}",
    )


def test_a_pod_runs_logs_and_takes_commands(
    kubectl: Kubectl, namespace: str, environment: Environment
) -> None:
    image = environment.images["busybox"]
    kubectl.apply(pod("shell", image, "sh", "-c", "echo hello; sleep 600"), namespace=namespace)
    kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/shell", f"--timeout={WAIT:.0f}s")
    logs(kubectl, namespace, "shell", "hello\n")
    assert kubectl("exec", "-n", namespace, "shell", "--", "echo", "here") == "here\n"


def test_pods_reach_the_api_server_by_its_service_and_the_s3_servers(
    kubectl: Kubectl, namespace: str, environment: Environment
) -> None:
    servers = [environment.s3[name] for name in ("versitygw", "minio")]
    image = environment.images["python"]
    manifest = pod("client", image, "python3", "-c", CONNECT, *servers)
    manifest["spec"]["restartPolicy"] = "Never"
    kubectl.apply(manifest, namespace=namespace)
    done = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl("wait", "-n", namespace, done, "pod/client", f"--timeout={WAIT:.0f}s")
    logs(kubectl, namespace, "client", "reached 3\n")


def test_the_cluster_knows_snapshots(kubectl: Kubectl) -> None:
    # An error where the kind is not known; there may be some, of tests whose end is still to come.
    kubectl("get", "volumesnapshots.snapshot.storage.k8s.io", "--all-namespaces")
