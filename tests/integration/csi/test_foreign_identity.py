"""The node service's own identity is for nobody who writes a pod, whatever they send."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from csi_slayer.csi.proto import csi_pb2
from tests.support.csi import connected, mount_capability
from tests.support.driver import driver, s3_section
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

KUBELET = "csi.storage.k8s.io/"
TOKENS = f"{KUBELET}serviceAccount.tokens"
POD = {
    f"{KUBELET}ephemeral": "true",
    f"{KUBELET}pod.name": "p",
    f"{KUBELET}pod.namespace": "evil",
    f"{KUBELET}pod.uid": "u",
    f"{KUBELET}serviceAccount.name": "sa",
}
INLINE = "csi-" + "b" * 64
KEYS = ("access_key_id", "secret_access_key")

ATTEMPTS: list[tuple[str, dict[str, str], dict[str, str]]] = [
    (INLINE, {}, {}),
    (INLINE, {"authentication": "driver"}, {}),
    (INLINE, {"authentication": "secret"}, dict.fromkeys(KEYS, "")),
    (INLINE, {}, dict.fromkeys(KEYS, " \n")),
    (INLINE, {}, {"access_key_id": "AKIA", "secret_access_key": ""}),
    (INLINE, {f"{KUBELET}ephemeral": "false"}, {}),
    # What no request could be made with: said at once, by whose name it is.
    (INLINE, {}, {"access_key_id": "AKI\u0410", "secret_access_key": "secret-hunter2"}),
    (INLINE, {}, {"access_key_id": "AKIA", "secret_access_key": "secret-\nhunter2"}),
    (INLINE, {"region": "eu\x01"}, {"access_key_id": "AKIA", "secret_access_key": "hunter2"}),
    # An administrator's volume whose secret turns out to be empty.
    ("static", {f"{KUBELET}ephemeral": ""}, dict.fromkeys(KEYS, "")),
    *(
        (INLINE, {"authentication": "pod", TOKENS: text}, {})
        for text in (
            "",
            "null",
            "[]",
            "{}",
            '{"x": {}}',
            '{"x": null}',
            *(json.dumps({"x": {"token": token}}) for token in ("", " ", 5, None, [], {})),
        )
    ),
    (INLINE, {"authentication": "pod"}, {TOKENS: '{"x": {"token": ""}}'}),
    (INLINE, {"roleArn": "arn:aws:iam::1:role/r", TOKENS: '{"x": {"token": ""}}'}, {}),
]


def test_nothing_that_a_pod_s_author_sends_is_done_as_the_driver(
    versitygw: S3Server, short_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's keys are in its environment, as with ``envFrom``; each worker inherits it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", versitygw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", versitygw.secret_key)
    bucket = versitygw.create_bucket()
    versitygw.admin.put(bucket, "victim/secret.txt", b"of somebody else")
    store = s3_section(versitygw, bucket, tmp_path / "secret")
    del store["secret_directory"]

    with driver(short_directory, only=("keeper", "node"), store=store) as running:
        target = running.kubelet / "pods" / "t" / "mount"
        target.parent.mkdir(parents=True)

        def publication(id: str, said: dict[str, str], secrets: dict[str, str]) -> dict[str, Any]:
            return {
                "volume_id": id,
                "target_path": str(target),
                "volume_capability": mount_capability(),
                "volume_context": {**POD, "bucket": bucket, "prefix": "victim/", **said},
                "secrets": secrets,
            }

        async def work() -> None:
            async with connected(running.socket, csi_pb2.DESCRIPTOR) as node:
                for attempt in ATTEMPTS:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await node("NodePublishVolume", **publication(*attempt))
                    assert caught.value.code().name == "INVALID_ARGUMENT", attempt
                    assert "hunter2" not in str(caught.value.details())
                    assert not (target / "secret.txt").exists(), attempt
                # What is not refused for its form: no service here knows the token.
                said = {"authentication": "pod", TOKENS: '{"x": {"token": "x"}}'}
                with pytest.raises(grpc.aio.AioRpcError):
                    await node("NodePublishVolume", **publication(INLINE, said, {}))
                assert not (target / "secret.txt").exists()
                # That its own identity would have opened it.
                fields = publication("static", {f"{KUBELET}ephemeral": ""}, {})
                await node("NodePublishVolume", **fields)
                assert await asyncio.to_thread((target / "secret.txt").read_bytes)
                await node("NodeUnpublishVolume", volume_id="static", target_path=str(target))

        asyncio.run(work())
