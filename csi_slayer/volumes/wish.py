"""One CreateVolume call, understood: what is wished, and where it will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from csi_slayer.errors import ConfigError
from csi_slayer.volumes import capacity, options
from csi_slayer.volumes.ids import Kind, ObjectId, safe_name
from csi_slayer.volumes.layout import Content, planned_content
from csi_slayer.volumes.parameters import Provisioning, VolumeParameters
from csi_slayer.volumes.records import VolumeRecord, id_of
from csi_slayer.volumes.session import Session


@dataclass(frozen=True, slots=True)
class Wish:
    """One CreateVolume, understood. ``volume``: its id; ``content``: where its objects will be."""

    name: str
    volume: ObjectId
    content: Content
    parameters: dict[str, str]
    mutable: dict[str, str]
    required: int
    limit: int
    source: str | None
    labels: dict[str, str]


def understand(
    session: Session,
    name: str,
    parameters: Mapping[str, str],
    mutable: Mapping[str, str],
    required: int,
    limit: int,
    source: str | None,
    labels: Mapping[str, str],
) -> tuple[Wish, VolumeParameters]:
    """Raises ConfigError, CapacityOutOfRange."""
    given, _ = options.split(parameters)
    merged = options.merge(session.defaults, options.parse(given, "parameters"))
    options.parse_mutable(mutable, "mutable parameters")
    capacity.check_range(required, limit)
    driver = session.config.store
    bucket = merged.bucket or driver.bucket
    if bucket is None:
        raise ConfigError(
            "bucket: neither the storage class nor store.bucket of the driver's configuration says"
            " in which bucket volumes are made: set one of them"
        )
    home = ObjectId(
        Kind.VOLUME,
        bucket,
        safe_name(name),
        None if merged.endpoint == driver.endpoint else merged.endpoint,
        None if merged.region == driver.region else merged.region,
    )
    base = session.config.controller.claim_prefix if merged.prefix is None else merged.prefix
    own = merged.provisioning is Provisioning.BUCKET
    content = planned_content(home, base, own)
    wish = Wish(
        name=name,
        volume=id_of(home, placed(name, content)),
        content=content,
        parameters={key: text for key, text in given.items() if key not in options.MUTABLE},
        mutable={key: text for key, text in given.items() if key in options.MUTABLE}
        | dict(mutable),
        required=required,
        limit=limit,
        source=source,
        labels=dict(labels),
    )
    return wish, merged


def placed(name: str, content: Content) -> VolumeRecord:
    return VolumeRecord(
        csi_name=name, bucket=content.bucket, prefix=content.prefix, own_bucket=content.own
    )
