"""The results as a picture: each row's columns relative to the best reference of that row."""

from __future__ import annotations

from pathlib import Path

from bench.results import Results
from bench.rows import BARE, COLUMNS, LOCAL, Ratio, Row

_COLOURS = {
    "slayerfs": "#1b7837",
    "slayerfs-plain": "#7fbf7b",
    "rclone": "#2166ac",
    "s3fs": "#92c5de",
    "local": "#999999",
    "bare": "#444444",
}


def _reference(row: Row) -> str | None:
    for criterion in row.criteria:
        if isinstance(criterion, Ratio) and criterion.reference in (LOCAL, BARE):
            return criterion.reference
    return None


def relative(results: Results) -> dict[str, dict[str, float]]:
    """By row title: each column's speed as a share of the row's reference (which has 1)."""
    shares: dict[str, dict[str, float]] = {}
    for row in results.rows:
        reference, values = _reference(row), results.medians(row.id)
        if reference is not None and values.get(reference):
            title = f"{row.title}\n(1 = {reference})"
            shares[title] = {
                column: values[column] / values[reference]
                for column in COLUMNS
                if column in values and column != reference
            }
    return shares


def plot(results: Results, path: Path) -> bool:
    """Write a PNG; False if no row has a reference to compare with."""
    shares = relative(results)
    if not shares:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = [c for c in COLUMNS if any(c in values for values in shares.values())]
    height = 0.8 / len(columns)
    figure, axes = pyplot.subplots(figsize=(11, 1.2 + 0.95 * len(shares)), layout="constrained")
    for index, column in enumerate(columns):
        rows = [i for i, values in enumerate(shares.values()) if column in values]
        widths = [values[column] for values in shares.values() if column in values]
        places = [i + (index - (len(columns) - 1) / 2) * height for i in rows]
        axes.barh(places, widths, height, label=column, color=_COLOURS[column])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shares)), list(shares), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("speed relative to the reference (log scale, more is better)")
    axes.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
