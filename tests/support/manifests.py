"""deploy/manifests: the chart rendered with plain values, for `kubectl apply -k`.

``python -m tests.support.manifests`` writes them (``make manifests``).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from tests.support.chart import CHART, ROOT
from tests.support.helm import NAMESPACE, Object, objects, template_text

MANIFESTS = ROOT / "deploy" / "manifests"
CONFIG = "driver.yaml"
"""Its ConfigMap is made by kustomize, so that a change rolls the pods."""

_SOURCE = re.compile(r"^# Source: slayerfs/templates/(\S+)\n", re.MULTILINE)
# Helm does not manage them; kustomize changes the configuration's name instead of a checksum.
_HELM = re.compile(
    r"^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart|checksum/config): .*\n", re.MULTILINE
)
_HEADER = "# Rendered from deploy/helm/slayerfs by `make manifests`.\n"


def rendered() -> dict[str, str]:
    """What each file must contain, by its name. Raises HelmFailed."""
    values = yaml.safe_load((MANIFESTS / "values.yaml").read_text(encoding="utf-8"))
    parts: dict[str, list[str]] = {}
    for document in template_text(values).split("---\n"):
        match = _SOURCE.match(document)
        if match is not None and objects(document):
            parts.setdefault(match[1], []).append(
                _HELM.sub("", document[match.end() :]).strip("\n")
            )
    files = {
        name: _HEADER + "---\n" + "\n---\n".join(texts) + "\n"
        for name, texts in parts.items()
        if name != "config.yaml"
    }
    (config,) = objects("\n".join(parts["config.yaml"]))
    files[CONFIG] = config["data"][CONFIG].rstrip("\n") + "\n"
    files["kustomization.yaml"] = _kustomization(sorted(files.keys() - {CONFIG}))
    return files


def _kustomization(files: list[str]) -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    resources = "".join(f"  - {name}\n" for name in ["namespace.yaml", *files])
    return (
        f"{_HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"namespace: {NAMESPACE}\nresources:\n{resources}"
        f"images:\n  - name: slayerfs/csi-slayer\n    newTag: {chart['appVersion']}\n"
        f"configMapGenerator:\n  - name: slayerfs-config\n    files: [{CONFIG}]\n"
    )


def committed() -> list[Object]:
    """The objects as kustomize makes them of the files that are there, but for the suffix of the
    ConfigMap's name."""
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))
    found = [
        item
        for name in kustomization["resources"]
        for item in objects((MANIFESTS / name).read_text(encoding="utf-8"))
    ]
    for generator in kustomization["configMapGenerator"]:
        data = {name: (MANIFESTS / name).read_text(encoding="utf-8") for name in generator["files"]}
        metadata = {"name": generator["name"], "namespace": kustomization["namespace"]}
        found.append({"kind": "ConfigMap", "metadata": metadata, "data": data})
    return found


def main() -> int:
    files = rendered()
    for path in MANIFESTS.glob("*.yaml"):
        if path.name not in files and path.name not in ("namespace.yaml", "values.yaml"):
            path.unlink()
    for name, text in files.items():
        path = Path(MANIFESTS / name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
