"""Limits of the specification: what passes, what is refused, and what the message names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.csi.fields import LARGEST_MAP, LARGEST_SECRETS, LONGEST_TEXT, BadRequest, check
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.redact import TOKENS
from tests.support.csi import mount_capability

Publish = csi_pb2.NodePublishVolumeRequest


def refused(request: object, *required: str) -> str:
    with pytest.raises(BadRequest) as caught:
        check(request, required)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("name", ["volume_id", "target_path", "volume_capability"])
def test_missing_field_is_named_with_its_request(name: str) -> None:
    request = Publish(volume_id="v", target_path="/t", volume_capability=mount_capability())
    check(request, ["volume_id", "target_path", "volume_capability"])
    request.ClearField(name)  # type: ignore[arg-type]
    message = refused(request, "volume_id", "target_path", "volume_capability")
    assert message == f"{name} is missing: NodePublishVolumeRequest needs it"


def test_repeated_and_map_fields_are_missing_when_empty() -> None:
    request = csi_pb2.CreateVolumeRequest(name="n")
    assert "volume_capabilities is missing" in refused(request, "name", "volume_capabilities")
    modify = csi_pb2.ControllerModifyVolumeRequest(volume_id="v")
    assert "mutable_parameters is missing" in refused(modify, "mutable_parameters")


@given(st.integers(0, 2 * LONGEST_TEXT))
def test_texts_are_limited_in_bytes(length: int) -> None:
    request = csi_pb2.CreateVolumeRequest(name="ü" * length)
    if 2 * length <= LONGEST_TEXT:
        check(request, ())
    else:
        assert "name has" in refused(request)


@pytest.mark.parametrize(
    ("field", "longest"), [("target_path", 4095), ("staging_target_path", 4095), ("volume_id", 128)]
)
def test_paths_may_be_as_long_as_the_system_allows(field: str, longest: int) -> None:
    check(Publish(**{field: "a" * longest}), ())
    message = refused(Publish(**{field: "a" * (longest + 1)}))
    assert field in message and str(longest) in message


def test_nested_fields_are_checked() -> None:
    request = csi_pb2.CreateVolumeRequest()
    request.volume_content_source.snapshot.snapshot_id = "s" * 129
    assert "snapshot_id has 129 bytes" in refused(request)
    request = csi_pb2.CreateVolumeRequest()
    request.accessibility_requirements.requisite.add().segments["k"] = "v" * LARGEST_MAP
    assert "segments has" in refused(request)


def test_mount_flags_are_limited_together() -> None:
    check(Publish(volume_capability=mount_capability(mount_flags=["x" * 200] * 20)), ())
    request = Publish(volume_capability=mount_capability(mount_flags=["x" * 200] * 21))
    assert "mount_flags has 4200 bytes" in refused(request)


def test_maps_are_limited_and_tokens_and_secrets_may_be_larger() -> None:
    check(Publish(volume_context={"k": "v" * (LARGEST_MAP - 1)}), ())
    assert "volume_context has 4097 bytes" in refused(
        Publish(volume_context={"k": "v" * LARGEST_MAP})
    )
    check(Publish(volume_context={"k": "v" * 4000, TOKENS: "t" * 10000}), ())
    assert "tokens" in refused(Publish(volume_context={TOKENS: "t" * (LARGEST_SECRETS + 1)}))
    check(Publish(secrets={"session_token": "t" * 10000}), ())
    message = refused(Publish(secrets={"session_token": "t" * LARGEST_SECRETS}))
    assert "secrets has" in message and "ttt" not in message


@pytest.mark.parametrize("id", ["..", "../b", "a/../b", "a/..", "./a", "a/."])
def test_ids_that_climb_are_refused(id: str) -> None:
    assert "'..' between slashes" in refused(Publish(volume_id=id))


@pytest.mark.parametrize("id", ["a..b", "bucket/prefix", "slayer1:b:n:https://host:1/", "..."])
def test_ids_of_static_volumes_pass(id: str) -> None:
    check(Publish(volume_id=id), ())


@pytest.mark.parametrize("character", ["\0", "\x08", "\x0b", "\x1f", "\x7f", "\x9f"])
def test_control_characters_are_refused(character: str) -> None:
    assert "control character" in refused(csi_pb2.CreateVolumeRequest(name=f"a{character}b"))


def test_names_may_be_any_other_text() -> None:
    check(csi_pb2.CreateVolumeRequest(name="Ünïcode / ../ \t\n\r name"), ())
