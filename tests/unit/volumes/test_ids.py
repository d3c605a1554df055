from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.errors import ConfigError
from csi_slayer.volumes.ids import (
    LONGEST_ID,
    SYSTEM,
    Kind,
    ObjectId,
    base_digest,
    ephemeral_prefix,
    normal_prefix,
    own_bucket,
    parse,
    safe_name,
    valid_bucket,
    valid_name,
)

buckets = st.from_regex(r"[a-z0-9][a-z0-9.-]{1,40}[a-z0-9]", fullmatch=True).filter(valid_bucket)
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,44}", fullmatch=True)
regions = st.none() | st.sampled_from(["eu-west-1", "us-gov-east-1"])
endpoints = st.none() | st.sampled_from(["http://[::1]:9000", "https://s3.example:8443/path"])


@given(st.sampled_from(Kind), buckets, names, endpoints, regions, st.text(max_size=20))
def test_an_id_reads_back_as_what_it_was_made_of(kind, bucket, name, endpoint, region, base):
    try:
        made = ObjectId(kind, bucket, name, endpoint, region, base_digest(base))
    except ConfigError:
        assert len(bucket) + len(name) + len(endpoint or "") > 60
        return
    assert parse(str(made), kind) == made
    assert len(str(made).encode()) <= LONGEST_ID


@given(st.text(max_size=140) | st.from_regex(r"slayer1:.*:.*", fullmatch=True))
def test_any_text_is_an_id_of_a_safe_name_or_none(text):
    with contextlib.suppress(ConfigError):
        found = parse(text, Kind.VOLUME)
        assert str(found) == text
        assert valid_bucket(found.bucket) and valid_name(found.name)
        assert found.record_key == f"{SYSTEM}volumes/{found.name}.json"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slayer1",
        "slayer1:bucket",
        "slayer1:bucket:",
        "slayer1:bucket:..",
        "slayer1:../x:name",
        "slayer1:bucket:a/b",
        "slayer1:bucket:Name",
        "slayer1:bucket:name:",
        "slayer1:bucket:name:garbage",
        "slayer1:bucket:name:file:///etc",
        "slayer1:bucket:name:http://",
        "slayer1:bucket:name:http://host:port",
        "slayer1:bucket:name:http://host/",
        "slayer1:bucket@:name",
        "slayer1:bucket:name~",
        "slayer1:bucket:name~0123456",
        "slayer1:bucket:name\n",
        "slayer1:a..b:name",
        "snap1:bucket:name",
        "slayer2:bucket:name",
    ],
)
def test_what_is_no_id_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text, Kind.VOLUME)


@given(st.text(min_size=1, max_size=128))
def test_safe_names_are_names(name):
    safe = safe_name(name)
    assert valid_name(safe)
    assert safe_name(safe) == safe


@given(st.lists(st.text(min_size=1, max_size=60), unique=True, min_size=2, max_size=2))
def test_names_that_differ_stay_different(pair):
    # A name that is itself the safe form of the other one is told apart by the record's csi_name.
    first, second = map(safe_name, pair)
    assert first != second or pair[0] == second or pair[1] == first


@given(st.text(max_size=40))
def test_a_prefix_is_normal_or_refused(text):
    with contextlib.suppress(ConfigError):
        prefix = normal_prefix(text)
        assert prefix == "" or prefix.endswith("/")
        assert not {"", ".", ".."} & set(prefix.split("/")[:-1])
        assert normal_prefix(prefix) == prefix


@given(buckets, names, endpoints)
def test_an_own_bucket_has_a_name_that_s3_allows(bucket, name, endpoint):
    with contextlib.suppress(ConfigError):
        home = ObjectId(Kind.VOLUME, bucket, name, endpoint)
        own = own_bucket(home)
        assert valid_bucket(own) and len(own) <= 63 and own == own.lower()
        assert not own.startswith("-") and not own.endswith("-")
        assert own != own_bucket(ObjectId(Kind.VOLUME, bucket + "x", name, endpoint))


@given(st.text(max_size=128))
def test_ephemeral_prefixes_stay_where_they_belong(volume_id):
    prefix = ephemeral_prefix(volume_id)
    assert prefix.startswith(f"{SYSTEM}ephemeral/")
    assert normal_prefix(prefix) == prefix and prefix.count("/") == 3
