"""Parts of the documentation of the driver in a cluster that are made from code and chart."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from csi_slayer.config import describe_fields
from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes.parameters import VolumeParameters
from tests.support.chart import CHART, NOT_IN_A_POD, SET_BY_CHART
from tests.support.families import family_rows, of_driver
from tests.support.limits import driver_limits
from tests.support.tables import table

_LINE = re.compile(r"^( *)(?:# (\S.*)|([A-Za-z][\w-]*):.*)$")
_LONGEST_DEFAULT = 60


def parameters() -> str:
    """Every volume parameter. Those of the mount itself have the mount's default."""
    defaults = {
        field.path.removeprefix("volume."): field.default
        for field in describe_fields()
        if field.path.startswith("volume.")
    }
    aliases = {name: field.alias for name, field in VolumeParameters.model_fields.items()}
    rows = []
    for field in describe_fields(VolumeParameters):
        extra = VolumeParameters.model_fields[field.path].json_schema_extra
        assert isinstance(extra, dict)
        default = defaults.get(field.path, "")
        rows.append(
            [
                f"`{aliases[field.path]}`",
                field.type,
                f"`{default}`" if default not in ("", "none") else "",
                "yes" if extra["mutable"] else "",
                field.description,
            ]
        )
    return table(["parameter", "value", "default", "changeable", "meaning"], rows)


def driver_configuration() -> str:
    """A table for each section of driver.yaml; who sets a key when the chart does."""
    parts: dict[str, list[list[str]]] = {}
    for field in describe_fields(DriverConfig):
        section, _dot, key = field.path.rpartition(".")
        chart = "set by the chart" if field.path in SET_BY_CHART else ""
        if field.path in NOT_IN_A_POD:
            chart = "not offered"
        default = f"`{field.default}`" if field.default else '`""`'
        row = [f"`{key}`", field.type, default, chart, field.description]
        # A key without a section has a heading of its own name.
        parts.setdefault(section or key, []).append(row)
    return "\n".join(
        f"### {section}\n\n" + table(["key", "type", "default", "chart", "meaning"], rows)
        for section, rows in parts.items()
    )


def values() -> str:
    """The chart's values that have a comment in values.yaml, with their defaults."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    rows = []
    for path, comment in commented(text):
        default = defaults
        for part in path.split("."):
            default = default[part]
        shown = yaml.safe_dump(default, default_flow_style=True, width=10_000, sort_keys=False)
        shown = shown.removesuffix("...\n").strip()
        long = len(shown) > _LONGEST_DEFAULT
        rows.append([f"`{path}`", "" if long else f"`{shown}`", comment])
    return table(["value", "default", "meaning"], rows)


def alerts() -> str:
    """The alerts of the chart."""
    text = (CHART / "files" / "alerts.yaml").read_text(encoding="utf-8")
    rows = [
        [f"`{rule['alert']}`", rule["labels"]["severity"], rule["annotations"]["description"]]
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
    ]
    return table(["alert", "severity", "meaning"], rows)


def driver_metrics() -> str:
    """Families that the driver's processes serve beside those of each volume."""
    return table(["metric", "type", "labels", "meaning"], family_rows(of_driver()))


def driver_limit_table() -> str:
    """Bounds of queues, retries and waits of the driver's processes."""
    return table(["what", "limit"], [[text, value] for text, value in driver_limits()])


def commented(text: str) -> Iterator[tuple[str, str]]:
    """Dotted paths of the keys that follow a comment, which has one space after its sign; what has
    more is an example."""
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            if not line.strip():
                comment = []
            continue
        if match[2] is not None:
            comment.append(match[2])
            continue
        indent = len(match[1])
        parents = [*(p for p in parents if p[0] < indent), (indent, match[3])]
        if comment:
            yield ".".join(name for _, name in parents), " ".join(comment)
        comment = []
