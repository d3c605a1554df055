"""``python -m e2e.cluster``: the cluster's commands."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from e2e.cluster import loading
from e2e.cluster.cluster import Cluster, down, up
from e2e.cluster.processes import ClusterError
from e2e.cluster.settings import DEFAULT_STATE
from e2e.environment import DRIVER_IMAGE, Environment
from e2e.install import install


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--state", type=Path, default=DEFAULT_STATE, help="state directory")
        return added

    command("up", "bring a fresh cluster up; nothing to do if it is up")
    ended = command("down", "end it and remove all that it left")
    ended.add_argument("--keep-logs", type=Path, help="directory that gets the logs first")
    command("status", "which services run")
    for name, text in (("start", "start a service"), ("stop", "end a service")):
        command(name, text).add_argument("service")
    command("install", "install the chart by helm, or upgrade it, and wait until it is ready")
    driver = command("load-driver", "build the driver's image from this checkout and load it")
    driver.add_argument("names", nargs="*", help=f"default: {DRIVER_IMAGE}")
    image = command("load-image", "load a root file system as an image")
    image.add_argument("name")
    image.add_argument("directory", type=Path)
    return parser


def main(arguments: list[str]) -> int:
    """The exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "up":
            up(options.state)
            return 0
        if options.command == "down":
            down(options.state, options.keep_logs)
            return 0
        cluster = Cluster.load(options.state)
        if options.command == "status":
            for name, running in cluster.status().items():
                print(f"{name:20} {'running' if running else 'not running'}")
            return 0 if all(cluster.status().values()) else 1
        if options.command == "install":
            install(Environment.load(options.state))
        elif options.command == "load-driver":
            loading.load_driver(cluster.settings, *options.names)
        elif options.command == "load-image":
            loading.load_directory(cluster.settings, options.name, options.directory)
        else:
            getattr(cluster, options.command)(options.service)
    except (ClusterError, subprocess.CalledProcessError) as error:
        print(f"e2e.cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
