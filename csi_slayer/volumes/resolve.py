"""NodePublishVolume: from ids, attributes, mount options and secrets to the configuration of a
mount and the identity that it runs with.

Three kinds of volume: *provisioned* ones, whose id says where their record is; *existing* ones,
whose PersistentVolume names bucket and prefix; and *ephemeral* ones, written into a pod by whoever
may make pods, who is not trusted with the driver's identity (:mod:`csi_slayer.volumes.inline`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from csi_slayer.config import MountConfig, parse_size
from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import (
    AccessDenied,
    ConfigError,
    VolumeBusy,
    VolumeInUse,
    VolumeNotFound,
)
from csi_slayer.store.buckets import create_bucket
from csi_slayer.store.options import StoreOptions
from csi_slayer.volumes import inline, mount_options, options
from csi_slayer.volumes.context import CAPACITY, LABELS
from csi_slayer.volumes.identity import driver_identity, publishing_identity
from csi_slayer.volumes.ids import SYSTEM, Kind, ObjectId, ephemeral_prefix, parse
from csi_slayer.volumes.layout import Content, content_of
from csi_slayer.volumes.parameters import VolumeParameters
from csi_slayer.volumes.places import Access, Service, mount_config, store_fields, url_of
from csi_slayer.volumes.pods import Pod
from csi_slayer.volumes.records import State, VolumeRecord
from csi_slayer.volumes.session import is_empty, volumes
from csi_slayer.volumes.stores import StorePool

# Parameters of a mount whose fields have the same names in VolumeConfig.
_SAME_NAMES = (
    "durability",
    "metadata_ttl",
    "negative_ttl",
    "close_to_open",
    "prefetch",
    "open_wait",
    "attributes",
    "uid",
    "gid",
    "zero_upcall",
    "part_size",
    "hydrate_max",
    "io_timeout",
)
# Where a volume is: a provisioned one's id says it, and no mount option may say otherwise.
_PLACE_KEYS = frozenset({"bucket", "prefix", "provisioning", "endpoint", "region"})
_POD = "csi.storage.k8s.io/pod."
# A group that is to share a volume (fsGroup) may write, and new files get the group.
_GROUP_FILE, _GROUP_DIRECTORY = "0664", "2775"


@dataclass(frozen=True, slots=True)
class Resolved:
    """``flags``: of the bind mount, ``ro`` among them. ``labels``: for metrics and logs.
    ``ephemeral``: its content is to be deleted once no pod has it
    (:meth:`Provisioner.delete_ephemeral`)."""

    config: MountConfig
    identity: str
    flags: tuple[str, ...]
    labels: dict[str, str]
    pod: Pod | None
    ephemeral: bool
    parameters: VolumeParameters


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of a volume. ``capacity`` in bytes, 0: no limit."""

    content: Content
    capacity: int
    mutable: VolumeParameters
    labels: Mapping[str, str]
    scratch: bool = False


async def resolve(
    driver: DriverConfig,
    volume_id: str,
    context: Mapping[str, str],
    mount_flags: Sequence[str],
    secrets: Mapping[str, str],
    *,
    read_only_volume: bool,
    mount_group: str,
    ephemeral: bool | None = None,
    stores: StorePool | None = None,
) -> Resolved:
    """Everything that a publication needs.

    ``read_only_volume``: nobody writes to it (access mode). ``mount_group``: numeric id, or empty.
    ``ephemeral`` None: the context says it. ``stores``: kept open between calls by the caller;
    None: opened for this call. Raises ConfigError that says what to mend, AccessDenied,
    BucketNotFound, VolumeNotFound, VolumeBusy, VolumeInUse, StoreUnavailable.
    """
    if stores is None:
        stores = StorePool()
        try:
            return await resolve(
                driver,
                volume_id,
                context,
                mount_flags,
                secrets,
                read_only_volume=read_only_volume,
                mount_group=mount_group,
                ephemeral=ephemeral,
                stores=stores,
            )
        finally:
            await stores.close()
    texts, kubernetes = options.split(context)
    if ephemeral is None:
        # The id as well: without podInfoOnMount what the context says is the pod author's word.
        said_so = kubernetes.get("csi.storage.k8s.io/ephemeral") == "true"
        ephemeral = said_so or inline.INLINE.fullmatch(volume_id) is not None
    capacity = _capacity(texts.pop(CAPACITY, "0"))
    flags, by_mount = mount_options.parse(mount_flags)
    defaults = options.parse(driver.volumes, "volumes of the driver's configuration")
    given = options.parse(texts, "volume attributes")
    said = options.merge(given, by_mount)
    parameters = options.merge(defaults, said)
    service = Service.of_parameters(parameters)
    volume = None if ephemeral else _provisioned(volume_id)
    if ephemeral:
        kubernetes = inline.by_kubelet(kubernetes)
        inline.check(said, secrets, local=driver.store.local is not None)
    if ephemeral and said.bucket is None:
        service, identity = Service(), await driver_identity(driver.store)
        place = await _scratch(driver, volume_id, capacity)
    else:
        identity = await publishing_identity(driver.store, parameters, secrets, kubernetes)
        if ephemeral:
            inline.check_identity(identity)
        if volume is None:
            place = _existing_place(said, capacity)
        else:
            wrong = sorted(_names(by_mount) & _PLACE_KEYS)
            if wrong:
                raise ConfigError(
                    f"mountOptions: {', '.join(wrong)}: fixed for a volume of a class"
                )
            service = replace(service, endpoint=volume.endpoint, region=volume.region)
            access = Access(driver, stores, service, identity)
            place = await _provisioned_place(access, volume, given, capacity)
    parameters = options.merge(defaults, given, place.mutable, by_mount)
    store = store_fields(driver.store, service, identity)
    if parameters.io_timeout is not None:
        # A worker's requests last for the shorter of the two; the volume's own word counts.
        store["retry_deadline"] = max(driver.store.retry_deadline, parameters.io_timeout)
    config = mount_config(
        driver,
        url_of(driver.store, place.content.bucket, place.content.prefix),
        store,
        _volume_fields(parameters, read_only_volume, mount_group, place.capacity),
    )
    pod = _pod(kubernetes)
    return Resolved(
        config=config,
        identity=identity.name,
        flags=flags,
        labels=_labels(kubernetes, place.labels, pod),
        pod=pod,
        ephemeral=place.scratch,
        parameters=parameters,
    )


def _provisioned(volume_id: str) -> ObjectId | None:
    try:
        return parse(volume_id, Kind.VOLUME)
    except ConfigError:
        return None  # a PersistentVolume that a person wrote


async def _provisioned_place(
    access: Access, volume: ObjectId, given: VolumeParameters, capacity: int
) -> _Place:
    """What the record says, or the context where the identity may not read records, or where the
    record is lost and the content is not. Raises VolumeNotFound if neither is there."""
    lost = False
    try:
        async with access.store(volume.bucket) as store:
            record = (await volumes(store).read(volume)).record
    except (AccessDenied, VolumeNotFound) as error:
        if given.bucket is None:
            raise  # nor does the context say where it is
        lost = isinstance(error, VolumeNotFound)
        record = VolumeRecord(
            csi_name=volume.name,
            bucket=given.bucket,
            prefix=given.prefix or "",
            own_bucket=not given.prefix,
            capacity_bytes=capacity,
        )
    content = content_of(volume, record)
    if lost:
        async with access.store(content.bucket, content.prefix) as store:
            if await is_empty(store):
                raise VolumeNotFound(f"there is no volume {volume}: it has been deleted")
    if record.state is State.DELETING:
        raise VolumeInUse(f"volume {volume} is being deleted: it cannot be mounted any more")
    if record.state is State.CREATING:
        raise VolumeBusy(f"volume {volume} is being made: ask again")
    # A later version of the driver may know more parameters.
    known = {key: text for key, text in record.mutable.items() if key in options.MUTABLE}
    mutable = options.parse(known, f"record {volume.record_key}")
    return _Place(content, record.capacity_bytes, mutable, record.labels)


def _existing_place(said: VolumeParameters, capacity: int) -> _Place:
    if said.bucket is None:
        raise ConfigError(
            "bucket: missing in the volume's attributes: a PersistentVolume with a volumeHandle of"
            " its own says which bucket (and prefix) it shows"
        )
    if (said.prefix or "").startswith(SYSTEM):
        raise ConfigError(f"prefix: {SYSTEM} is where the driver keeps its records: no volume")
    content = Content(said.bucket, said.prefix or "", False)
    return _Place(content, capacity, VolumeParameters(), {})


async def _scratch(driver: DriverConfig, volume_id: str, capacity: int) -> _Place:
    """Where an ephemeral volume without a bucket has its objects."""
    if driver.store.bucket is None:
        raise ConfigError(
            "bucket: the driver has no bucket of its own for ephemeral volumes: name one, with a"
            " secret, or have store.bucket set in the driver's configuration"
        )
    content = Content(driver.store.bucket, ephemeral_prefix(volume_id), False)
    if driver.store.local is not None:
        url = url_of(driver.store, content.bucket, content.prefix)
        await create_bucket(url, StoreOptions())
    return _Place(content, capacity, VolumeParameters(), {}, scratch=True)


def _capacity(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"volume attributes: {CAPACITY}: {error}") from None


def _names(parameters: VolumeParameters) -> set[str]:
    return {key for key, name in options.KEYS.items() if name in parameters.model_fields_set}


def _volume_fields(
    parameters: VolumeParameters, read_only: bool, mount_group: str, capacity: int
) -> dict[str, object]:
    """Fields of VolumeConfig; None where neither volume nor driver says anything."""
    fields: dict[str, object] = {name: getattr(parameters, name) for name in _SAME_NAMES}
    fields["read_only"] = read_only or bool(parameters.read_only)
    if capacity and parameters.enforce_capacity is not False:
        fields["quota"] = capacity
    modes = {"file_mode": parameters.file_mode, "dir_mode": parameters.dir_mode}
    fields |= {name: None if mode is None else f"{mode:04o}" for name, mode in modes.items()}
    if mount_group:
        if not (mount_group.isascii() and mount_group.isdigit()):
            raise ConfigError("volume_mount_group: expected the number of a group")
        fields["gid"] = int(mount_group)
        fields["file_mode"] = fields["file_mode"] or _GROUP_FILE
        fields["dir_mode"] = fields["dir_mode"] or _GROUP_DIRECTORY
    return fields


def _pod(kubernetes: Mapping[str, str]) -> Pod | None:
    if f"{_POD}name" not in kubernetes:
        return None
    return Pod(
        name=kubernetes[f"{_POD}name"],
        namespace=kubernetes.get(f"{_POD}namespace", ""),
        uid=kubernetes.get(f"{_POD}uid", ""),
    )


def _labels(
    kubernetes: Mapping[str, str], recorded: Mapping[str, str], pod: Pod | None
) -> dict[str, str]:
    """``claim`` and ``namespace``, always there, and ``volume`` (the PersistentVolume) if known."""
    found = {key: kubernetes.get(name) or recorded.get(key, "") for key, name in LABELS.items()}
    labels = {
        "claim": found["claim"],
        "namespace": found["namespace"] or (pod.namespace if pod else ""),
    }
    if found["pv"]:
        labels["volume"] = found["pv"]
    return labels
