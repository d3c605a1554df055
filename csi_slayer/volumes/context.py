"""What the kubelet is told of a provisioned volume, and tells its node: the volume context."""

from __future__ import annotations

from types import MappingProxyType

from csi_slayer.volumes.records import VolumeRecord

CAPACITY = "capacityBytes"
"""Key of the capacity in a context; in bytes, or as Kubernetes writes quantities."""

LABELS = MappingProxyType(
    {
        "claim": "csi.storage.k8s.io/pvc/name",
        "namespace": "csi.storage.k8s.io/pvc/namespace",
        "pv": "csi.storage.k8s.io/pv/name",
    }
)
"""A record's labels, and what the provisioner calls them (its option --extra-create-metadata)."""


def volume_context(record: VolumeRecord) -> dict[str, str]:
    """The parameters that never change, where the objects are, capacity and claim."""
    context = {key: text for key, text in record.parameters.items() if key != "prefix"}
    context["bucket"] = record.bucket
    if record.prefix:
        context["prefix"] = record.prefix
    if record.capacity_bytes:
        context[CAPACITY] = str(record.capacity_bytes)
    return context | {LABELS[key]: text for key, text in record.labels.items() if key in LABELS}
