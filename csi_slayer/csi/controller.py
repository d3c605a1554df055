"""The Controller service: volumes. Snapshots are in :mod:`csi_slayer.csi.snapshots`."""

from __future__ import annotations

from typing import Final

from csi_slayer.csi.capabilities import check_all, problem
from csi_slayer.csi.fields import BadRequest
from csi_slayer.csi.messages import (
    capacity_of,
    record_condition,
    split_labels,
    volume_message,
)
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import rpc
from csi_slayer.csi.snapshots import Snapshots
from csi_slayer.csi.validation import difference
from csi_slayer.errors import ConfigError, VolumeNotFound
from csi_slayer.volumes.ids import Kind, parse

_RPC = csi_pb2.ControllerServiceCapability.RPC

CAPABILITIES: Final = (
    _RPC.CREATE_DELETE_VOLUME,
    _RPC.LIST_VOLUMES,
    _RPC.GET_CAPACITY,
    _RPC.CREATE_DELETE_SNAPSHOT,
    _RPC.LIST_SNAPSHOTS,
    _RPC.CLONE_VOLUME,
    _RPC.EXPAND_VOLUME,
    _RPC.VOLUME_CONDITION,
    _RPC.GET_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
    _RPC.MODIFY_VOLUME,
    _RPC.GET_SNAPSHOT,
)


def source_of(source: csi_pb2.VolumeContentSource) -> str | None:
    """Id of the snapshot or volume that a new volume begins with.

    Raises BadRequest where none is named, VolumeNotFound where it cannot be one of ours.
    """
    kind = source.WhichOneof("type")
    if kind is None:
        return None
    snapshot = kind == "snapshot"
    id = source.snapshot.snapshot_id if snapshot else source.volume.volume_id
    if not id:
        raise BadRequest(f"volume_content_source.{kind} has no id")
    try:
        parse(id, Kind.SNAPSHOT if snapshot else Kind.VOLUME)
    except ConfigError as error:
        raise VolumeNotFound(f"the {kind} to begin with does not exist: {error}") from None
    return id


class Controller(Snapshots):
    """Implements ``csi.v1.Controller``."""

    @rpc(quiet=True)
    async def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        answer = csi_pb2.ControllerGetCapabilitiesResponse()
        for capability in CAPABILITIES:
            answer.capabilities.add(rpc=_RPC(type=capability))
        return answer

    @rpc("name", "volume_capabilities", one_at_a_time="name")
    async def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest
    ) -> csi_pb2.CreateVolumeResponse:
        check_all(request.volume_capabilities)
        required, limit = capacity_of(request.capacity_range)
        parameters, labels = split_labels(request.parameters)
        id, record = await self.provisioner.create_volume(
            request.name,
            parameters,
            dict(request.mutable_parameters),
            dict(request.secrets),
            required_bytes=required,
            limit_bytes=limit,
            source=source_of(request.volume_content_source),
            labels=labels,
        )
        return csi_pb2.CreateVolumeResponse(volume=volume_message(id, record))

    @rpc("volume_id", one_at_a_time="volume_id")
    async def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest
    ) -> csi_pb2.DeleteVolumeResponse:
        await self.provisioner.delete_volume(request.volume_id, dict(request.secrets))
        return csi_pb2.DeleteVolumeResponse()

    @rpc("volume_id", "volume_capabilities")
    async def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        _, record = await self.provisioner.get_volume(request.volume_id, dict(request.secrets))
        answer = csi_pb2.ValidateVolumeCapabilitiesResponse()
        wrongs = [problem(capability) for capability in request.volume_capabilities]
        wrongs.append(
            difference(
                record, request.volume_context, request.parameters, request.mutable_parameters
            )
        )
        for wrong in wrongs:
            if wrong is not None:
                answer.message = wrong
                return answer
        confirmed = answer.confirmed
        confirmed.volume_capabilities.extend(request.volume_capabilities)
        confirmed.volume_context.update(request.volume_context)
        confirmed.parameters.update(request.parameters)
        confirmed.mutable_parameters.update(request.mutable_parameters)
        return answer

    @rpc(quiet=True)
    async def ListVolumes(self, request: csi_pb2.ListVolumesRequest) -> csi_pb2.ListVolumesResponse:
        if request.max_entries < 0:
            raise BadRequest("max_entries: expected 0 or more")
        found, token = await self.provisioner.list_volumes(
            request.starting_token, request.max_entries
        )
        answer = csi_pb2.ListVolumesResponse(next_token=token)
        for id, record in found:
            entry = answer.entries.add(volume=volume_message(id, record))
            entry.status.volume_condition.CopyFrom(record_condition(record))
        return answer

    @rpc("volume_id", quiet=True)
    async def ControllerGetVolume(
        self, request: csi_pb2.ControllerGetVolumeRequest
    ) -> csi_pb2.ControllerGetVolumeResponse:
        id, record = await self.provisioner.get_volume(request.volume_id, {})
        abnormal, message = await self.provisioner.condition(request.volume_id, {})
        answer = csi_pb2.ControllerGetVolumeResponse(volume=volume_message(id, record))
        answer.status.volume_condition.abnormal = abnormal
        answer.status.volume_condition.message = message
        return answer

    @rpc(quiet=True)
    async def GetCapacity(self, request: csi_pb2.GetCapacityRequest) -> csi_pb2.GetCapacityResponse:
        if any(problem(capability) for capability in request.volume_capabilities):
            return csi_pb2.GetCapacityResponse(available_capacity=0)
        parameters, _ = split_labels(request.parameters)
        capacity = await self.provisioner.capacity(parameters)
        return csi_pb2.GetCapacityResponse(available_capacity=capacity)

    @rpc("volume_id", "capacity_range", one_at_a_time="volume_id")
    async def ControllerExpandVolume(
        self, request: csi_pb2.ControllerExpandVolumeRequest
    ) -> csi_pb2.ControllerExpandVolumeResponse:
        if request.HasField("volume_capability"):
            check_all([request.volume_capability])
        required, limit = capacity_of(request.capacity_range)
        if not required and not limit:
            raise BadRequest("capacity_range: name the bytes that the volume shall have")
        capacity = await self.provisioner.expand(
            request.volume_id, required, limit, dict(request.secrets)
        )
        # A node that has the volume mounted is told the new quota at once.
        return csi_pb2.ControllerExpandVolumeResponse(
            capacity_bytes=capacity, node_expansion_required=True
        )

    @rpc("volume_id", "mutable_parameters", one_at_a_time="volume_id")
    async def ControllerModifyVolume(
        self, request: csi_pb2.ControllerModifyVolumeRequest
    ) -> csi_pb2.ControllerModifyVolumeResponse:
        await self.provisioner.modify(
            request.volume_id, dict(request.mutable_parameters), dict(request.secrets)
        )
        return csi_pb2.ControllerModifyVolumeResponse()
