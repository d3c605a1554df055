"""The Controller service: snapshots."""

from __future__ import annotations

from csi_slayer.csi.fields import BadRequest
from csi_slayer.csi.messages import SNAPSHOT_KEYS, snapshot_message
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import rpc
from csi_slayer.errors import VolumeNotFound
from csi_slayer.volumes.provisioner import Provisioner


class Snapshots:
    """The part of ``csi.v1.Controller`` that is about snapshots."""

    def __init__(self, provisioner: Provisioner) -> None:
        self.provisioner = provisioner

    @rpc("source_volume_id", "name", one_at_a_time="name")
    async def CreateSnapshot(
        self, request: csi_pb2.CreateSnapshotRequest
    ) -> csi_pb2.CreateSnapshotResponse:
        parameters = {
            key: value for key, value in request.parameters.items() if key not in SNAPSHOT_KEYS
        }
        id, record = await self.provisioner.create_snapshot(
            request.name, request.source_volume_id, parameters, dict(request.secrets)
        )
        return csi_pb2.CreateSnapshotResponse(snapshot=snapshot_message(id, record))

    @rpc("snapshot_id", one_at_a_time="snapshot_id")
    async def DeleteSnapshot(
        self, request: csi_pb2.DeleteSnapshotRequest
    ) -> csi_pb2.DeleteSnapshotResponse:
        await self.provisioner.delete_snapshot(request.snapshot_id, dict(request.secrets))
        return csi_pb2.DeleteSnapshotResponse()

    @rpc("snapshot_id", quiet=True)
    async def GetSnapshot(self, request: csi_pb2.GetSnapshotRequest) -> csi_pb2.GetSnapshotResponse:
        found, _ = await self.provisioner.list_snapshots(
            "", 1, snapshot_id=request.snapshot_id, source=None, secrets=dict(request.secrets)
        )
        if not found:
            raise VolumeNotFound("the snapshot does not exist: check its id")
        return csi_pb2.GetSnapshotResponse(snapshot=snapshot_message(*found[0]))

    @rpc(quiet=True)
    async def ListSnapshots(
        self, request: csi_pb2.ListSnapshotsRequest
    ) -> csi_pb2.ListSnapshotsResponse:
        if request.max_entries < 0:
            raise BadRequest("max_entries: expected 0 or more")
        found, token = await self.provisioner.list_snapshots(
            request.starting_token,
            request.max_entries,
            snapshot_id=request.snapshot_id or None,
            source=request.source_volume_id or None,
            secrets=dict(request.secrets),
        )
        answer = csi_pb2.ListSnapshotsResponse(next_token=token)
        for id, record in found:
            answer.entries.add(snapshot=snapshot_message(id, record))
        return answer
