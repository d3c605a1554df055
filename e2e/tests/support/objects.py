"""Kubernetes objects as tests want them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

DRIVER = "csi.slayerfs.io"
SLEEP = ("sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done")
"""A container that waits for commands and ends at once when told to."""


def claim(name: str, class_name: str, size: str, mode: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": class_name,
            "accessModes": [mode],
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


def of_claim(name: str, read_only: bool = False) -> Object:
    """A volume of a pod, by a claim."""
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": read_only}}


def inline(
    attributes: dict[str, str] | None = None, secret: str | None = None, read_only: bool = False
) -> Object:
    """A volume of a pod that the driver makes for it alone."""
    source: Object = {"driver": DRIVER, "readOnly": read_only}
    if attributes:
        source["volumeAttributes"] = attributes
    if secret is not None:
        source["nodePublishSecretRef"] = {"name": secret}
    return {"csi": source}


def pod_spec(
    image: str,
    volumes: dict[str, Object],
    command: tuple[str, ...] = SLEEP,
    *,
    mount: Object | None = None,
    container: Object | None = None,
    **spec: Any,
) -> Object:
    """``volumes``: by the directory where the one container sees them. ``mount``: further fields
    of each mount; ``container``: of the container; ``spec``: of the pod."""
    names = {path: f"v{number}" for number, path in enumerate(volumes)}
    return {
        "terminationGracePeriodSeconds": 5,
        # No test pod speaks to the API server, and its token would be one more volume to wait for.
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "main",
                "image": image,
                "imagePullPolicy": "Never",
                "command": list(command),
                "volumeMounts": [
                    {"name": name, "mountPath": path, **(mount or {})}
                    for path, name in names.items()
                ],
                **(container or {}),
            }
        ],
        "volumes": [{"name": names[path], **source} for path, source in volumes.items()],
        **spec,
    }


def pod(name: str, spec: Object, labels: dict[str, str] | None = None) -> Object:
    metadata = {"name": name, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def static_volume(
    name: str,
    namespace: str,
    attributes: dict[str, str],
    *,
    mode: str = "ReadWriteMany",
    secret: str | None = None,
    read_only: bool = False,
    class_name: str = "slayerfs",
) -> tuple[Object, Object]:
    """A PersistentVolume of an existing bucket and a claim of the same name bound to it."""
    csi: Object = {
        "driver": DRIVER,
        "volumeHandle": name,
        "readOnly": read_only,
        "volumeAttributes": attributes,
    }
    if secret is not None:
        csi["nodePublishSecretRef"] = {"name": secret, "namespace": namespace}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": class_name,
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": namespace, "name": name},
            "csi": csi,
        },
    }
    return volume, claim(name, class_name, "1Gi", mode, volumeName=name)


def secret(name: str, **values: str) -> Object:
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
