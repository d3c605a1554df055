"""``mountOptions`` of a StorageClass or PersistentVolume.

* ``key=value`` sets any parameter of the volume, in camelCase or with hyphens: ``metadataTtl=1m``,
  ``metadata-ttl=1m``. A boolean may stand alone: ``close-to-open``.
* The kernel's flags of one mount point: ``ro``, ``rw``, ``nosuid``, ``nodev``, ``noexec``,
  ``noatime``, ``nodiratime``, ``relatime``.

``sync`` is refused: no mount point of its own can have it, and ``durability=close`` or ``fsync``
says when written data is in S3. Anything else is refused with the nearest name that exists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from csi_slayer.errors import ConfigError
from csi_slayer.volumes import options
from csi_slayer.volumes.parameters import Boolean, VolumeParameters

FLAGS = ("ro", "rw", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime")
_SOURCE = "mountOptions"
_HYPHEN = re.compile(r"-([a-z])")
_BOOLEANS = frozenset(
    key
    for key, name in options.KEYS.items()
    if VolumeParameters.model_fields[name].annotation == Boolean | None
)


def parse(texts: Sequence[str]) -> tuple[tuple[str, ...], VolumeParameters]:
    """Flags (without ``rw``, which says nothing) and parameters. An element may hold several
    options with commas between, as mount(8) has them. Raises ConfigError."""
    flags: dict[str, None] = {}
    values: dict[str, str] = {}
    for text in (part.strip() for element in texts for part in element.split(",")):
        if text in FLAGS:
            flags[text] = None
        elif text:
            key, value = _parameter(text)
            if values.get(key, value) != value:
                raise ConfigError(f"{_SOURCE}: {key} is given twice, with different values")
            values[key] = value
    if "ro" in flags and "rw" in flags:
        raise ConfigError(f"{_SOURCE}: ro and rw exclude each other")
    flags.pop("rw", None)
    return tuple(flags), options.parse(values, _SOURCE)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    key = _HYPHEN.sub(lambda match: match[1].upper(), name)
    if key in options.KEYS:
        if equals:
            return key, value
        if key in _BOOLEANS:
            return key, "true"
        raise ConfigError(f"{_SOURCE}: {key}: expected {key}=VALUE")
    if name == "sync":
        raise ConfigError(
            f"{_SOURCE}: sync: not an option of this driver; durability=close (the default) means"
            " that close and fsync return when S3 has the data"
        )
    names = [*options.KEYS, *FLAGS] if not equals else list(options.KEYS)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else f"; flags: {', '.join(FLAGS)}"
    # Only the name: what follows = may be a secret.
    raise ConfigError(f"{_SOURCE}: {name!r}: unknown option{hint}")
