"""Configuration files: merging, and errors that help without telling secrets."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.config import load_config
from csi_slayer.config.mount import MountConfig
from csi_slayer.config.problems import known_keys, nearest_key
from csi_slayer.errors import ConfigError

SECRET = "s3cr3t-value"


def _write(directory: Path, text: str, name: str = "mount.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def _problem(path: Path, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "mount.yaml",
            'store:\n  url: s3://bkt/p\nvolume:\n  metadata_ttl: 5m\n  file_mode: "0600"',
        ),
        (
            "mount.yml",
            "{store: {url: 's3://bkt/p'}, volume: {metadata_ttl: 300, file_mode: '600'}}",
        ),
        (
            "mount.toml",
            '[store]\nurl = "s3://bkt/p"\n[volume]\nmetadata_ttl = "5m"\nfile_mode = "0600"',
        ),
        (
            "mount.json",
            '{"store": {"url": "s3://bkt/p"},'
            ' "volume": {"metadata_ttl": "300s", "file_mode": "0600"}}',
        ),
        (
            "tabs.json",
            '{\n\t"store": {"url": "s3://bkt/p"},\n'
            '\t"volume": {"metadata_ttl": 300.0, "file_mode": "0600"}\n}\n',
        ),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str) -> None:
    config = load_config(_write(tmp_path, text, name))
    assert config.store.prefix == "p/"
    assert (config.volume.metadata_ttl, config.volume.file_mode) == (300.0, 0o600)


def test_json_says_what_others_write_with_two_escapes(tmp_path: Path) -> None:
    """As Python's json and jq's ``--ascii-output`` do."""
    path = _write(tmp_path, '{"store": {"url": "s3://bkt/\\ud83d\\ude00"}}', "m.json")
    assert load_config(path).store.prefix == "\U0001f600/"


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "store: {url: 's3://from-file', region: eu-west-1}\n"
        "volume: {read_only: true, quota: 1GiB}\ncache:\nlog:\n",
    )
    config = load_config(
        path, {"store.url": "s3://from-option", "volume.quota": None, "log.level": "debug"}
    )
    assert (config.store.bucket, config.store.region) == ("from-option", "eu-west-1")
    assert (config.volume.read_only, config.volume.quota) == (True, 2**30)
    assert (config.log.level, config.log.format) == ("debug", "json")


def test_a_key_below_a_value_is_an_error() -> None:
    for options in ({"volume": "1", "volume.quota": "3"}, {"store.url": "x", "store.url.a": "y"}):
        with pytest.raises(ConfigError, match=r"^option: \w+: expected a section with keys$"):
            load_config(None, options)


@pytest.mark.parametrize("name", ["m.yaml", "m.toml"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    text = "store: {url: s3://bkt}" if name == "m.yaml" else "[store]\nurl = 's3://bkt'"
    assert load_config(_write(tmp_path, f"\ufeff{text}", name)).store.bucket == "bkt"


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path, "# nothing yet\n")
    assert load_config(path, {"store.url": "s3://bkt"}).store.bucket == "bkt"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("volume: {quotas: 1}", "volume.quotas: unknown key; did you mean volume.quota?"),
        ("read_only: true", "read_only: unknown key; did you mean volume.read_only?"),
        ("vollume: {quota: 1}", "vollume: unknown key; did you mean volume?"),
        ("cache: {direktory: /x}", "cache.direktory: unknown key; did you mean cache.directory?"),
        ("metdata_ttl: 1", "metdata_ttl: unknown key; did you mean volume.metadata_ttl?"),
        ("volume.quota: 1", "volume.quota: unknown key; in a file quota stands below volume"),
        ("zzzz: 1", "zzzz: unknown key"),
    ],
)
def test_unknown_keys_name_the_nearest_valid_one(tmp_path: Path, text: str, expected: str) -> None:
    path = _write(tmp_path, text)
    assert _problem(path, **{"store.url": "s3://bkt"}) == f"{path}: {expected}"


def test_all_problems_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = _write(
        tmp_path, "store: {url: nowhere}\ncache: {capacity: lots}\nvolume: {quota: 1}\nlog: yes"
    )
    assert _problem(path, **{"volume.quota": "some"}).splitlines() == [
        "4 problems in the configuration:",
        f"  {path}: store.url: expected s3://bucket/prefix or file:///directory",
        f"  {path}: cache.capacity: expected a size such as 10GiB, 500MB or a number of bytes",
        "  option: volume.quota: expected a size such as 10GiB, 500MB or a number of bytes",
        f"  {path}: log: expected a section with keys",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.yaml", f"store: {{url: s3://b, secret_access_key: [{SECRET}]}}"),
        ("m.yaml", f"store: {{secret_acess_key: {SECRET}}}"),
        ("m.yaml", f"store: {SECRET}"),
        ("m.yaml", f"cache: {{capacity: {SECRET}}}"),
        ("m.yaml", f"log: {{level: {SECRET}}}"),
        ("m.yaml", f"volume: {{uid: {SECRET}}}"),
        ("m.yaml", f"store: {{secret_access_key: *{SECRET}}}"),
        ("m.yaml", f'store:\n  secret_access_key: "{SECRET}\n'),
        ("m.yaml", f"store:\n  secret_access_key: {SECRET}: x: y\n"),
        ("m.yaml", f"store: !{SECRET} x\n"),
        ("m.yaml", f"a: 1\n{SECRET}"),
        ("m.json", f'{{"store": {{"secret_access_key": "{SECRET}}}}}'),
        ("m.json", f'{{"store": {{"secret_access_key": {SECRET}}}}}'),
        ("m.toml", f'[store]\nsecret_access_key = "{SECRET}'),
        ("m.toml", f"[store]\nsecret_access_key = {SECRET}"),
        ("m.toml", f'[store]\nsecret_access_key = "a"\nsecret_access_key = "{SECRET}"'),
    ],
)
def test_no_error_tells_a_value(tmp_path: Path, name: str, text: str) -> None:
    path = _write(tmp_path, text, name)
    message = _problem(path)
    assert message
    assert SECRET not in message
    assert "s3cr3t" not in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.ini", b"", "expected a file named *.yaml"),
        ("m.yaml", b"- a\n- b\n", "expected sections with keys at the top"),
        ("m.yaml", b"1: 2\n", "a key at the top is not a text"),
        ("m.yaml", b"a: [\n", "not valid YAML at line 2, column 1"),
        ("m.yaml", b"volume: {}\nvolume: {}\n", "a key is given twice"),
        ("m.yaml", b"volume:\n  quota: 1\n  quota: 2\n", "a key is given twice"),
        ("m.yaml", b"\xff\xfe\xfa", "not UTF-8 text"),
        ("m.yaml", b"#" * (1 << 20) + b"##", "larger than 1048576 bytes"),
        ("m.yaml", b"[" * 5000, "not valid YAML"),
        ("m.yaml", b"? [a]\n: 1\n", "not valid YAML"),
        ("m.toml", b"a = \n", "not valid TOML"),
        ("m.json", b"", "not valid JSON: Expecting value"),
        ("m.json", b'{"volume": {},}', "not valid JSON"),
        ("m.json", b'{"volume": {"quota": 1, "quota": 2}}', "a key is given twice"),
        ("m.json", b"[" * 100000, "not valid JSON: nested too deeply"),
    ],
)
def test_files_that_are_no_configuration(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = _problem(path)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_types_are_told_of_in_words(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("store: {url: 's3://b', bucket_owner: 123456789012}\nfuse: {disable: xattr}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "store.bucket_owner: expected a text: write a number in quotes" in str(caught.value)
    assert "fuse.disable: expected a list, such as [name, name]" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    assert _problem(path) == f"{path}: No such file or directory"


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    target = tmp_path / "made"
    path = _write(tmp_path, f"a: !!python/object/apply:os.mkdir ['{target}']\n")
    assert "not valid YAML" in _problem(path)
    assert not target.exists()


@given(st.sampled_from(known_keys(MountConfig)), st.data())
def test_a_key_with_one_letter_missing_is_recognised(key: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(key) - 1))
    if key[position] == "." or len(key) < 5:
        return
    assert nearest_key(MountConfig, key[:position] + key[position + 1 :]) is not None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_value_loads_or_is_a_config_error(value: object) -> None:
    for key in known_keys(MountConfig):
        with contextlib.suppress(ConfigError):
            load_config(None, {"store.url": "s3://bkt", key: value})
