"""Secrets are masked by their key and by their value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.observability.secrets import (
    MASK,
    mask_event,
    mask_text,
    register_secrets,
)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    register_secrets([], only=True)


@pytest.mark.parametrize(
    "key",
    [
        "secret", "secret_access_key", "SessionToken", "password", "passwd", "Authorization",
        "aws-credentials", "private_key", "x-amz-signature",
    ],
)  # fmt: skip
def test_masks_by_key(key: str) -> None:
    assert mask_event({key: "value", "other": 1}) == {key: MASK, "other": 1}
    assert mask_event({"a": [{"b": {key: ["x"]}}]}) == {"a": [{"b": {key: MASK}}]}
    assert mask_event({key: None}) == {key: None}


@given(
    st.dictionaries(
        st.sampled_from(["path", "key", "size"]),
        st.recursive(st.text() | st.integers(), st.lists),
    )
)
def test_leaves_everything_else(event: dict[str, Any]) -> None:
    assert mask_event(event) == event


def test_does_not_change_the_event_itself() -> None:
    event = {"nested": {"token": "x"}}
    mask_event(event)
    assert event == {"nested": {"token": "x"}}


@pytest.mark.parametrize(
    "secret", ["plain-secret", 'with "quotes"', "back\\slash\\", "a.*b+c(", "ünï/="]
)
def test_masks_registered_values_in_any_writing(secret: str) -> None:
    register_secrets([secret])
    for text in (secret, json.dumps({"x": secret}), repr({"x": secret}), f"<{secret}>{secret}"):
        assert secret not in mask_text(text)
        assert json.dumps(secret)[1:-1] not in mask_text(text)
        assert MASK in mask_text(text)


def test_the_longer_of_two_secrets_leaves_no_tail() -> None:
    register_secrets(["abcd"])
    register_secrets(["abcdefgh"])
    assert mask_text("abcdefgh abcd") == f"{MASK} {MASK}"


def test_short_values_do_not_mask_half_of_every_line() -> None:
    register_secrets(["", "a", "abc"])
    assert mask_text("abracadabra abc") == "abracadabra abc"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET /b/k?X-Amz-Signature=deadbeef&x=1", "deadbeef"),
        ("GET /b/k?X-Amz-Credential=AKIAX%2F2026&x=1", "AKIAX"),
        ("GET /b/k?x=1&X-Amz-Security-Token=tok", "tok"),
        ("{'Authorization': 'AWS4-HMAC-SHA256 Credential=AKIAX, Signature=f00'}", "AKIAX"),
        ("authorization: AWS4-HMAC-SHA256 Credential=A, Signature=deadbeef", "deadbeef"),
        ("Authorization: Bearer ey.abc", "ey.abc"),
    ],
)  # fmt: skip
def test_masks_signatures_of_foreign_libraries(text: str, hidden: str) -> None:
    assert hidden not in mask_text(text)
    assert MASK in mask_text(text)
