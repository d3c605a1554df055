"""deploy/manifests is what the chart renders now."""

from __future__ import annotations

from tests.support.manifests import MANIFESTS, rendered


def test_the_files_are_the_rendered_chart() -> None:
    wanted = rendered()
    files = {path.name: path.read_text() for path in MANIFESTS.glob("*.yaml")}
    for name in ("namespace.yaml", "values.yaml"):
        del files[name]
    assert files == wanted, "run: make manifests"
