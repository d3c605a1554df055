"""A thin hold on kubectl for tests."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from e2e.environment import Environment
from e2e.tests.support.api import WAIT

_TIMEOUT = WAIT + 30
"""Of kubectl, which may wait as long as that itself."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """``kubectl("get", "pods")`` returns what it printed."""

    environment: Environment

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = _TIMEOUT) -> str:
        """Raises AssertionError with what kubectl said."""
        done = subprocess.run(
            [
                self.environment.programs["kubectl"],
                f"--kubeconfig={self.environment.kubeconfig}",
                f"--cache-dir={self.environment.state}/kubectl-cache",
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout

    def apply(self, *objects: dict[str, Any], namespace: str | None = None) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        where = ["--namespace", namespace] if namespace else []
        self("apply", *where, "--filename=-", stdin=json.dumps(items))

    def get(self, *arguments: str) -> Any:
        """An object, or a list of them, as the API has it."""
        return json.loads(self("get", *arguments, "--output=json"))
