"""Arbitrary requests: never an unexpected error, never a secret in a log line or message, never a
change outside the driver's own bucket."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.redact import TOKENS, is_map, is_secret
from tests.unit.csi.services import BUCKET, PretendedVolumes, with_driver
from tests.unit.csi.serving import Serving
from tests.unit.csi.test_bad_input import REQUIRED
from tests.unit.csi.test_bad_input import VALUES as VALUES_OF

SECRET = "\u00a7VALUE-NEVER-SHOWN\u00a7"

RPCS = [
    (method.name, method.input_type)
    for service in ("Identity", "Controller", "Node")
    for method in csi_pb2.DESCRIPTOR.services_by_name[service].methods
]

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "a-name",
            "Name with / and ..",
            "..",
            "../..",
            "/etc/passwd",
            f"slayer1:{BUCKET}:a-name",
            f"slayer1:{BUCKET}:../a",
            "slayer1:other-bucket:a-name",
            f"slayer1:{BUCKET}:a-name:http://127.0.0.1:1",
            f"snap1:{BUCKET}:a-name",
            "csi-" + "0" * 64,
            "/var/lib/kubelet/pods/t",
        ]
    ),
    st.text(max_size=140),
)
KEYS = st.sampled_from(
    [
        "bucket",
        "prefix",
        "provisioning",
        "endpoint",
        "authentication",
        "roleArn",
        "readOnly",
        "uid",
        "durability",
        "partSize",
        "capacityBytes",
        "csi.storage.k8s.io/ephemeral",
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/pvc/name",
        "unknown",
    ]
)
VALUES = st.one_of(
    st.sampled_from(["true", "false", "0", "-1", "pod", "secret", BUCKET, "../x/", "a/", "close"]),
    st.text(max_size=20),
)
SECRET_KEYS = st.sampled_from(["access_key_id", "secret_access_key", "session_token", "what"])


def messages(kind: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages of this type with any of their fields set."""
    fields = {field.name: _field(field, depth) for field in kind.fields}
    made = st.fixed_dictionaries({}, optional=fields)
    return made.map(lambda values: GetMessageClass(kind)(**values))


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if is_map(field):
        if is_secret(field):
            return st.dictionaries(SECRET_KEYS, st.just(SECRET), max_size=3)
        tokens = st.just({TOKENS: f'{{"sts": {{"token": "{SECRET}"}}}}'})
        return st.one_of(st.dictionaries(KEYS, VALUES, max_size=4), tokens)
    one: st.SearchStrategy[Any]
    if field.message_type is not None:
        one = messages(field.message_type, depth + 1)
    elif field.enum_type is not None:
        one = st.sampled_from([value.number for value in field.enum_type.values] + [99])
    elif field.type == field.TYPE_STRING:
        one = TEXTS
    elif field.type == field.TYPE_BOOL:
        one = st.booleans()
    else:
        largest = 2 ** (31 if field.type == field.TYPE_INT32 else 63)
        one = st.one_of(st.sampled_from([0, 1, -1, 2**30]), st.integers(-largest, largest - 1))
    return st.lists(one, max_size=2) if field.is_repeated else one


def calls_of(rpc: tuple[str, Descriptor]) -> st.SearchStrategy[tuple[str, Message]]:
    """Half of them have everything that is required, so that not all end there."""
    method, kind = rpc
    valid = GetMessageClass(kind)(**{name: VALUES_OF[name] for name in REQUIRED.get(method, [])})

    def completed(message: Message) -> Message:
        merged = GetMessageClass(kind)()
        merged.MergeFrom(valid)
        merged.MergeFrom(message)
        return merged

    made = messages(kind)
    return st.tuples(st.just(method), st.one_of(made, made.map(completed)))


CALLS = st.sampled_from(RPCS).flatmap(calls_of)


async def outcome(it: Serving, method: str, request: Message) -> tuple[str, str]:
    try:
        await it.client(method, request)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


@pytest.mark.slow
@settings(max_examples=80)
@given(st.lists(CALLS, min_size=5, max_size=12))
def test_any_request_has_an_expected_answer(calls: list[tuple[str, Message]]) -> None:
    with tempfile.TemporaryDirectory(prefix="sfs-") as name:
        directory = Path(name)
        outside = directory / "store" / "other-bucket"
        outside.mkdir(parents=True)
        (outside / "file").write_text("of somebody else")

        async def check(it: Serving, volumes: PretendedVolumes) -> None:
            for method, request in calls:
                code, text = await outcome(it, method, request)
                assert code != "UNKNOWN" and not text.startswith("unexpected"), (method, request)
                assert (code == "OK") == (text == "") and SECRET not in text
            assert SECRET not in repr(it.logs)

        with_driver(directory, check)
        assert (outside / "file").read_text() == "of somebody else"
