"""What the documents of the cluster say of values, keys and parameters exists."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes import options
from tests.support import chart
from tests.support.cluster_reference import commented

DOCS = chart.ROOT / "docs"
PAGES = ["install", "parameters", "driver-configuration", "security", "cluster-operations"]
SCHEMA = chart.schema()
# What `code` in the text, or an argument of helm, begins with if it names a value.
_SECTIONS = "|".join(sorted(SCHEMA["properties"].keys() - {"global"}))
_VALUE = re.compile(rf"(?:`|--set )((?:{_SECTIONS})(?:\.[A-Za-z_][\w-]*)+)(?=[=:`])")


def known(path: str) -> bool:
    """Whether the schema has a place for this value."""
    found: dict[str, Any] = SCHEMA
    for part in path.split("."):
        while "$ref" in found:
            found = SCHEMA["definitions"][found["$ref"].rpartition("/")[2]]
        if part in found.get("properties", {}):
            found = found["properties"][part]
        elif isinstance(found.get("additionalProperties"), dict):
            found = found["additionalProperties"]
        else:
            return False
    return True


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_values_exist(page: str) -> None:
    named = set(_VALUE.findall(text_of(page)))
    # Objects of the cluster that begin like a value.
    assert {path for path in named if not known(path)} <= {"driver.yaml"}


def test_the_pages_name_values_at_all() -> None:
    assert len({path for page in PAGES for path in _VALUE.findall(text_of(page))}) > 20


def test_the_example_of_a_configuration_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", text_of("driver-configuration"), re.DOTALL)
    config = DriverConfig.model_validate(yaml.safe_load(example))
    options.parse(config.volumes, "docs")


def test_alerts_and_operations_name_each_other() -> None:
    alerts = yaml.safe_load((chart.CHART / "files" / "alerts.yaml").read_text())
    text = text_of("cluster-operations")
    for group in alerts["groups"]:
        for rule in group["rules"]:
            assert f"`{rule['alert']}`" in text


def test_events_are_documented() -> None:
    reasons = {
        reason
        for path in (chart.ROOT / "csi_slayer" / "node").glob("*.py")
        for reason in re.findall(
            r"events\.warn\(\s*[\w.]+,\s*\"(\w+)\"", path.read_text(encoding="utf-8")
        )
    }
    assert reasons
    assert {
        reason for reason in reasons if f"`{reason}`" not in text_of("cluster-operations")
    } == set()


def test_comments_of_values_are_found_and_examples_are_not() -> None:
    text = "\n".join(
        (
            "# Of the whole file.",
            "",
            "# A section,",
            "# in two lines.",
            "a:",
            "  # First.",
            "  b: 1",
            "  c: {}",
            "  #   example: 2",
            "  d: 3",
            "# Last.",
            "e: []",
        )
    )
    assert list(commented(text)) == [
        ("a", "A section, in two lines."),
        ("a.b", "First."),
        ("e", "Last."),
    ]
