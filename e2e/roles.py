"""Web identity at MinIO: the cluster's tokens, and the role that MinIO gives for them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

_TIMEOUT = 180.0
"""Seconds: MinIO asks the API server for its OpenID configuration first."""
_PAUSE = 0.5

DISCOVERY_BY_ANYBODY = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "service-account-issuer-discovery-by-anybody"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "system:service-account-issuer-discovery",
    },
    "subjects": [
        {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Group",
            "name": "system:unauthenticated",
        }
    ],
}
"""MinIO reads the API server's keys of token signatures, and has no account there."""


def minio_role(log: Callable[[], str], timeout: float = _TIMEOUT) -> str:
    """The role that web identities assume, from what MinIO has printed since its start (``log``),
    once it is there.

    Raises LookupError: it has not understood its OpenID configuration.
    """
    deadline = time.monotonic() + timeout
    # With what follows it: the line may be half written.
    while not (found := re.findall(r"(arn:minio:iam:\S*:\S*:role/\S+)\s", log())):
        if time.monotonic() >= deadline:
            raise LookupError("MinIO names no role for web identities; see its log")
        time.sleep(_PAUSE)
    return str(found[-1])
