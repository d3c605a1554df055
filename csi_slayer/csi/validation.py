"""What ValidateVolumeCapabilities confirms: only what is true of the volume."""

from __future__ import annotations

from collections.abc import Mapping

from csi_slayer.csi.messages import split_labels
from csi_slayer.errors import ConfigError
from csi_slayer.volumes import options
from csi_slayer.volumes.context import CAPACITY, volume_context
from csi_slayer.volumes.records import VolumeRecord

_Texts = Mapping[str, str]


def difference(
    record: VolumeRecord, context: _Texts, parameters: _Texts, mutable: _Texts
) -> str | None:
    """What of a volume is not as the caller says, or None; an empty map says nothing.

    What Kubernetes itself added is not compared. The message names keys, and repeats no value.
    """
    try:
        return (
            _context(record, context)
            or _parameters(record, parameters)
            or _mutable(record, mutable)
        )
    except ConfigError as error:
        return str(error)


def _context(record: VolumeRecord, given: _Texts) -> str | None:
    if not given:
        return None
    # A volume grows, and its context stays as it was told first.
    ours = {key: text for key, text in options.split(given)[0].items() if key != CAPACITY}
    options.parse(ours, "volume_context")
    expected = options.split(volume_context(record))[0]
    expected.pop(CAPACITY, None)
    return _differing("volume_context", ours, expected)


def _parameters(record: VolumeRecord, given: _Texts) -> str | None:
    if not given:
        return None
    ours, _ = options.split(split_labels(given)[0])
    options.parse(ours, "parameters")
    # Those that can be changed may have been, since the class was written.
    fixed = {key: text for key, text in ours.items() if key not in options.MUTABLE}
    return _differing("parameters", fixed, record.parameters)


def _mutable(record: VolumeRecord, given: _Texts) -> str | None:
    options.parse_mutable(given, "mutable_parameters")
    named = {key: text for key, text in record.mutable.items() if key in given}
    return _differing("mutable_parameters", given, named)


def _differing(what: str, given: _Texts, expected: _Texts) -> str | None:
    keys = sorted(key for key in {*given, *expected} if given.get(key) != expected.get(key))
    return f"{what}: {', '.join(keys)}: not as the volume has it" if keys else None
