"""The machine: page cache, memory of processes, what it is."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from bench.errors import BenchError

MB = 1e6


def settle() -> None:
    """Write back everything dirty, so that nobody pays for what was written before."""
    os.sync()


def drop_page_cache() -> None:
    """Settle, then drop clean pages, dentries and inodes."""
    settle()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _memory(pid: int, field: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise BenchError(f"process {pid} is gone") from None
    for line in text.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / MB
    raise BenchError(f"process {pid} is ending")


def resident(pid: int) -> float:
    """Resident memory of a process in MB (1e6 bytes). Raises BenchError if it is gone."""
    return _memory(pid, "VmRSS")


def peak_resident(pid: int) -> float:
    """The most it ever was since :func:`reset_peak`, in MB."""
    return _memory(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def first_line(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not there"
    return answer.stdout.partition("\n")[0].strip()


def describe() -> dict[str, str]:
    """What a reader must know to place the numbers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "kernel": platform.release(),
        "machine": f"{os.cpu_count()} cores, {memory / 2**30:.0f} GiB memory",
        "python": platform.python_version(),
        "commit": first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
    }
