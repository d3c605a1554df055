"""The rate of a load over time, with what happened meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COLOURS = {"open files": "#1b7837", "fsync and rename": "#2166ac", "names": "#b35806"}
_TITLES = {
    "open files": "reads and writes in open files",
    "fsync and rename": "durable replacements (write, fsync to S3, rename)",
    "names": "mkdir, create, rename, list, unlink, rmdir",
}


def plot(samples: list[dict[str, Any]], marks: list[tuple[str, float, float]], path: Path) -> None:
    """Write a PNG. ``marks``: name, beginning and end of each disruption (``time.time``)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    zero = samples[0]["clock"]
    figure, all_axes = pyplot.subplots(
        len(_TITLES), 1, figsize=(12, 8), sharex=True, layout="constrained"
    )
    previous = [zero, *(sample["clock"] for sample in samples)]
    for axes, (kind, title) in zip(all_axes, _TITLES.items(), strict=True):
        rates = [
            sample["operations"][kind] / max(sample["clock"] - before, 0.1)
            for sample, before in zip(samples[1:], previous[1:], strict=False)
        ]
        times = [sample["clock"] - zero for sample in samples[1:]]
        axes.plot(times, rates, color=_COLOURS[kind], linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("per second")
        axes.set_title(title, loc="left", fontsize=10)
        for _, begin, end in marks:
            axes.axvspan(begin - zero, end - zero, color="#d6604d", alpha=0.15, linewidth=0)
        axes.spines[["top", "right"]].set_visible(False)
    for number, (name, begin, end) in enumerate(marks):
        # In three rows: names are wider than short disruptions.
        all_axes[0].text(
            (begin + end) / 2 - zero, 1.12 + 0.1 * (number % 3), name, fontsize=9, ha="center",
            transform=all_axes[0].get_xaxis_transform(),
        )  # fmt: skip
    all_axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
