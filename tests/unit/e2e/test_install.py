"""What the chart is told, and the image's recipes, which must agree with one another."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from e2e.cluster import rootfs
from e2e.cluster.images import Layer
from e2e.cluster.loading import DRIVER_ENVIRONMENT, driver_image
from e2e.environment import SIDECARS, Environment
from e2e.install import VALUES, objects, values
from e2e.kind import cluster as kind
from e2e.roles import minio_role
from tests.support.binaries import CSI_PROVISIONER, STAGING, go_mod_of, staging_modules


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    made = Environment(
        state=tmp_path,
        kubeconfig=tmp_path / "kubeconfig",
        node="node",
        kubelet_directory=tmp_path / "kubelet",
        cache_directory=tmp_path / "cache",
        programs={"kubectl": "kubectl", "helm": "helm"},
        s3={"versitygw": "http://10.0.0.1:1", "minio": "http://10.0.0.1:2"},
        credentials=tmp_path / "credentials",
        minio_role="arn:minio:iam:::role/x",
        images={"driver": "localhost:5000/driver:tag"}
        | {name: f"registry/{name}:v1" for name in SIDECARS},
    )
    made.save("access%key", "secret key")
    return made


def test_an_environment_is_read_back_and_holds_no_key(environment: Environment) -> None:
    assert Environment.load(environment.state) == environment
    assert "secret" not in (environment.state / "env.json").read_text()
    assert environment.keys() == ("access%key", "secret key")
    assert environment.credentials.stat().st_mode & 0o777 == 0o600


def test_images_and_directories_reach_the_chart(environment: Environment) -> None:
    told = values(environment, "minio")
    assert told["image"] == {"repository": "localhost:5000/driver", "tag": "tag"}
    assert set(told["sidecars"]) == {"provisioner", "resizer", "snapshotter"}
    assert told["driver"]["store"]["endpoint"] == "http://10.0.0.1:2"
    assert "secret" not in str(told)


def test_the_chart_s_secret_is_the_one_that_is_made(environment: Environment) -> None:
    static = yaml.safe_load(VALUES.read_text())
    secret = objects(environment)[1]
    assert static["credentials"] == {"existingSecret": secret["metadata"]["name"]}
    assert set(secret["data"]) == {"access_key_id", "secret_access_key"}


def test_docker_s_context_and_the_cluster_s_image_are_made_from_the_same_files() -> None:
    lines = Path(".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == {
        *rootfs.SOURCES,
        str(rootfs.INSTALL.relative_to(rootfs.PROJECT)),
    }


def test_the_dockerfile_and_the_cluster_s_image_agree() -> None:
    text = Path("Dockerfile").read_text()
    layer = Layer(Path("layer"), "digest")
    image = driver_image(rootfs.DriverLayers(layer, layer, layer))
    assert f"PATH={DRIVER_ENVIRONMENT['PATH']}" in text
    assert 'ENTRYPOINT ["csi-slayer"]' in text and list(image.entrypoint) == ["csi-slayer"]
    assert f"FROM debian:{rootfs.SUITE}-slim" in text
    assert f"COPY --from=build /{rootfs.PREFIX} /{rootfs.PREFIX}" in text


def test_a_key_tells_apart_what_only_looks_alike_when_joined() -> None:
    assert rootfs.key("ab", "c") != rootfs.key("a", "bc")
    assert rootfs.key("a", "b") == rootfs.key("a", b"b")


def test_minio_s_role_is_waited_for_in_its_log() -> None:
    line = "IAM Roles: arn:minio:iam:::role/abc-D_1\n"
    log = iter(["", "x\n", f"x\n{line[:-4]}", f"x\n{line}"])
    assert minio_role(lambda: next(log)) == "arn:minio:iam:::role/abc-D_1"
    with pytest.raises(LookupError):
        minio_role(lambda: "nothing", timeout=0)


def test_kubernetes_staging_modules_are_replaced_by_published_ones() -> None:
    go_mod = "replace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tx => y\n)\n"
    assert staging_modules(go_mod) == ["k8s.io/api"]
    made = go_mod_of(CSI_PROVISIONER, ["k8s.io/api"])
    assert f"k8s.io/api => k8s.io/api {STAGING}" in made
    assert f"require {CSI_PROVISIONER.module} {CSI_PROVISIONER.version}" in made


def test_kind_gets_the_sidecars_versions_that_are_built_here() -> None:
    images = kind.sidecar_images()
    assert set(images) == set(SIDECARS)
    assert images["csi-provisioner"].endswith(f":{CSI_PROVISIONER.version}")


class Docker:
    """Takes commands instead of docker, kind and kubectl, and answers what is asked for."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.environments: list[dict[str, str]] = []

    def __call__(
        self,
        *command: str,
        stdin: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> str:
        self.commands.append(command)
        self.environments.append(environment or {})
        if "view" in command:
            return '{"clusters": [{"cluster": {"certificate-authority-data": "Y2E="}}]}'
        if command[:2] == ("docker", "inspect"):
            return "172.18.0.5\n"
        if command[:2] == ("docker", "logs"):
            return "arn:minio:iam:::role/abc\n"
        return ""


def test_a_kind_cluster_is_described_as_ours_and_no_argument_holds_a_key(tmp_path: Path) -> None:
    docker = Docker()
    kind.up(tmp_path / "state", docker)
    made = Environment.load(tmp_path / "state")
    assert made.s3 == {"versitygw": "http://172.18.0.5:7070", "minio": "http://172.18.0.5:9000"}
    secret = made.keys()[1]
    assert not any(secret in argument for command in docker.commands for argument in command)
    assert any(secret in values.values() for values in docker.environments)
    kind.down(tmp_path / "state", None, docker)
    assert not (tmp_path / "state").exists()
