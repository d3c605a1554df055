"""What web identity tokens say of themselves."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.errors import AccessDenied
from csi_slayer.store.s3.tokens import GivenToken, TokenFile, claims, ended_ago, subject


def _token(**said: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    return f"head.{body}.signature"


def test_the_subject_stays_the_same_from_token_to_token() -> None:
    first = _token(iss="https://k8s", sub="a", aud=["s3"], exp=1, jti="1")
    assert subject(first) == subject(_token(iss="https://k8s", sub="a", aud=["s3"], exp=2, jti="2"))
    assert subject(first) != subject(_token(iss="https://k8s", sub="b", aud=["s3"], exp=1))
    assert subject(first) != subject(_token(iss="https://other", sub="a", aud=["s3"], exp=1))


def test_when_a_token_ended() -> None:
    ago = ended_ago(_token(exp=time.time() - 30))
    assert ago is not None
    assert 29 < ago < 60
    assert ended_ago(_token(exp=time.time() + 30)) is None
    assert ended_ago(_token(exp="soon")) is None
    assert ended_ago(_token()) is None


@given(st.text())
def test_anything_may_be_given_as_a_token(text: str) -> None:
    assert isinstance(claims(text), dict)
    assert isinstance(claims(f"a.{text}.b"), dict)
    assert ended_ago(text) is None


def test_a_given_token_is_not_shown() -> None:
    assert "text" not in repr(GivenToken("text"))
    assert GivenToken("text").read() == "text"


def test_an_empty_token_is_none() -> None:
    """It was sent, and the service's answer had a mask between each two letters."""
    with pytest.raises(AccessDenied, match="web identity token: empty"):
        GivenToken("").read()


def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    source = TokenFile(str(path))
    assert source.read() == "one"
    path.write_text("two")
    assert source.read() == "two"
    path.write_text("\n")
    with pytest.raises(AccessDenied, match=r"token file .*: empty"):
        source.read()
    path.unlink()
    with pytest.raises(AccessDenied, match=r"token file .*No such file"):
        source.read()
