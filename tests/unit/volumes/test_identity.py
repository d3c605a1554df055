from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.config.driver import DriverStore
from csi_slayer.errors import AccessDenied, ConfigError
from csi_slayer.volumes import options
from csi_slayer.volumes.identity import (
    TOKENS,
    driver_identity,
    parse_secret,
    provisioning_identity,
    publishing_identity,
)
from csi_slayer.volumes.parameters import Authentication, VolumeParameters

DRIVER = DriverStore.model_validate({"access_key_id": "DRIVER", "secret_access_key": "d-secret"})
KEYS = {"access_key_id": "AKIA", "secret_access_key": "hunter2"}
POD = {
    "csi.storage.k8s.io/pod.namespace": "ns",
    "csi.storage.k8s.io/serviceAccount.name": "sa",
}


def tokens(**by_audience: str) -> str:
    return json.dumps(
        {key: {"token": text, "expirationTimestamp": "z"} for key, text in by_audience.items()}
    )


def said(**texts: str) -> VolumeParameters:
    return options.parse(texts, "class")


@pytest.mark.parametrize(
    "spelling",
    [
        ("access_key_id", "secret_access_key", "session_token"),
        ("accessKeyID", "secretAccessKey", "sessionToken"),
        ("accessKeyId", "secretAccessKey", "sessionToken"),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    ],
)
def test_a_secret_has_one_of_several_spellings(spelling):
    secret = parse_secret(dict(zip(spelling, ("AKIA\n", "hunter2\n", "token"), strict=True)))
    assert secret is not None and secret.session_token is not None
    assert secret.access_key_id == "AKIA"
    assert secret.secret_access_key.get_secret_value() == "hunter2"
    assert secret.session_token.get_secret_value() == "token"
    assert "hunter2" not in repr(secret) and "token=SecretStr('***" in repr(secret)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"access_key": "hunter2"}, "'access_key': unknown key; did you mean access_key_id"),
        ({"secretKey": "hunter2"}, "did you mean secret"),
        ({"access_key_id": "hunter2"}, "secret_access_key is missing"),
        ({"endpoint": "http://hunter2"}, "access_key_id is missing"),
        ({"role_arn": "hunter2"}, "access_key_id is missing"),
        ({"access_key_id": "", "secret_access_key": ""}, "access_key_id is empty"),
        ({"access_key_id": " \n", "secret_access_key": "\t"}, "access_key_id is empty"),
        (KEYS | {"access_key_id": ""}, "access_key_id is empty"),
        (KEYS | {"secret_access_key": " "}, "secret_access_key is empty"),
        ({"endpoint": ""}, "access_key_id is missing"),
        (KEYS | {"access_key_id": "hunter2\u0410"}, "access_key_id: expected printable ASCII"),
        (KEYS | {"access_key_id": "hunter2 x"}, "access_key_id: expected printable ASCII"),
        (KEYS | {"access_key_id": "hunter2\x01"}, "access_key_id: expected printable ASCII"),
        (KEYS | {"secret_access_key": "hunter2\nx"}, "secret_access_key: .* line breaks"),
        (KEYS | {"secret_access_key": "hunter2\xe4"}, "secret_access_key: expected printable"),
        (KEYS | {"secret_access_key": "hunter2\x00"}, "secret_access_key: expected printable"),
        (KEYS | {"session_token": "hunter2\r\nx: y"}, "session_token: expected printable ASCII"),
        (KEYS | {"region": "hunter2\x1f"}, "region: expected letters, digits"),
        (KEYS | {"region": "x.hunter2/"}, "region: expected letters, digits"),
        (KEYS | {"role_arn": "hunter2\n\n2"}, "role_arn: expected printable ASCII"),
        (KEYS | {"endpoint": "http://hunter2\n.test"}, "endpoint: expected printable ASCII"),
        (KEYS | {"endpoint": "http://hunter2\u0430.test"}, "endpoint: expected printable ASCII"),
        (KEYS | {"accessKeyId": "hunter2"}, "given twice"),
        (KEYS | {"endpoint": "hunter2"}, "endpoint: expected an http"),
    ],
)
def test_a_secret_that_cannot_be_used_is_refused_without_its_values(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_secret(values)
    assert "hunter2" not in str(caught.value)


@given(st.dictionaries(st.text(max_size=8), st.just("hunter2"), max_size=4))
def test_no_text_of_an_error_has_a_secret(values):
    with pytest.raises(ConfigError) as caught:
        parse_secret(values | {"access": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_white_space_around_a_value_is_no_part_of_it():
    around = {"access_key_id": " AKIA\r\n", "secret_access_key": "\tpass phrase\n\n"}
    secret = parse_secret(around)
    assert secret is not None and secret.access_key_id == "AKIA"
    assert secret.secret_access_key.get_secret_value() == "pass phrase"


def test_what_is_optional_in_a_secret_may_be_empty():
    secret = parse_secret(KEYS | {"session_token": "", "endpoint": "", "region": "\n"})
    assert secret is not None
    assert (secret.session_token, secret.endpoint, secret.region) == (None, None, None)


def test_an_empty_secret_does_not_make_the_driver_the_identity(run):
    async def scenario():
        for secrets in ({"access_key_id": "", "secret_access_key": ""}, {"region": ""}):
            with pytest.raises(ConfigError, match="access_key_id is"):
                await publishing_identity(DRIVER, VolumeParameters(), secrets, POD)
            with pytest.raises(ConfigError, match="access_key_id is"):
                await provisioning_identity(DRIVER, VolumeParameters(), secrets)

    run(scenario())


def test_the_secret_comes_before_the_pod_and_the_pod_before_the_driver(run):
    async def scenario():
        context = POD | {TOKENS: tokens(aud="jwt")}
        role = said(roleArn="arn:r")
        found = await publishing_identity(DRIVER, role, KEYS, context)
        assert (found.kind, found.name) == (Authentication.SECRET, "key:AKIA:arn:r")
        found = await publishing_identity(DRIVER, role, {}, context)
        assert (found.kind, found.name) == (Authentication.POD, "pod:ns/sa:arn:r")
        assert found.fields["web_identity_token"].get_secret_value() == "jwt"
        found = await publishing_identity(DRIVER, VolumeParameters(), {}, context)
        assert (found.kind, found.name) == (Authentication.DRIVER, "driver")
        assert found.fields["access_key_id"] == "DRIVER"
        found = await publishing_identity(
            DRIVER, said(authentication="driver", roleArn="arn:x"), KEYS, context
        )
        assert found.name == "driver:arn:x"
        assert "hunter2" not in repr(found) and "secret" not in repr(found)

    run(scenario())


def test_tokens_may_come_among_the_secrets(run):
    async def scenario():
        found = await publishing_identity(
            DRIVER, said(authentication="pod"), {TOKENS: tokens(aud="jwt")}, POD
        )
        assert found.name == "pod:ns/sa:"
        assert found.secret is None

    run(scenario())


@pytest.mark.parametrize(
    ("parameters", "context", "message"),
    [
        ({}, {TOKENS: tokens(a="jwt", b="jwt")}, "set audience to one of 'a', 'b'"),
        ({"audience": "c"}, {TOKENS: tokens(a="jwt")}, "only for 'a'"),
        ({}, {}, "tokenRequests"),
        ({}, {TOKENS: "jwt"}, "not the JSON object"),
        ({}, {TOKENS: '{"a": "jwt"}'}, "not the JSON object"),
        ({}, {TOKENS: '["jwt"]'}, "not the JSON object"),
        ({}, {TOKENS: "null"}, "not the JSON object"),
        ({}, {TOKENS: '{"a": null}'}, "not the JSON object"),
        ({}, {TOKENS: '{"a": ["jwt"]}'}, "not the JSON object"),
        ({}, {TOKENS: '{"a": {"tok": "jwt"}}'}, "not the JSON object"),
        ({}, {TOKENS: "[" * 100_000}, "not the JSON object"),
        ({}, {TOKENS: "{}"}, "set audience"),
        ({}, {TOKENS: tokens(a="")}, "token for 'a' is empty or not a text"),
        ({}, {TOKENS: tokens(a=" \n")}, "token for 'a' is empty or not a text"),
        ({"audience": "a"}, {TOKENS: tokens(a="", b="jwt")}, "token for 'a' is empty"),
        ({}, {TOKENS: tokens(a="jwt\n.jwt")}, "token for 'a': expected printable ASCII"),
        ({}, {TOKENS: '{"a": {"token": 5}}'}, "token for 'a' is empty or not a text"),
        ({}, {TOKENS: '{"a": {"token": null}}'}, "token for 'a' is empty or not a text"),
        ({}, {TOKENS: '{"a": {"token": ["jwt"]}}'}, "token for 'a' is empty or not a text"),
    ],
)
def test_tokens_that_cannot_be_used_are_explained_and_not_shown(run, parameters, context, message):
    async def scenario():
        with pytest.raises(ConfigError, match=message) as caught:
            await publishing_identity(
                DRIVER, said(authentication="pod", **parameters), {}, POD | context
            )
        assert "jwt" not in str(caught.value)

    run(scenario())


def test_a_pod_that_is_not_named_is_no_identity(run):
    async def scenario():
        with pytest.raises(ConfigError, match="podInfoOnMount"):
            await publishing_identity(
                DRIVER, said(authentication="pod"), {}, {TOKENS: tokens(a="jwt")}
            )

    run(scenario())


def test_a_secret_that_is_wanted_must_come(run):
    async def scenario():
        with pytest.raises(ConfigError, match="provisioner-secret-name"):
            await provisioning_identity(DRIVER, said(authentication="secret"), {})
        with pytest.raises(ConfigError, match="node-publish-secret-name"):
            await publishing_identity(DRIVER, said(authentication="secret"), {}, {})
        found = await provisioning_identity(DRIVER, said(authentication="driver"), KEYS)
        assert found.kind is Authentication.DRIVER

    run(scenario())


def test_the_role_of_a_class_is_not_that_of_provisioning(run):
    """A deletion has no class: what makes volumes must be able to delete them."""

    async def scenario():
        found = await provisioning_identity(DRIVER, said(roleArn="arn:class"), KEYS)
        assert found.fields["role_arn"] is None
        found = await provisioning_identity(
            DRIVER, said(roleArn="arn:class"), KEYS | {"role_arn": "arn:secret"}
        )
        assert found.fields["role_arn"] == "arn:secret"

    run(scenario())


def test_a_mounted_secret_is_read_when_it_is_needed(run, tmp_path):
    store = DriverStore.model_validate({"secret_directory": str(tmp_path)})

    def write(version: str, key: str) -> None:
        """As the kubelet does it: a new directory, then one symlink changes."""
        place = tmp_path / version
        place.mkdir()
        (place / "access_key_id").write_text(key + "\n")
        (place / "secret_access_key").write_text(f"of-{key}\n")
        (tmp_path / "next").symlink_to(version)
        (tmp_path / "next").rename(tmp_path / "..data")

    async def scenario():
        with pytest.raises(AccessDenied, match="access_key_id and secret_access_key"):
            await driver_identity(store)
        for version, key in (("..1", "FIRST"), ("..2", "SECOND")):
            write(version, key)
            found = await driver_identity(store)
            assert found.fields["access_key_id"] == key
            assert found.fields["secret_access_key"].get_secret_value() == f"of-{key}"
            assert found.fields["session_token"] is None
        (tmp_path / "..2" / "secret_access_key").write_text("")
        with pytest.raises(AccessDenied, match="a file is empty"):
            await driver_identity(store)
        (tmp_path / "..2" / "secret_access_key").write_text("hun\nter2\n")
        with pytest.raises(AccessDenied, match="without line breaks") as caught:
            await driver_identity(store)
        assert "ter2" not in str(caught.value)

    run(scenario())
