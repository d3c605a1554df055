"""``python -m bench.node``: many volumes on one node service, and many publications in a row.

Real mounts on a real S3 server. Publications are sent as the kubelet sends them, eight at a time;
after that the memory of all workers is summed up as their proportional set sizes, which count a
page that n processes share as 1/n each. Results go to bench/results/node.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.nodes import TestNode, node_at
from tests.support.processes import descendants
from tests.support.servers import S3Server, start_server

RESULTS = Path(__file__).with_name("results") / "node.json"
AT_ONCE = 8
P50, P99, PSS = 0.3, 1.0, 30 << 20
"""What is to be reached: seconds, seconds, bytes of each volume beyond the first."""


def pss(pids: Iterable[int]) -> int:
    """Bytes of memory of these processes, what they share divided by who shares it."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


class Bench:
    """One node service and the volumes that it is asked for, a prefix of one bucket each."""

    def __init__(self, node: TestNode, server: S3Server) -> None:
        self.node = node
        self.server = server
        self.bucket = server.create_bucket()
        self._lock = threading.Lock()

    def publish(self, number: int) -> float:
        """Seconds that it took."""
        store = {
            "endpoint": self.server.endpoint, "region": self.server.region,
            "access_key_id": self.server.access_key, "secret_access_key": self.server.secret_key,
        }  # fmt: skip
        request = self.node.request(
            f"volume{number}", f"pod{number}", f"s3://{self.bucket}/v{number}", store=store
        )
        return self._timed("publish", **request)

    def unpublish(self, number: int) -> float:
        target = str(self.node.target(f"pod{number}"))
        return self._timed("unpublish", volume_id=f"volume{number}", target=target)

    def _timed(self, op: str, **values: Any) -> float:
        began = time.monotonic()
        with self._lock:
            call = self.node.begin(op, **values)
        self.node.end(call)
        return time.monotonic() - began


def quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(statistics.median(ordered), 4),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 4),
        "max": round(ordered[-1], 4),
    }


def in_parallel(work: Callable[[int], float], numbers: Iterable[int]) -> list[float]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, numbers))


def fifty(bench: Bench, count: int) -> dict[str, Any]:
    bench.publish(0)  # its template has to import everything first
    node = bench.node
    one = pss(node.workers())
    publishing = in_parallel(bench.publish, range(1, count))
    time.sleep(5.0)  # workers tidy up after they have begun to serve
    workers = node.workers()
    assert len(workers) == count
    total = pss(workers)
    assert node.process is not None
    found = {
        "volumes": count,
        "publish": quantiles(publishing),
        "pss_first": one,
        "pss_each_beyond": (total - one) // (count - 1),
        "pss_node_service": pss([node.process.pid]),
        "unpublish": quantiles(in_parallel(bench.unpublish, range(count))),
    }
    assert node.mounts() == node.records() == []
    return found


def cycles(bench: Bench, count: int) -> dict[str, Any]:
    """What is there before and after must be the same."""

    def one(number: int) -> float:
        seconds = bench.publish(number % 100)
        bench.unpublish(number % 100)
        return seconds

    node = bench.node
    in_parallel(one, range(AT_ONCE * 2))
    before = left(node)
    seconds = in_parallel(one, range(count))
    after = left(node)
    return {
        "cycles": count,
        "publish": quantiles(seconds),
        "before": before,
        "after": after,
        "left_behind": {name: after[name] - before[name] for name in before if name != "node_rss"},
    }


def left(node: TestNode) -> dict[str, int]:
    """What a cycle might leave behind."""
    assert node.process is not None
    pid = node.process.pid
    family = [pid, *descendants(pid)]
    rss = next(
        line.split()[1]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return {
        "processes": len(family),
        "descriptors": sum(map(_descriptors, family)),
        "mounts": len(node.mounts()),
        "files": sum(
            len(list(directory.iterdir()))
            for directory in (
                node.run / "run", node.run / "mounts", node.run / "volumes",
                node.cache / "volumes", node.cache / "staging", node.cache / "conflicts",
            )
        ),
        "node_rss": int(rss) << 10,
    }  # fmt: skip


def _descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:  # it has just ended
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.node", description=__doc__)
    parser.add_argument("--volumes", type=int, default=50)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--server", choices=("minio", "versitygw"), default="minio")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slayer-node-", dir=chosen.work) as name:
        base = Path(name)
        (base / "server").mkdir()
        server = start_server(chosen.server, base / "server")
        try:
            with node_at(base) as node:
                bench = Bench(node, server)
                found = {"server": chosen.server, "at_once": AT_ONCE}
                if chosen.volumes > 1:
                    found |= fifty(bench, chosen.volumes)
                if chosen.cycles:
                    found["repeated"] = cycles(bench, chosen.cycles)
        finally:
            server.stop()
    print(json.dumps(found, indent=2))
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(found, indent=2) + "\n")
    publish = found.get("publish", {"p50": 0.0, "p99": 0.0})
    reached = (
        publish["p50"] <= P50 and publish["p99"] <= P99
        and found.get("pss_each_beyond", 0) <= PSS
        and not any(found.get("repeated", {}).get("left_behind", {}).values())
    )  # fmt: skip
    print("reached" if reached else "NOT REACHED", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
