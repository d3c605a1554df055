"""What of a volume is told to others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from csi_slayer.config import MountConfig
from csi_slayer.node.keeper import LIMIT
from csi_slayer.node.lifecycle import Lifecycle
from csi_slayer.node.records import Places, Record, Target
from csi_slayer.node.requests import Pod
from csi_slayer.node.volume import Volume


def volume(tmp_path: Path, pods: int) -> Volume:
    """Mounted, and shown to that many."""
    uid = "3f1c2b8e-1b1b-4f4e-9a9a-0123456789ab"
    directory = f"/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/pvc-{uid}"
    pod = Pod("name-of-a-pod-7f8b9c6d5f-abcde", "team-a-production", uid)
    record = Record("a" * 16, f"slayer1:bucket:pvc-{uid}", "driver", {})
    record.targets = {f"{directory}/{number}": Target((), pod) for number in range(pods)}
    config = MountConfig.model_validate({"store": {"url": "s3://bucket"}})
    node: Any = SimpleNamespace(places=Places(tmp_path, tmp_path), limits=None)
    made = Volume(node, record, config, lambda gone: None)
    running: Any = SimpleNamespace(life=Lifecycle({}, session={"connection": 1}))
    made.running = running
    return made


def test_a_keeper_can_hold_a_volume_of_all_pods_of_a_node(tmp_path: Path) -> None:
    for pods in (1, 100, 500):
        it = volume(tmp_path, pods)
        held = it.describe()
        assert held is not None
        assert len(json.dumps(held.state)) < LIMIT - 1024
        kept = Record.from_json(held.state["record"])
        assert set(kept.targets) == set(it.record.targets)
        assert all((target.pod is None) == (pods > 100) for target in kept.targets.values())
        assert all(target.pod is not None for target in it.record.targets.values())
