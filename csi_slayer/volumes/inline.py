"""Inline ephemeral volumes: what a pod's author may ask for.

* Without ``bucket``: scratch space in the driver's bucket, made and deleted with the pod. Nothing
  may be said about where it is or whose it is.
* With ``bucket``: an existing bucket, read and written with the pod's own secret or service
  account, never with the driver's identity; nothing is ever deleted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from csi_slayer.errors import ConfigError
from csi_slayer.volumes import options
from csi_slayer.volumes.identity import Identity, parse_secret
from csi_slayer.volumes.parameters import Authentication, VolumeParameters

# What scratch space may be told: nothing of it leads anywhere.
_SCRATCH = frozenset(
    {
        "readOnly",
        "enforceCapacity",
        "attributes",
        "uid",
        "gid",
        "fileMode",
        "dirMode",
        "zeroUpcall",
        "partSize",
        "hydrateMax",
        "ioTimeout",
        *options.MUTABLE,
    }
)

INLINE: Final = re.compile("csi-[0-9a-f]{64}")
"""Ids of inline volumes, as the kubelet makes them: nobody who writes a pod can choose another."""

_BY_KUBELET = tuple(
    f"csi.storage.k8s.io/{name}" for name in ("ephemeral", "pod.", "serviceAccount.")
)


def by_kubelet(context: Mapping[str, str]) -> dict[str, str]:
    """What the kubelet says of an inline volume. What else looks like its or the provisioner's
    word, such as a claim's name, was written by the pod's author."""
    return {key: text for key, text in context.items() if key.startswith(_BY_KUBELET)}


def check(said: VolumeParameters, secrets: Mapping[str, str], *, local: bool) -> None:
    """Raises ConfigError for what a pod's author may not say. ``local``: the driver's buckets are
    directories, which know no identities: whoever names one would have it."""
    names = {key for key, name in options.KEYS.items() if name in said.model_fields_set}
    if said.provisioning is not None:
        raise ConfigError("provisioning: not of an ephemeral volume")
    if said.bucket is None:
        wrong = sorted(names - _SCRATCH)
        if wrong:
            raise ConfigError(
                f"{', '.join(wrong)}: not of an ephemeral volume without a bucket: it is scratch"
                " space in the driver's bucket; name a bucket, and a secret or authentication: pod"
            )
        if parse_secret(secrets) is not None:
            raise ConfigError("an ephemeral volume with a secret needs a bucket: set it")
    elif local:
        raise ConfigError(
            "bucket: not of an ephemeral volume where the driver's store is a local directory: its"
            " buckets belong to whoever names them; use a claim"
        )
    elif said.authentication is Authentication.DRIVER:
        raise ConfigError(
            "authentication: an ephemeral volume never has the driver's identity: give a secret as"
            " nodePublishSecretRef, or set it to pod"
        )


def check_identity(identity: Identity) -> None:
    """Raises ConfigError where the driver's identity would be used for a bucket that a pod's
    author has chosen."""
    if identity.kind is Authentication.DRIVER:
        raise ConfigError(
            "an ephemeral volume on a bucket needs an identity of its own: give a secret as"
            " nodePublishSecretRef, or set authentication: pod"
        )
