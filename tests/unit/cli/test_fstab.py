"""What mount(8) and /etc/fstab say, in terms of ``csi-slayer mount``."""

from __future__ import annotations

import pytest

from csi_slayer.cli.fstab import WrongCall, translate


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("rw", []),
        ("rw,_netdev,nofail,x-systemd.automount,comment=mine,noatime", []),
        ("ro", ["--read-only"]),
        ("config=/etc/volume.yaml", ["--config", "/etc/volume.yaml"]),
        (
            "ro,store.endpoint=https://s3.example:9000,volume.quota=10GiB",
            ["--read-only", "--option", "store.endpoint=https://s3.example:9000",
             "--option", "volume.quota=10GiB"],
        ),
        (
            'fuse.disable="passthrough,splice",rw',
            ["--option", "fuse.disable=passthrough,splice"],
        ),
    ],
)  # fmt: skip
def test_options(options: str, expected: list[str]) -> None:
    call = translate(["s3://bucket", "/mnt", "-o", options])
    assert call == (["mount", *expected, "--", "s3://bucket", "/mnt"], False)


def test_as_mount_calls_it() -> None:
    call = translate(["s3://b/p", "/mnt", "-v", "-n", "-s", "-o", "rw", "-t", "slayerfs.x"])
    assert call.arguments == ["mount", "--", "s3://b/p", "/mnt"]
    assert translate(["-f", "s3://b", "/mnt"]).fake
    call = translate(["none", "/mnt", "-o", "config=/c"])
    assert call.arguments == ["mount", "--config", "/c", "--", "/mnt"]
    assert translate(["none", "/mnt"]).arguments == ["mount", "--", "none", "/mnt"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["s3://b"], "expected SOURCE DIRECTORY"),
        (["s3://b", "/mnt", "/more"], "expected SOURCE DIRECTORY"),
        (["s3://b", "/mnt", "-x"], "not recognized"),
        (["s3://b", "/mnt", "-N", "/proc/1/ns/mnt"], "nsenter"),
        (["s3://b", "/mnt", "-o", "noexec"], "-o noexec: not known"),
        (["s3://b", "/mnt", "-o", "sync"], "-o sync: not known"),
        (["s3://b", "/mnt", "-o", "endpoint=x"], "expected ro, config=FILE"),
        (["s3://b", "/mnt", "-o", 'a.b="x'], "a quote"),
        (["s3://b", "/mnt", "-o", "rw,,ro"], "an option is missing"),
    ],
)
def test_what_is_wrong(arguments: list[str], text: str) -> None:
    with pytest.raises(WrongCall, match=text):
        translate(arguments)
