"""Which files' secrets are there for others to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi_slayer.config import exposed_secrets

KEYS = "store:\n  url: s3://bucket\n  access_key_id: AKIA\n  secret_access_key: hunter2\n"


@pytest.mark.parametrize(
    ("text", "mode", "found"),
    [
        (KEYS, 0o600, []),
        (KEYS, 0o400, []),
        (KEYS, 0o644, ["secret_access_key"]),
        (KEYS, 0o640, ["secret_access_key"]),
        (KEYS, 0o604, ["secret_access_key"]),
        (KEYS + "  session_token: x\n", 0o644, ["secret_access_key", "session_token"]),
        ("store: {url: 's3://b', web_identity_token: x}", 0o644, ["web_identity_token"]),
        ("store: {url: 's3://b', secret_access_key: null}", 0o644, []),
        ("store: {url: 's3://b', profile: work}", 0o644, []),
        ("store:\n", 0o644, []),
        ("", 0o644, []),
    ],
)
def test_what_others_can_read(tmp_path: Path, text: str, mode: int, found: list[str]) -> None:
    file = tmp_path / "volume.yaml"
    file.write_text(text)
    file.chmod(mode)
    assert exposed_secrets(file) == found
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    assert exposed_secrets(link) == found
