from __future__ import annotations

import pytest

from csi_slayer.config import Durability
from csi_slayer.errors import ConfigError
from csi_slayer.volumes import mount_options, options
from csi_slayer.volumes.parameters import VolumeParameters


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("metadata_ttl", "metadataTtl"),
        ("metadataTTL", "metadataTtl"),
        ("Bucket", "bucket"),
        ("readonly", "readOnly"),
        ("roleARN", "roleArn"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_nearest_name(key, nearest):
    with pytest.raises(ConfigError, match=f"storage class: {key}: .*did you mean {nearest}"):
        options.parse({key: "x"}, "storage class")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bucket", "../etc"),
        ("bucket", "ab"),
        ("prefix", "a/../b"),
        ("prefix", "/a"),
        ("prefix", "a//b"),
        ("endpoint", "ftp://host"),
        ("endpoint", "http://user:secret@host"),
        ("partSize", "1MiB"),
        ("fileMode", "0999"),
        ("uid", "-1"),
        ("durability", "sometimes"),
        ("readOnly", "yes"),
        ("metadataTtl", "soon"),
        ("ioTimeout", "0"),
    ],
)
def test_a_wrong_value_is_refused_without_being_repeated(key, value):
    with pytest.raises(ConfigError, match=f"class: {key}: ") as caught:
        options.parse({key: value}, "class")
    assert value not in str(caught.value) or value in ("ab", "-1", "0")


def test_what_kubernetes_adds_is_not_ours():
    ours, theirs = options.split(
        {
            "bucket": "b",
            "csi.storage.k8s.io/pvc/name": "claim",
            "storage.kubernetes.io/csiProvisionerIdentity": "x",
        }
    )
    assert ours == {"bucket": "b"}
    assert set(theirs) == {
        "csi.storage.k8s.io/pvc/name",
        "storage.kubernetes.io/csiProvisionerIdentity",
    }


def test_only_mutable_parameters_can_be_modified():
    parsed = options.parse_mutable({"durability": "writeback"}, "class")
    assert parsed.durability is Durability.WRITEBACK
    with pytest.raises(ConfigError, match=r"uid: fixed when the volume is made.*durability"):
        options.parse_mutable({"uid": "0", "durability": "fsync"}, "class")
    with pytest.raises(ConfigError, match="did you mean durability"):
        options.parse_mutable({"durabilty": "fsync"}, "class")


def test_later_layers_win_where_they_say_something():
    merged = options.merge(
        options.parse({"durability": "close", "uid": "1"}, "driver"),
        options.parse({"durability": "fsync", "gid": "2"}, "class"),
        VolumeParameters(),
        options.parse({"gid": "3"}, "mountOptions"),
    )
    assert (merged.durability, merged.uid, merged.gid) == (Durability.FSYNC, 1, 3)
    assert merged.model_fields_set == {"durability", "uid", "gid"}


def test_mount_options_set_flags_and_parameters_in_both_spellings():
    flags, parameters = mount_options.parse(
        ["noexec", "rw", "nosuid,metadata-ttl=1m", "partSize=8MiB", "close-to-open", "noexec"]
    )
    assert flags == ("noexec", "nosuid")
    assert parameters.metadata_ttl == 60
    assert parameters.part_size == 8 << 20
    assert parameters.close_to_open is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("noexc", "did you mean noexec"),
        ("metadata-tll=1m", "did you mean metadataTtl"),
        ("sync", "durability=close"),
        ("allow_other", "unknown option"),
        ("durability", "expected durability=VALUE"),
        ("durability=", "durability"),
        ("noexec=1", "unknown option"),
    ],
)
def test_unknown_mount_options_are_refused_with_the_nearest_name(text, message):
    with pytest.raises(ConfigError, match=message):
        mount_options.parse([text])


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match="ro and rw"):
        mount_options.parse(["ro", "rw"])
    with pytest.raises(ConfigError, match="given twice"):
        mount_options.parse(["metadata-ttl=1m", "metadataTtl=2m"])


def test_a_secret_pasted_as_an_option_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        mount_options.parse(["secretAccessKey=hunter2hunter2"])
    assert "hunter2" not in str(caught.value)
