"""The pod that a volume is published for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pod:
    """As the kubelet says it (podInfoOnMount)."""

    name: str
    namespace: str
    uid: str
