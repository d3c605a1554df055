"""A program that uses a mount: the test process itself must not hold a descriptor of one.

While nobody serves a mount, even starting a program waits in a process with an open file there:
the copied descriptor is closed, and that is a request.
"""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_PROGRAM = (
    "import itertools, os, sys\nfor line in sys.stdin:\n    print(repr(eval(line)), flush=True)\n"
)


class Client:
    """Evaluates expressions; what they return must be a literal."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, expression: str) -> None:
        """Have it evaluated; :meth:`result` waits for that."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client ended with {self.process.wait(30)}")
        return ast.literal_eval(line)

    def do(self, expression: str) -> Any:
        self.begin(expression)
        return self.result()


@contextlib.contextmanager
def clients(count: int = 1) -> Iterator[list[Client]]:
    """Programs that end with the block; enter it inside of the mount's own."""
    started = [Client() for _ in range(count)]
    try:
        yield started
    finally:
        for client in started:
            client.process.kill()
            client.process.communicate(timeout=30)
