"""``mount.slayerfs``: what mount(8), /etc/fstab and systemd's mount units call.

mount(8) runs ``mount.slayerfs SOURCE DIRECTORY [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`` and
expects the exit statuses of its own manual page. A namespace is for the helper to enter: with one
the call is refused, or the volume would be mounted where nobody asked for it.
"""

from __future__ import annotations

import getopt
import re
import sys
from typing import NamedTuple

from csi_slayer.cli import entry

_IGNORED = frozenset({
    "rw", "defaults", "auto", "noauto", "nofail", "_netdev", "nosuid", "nodev", "exec", "async",
    "user", "users", "nouser", "owner", "group", "atime", "noatime", "relatime", "norelatime",
    "diratime", "nodiratime", "strictatime", "lazytime", "nolazytime",
})  # fmt: skip
"""They are for who mounts, or how every volume is mounted, or about times of access: no volume has
those."""

_OPTION = re.compile(r'((?:[^,"]|"[^"]*")+)(?:,|$)')

WRONG, FAILED = 1, 32
"""Exit statuses of mount(8): incorrect invocation, mount failure."""


class WrongCall(Exception):
    """The text says what is wrong."""


class Call(NamedTuple):
    """``arguments`` for ``csi-slayer``; ``fake``: everything but mounting."""

    arguments: list[str]
    fake: bool


def translate(arguments: list[str]) -> Call:
    """What mount(8) wants, in terms of ``csi-slayer mount``. Raises WrongCall."""
    try:
        given, places = getopt.gnu_getopt(arguments, "sfnvN:o:t:")
    except getopt.GetoptError as error:
        raise WrongCall(str(error)) from None
    if len(places) != 2:
        raise WrongCall("expected SOURCE DIRECTORY [-o OPTIONS]")
    source, directory = places
    if any(name == "-N" for name, _ in given):
        raise WrongCall("-N: enter the namespace yourself, with nsenter")
    options = [text for name, value in given if name == "-o" for text in _split(value)]
    translated = [part for text in options for part in _translate(text)]
    sources = [] if source == "none" and "--config" in translated else [source]
    fake = ("-f", "") in given
    return Call(["mount", *translated, "--", *sources, directory], fake)


def _split(text: str) -> list[str]:
    """At the commas that are not between double quotes, which go."""
    parts, at = [], 0
    while at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            raise WrongCall("-o: a quote or an option is missing")
        parts.append(match[1].replace('"', ""))
        at = match.end()
    return parts


def _translate(option: str) -> list[str]:
    name, _, value = option.partition("=")
    if name in _IGNORED or name[:2] in ("x-", "X-") or name == "comment":
        return []
    if name == "ro":
        return ["--read-only"]
    if name == "config":
        return ["--config", value]
    if "." in name:
        return ["--option", option]
    raise WrongCall(
        f"-o {name}: not known; expected ro, config=FILE, or any key of the configuration as"
        " section.key=value, such as store.endpoint=https://s3.example.com"
    )


def run() -> None:
    """The program ``mount.slayerfs``."""
    try:
        call = translate(sys.argv[1:])
    except WrongCall as error:
        print(f"mount.slayerfs: {error}", file=sys.stderr)
        sys.exit(WRONG)
    if call.fake:
        return
    try:
        entry.run(call.arguments)
    except SystemExit as end:
        sys.exit(WRONG if end.code == 2 else FAILED if end.code else 0)
