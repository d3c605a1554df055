"""No secret of a request appears in what is shown of it."""

from __future__ import annotations

import json

from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.redact import TOKENS, is_secret, scrub, secrets_of, shown
from tests.support.csi import mount_capability

WITH_SECRETS = [
    message
    for message in csi_pb2.DESCRIPTOR.message_types_by_name.values()
    if "secrets" in message.fields_by_name
]

SECRET = st.text(min_size=8, max_size=40).map(lambda text: f"\u00a7{text}\u00a7")


def test_every_field_named_secrets_is_marked() -> None:
    assert len(WITH_SECRETS) > 15
    assert all(is_secret(message.fields_by_name["secrets"]) for message in WITH_SECRETS)


@given(st.sampled_from(WITH_SECRETS), SECRET)
def test_secrets_are_masked_by_the_specifications_mark(message: Descriptor, secret: str) -> None:
    request = GetMessageClass(message)(secrets={"secret_access_key": secret})
    assert shown(request) == {"secrets": {"secret_access_key": "***"}}
    assert secret in secrets_of(request)


@given(SECRET, SECRET)
def test_tokens_of_the_context_are_masked(first: str, second: str) -> None:
    tokens = json.dumps({"": {"token": first}, "sts": {"token": second}})
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="v", volume_context={TOKENS: tokens, "bucket": "b"}
    )
    assert shown(request)["volume_context"] == {TOKENS: "***", "bucket": "b"}
    assert {first, second, tokens} <= secrets_of(request)


def test_everything_else_is_shown() -> None:
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id="v",
        target_path="/t",
        readonly=True,
        volume_capability=mount_capability("SINGLE_NODE_WRITER", mount_flags=["noexec", "ro"]),
    )
    assert shown(request) == {
        "volume_id": "v",
        "target_path": "/t",
        "readonly": True,
        "volume_capability": {
            "mount": {"mount_flags": ["noexec", "ro"]},
            "access_mode": {"mode": "SINGLE_NODE_WRITER"},
        },
    }


def test_an_unknown_enum_value_is_shown_as_its_number() -> None:
    request = csi_pb2.VolumeCapability(access_mode={"mode": 99})
    assert shown(request) == {"access_mode": {"mode": 99}}


@given(st.sets(SECRET, max_size=4), st.lists(st.text(max_size=10), max_size=6))
def test_scrubbed_text_has_no_secret(secrets: set[str], texts: list[str]) -> None:
    text = "".join(part for pair in zip(texts, [*secrets] * 9, strict=False) for part in pair)
    scrubbed = scrub(f"{text} {sorted(secrets)!r} {json.dumps(sorted(secrets))}", secrets)
    assert not any(secret in scrubbed or repr(secret)[1:-1] in scrubbed for secret in secrets)


def test_short_values_do_not_spoil_messages() -> None:
    request = csi_pb2.DeleteVolumeRequest(secrets={"region": "a"})
    assert secrets_of(request) == set()


def test_credentials_in_an_address_are_masked() -> None:
    request = csi_pb2.CreateVolumeRequest(
        name="http://somebody:hunter2@host",
        parameters={"endpoint": "https://u:p@ss@host:9000/a@b", "bucket": "it@is"},
    )
    assert shown(request) == {
        "name": "http://***@host",
        "parameters": {"bucket": "it@is", "endpoint": "https://***@host:9000/a@b"},
    }
