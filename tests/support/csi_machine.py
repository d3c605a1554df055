"""Random sequences of CSI calls, repeated and at once, against a model of what must come of them.

Hypothesis chooses; every call goes over gRPC. Each is made one to three times at the same time, as
sidecars and kubelet do after a lost answer: all succeed, or some are told to come again (ABORTED).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from csi_slayer.csi.proto import csi_pb2
from tests.support.csi import CsiClient, mount_capability

GIB = 1 << 30
MOST_ATTEMPTS = 50
"""Attempts of a call that is told to come again."""

# UNAVAILABLE: the process ended while it worked.
COME_AGAIN = (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE)

ASKING = (
    "ListVolumes",
    "ListSnapshots",
    "ControllerGetVolume",
    "GetSnapshot",
    "NodeGetVolumeStats",
)

NAMES = st.sampled_from(["alpha", "beta", "Gamma/../x"])
SNAPSHOTS = st.sampled_from(["snap-1", "snap 2"])
TARGETS = st.sampled_from(["t1", "t2", "t3"])
CAPACITIES = st.sampled_from([1, 2, 3])
TIMES = st.integers(1, 3)


@dataclass
class ModelVolume:
    id: str
    gib: int
    source: str | None = None
    content: dict[str, bytes] = field(default_factory=dict)


@dataclass
class ModelSnapshot:
    id: str
    volume_id: str
    gib: int
    content: dict[str, bytes]
    volume: ModelVolume
    """That of this name then; a later one is another."""


@dataclass
class ModelTarget:
    volume_id: str
    read_only: bool


@dataclass
class Clients:
    controller: CsiClient
    node: CsiClient
    targets: Path
    close: Callable[[], Awaitable[None]]


class CsiMachine(RuleBasedStateMachine):
    """``connect`` is given by whoever runs it. ``mounted``: targets can be read and written."""

    mounted = False

    async def connect(self) -> Clients:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clients = self.run(self.connect())
        self.volumes: dict[str, ModelVolume] = {}
        self.snapshots: dict[str, ModelSnapshot] = {}
        self.targets: dict[str, ModelTarget] = {}
        self.disturbance: Callable[[], Awaitable[None]] | None = None
        """Happens during the next call that changes something."""

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 90))

    def teardown(self) -> None:
        try:
            for name in list(self.targets):
                self.node(1, "NodeUnpublishVolume", self._at(name))
            for volume in self.volumes.values():
                self.controller(1, "DeleteVolume", {"volume_id": volume.id})
            for snapshot in self.snapshots.values():
                self.controller(1, "DeleteSnapshot", {"snapshot_id": snapshot.id})
            assert self._pages("ListVolumes", 0) == self._pages("ListSnapshots", 0) == []
            self.run(self.clients.close())
        finally:
            self.loop.close()

    # -- calls ----------------------------------------------------------------------------------

    def controller(self, times: int, method: str, fields: dict[str, Any]) -> Any:
        return self.run(self._together(self.clients.controller, times, method, fields))

    def node(self, times: int, method: str, fields: dict[str, Any]) -> Any:
        return self.run(self._together(self.clients.node, times, method, fields))

    async def _together(
        self, client: CsiClient, times: int, method: str, fields: dict[str, Any]
    ) -> Any:
        """The answer, which must be the same of all; or the code's name, which must be, too."""
        disturbance = None
        if method not in ASKING:
            disturbance, self.disturbance = self.disturbance, None
        answers, _ = await asyncio.gather(
            asyncio.gather(*(self._persistent(client, method, fields) for _ in range(times))),
            disturbance() if disturbance is not None else asyncio.sleep(0),
        )
        assert all(answer == answers[0] for answer in answers), (method, answers)
        return answers[0]

    async def _persistent(self, client: CsiClient, method: str, fields: dict[str, Any]) -> Any:
        for _ in range(MOST_ATTEMPTS):
            try:
                return await client(method, **fields)
            except grpc.aio.AioRpcError as error:
                if error.code() not in COME_AGAIN:
                    return error.code().name
        raise AssertionError(f"{method} was told {MOST_ATTEMPTS} times to come again")

    def _at(self, target: str) -> dict[str, Any]:
        return {
            "volume_id": self.targets[target].volume_id,
            "target_path": str(self.clients.targets / target),
        }

    def _published(self, volume_id: str) -> bool:
        return any(target.volume_id == volume_id for target in self.targets.values())

    # -- volumes --------------------------------------------------------------------------------

    def _create(self, times: int, name: str, gib: int, source: dict[str, Any] | None) -> Any:
        return self.controller(
            times,
            "CreateVolume",
            {
                "name": name,
                "volume_capabilities": [mount_capability()],
                "capacity_range": csi_pb2.CapacityRange(
                    required_bytes=gib * GIB, limit_bytes=gib * GIB
                ),
                "volume_content_source": source,
            },
        )

    @rule(name=NAMES, gib=CAPACITIES, times=TIMES)
    def create(self, name: str, gib: int, times: int) -> None:
        answer = self._create(times, name, gib, None)
        known = self.volumes.get(name)
        if known is None:
            assert answer.volume.capacity_bytes == gib * GIB
            self.volumes[name] = ModelVolume(answer.volume.volume_id, gib)
        elif known.gib != gib or known.source is not None:
            assert answer == "ALREADY_EXISTS"
        else:
            assert answer.volume.volume_id == known.id

    @precondition(lambda self: self.snapshots or self.volumes)
    @rule(name=NAMES, gib=CAPACITIES, data=st.data(), times=TIMES)
    def create_from(self, name: str, gib: int, data: st.DataObject, times: int) -> None:
        origins: list[ModelVolume | ModelSnapshot] = [
            *self.snapshots.values(),
            *self.volumes.values(),
        ]
        origin = data.draw(st.sampled_from(origins), "origin")
        kind = "snapshot" if isinstance(origin, ModelSnapshot) else "volume"
        answer = self._create(times, name, gib, {kind: {f"{kind}_id": origin.id}})
        known = self.volumes.get(name)
        if origin.gib > gib:
            assert answer in ("OUT_OF_RANGE", "ALREADY_EXISTS") or known is not None
        elif known is None:
            made = answer.volume
            assert getattr(made.content_source, kind) == getattr(
                csi_pb2.VolumeContentSource(**{kind: {f"{kind}_id": origin.id}}), kind
            )
            self.volumes[name] = ModelVolume(made.volume_id, gib, origin.id, dict(origin.content))
        elif known.source == origin.id and known.gib == gib:
            assert answer.volume.volume_id == known.id
        else:
            assert answer == "ALREADY_EXISTS"

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), times=TIMES)
    def delete(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.volumes)), "name")
        volume = self.volumes[name]
        if self._published(volume.id):
            return  # Kubernetes does not, and the controller cannot know
        self.controller(times, "DeleteVolume", {"volume_id": volume.id})
        del self.volumes[name]
        assert self.controller(1, "ControllerGetVolume", {"volume_id": volume.id}) == "NOT_FOUND"

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), more=st.integers(0, 2), times=TIMES)
    def expand(self, data: st.DataObject, more: int, times: int) -> None:
        volume = data.draw(st.sampled_from(list(self.volumes.values())), "volume")
        wanted = (volume.gib + more) * GIB
        answer = self.controller(
            times,
            "ControllerExpandVolume",
            {"volume_id": volume.id, "capacity_range": {"required_bytes": wanted}},
        )
        assert answer.capacity_bytes == wanted
        volume.gib += more
        for name, target in self.targets.items():
            if target.volume_id == volume.id:
                fields = self._at(name)
                fields["volume_path"] = fields.pop("target_path")
                self.node(
                    times,
                    "NodeExpandVolume",
                    fields | {"capacity_range": {"required_bytes": wanted}},
                )

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), durability=st.sampled_from(["close", "fsync", "later"]), times=TIMES)
    def modify(self, data: st.DataObject, durability: str, times: int) -> None:
        volume = data.draw(st.sampled_from(list(self.volumes.values())), "volume")
        answer = self.controller(
            times,
            "ControllerModifyVolume",
            {"volume_id": volume.id, "mutable_parameters": {"durability": durability}},
        )
        assert (answer == "INVALID_ARGUMENT") == (durability == "later")

    # -- snapshots ------------------------------------------------------------------------------

    @precondition(lambda self: self.volumes)
    @rule(name=SNAPSHOTS, data=st.data(), times=TIMES)
    def snapshot(self, name: str, data: st.DataObject, times: int) -> None:
        volume = data.draw(st.sampled_from(list(self.volumes.values())), "volume")
        answer = self.controller(
            times, "CreateSnapshot", {"name": name, "source_volume_id": volume.id}
        )
        known = self.snapshots.get(name)
        if known is not None and (known.volume_id != volume.id or known.volume is not volume):
            assert answer == "ALREADY_EXISTS"
            return
        assert answer.snapshot.source_volume_id == volume.id and answer.snapshot.ready_to_use
        if known is None:
            self.snapshots[name] = ModelSnapshot(
                answer.snapshot.snapshot_id, volume.id, volume.gib, dict(volume.content), volume
            )
        else:
            assert answer.snapshot.snapshot_id == known.id

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), times=TIMES)
    def delete_snapshot(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.snapshots)), "name")
        id = self.snapshots.pop(name).id
        self.controller(times, "DeleteSnapshot", {"snapshot_id": id})
        assert self.controller(1, "GetSnapshot", {"snapshot_id": id}) == "NOT_FOUND"

    # -- targets --------------------------------------------------------------------------------

    @precondition(lambda self: self.volumes)
    @rule(place=TARGETS, data=st.data(), read_only=st.booleans(), times=TIMES)
    def publish(self, place: str, data: st.DataObject, read_only: bool, times: int) -> None:
        volume = data.draw(st.sampled_from(list(self.volumes.values())), "volume")
        context = self.controller(1, "ControllerGetVolume", {"volume_id": volume.id})
        answer = self.node(
            times,
            "NodePublishVolume",
            {
                "volume_id": volume.id,
                "target_path": str(self.clients.targets / place),
                "volume_capability": mount_capability(),
                "volume_context": dict(context.volume.volume_context),
                "readonly": read_only,
            },
        )
        known = self.targets.setdefault(place, ModelTarget(volume.id, read_only))
        if known != ModelTarget(volume.id, read_only):
            assert answer == "ALREADY_EXISTS"
        else:
            assert answer == csi_pb2.NodePublishVolumeResponse()

    @precondition(lambda self: self.targets)
    @rule(data=st.data(), times=TIMES)
    def unpublish(self, data: st.DataObject, times: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.targets)), "target")
        self.node(times, "NodeUnpublishVolume", self._at(name))
        fields = self._at(name)
        del self.targets[name]
        fields["volume_path"] = fields.pop("target_path")
        assert self.node(1, "NodeGetVolumeStats", fields) == "NOT_FOUND"

    @precondition(lambda self: self.mounted and self.targets)
    @rule(data=st.data(), path=st.sampled_from(["a", "b"]), content=st.binary(max_size=64))
    def write(self, data: st.DataObject, path: str, content: bytes) -> None:
        name = data.draw(st.sampled_from(sorted(self.targets)), "target")
        target = self.targets[name]
        file = self.clients.targets / name / path
        if target.read_only:
            with contextlib.suppress(OSError):
                file.write_bytes(content)
                raise AssertionError("a read-only target was written to")
            return
        with file.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())  # in S3 by now, whatever the volume's durability
        [volume] = [it for it in self.volumes.values() if it.id == target.volume_id]
        volume.content[path] = content

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def lists_are_the_models(self) -> None:
        for page in (0, 2):
            listed = self._pages("ListVolumes", page)
            found = {entry.volume.volume_id: entry.volume.capacity_bytes for entry in listed}
            assert len(found) == len(listed)
            assert found == {it.id: it.gib * GIB for it in self.volumes.values()}
        snapshots = [entry.snapshot.snapshot_id for entry in self._pages("ListSnapshots", 1)]
        assert sorted(snapshots) == sorted(it.id for it in self.snapshots.values())

    def _pages(self, method: str, size: int) -> list[Any]:
        entries: list[Any] = []
        token = ""
        while True:
            page = self.controller(1, method, {"max_entries": size, "starting_token": token})
            assert not size or len(page.entries) <= size
            entries += page.entries
            token = page.next_token
            if not token:
                return entries

    @invariant()
    def targets_are_the_models(self) -> None:
        for name, target in self.targets.items():
            fields = self._at(name)
            fields["volume_path"] = fields.pop("target_path")
            stats = self.node(1, "NodeGetVolumeStats", fields)
            assert not stats.volume_condition.abnormal
            [volume] = [it for it in self.volumes.values() if it.id == target.volume_id]
            assert stats.usage[0].total == volume.gib * GIB
            if self.mounted:
                root = self.clients.targets / name
                assert {path.name: path.read_bytes() for path in root.iterdir()} == volume.content
