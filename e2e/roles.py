"""Web identity at MinIO: the cluster's tokens, and the role that MinIO gives for them."""

from __future__ import annotations

import re

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


def minio_role(log: str) -> str:
    """The role that web identities assume, from what MinIO prints at its start.

    Raises LookupError: it has not understood its OpenID configuration, or not printed it yet.
    """
    found = re.findall(r"arn:minio:iam:\S*:\S*:role/\S+", log)
    if not found:
        raise LookupError("MinIO names no role for web identities; see its log")
    return str(found[-1])
