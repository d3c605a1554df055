"""``csi-slayer node`` and ``controller`` as processes: start, endpoints, end, mistakes, secrets."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from csi_slayer.csi.proto import csi_pb2, pluginregistration_pb2
from tests.support.csi import CsiClient, connected, mount_capability
from tests.support.driver import Driver, Role, driver, s3_section
from tests.support.faultproxy import FaultProxy
from tests.support.mounts import wait_for
from tests.support.servers import S3Server, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

EXTRA = {
    "csi.storage.k8s.io/pvc/name": "data-web-0",
    "csi.storage.k8s.io/pvc/namespace": "shop",
}


def _running(server: S3Server, directory: Path, secrets: Path) -> Iterator[Driver]:
    store = s3_section(server, server.create_bucket(), secrets / "secret")
    sections = {
        "metrics": {"listen": f"127.0.0.1:{free_port()}"},
        "log": {"level": "debug"},
        "store": store,
    }
    with driver(directory, **sections) as made:
        yield made


@pytest.fixture
def running(versitygw: S3Server, short_directory: Path, tmp_path: Path) -> Iterator[Driver]:
    """A driver that the test may end."""
    yield from _running(versitygw, short_directory, tmp_path)


@pytest.fixture(scope="module")
def shared(
    versitygw: S3Server, shared_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    """A driver for tests that leave no volume behind."""
    yield from _running(versitygw, shared_directory, tmp_path_factory.mktemp("driver"))


def get(running: Driver, path: str) -> tuple[int, str]:
    """From the node's HTTP endpoint."""
    url = f"http://{running.sections['metrics']['listen']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def calling(running: Driver, work: Callable[[CsiClient, CsiClient], Awaitable[None]]) -> None:
    """Run ``work`` with clients of controller and node."""

    async def run() -> None:
        async with (
            connected(running.controller_socket) as controller,
            connected(running.socket) as node,
        ):
            await work(controller, node)

    asyncio.run(run())


async def refused(client: CsiClient, method: str, fields: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client(method, **fields)
    return caught.value.code().name, caught.value.details() or ""


def publication(running: Driver, volume: Any, target: str = "t", **fields: Any) -> dict[str, Any]:
    return {
        "volume_id": volume.volume_id,
        "target_path": str(running.kubelet / "pods" / target),
        "volume_capability": mount_capability(),
        "volume_context": dict(volume.volume_context),
    } | fields


async def take_away(controller: CsiClient, node: CsiClient, published: dict[str, Any]) -> None:
    """Unpublish and delete what was published with these fields."""
    where = {name: published[name] for name in ("volume_id", "target_path")}
    await node("NodeUnpublishVolume", **where)
    await controller("DeleteVolume", volume_id=where["volume_id"])


async def new_volume(controller: CsiClient, **fields: Any) -> Any:
    answer = await controller(
        "CreateVolume",
        name="pvc-1",
        volume_capabilities=[mount_capability()],
        parameters=EXTRA,
        **fields,
    )
    return answer.volume


def test_ready_once_the_kubelet_knows_it(running: Driver) -> None:
    assert get(running, "/healthz") == (200, "ok\n")
    status, text = get(running, "/readyz")
    assert status == 503 and "kubelet" in text

    async def register() -> None:
        path = running.kubelet / "plugins_registry" / "csi.slayerfs.io-reg.sock"
        async with connected(path, pluginregistration_pb2.DESCRIPTOR) as kubelet:
            info = await kubelet("GetInfo")
            assert info.endpoint == str(running.socket)
            await kubelet("NotifyRegistrationStatus", plugin_registered=True)

    asyncio.run(register())
    assert get(running, "/readyz") == (200, "ok\n")


def test_metrics_name_calls_and_claims(shared: Driver) -> None:
    async def work(controller: CsiClient, node: CsiClient) -> None:
        volume = await new_volume(controller)
        fields = publication(shared, volume)
        await node("NodePublishVolume", **fields)
        (Path(fields["target_path"]) / "file").write_text("content")

        def scraped() -> str | None:
            status, text = get(shared, "/metrics")
            assert status == 200
            return text if "\nslayerfs_opens_total{" in text else None  # it was slow to answer

        text = await asyncio.to_thread(wait_for, scraped, what="the worker's metrics")
        assert 'slayerfs_csi_call_seconds_count{code="OK",method="NodePublishVolume"} 1.0' in text
        [line] = [line for line in text.splitlines() if line.startswith("slayerfs_opens_total{")]
        assert 'claim="data-web-0"' in line and 'namespace="shop"' in line
        await take_away(controller, node, fields)

    calling(shared, work)


WRITER = """
import sys
with open(sys.argv[1], "w") as file:
    file.write("before ")
    file.flush()
    print("open", flush=True)
    sys.stdin.readline()
    file.write("between")
print("closed", flush=True)
"""


def test_ends_in_good_order_and_its_successor_goes_on(running: Driver) -> None:
    target = running.kubelet / "pods" / "t"
    volumes: list[Any] = []

    async def before(controller: CsiClient, node: CsiClient) -> None:
        volumes.append(await new_volume(controller))
        await node("NodePublishVolume", **publication(running, volumes[0]))

    calling(running, before)
    # In another process: one with a file of the mount open cannot fork while no worker runs.
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target / "file")],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert writer.stdin is not None and writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        assert running.end("node") == 0
        assert not running.socket.exists()
        assert running.end("controller") == 0
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        running.start("node", "controller")
        assert writer.stdout.readline() == b"closed\n"
    finally:
        writer.kill()
        writer.communicate()
    assert (target / "file").read_text() == "before between"

    async def after(controller: CsiClient, node: CsiClient) -> None:
        id = volumes[0].volume_id
        await node("NodePublishVolume", **publication(running, volumes[0]))
        await node("NodeUnpublishVolume", volume_id=id, target_path=str(target))
        await controller("DeleteVolume", volume_id=id)

    calling(running, after)
    assert not target.exists()


def test_a_run_directory_that_was_emptied_is_made_again(running: Driver) -> None:
    shutil.rmtree(running.run)
    wait_for(running.socket.exists, what="the socket")

    async def work(controller: CsiClient, node: CsiClient) -> None:
        volume = await new_volume(controller)
        fields = publication(running, volume)
        await node("NodePublishVolume", **fields)
        (Path(fields["target_path"]) / "file").write_text("text")
        await take_away(controller, node, fields)

    calling(running, work)


@pytest.mark.slow
def test_a_second_process_does_no_harm(shared: Driver) -> None:
    """It is told that the place is taken before it has ended or unmounted anything."""
    arguments: dict[Role, list[str]] = {
        role: [role, "-c", str(shared.config(role))] for role in ("node", "controller")
    }
    arguments["keeper"] = ["keeper", "--socket", str(shared.keeper_socket)]

    def start_again(role: Role) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "csi_slayer.cli", *arguments[role]],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 1
        assert "is in use" in result.stderr and "Traceback" not in result.stderr

    async def work(controller: CsiClient, node: CsiClient) -> None:
        volume = await new_volume(controller)
        fields = publication(shared, volume)
        await node("NodePublishVolume", **fields)
        path = Path(fields["target_path"]) / "file"
        path.write_text("content")
        before = _session_pids(shared)
        await asyncio.gather(*(asyncio.to_thread(start_again, role) for role in arguments))
        assert _session_pids(shared) == before
        assert path.read_text() == "content"
        await controller("ListVolumes")
        await take_away(controller, node, fields)

    calling(shared, work)


def test_a_successor_waits_for_its_predecessor(running: Driver) -> None:
    """A rolling update may start the one before the other has ended."""

    async def before(controller: CsiClient, node: CsiClient) -> None:
        volume = await new_volume(controller)
        published.update(publication(running, volume))
        await node("NodePublishVolume", **published)
        (Path(published["target_path"]) / "file").write_text("content")

    async def after(controller: CsiClient, node: CsiClient) -> None:
        await node("NodePublishVolume", **published)
        assert (Path(published["target_path"]) / "file").read_text() == "content"
        await take_away(controller, node, published)

    published: dict[str, Any] = {}
    calling(running, before)
    with running.succeeded("node"):
        wait_for(lambda: "waiting_for_predecessor" in running.log.read_text(), what="a successor")
        calling(running, before)
    calling(running, after)


TARGETS = (
    ("pods/t", "expected a path below"),
    ("/etc", "expected a path below"),
    ("{kubelet}", "expected a path below"),
    ("{kubelet}/pods/../../../etc/t", "expected a path below"),
    ("{kubelet}/pods/./t", "expected a path below"),
    ("{kubelet}//pods/t", "expected a path below"),
    ("{kubelet}/pods/link/t", "symbolic link"),
    ("{run}/mounts/t", "own directory"),
    ("{run}", "own directory"),
    ("{run}/", "own directory"),
    ("{kubelet}/plugins", "own directory"),
    ("{kubelet}/plugins_registry", "own directory"),
    ("{kubelet}/plugins_registry/t", "own directory"),
    ("{kubelet}/pods", "own directory"),
)


def test_targets_that_are_no_pods(shared: Driver) -> None:
    outside = shared.directory / "outside"
    outside.mkdir()
    (shared.kubelet / "pods" / "link").symlink_to(outside)

    async def work(controller: CsiClient, node: CsiClient) -> None:
        volume = await new_volume(controller)
        for target, what in TARGETS:
            path = target.format(kubelet=shared.kubelet, run=shared.run)
            fields = publication(shared, volume, target_path=path)
            code, text = await refused(node, "NodePublishVolume", fields)
            assert code == "INVALID_ARGUMENT" and what in text, (path, code, text)
            if "link" not in path:
                end = {"volume_id": volume.volume_id, "target_path": path}
                code, text = await refused(node, "NodeUnpublishVolume", end)
                assert code == "INVALID_ARGUMENT" and what in text, (path, code, text)
        await controller("DeleteVolume", volume_id=volume.volume_id)

    calling(shared, work)
    assert not list(outside.iterdir()) and not os.path.lexists("/etc/t")


def test_the_end_of_a_pod_does_not_wait_for_s3(
    short_directory: Path, versitygw: S3Server, tmp_path: Path
) -> None:
    """Its inline volume is emptied when S3 is back, by whichever process there is then."""
    bucket = versitygw.create_bucket()
    inline = csi_pb2.Volume(
        volume_id="csi-" + "0123456789abcdef" * 4,
        volume_context={"csi.storage.k8s.io/ephemeral": "true"},
    )
    with FaultProxy(versitygw.endpoint) as proxy:
        store = s3_section(versitygw, bucket, tmp_path / "secret") | {"endpoint": proxy.endpoint}
        metrics = {"listen": f"127.0.0.1:{free_port()}"}
        with driver(short_directory, metrics=metrics, store=store) as running:
            fields = publication(running, inline)

            async def away(controller: CsiClient, node: CsiClient) -> None:
                await node("NodePublishVolume", **fields)
                (Path(fields["target_path"]) / "file").write_text("content")
                assert versitygw.admin.keys(bucket) != []
                proxy.go_away()
                where = {name: fields[name] for name in ("volume_id", "target_path")}
                await node("NodeUnpublishVolume", **where)

            calling(running, away)
            wait_for(lambda: "ContentStays" in running.log.read_text(), what="an event")
            assert "slayerfs_node_unemptied_volumes 1.0" in get(running, "/metrics")[1]
            running.end("node")
            running.start("node")
            wait_for(
                lambda: "slayerfs_node_unemptied_volumes 1.0" in get(running, "/metrics")[1],
                what="what the predecessor left",
            )
            proxy.come_back()
            wait_for(lambda: versitygw.admin.keys(bucket) == [], 60, what="an empty bucket")


def test_wrong_secret_and_vanished_bucket(shared: Driver, versitygw: S3Server) -> None:
    async def work(controller: CsiClient, node: CsiClient) -> None:
        bucket = versitygw.create_bucket()
        static = csi_pb2.Volume(volume_id="static", volume_context={"bucket": bucket})
        wrong = {"access_key_id": "AKIAWRONG", "secret_access_key": "WRONG-SECRET-VALUE"}
        right = {
            "access_key_id": versitygw.access_key,
            "secret_access_key": versitygw.secret_key,
        }
        code, text = await refused(
            node, "NodePublishVolume", publication(shared, static, secrets=wrong)
        )
        assert code == "PERMISSION_DENIED" and "WRONG-SECRET-VALUE" not in text
        fields = publication(shared, static, secrets=right)
        await node("NodePublishVolume", **fields)
        await node("NodeUnpublishVolume", volume_id="static", target_path=fields["target_path"])
        versitygw.admin.delete_bucket(bucket)
        code, text = await refused(node, "NodePublishVolume", fields)
        assert code == "NOT_FOUND" and bucket in text
        code, text = await refused(
            controller,
            "CreateVolume",
            {
                "name": "n",
                "volume_capabilities": [mount_capability()],
                "parameters": {"bucket": bucket},
            },
        )
        assert code == "NOT_FOUND" and bucket in text

    calling(shared, work)
    assert not (shared.kubelet / "pods" / "t").exists()


def _files_with(directory: Path, secret: bytes) -> list[Path]:
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and secret in path.read_bytes()
    ]


def test_secrets_are_nowhere_to_be_found(shared: Driver, versitygw: S3Server) -> None:
    secret = versitygw.secret_key
    token = "eyJhbGciOiJSUzI1NiJ9.THE-PODS-TOKEN.signature"
    kubernetes = "csi.storage.k8s.io/serviceAccount.tokens"

    async def work(controller: CsiClient, node: CsiClient) -> None:
        secrets = {"access_key_id": versitygw.access_key, "secret_access_key": secret}
        volume = await new_volume(controller, secrets=secrets)
        tokens = {kubernetes: f'{{"sts": {{"token": "{token}"}}}}'}
        context = dict(volume.volume_context) | tokens
        fields = publication(shared, volume, secrets=secrets, volume_context=context)
        await node("NodePublishVolume", **fields)
        (Path(fields["target_path"]) / "file").write_text("content")
        await refused(node, "NodePublishVolume", fields | {"readonly": True})
        bad = {"secret_access_key": secret, "what": secret}
        _, text = await refused(node, "NodePublishVolume", fields | {"secrets": bad})
        assert secret not in text
        for pid in _session_pids(shared):
            for name in ("cmdline", "environ"):
                content = Path(f"/proc/{pid}/{name}").read_bytes()
                assert secret.encode() not in content and token.encode() not in content
        for needle in (secret.encode(), token.encode()):
            assert _files_with(shared.run, needle) == []
            assert _files_with(shared.directory / "cache", needle) == []
        await take_away(controller, node, fields)

    calling(shared, work)

    def masked() -> bool:
        log = shared.log.read_text()
        return '"secrets": "***"' in log or '"secret_access_key": "***"' in log

    wait_for(masked, what="a line of the call that would show it")
    log = shared.log.read_text()
    assert secret not in log and token not in log


def _session_pids(running: Driver) -> list[int]:
    """The node service and everything below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
    found = [running.pid("node")]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def test_workers_do_without_grpc(shared: Driver) -> None:
    async def work(controller: CsiClient, node: CsiClient) -> None:
        volume = await new_volume(controller)
        fields = publication(shared, volume)
        await node("NodePublishVolume", **fields)
        service, *below = _session_pids(shared)
        assert "cygrpc" in Path(f"/proc/{service}/maps").read_text()
        assert len(below) >= 2  # template and worker
        for pid in below:
            assert "cygrpc" not in Path(f"/proc/{pid}/maps").read_text()
        await take_away(controller, node, fields)

    calling(shared, work)


def test_controller_is_ready_when_s3_answers_again(
    short_directory: Path, versitygw: S3Server, tmp_path: Path
) -> None:
    store = s3_section(versitygw, "not-yet-there", tmp_path / "secret")
    with driver(short_directory, store=store, only=("controller",)) as running:

        async def check() -> None:
            async with connected(running.controller_socket) as controller:
                code, text = await refused(controller, "Probe", {})
                assert code == "FAILED_PRECONDITION" and "not-yet-there" in text
                versitygw.create_bucket("not-yet-there")
                async with asyncio.timeout(60):
                    while True:
                        try:
                            answer = await controller("Probe")
                        except grpc.aio.AioRpcError:
                            await asyncio.sleep(0.2)
                        else:
                            break
                assert answer.ready.value

        asyncio.run(check())
        assert running.end("controller") == 0
    versitygw.admin.delete_bucket("not-yet-there")
