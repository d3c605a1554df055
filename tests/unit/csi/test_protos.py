"""Our contracts say what the official ones say; only the comments are ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from csi_slayer.csi.proto import csi_pb2, pluginregistration_pb2
from tests.support.binaries import CSI_PROTO, REGISTRATION_PROTO, ModuleFiles

OURS = Path(__file__).resolve().parents[3] / "protos"

PAIRS = [
    (OURS / "csi.proto", CSI_PROTO, "csi.proto", csi_pb2),
    (OURS / "pluginregistration.proto", REGISTRATION_PROTO, "api.proto", pluginregistration_pb2),
]


def compiled(path: Path, out: Path) -> FileDescriptorProto:
    """The file's descriptor, without its name. Without source positions and comments."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{path.parent}"]
    subprocess.run([*command, f"--descriptor_set_out={out}", path.name], check=True, timeout=60)
    [descriptor] = FileDescriptorSet.FromString(out.read_bytes()).file
    descriptor.ClearField("name")
    return descriptor


def without_json_names(message: DescriptorProto) -> None:
    """The compiler adds them to descriptor sets, not to modules; they follow from the names."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        without_json_names(nested)


@pytest.mark.integration  # with what make setup fetches
@pytest.mark.parametrize(("ours", "official", "name", "module"), PAIRS, ids=["csi", "kubelet"])
def test_same_descriptors(
    ours: Path, official: ModuleFiles, name: str, module: object, tmp_path: Path
) -> None:
    assert official.path.exists(), "run `make setup`: it fetches the official files"
    expected = compiled(official.path / name, tmp_path / "official")
    assert compiled(ours, tmp_path / "ours") == expected


@pytest.mark.parametrize(("ours", "official", "name", "module"), PAIRS, ids=["csi", "kubelet"])
def test_generated_modules_are_of_these_protos(
    ours: Path, official: ModuleFiles, name: str, module: object, tmp_path: Path
) -> None:
    generated = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(generated)  # type: ignore[attr-defined]
    generated.ClearField("name")
    expected = compiled(ours, tmp_path / "ours")
    for message in expected.message_type:
        without_json_names(message)
    for extension in expected.extension:
        extension.ClearField("json_name")
    assert generated == expected, "run `pip install -e .` again"


@pytest.mark.integration  # with what make setup fetches
@pytest.mark.parametrize(("ours", "official", "name", "module"), PAIRS, ids=["csi", "kubelet"])
def test_comments_are_our_own(
    ours: Path, official: ModuleFiles, name: str, module: object, tmp_path: Path
) -> None:
    theirs = (official.path / name).read_text()
    for line in ours.read_text().splitlines():
        comment = line.strip().removeprefix("//").strip()
        if line.strip().startswith("//") and len(comment) > 40:
            assert comment not in theirs
