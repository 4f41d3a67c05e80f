"""Table and figure of the benchmark of training lengths."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.tables import interval, markdown, page

LENGTHS = (3, 8, 15, 30, 60, 120)
OURS, CROSS_ENTROPY = "ours", "cross-entropy"
AFTER_3, AFTER_10 = "doubts after 3 epochs", "doubts after 10 epochs"
COLOURS = {CROSS_ENTROPY: "#b5532f", AFTER_3: "#b9b9b9", AFTER_10: "#6f8fa3", OURS: "#1f6f78"}
TITLES = {
    ("fashion-10k", "symmetric-40"): "Fashion-MNIST, 40 % wrong labels",
    ("fashion-10k", "clean"): "Fashion-MNIST, clean labels",
}


def report(runs: pd.DataFrame) -> str:
    """Format a table of each measure."""
    parts = ["Percent at the last epoch, mean over seeds with 95 % interval."]
    for measure in ("accuracy", "mean class accuracy"):
        parts += [f"## {measure.capitalize()}", table(runs, measure.replace(" ", "_"))]
    return page("One rule for any length of training", *parts)


def table(runs: pd.DataFrame, measure: str) -> str:
    """A measure by data, labels and length."""
    methods = (OURS, AFTER_3, AFTER_10, CROSS_ENTROPY)
    rows = []
    for (data, labels, epochs), setting in runs.groupby(["data", "labels", "epochs"]):
        if epochs in LENGTHS:
            of = {name: setting[setting["method"] == name] for name in methods}
            cells = [f"{interval(its[measure]):.1f}" for its in of.values()]
            cells += [f"{interval(of[OURS]['ece']):.1f}", str(max(map(len, of.values())))]
            rows.append([data, labels, epochs, *cells])
    return markdown(["data", "labels", "epochs", *methods, "ECE of ours", "seeds"], rows)


def draw(runs: pd.DataFrame) -> Figure:
    """Draw accuracy against length, one panel for each data set and its labels."""
    settings = dict(list(runs.groupby(["data", "labels"])))
    panels = [panel for panel in TITLES if panel in settings]
    figure = Figure(figsize=(4.4 * len(panels), 3.4), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        for name, colour in COLOURS.items():
            its = settings[panel].query("method == @name and epochs in @LENGTHS")
            means = its.groupby("epochs")["accuracy"].agg(interval)
            middle, half = (np.array([each[part] for each in means]) for part in (0, 1))
            is_main = name in (OURS, CROSS_ENTROPY)
            label, width = ("RobustLoss" if name == OURS else name), (2.2 if is_main else 1.0)
            axis.plot(means.index, middle, "o-", color=colour, label=label, lw=width, ms=3.5)
            if is_main:
                half = np.nan_to_num(half)
                low, high = middle - half, middle + half
                axis.fill_between(means.index, low, high, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(LENGTHS, labels=[str(each) for each in LENGTHS])
        axis.minorticks_off()
        axis.set(title=TITLES[panel], xlabel="epochs", ylabel="test accuracy, %")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0][0].legend(frameon=False, fontsize="small")
    return figure
