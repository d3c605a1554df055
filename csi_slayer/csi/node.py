"""The Node service: from the kubelet's calls to what the node's volumes are asked."""

from __future__ import annotations

from typing import Final

from csi_slayer.config.driver import DriverConfig
from csi_slayer.csi.capabilities import check_all, use_of
from csi_slayer.csi.emptying import Emptying
from csi_slayer.csi.messages import capacity_of
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import rpc
from csi_slayer.errors import StoreUnavailable
from csi_slayer.node.records import Record
from csi_slayer.node.requests import PublishRequest, VolumeStats
from csi_slayer.node.service import NodeVolumes
from csi_slayer.observability import get_logger
from csi_slayer.volumes.inline import INLINE
from csi_slayer.volumes.resolve import resolve
from csi_slayer.volumes.stores import StorePool

log = get_logger(__name__)

_RPC = csi_pb2.NodeServiceCapability.RPC

CAPABILITIES: Final = (
    _RPC.GET_VOLUME_STATS,
    _RPC.EXPAND_VOLUME,
    _RPC.VOLUME_CONDITION,
    _RPC.SINGLE_NODE_MULTI_WRITER,
    _RPC.VOLUME_MOUNT_GROUP,
)


def usages(stats: VolumeStats) -> list[csi_pb2.VolumeUsage]:
    """Bytes and inodes; without a capacity there is no total and nothing known as available."""
    Usage = csi_pb2.VolumeUsage
    total = stats.capacity_bytes or 0
    return [
        Usage(
            unit=Usage.BYTES,
            used=stats.used_bytes,
            total=total,
            available=max(0, total - stats.used_bytes),
        ),
        Usage(unit=Usage.INODES, used=stats.used_inodes),
    ]


class Node:
    """Implements ``csi.v1.Node``. ``emptying`` removes what inline ephemeral volumes held;
    ``stores`` are those that volumes' records are read from. The caller closes both."""

    def __init__(
        self,
        config: DriverConfig,
        volumes: NodeVolumes,
        emptying: Emptying,
        stores: StorePool,
    ) -> None:
        self._config = config
        self._volumes = volumes
        self._emptying = emptying
        self._stores = stores

    @rpc(quiet=True)
    async def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        answer = csi_pb2.NodeGetCapabilitiesResponse()
        for capability in CAPABILITIES:
            answer.capabilities.add(rpc=_RPC(type=capability))
        return answer

    @rpc(quiet=True)
    async def NodeGetInfo(self, request: csi_pb2.NodeGetInfoRequest) -> csi_pb2.NodeGetInfoResponse:
        node = self._config.node
        answer = csi_pb2.NodeGetInfoResponse(
            node_id=node.name, max_volumes_per_node=node.max_volumes
        )
        if node.topology:
            answer.accessible_topology.segments.update(node.topology)
        return answer

    @rpc("volume_id", "target_path", "volume_capability", one_at_a_time="volume_id")
    async def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest
    ) -> csi_pb2.NodePublishVolumeResponse:
        use = use_of(request.volume_capability)
        await self._emptying.before_use(request.volume_id)
        try:
            resolved = await resolve(
                self._config,
                request.volume_id,
                dict(request.volume_context),
                use.flags,
                dict(request.secrets),
                read_only_volume=use.read_only,
                mount_group=use.mount_group,
                stores=self._stores,
            )
        except StoreUnavailable as error:
            if not await self._volumes.shows(request.volume_id, request.target_path):
                raise
            # The kubelet repeats the calls of running pods (requiresRepublish), who do not need S3
            # for what is cached: it will have news for them when it answers again.
            log.warning("not_renewed", volume=request.volume_id, error=str(error))
            return csi_pb2.NodePublishVolumeResponse()
        await self._volumes.publish(
            PublishRequest(
                volume_id=request.volume_id,
                target=request.target_path,
                identity=resolved.identity,
                config=resolved.config,
                read_only=request.readonly or "ro" in resolved.flags,
                flags=resolved.flags,
                exclusive=use.exclusive,
                labels=resolved.labels,
                pod=resolved.pod,
            )
        )
        return csi_pb2.NodePublishVolumeResponse()

    @rpc("volume_id", "target_path", one_at_a_time="volume_id")
    async def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        id = request.volume_id
        last = self._volumes.record(id)
        await self._volumes.unpublish(id, request.target_path)
        if INLINE.fullmatch(id):
            await self._end_inline(id, last)
        return csi_pb2.NodeUnpublishVolumeResponse()

    async def _end_inline(self, id: str, last: Record | None) -> None:
        """Delete what an inline volume held that no pod has any more: at once, or later. Raises
        VolumeBusy."""
        if self._volumes.published(id):
            return
        await self._emptying.owe(id)
        if self._volumes.has(id):
            return  # it is still uploading: afterwards
        if not await self._emptying.at_once(id) and last is not None:
            self._volumes.warn(
                last,
                "ContentStays",
                "the volume is gone from the node, but S3 did not let its content be deleted in"
                " time: the node goes on trying",
            )

    @rpc("volume_id", "volume_path", quiet=True)
    async def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        stats = await self._volumes.stats(request.volume_id, request.volume_path)
        condition = stats.condition
        return csi_pb2.NodeGetVolumeStatsResponse(
            usage=usages(stats),
            volume_condition=csi_pb2.VolumeCondition(
                abnormal=condition.abnormal, message=condition.message
            ),
        )

    @rpc("volume_id", "volume_path", one_at_a_time="volume_id")
    async def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest
    ) -> csi_pb2.NodeExpandVolumeResponse:
        if request.HasField("volume_capability"):
            check_all([request.volume_capability])
        required, limit = capacity_of(request.capacity_range)
        capacity = required or limit
        if not capacity:
            stats = await self._volumes.stats(request.volume_id, request.volume_path)
            return csi_pb2.NodeExpandVolumeResponse(capacity_bytes=stats.capacity_bytes or 0)
        await self._volumes.expand(request.volume_id, request.volume_path, capacity)
        return csi_pb2.NodeExpandVolumeResponse(capacity_bytes=capacity)
