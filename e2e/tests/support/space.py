"""A namespace of one test, and what tests do in it."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import Any

from e2e import install
from e2e.environment import Environment
from e2e.tests.support import objects
from e2e.tests.support.api import WAIT, Api, Object
from e2e.tests.support.polling import poll
from tests.support.s3admin import S3Admin


def phase_is(phase: str) -> Any:
    return lambda seen: seen is not None and seen.get("status", {}).get("phase") == phase


def is_ready(seen: Object | None) -> bool:
    """A pod's condition."""
    conditions = (seen or {}).get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(pod: Object) -> int:
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))


@dataclass
class Space:
    """``name``: of the namespace. Cluster-wide objects that a test makes are noted for removal."""

    name: str
    api: Api
    environment: Environment
    cluster_wide: list[tuple[str, str]] = field(default_factory=list)

    def apply(self, *items: Object) -> None:
        """Objects of this namespace, or of none (which are removed after the test)."""
        for item in items:
            if item["kind"] in ("PersistentVolume", "StorageClass", "VolumeAttributesClass"):
                self.cluster_wide.append((item["kind"], item["metadata"]["name"]))
            self.api.apply(item, namespace=self.name)

    def unique(self, name: str) -> str:
        """A name for an object without a namespace, or a bucket."""
        return f"{self.name}-{name}"

    def claim(
        self, name: str = "data", *, class_name: str = "slayerfs", size: str = "1Gi",
        mode: str = "ReadWriteMany", **spec: Any,
    ) -> str:  # fmt: skip
        self.apply(objects.claim(name, class_name, size, mode, **spec))
        return name

    def storage_class(self, name: str, parameters: dict[str, str], **fields: Any) -> str:
        """Its name."""
        found = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": self.unique(name)},
            "provisioner": objects.DRIVER,
            "allowVolumeExpansion": True,
            "parameters": parameters,
            **fields,
        }
        self.apply(found)
        return self.unique(name)

    def bound(self, claim: str = "data", timeout: float = WAIT) -> Object:
        """The PersistentVolume that a claim is bound to, waiting until it is."""
        seen = self.api.wait(
            "PersistentVolumeClaim", claim, self.name, phase_is("Bound"), "bound", timeout
        )
        assert seen is not None
        volume = self.api.get("PersistentVolume", seen["spec"]["volumeName"])
        assert volume is not None
        return volume

    def pod(
        self,
        name: str,
        volumes: str | dict[str, Object],
        *,
        image: str = "busybox",
        command: tuple[str, ...] = objects.SLEEP,
        **spec: Any,
    ) -> str:
        """Make a pod; ``volumes``: a claim, seen as /data, or sources by directory."""
        if isinstance(volumes, str):
            volumes = {"/data": objects.of_claim(volumes)}
        made = objects.pod_spec(self.environment.images[image], volumes, command, **spec)
        self.apply(objects.pod(name, made))
        return name

    def ready(self, pod: str, timeout: float = WAIT) -> str:
        self.api.wait("Pod", pod, self.name, is_ready, "ready", timeout)
        return pod

    def running(self, name: str, volumes: str | dict[str, Object], **options: Any) -> str:
        """A pod that is ready."""
        return self.ready(self.pod(name, volumes, **options))

    def sh(self, pod: str, script: str, timeout: float = WAIT) -> str:
        """What a shell script in the pod prints. Raises AssertionError: it failed."""
        return self.api.exec(self.name, pod, "sh", "-ec", script, timeout=timeout)

    def written(self, pod: str, path: str, lines: int = 1) -> str:
        """What the pod's own command has written to a file, once that is so many lines: a pod is
        ready when its command has started, not when it has got somewhere."""
        return poll(
            lambda: self.sh(pod, f"cat {path} 2>/dev/null || true"),
            lambda text: text.count("\n") >= lines,
            f"{pod} has not written {lines} lines to {path}",
        )

    def remove(self, kind: str, name: str, timeout: float = WAIT) -> None:
        """Delete and wait until it is gone."""
        self.api.delete(kind, name, self.name)
        self.api.wait(kind, name, self.name, lambda seen: seen is None, "gone", timeout)

    def event(self, name: str, *fragments: str, timeout: float = WAIT) -> str:
        """The message of an event that contains all of them: what else is told of an object, and
        in which order, differs from run to run."""
        return self.api.wait_event(self.name, name, *fragments, timeout=timeout)

    def not_mounted(self, pod: str, volume: str, *fragments: str) -> str:
        """The kubelet's message of why a volume is not in a pod. ``volume``: the PersistentVolume,
        or, of an inline one, its name in the pod."""
        failed = f'MountVolume.SetUp failed for volume "{volume}"'
        return self.event(pod, failed, *fragments)

    def patch(self, kind: str, name: str, change: Object) -> None:
        self.api.patch(kind, name, change, self.name)

    def s3(self, server: str = "versitygw") -> S3Admin:
        """boto3 on one of the S3 servers, with all rights."""
        return install.admin(self.environment, server)

    def secret(self, name: str, access_key: str | None = None, secret: str | None = None) -> str:
        """A Secret with the servers' real keys where no others are given."""
        real = self.environment.keys()
        self.apply(
            objects.secret(
                name, access_key_id=access_key or real[0], secret_access_key=secret or real[1]
            )
        )
        return name


@dataclass(frozen=True)
class Contents:
    """A volume's objects, seen from S3 by boto3."""

    admin: S3Admin
    bucket: str
    prefix: str

    @classmethod
    def of(cls, space: Space, volume: Object) -> Contents:
        """``volume``: the PersistentVolume."""
        attributes = volume["spec"]["csi"]["volumeAttributes"]
        return cls(space.s3(), attributes["bucket"], attributes["prefix"])

    def keys(self) -> list[str]:
        """Of files, below the prefix."""
        keys = self.admin.keys(self.bucket, self.prefix)
        return [key.removeprefix(self.prefix) for key in keys if not key.endswith("/")]

    def read(self, path: str) -> bytes:
        return self.admin.get(self.bucket, self.prefix + path)

    def files(self) -> dict[str, bytes]:
        """What is in each file. One that goes between listing and reading is left out."""
        found = {}
        for path in self.keys():
            with contextlib.suppress(KeyError):
                found[path] = self.read(path)
        return found

    def digests(self) -> dict[str, str]:
        """sha256 of each file."""
        return {path: hashlib.sha256(data).hexdigest() for path, data in self.files().items()}

    def wait(self, files: dict[str, bytes], timeout: float = WAIT) -> None:
        """Until S3 has these files and no others."""
        poll(self.files, lambda found: found == files, f"not {files} is in S3", timeout)

    def all_keys(self) -> list[str]:
        return self.admin.keys(self.bucket, self.prefix)
