"""csi-sanity, the conformance suite of CSI, against the running driver and real S3 servers."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.binaries import CSI_SANITY
from tests.support.driver import Driver, driver, s3_section
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TIMEOUT = 240

DOCS = Path(__file__).resolve().parents[3] / "docs" / "csi.md"


def documented_as_skipped() -> set[str]:
    """The cases that docs/csi.md names, each below the reason why it does not apply."""
    section = DOCS.read_text().partition("\n## What csi-sanity skips\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\* `(.+)`$", section, re.MULTILINE))


@dataclass(frozen=True)
class Report:
    passed: set[str]
    failed: dict[str, str]
    skipped: set[str]


def read_report(path: Path) -> Report:
    """What became of each case in a JUnit file of Ginkgo's."""
    passed, failed, skipped = set(), {}, set()
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "").removeprefix("[It] ")
        if case.get("name", "").startswith(("[BeforeSuite]", "[AfterSuite]", "[ReportAfterSuite]")):
            continue
        problem = case.find("failure")
        problem = problem if problem is not None else case.find("error")
        if problem is not None:
            failed[name] = (problem.get("message") or "") + (problem.text or "")
        elif case.find("skipped") is not None:
            skipped.add(name)
        else:
            passed.add(name)
    return Report(passed, failed, skipped)


def run_sanity(running: Driver, directory: Path, *options: str) -> Report:
    directory.mkdir()
    report = directory / "junit.xml"
    mutable = directory / "mutable.yaml"
    mutable.write_text(yaml.safe_dump({"durability": "writeback", "prefetch": "false"}))
    result = subprocess.run(
        [
            str(CSI_SANITY.path),
            f"-csi.endpoint=unix:{running.socket}",
            f"-csi.controllerendpoint=unix:{running.controller_socket}",
            f"-csi.mountdir={running.kubelet}/pods/mount",
            f"-csi.stagingdir={running.kubelet}/pods/stage",
            f"-csi.testvolumemutableparameters={mutable}",
            f"-ginkgo.junit-report={report}",
            "-ginkgo.no-color",
            *options,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
    )
    (directory / "output.txt").write_text(result.stdout)
    assert report.exists(), result.stdout[-4000:]
    return read_report(report)


@pytest.mark.timeout(TIMEOUT + 60)
def test_conforms(s3_server: S3Server, short_directory: Path, tmp_path: Path) -> None:
    bucket = s3_server.create_bucket()
    store = s3_section(s3_server, bucket, tmp_path / "secret")
    with driver(short_directory, store=store) as running:
        report = run_sanity(running, tmp_path / "sanity")
    assert report.failed == {}
    assert report.skipped == documented_as_skipped()
    assert len(report.passed) > 60
    left = s3_server.admin.keys(bucket)
    assert left == [], "csi-sanity deletes what it makes, and so do we"
