"""Figures of predictions: calibration, and risk against coverage."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.arbex.report.figure_style import HEIGHT, LIGHT, WIDTH, figure_file
from examples.arbex.report.results import ReliabilityBin, SelectiveResult

COLORS = (LIGHT["other"], LIGHT["ours"])


def draw_reliability(path: Path, bins: Mapping[str, Sequence[ReliabilityBin]]) -> None:
    """Draw accuracy against confidence, for each name; the diagonal is calibrated.

    The area of a point is proportional to its number of faces.
    """
    with figure_file(path, width=WIDTH, height=HEIGHT) as figure:
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], "--", color=LIGHT["muted"], linewidth=1, label="perfect")
        for (name, of_name), color in zip(bins.items(), COLORS, strict=False):
            x, y, counts = (
                np.array([getattr(each, field) for each in of_name])
                for field in ("confidence", "accuracy", "count")
            )
            axes.plot(x, y, color=color, linewidth=1.4, label=name)
            sizes = 6 + 160 * counts / counts.sum()
            axes.scatter(x, y, sizes, color=color, linewidths=0, zorder=3)
        axes.set(xlim=(0, 100), ylim=(0, 104))
        axes.set(xlabel="probability of the predicted class (%)", ylabel="accuracy (%)")
        figure.legend(loc="outside lower center", ncols=3)


def draw_risk(path: Path, selective: SelectiveResult) -> None:
    """Draw the error rate of the most confident predictions against their share."""
    with figure_file(path, width=WIDTH, height=HEIGHT) as figure:
        axes = figure.subplots()
        coverage, risk = zip(*((each.coverage, each.risk) for each in selective.curve), strict=True)
        axes.plot(coverage, risk, color=LIGHT["ours"])
        axes.fill_between(coverage, risk, color=LIGHT["ours"], alpha=0.12, linewidth=0)
        if selective.threshold is not None and selective.risk is not None:
            chosen = (selective.coverage, selective.risk)
            label = f"“not sure” below a probability of {100 * selective.threshold:.0f} %"
            axes.plot(*chosen, "o", color=LIGHT["ink"], markersize=6, label=label)
            figure.legend(loc="outside lower center")
        axes.set(xlim=(0, 100), ylim=(0, None))
        axes.set(xlabel="coverage, most confident faces first (%)", ylabel="error rate (%)")
        axes.grid(axis="y")
